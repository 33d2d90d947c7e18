//! The batch worker: takes what is waiting, runs it as one batch, settles each message.
//!
//! Several workers share one intake, so that one loads its batch while another commits. A
//! batch is what is waiting: one message when it is quiet, hundreds of events under load. A
//! lone message never waits. Under load a batch waits a moment until it has as many events as
//! the one before it, and while another batch is running, only a large one is begun. Two
//! messages with one key in two batches are ordered by the row lock of the batch that loads
//! first; handlers do not depend on the order.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use async_nats::jetstream::AckKind;
use events::{Problem, codes};
use tokio::sync::{Mutex, Notify, OwnedSemaphorePermit, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    Link,
    batch::counted::count_taken_in,
    batch::spans::{answered_with, end_transaction, open_spans, transaction},
    batch::work::{Answered, Entry, Outcome, Settle, Work},
    failpoint::{
        Failpoint, Failpoints,
        crash::{Step, reach},
    },
    health::Health,
    inbound::agreement::Reached,
    inbound::intake::{Taken, WeakIntake},
    inbound::reply::Replies,
    outbound::message::Message,
    outbound::publisher::HandOff,
    parked::{Parked, ParkedState},
    store::engine::{Care, Engine, Failure, Ran},
};

/// Approximate maximum number of events in one batch; more would only lengthen the locks.
pub(crate) const BATCH_EVENTS_MAX: usize = 512;
/// Minimum number of events of a batch that is begun while another is running. Fewer would cost
/// the machine more than they gain …
const BESIDE_EVENTS_MIN: usize = 64;
/// … and wait until the other batch ends, for at most this long.
const BESIDE_WAIT: Duration = Duration::from_millis(20);
/// How long a batch that is smaller than the one before it waits for more events at most.
pub(crate) const FILL_WAIT: Duration = Duration::from_millis(2);
/// Approximate maximum size of one batch in bytes.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How long a command waits for what it depends on before it is refused.
const EARLY_TIMEOUT: Duration = Duration::from_secs(4);
/// The pause before a command that came too early is retried.
const EARLY_RETRY: Duration = Duration::from_millis(20);
/// A message with this delivery count runs alone …
pub(crate) const DELIVERIES_ALONE: u64 = 4;
/// … and one with this count is parked without being run: it may be killing the process.
const DELIVERIES_MAX: u64 = 20;
/// How often a batch that lost to others is run, before its messages are run one by one.
const RUNS_MAX: u32 = 5;
/// The pause between two such runs of a single message.
const RUN_PAUSE: Duration = Duration::from_millis(20);
/// The redelivery delay of a message that lost to others each time.
const CONTENDED_PAUSE: Duration = Duration::from_secs(5);
/// The redelivery delay of a message that cannot be stored, not even as a dead letter.
const UNSTORABLE_PAUSE: Duration = Duration::from_secs(30);
/// The redelivery delay, to any instance, of a message that this one has no usable store for.
const RETURNED_PAUSE: Duration = Duration::from_secs(1);
/// How often a store that does not answer is checked.
const STORE_PAUSE: Duration = Duration::from_millis(250);
/// How often the broker meanwhile gets a progress acknowledgement for each message.
const PROGRESS_EVERY: Duration = Duration::from_secs(3);

/// One batch worker.
pub(crate) struct Worker {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) link: Link,
    pub(crate) taken: Arc<Mutex<mpsc::UnboundedReceiver<Taken>>>,
    /// The number of batches that are running in this service.
    pub(crate) running: watch::Sender<usize>,
    /// The number of events in the last batch of this service.
    pub(crate) last_events: Arc<AtomicUsize>,
    /// Puts an early command back; weak, so that workers do not keep their own intake open.
    pub(crate) intake: WeakIntake,
    pub(crate) hand_off: HandOff,
    /// The highest messages that were acknowledged.
    pub(crate) reached: Reached,
    /// Wakes the retrier of parked events.
    pub(crate) parked: Arc<Notify>,
    pub(crate) health: Health,
    pub(crate) failpoints: Arc<Failpoints>,
    pub(crate) stop: CancellationToken,
}

type Batch = Vec<Work>;

/// A batch that was taken, with the guards that are held until it has ended.
struct TakenBatch {
    batch: Batch,
    /// They bound the number of events in memory.
    _permits: Vec<OwnedSemaphorePermit>,
    _running: RunningBatch,
}

/// Counts a batch as running until it is dropped.
struct RunningBatch(watch::Sender<usize>);

