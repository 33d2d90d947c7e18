//! The loop that runs batches: take what is waiting, run it as a unit, settle each message.
//!
//! Several lanes share one intake, so that one loads its batch while another commits. A
//! batch is whatever is waiting: one message when it is quiet, hundreds under load, and
//! nothing ever waits for company. Two messages of one key in two lanes are ordered by the
//! row lock of whoever loads first; handlers do not depend on the order.

use std::{sync::Arc, time::Duration};

use async_nats::{HeaderMap, jetstream::AckKind};
use events::{Problem, codes};
use tokio::sync::{Mutex, Notify, mpsc};
use tracing::{error, warn};

use crate::{
    Link,
    dead_letter::{self, lot::Lot, redrive::Tried},
    engine::{Engine, Failure, Ran},
    failpoint::{Failpoint, Failpoints},
    health::Health,
    link::headers,
    trace::{Messaging, Span},
    work::{Answered, Outcome, Settle, Work},
};

/// Messages of one batch at most; more would only lengthen the locks.
pub(crate) const BATCH_MESSAGES_MAX: usize = 500;
/// How long a command waits for what it depends on before it is refused.
const PATIENCE: Duration = Duration::from_secs(4);
/// How soon a command that came too early is tried again.
const EARLY_RETRY: Duration = Duration::from_millis(20);
/// Deliveries after which a fact that cannot be taken in becomes a dead letter: with the
/// delays of [`nak_delay`], about a minute.
const DELIVERIES_MAX: u64 = 20;
/// Runs of a batch that other batches are faster than, until it is refused.
const RUNS_MAX: u32 = 5;
/// How long a lane pauses when its store does not answer.
const STORE_PAUSE: Duration = Duration::from_millis(250);

/// What one lane works with.
pub(crate) struct Lane<E: Engine> {
    pub(crate) engine: Arc<E>,
    pub(crate) link: Link,
    pub(crate) intake: Arc<Mutex<mpsc::Receiver<Work<E::Deed>>>>,
    /// Puts an early command back; weak, so that lanes do not keep their own intake open.
    pub(crate) again: mpsc::WeakSender<Work<E::Deed>>,
    pub(crate) wake_relay: Arc<Notify>,
    pub(crate) lot: Arc<Lot>,
    pub(crate) health: Health,
    pub(crate) failpoints: Arc<Failpoints>,
}

impl<E: Engine> Lane<E> {
    /// Runs batches until the intake is closed and empty.
    pub(crate) async fn run(&self) -> Result<(), Failure> {
        loop {
            let mut batch = Vec::new();
            let taken = self.intake.lock().await.recv_many(&mut batch, BATCH_MESSAGES_MAX).await;
            if taken == 0 {
                return Ok(());
            }
            for work in &mut batch {
                // A command that came too early keeps the span of its first try.
                if !work.span.is_on() {
                    work.span = open_span(&self.link, work);
                }
            }
            self.run_batch(batch).await;
        }
    }

    /// Runs a batch; when its store refuses it as a whole, its messages one by one.
    async fn run_batch(&self, batch: Vec<Work<E::Deed>>) {
        let mut batch = self.hold_back(batch).await;
        if batch.is_empty() {
            return;
        }
        match self.run_until_it_wins(&mut batch).await {
            Ok(ran) => {
                self.health.store(true);
                self.wake_relay.notify_one();
                for said in ran.announced {
                    let _ = self.link.client().publish(said.subject, said.payload.into()).await;
                }
                let names = batch.iter().map(|work| work.meta.name);
                if self.failpoints.strikes(Failpoint::BeforeAck, names) {
                    return self.come_again(batch).await;
                }
                for (work, outcome) in batch.into_iter().zip(ran.outcomes) {
                    self.settle(work, outcome).await;
                }
            }
            Err(Failure::Refused(cause)) if batch.len() > 1 => {
                warn!(service = self.link.service(), %cause, size = batch.len(),
                    "batch refused; trying its messages one by one");
                for work in batch {
                    Box::pin(self.run_batch(vec![work])).await;
                }
            }
            Err(failure) => self.fail(batch, failure).await,
        }
    }

    /// Lets the messages wait whose keys are parked; the others are run.
    async fn hold_back(&self, batch: Vec<Work<E::Deed>>) -> Vec<Work<E::Deed>> {
        if !self.lot.is_any() {
            return batch;
        }
        let waits = |work: &Work<E::Deed>| {
            work.delivery().is_some_and(|delivery| self.lot.arrive_if_parked(&delivery.key()))
        };
        let (waiting, free): (Vec<_>, Vec<_>) = batch.into_iter().partition(waits);
        dead_letter::wait(&self.link, &self.lot, waiting).await;
        free
    }

