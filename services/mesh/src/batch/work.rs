//! What a batch is made of: messages and commands, their origin, and their outcome.

use std::{any::Any, time::Instant};

use async_nats::{
    Subject,
    header::NATS_MESSAGE_ID,
    jetstream::{self, AckKind},
};
use bytes::Bytes;
use events::{EventId, SagaId, Timestamp};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

pub use super::outcome::{Answered, Outcome};
use super::unreadable::Unreadable;
use crate::{
    Caller,
    deadline::within,
    inbound::reply::ReplyTo,
    nats::link::{BROKER, SEND_TIMEOUT},
    parked::key::key_of,
    trace::{Here, Span, TraceParent, Tracer},
};

/// A decoded event or command with its handler. Its type is known to the engine that it was made
/// for, and to nothing else.
pub struct Handler(Box<dyn Any + Send + Sync>);

impl Handler {
    pub(crate) fn new<T: Send + Sync + 'static>(handler: T) -> Self {
        Self(Box::new(handler))
    }

    /// The handler as its engine knows it.
    ///
    /// # Panics
    /// When it was made for another engine. A service is started on its own engine, so it is not.
    pub(crate) fn of<T: 'static>(&self) -> &T {
        self.0.downcast_ref().expect("a handler runs on the engine that it was made for")
    }
}

/// One message with all of its events, or one command. It takes effect as a whole, or is
/// redelivered as a whole.
pub struct Work {
    /// The events in their order; a command or a timer's work is a single entry.
    pub(crate) entries: Vec<Entry>,
    /// How the outcome is reported to its sender.
    pub(crate) settle: Settle,
    /// Held until the work is done, for a task that waits for that.
    pub(crate) underway: Option<Underway>,
}

/// Held by each work of a group until it is done.
#[derive(Clone)]
pub(crate) struct Underway {
    _held: mpsc::Sender<()>,
}

/// The waiting side: completes when no work holds the other side any more.
pub(crate) struct Done(mpsc::Receiver<()>);

impl Underway {
    /// Creates both sides.
    pub(crate) fn begin() -> (Self, Done) {
        let (held, done) = mpsc::channel(1);
        (Self { _held: held }, Done(done))
    }
}

impl Done {
    /// Waits until all work of the group is done, taken in or dropped.
    pub(crate) async fn wait(mut self) {
        // Nothing is ever sent.
        let _ = self.0.recv().await;
    }
}

/// One event or command with its metadata.
pub struct Entry {
    /// The handler with its decoded input, or why the input cannot be read.
    pub(crate) handler: Result<Handler, Unreadable>,
    /// Its origin.
    pub(crate) meta: Meta,
    /// The event as it came; empty for a command.
    pub(crate) raw: Bytes,
    /// The field of its data that holds its order key.
    pub(crate) key_field: &'static str,
    /// Its span, open from the begin of the batch to its end.
    pub(crate) span: Span,
    /// What makes the spans of its service.
    pub(crate) tracer: Tracer,
}

impl Work {
    /// A command, or the work that a timer has found.
    pub(crate) fn command(handler: Handler, meta: Meta, settle: Settle) -> Self {
        let entry = Entry {
            handler: Ok(handler),
            meta,
            raw: Bytes::new(),
            key_field: "",
            span: Span::default(),
            tracer: Tracer::off(),
        };
        Self { entries: vec![entry], settle, underway: None }
    }

    /// Its delivery, when it comes from a stream.
    pub(crate) fn delivery(&self) -> Option<&Delivery> {
        match &self.settle {
            Settle::Ack(delivery) => Some(delivery),
            _ => None,
        }
    }

    /// The names of its events, or of its command.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        self.entries.iter().map(|entry| entry.meta.name)
    }

    /// The size of its events in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.entries.iter().map(|entry| entry.raw.len()).sum()
    }
}

impl Entry {
    /// The event's order key in this service.
    pub(crate) fn key(&self) -> String {
        key_of(self.key_field, &self.raw)
    }

