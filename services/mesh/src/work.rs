//! A message on its way through a service: what it is, where it came from, how it ends.

use std::time::{Instant, SystemTime};

use async_nats::jetstream;
use bytes::Bytes;
use events::{EventId, Problem, SagaId, Timestamp};
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::{
    Caller,
    dead_letter::{key::key_of, redrive::Tried},
    trace::{Span, TraceParent},
};

/// One decoded message and all that is known of it.
pub struct Work<D> {
    /// What is to be done.
    pub deed: D,
    /// Where it comes from.
    pub meta: Meta,
    /// How its sender learns of the end.
    pub(crate) settle: Settle,
    /// Its span, open from the batch's begin to the message's end.
    pub(crate) span: Span,
}

impl<D> Work<D> {
    /// Its delivery, when it comes from a stream.
    pub(crate) fn delivery(&self) -> Option<&Delivery> {
        match &self.settle {
            Settle::Ack(delivery) => Some(delivery),
            _ => None,
        }
    }

    /// The span of the store's step that the message takes effect in, begun at `began`.
    pub(crate) fn transaction(&self, began: SystemTime) -> Span {
        let mut span = self.span.child("transaction", Some(began));
        span.saga(self.meta.saga_id);
        span.note("onsale.message", || self.meta.name);
        span
    }
}

/// Where a message comes from.
#[derive(Debug, Clone)]
pub struct Meta {
    /// The fact, endpoint or timer: a name of low cardinality.
    pub name: &'static str,
    /// The facts that may follow.
    pub may_tell: &'static [&'static str],
    /// The event to claim in the inbox; `None` for commands and timers.
    pub event_id: Option<EventId>,
    /// The id offered for what this message makes.
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
    /// How often JetStream has delivered it; 1 for anything else.
    pub delivered: u64,
}

impl Meta {
    /// What the service itself asks of itself, in a saga.
    pub fn inside(saga_id: SagaId) -> Self {
        Self {
            name: "inside",
            may_tell: &[],
            event_id: None,
            id: Uuid::now_v7(),
            saga_id,
            caller: Caller::Mesh,
            idempotency: None,
            trace: TraceParent::default(),
            received: Instant::now(),
            received_at: crate::clock::now(),
            delivered: 1,
        }
    }
}

/// An `Idempotency-Key`, scoped to its caller and endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Idempotency {
    /// SHA-256 over caller, endpoint and key: the key's name in the database.
    pub scope: [u8; 32],
    /// SHA-256 over the request's body.
    pub body: [u8; 32],
}

/// How a message ended.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Taken in; a command's answer.
    Done(Answered),
    /// An event seen before: nothing to do.
    Repeat,
    /// What it depends on is not here yet.
    NotYet(Problem),
    /// It can never succeed, for this reason.
    Never(String),
    /// It was not tried: one before it, of the same key, can never succeed.
    Behind,
}

/// The answer to a command: the reply as JSON with its status, or a problem.
#[derive(Debug, Clone, Default)]
pub struct Answered {
    /// HTTP status.
    pub status: u16,
    /// JSON; empty for facts and timers.
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
    pub(crate) message: jetstream::Message,
    /// The field that names what it depends on.
    pub(crate) field: &'static str,
}

impl Delivery {
    /// What it depends on.
    pub(crate) fn key(&self) -> String {
        key_of(self.field, self.message.headers.as_ref(), &self.message.payload)
    }
}

/// How a message's sender learns of its end.
pub(crate) enum Settle {
    /// Acknowledge to JetStream.
    Ack(Box<Delivery>),
    /// Let who tries a dead letter again know. Dropped, it is unknown what has happened.
    Redrive(oneshot::Sender<Tried>),
    /// Answer a NATS request.
    Reply(async_nats::Subject),
    /// Answer somebody in this process.
    Local(oneshot::Sender<Answered>),
    /// Nobody waits (timers).
    Nobody,
}
