//! One event on the wire: a CloudEvent 1.0 in structured mode.
//!
//! A message on the wire is a CloudEvents JSON batch (`application/cloudevents-batch+json`):
//! an array of these, also when there is only one. This is the only place that knows their
//! members; all code that writes or reads an event goes through [`Envelope`].

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{EventId, SagaId, Timestamp};

/// The media type of a message.
pub const CONTENT_TYPE: &str = "application/cloudevents-batch+json";

/// An event with its metadata. Borrows from the message it was read from.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Envelope<'a> {
    /// The version of CloudEvents.
    pub specversion: SpecVersion,
    /// The id of the event; fixed when it is emitted and never used for another.
    pub id: EventId,
    /// The service that emitted it: `/onsale/<service>`.
    #[serde(borrow)]
    pub source: Cow<'a, str>,
    /// `onsale.<service>.<event>.v<version>`.
    #[serde(rename = "type", borrow)]
    pub kind: Cow<'a, str>,
    /// When it was emitted.
    pub time: Timestamp,
    /// The thing it is about: a payment, a reservation, a user.
    #[serde(borrow)]
    pub subject: Cow<'a, str>,
    /// The saga it belongs to.
    pub sagaid: SagaId,
    /// The event or command it follows from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub causationid: Option<Uuid>,
    /// The span that emitted it (the CloudEvents extension for distributed tracing).
    #[serde(default, skip_serializing_if = "Option::is_none", borrow)]
    pub traceparent: Option<Cow<'a, str>>,
    /// How often the message it follows from had been tried; absent for the first time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attempt: Option<u64>,
    /// The event itself: the JSON of one of the types of this crate.
    #[serde(borrow)]
    pub data: &'a RawValue,
}

impl<'a> Envelope<'a> {
    /// Reads one event.
    ///
    /// # Errors
    /// When it is not a CloudEvent of this mesh; the text is the parser's.
    pub fn decode(json: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(json)
    }

    /// Appends the event to `body`.
    pub fn encode(&self, body: &mut Vec<u8>) {
        serde_json::to_writer(body, self).expect("an envelope is plain data");
    }

    /// `<service>.<event>`, for example `payment.completed`; empty for anything else.
    pub fn name(&self) -> &str {
        event_of_type(&self.kind)
    }
}

/// `payment.completed` of `onsale.payment.completed.v1`; empty for anything else.
pub fn event_of_type(kind: &str) -> &str {
    let name = kind.strip_prefix("onsale.").and_then(|rest| rest.rsplit_once(".v"));
    name.map_or("", |(name, _)| name)
}

/// Always `1.0`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SpecVersion {
    /// The only supported version.
    #[default]
    #[serde(rename = "1.0")]
    V1,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The bytes on the wire. To change them is to change a contract.
    const GOLDEN: &str = concat!(
        r#"{"specversion":"1.0","id":"018f0000-0000-7000-8000-000000000001","#,
        r#""source":"/onsale/payment","type":"onsale.payment.completed.v1","#,
        r#""time":"2026-05-01T11:00:00.123456Z","#,
        r#""subject":"018f0000-0000-7000-8000-000000000002","#,
        r#""sagaid":"018f0000-0000-7000-8000-000000000003","#,
        r#""causationid":"018f0000-0000-7000-8000-000000000004","#,
        r#""traceparent":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","#,
        r#""data":{"amount":7}}"#
    );

    #[test]
    fn an_event_is_written_as_it_was_read() {
        let envelope = Envelope::decode(GOLDEN.as_bytes()).unwrap();
        assert_eq!(envelope.name(), "payment.completed");
        assert_eq!(envelope.data.get(), r#"{"amount":7}"#);
        let mut body = Vec::new();
        envelope.encode(&mut body);
        assert_eq!(String::from_utf8(body).unwrap(), GOLDEN);
    }

    #[test]
    fn an_event_without_a_cause_or_trace_has_no_such_member() {
        let mut envelope = Envelope::decode(GOLDEN.as_bytes()).unwrap();
        (envelope.causationid, envelope.traceparent) = (None, None);
        let mut body = Vec::new();
        envelope.encode(&mut body);
        let body = String::from_utf8(body).unwrap();
        assert!(!body.contains("causationid") && !body.contains("traceparent"), "{body}");
        assert!(Envelope::decode(body.as_bytes()).is_ok());
    }

    #[test]
    fn another_specversion_or_a_missing_id_is_refused() {
        for (from, to) in [(r#""1.0""#, r#""2.0""#), (r#""id":"#, r#""idd":"#)] {
            assert!(Envelope::decode(GOLDEN.replacen(from, to, 1).as_bytes()).is_err(), "{to}");
        }
    }

    #[test]
    fn only_an_onsale_type_names_an_event() {
        assert_eq!(event_of_type("onsale.payment.completed.v12"), "payment.completed");
        for other in ["", "com.example.x.v1", "onsale.payment"] {
            assert_eq!(event_of_type(other), "", "{other}");
        }
    }
}
