//! Titles, descriptions and names, in the form in which they are stored.

use std::ops::RangeInclusive;

use unicode_normalization::UnicodeNormalization;
use unicode_security::skeleton;

use crate::{
    Flaw,
    judge::{Shape, check, is_blank, is_selector},
    length,
};

/// Bytes of one character at most, on average over a text. The richest scripts need 12, a
/// family of emoji 35.
const BYTES_OF_A_CHARACTER: usize = 36;

/// One line: a title, a venue, a reason. Blanks around it are removed; several in a row become one.
///
/// # Errors
/// What is wrong with it, to be written after its name.
pub fn line(text: &str, characters: RangeInclusive<usize>) -> Result<String, Flaw> {
    let text = one_blank(&text.trim().nfc().collect::<String>());
    check(&text, Shape::Line)?;
    count(&text, characters)?;
    Ok(text)
}

/// Any number of lines. Blanks around them are removed, and every line end becomes `\n`.
///
/// # Errors
/// What is wrong with them, to be written after their name.
pub fn lines(text: &str, characters_max: usize) -> Result<String, Flaw> {
    let text: String = text.trim().nfc().collect();
    let text = text.replace("\r\n", "\n").replace(['\r', '\u{2028}', '\u{2029}'], "\n");
    check(&text, Shape::Lines)?;
    count(&text, 0..=characters_max)?;
    Ok(text)
}

/// A name that people look up: of a section, a row, a seat. However it was typed, it is stored
/// in one form, in which it can be compared.
///
/// # Errors
/// What is wrong with it, to be written after its name.
pub fn name(text: &str, characters: RangeInclusive<usize>) -> Result<String, Flaw> {
    // Before it is normalised, so that no hidden character is removed silently.
    check(&text.trim().nfc().collect::<String>(), Shape::Line)?;
    let name = same_name(text);
    check(&name, Shape::Line)?;
    count(&name, characters)?;
    Ok(name)
}

/// The form in which [`name`] stores this text, whether it is a valid name or not, to look up a
/// name. A text that is no valid name equals no stored one.
pub fn same_name(text: &str) -> String {
    if text.is_ascii() {
        return one_blank(text.trim());
    }
    let composed: String = text.nfkc().filter(|c| !is_selector(*c)).nfkc().collect();
    one_blank(composed.trim())
}

/// What a name looks like, to find names that look alike: a letter of another alphabet becomes
/// the Latin letter that looks the same. ASCII characters stay themselves, since people know
/// that `0` and `O`, or `1` and `l`, are different.
pub fn look(name: &str) -> String {
    if name.is_ascii() {
        return name.to_owned();
    }
    let mut look = String::with_capacity(name.len());
    for c in name.chars() {
        if c.is_ascii() {
            look.push(c);
            continue;
        }
        let before = look.len();
        look.extend(skeleton(c.encode_utf8(&mut [0; 4])));
        // Unicode treats I as looking like l.
        if c.is_uppercase() && look[before..] == *"l" {
            look.replace_range(before.., "I");
        }
    }
    look.nfc().collect()
}

fn count(text: &str, characters: RangeInclusive<usize>) -> Result<(), Flaw> {
    let (min, max) = (*characters.start(), *characters.end());
    let found = length(text);
    if min > 0 && text.chars().all(is_blank) {
        return Err(Flaw::new("must not be empty"));
    }
    if found > max {
        return Err(Flaw::new(format!("has {found} characters; at most {max} are allowed")));
    }
    if found < min {
        return Err(Flaw::new(format!("has {found} characters; at least {min} are needed")));
    }
    let bytes_max = max.saturating_mul(BYTES_OF_A_CHARACTER).max(BYTES_OF_A_CHARACTER);
    if text.len() > bytes_max {
        return Err(Flaw::new(format!(
            "has {} bytes; at most {bytes_max} are allowed",
            text.len()
        )));
    }
    Ok(())
}

