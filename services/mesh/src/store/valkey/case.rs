//! What a call runs, as its arguments: messages with their events, and commands.

use events::{EventId, Problem, SagaId};
use uuid::Uuid;

use super::{function_call::FunctionCall, pack::Pack, spans};
use crate::{
    batch::panic::Panicked,
    batch::unreadable::Unreadable,
    batch::work::{Answered, Delivery, Entry, Meta, Outcome},
    parked::{key::key_of, one_line},
};

/// Events and commands of one call at most, except that a single message may have more.
const CALL_ENTRIES_MAX: usize = 512;

/// What a call runs as a whole or not at all: a message with its events, or one command.
#[derive(Default)]
pub(super) struct Case<'a> {
    /// Its id in the inbox.
    id: Option<Uuid>,
    /// The message's origin, if events of it that cannot be taken in are to be parked.
    pub(super) origin: Option<Origin<'a>>,
    /// The name of the stored answer; for a retry, the parked event's number.
    scope: String,
    /// The digest of the command's body; for a retry, the entry of the event's history.
    body: String,
    pub(super) items: Vec<Item<'a>>,
}

/// Where a message comes from.
pub(super) struct Origin<'a> {
    pub(super) subject: &'a str,
    pub(super) stream: &'a str,
    pub(super) sequence: u64,
}

/// One event or command.
pub(super) struct Item<'a> {
    /// The function call, or why there is none.
    pub(super) call: Result<FunctionCall, NoCall<'a>>,
    event_id: Option<EventId>,
    saga_id: SagaId,
    cause: Option<Uuid>,
    traceparent: Option<String>,
    may_emit: &'a [&'static str],
    attempt: u64,
    key_field: &'a str,
    pub(super) raw: &'a [u8],
}

/// Why a handler makes no function call. The texts are causes of dead letters.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoCall<'a> {
    /// It refuses without the store.
    #[error("{0}")]
    Refused(Box<Problem>),
    /// There is none for this event.
    #[error("{0}")]
    Unreadable(&'a Unreadable),
    #[error(transparent)]
    Panicked(Panicked),
    /// The message seems to kill the process.
    #[error("it was delivered {0} times and never came to an end")]
    NeverEnded(u64),
}

impl NoCall<'_> {
    /// The outcome of a command.
    pub(super) fn outcome(self) -> Outcome {
        match self {
            Self::Refused(problem) => Outcome::Done(Answered::refused(&problem)),
            never => Outcome::Never(never.to_string()),
        }
    }
}

impl<'a> Item<'a> {
    /// A call that no message causes: it has a saga of its own and no cause.
    pub(super) fn quiet(call: FunctionCall) -> Self {
        Self {
            call: Ok(call),
            event_id: None,
            saga_id: SagaId(crate::clock::new_id()),
            cause: None,
            traceparent: None,
            may_emit: &[],
            attempt: 1,
            key_field: "",
            raw: &[],
        }
    }

    pub(super) fn of(call: FunctionCall, meta: &'a Meta) -> Self {
        Self {
            event_id: meta.event_id,
            saga_id: meta.saga_id,
            cause: Some(meta.cause()),
            traceparent: meta.trace.to_header(),
            may_emit: meta.may_emit,
            attempt: meta.attempt,
            ..Self::quiet(call)
        }
    }

    /// A stored event as a shadow takes it in.
    pub(super) fn stored(call: FunctionCall, event_id: EventId) -> Self {
        Self { event_id: Some(event_id), ..Self::quiet(call) }
    }

    pub(super) fn of_entry(call: Result<FunctionCall, NoCall<'a>>, entry: &'a Entry) -> Self {
        let traceparent = spans::context_of(entry);
        let (key_field, raw) = (entry.key_field, &entry.raw[..]);
        let item = Self::of(FunctionCall::new("nothing"), &entry.meta);
        Self { call, traceparent, key_field, raw, ..item }
    }

