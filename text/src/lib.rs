//! Text that people enter: how it is validated, normalised, stored and compared.
//!
//! The same word can be written in several ways: with an accent beside its letter or within it,
//! with full-width digits, capital letters, or blanks of several kinds. People see one word, so
//! they are treated as one. Every text from outside passes through this crate before it is stored
//! or compared, and nothing else in the workspace looks at the characters of a text.
//!
//! | what | stored as | function |
//! |---|---|---|
//! | a title, a venue, a reason: one line | NFC | [`line`] |
//! | a description: any number of lines | NFC | [`lines`] |
//! | a name that people look up: a section, a row, a seat | NFKC | [`name`] |
//! | a password | the PRECIS profile `OpaqueString` (RFC 8265) | [`password`] |
//! | an e-mail address | NFKC, lower case, its domain in ASCII (IDNA) | [`email`] |
//! | a telephone number | E.164 | [`phone`] |
//! | a search term | NFKC, case-folded | [`folded`], [`search`] |
//!
//! Lengths are counted in grapheme clusters: what a person counts as one character. A text that
//! must not be empty has at least one visible character. Characters that cannot be seen, or that
//! change the direction of others, are refused where they could hide something.
//!
//! **Architecture invariant:** this crate knows no runtime and no other crate of ours.

mod email;
mod judge;
mod kept;
mod password;
mod phone;
pub mod search;

pub use email::email;
pub use kept::{line, lines, look, name, same_name};
pub use password::password;
pub use phone::{Home, phone};
pub use search::folded;

use unicode_segmentation::UnicodeSegmentation;

/// What is wrong with a text, to be written after its name: "has 250 characters; at most 200 are
/// allowed".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Flaw(String);

impl Flaw {
    pub(crate) fn new(what: impl Into<String>) -> Self {
        Self(what.into())
    }
}

/// The length of a text, in characters as a person counts them.
pub fn length(text: &str) -> usize {
    if text.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic()) {
        return text.len();
    }
    text.graphemes(true).count()
}
