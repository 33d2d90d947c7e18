//! An event as flows name it: by its name, and by conditions on its payload.

use std::{fmt, str::FromStr};

use serde::{
    Deserialize,
    de::{self, Deserializer, MapAccess, Visitor},
};
use serde_json::Value;

/// An event of this name whose payload meets every condition: `point.refunded{reason=hold_gone}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pattern {
    /// For example `point.refunded`.
    pub event: String,
    /// In the order in which they are written.
    pub conditions: Vec<Condition>,
}

/// A condition on one field of a payload.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Condition {
    /// The field.
    pub field: String,
    /// What it must be.
    pub is: Is,
}

/// What a field must be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Is {
    /// There, and not null.
    There,
    /// Not there, or null.
    Absent,
    /// One of these texts or numbers.
    OneOf(Vec<String>),
}

/// A pattern that cannot be parsed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no event; write `service.event` or `service.event{{field=value, field, !field}}`"
)]
pub struct NoPattern(String);

impl FromStr for Pattern {
    type Err = NoPattern;

    fn from_str(text: &str) -> Result<Self, NoPattern> {
        let wrong = || NoPattern(text.to_owned());
        let (event, conditions) = match text.split_once('{') {
            None => (text, Vec::new()),
            Some((event, rest)) => {
                let inside = rest.strip_suffix('}').ok_or_else(wrong)?;
                let conditions = inside.split(',').map(|one| condition(one.trim()));
                (event, conditions.collect::<Option<_>>().ok_or_else(wrong)?)
            }
        };
        let well_formed = event.split_once('.').is_some_and(|(a, b)| is_name(a) && is_name(b));
        if !well_formed {
            return Err(wrong());
        }
        Ok(Self { event: event.to_owned(), conditions })
    }
}

fn condition(text: &str) -> Option<Condition> {
    let (field, is) = match (text.strip_prefix('!'), text.split_once('=')) {
        (Some(field), None) => (field, Is::Absent),
        (None, Some((field, values))) if values.split('|').all(is_name) => {
            (field, Is::OneOf(values.split('|').map(str::to_owned).collect()))
        }
        (None, None) => (text, Is::There),
        _ => return None,
    };
    is_name(field).then(|| Condition { field: field.to_owned(), is })
}

fn is_name(text: &str) -> bool {
    let is_part = |c: char| c.is_ascii_alphanumeric() || "_-".contains(c);
    !text.is_empty() && text.chars().all(is_part)
}

impl<'de> Deserialize<'de> for Pattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.event)?;
        if self.conditions.is_empty() {
            return Ok(());
        }
        let conditions: Vec<_> = self.conditions.iter().map(ToString::to_string).collect();
        write!(f, "{{{}}}", conditions.join(", "))
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.is {
            Is::There => f.write_str(&self.field),
            Is::Absent => write!(f, "!{}", self.field),
            Is::OneOf(values) => write!(f, "{}={}", self.field, values.join("|")),
        }
    }
}

impl Pattern {
    /// Whether the pattern matches an event of its name with these fields.
    pub fn fits(&self, fields: &Fields) -> bool {
        self.conditions.iter().all(|condition| {
            let value = fields.get(&condition.field);
            match &condition.is {
                Is::There => value.is_some(),
                Is::Absent => value.is_none(),
                Is::OneOf(wanted) => {
                    value.is_some_and(|value| wanted.iter().any(|wanted| wanted == value))
                }
            }
        })
    }

    /// Whether some event could match both patterns.
    pub fn meets(&self, other: &Self) -> bool {
        let against = |one: &Condition, two: &Condition| {
            one.field == two.field
                && match (&one.is, &two.is) {
                    (Is::Absent, two) => *two != Is::Absent,
                    (one, Is::Absent) => *one != Is::Absent,
                    (Is::OneOf(one), Is::OneOf(two)) => {
                        !one.iter().any(|value| two.contains(value))
                    }
                    _ => false,
                }
        };
        let pairs = |one| other.conditions.iter().any(|two| against(one, two));
        self.event == other.event && !self.conditions.iter().any(pairs)
    }
}

