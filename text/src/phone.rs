//! Telephone numbers, in the form that messages are sent to.

use phonenumber::{Mode, country};
use unicode_normalization::UnicodeNormalization;

use crate::{Flaw, judge::is_blank};

/// Characters of a number at most, with everything that people put between the digits.
const CHARS_MAX: usize = 40;

/// The country of a number that is written without one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Home {
    /// South Korea, `+82`.
    Korea,
    /// Not known: the number must begin with its country.
    Unknown,
}

/// A number in E.164 form, such as `+821012345678`. Blanks, hyphens, brackets and the leading
/// zero that only a national number has are removed.
///
/// # Errors
/// What is wrong with it, to be written after its name.
pub fn phone(text: &str, home: Home) -> Result<String, Flaw> {
    let typed: String = text.nfkc().collect();
    let typed = typed.trim();
    // The library accepts far more than that as a number, including letters and extensions.
    let is_part = |c: char| c.is_ascii_digit() || is_blank(c) || is_between(c) || c == '+';
    if typed.chars().count() > CHARS_MAX || !typed.chars().all(is_part) {
        return Err(unread(home));
    }
    let plain: String =
        typed.chars().filter(|c| c.is_ascii_digit() || matches!(c, '+' | '(' | ')')).collect();
    // Dialled before a foreign number in most countries; no national number begins with it.
    let plain = match plain.strip_prefix("00") {
        Some(foreign) => format!("+{foreign}"),
        None => plain,
    };
    let country = match home {
        _ if plain.starts_with('+') => None,
        Home::Korea => Some(country::KR),
        Home::Unknown => return Err(unread(home)),
    };
    // No country code begins with a zero, and the library would ignore one.
    if plain.rfind('+').is_some_and(|at| at > 0) || plain.starts_with("+0") {
        return Err(unread(home));
    }
    let number = phonenumber::parse(country, &plain).map_err(|_| unread(home))?;
    if !number.is_valid() || number.extension().is_some() {
        return Err(Flaw::new(
            "is no valid telephone number; check its digits, and begin with the country, \
             for example `+821012345678`",
        ));
    }
    Ok(number.format().mode(Mode::E164).to_string())
}

fn is_between(c: char) -> bool {
    matches!(c, '-' | '.' | '/' | '(' | ')' | '\u{2010}'..='\u{2015}' | '\u{2212}')
}

fn unread(home: Home) -> Flaw {
    Flaw::new(match home {
        Home::Korea => "must be a telephone number, for example `010-1234-5678` or `+821012345678`",
        Home::Unknown => {
            "must be a telephone number that begins with its country, for example `+821012345678`"
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_has_one_form_however_it_is_written() {
        for (kept, home, spellings) in [
            (
                "+821012345678",
                Home::Unknown,
                vec![
                    "+821012345678",
                    "+8201012345678",
                    "+82 10-1234-5678",
                    "+82 (0)10 1234 5678",
                    "+82-010-1234-5678",
                    "+82\u{a0}10\u{2013}1234\u{2013}5678",
                    "＋８２１０１２３４５６７８",
                    "0082 10 1234 5678",
                ],
            ),
            (
                "+821012345678",
                Home::Korea,
                vec!["010-1234-5678", "01012345678", "010 1234 5678", "(010) 1234.5678"],
            ),
            ("+81312345678", Home::Unknown, vec!["+81 (0)3-1234-5678", "+810312345678"]),
            ("+442071838750", Home::Korea, vec!["+44 (0)20 7183 8750", "+4402071838750"]),
            ("+390612345678", Home::Unknown, vec!["+39 06 1234 5678"]),
            ("+12025550123", Home::Unknown, vec!["+1 (202) 555-0123"]),
            ("+79123456789", Home::Unknown, vec!["+7 912 345-67-89", "+7 8 912 345 67 89"]),
        ] {
            for spelling in spellings {
                assert_eq!(phone(spelling, home).as_deref(), Ok(kept), "{spelling}");
            }
        }
    }

    #[test]
    fn text_that_is_no_telephone_number_is_refused_with_an_example() {
        let long = format!("+{}", "1".repeat(20_000));
        for bad in [
            "",
            "+",
            "phone",
            "+0821012345678",
            "+8210123456789012",
            "+82101234",
            "+821012345678 ext. 5",
            "tel:+821012345678",
            "+82101234567\0",
            "+821012345678\u{200b}",
            "+999123456789",
            "++821012345678",
            &long,
        ] {
            for home in [Home::Korea, Home::Unknown] {
                let flaw = phone(bad, home).expect_err("refused").to_string();
                assert!(flaw.contains("`+821012345678`"), "{bad}: {flaw}");
            }
        }
        let flaw = phone("010-1234-5678", Home::Unknown).expect_err("whose?").to_string();
        assert!(flaw.contains("country"), "{flaw}");
    }
}
