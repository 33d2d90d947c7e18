//! One event as it was observed, whatever it was read from.

use bytes::Bytes;
use events::{EventId, SagaId, Timestamp};
use serde::de::DeserializeOwned;
use uuid::Uuid;

/// An emitted event with its CloudEvents attributes.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    /// `ce-id`.
    pub event_id: EventId,
    /// For example `point.debited`.
    pub event: String,
    /// Its sequence in its service's stream.
    pub stream_seq: u64,
    /// The saga it belongs to.
    pub saga_id: SagaId,
    /// The event or command it follows from.
    pub cause_id: Option<Uuid>,
    /// `ce-subject`: the thing it is about.
    pub about: Uuid,
    /// `ce-time`.
    pub at: Timestamp,
    /// How often its cause was delivered to the service that emitted it; 1 is normal.
    pub deliveries: u32,
    /// 32 hex digits; absent when it was not traced.
    pub trace_id: Option<String>,
    /// Its data, as JSON.
    pub payload: Bytes,
}

impl Observed {
    /// The service that emitted it.
    pub fn service(&self) -> &str {
        events::producer_of(&self.event)
    }

    /// Its data as a type; `None` when it has another shape.
    pub fn read<T: DeserializeOwned>(&self) -> Option<T> {
        serde_json::from_slice(&self.payload).ok()
    }
}