impl RunningBatch {
    fn begin(counter: &watch::Sender<usize>) -> Self {
        counter.send_modify(|count| *count += 1);
        Self(counter.clone())
    }
}

impl Drop for RunningBatch {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count -= 1);
    }
}

impl Worker {
    /// Runs batches until the intake is closed and empty.
    pub(crate) async fn run(&self) -> Result<(), Failure> {
        loop {
            let Some(mut taken) = self.take().await else { return Ok(()) };
            taken.batch.iter_mut().for_each(|work| open_spans(&self.link, work));
            self.run_batch(taken.batch).await;
        }
    }

    /// Takes the waiting work, as far as it fits into a batch.
    async fn take(&self) -> Option<TakenBatch> {
        let mut waiting = self.taken.lock().await;
        let mut next = Some(waiting.recv().await?);
        let since = Instant::now();
        let (mut events, mut bytes) = (0, 0);
        let (mut batch, mut permits) = (Vec::new(), Vec::new());
        while let Some(Taken { work, permit }) = next {
            events += work.entries.len();
            bytes += work.bytes();
            batch.push(work);
            permits.push(permit);
            if events >= BATCH_EVENTS_MAX || bytes >= BATCH_BYTES_MAX {
                break;
            }
            next = match waiting.try_recv() {
                Ok(next) => Some(next),
                Err(_) => self.wait_for_more(&mut waiting, events, since).await,
            };
        }
        self.last_events.store(events, Relaxed);
        Some(TakenBatch { batch, _permits: permits, _running: RunningBatch::begin(&self.running) })
    }

    /// Waits for more work for a batch of so many events, if it has to wait at all.
    async fn wait_for_more(
        &self,
        waiting: &mut mpsc::UnboundedReceiver<Taken>,
        events: usize,
        since: Instant,
    ) -> Option<Taken> {
        let mut running = self.running.subscribe();
        loop {
            let is_beside = *running.borrow_and_update() > 0 && events < BESIDE_EVENTS_MIN;
            let wait = match is_beside {
                true => BESIDE_WAIT,
                false if events < self.last_events.load(Relaxed) => FILL_WAIT,
                false => return None,
            };
            tokio::select! {
                biased;
                next = waiting.recv() => return next,
                _ = running.changed(), if is_beside => {}
                () = tokio::time::sleep_until((since + wait).into()) => return None,
            }
        }
    }

    /// Runs a batch as one unit of work; when the store refuses it, its messages one by one.
    async fn run_batch(&self, batch: Batch) {
        let mut waiting = batch;
        reach(Step::Taken);
        while !waiting.is_empty() {
            let runs_alone = |work: &Work| {
                work.delivery().is_some_and(|delivery| delivery.delivered >= DELIVERIES_ALONE)
            };
            let (alone, mut batch): (Vec<_>, Vec<_>) = waiting.into_iter().partition(runs_alone);
            waiting = Vec::new();
            for work in alone {
                waiting.extend(self.run_alone(work).await);
            }
            if batch.is_empty() {
                continue;
            }
            match self.run_with_retries(&mut batch, Care::Together).await {
                Ok(ran) => self.settle_all(batch, ran).await,
                Err(failure) if failure.is_lost() => {
                    waiting.extend(self.wait_for_store(batch, failure).await);
                }
                Err(cause) => {
                    let size = batch.len();
                    warn!(service = self.link.service(), %cause, size,
                        "batch refused; running its messages one by one");
                    for work in batch {
                        waiting.extend(self.run_alone(work).await);
                    }
                }
            }
        }
    }

    /// Runs one message or command in a transaction of its own. Returns it when the store was
    /// lost meanwhile.
    async fn run_alone(&self, work: Work) -> Batch {
        let mut batch = vec![work];
        // A store that lacks a table refuses everything; the message is not at fault.
        if let Err(failure) = self.engine.store().check().await {
            return self.wait_for_store(batch, failure).await;
        }
        let deliveries = batch[0].delivery().map_or(0, |delivery| delivery.delivered);
        let mut cares = [Care::Alone, Care::AloneFinal, Care::ParkUnrun].into_iter();
        if deliveries >= DELIVERIES_MAX {
            cares.nth(1);
        }
        let mut last = Failure::Refused("it was not run".into());
        for care in cares {
            let failure = match self.run_with_retries(&mut batch, care).await {
                Ok(ran) => {
                    self.settle_all(batch, ran).await;
                    return Vec::new();
                }
                Err(failure) => failure,
            };
            match failure {
                lost if lost.is_lost() => return self.wait_for_store(batch, lost).await,
                Failure::Contended(_) => {
                    self.redeliver(batch, CONTENDED_PAUSE).await;
                    return Vec::new();
                }
                // A unique violation that comes each time is not a lost race; and when the store
                // refuses at the very end, it is unknown which event it refuses.
                poison => last = poison,
            }
            if batch[0].delivery().is_none() {
                break;
            }
        }
        let here = batch[0].entries[0].here().enter();
        error!(service = self.link.service(), name = batch[0].entries[0].meta.name, cause = %last,
            "a message or command cannot be stored");
        drop(here);
        if batch[0].delivery().is_some() {
            // It cannot even be parked. If it were acknowledged, it would be lost.
            self.redeliver(batch, UNSTORABLE_PAUSE).await;
            return Vec::new();
        }
        for work in batch {
            self.answer(work, Answered::refused(&codes::INTERNAL.into())).await;
        }
        Vec::new()
    }