/// Replaces every run of blanks by one. Line ends stay, to be refused.
pub(crate) fn one_blank(text: &str) -> String {
    let mut kept = String::with_capacity(text.len());
    let mut after_blank = false;
    for c in text.chars() {
        let blank = is_blank(c) && !c.is_control() && !matches!(c, '\u{2028}' | '\u{2029}');
        match (blank, after_blank) {
            (true, true) => {}
            (true, false) => kept.push(' '),
            (false, _) => kept.push(c),
        }
        after_blank = blank;
    }
    let trimmed = kept.trim_matches(' ');
    if trimmed.len() == kept.len() { kept } else { trimmed.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nfd(text: &str) -> String {
        text.nfd().collect()
    }

    #[test]
    fn a_line_is_stored_composed_and_with_single_blanks() {
        for (typed, kept) in [
            (" Night Ferry ", "Night Ferry"),
            (&nfd("Côté"), "Côté"),
            (&nfd("한국의 밤"), "한국의 밤"),
            ("H₂O ① ™", "H₂O ① ™"),
            ("a\u{a0}\u{3000} b", "a b"),
        ] {
            assert_eq!(line(typed, 1..=200).as_deref(), Ok(kept), "{typed:?}");
        }
    }

    #[test]
    fn a_length_is_counted_as_people_count() {
        assert!(line(&nfd(&"한".repeat(9)), 1..=9).is_ok());
        assert!(line(&"👩\u{200d}👩\u{200d}👧".repeat(9), 1..=9).is_ok());
        let flaw = line(&"가".repeat(10), 1..=9).expect_err("refused").to_string();
        assert_eq!(flaw, "has 10 characters; at most 9 are allowed");
        let flaw = line("ab", 3..=9).expect_err("refused").to_string();
        assert_eq!(flaw, "has 2 characters; at least 3 are needed");
    }

    #[test]
    fn a_text_that_must_not_be_empty_has_a_visible_character() {
        for empty in ["", " ", "\u{a0}", "\u{3000}", "\u{2800}", "\n", "\u{2003} \u{2009}"] {
            let flaw = line(empty, 1..=9).expect_err("refused").to_string();
            assert_eq!(flaw, "must not be empty", "{empty:?}");
            assert!(name(empty, 1..=9).is_err(), "{empty:?}");
            assert_eq!(line(empty, 0..=9).as_deref(), Ok(""), "{empty:?}");
        }
        for hidden in ["\u{200b}", "\u{3164}", "\u{ad}", "\u{feff}\u{2060}"] {
            assert!(line(hidden, 0..=9).is_err(), "{hidden:?}");
        }
    }

    #[test]
    fn lines_keep_their_ends_in_one_form() {
        assert_eq!(lines(" a\r\nb\rc\u{2028}d\te ", 20).as_deref(), Ok("a\nb\nc\nd\te"));
        assert!(lines("a\u{0}b", 20).is_err());
        assert!(lines("a\u{202e}b", 20).is_err());
        assert!(lines("", 20).is_ok());
    }

    #[test]
    fn letters_of_other_alphabets_look_like_latin_ones() {
        for (name, alike) in
            [("А-1", "A-1"), ("ΑΒ", "AB"), ("СЕКТОР", "CEKTOP"), ("Іона", "Ioнa"), ("ⅼ", "l")]
        {
            assert_eq!(look(name), look(alike), "{name}");
        }
        for (one, other) in
            [("0", "O"), ("1", "l"), ("I", "l"), ("가", "나"), ("A", "a"), ("Б", "B"), ("é", "e")]
        {
            assert_ne!(look(one), look(other), "{one}");
        }
        for name in ["R석", "Côté", "VIP석 1층 A구역"] {
            assert_eq!(look(name), look(&look(name)), "{name}");
        }
    }

    #[test]
    fn a_name_has_one_form_however_it_was_typed() {
        for (typed, kept) in [
            (&*nfd("R석"), "R석"),
            ("１", "1"),
            ("Ａ－１", "A-1"),
            ("ｶﾞ", "ガ"),
            ("①", "1"),
            (" VIP석\u{3000} 1층\u{a0}A구역 ", "VIP석 1층 A구역"),
            ("辻\u{e0100}", "辻"),
            ("❤\u{fe0f}", "❤"),
            ("Box 3/4", "Box 3/4"),
            ("King's", "King's"),
        ] {
            assert_eq!(name(typed, 1..=64).as_deref(), Ok(kept), "{typed:?}");
            assert_eq!(same_name(typed), kept, "{typed:?}");
            assert_eq!(same_name(kept), kept, "normalising again changes nothing");
        }
        for bad in ["A\u{200b}", "\u{202e}A", "A\n1", "A\u{0}", "\u{301}A", "A\u{fe0f}"] {
            assert!(name(bad, 1..=64).is_err(), "{bad:?}");
        }
    }
}