    fn pack(&self, out: &mut Pack, is_full: bool) {
        let reason;
        let (name, args) = match &self.call {
            Ok(call) => (call.name, &call.args[..]),
            Err(cause) => {
                reason = [one_line(&cause.to_string())];
                ("", &reason[..])
            }
        };
        let may_emit = match self.may_emit {
            [] => String::new(),
            names => format!(" {} ", names.join(" ")),
        };
        let saga = self.saga_id.to_string();
        let cause = self.cause.map(|cause| cause.to_string()).unwrap_or_default();
        let attempt = if self.attempt > 1 { self.attempt.to_string() } else { String::new() };
        let (key, raw) = if is_full { (self.key(), self.raw) } else { (String::new(), &b""[..]) };
        let fields: [(&str, &[u8]); 9] = [
            ("name", name.as_bytes()),
            ("event_id", self.event_id.as_ref().map_or(b"", |id| id.0.as_bytes())),
            ("saga_id", saga.as_bytes()),
            ("cause_id", cause.as_bytes()),
            ("traceparent", self.traceparent.as_deref().unwrap_or_default().as_bytes()),
            ("may_emit", may_emit.as_bytes()),
            ("attempt", attempt.as_bytes()),
            ("key", key.as_bytes()),
            ("envelope", raw),
        ];
        out.map(&fields, "args");
        out.list(args.len());
        args.iter().for_each(|arg| out.text(arg));
    }

    pub(super) fn key(&self) -> String {
        key_of(self.key_field, self.raw)
    }
}

impl<'a> Case<'a> {
    /// A single item without idempotency: what a timer found, or what no message causes.
    pub(super) fn of(item: Item<'a>) -> Self {
        Self { items: vec![item], ..Self::default() }
    }

    /// A single item that may be sent again: its answer is stored, its event claimed.
    pub(super) fn once(item: Item<'a>, meta: &Meta) -> Self {
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let key = meta.idempotency.as_ref();
        let (scope, body) = key.map(|key| (hex(&key.scope), hex(&key.body))).unwrap_or_default();
        Self { id: meta.event_id.map(|id| id.0), scope, body, ..Self::of(item) }
    }

    /// A parked event that is retried: its number, and what its history says when it is handled.
    pub(super) fn retry(item: Item<'a>, number: u64, history: String) -> Self {
        Self { scope: number.to_string(), body: history, ..Self::of(item) }
    }

    /// A message.
    pub(super) fn message(id: Uuid, origin: Origin<'a>, items: Vec<Item<'a>>) -> Self {
        Self { id: Some(id), origin: Some(origin), items, ..Self::default() }
    }

    pub(super) fn pack(&self, out: &mut Pack, is_full: bool) {
        let origin = self.origin.as_ref();
        let sequence = origin.map(|origin| origin.sequence.to_string()).unwrap_or_default();
        let fields: [(&str, &[u8]); 6] = [
            ("id", self.id.as_ref().map_or(b"", |id| id.as_bytes())),
            ("scope", self.scope.as_bytes()),
            ("body", self.body.as_bytes()),
            ("subject", origin.map_or("", |origin| origin.subject).as_bytes()),
            ("stream", origin.map_or("", |origin| origin.stream).as_bytes()),
            ("sequence", sequence.as_bytes()),
        ];
        out.map(&fields, "entries");
        out.list(self.items.len());
        for item in &self.items {
            item.pack(out, is_full && origin.is_some());
        }
    }
}

impl<'a> Origin<'a> {
    pub(super) fn of(delivery: &'a Delivery) -> Self {
        let (subject, stream) = (delivery.subject.as_str(), &delivery.stream);
        Self { subject, stream, sequence: delivery.sequence }
    }
}

/// How many of the cases fit into one call.
pub(super) fn fitting(cases: &[Case<'_>]) -> usize {
    let mut entries = 0;
    let fits = |case: &&Case<'_>| {
        entries += case.items.len();
        entries <= CALL_ENTRIES_MAX
    };
    cases.iter().take_while(fits).count().max(1)
}
