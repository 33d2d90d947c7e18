//! Parses prices, capacities and ranges of seats as people and spreadsheets write them. Pure.

use super::mistake::{Flaw, PRICE_MAX, SEATS_MAX};

/// Digits of a number at most.
const DIGITS_MAX: usize = 18;

/// The seats that one line names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seats {
    /// One, by its name.
    One(String),
    /// Several, by their numbers.
    Many(Numbers),
}

/// Consecutive numbers, optionally with a prefix and padded with zeros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Numbers {
    prefix: String,
    first: u64,
    last: u64,
    width: usize,
}

impl Seats {
    /// How many there are.
    pub(super) fn count(&self) -> usize {
        match self {
            Self::One(_) => 1,
            Self::Many(numbers) => {
                usize::try_from(numbers.last - numbers.first).map_or(usize::MAX, |many| many + 1)
            }
        }
    }

    /// Their names, [`Self::count`] of them; check the number first.
    pub(super) fn names(self) -> Vec<String> {
        match self {
            Self::One(name) => vec![name],
            Self::Many(Numbers { prefix, first, last, width }) => {
                (first..=last).map(|number| format!("{prefix}{number:0width$}")).collect()
            }
        }
    }
}

/// The seats of a range such as `1-300`, `001–300` or `A1-A20`; `None` for anything else.
///
/// # Errors
/// A range without seats, or a list of seats that is not a range.
pub(super) fn range(typed: &str) -> Result<Option<Seats>, Flaw> {
    let plain: String = text::same_name(typed).chars().map(dash).filter(|c| *c != ' ').collect();
    let is_list = |c| plain.contains(c) && plain.split(c).all(|one| number(one).is_some());
    if is_list(',') || is_list(';') {
        return Err(Flaw::List);
    }
    let Some((from, to)) = plain.split_once('-') else { return Ok(None) };
    let (prefix, from) = letters_and_digits(from);
    let (prefix_of_last, to) = letters_and_digits(to);
    let (Some(first), Some(last)) = (number(from), number(to)) else { return Ok(None) };
    if !(prefix_of_last.is_empty() || prefix_of_last == prefix) {
        return Ok(None);
    }
    if first >= last {
        return Err(Flaw::Range(typed.to_owned()));
    }
    let width = if from.starts_with('0') { from.len() } else { 0 };
    let numbers = Numbers { prefix: prefix.to_owned(), first, last, width };
    bounded(Seats::Many(numbers)).map(Some)
}

/// The seats of a standing area with this capacity.
///
/// # Errors
/// Text that is not a number of seats.
pub(super) fn capacity(typed: &str) -> Result<Seats, Flaw> {
    let places = whole(typed).and_then(|number| u64::try_from(number).ok());
    let places = places.filter(|places| *places > 0);
    let last = places.ok_or_else(|| Flaw::Capacity(typed.to_owned()))?;
    bounded(Seats::Many(Numbers { prefix: String::new(), first: 1, last, width: 0 }))
}

fn bounded(seats: Seats) -> Result<Seats, Flaw> {
    match seats.count() <= SEATS_MAX {
        true => Ok(seats),
        false => Err(Flaw::TooManySeats),
    }
}

/// The price of one seat in points: digits, optionally with separators of thousands, and with
/// nothing but zeros behind a decimal sign.
///
/// # Errors
/// Text that is not a whole number, or that is ambiguous.
pub(super) fn price(typed: &str) -> Result<i64, Flaw> {
    if typed.is_empty() {
        return Err(Flaw::NoPrice);
    }
    if let Some((before, after)) = text::same_name(typed).split_once('.')
        && number(before).is_some()
        && after.len() == 3
        && number(after).is_some()
    {
        return Err(Flaw::AmbiguousPrice(typed.to_owned()));
    }
    let number = whole(typed).ok_or_else(|| Flaw::Price(typed.to_owned()))?;
    match number <= PRICE_MAX {
        true => Ok(number),
        false => Err(Flaw::HighPrice),
    }
}