    /// Runs a batch, and again when another was faster. Of two batches that create the same row
    /// at once, the second to commit is rolled back and decided again: then it finds what the
    /// first has created.
    async fn run_with_retries(&self, batch: &mut [Work], care: Care) -> Result<Ran, Failure> {
        let (mut runs, began) = (1, Instant::now());
        let span = transaction(self.link.tracer(), &*self.engine, batch);
        let here = match &*batch {
            [Work { entries, .. }] if entries.len() == 1 => entries[0].here(),
            _ => span.here(None),
        };
        loop {
            match here.within(self.engine.run(batch, care)).await {
                Err(Failure::Contended(_) | Failure::Duplicate(_)) if runs < RUNS_MAX => runs += 1,
                ran => {
                    end_transaction(span, runs, &ran);
                    if ran.is_ok() {
                        self.health.metrics().batch(batch.len(), began.elapsed());
                    }
                    return ran;
                }
            }
            if care != Care::Together {
                tokio::time::sleep(RUN_PAUSE).await;
            }
        }
    }

    /// Waits for a lost store. The batch has not taken effect (or, if uncertain, all of it may
    /// have): callers get `unavailable` (or `timed_out`); messages stay here until the store
    /// answers again, and the attempt does not count.
    async fn wait_for_store(&self, batch: Batch, failure: Failure) -> Batch {
        if self.health.mark_store_failed(&failure) {
            warn!(service = self.link.service(), cause = %failure, "the store fails");
        }
        let (messages, commands): (Vec<_>, Vec<_>) =
            batch.into_iter().partition(|work| work.delivery().is_some());
        for mut work in commands {
            for entry in &mut work.entries {
                entry.span.fail(failure.kind(), || failure.to_string());
            }
            let problem = match failure {
                Failure::Uncertain(_) => codes::TIMED_OUT.into(),
                _ => unavailable(&self.link),
            };
            self.answer(work, Answered::refused(&problem)).await;
        }
        let mut progress_at = Instant::now();
        loop {
            tokio::select! {
                // They were not acknowledged, so they are redelivered.
                () = self.stop.cancelled() => return Vec::new(),
                () = tokio::time::sleep(STORE_PAUSE) => {}
            }
            match self.engine.store().check().await {
                Ok(()) => return messages,
                Err(failure) => {
                    self.health.mark_store_down(&failure);
                    if let Failure::Unusable(_) = failure {
                        // Other instances may be able to use it.
                        self.redeliver(messages, RETURNED_PAUSE).await;
                        return Vec::new();
                    }
                }
            }
            if progress_at.elapsed() >= PROGRESS_EVERY {
                progress_at = Instant::now();
                for delivery in messages.iter().filter_map(Work::delivery) {
                    delivery.ack_with(AckKind::Progress).await;
                }
            }
        }
    }

    /// Settles a stored batch: hands its events to the publisher, answers the commands and
    /// acknowledges the messages.
    async fn settle_all(&self, batch: Batch, ran: Ran) {
        reach(Step::Committed);
        if self.health.mark_store_up() {
            info!(service = self.link.service(), "the store works again");
        }
        self.health.metrics().emitted(ran.emitted.iter().map(Message::name_and_count));
        self.health.metrics().observed(ran.observed);
        for parked in &ran.parked {
            self.report_parked(parked).await;
        }
        if !ran.parked.is_empty() {
            self.parked.notify_one();
        }
        let names = batch.iter().flat_map(Work::names);
        if self.failpoints.should_fail(Failpoint::BeforeAck, names) {
            return self.redeliver(batch, Duration::ZERO).await;
        }
        count_taken_in(self.health.metrics(), &batch, &ran.outcomes, &ran.parked);
        self.hand_off.give(ran.emitted);
        for announcement in ran.announced {
            // Announcements may get lost.
            let _ = self.link.announce(announcement).await;
        }
        let mut replies = Replies::default();
        for (work, outcome) in batch.into_iter().zip(ran.outcomes) {
            self.settle(work, outcome, &mut replies).await;
        }
        replies.send(&self.link).await;
        reach(Step::Settled);
    }

