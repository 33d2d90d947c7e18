//! What a batch is made of: messages and commands, where they came from, how they end.

use std::time::{Instant, SystemTime};

use async_nats::{
    Subject,
    header::NATS_MESSAGE_ID,
    jetstream::{self, AckKind},
};
use bytes::Bytes;
use events::{EventId, Problem, SagaId, Timestamp};
use tokio::sync::{mpsc, oneshot};
use uuid::Uuid;

use crate::{
    Caller,
    deadline::within,
    link::{BROKER, SEND_TIMEOUT},
    parked::key::key_of,
    reply::ReplyTo,
    trace::{Span, TraceParent},
};

/// One message with all of its events, or one command: what takes effect as a whole, or
/// comes again as a whole.
pub struct Work<D> {
    /// The events in their order; a command or a timer's finding is a single entry.
    pub(crate) entries: Vec<Entry<D>>,
    /// How its sender learns of the end.
    pub(crate) settle: Settle,
    /// Held until it is done, for who waits for that.
    pub(crate) underway: Option<Underway>,
}

/// Held by each of some works until it is done.
#[derive(Clone)]
pub(crate) struct Underway {
    _held: mpsc::Sender<()>,
}

/// Waits until nobody holds the other side any more.
pub(crate) struct Done(mpsc::Receiver<()>);

impl Underway {
    /// Both sides.
    pub(crate) fn begin() -> (Self, Done) {
        let (held, done) = mpsc::channel(1);
        (Self { _held: held }, Done(done))
    }
}

impl Done {
    /// Waits until all works are done, taken in or dropped.
    pub(crate) async fn wait(mut self) {
        // Nothing is ever sent.
        let _ = self.0.recv().await;
    }
}

/// One event or command and all that is known of it.
pub struct Entry<D> {
    /// What is to be done, or why that cannot be read.
    pub(crate) handler: Result<D, String>,
    /// Where it comes from.
    pub(crate) meta: Meta,
    /// The event as it came; empty for a command.
    pub(crate) raw: Bytes,
    /// The field of its data that names what it depends on.
    pub(crate) key_field: &'static str,
    /// Its span, open from the batch's begin to the end.
    pub(crate) span: Span,
}

impl<D> Work<D> {
    /// A command, or what a timer has found.
    pub(crate) fn command(handler: D, meta: Meta, settle: Settle) -> Self {
        let entry = Entry {
            handler: Ok(handler),
            meta,
            raw: Bytes::new(),
            key_field: "",
            span: Span::default(),
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

    /// Bytes of its events.
    pub(crate) fn bytes(&self) -> usize {
        self.entries.iter().map(|entry| entry.raw.len()).sum()
    }
}

impl<D> Entry<D> {
    /// What the event depends on in this service.
    pub(crate) fn key(&self) -> String {
        key_of(self.key_field, &self.raw)
    }

    /// The span of the transaction that it takes effect in, begun at `began`.
    pub(crate) fn transaction(&self, began: SystemTime) -> Span {
        let mut span = self.span.child("transaction", Some(began));
        span.saga(self.meta.saga_id);
        span.note("onsale.message", || self.meta.name);
        span
    }
}

/// Where an event or a command comes from.
#[derive(Debug, Clone)]
pub struct Meta {
    /// The event, endpoint or timer: a name of low cardinality.
    pub name: &'static str,
    /// The events that may follow.
    pub may_emit: &'static [&'static str],
    /// The event's id; `None` for commands and timers.
    pub event_id: Option<EventId>,
    /// The id offered for what this makes.
    pub id: Uuid,
    /// The saga it belongs to.
    pub saga_id: SagaId,
    /// Who is asking.
    pub caller: Caller,
    /// The caller's `Idempotency-Key` with what it stands for.
    pub idempotency: Option<Idempotency>,
    /// The span it follows from.
    pub trace: TraceParent,
    /// When it arrived here.
    pub received: Instant,
    /// When it arrived here, on the wall clock.
    pub received_at: Timestamp,
    /// How often it has been tried, this time included.
    pub attempt: u64,
}

impl Meta {
    /// What the service itself asks of itself, in a saga.
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
    /// SHA-256 over caller, endpoint and key: the key's name in the database.
    pub scope: [u8; 32],
    /// SHA-256 over key and request, as it was understood.
    pub body: [u8; 32],
}

/// How a message or a command ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Taken in; a command's answer. Events that could not be are parked.
    Done(Answered),
    /// A message seen before: nothing to do.
    Repeat,
    /// What a command depends on is not here yet.
    NotYet(Problem),
    /// A command can never succeed, for this reason.
    Never(String),
}

/// The answer to a command: the reply as JSON with its status, or a problem.
#[derive(Debug, Clone, Default)]
pub struct Answered {
    /// HTTP status.
    pub status: u16,
    /// JSON; empty for events and timers.
    pub body: Bytes,
}

impl Answered {
    /// A refusal as an answer.
    pub fn refused(problem: &Problem) -> Self {
        Self {
            status: problem.status,
            body: serde_json::to_vec(problem).expect("problems are plain data").into(),
        }
    }

    /// Whether the command was granted.
    pub fn is_granted(&self) -> bool {
        self.status < 400
    }
}

/// A message as a stream delivers it.
pub(crate) struct Delivery {
    /// How the broker is told; `None` where there is none, in a simulation.
    pub(crate) message: Option<jetstream::Message>,
    /// The subject it came under.
    pub(crate) subject: Subject,
    /// `Nats-Msg-Id`: what the inbox knows it by.
    pub(crate) id: Uuid,
    pub(crate) stream: String,
    pub(crate) sequence: u64,
    /// How often it has been delivered, this time included.
    pub(crate) delivered: u64,
}

impl Delivery {
    /// Whether it came with an id of its own.
    pub(crate) fn has_id(&self) -> bool {
        let map = self.message.as_ref().and_then(|message| message.headers.as_ref());
        map.is_some_and(|map| map.get(NATS_MESSAGE_ID).is_some())
    }

    /// Tells the broker. What it does not learn it sends again.
    #[expect(clippy::disallowed_methods, reason = "it has a limit")]
    pub(crate) async fn emit(&self, how: AckKind) {
        if let Some(message) = &self.message {
            let _ = within(SEND_TIMEOUT, BROKER, message.ack_with(how)).await;
        }
    }
}

/// How a message's sender learns of its end.
pub(crate) enum Settle {
    /// Acknowledge to JetStream.
    Ack(Box<Delivery>),
    /// Answer a request over NATS.
    Reply(ReplyTo),
    /// Answer somebody in this process.
    Local(oneshot::Sender<Answered>),
    /// Nobody waits (timers).
    Nobody,
}
