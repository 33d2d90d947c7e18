//! A batch as one call, and its answer. `batch.lua` runs it; its arguments are in `case`.

use std::sync::atomic::Ordering;

use events::{Problem, Timestamp, UserId, dead_letter::DeadLetterState};
use redis::{Cmd, Value};

use super::{
    call::{Parts, send},
    case::{Case, Item, NoCall, Origin, fitting},
    function_call::{Ended, FunctionCall, Reply},
    keyspace::Keyspace,
    outbox,
    pack::Pack,
    parked,
};
use crate::{
    batch::panic::caught,
    batch::work::{Answered, Delivery, Entry, Handler, Meta, Outcome, Work},
    outbound::message::Message,
    parked::{Parked, ParkedState, one_line},
    service::context::Announcement,
    store::engine::{Care, Failure, Ran, Retried},
};

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

/// What differs from service to service: the handlers of its Lua module.
pub(super) trait Handlers: Sync {
    /// The function call of an event or command, or a refusal that needs no store.
    fn call_of(
        &self,
        handler: &Handler,
        meta: &Meta,
        now: Timestamp,
    ) -> Result<FunctionCall, Problem>;

    /// The answer to a command whose function returned `value`.
    fn answer_of(
        &self,
        handler: &Handler,
        value: &Reply,
        meta: &Meta,
        now: Timestamp,
    ) -> Result<Answered, Problem>;
}

impl Keyspace {
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

    /// Runs functions that no message asks for: what is due.
    ///
    /// # Errors
    /// When the store cannot be reached, or a function fails.
    pub async fn perform(&self, calls: &[FunctionCall], now: Timestamp) -> Result<(), Failure> {
        self.perform_as(Way::Live, calls, now).await
    }

    pub(super) async fn perform_as(
        &self,
        way: Way<'_>,
        calls: &[FunctionCall],
        now: Timestamp,
    ) -> Result<(), Failure> {
        let cases: Vec<_> = calls.iter().map(|call| Case::of(Item::quiet(call.clone()))).collect();
        let called = self.call(way, &cases, now).await?;
        match called.ended.into_iter().find_map(Ended::failure) {
            Some(cause) => Err(Failure::Refused(cause)),
            None => Ok(()),
        }
    }

    /// Runs one event or command, outside any batch.
    pub(super) async fn run_one(
        &self,
        handlers: &dyn Handlers,
        handler: &Handler,
        meta: &Meta,
        now: Timestamp,
    ) -> Result<Outcome, Failure> {
        let call = match handlers.call_of(handler, meta, now) {
            Ok(call) => call,
            Err(problem) => return Ok(Outcome::Done(Answered::refused(&problem))),
        };
        let case = Case::once(Item::of(call, meta), meta);
        let mut called = self.call(Way::Live, &[case], now).await?;
        let ended = called.ended.pop().ok_or_else(|| Failure::Refused("no outcome".into()))?;
        Ok(outcome_of_command(handlers, handler, meta, ended, now))
    }

    /// Runs a batch.
    pub(super) async fn run(
        &self,
        handlers: &dyn Handlers,
        batch: &[Work],
        care: Care,
    ) -> Result<Ran, Failure> {
        self.before_commit(batch.iter().flat_map(Work::names))?;
        let now = crate::clock::now();
        // Outcomes of commands that do not need the store; all other works become cases.
        let mut outcomes: Vec<Option<Outcome>> = Vec::with_capacity(batch.len());
        let mut cases = Vec::with_capacity(batch.len());
        for work in batch {
            let delivery = work.delivery();
            let mut outcome = None;
            let mut items = Vec::with_capacity(work.entries.len());
            for entry in &work.entries {
                match prepare(handlers, entry, delivery, care, now) {
                    Err(none) if delivery.is_none() => {
                        outcome = Some(none.outcome());
                        break;
                    }
                    call => items.push(Item::of_entry(call, entry)),
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
            None => outcome_of_work(handlers, work, ended.next(), now),
        });
        Ok(Ran { outcomes: outcomes.collect(), emitted, announced, parked, ..Ran::default() })
    }

    /// Retries a parked event.
    pub(super) async fn retry(
        &self,
        handlers: &dyn Handlers,
        parked: &Parked,
        entry: &Entry,
        by: Option<UserId>,
    ) -> Result<Retried, Failure> {
        self.before_commit([entry.meta.name].into_iter())?;
        let now = crate::clock::now();
        let call = match prepare(handlers, entry, None, Care::Alone, now) {
            Ok(call) => call,
            Err(NoCall::Refused(problem)) => return Ok(Retried::Early(cause_of(*problem))),
            Err(never) => return Ok(Retried::Failed(never.to_string())),
        };
        let item = Item::of_entry(Ok(call), entry);
        let history = parked::happened(DeadLetterState::Resolved, by, None);
        let case = Case::retry(item, parked.number, history);
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
}

/// The outcome of a message or command of a batch.
fn outcome_of_work(
    handlers: &dyn Handlers,
    work: &Work,
    ended: Option<Ended>,
    now: Timestamp,
) -> Outcome {
    let ended = ended.unwrap_or_else(|| Ended::Failed("no answer".into()));
    match work.entries.first() {
        Some(Entry { handler: Ok(handler), meta, .. }) if work.delivery().is_none() => {
            outcome_of_command(handlers, handler, meta, ended, now)
        }
        _ if matches!(ended, Ended::Repeat) => Outcome::Repeat,
        _ => Outcome::Done(Answered::default()),
    }
}

/// The outcome of an ending for the command's caller.
fn outcome_of_command(
    handlers: &dyn Handlers,
    handler: &Handler,
    meta: &Meta,
    ended: Ended,
    now: Timestamp,
) -> Outcome {
    match ended {
        Ended::Done(value) => match caught(|| handlers.answer_of(handler, &value, meta, now)) {
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

/// The function call of an event or command, unless it must not be run.
fn prepare<'a>(
    handlers: &dyn Handlers,
    entry: &'a Entry,
    delivery: Option<&Delivery>,
    care: Care,
    now: Timestamp,
) -> Result<FunctionCall, NoCall<'a>> {
    if let (Care::ParkUnrun, Some(Delivery { delivered, .. })) = (care, delivery) {
        return Err(NoCall::NeverEnded(*delivered));
    }
    let handler = entry.handler.as_ref().map_err(NoCall::Unreadable)?;
    let _here = entry.here().enter();
    let call = caught(|| handlers.call_of(handler, &entry.meta, now)).map_err(NoCall::Panicked)?;
    call.map_err(|problem| NoCall::Refused(Box::new(problem)))
}

fn cause_of(problem: Problem) -> String {
    if problem.detail.is_empty() { problem.code } else { problem.detail }
}

pub(super) fn gone() -> Failure {
    Failure::Contended("the lease of the rebuild ran out, or the store was emptied".into())
}
