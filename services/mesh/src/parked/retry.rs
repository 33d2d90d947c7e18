//! Retries parked events, when they come due and when an operator asks for it.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::HeaderMap;
use bytes::Bytes;
use events::UserId;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::{EARLY_SECS_MAX, Parked, ParkedState, pause_after};
use crate::{
    Link,
    batch::spans::{open_span, open_span_later, transaction_of},
    batch::work::Entry,
    health::Health,
    inbound::consumer::{Table, decode},
    metrics::EventResult,
    nats::link::headers,
    outbound::message::Message,
    outbound::publisher::HandOff,
    store::engine::{Engine, Failure, Retried, Verdict, Which},
};

/// Events leased and tried at a time.
pub(crate) const DUE_MAX: usize = 100;
/// The lease of an event that is being tried: no other instance tries it meanwhile.
pub(crate) const LEASE: Duration = Duration::from_secs(10);
/// How often due events are looked for without a notification.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How often stranded events are looked for: those that no longer wait behind another.
const STRANDED_EVERY: Duration = Duration::from_secs(3);
/// How soon an event is retried after the store prevented an attempt.
const PREVENTED: Duration = Duration::from_secs(1);
/// Attempts in a row without a written outcome, after which the event is taken to kill the process.
const UNSETTLED_MAX: u32 = 3;
/// Bytes of the event in a dead letter's copy for `nats`, at most.
const COPY_BYTES_MAX: usize = 64 * 1024;

/// Retries the parked events of one service.
pub(crate) struct Retrier {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) link: Link,
    pub(crate) consumed: Arc<Table>,
    pub(crate) hand_off: HandOff,
    /// Notified when an event was parked.
    pub(crate) parked: Arc<Notify>,
    pub(crate) health: Health,
    pub(crate) shutdown: CancellationToken,
    /// Whether the service is a listener: no other service waits for what it does with events.
    pub(crate) only_listens: bool,
}

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Tried {
    /// The event is taken in, now or before.
    Done,
    /// The event stays parked, for this reason.
    Stopped(String),
}

impl Retrier {
    /// Retries events as they come due, until shutdown.
    pub(crate) async fn run(&self) -> Result<(), Failure> {
        let mut pause = Duration::ZERO;
        let mut stranded_at = Instant::now();
        loop {
            tokio::select! {
                () = self.shutdown.cancelled() => return Ok(()),
                () = self.parked.notified() => {
                    tokio::time::sleep(pause_after(1)).await;
                }
                () = tokio::time::sleep(pause) => {}
            }
            pause = LOOK_EVERY;
            if stranded_at.elapsed() >= STRANDED_EVERY {
                stranded_at = Instant::now();
                pause = pause.min(self.try_some(Which::Missed(DUE_MAX)).await?);
            }
            pause = pause.min(self.try_some(Which::Due(DUE_MAX)).await?);
        }
    }

    /// Retries some events; returns how soon to look again.
    async fn try_some(&self, which: Which) -> Result<Duration, Failure> {
        let due = match self.engine.store().lease(which, LEASE).await {
            Ok(due) => due,
            // The store is unavailable; the batch worker reports it.
            Err(failure) if failure.is_lost() => return Ok(PREVENTED),
            Err(failure) => return Err(failure),
        };
        let mut soon = LOOK_EVERY;
        for parked in due {
            soon = soon.min(match self.attempt(&parked, None).await? {
                // This has let the next event of its key come due.
                Tried::Done => Duration::ZERO,
                Tried::Stopped(_) => pause_after(parked.attempts),
            });
        }
        Ok(soon)
    }

    /// Makes one attempt at a leased event, and writes its outcome.
    pub(crate) async fn attempt(
        &self,
        parked: &Parked,
        by: Option<UserId>,
    ) -> Result<Tried, Failure> {
        if parked.unsettled > UNSETTLED_MAX {
            let cause = format!("{UNSETTLED_MAX} attempts in a row never came to an end");
            return self.dead(parked, cause, by).await;
        }
        let event: Bytes = parked.envelope.clone();
        let mut entry = decode(&self.consumed, &parked.subject, event, parked.attempts);
        self.open_span(parked, &mut entry, by);
        let here = entry.here();
        here.within(self.try_entry(parked, entry, by)).await
    }

    /// Opens the span of an attempt. One that comes by itself, soon, belongs to the saga's trace.
    /// A dead letter is retried days later, perhaps: that is a trace of its own with a link.
    fn open_span(&self, parked: &Parked, entry: &mut Entry, by: Option<UserId>) {
        if parked.state != ParkedState::Dead && by.is_none() {
            open_span(&self.link, entry, Some(&parked.subject));
        } else {
            open_span_later(&self.link, entry, &parked.subject, parked.number);
        }
    }

