//! One JetStream message: the events that one transaction emits under one subject.
//!
//! The body is a CloudEvents JSON batch. It is made once, in the transaction, and never
//! changes: the outbox stores it, the publisher sends it, and the broker and the inboxes
//! recognise it by its id. So a repeat is recognised as a whole.

use async_nats::{HeaderMap, header::NATS_MESSAGE_ID};
use bytes::Bytes;
use events::{CONTENT_TYPE, event_of_subject};
use serde_json::value::RawValue;
use uuid::Uuid;

/// Maximum number of events in one message. A larger transaction emits several messages.
pub const MESSAGE_EVENTS_MAX: usize = 256;
/// Maximum size of a message in bytes, unless a single event is larger.
pub(crate) const MESSAGE_BYTES_MAX: usize = 256 * 1024;
/// Maximum size of one event's data in bytes; the broker accepts messages of 8 MiB.
pub(crate) const EVENT_BYTES_MAX: usize = 7 * 1024 * 1024;

/// Emitted events of one subject.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// `Nats-Msg-Id`: the outbox row's id, a UUIDv7.
    pub id: Uuid,
    /// `onsale.<service>.<event>.v<version>.<schedule or ->`.
    pub subject: String,
    /// The number of events.
    pub events: u32,
    /// The events, as a JSON array of envelopes.
    pub body: Bytes,
}

impl Message {
    /// The name of its events, and how many there are.
    pub(crate) fn name_and_count(&self) -> (&str, u64) {
        (event_of_subject(&self.subject).unwrap_or_default(), u64::from(self.events))
    }
}

/// The headers of a message with this id.
pub(crate) fn headers(id: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(NATS_MESSAGE_ID, id);
    headers.insert("content-type", CONTENT_TYPE);
    headers
}

/// Packs encoded events into messages: events of one subject together, in their order.
pub fn pack(events: impl IntoIterator<Item = (String, Vec<u8>)>) -> Vec<Message> {
    let mut done = Vec::new();
    let mut open: Vec<(String, u32, Vec<u8>)> = Vec::new();
    for (subject, event) in events {
        let at = open.iter().position(|(of, ..)| *of == subject).unwrap_or_else(|| {
            open.push((subject, 0, Vec::with_capacity(event.len() + 2)));
            open.len() - 1
        });
        let (subject, count, body) = &mut open[at];
        let is_full = *count as usize >= MESSAGE_EVENTS_MAX
            || (*count > 0 && body.len() + event.len() >= MESSAGE_BYTES_MAX);
        if is_full {
            done.push(close(subject.clone(), *count, std::mem::take(body)));
            *count = 0;
        }
        body.push(if *count == 0 { b'[' } else { b',' });
        body.extend_from_slice(&event);
        *count += 1;
    }
    done.extend(open.into_iter().map(|(subject, count, body)| close(subject, count, body)));
    done
}

fn close(subject: String, events: u32, mut body: Vec<u8>) -> Message {
    body.push(b']');
    Message { id: crate::clock::new_id(), subject, events, body: body.into() }
}

/// A body is not a JSON array.
#[derive(Debug, thiserror::Error)]
#[error("not a batch of events: {0}")]
pub(crate) struct NotABatch(#[source] serde_json::Error);

/// Splits a body into its events, without copying them.
///
/// # Errors
/// When it is not a JSON array.
pub(crate) fn unpack(body: &Bytes) -> Result<Vec<Bytes>, NotABatch> {
    let events: Vec<&RawValue> = serde_json::from_slice(body).map_err(NotABatch)?;
    Ok(events.into_iter().map(|event| body.slice_ref(event.get().as_bytes())).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(of: &str, text: &str) -> (String, Vec<u8>) {
        (of.to_owned(), text.as_bytes().to_vec())
    }

    #[test]
    fn events_of_one_subject_share_a_message_and_keep_their_order() {
        let packed = pack([event("a", "1"), event("b", "2"), event("a", "3")]);
        let bodies: Vec<_> =
            packed.iter().map(|m| (m.subject.as_str(), m.events, m.body.as_ref())).collect();
        assert_eq!(bodies, [("a", 2, b"[1,3]".as_ref()), ("b", 1, b"[2]".as_ref())]);
        assert_ne!(packed[0].id, packed[1].id);
        assert_eq!(unpack(&packed[0].body).unwrap(), ["1", "3"]);
    }

    #[test]
    fn a_message_holds_no_more_events_and_bytes_than_it_may() {
        let many = pack((0..=MESSAGE_EVENTS_MAX).map(|n| event("a", &n.to_string())));
        assert_eq!(many.iter().map(|m| m.events).collect::<Vec<_>>(), [256, 1]);
        let half = format!("\"{}\"", "x".repeat(MESSAGE_BYTES_MAX / 2));
        let large = pack([event("a", &half), event("a", &half), event("a", "1")]);
        assert_eq!(large.iter().map(|m| m.events).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn an_event_larger_than_a_message_travels_alone() {
        let huge = format!("\"{}\"", "x".repeat(MESSAGE_BYTES_MAX));
        let packed = pack([event("a", "1"), event("a", &huge), event("a", "2")]);
        assert_eq!(packed.iter().map(|m| m.events).collect::<Vec<_>>(), [1, 1, 1]);
    }

    #[test]
    fn a_body_that_is_not_an_array_is_not_a_batch() {
        for bad in ["", "{}", "[1,", "7", "\u{feff}[]"] {
            assert!(unpack(&Bytes::copy_from_slice(bad.as_bytes())).is_err(), "{bad}");
        }
        assert!(unpack(&Bytes::from_static(b" [ ] ")).unwrap().is_empty());
    }
}