    /// Whether a timer made it: it belongs to no saga of its own.
    pub(crate) fn is_of_timer(&self) -> bool {
        let Meta { event_id, caller, trace, .. } = &self.meta;
        event_id.is_none() && *caller == Caller::Mesh && *trace == TraceParent::default()
    }

    /// What log lines about it carry.
    pub(crate) fn here(&self) -> Here {
        self.span.here((!self.is_of_timer()).then_some(self.meta.saga_id))
    }
}

/// The origin of an event or a command.
#[derive(Debug, Clone)]
pub struct Meta {
    /// The event, endpoint or timer: a name of low cardinality.
    pub name: &'static str,
    /// The events that may follow.
    pub may_emit: &'static [&'static str],
    /// The event's id; `None` for commands and timers.
    pub event_id: Option<EventId>,
    /// The id offered for what this creates.
    pub id: Uuid,
    /// The saga it belongs to.
    pub saga_id: SagaId,
    /// The caller.
    pub caller: Caller,
    /// The caller's `Idempotency-Key`, with the digest of the command.
    pub idempotency: Option<Idempotency>,
    /// The span it follows from.
    pub trace: TraceParent,
    /// When it arrived here.
    pub received: Instant,
    /// When it arrived here, on the wall clock.
    pub received_at: Timestamp,
    /// The number of this attempt; 1 at first.
    pub attempt: u64,
}

impl Meta {
    /// The origin of a command that the service sends to itself, in a saga.
    pub fn inside(saga_id: SagaId) -> Self {
        Self {
            name: "inside",
            may_emit: &[],
            event_id: None,
            id: crate::clock::new_id(),
            saga_id,
            caller: Caller::Mesh,
            idempotency: None,
            trace: TraceParent::default(),
            received: Instant::now(),
            received_at: crate::clock::now(),
            attempt: 1,
        }
    }

    /// The id of the event or command: the cause of what it emits.
    pub(crate) fn cause(&self) -> Uuid {
        self.event_id.map_or(self.id, |id| id.0)
    }
}

/// An `Idempotency-Key`, scoped to its caller and endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Idempotency {
    /// SHA-256 over caller, endpoint and key: the key's name in the store.
    pub scope: [u8; 32],
    /// SHA-256 over the key and the decoded request.
    pub body: [u8; 32],
}

/// A message as a stream delivers it.
pub(crate) struct Delivery {
    /// The message to acknowledge; `None` in a simulation, where there is no broker.
    pub(crate) message: Option<jetstream::Message>,
    /// The subject of the message.
    pub(crate) subject: Subject,
    /// `Nats-Msg-Id`: the id that the inbox records.
    pub(crate) id: Uuid,
    pub(crate) stream: String,
    pub(crate) sequence: u64,
    /// The delivery count, this delivery included.
    pub(crate) delivered: u64,
}

impl Delivery {
    /// Whether the message came with an id.
    pub(crate) fn has_id(&self) -> bool {
        let map = self.message.as_ref().and_then(|message| message.headers.as_ref());
        map.is_some_and(|map| map.get(NATS_MESSAGE_ID).is_some())
    }

    /// Sends an acknowledgement. If it is lost, the broker redelivers the message.
    #[expect(clippy::disallowed_methods, reason = "it has a limit")]
    pub(crate) async fn ack_with(&self, kind: AckKind) {
        if let Some(message) = &self.message {
            let _ = within(SEND_TIMEOUT, BROKER, message.ack_with(kind)).await;
        }
    }
}

/// How the outcome of a work is reported to its sender.
pub(crate) enum Settle {
    /// Acknowledge to JetStream.
    Ack(Box<Delivery>),
    /// Answer a request over NATS.
    Reply(ReplyTo),
    /// Answer a caller in this process.
    Local(oneshot::Sender<Answered>),
    /// No answer: no caller waits (timers).
    Nobody,
}
