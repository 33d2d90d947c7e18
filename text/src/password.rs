//! Passwords, normalised by the PRECIS profile `OpaqueString` (RFC 8265).

use std::ops::RangeInclusive;

use precis_profiles::{OpaqueString, precis_core::profile::PrecisFastInvocation};
use unicode_normalization::UnicodeNormalization;

use crate::{Flaw, length};

/// Bytes of a password at most: each one takes time to hash.
const BYTES_MAX: usize = 4_096;

/// A password in the form that is hashed: the same keys on two keyboards give the same password.
/// Case, width and blanks at its ends are part of it.
///
/// # Errors
/// What is wrong with it; the password is not repeated.
pub fn password(text: &str, characters: RangeInclusive<usize>) -> Result<String, Flaw> {
    let (min, max) = (*characters.start(), *characters.end());
    // Composed first: the profile expects composed letters, and a Mac types decomposed ones.
    let composed: String = text.chars().take(BYTES_MAX + 1).nfc().collect();
    let found = length(&composed);
    if !characters.contains(&found) || composed.len() > BYTES_MAX {
        return Err(Flaw::new(format!("must have {min} to {max} characters")));
    }
    match OpaqueString::enforce(composed.as_str()) {
        Ok(kept) => Ok(kept.into_owned()),
        Err(_) => Err(Flaw::new("must have letters, digits, signs and blanks, and nothing hidden")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(text: &str) -> Option<String> {
        password(text, 10..=200).ok()
    }

    #[test]
    fn a_password_is_the_same_on_every_keyboard() {
        let typed = "pässwörd-전화-123";
        let elsewhere: String = typed.nfd().collect();
        assert_ne!(typed, elsewhere);
        assert_eq!(kept(typed).as_deref(), Some(typed));
        assert_eq!(kept(&elsewhere).as_deref(), Some(typed));
        assert_eq!(kept("correct\u{a0}horse\u{3000}1"), kept("correct horse 1"));
    }

    #[test]
    fn case_width_and_blanks_are_part_of_a_password() {
        for (one, other) in [
            ("Correct horse", "correct horse"),
            ("correct horse ", "correct horse"),
            ("１２３４５６７８９０", "1234567890"),
        ] {
            assert!(kept(one).is_some() && kept(other).is_some());
            assert_ne!(kept(one), kept(other), "{one} is not {other}");
        }
        assert!(kept("🎸🎸🎸🎸🎸🎸🎸🎸🎸🎸").is_some());
    }

    #[test]
    fn a_password_is_counted_as_people_count() {
        assert_eq!(kept("123456789"), None);
        assert!(kept("1234567890").is_some());
        assert_eq!(kept(&"e\u{301}".repeat(9)), None, "nine letters");
        assert!(kept(&"é".repeat(200)).is_some());
        assert_eq!(kept(&"é".repeat(201)), None);
        assert_eq!(kept(&"a".repeat(1_000_000)), None);
    }

    #[test]
    fn a_password_with_a_hidden_character_is_refused() {
        for hidden in ["correct\u{200b}horse", "correct\thorse", "correct\0horse", "correct\nhorse"]
        {
            assert_eq!(kept(hidden), None, "{hidden:?}");
        }
    }
}
