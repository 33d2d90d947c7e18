//! Checks that an event on the wire is a CloudEvent, by the schema beside this file.

use std::sync::LazyLock;

use events::{CONTENT_TYPE, Envelope, event_of_type};
use harness::event_types;
use serde_json::{Value, json};
use uuid::Uuid;

static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    serde_json::from_str(include_str!("cloudevent.schema.json")).expect("a schema is JSON")
});

/// The violations of the schema by this event.
pub fn complaints(event: &Value) -> Vec<String> {
    let mut complaints = Vec::new();
    check(&SCHEMA, event, "event", &mut complaints);
    complaints
}

/// Checks the part of JSON Schema 2020-12 that the schema uses; it may use nothing else.
fn check(schema: &Value, value: &Value, at: &str, complaints: &mut Vec<String>) {
    let chars = value.as_str().map(|text| text.chars().count() as u64);
    for (keyword, wanted) in schema.as_object().expect("a schema is an object") {
        let is_right = match keyword.as_str() {
            "$schema" | "title" | "description" | "properties" => true,
            "const" => value == wanted,
            "type" => match wanted {
                Value::Array(any) => any.iter().any(|one| is_type(one, value)),
                one => is_type(one, value),
            },
            "minLength" => chars.is_none_or(|chars| wanted.as_u64().is_some_and(|n| chars >= n)),
            "maxLength" => chars.is_none_or(|chars| wanted.as_u64().is_some_and(|n| chars <= n)),
            "minimum" => value.as_i64().is_none_or(|number| Some(number) >= wanted.as_i64()),
            "format" => value.as_str().is_none_or(|text| is_of_format(wanted, text)),
            "pattern" => {
                assert_eq!(wanted, "^[a-z0-9]+$", "the only supported pattern");
                let is_plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
                value.as_str().is_none_or(|text| !text.is_empty() && text.chars().all(is_plain))
            }
            "required" => wanted.as_array().is_some_and(|names| {
                names.iter().all(|name| value.get(name.as_str().unwrap_or_default()).is_some())
            }),
            "propertyNames" => {
                let names = value.as_object().into_iter().flatten().map(|(name, _)| name);
                names.for_each(|name| check(wanted, &json!(name), name, complaints));
                true
            }
            "additionalProperties" => {
                for (name, value) in value.as_object().into_iter().flatten() {
                    let known = &schema["properties"][name];
                    let schema = if known.is_null() { wanted } else { known };
                    check(schema, value, name, complaints);
                }
                true
            }
            unknown => panic!("{unknown} is not supported"),
        };
        if !is_right {
            complaints.push(format!("{at}: {keyword} should be {wanted}"));
        }
    }
}

fn is_type(name: &Value, value: &Value) -> bool {
    match name.as_str() {
        Some("object") => value.is_object(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("boolean") => value.is_boolean(),
        _ => panic!("the type {name} is not supported"),
    }
}

fn is_of_format(name: &Value, text: &str) -> bool {
    match name.as_str() {
        Some("uuid") => text.len() == 36 && Uuid::try_parse(text).is_ok(),
        Some("date-time") => text.parse::<events::Timestamp>().is_ok() && text.ends_with('Z'),
        Some("uri-reference") => {
            text.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-._~:?#@!$&'()*+,;=%".contains(&b))
        }
        _ => panic!("the format {name} is not supported"),
    }
}

#[test]
fn every_recorded_event_is_a_cloud_event() {
    for event in event_types::ALL {
        let recorded = event.recorded();
        assert_eq!(complaints(&recorded), [""; 0], "{}", event.fixture());
        assert_eq!(recorded["type"], format!("onsale.{}.v{}", event.name, event.version));
        assert_eq!(recorded["source"], format!("/onsale/{}", events::producer_of(event.name)));
        let data = recorded["data"].to_string();
        let understood = (event.read)(data.as_bytes()).expect("an event of its type");
        assert_eq!(recorded["subject"], understood.about.to_string(), "{}", event.name);
    }
}

#[test]
fn a_recorded_event_is_written_as_it_was_read() {
    for event in event_types::ALL {
        let recorded = event.recorded();
        let text = recorded.to_string();
        let envelope = Envelope::decode(text.as_bytes()).expect("an envelope");
        assert_eq!(envelope.name(), event.name);
        assert_eq!(event_of_type(&envelope.kind), event.name);
        let mut body = Vec::new();
        envelope.encode(&mut body);
        assert_eq!(serde_json::from_slice::<Value>(&body).expect("JSON"), recorded);
    }
}

#[test]
fn an_unknown_extension_is_ignored() {
    let mut event = event_types::ALL[0].recorded();
    event["partitionkey"] = json!("7");
    event["datacontenttype"] = json!("application/json");
    assert_eq!(complaints(&event), [""; 0]);
    assert!(Envelope::decode(event.to_string().as_bytes()).is_ok());
}

#[test]
fn an_event_that_is_no_cloud_event_is_refused() {
    let good = event_types::ALL[0].recorded();
    for required in ["specversion", "id", "source", "type", "time", "subject", "sagaid", "data"] {
        let mut less = good.clone();
        less.as_object_mut().expect("an object").remove(required);
        assert_ne!(complaints(&less), [""; 0], "without {required}");
        assert!(Envelope::decode(less.to_string().as_bytes()).is_err(), "without {required}");
    }
    for (member, wrong) in [
        ("specversion", json!("0.3")),
        ("id", json!("7")),
        ("source", json!("")),
        ("source", json!("/on sale")),
        ("time", json!("yesterday")),
        ("subject", json!("")),
        ("sagaid", json!(7)),
        ("traceparent", json!("00-1-2-01")),
        ("attempt", json!(1)),
        ("data", json!("text")),
        ("CamelCase", json!("x")),
        ("aname0of0many0characters", json!("x")),
        ("nested", json!({})),
    ] {
        let mut other = good.clone();
        other[member] = wrong.clone();
        assert_eq!(complaints(&other).len(), 1, "{member}: {wrong}");
    }
    assert_eq!(CONTENT_TYPE, "application/cloudevents-batch+json");
}
