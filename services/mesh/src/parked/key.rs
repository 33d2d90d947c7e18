//! The order key of an event in the service that consumes it. It is read leniently: an event
//! that cannot be decoded must still hold the key of the entity it is about.

use std::fmt;

use events::Envelope;
use serde::{
    Deserializer,
    de::{DeserializeSeed, IgnoredAny, MapAccess, Visitor},
};
use serde_json::Value;

/// The key of an event of which nothing is known; it holds up no other event.
pub(crate) const NONE: &str = "-";
/// Characters of a key at most: it is a token of a subject.
const KEY_CHARS_MAX: usize = 64;

/// The value of `field` in the event's data; without one, the entity that the event is about.
/// `event` is an envelope, possibly a malformed one.
pub(crate) fn key_of(field: &str, event: &[u8]) -> String {
    let known = match Envelope::decode(event) {
        Ok(envelope) => {
            let data = envelope.data.get().as_bytes();
            field_of(field, data).or_else(|| token(&envelope.subject))
        }
        Err(_) => {
            let text = String::from_utf8_lossy(event);
            scan(field, &text).or_else(|| scan("subject", &text))
        }
    };
    known.unwrap_or_else(|| NONE.to_owned())
}

fn field_of(field: &str, data: &[u8]) -> Option<String> {
    let mut json = serde_json::Deserializer::from_slice(data);
    token(Field(field).deserialize(&mut json).ok()??.as_str()?)
}

/// Reads one field of an object and skips the others.
struct Field<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = Option<Value>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Option<Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut found = None;
        while let Some(name) = map.next_key::<String>()? {
            match name == self.0 {
                true => found = Some(map.next_value()?),
                false => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(found)
    }
}

/// The text after `"field":` in malformed JSON: cut off, or garbled elsewhere.
fn scan(field: &str, text: &str) -> Option<String> {
    if field.is_empty() {
        return None;
    }
    let (_, behind) = text.split_once(&format!("\"{field}\""))?;
    let behind = behind.trim_start().strip_prefix(':')?.trim_start().strip_prefix('"')?;
    token(behind.split_once('"')?.0)
}

/// The text, if it can be a token of a subject.
fn token(text: &str) -> Option<String> {
    let is_token = (1..=KEY_CHARS_MAX).contains(&text.len())
        && text != NONE
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    is_token.then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ABOUT: &str = "018f0000-0000-7000-8000-000000000001";

    fn event(data: &str) -> String {
        format!(
            r#"{{"specversion":"1.0","id":"018f0000-0000-7000-8000-000000000002","source":"/x","type":"onsale.a.b.v1","time":"2026-05-01T11:00:00Z","subject":"{ABOUT}","sagaid":"018f0000-0000-7000-8000-000000000003","data":{data}}}"#
        )
    }

    fn key(field: &str, data: &str) -> String {
        key_of(field, event(data).as_bytes())
    }

    #[test]
    fn a_key_is_the_value_of_its_field_or_what_the_event_is_about() {
        assert_eq!(key("user_id", r#"{"user_id":"u-1"}"#), "u-1");
        assert_eq!(key("user_id", r#"{"payment_id":"p-1"}"#), ABOUT);
        assert_eq!(key("", r#"{"user_id":"u-1"}"#), ABOUT);
        assert_eq!(key("user_id", r#"{"of":{"user_id":"u-2"},"user_id":"u-1"}"#), "u-1");
        assert_eq!(key("user_id", r#"{"user_id":7}"#), ABOUT);
        assert_eq!(key("user_id", "7"), ABOUT);
        assert_eq!(key_of("user_id", b"{}"), NONE);
    }

    #[test]
    fn an_event_that_cannot_be_decoded_still_has_its_key() {
        let event = event(r#"{"user_id":"u-1"}"#);
        let garbled = event.replace("1.0", "9.9");
        assert_eq!(key_of("user_id", garbled.as_bytes()), "u-1");
        assert_eq!(key_of("wallet", garbled.as_bytes()), ABOUT);
        let cut = &event[..event.find("\"data\"").unwrap()];
        assert_eq!(key_of("user_id", cut.as_bytes()), ABOUT);
        assert_eq!(key_of("user_id", b"\xff\xfe"), NONE);
    }

    #[test]
    fn a_value_that_cannot_be_a_token_of_a_subject_is_no_key() {
        for bad in ["", "-", "a.b", "*", ">", "a b", &"x".repeat(65)] {
            assert_eq!(key("user_id", &format!(r#"{{"user_id":"{bad}"}}"#)), ABOUT, "{bad}");
        }
    }
}
