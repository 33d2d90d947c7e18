//! What is wrong with a value, where it is, and the refusal that says so.

use std::fmt::{self, Write};

use events::{Code, Problem};
use serde::de;

use super::tree::{BODY, Tree};

/// Characters of a name or value that a refusal repeats at most.
const SAID_CHARS_MAX: usize = 60;
/// Further unknown members that a refusal names at most.
const NAMED_MAX: usize = 5;
/// How similar a known name must be to be suggested; 1 is the same name.
const ALIKE: f64 = 0.8;

/// A value that is not what was expected.
#[derive(Debug, PartialEq)]
pub(super) struct Flaw {
    /// The member names and list indexes that lead to it, the innermost first.
    path: Vec<Step>,
    /// Continues the sentence after its name: "must be a list, not a text".
    what: String,
}

#[derive(Debug, PartialEq)]
enum Step {
    Member(String),
    Place(usize),
}

impl Flaw {
    fn new(what: impl Into<String>) -> Self {
        Self { path: Vec::new(), what: what.into() }
    }

    /// Something else was expected.
    pub(super) fn wanted(what: &str, came: &Tree) -> Self {
        Self::new(format!("must be {what}, not {}", said(came)))
    }

    /// One of these words was expected.
    pub(super) fn one_of(wanted: &[&str], came: &Tree) -> Self {
        let wanted = wanted.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ");
        let came = match came {
            Tree::Text(text) => quoted(text),
            other => said(other),
        };
        Self::new(format!("must be one of {wanted}, not {came}"))
    }

    /// Unknown members; `names` has at least one.
    pub(super) fn unknown(names: &[&str], known: &[&str]) -> Self {
        let mut what = String::from("is not known here");
        if let Some(alike) = nearest(names[0], known) {
            // Writing to a string cannot fail.
            let _ = write!(what, " (did you mean `{alike}`?)");
        }
        let others = &names[1..];
        if !others.is_empty() {
            let named: Vec<_> = others.iter().take(NAMED_MAX).map(|name| quoted(name)).collect();
            let _ = write!(what, "; nor is {}", named.join(", "));
        }
        let _ = match known {
            [] => write!(what, "; nothing is read here"),
            known => write!(what, "; known: {}", known.join(", ")),
        };
        Self::new(what).at_member(names[0])
    }

    /// A member that is given more than once.
    pub(super) fn twice(name: &str) -> Self {
        Self::new("is given more than once").at_member(name)
    }

    /// The same flaw, seen from the object around it.
    pub(super) fn at_member(mut self, name: &str) -> Self {
        self.path.push(Step::Member(short(name)));
        self
    }

    /// The same flaw, seen from the list around it.
    pub(super) fn at_place(mut self, index: usize) -> Self {
        self.path.push(Step::Place(index));
        self
    }

    /// The refusal.
    pub(super) fn problem(self, kind: Code) -> Problem {
        let mut field = String::new();
        for step in self.path.iter().rev() {
            let _ = match step {
                Step::Member(name) if field.is_empty() => write!(field, "{name}"),
                Step::Member(name) => write!(field, ".{name}"),
                Step::Place(index) => write!(field, "[{index}]"),
            };
        }
        match field.as_str() {
            "" => Problem::new(kind, format!("The body {}.", self.what)).with("field", BODY),
            field => Problem::about(kind, field, self.what),
        }
    }
}

/// The value that came, in few words. A text is not repeated: it may be a password.
fn said(came: &Tree) -> String {
    match came {
        Tree::Null => "null".into(),
        Tree::Bool(value) => format!("`{value}`"),
        Tree::Whole(value) => format!("the number {value}"),
        Tree::Fraction(value) if value.abs() < 1e15 => format!("the number {value:?}"),
        Tree::Fraction(value) => format!("the number {value:e}"),
        Tree::Text(_) => "a text".into(),
        Tree::List(_) => "a list".into(),
        Tree::Object(_) => "an object".into(),
        Tree::Word(word) => quoted(word),
    }
}

fn quoted(text: &str) -> String {
    format!("`{}`", short(text))
}

fn short(text: &str) -> String {
    let mut chars = text.chars();
    let begin: String = chars.by_ref().take(SAID_CHARS_MAX).collect();
    if chars.next().is_some() { format!("{begin}…") } else { begin }
}

/// The known name that was probably meant, if one is similar.
fn nearest<'a>(name: &str, known: &[&'a str]) -> Option<&'a str> {
    if name.len() > SAID_CHARS_MAX {
        return None;
    }
    let plain = |name: &str| -> String {
        name.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect()
    };
    let name = plain(name);
    let alike = |known: &'a str| (strsim::jaro_winkler(&name, &plain(known)), known);
    let best = known.iter().copied().map(alike).max_by(|(a, _), (b, _)| a.total_cmp(b));
    best.filter(|(alike, _)| *alike >= ALIKE).map(|(_, known)| known)
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Flaw {}

/// The errors of the type that is read. Our own types say what they expect and what came; any
/// other text is a library's, and is replaced.
impl de::Error for Flaw {
    fn custom<T: fmt::Display>(message: T) -> Self {
        let message = message.to_string();
        let is_ours = ["must ", "has a blank "].iter().any(|begin| message.starts_with(begin));
        Self::new(if is_ours { message } else { "has a value that is not allowed".into() })
    }

    fn missing_field(name: &'static str) -> Self {
        Self::new("is missing").at_member(name)
    }

    fn duplicate_field(name: &'static str) -> Self {
        Self::twice(name)
    }

    fn unknown_field(name: &str, known: &'static [&'static str]) -> Self {
        Self::unknown(&[name], known)
    }

    fn unknown_variant(name: &str, known: &'static [&'static str]) -> Self {
        Self::one_of(known, &Tree::Word(name.to_owned()))
    }

    fn invalid_type(_: de::Unexpected<'_>, _: &dyn de::Expected) -> Self {
        Self::new("has a value of the wrong type")
    }

    fn invalid_value(_: de::Unexpected<'_>, _: &dyn de::Expected) -> Self {
        Self::new("has a value that is not allowed")
    }

    fn invalid_length(_: usize, _: &dyn de::Expected) -> Self {
        Self::new("has the wrong number of entries")
    }
}
