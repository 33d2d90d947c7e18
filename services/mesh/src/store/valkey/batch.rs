//! A batch as one call: its arguments and its answer. `batch.lua` runs it.

use std::{sync::atomic::Ordering, time::SystemTime};

use events::{EventId, Problem, SagaId, Timestamp, UserId, dead_letter::DeadLetterState};
use redis::{Cmd, Value};
use uuid::Uuid;

use super::{
    At, Ended, FunctionCall, LuaModule, Valkey, ValkeyHandler,
    call::{Parts, send},
    function_call::Calling,
    outbox,
    pack::Pack,
    parked,
};
use crate::{
    batch::panic::{Panicked, caught},
    batch::unreadable::Unreadable,
    batch::work::{Answered, Delivery, Entry, Meta, Outcome, Work},
    outbound::message::Message,
    parked::{Parked, ParkedState, key::key_of, one_line},
    service::context::Announcement,
    store::engine::{Care, Failure, Ran, Retried},
};

/// Events and commands of one call at most, except that a single message may have more.
const CALL_ENTRIES_MAX: usize = 512;

/// What a call runs as a whole or not at all: a message with its events, or one command.
#[derive(Default)]
pub(super) struct Case<'a> {
    /// Its id in the inbox.
    id: Option<Uuid>,
    /// The message's origin, if events of it that cannot be taken in are to be parked.
    origin: Option<Origin<'a>>,
    /// The name of the stored answer; for a retry, the parked event's number.
    scope: String,
    /// The digest of the command's body; for a retry, the entry of the event's history.
    body: String,
    items: Vec<Item<'a>>,
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
    call: Result<FunctionCall, NoCall<'a>>,
    event_id: Option<EventId>,
    saga_id: SagaId,
    cause: Option<Uuid>,
    traceparent: Option<String>,
    may_emit: &'a [&'static str],
    attempt: u64,
    key_field: &'a str,
    raw: &'a [u8],
}