    /// Runs the handler of a leased event, and writes the outcome.
    async fn try_entry(
        &self,
        parked: &Parked,
        mut entry: Entry,
        by: Option<UserId>,
    ) -> Result<Tried, Failure> {
        let mut last = None;
        for _ in 0..3 {
            let mut span = transaction_of(self.link.tracer(), &*self.engine, &mut entry);
            let retried = self.engine.retry(parked, &mut entry, by).await;
            if let Err(failure) = &retried {
                span.fail(failure.kind(), || failure.to_string());
            }
            drop(span);
            match retried {
                Ok(Retried::Gone) => return Ok(Tried::Done),
                Ok(Retried::Done(ran)) => {
                    let metrics = self.health.metrics();
                    metrics.emitted(ran.emitted.iter().map(Message::name_and_count));
                    metrics.observed(ran.observed);
                    metrics.handled(parked.event(), EventResult::Handled, 1);
                    self.hand_off.give(ran.emitted);
                    for said in ran.announced {
                        let _ = self.link.announce(said).await;
                    }
                    self.health.add_handled(1, false);
                    if parked.state == ParkedState::Dead || by.is_some() {
                        info!(
                            service = self.link.service(),
                            letter = parked.number,
                            key = parked.key,
                            "a dead letter was taken in"
                        );
                    }
                    return Ok(Tried::Done);
                }
                Ok(Retried::Early(cause)) => return self.early(parked, cause, by).await,
                Ok(Retried::Failed(cause)) => {
                    entry.span.fail("dead_letter", || cause.clone());
                    return self.dead(parked, cause, by).await;
                }
                Err(failure @ (Failure::Contended(_) | Failure::Duplicate(_))) => {
                    last = Some(failure);
                }
                Err(failure) => {
                    last = Some(failure);
                    break;
                }
            }
        }
        let cause = last.map(|failure| failure.to_string()).unwrap_or_default();
        let verdict = Verdict::Again { after: PREVENTED, cause: cause.clone(), counts: false };
        self.engine.store().settle(parked.number, verdict).await?;
        Ok(Tried::Stopped(cause))
    }

    /// Settles an attempt that found that what the event depends on is not here yet.
    async fn early(
        &self,
        parked: &Parked,
        cause: String,
        by: Option<UserId>,
    ) -> Result<Tried, Failure> {
        match verdict_on_early(parked, &cause, by) {
            Verdict::Dead { cause, by } => self.dead(parked, cause, by).await,
            again => {
                self.engine.store().settle(parked.number, again).await?;
                Ok(Tried::Stopped(cause))
            }
        }
    }

    async fn dead(
        &self,
        parked: &Parked,
        cause: String,
        by: Option<UserId>,
    ) -> Result<Tried, Failure> {
        let verdict = Verdict::Dead { cause: cause.clone(), by };
        self.engine.store().settle(parked.number, verdict).await?;
        if parked.state == ParkedState::Dead {
            warn!(
                service = self.link.service(),
                letter = parked.number,
                cause,
                "a dead letter has failed again"
            );
        } else {
            error!(
                service = self.link.service(),
                subject = parked.subject,
                key = parked.key,
                letter = parked.number,
                cause,
                "an event cannot be taken in"
            );
            self.health.add_parked(true);
            self.health.metrics().handled(parked.event(), EventResult::Dead, 1);
            copy(&self.link, &Parked { cause: cause.clone(), ..parked.clone() }).await;
        }
        Ok(Tried::Stopped(cause))
    }
}

/// The verdict on an event whose attempt found that it is still early.
pub(crate) fn verdict_on_early(parked: &Parked, cause: &str, by: Option<UserId>) -> Verdict {
    let is_over = parked.kept_at.plus_secs(EARLY_SECS_MAX) < crate::clock::now();
    if is_over || parked.state == ParkedState::Dead {
        let cause = format!("what it depends on never arrived: {cause}");
        return Verdict::Dead { cause, by };
    }
    let after = pause_after(parked.attempts);
    Verdict::Again { after, cause: cause.to_owned(), counts: true }
}

/// Publishes a copy of a dead letter for operators who use `nats`; nothing depends on it.
pub(crate) async fn copy(link: &Link, parked: &Parked) {
    let name = events::event_of_subject(&parked.subject).unwrap_or("unknown.event");
    let subject = format!("dlq.{}.{name}.{}", link.service(), parked.key);
    let mut map = HeaderMap::new();
    map.insert(headers::DEAD_CAUSE, parked.cause.as_str());
    map.insert(headers::DEAD_LETTER, format!("{}-{}", link.service(), parked.number));
    map.insert(headers::DEAD_SUBJECT, parked.subject.as_str());
    map.insert(headers::DEAD_STREAM, parked.stream.as_str());
    map.insert(headers::DEAD_SEQUENCE, parked.sequence.to_string());
    let body = parked.envelope.slice(..parked.envelope.len().min(COPY_BYTES_MAX));
    if let Err(error) = link.publish(subject, None, map, body).await {
        warn!(service = link.service(), %error, "the copy of a dead letter could not be published");
    }
}