/// A whole number; one that is too long becomes the highest.
fn whole(typed: &str) -> Option<i64> {
    let plain = text::same_name(typed);
    let is_sign = |c: char| matches!(c, ',' | '.' | '\'' | '\u{2019}' | ' ');
    let last_sign = plain.rfind(is_sign).map(|at| (at, plain[at..].chars().next()));
    let (grouped, decimals) = match last_sign {
        Some((at, Some(sign @ (',' | '.')))) => {
            let decimals = &plain[at + 1..];
            // Three digits are thousands, unless another sign separates those already.
            let is_decimal = matches!(decimals.len(), 1 | 2) && plain[..at].find(sign).is_none();
            if is_decimal { (&plain[..at], decimals) } else { (&*plain, "") }
        }
        _ => (&*plain, ""),
    };
    if !decimals.bytes().all(|byte| byte == b'0') {
        return None;
    }
    let sign = grouped.chars().find(|c| is_sign(*c));
    let groups: Vec<&str> = match sign {
        Some(sign) => grouped.split(sign).collect(),
        None => vec![grouped],
    };
    let is_grouped = groups.len() == 1
        || (1..=3).contains(&groups[0].len()) && groups[1..].iter().all(|it| it.len() == 3);
    let digits = groups.concat();
    if !is_grouped || digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(digits.parse().unwrap_or(i64::MAX))
}

/// A number of digits only.
fn number(digits: &str) -> Option<u64> {
    let fits = (1..=DIGITS_MAX).contains(&digits.len());
    let is_plain = fits && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_plain.then(|| digits.parse().ok()).flatten()
}

/// Splits `A17` into `A` and `17`.
fn letters_and_digits(text: &str) -> (&str, &str) {
    let digits = text.bytes().rev().take_while(u8::is_ascii_digit).count();
    text.split_at(text.len() - digits)
}

/// Turns every dash that people write in a range into `-`.
fn dash(c: char) -> char {
    match c {
        '~' | '\u{2010}'..='\u{2015}' | '\u{2212}' | '\u{301c}' => '-',
        c => c,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(typed: &str) -> Vec<String> {
        range(typed).expect("no mistake").expect("a range").names()
    }

    #[test]
    fn a_price_is_parsed_in_any_notation() {
        for typed in [
            "55000",
            "55,000",
            "55000.00",
            "55000.0",
            "55000,00",
            "55,000.00",
            "55.000,00",
            "55 000",
            "55\u{a0}000",
            "55'000",
            "55’000",
            "５５０００",
            "055000",
        ] {
            assert_eq!(price(typed), Ok(55_000), "{typed:?}");
        }
        for (typed, points) in [("0", 0), ("1,000,000", 1_000_000), ("1.000.000", 1_000_000)] {
            assert_eq!(price(typed), Ok(points), "{typed:?}");
        }
        assert_eq!(price("100000000"), Ok(PRICE_MAX));
    }

    #[test]
    fn a_malformed_or_ambiguous_price_is_refused() {
        for typed in [
            "",
            "-1",
            "+1",
            "1.5",
            "1e3",
            "5.5E+04",
            "free",
            "55,00,000",
            "5,5000",
            "55000.",
            ".5",
            ",",
            "55.00.00",
            "55,000.50",
            "1,00",
            "1,50",
            "55 00",
            "0x10",
            "٥٥",
        ] {
            let is_zero = typed == "1,00";
            assert_eq!(price(typed).is_ok(), is_zero, "{typed:?}");
        }
        assert!(matches!(price("55.000"), Err(Flaw::AmbiguousPrice(_))));
        for typed in ["100000001", "99999999999999999999999", "999,999,999"] {
            assert_eq!(price(typed), Err(Flaw::HighPrice), "{typed}");
        }
    }

    #[test]
    fn a_range_has_every_number_from_the_first_to_the_last() {
        for typed in ["1-3", "1–3", "1 - 3", "1~3", "１〜３"] {
            assert_eq!(names(typed), ["1", "2", "3"], "{typed}");
        }
        assert_eq!(names("098-101"), ["098", "099", "100", "101"]);
        assert_eq!(names("A9-A11"), ["A9", "A10", "A11"]);
        assert_eq!(names("A9-11"), ["A9", "A10", "A11"]);
        assert_eq!(capacity("300").expect("a number").names().len(), 300);
        assert_eq!(capacity("1,000").expect("a number").count(), 1_000);
    }

    #[test]
    fn text_that_is_not_a_range_is_a_name_or_a_mistake() {
        for name in ["1", "A-1", "12-A", "A1-B2", "1-2-3", "-", "1-", "-1", "x-y", "좌-1"] {
            assert_eq!(range(name), Ok(None), "{name}");
        }
        for wrong in ["3-1", "1-1", "A5-A5", "1,2,3", "1;2", "1-100001", "1-999999999999999999"] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
        for wrong in ["0", "-1", "many", "", "100001", "1.5"] {
            assert!(capacity(wrong).is_err(), "{wrong}");
        }
    }
}
