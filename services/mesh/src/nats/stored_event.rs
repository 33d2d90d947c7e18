//! Events as a stream has stored them, and as they are published live.

use std::sync::Arc;

use async_nats::{HeaderName, Message, header::NATS_MESSAGE_ID};
use bytes::Bytes;
use events::{Envelope, SagaId, Timestamp, event_of_subject, producer_of};
use uuid::Uuid;

use crate::outbound::message::unpack;

/// Number of positions of one message; a message has fewer events.
pub const EVENTS_A_SEQUENCE: u64 = 1_024;
/// Every message is republished under this prefix once it is stored.
pub(crate) const LIVE: &str = "live.";
/// The headers that JetStream adds to a stored message: its sequence, its subject, and when it was
/// stored.
pub(super) const STREAM_SEQ: &str = "Nats-Sequence";
pub(super) const SUBJECT: &str = "Nats-Subject";
pub(super) const TIME_STAMP: &str = "Nats-Time-Stamp";

/// A stored message.
#[derive(Debug, Clone)]
pub struct StoredMessage {
    /// Its sequence in its stream.
    pub sequence: u64,
    /// `Nats-Msg-Id`; nil when it has none.
    pub id: Uuid,
    /// When the stream stored it. A stream that was created again has other times.
    pub stored_at: Option<Timestamp>,
    /// Its events.
    pub events: Vec<StoredEvent>,
}

/// An event read from a stream, live or stored.
#[derive(Debug, Clone)]
pub struct StoredEvent {
    pub(super) subject: Arc<str>,
    pub(super) position: u64,
    pub(super) message_id: Uuid,
    pub(super) stored_at: Option<Timestamp>,
    pub(super) about: Option<Uuid>,
    pub(super) event_id: Option<Uuid>,
    pub(super) saga_id: Option<SagaId>,
    pub(super) cause_id: Option<Uuid>,
    pub(super) attempt: u64,
    pub(super) trace_id: Option<String>,
    pub(super) at: Option<Timestamp>,
    pub(super) payload: Bytes,
}

impl StoredMessage {
    /// Splits a message into its events, live or stored.
    pub(crate) fn of(message: &Message) -> Self {
        let map = message.headers.as_ref();
        let header = |name| Some(map?.get(HeaderName::from_static(name))?.as_str());
        // A live message comes on its own subject, a stored one in the reader's inbox.
        let stored = || header(SUBJECT).unwrap_or_default();
        let subject: Arc<str> =
            message.subject.strip_prefix(LIVE).unwrap_or_else(stored).to_owned().into();
        let sequence = header(STREAM_SEQ).and_then(|seq| seq.parse().ok()).unwrap_or_default();
        let id = map.and_then(|map| map.get(NATS_MESSAGE_ID)?.as_str().parse().ok());
        let id: Uuid = id.unwrap_or_default();
        let stored_at = header(TIME_STAMP).and_then(|at| at.parse().ok());
        let events = unpack(&message.payload).unwrap_or_else(|_| vec![message.payload.clone()]);
        let event = |(index, event): (usize, Bytes)| {
            let index = (index as u64).min(EVENTS_A_SEQUENCE - 1);
            let position = sequence * EVENTS_A_SEQUENCE + index;
            let read = StoredEvent::of(subject.clone(), position, event);
            StoredEvent { message_id: id, stored_at, ..read }
        };
        let events = events.into_iter().enumerate().map(event).collect();
        Self { sequence, id, stored_at, events }
    }
}

impl StoredEvent {
    /// The event of an envelope; one that cannot be read has only a position and its bytes.
    pub(crate) fn of(subject: Arc<str>, position: u64, event: Bytes) -> Self {
        let mut stored = Self {
            subject,
            position,
            message_id: Uuid::nil(),
            stored_at: None,
            about: None,
            event_id: None,
            saga_id: None,
            cause_id: None,
            attempt: 1,
            trace_id: None,
            at: None,
            payload: event.clone(),
        };
        if let Ok(envelope) = Envelope::decode(&event) {
            let trace_id = envelope.traceparent.as_deref();
            let trace_id = trace_id.and_then(|parent| parent.split('-').nth(1));
            stored.about = envelope.subject.parse().ok();
            stored.event_id = Some(envelope.id.0);
            stored.saga_id = Some(envelope.sagaid);
            stored.cause_id = envelope.causationid;
            stored.attempt = envelope.attempt.unwrap_or(1);
            stored.trace_id = trace_id.filter(|id| id.len() == 32).map(str::to_owned);
            stored.at = Some(envelope.time);
            stored.payload = event.slice_ref(envelope.data.get().as_bytes());
        }
        stored
    }

    /// `<service>.<event>`, for example `payment.completed`; empty for anything else.
    pub fn name(&self) -> &str {
        event_of_subject(self.subject()).unwrap_or_default()
    }

    /// The service that emitted it.
    pub fn service(&self) -> &str {
        producer_of(self.name())
    }

    /// Its position in its service's stream.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The sequence of its message in its service's stream.
    pub fn sequence(&self) -> u64 {
        self.position / EVENTS_A_SEQUENCE
    }

    /// The id of its message; nil when it has none.
    pub fn message_id(&self) -> Uuid {
        self.message_id
    }

    /// When the stream stored its message; `None` when it was not read from a stream.
    pub fn stored_at(&self) -> Option<Timestamp> {
        self.stored_at
    }

    /// The entity it is about.
    pub fn about(&self) -> Option<Uuid> {
        self.about
    }

    /// Its id.
    pub fn event_id(&self) -> Option<Uuid> {
        self.event_id
    }

    /// The saga it belongs to.
    pub fn saga_id(&self) -> Option<SagaId> {
        self.saga_id
    }

    /// The event or command it follows from.
    pub fn cause_id(&self) -> Option<Uuid> {
        self.cause_id
    }

    /// How often its cause had been tried; 1 at first.
    pub fn attempt(&self) -> u64 {
        self.attempt
    }

    /// The trace it was emitted in: 32 hex digits.
    pub fn trace_id(&self) -> Option<&str> {
        self.trace_id.as_deref()
    }

    /// When it was emitted.
    pub fn at(&self) -> Option<Timestamp> {
        self.at
    }

    /// The event as JSON.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Its subject: `onsale.payment.completed.v1.<schedule>`.
    pub fn subject(&self) -> &str {
        &self.subject
    }
}