    /// Counts a parked event. Logs a dead letter, and sends its copy to the stream for operators.
    async fn report_parked(&self, parked: &Parked) {
        let is_dead = parked.state == ParkedState::Dead;
        self.health.add_parked(is_dead);
        if parked.state == ParkedState::Dead {
            let here = parked.here().enter();
            error!(
                service = self.link.service(),
                subject = parked.subject,
                key = parked.key,
                letter = parked.number,
                cause = parked.cause,
                "an event cannot be taken in"
            );
            drop(here);
            crate::parked::retry::copy(&self.link, parked).await;
        }
    }

    /// Reports the outcome of one message or command to its sender.
    async fn settle(&self, mut work: Work, outcome: Outcome, replies: &mut Replies) {
        match outcome {
            Outcome::Done(answered) => {
                let is_message = work.delivery().is_some();
                self.health.add_handled(work.entries.len() as u64, is_message);
                self.answer_among(work, answered, replies).await;
            }
            Outcome::Repeat => {
                self.health.add_repeat();
                let entries = &mut work.entries;
                entries.iter_mut().for_each(|entry| entry.span.note("onsale.repeat", || true));
                self.answer(work, Answered::default()).await;
            }
            Outcome::NotYet(problem) => self.retry_soon(work, problem).await,
            Outcome::Never(cause) => {
                let here = work.entries[0].here().enter();
                error!(service = self.link.service(), name = work.entries[0].meta.name, %cause,
                    "a command can never succeed");
                drop(here);
                work.entries[0].span.fail("never", || cause);
                self.answer(work, Answered::refused(&codes::INTERNAL.into())).await;
            }
        }
    }

    /// Retries a command when what it depends on is not here yet, or refuses it in the end.
    async fn retry_soon(&self, mut work: Work, problem: Problem) {
        let entry = &mut work.entries[0];
        entry.span.note("onsale.waited_for", || problem.detail.clone());
        entry.span.keep();
        if entry.meta.received.elapsed() > EARLY_TIMEOUT {
            return self.answer(work, Answered::refused(&problem)).await;
        }
        // When the intake is closed or full, the command is dropped, and its caller times out.
        let again = self.intake.clone();
        tokio::spawn(async move {
            tokio::time::sleep(EARLY_RETRY).await;
            if let Some(intake) = again.upgrade() {
                let _ = intake.try_send(work);
            }
        });
    }

    /// Acknowledges a message, or answers the caller of a command.
    async fn answer(&self, work: Work, answered: Answered) {
        let mut replies = Replies::default();
        self.answer_among(work, answered, &mut replies).await;
        replies.send(&self.link).await;
    }

    /// The same, but adds answers over NATS to `replies` and leaves them to be sent.
    async fn answer_among(&self, mut work: Work, answered: Answered, replies: &mut Replies) {
        match work.settle {
            Settle::Ack(delivery) => {
                self.reached.note(&delivery);
                delivery.ack_with(AckKind::Ack).await;
            }
            Settle::Reply(to) => {
                let Entry { meta, span, .. } = &mut work.entries[0];
                answered_with(span, answered.status);
                let (took, Answered { status, body }) = (meta.received.elapsed(), &answered);
                self.health.metrics().command(meta.name, took, *status, body);
                replies.add(to, answered);
            }
            Settle::Local(waiting) => {
                let _ = waiting.send(answered);
            }
            Settle::Nobody => {}
        }
    }

    /// Has every message redelivered, as after a crash; callers are asked to retry.
    async fn redeliver(&self, batch: Batch, after: Duration) {
        for work in batch {
            if let Settle::Ack(delivery) = &work.settle {
                let again = AckKind::Nak((!after.is_zero()).then_some(after));
                delivery.ack_with(again).await;
            } else if !after.is_zero() {
                self.answer(work, Answered::refused(&unavailable(&self.link))).await;
            }
        }
    }
}

/// The refusal of commands while a service's store is away.
pub(crate) fn unavailable(link: &Link) -> Problem {
    Problem::new(
        codes::UNAVAILABLE,
        format!("The {} service is catching its breath.", link.service()),
    )
    .with("retry_after_secs", 1)
}