/// The few fields of a payload that are needed; the rest is skipped unread.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fields(Vec<(String, String)>);

impl Fields {
    /// Reads the named fields; none when the payload is no object.
    pub fn read(payload: &[u8], wanted: &[String]) -> Self {
        let mut reader = serde_json::Deserializer::from_slice(payload);
        reader.deserialize_map(Wanted(wanted)).unwrap_or_default()
    }

    /// The field as text; `None` when it is not there, null, or no text and no number.
    pub fn get(&self, field: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == field).map(|(_, value)| value.as_str())
    }

    /// The field as a typed value.
    pub fn parse<T: FromStr>(&self, field: &str) -> Option<T> {
        self.get(field)?.parse().ok()
    }
}

struct Wanted<'a>(&'a [String]);

impl<'de> Visitor<'de> for Wanted<'_> {
    type Value = Fields;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
        let mut fields = Fields::default();
        while let Some(found) = map.next_key_seed(Position(self.0))? {
            let Some(name) = found.map(|position| &self.0[position]) else {
                map.next_value::<de::IgnoredAny>()?;
                continue;
            };
            match map.next_value()? {
                Value::String(text) => fields.0.push((name.clone(), text)),
                Value::Number(number) => fields.0.push((name.clone(), number.to_string())),
                _ => {}
            }
        }
        Ok(fields)
    }
}

/// Finds a key among the wanted ones without copying it.
struct Position<'a>(&'a [String]);

impl<'de> de::DeserializeSeed<'de> for Position<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Position<'_> {
    type Value = Option<usize>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.iter().position(|wanted| wanted == name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(text: &str) -> Pattern {
        text.parse().expect(text)
    }

    #[test]
    fn a_pattern_is_written_as_it_was_read() {
        for text in ["a.b", "a.b{c}", "a.b{!c}", "a.b{c=d, e, !f}", "a.b{c=d|e}", "data-platform.x"]
        {
            assert_eq!(pattern(text).to_string(), text);
        }
        for text in
            ["", "a", "a.", "a.b{", "a.b{}", "a.b{c=}", "a.b{c=d|}", "a.b{!c=d}", "a.b}", "a.b.c"]
        {
            assert!(text.parse::<Pattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_pattern_fits_what_its_conditions_say() {
        let wanted = ["reason", "payment_id", "amount"].map(str::to_owned);
        let fields =
            Fields::read(br#"{"x":[{"reason":"no"}],"reason":"left","amount":7}"#, &wanted);
        for (text, fits) in [
            ("a.b", true),
            ("a.b{reason=left}", true),
            ("a.b{reason=timeout}", false),
            ("a.b{reason=timeout|left}", true),
            ("a.b{reason}", true),
            ("a.b{payment_id}", false),
            ("a.b{!payment_id, amount=7}", true),
        ] {
            assert_eq!(pattern(text).fits(&fields), fits, "{text}");
        }
        let null = Fields::read(br#"{"payment_id":null}"#, &wanted);
        assert!(pattern("a.b{!payment_id}").fits(&null));
        assert_eq!(Fields::read(b"[1]", &wanted), Fields::default());
        assert_eq!(Fields::read(b"no json", &wanted), Fields::default());
    }

    #[test]
    fn patterns_meet_unless_they_contradict() {
        for (one, two, meet) in [
            ("a.b", "a.b{c=d}", true),
            ("a.b{c=d}", "a.b{c=e}", false),
            ("a.b{c=d|f}", "a.b{c=e|f}", true),
            ("a.b{c}", "a.b{!c}", false),
            ("a.b{c=d}", "a.b{c}", true),
            ("a.b{c=d}", "a.b{!c}", false),
            ("a.b{c=d}", "a.b{e=f}", true),
            ("a.b", "a.c", false),
        ] {
            assert_eq!(pattern(one).meets(&pattern(two)), meet, "{one} {two}");
            assert_eq!(pattern(two).meets(&pattern(one)), meet, "{two} {one}");
        }
    }
}