    /// Of two batches that make the same thing at once, the second to commit is rolled back
    /// and decided again: then it finds what the first has made.
    async fn run_until_it_wins(&self, batch: &mut [Work<E::Deed>]) -> Result<Ran, Failure> {
        let mut runs = 1;
        loop {
            match self.engine.run(batch).await {
                Err(Failure::Contended(_)) if runs < RUNS_MAX => runs += 1,
                Err(Failure::Contended(cause)) => return Err(Failure::Refused(cause)),
                ran => return ran,
            }
        }
    }

    /// Nothing of the batch took effect (or, uncertain, all of it): facts come again, and
    /// callers are told what is known.
    async fn fail(&self, batch: Vec<Work<E::Deed>>, failure: Failure) {
        let lost = matches!(failure, Failure::Unavailable(_) | Failure::Uncertain(_));
        if lost {
            self.health.store(false);
            warn!(service = self.link.service(), cause = %failure, size = batch.len(),
                "the store does not answer");
        }
        for mut work in batch {
            work.span.fail(|| failure.to_string());
            let delivered = work.meta.delivered;
            match (&failure, &work.settle) {
                (Failure::Refused(cause) | Failure::Contended(cause), Settle::Ack(_))
                    if delivered >= DELIVERIES_MAX =>
                {
                    let cause = cause.clone();
                    self.bury(work, cause).await;
                }
                (_, Settle::Ack(delivery)) => {
                    let again = AckKind::Nak(Some(nak_delay(delivered)));
                    let _ = delivery.message.ack_with(again).await;
                }
                (Failure::Refused(cause) | Failure::Contended(cause), Settle::Redrive(_)) => {
                    let cause = cause.clone();
                    self.bury(work, cause).await;
                }
                // Who tries the dead letter again finds out later.
                (_, Settle::Redrive(_)) => {}
                (Failure::Refused(cause) | Failure::Contended(cause), _) => {
                    error!(service = self.link.service(), name = work.meta.name, %cause,
                        "a command cannot be stored");
                    self.answer(work, Answered::refused(&codes::INTERNAL.into())).await;
                }
                (Failure::Uncertain(_), _) => {
                    self.answer(work, Answered::refused(&codes::TIMED_OUT.into())).await;
                }
                (Failure::Unavailable(_), _) => {
                    self.answer(work, Answered::refused(&unavailable(&self.link))).await;
                }
            }
        }
        if lost {
            tokio::time::sleep(STORE_PAUSE).await;
        }
    }

    /// Lets one message's sender know its end. Only this decides between ack, nak and term.
    async fn settle(&self, mut work: Work<E::Deed>, outcome: Outcome) {
        match outcome {
            Outcome::Done(answered) => {
                self.health.add_handled(1);
                self.answer(work, answered).await;
            }
            Outcome::Repeat => {
                self.health.add_repeats(1);
                work.span.note("onsale.repeat", || true);
                self.answer(work, Answered::default()).await;
            }
            Outcome::Never(cause) => self.bury(work, cause).await,
            Outcome::Behind => {
                work.delivery().iter().for_each(|delivery| self.lot.arrive(&delivery.key()));
                dead_letter::wait(&self.link, &self.lot, vec![work]).await;
            }
            Outcome::NotYet(problem) => self.wait(work, problem).await,
        }
    }

    /// What a message depends on is not here yet.
    async fn wait(&self, mut work: Work<E::Deed>, problem: Problem) {
        work.span.note("onsale.waited_for", || problem.detail.clone());
        if let Settle::Ack(delivery) = &work.settle {
            let delivered = work.meta.delivered;
            if delivered >= DELIVERIES_MAX {
                let cause = format!("what it depends on never came: {}", problem.detail);
                return self.bury(work, cause).await;
            }
            let _ = delivery.message.ack_with(AckKind::Nak(Some(nak_delay(delivered)))).await;
        } else if let Settle::Redrive(tried) = work.settle {
            let cause = format!("what it depends on is not here: {}", problem.detail);
            let _ = tried.send(Tried::Early(cause));
        } else if work.meta.received.elapsed() > PATIENCE {
            self.answer(work, Answered::refused(&problem)).await;
        } else {
            let again = self.again.clone();
            tokio::spawn(async move {
                tokio::time::sleep(EARLY_RETRY).await;
                // An intake that is closed or full drops it, and its caller times out.
                if let Some(intake) = again.upgrade() {
                    let _ = intake.send(work).await;
                }
            });
        }
    }