/// How a call runs its cases.
#[derive(Clone, Copy)]
pub(super) enum Way<'a> {
    /// As live traffic.
    Live,
    /// On a store that is rebuilt in place, by the holder of this token.
    Restoring(&'a str),
    /// Into this shadow.
    Feed(&'a str),
    /// As a parked event's next attempt.
    Retry,
}

/// The result of cases.
#[derive(Default)]
pub(super) struct Called {
    pub(super) ended: Vec<Ended>,
    pub(super) emitted: Vec<Message>,
    pub(super) announced: Vec<Announcement>,
    pub(super) parked: Vec<Parked>,
}

impl<'a> Item<'a> {
    /// A call that no message causes: it has a saga of its own and no cause.
    pub(super) fn quiet(call: FunctionCall) -> Self {
        Self {
            call: Ok(call),
            event_id: None,
            saga_id: SagaId(Uuid::now_v7()),
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

    pub(super) fn of_entry(
        call: Result<FunctionCall, NoCall<'a>>,
        entry: &'a Entry,
        began: SystemTime,
    ) -> Self {
        let traceparent = entry.transaction(began).parent().to_header();
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

    fn key(&self) -> String {
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

    /// A message.
    pub(super) fn message(id: Uuid, origin: Origin<'a>, items: Vec<Item<'a>>) -> Self {
        Self { id: Some(id), origin: Some(origin), items, ..Self::default() }
    }

    fn pack(&self, out: &mut Pack, is_full: bool) {
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
    fn outcome(self) -> Outcome {
        match self {
            Self::Refused(problem) => Outcome::Done(Answered::refused(&problem)),
            never => Outcome::Never(never.to_string()),
        }
    }
}

impl<L: LuaModule> Valkey<L> {
    /// Runs cases: in one call, unless a bound or a parked event makes it several.
    pub(super) async fn call(
        &self,
        way: Way<'_>,
        cases: &[Case<'_>],
        now: Timestamp,
    ) -> Result<Called, Failure> {
        let mut called = Called::default();
        let is_dead = |case: &Case<'_>| case.items.iter().any(|item| item.call.is_err());
        let mut is_full = self.has_parked.load(Ordering::Relaxed) || cases.iter().any(is_dead);
        while called.ended.len() < cases.len() {
            let rest = &cases[called.ended.len()..];
            let cmd = self.batch(way, &rest[..fitting(rest)], is_full, now);
            let answer = send(&mut self.connection.clone(), &self.names, &cmd).await?;
            let and_then = self.read_batch(&mut called, way, rest, answer, now)?;
            match and_then.as_str() {
                "end" | "more" => {}
                "full" if !is_full => is_full = true,
                other => return Err(Failure::Refused(format!("a call ended with `{other}`"))),
            }
        }
        Ok(called)
    }

    fn batch(&self, way: Way<'_>, cases: &[Case<'_>], is_full: bool, now: Timestamp) -> Cmd {
        let mut cmd = self.names.run(now, matches!(way, Way::Restoring(_)));
        let mut works = Pack::default();
        works.list(cases.len());
        for case in cases {
            case.pack(&mut works, is_full);
        }
        let (mode, generation) = match way {
            Way::Live if is_full => ("full", ""),
            Way::Live => ("light", ""),
            Way::Restoring(token) => ("light", token),
            Way::Feed(generation) => ("feed", generation),
            Way::Retry => ("retry", ""),
        };
        cmd.arg(mode).arg(works.0).arg(generation);
        cmd
    }

    /// Adds to `called` a call's answer for the first of `cases`; returns how to go on.
    fn read_batch(
        &self,
        called: &mut Called,
        way: Way<'_>,
        cases: &[Case<'_>],
        answer: Value,
        now: Timestamp,
    ) -> Result<String, Failure> {
        let mut parts = Parts::of(answer)?;
        let and_then: String = parts.take()?;
        if and_then == "lost" {
            return Err(if matches!(way, Way::Feed(_) | Way::Restoring(_)) {
                gone()
            } else {
                Failure::Emptied
            });
        }
        let ended = parts.list()?.each(Ended::read)?;
        if let Some(Ended::Fault(cause)) = ended.last() {
            return Err(Failure::Refused(cause.clone()));
        }
        called.ended.extend(ended);
        let announced: Vec<(String, Vec<u8>)> = parts.take()?;
        let said = |(subject, payload)| Announcement { subject, payload };
        called.announced.extend(announced.into_iter().map(said));
        called.emitted.extend(parts.list()?.each(outbox::message)?);
        for (number, case, item, state, cause, attempts) in
            parts.take::<Vec<(u64, usize, usize, String, Vec<u8>, u64)>>()?
        {
            let case: &Case<'_> = &cases[case - 1];
            let (Some(origin), item) = (&case.origin, &case.items[item - 1]) else { continue };
            called.parked.push(Parked {
                number,
                key: item.key(),
                state: ParkedState::read(&state),
                cause: one_line(&String::from_utf8_lossy(&cause)),
                attempts,
                unsettled: 0,
                envelope: item.raw.to_vec().into(),
                subject: origin.subject.to_owned(),
                stream: origin.stream.to_owned(),
                sequence: origin.sequence,
                kept_at: now,
                history: Vec::new(),
            });
        }
        self.has_parked.store(parts.take::<u8>()? == 1, Ordering::Relaxed);
        Ok(and_then)
    }

    pub(super) async fn run_batch(&self, batch: &[Work], care: Care) -> Result<Ran, Failure> {
        let now = crate::clock::now();
        let began = SystemTime::from(now.0);
        // Outcomes of commands that do not need the store; all other works become cases.
        let mut outcomes: Vec<Option<Outcome>> = Vec::with_capacity(batch.len());
        let mut cases = Vec::with_capacity(batch.len());
        for work in batch {
            let delivery = work.delivery();
            let mut outcome = None;
            let mut items = Vec::with_capacity(work.entries.len());
            for entry in &work.entries {
                match self.prepare(entry, delivery, care, now) {
                    Err(none) if delivery.is_none() => {
                        outcome = Some(none.outcome());
                        break;
                    }
                    call => items.push(Item::of_entry(call, entry, began)),
                }
            }
            match (delivery, items.pop()) {
                _ if outcome.is_some() => {}
                (None, None) => outcome = Some(Outcome::Done(Answered::default())),
                (None, Some(item)) => cases.push(Case::once(item, &work.entries[0].meta)),
                (Some(delivery), last) => {
                    items.extend(last);
                    cases.push(Case::message(delivery.id, Origin::of(delivery), items));
                }
            }
            outcomes.push(outcome);
        }
        let Called { ended, emitted, announced, parked } =
            self.call(Way::Live, &cases, now).await?;
        let mut ended = ended.into_iter();
        let outcomes = batch.iter().zip(outcomes).map(|(work, outcome)| match outcome {
            Some(outcome) => outcome,
            None => self.outcome(work, ended.next(), now),
        });
        Ok(Ran { outcomes: outcomes.collect(), emitted, announced, parked })
    }

    fn outcome(&self, work: &Work, ended: Option<Ended>, now: Timestamp) -> Outcome {
        let ended = ended.unwrap_or_else(|| Ended::Failed("no answer".into()));
        match work.entries.first() {
            Some(Entry { handler: Ok(handler), meta, .. }) if work.delivery().is_none() => {
                self.settle_handler(&*handler.of::<ValkeyHandler<L>>().0, meta, ended, now)
            }
            _ if matches!(ended, Ended::Repeat) => Outcome::Repeat,
            _ => Outcome::Done(Answered::default()),
        }
    }

    /// The outcome of an ending for the command's caller.
    pub(super) fn settle_handler(
        &self,
        handler: &dyn Calling<L>,
        meta: &Meta,
        ended: Ended,
        now: Timestamp,
    ) -> Outcome {
        match ended {
            Ended::Done(value) => match caught(|| handler.answer(&value, &self.at(meta, now))) {
                Ok(Ok(answered)) => Outcome::Done(answered),
                Ok(Err(problem)) => Outcome::Done(Answered::refused(&problem)),
                Err(panicked) => Outcome::Never(panicked.to_string()),
            },
            Ended::Repeat | Ended::Gone => Outcome::Repeat,
            Ended::No(problem) => Outcome::Done(Answered::refused(&problem)),
            Ended::NotYet(problem) => Outcome::NotYet(problem),
            Ended::Failed(cause) | Ended::Fault(cause) => Outcome::Never(cause),
            Ended::Lost => Outcome::Never(Failure::Emptied.to_string()),
        }
    }

    fn prepare<'a>(
        &self,
        entry: &'a Entry,
        delivery: Option<&Delivery>,
        care: Care,
        now: Timestamp,
    ) -> Result<FunctionCall, NoCall<'a>> {
        if let (Care::ParkUnrun, Some(Delivery { delivered, .. })) = (care, delivery) {
            return Err(NoCall::NeverEnded(*delivered));
        }
        let handler = entry.handler.as_ref().map_err(NoCall::Unreadable)?;
        let handler = &handler.of::<ValkeyHandler<L>>().0;
        let call = caught(|| handler.call(&self.at(&entry.meta, now))).map_err(NoCall::Panicked)?;
        call.map_err(|problem| NoCall::Refused(Box::new(problem)))
    }

    pub(super) async fn retry_one(
        &self,
        parked: &Parked,
        entry: &Entry,
        by: Option<UserId>,
    ) -> Result<Retried, Failure> {
        let now = crate::clock::now();
        let call = match self.prepare(entry, None, Care::Alone, now) {
            Ok(call) => call,
            Err(NoCall::Refused(problem)) => return Ok(Retried::Early(cause_of(*problem))),
            Err(never) => return Ok(Retried::Failed(never.to_string())),
        };
        let item = Item::of_entry(Ok(call), entry, SystemTime::from(now.0));
        let (scope, body) =
            (parked.number.to_string(), parked::happened(DeadLetterState::Resolved, by, None));
        let case = Case { scope, body, ..Case::of(item) };
        let Called { ended, emitted, announced, .. } = self.call(Way::Retry, &[case], now).await?;
        Ok(match ended.into_iter().next() {
            Some(Ended::Done(_) | Ended::Repeat) => {
                Retried::Done(Ran { emitted, announced, ..Ran::default() })
            }
            Some(Ended::No(problem) | Ended::NotYet(problem)) => Retried::Early(cause_of(problem)),
            Some(Ended::Failed(cause) | Ended::Fault(cause)) => Retried::Failed(cause),
            Some(Ended::Gone | Ended::Lost) | None => Retried::Gone,
        })
    }

    pub(super) fn at<'a>(&'a self, meta: &'a Meta, now: Timestamp) -> At<'a, L::Config> {
        At { now, config: &self.config, caller: &meta.caller, id: meta.id }
    }
}

impl<'a> Origin<'a> {
    fn of(delivery: &'a Delivery) -> Self {
        let (subject, stream) = (delivery.subject.as_str(), &delivery.stream);
        Self { subject, stream, sequence: delivery.sequence }
    }
}

/// How many of the cases fit into one call.
fn fitting(cases: &[Case<'_>]) -> usize {
    let mut entries = 0;
    let fits = |case: &&Case<'_>| {
        entries += case.items.len();
        entries <= CALL_ENTRIES_MAX
    };
    cases.iter().take_while(fits).count().max(1)
}

fn cause_of(problem: Problem) -> String {
    if problem.detail.is_empty() { problem.code } else { problem.detail }
}

pub(super) fn gone() -> Failure {
    Failure::Contended("the lease of the rebuild ran out, or the store was emptied".into())
}
