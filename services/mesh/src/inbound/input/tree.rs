//! JSON as a tree that keeps everything: the order of members, and members that are given twice.

use std::fmt;

use events::{Problem, codes};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser::SerializeMap};

/// The name of the body as a whole in a refusal.
pub(crate) const BODY: &str = "body";

/// A value, as it came.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Tree {
    Null,
    Bool(bool),
    Whole(i128),
    /// A number with a point or an exponent, or a whole one that is too large for `Whole`.
    Fraction(f64),
    Text(String),
    List(Vec<Tree>),
    Object(Vec<(String, Tree)>),
    /// A value of a URL's query: a text, which may stand for a number or a boolean.
    Word(String),
}

impl Tree {
    /// Reads JSON in UTF-8; an empty body is an object without members.
    pub(super) fn of_json(body: &[u8]) -> Result<Self, Problem> {
        let text = std::str::from_utf8(body).map_err(|error| {
            let at = place(body, error.valid_up_to());
            unread(at, "is not UTF-8 here; send JSON in UTF-8")
        })?;
        // Some editors write a byte order mark first.
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        if text.trim().is_empty() {
            return Ok(Self::Object(Vec::new()));
        }
        let mut json = serde_json::Deserializer::from_str(text);
        let tree = Self::deserialize(&mut json).map_err(|error| {
            let what = match error.classify() {
                serde_json::error::Category::Eof => "ends here, before its JSON is complete",
                _ => "is not valid JSON from here on",
            };
            unread((error.line(), error.column()), what)
        })?;
        json.end().map_err(|error| {
            unread((error.line(), error.column()), "has something here, after the end of the JSON")
        })?;
        Ok(tree)
    }
}

/// The line and column of a byte.
fn place(body: &[u8], at: usize) -> (usize, usize) {
    let before = &body[..at];
    let line_begin = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    (1 + before.iter().filter(|byte| **byte == b'\n').count(), 1 + at - line_begin)
}

fn unread((line, column): (usize, usize), what: &str) -> Problem {
    let detail = format!("Line {line}, column {column}: the body {what}.");
    Problem::new(codes::BAD_REQUEST, detail)
        .with("field", BODY)
        .with("line", line)
        .with("column", column)
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Grow)
    }
}

struct Grow;

impl<'de> de::Visitor<'de> for Grow {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E>(self) -> Result<Tree, E> {
        Ok(Tree::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Whole(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Whole(value.into()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Tree, E> {
        Ok(Tree::Fraction(value))
    }

    fn visit_str<E>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Text(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Tree, E> {
        Ok(Tree::Text(value))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut values: A) -> Result<Tree, A::Error> {
        let mut list = Vec::new();
        while let Some(value) = values.next_element()? {
            list.push(value);
        }
        Ok(Tree::List(list))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut values: A) -> Result<Tree, A::Error> {
        let mut members = Vec::new();
        while let Some(member) = values.next_entry()? {
            members.push(member);
        }
        Ok(Tree::Object(members))
    }
}

impl Serialize for Tree {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(value) => serializer.serialize_bool(*value),
            Self::Whole(value) => value.serialize(serializer),
            Self::Fraction(value) => serializer.serialize_f64(*value),
            Self::Text(text) | Self::Word(text) => serializer.serialize_str(text),
            Self::List(list) => list.serialize(serializer),
            Self::Object(members) => {
                // A member that is given twice is passed on twice, and refused where it is read.
                let mut map = serializer.serialize_map(Some(members.len()))?;
                for (name, value) in members {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
        }
    }
}