    /// A message that can never succeed is kept with its cause, and others flow on.
    async fn bury(&self, mut work: Work<E::Deed>, cause: String) {
        error!(service = self.link.service(), name = work.meta.name,
            event_id = ?work.meta.event_id, %cause, "message can never succeed");
        work.span.fail(|| cause.clone());
        match work.settle {
            Settle::Ack(delivery) => {
                self.health.add_dead();
                dead_letter::bury(&self.link, &self.lot, &delivery, &cause).await;
            }
            Settle::Redrive(tried) => drop(tried.send(Tried::Failed(cause))),
            _ => self.answer(work, Answered::refused(&codes::INTERNAL.into())).await,
        }
    }

    /// Acknowledges, or answers whoever asked.
    async fn answer(&self, mut work: Work<E::Deed>, answered: Answered) {
        match work.settle {
            Settle::Ack(delivery) => {
                let _ = delivery.message.ack().await;
            }
            Settle::Redrive(tried) => drop(tried.send(Tried::Done)),
            Settle::Reply(subject) => {
                work.span.status(answered.status);
                reply(&self.link, subject, answered).await;
            }
            Settle::Local(waiting) => {
                let _ = waiting.send(answered);
            }
            Settle::Nobody => {}
        }
    }

    /// As after a crash before the acknowledgement: every fact is delivered again.
    async fn come_again(&self, batch: Vec<Work<E::Deed>>) {
        for work in batch {
            if let Settle::Ack(delivery) = work.settle {
                let _ = delivery.message.ack_with(AckKind::Nak(None)).await;
            }
        }
    }
}

/// Answers a NATS request with a status and JSON.
pub(crate) async fn reply(link: &Link, subject: async_nats::Subject, answered: Answered) {
    let mut map = HeaderMap::new();
    map.insert(headers::STATUS, answered.status.to_string());
    if !answered.is_granted() {
        // The `nats` command and the statistics of NATS services know these two.
        map.insert("Nats-Service-Error-Code", answered.status.to_string());
        map.insert("Nats-Service-Error", "see the problem in the body");
    }
    if let Err(error) = link.client().publish_with_headers(subject, map, answered.body).await {
        warn!(service = link.service(), %error, "an answer could not be sent");
    }
}

/// What a caller is told while a service's store is away.
pub(crate) fn unavailable(link: &Link) -> Problem {
    Problem::new(
        codes::UNAVAILABLE,
        format!("The {} service is catching its breath.", link.service()),
    )
    .with("retry_after_secs", 1)
}

/// When a fact comes again after its `delivered`th delivery: 10 ms, doubling up to 5 s,
/// and up to a half more at random, so that a crowd does not come back as one.
fn nak_delay(delivered: u64) -> Duration {
    let base = 10_u64.saturating_mul(1 << delivered.saturating_sub(1).min(9)).min(5_000);
    Duration::from_millis(base + rand::random_range(0..=base / 2))
}

/// The span of a message, as a child of the span that sent it.
fn open_span<D>(link: &Link, work: &Work<D>) -> Span {
    let (meta, tracer) = (&work.meta, link.tracer());
    match &work.settle {
        Settle::Ack(delivery) => {
            let mut span = tracer.process(meta.name, &meta.trace);
            if let Some(event_id) = meta.event_id {
                span.message(Messaging {
                    operation: "process",
                    fact: meta.name,
                    subject: &delivery.message.subject,
                    event_id,
                    saga_id: meta.saga_id,
                });
            }
            span.note("messaging.consumer.group.name", || link.service());
            span.note("messaging.nats.delivery_count", || meta.delivered as i64);
            span
        }
        Settle::Redrive(_) => {
            let mut span = tracer.process(meta.name, &meta.trace);
            span.saga(meta.saga_id);
            span.note("onsale.dead_letter", || true);
            span.note("messaging.nats.delivery_count", || meta.delivered as i64);
            span
        }
        Settle::Reply(_) | Settle::Local(_) => {
            let mut span = tracer.command(meta.name, &meta.trace);
            span.saga(meta.saga_id);
            span
        }
        Settle::Nobody => {
            let mut span = tracer.timer(meta.name);
            span.saga(meta.saga_id);
            span
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_back_off_and_stay_within_ack_wait() {
        assert!(nak_delay(1) < Duration::from_millis(20));
        assert!(nak_delay(1_000) <= Duration::from_millis(7_500));
        let sum: Duration = (1..DELIVERIES_MAX).map(nak_delay).sum();
        assert!(sum > Duration::from_secs(30), "{sum:?}");
    }
}
