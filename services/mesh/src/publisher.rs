//! From the outbox to JetStream: nothing lost, repeats harmless.
//!
//! A message is handed over in memory when its transaction has committed, and published at
//! once, many on their way at a time. What JetStream has acknowledged is marked with its
//! sequence, many rows at a time, in the background. What has no mark when its lease runs out
//! (the process was killed, the broker was away, the hand-off was full) is found by a sweep,
//! in whatever instance looks first, and published again: the stream knows the message's id,
//! and so do the inboxes. The stream is compared with the marks by [`verify`].

pub(crate) mod verify;

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use async_nats::{
    HeaderMap,
    header::NATS_MESSAGE_ID,
    jetstream::{
        ErrorCode,
        context::{PublishError, PublishErrorKind},
    },
};
use events::{CONTENT_TYPE, fact_of_subject};
use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::{Mutex, mpsc},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    Link,
    deadline::within,
    engine::{Backlog, Engine, Failure, Mark},
    failpoint::{Failpoint, Failpoints},
    health::{Health, Part},
    link::BROKER,
    message::Message,
};

/// Messages on their way to the broker at most.
const IN_FLIGHT_MAX: usize = 256;
/// Messages handed over in memory at most; what does not fit is left to the sweep …
const HAND_OFF_MESSAGES_MAX: usize = 1_024;
/// … as is what would make them larger than this together.
const HAND_OFF_BYTES_MAX: usize = 32 * 1024 * 1024;
/// How often marks are written. A crash repeats what was published since.
const MARK_EVERY: Duration = Duration::from_millis(250);
/// How often messages without a mark are looked for.
const SWEEP_EVERY: Duration = Duration::from_millis(500);
/// Messages swept at a time.
const SWEEP_MESSAGES_MAX: usize = 128;
/// How often outbox and stream are compared while there is nothing to publish, or when it is
/// not known how a publish has ended …
const VERIFY_EVERY: Duration = Duration::from_secs(5);
/// … and at the latest, however much there is to publish.
const VERIFY_AT_LAST: Duration = Duration::from_secs(30);
/// How soon a comparison that failed is tried again.
const VERIFY_RETRY: Duration = Duration::from_secs(1);
/// How long a message may take to be sent: the client is short of room.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an acknowledgement may take; the client itself gives up a little earlier.
const ACK_WITHIN: Duration = Duration::from_secs(3);
/// How long the last messages may take at a shutdown; what is left is swept by the next one.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// Hands messages to the publisher in memory; cheap to clone.
#[derive(Clone)]
pub(crate) struct HandOff {
    sender: mpsc::Sender<Message>,
    bytes: Arc<AtomicUsize>,
}

/// The other end of a [`HandOff`].
pub(crate) struct Handed {
    receiver: mpsc::Receiver<Message>,
    bytes: Arc<AtomicUsize>,
}

impl HandOff {
    /// Both ends.
    pub(crate) fn new() -> (Self, Handed) {
        let (sender, receiver) = mpsc::channel(HAND_OFF_MESSAGES_MAX);
        let bytes = Arc::new(AtomicUsize::new(0));
        (Self { sender, bytes: bytes.clone() }, Handed { receiver, bytes })
    }

    /// Hands over what a committed transaction has emitted, as far as there is room.
    pub(crate) fn give(&self, emitted: Vec<Message>) {
        for message in emitted {
            let size = message.body.len();
            if self.bytes.load(Relaxed) + size > HAND_OFF_BYTES_MAX {
                return;
            }
            self.bytes.fetch_add(size, Relaxed);
            if self.sender.try_send(message).is_err() {
                self.bytes.fetch_sub(size, Relaxed);
                return;
            }
        }
    }
}

impl Handed {
    /// The next message; `None` when nobody can hand anything over any more.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        let message = self.receiver.recv().await?;
        self.bytes.fetch_sub(message.body.len(), Relaxed);
        Some(message)
    }
}

/// What a publisher works with.
pub(crate) struct Publisher<E> {
    pub(crate) engine: Arc<E>,
    pub(crate) link: Link,
    pub(crate) handed: Arc<Mutex<Handed>>,
    pub(crate) health: Health,
    pub(crate) failpoints: Arc<Failpoints>,
}

/// A message whose acknowledgement is awaited.
type Sent<'a> = Pin<Box<dyn Future<Output = Ended> + Send + 'a>>;

/// A comparison on its way: how many messages were lost, on which connection.
type Verifying<'a> = Pin<Box<dyn Future<Output = (Result<usize, Failure>, u64)> + Send + 'a>>;

/// How the publishing of a message ended.
enum Ended {
    /// It is in the stream.
    Stored { mark: Mark, epoch: u64 },
    /// It is unknown whether it is.
    Unknown(String),
    /// There is no stream to put it in.
    NoStream(String),
    /// The broker does not take this message.
    Refused { id: uuid::Uuid, subject: String, cause: String },
}

/// What one run of a publisher has at hand.
struct Run<'a> {
    in_flight: FuturesUnordered<Sent<'a>>,
    /// What is to be marked, with the connection on which it was acknowledged.
    marks: Vec<(Mark, u64)>,
    /// The comparison on its way, at most one.
    verifying: FuturesUnordered<Verifying<'a>>,
    /// The connection that the last comparison was made on.
    verified_epoch: Option<u64>,
    verified_at: Instant,
    /// Not before, be there reason or not.
    verify_at: Instant,
    /// A publish whose end is unknown (it may yet be flushed by the client), or one that
    /// found no stream.
    is_in_doubt: bool,
    dies: bool,
}

impl<E: Engine> Publisher<E> {
    /// Publishes until shutdown, and then what was handed over by then.
    pub(crate) async fn run(&self, shutdown: CancellationToken) -> Result<(), Failure> {
        let mut handed = self.handed.lock().await;
        let now = Instant::now();
        let mut run = Run {
            in_flight: FuturesUnordered::new(),
            marks: Vec::new(),
            verifying: FuturesUnordered::new(),
            verified_epoch: None,
            verified_at: now,
            verify_at: now,
            is_in_doubt: false,
            dies: false,
        };
        let (mut mark, mut sweep) = (interval(MARK_EVERY), interval(SWEEP_EVERY));
        mark.set_missed_tick_behavior(MissedTickBehavior::Delay);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            if run.dies && run.in_flight.is_empty() {
                return Err(Failure::Unavailable("failpoint: before the mark".into()));
            }
            let has_room = !run.dies && run.in_flight.len() < IN_FLIGHT_MAX;
            tokio::select! {
                Some(ended) = run.in_flight.next() => self.end(&mut run, ended).await?,
                Some((verified, epoch)) = run.verifying.next() => {
                    self.verified(&mut run, verified, epoch);
                }
                message = handed.next(), if has_room => match message {
                    Some(message) => self.send(&mut run, message).await,
                    None => break,
                },
                _ = mark.tick() => {
                    self.write_marks(&mut run).await?;
                    self.verify_if_due(&mut run);
                }
                _ = sweep.tick(), if has_room => self.sweep(&mut run, &mut sweep).await,
                () = shutdown.cancelled() => break,
            }
        }
        run.verifying.clear();
        // However the broker is: what is not done by then is swept by the next instance.
        let drained = self.drain(&mut run, &mut handed);
        tokio::time::timeout(DRAIN_TIMEOUT, drained).await.unwrap_or(Ok(()))
    }

    /// Publishes what was handed over, and marks it.
    async fn drain<'a>(&'a self, run: &mut Run<'a>, handed: &mut Handed) -> Result<(), Failure> {
        loop {
            let next = handed.next().now_or_never().flatten();
            if let Some(message) = next.filter(|_| !run.dies) {
                self.send(run, message).await;
                continue;
            }
            let Some(ended) = run.in_flight.next().await else { break };
            self.end(run, ended).await?;
        }
        self.write_marks(run).await
    }

    /// Puts a message on its way.
    #[expect(clippy::disallowed_methods, reason = "it has a limit")]
    async fn send<'a>(&'a self, run: &mut Run<'a>, message: Message) {
        if !self.link.is_connected() {
            // The client would keep it and flush it much later; the sweep is in time.
            return;
        }
        let name = fact_of_subject(&message.subject).unwrap_or_default();
        run.dies |= self.failpoints.strikes(Failpoint::BeforeMark, [name].into_iter());
        let epoch = self.link.epoch();
        let mut headers = HeaderMap::new();
        let mut id = uuid::Uuid::encode_buffer();
        headers.insert(NATS_MESSAGE_ID, &*message.id.hyphenated().encode_lower(&mut id));
        headers.insert("content-type", CONTENT_TYPE);
        let (id, subject) = (message.id, message.subject);
        let jetstream = self.link.jetstream();
        // Sent here and awaited later: messages go out in the order in which they came.
        let sent = jetstream.publish_with_headers(subject.clone(), headers, message.body);
        let ack = match tokio::time::timeout(SEND_TIMEOUT, sent).await {
            Ok(Ok(ack)) => ack,
            Ok(Err(error)) => {
                let ended = refusal(id, subject, &error);
                return run.in_flight.push(Box::pin(std::future::ready(ended)));
            }
            Err(_) => {
                run.is_in_doubt = true;
                return;
            }
        };
        run.in_flight.push(Box::pin(async move {
            match within(ACK_WITHIN, BROKER, ack).await {
                Ok(Ok(ack)) if ack.duplicate => self.duplicate(id, ack.sequence, epoch).await,
                Ok(Ok(ack)) => Ended::Stored { mark: Mark { id, sequence: ack.sequence }, epoch },
                Ok(Err(error)) => refusal(id, subject, &error),
                Err(late) => Ended::Unknown(late.to_string()),
            }
        }));
    }

    /// The broker has seen this id before: that counts only if the message is really there.
    async fn duplicate(&self, id: uuid::Uuid, sequence: u64, epoch: u64) -> Ended {
        match self.link.message_id_at(sequence).await {
            Ok(Some(there)) if there == id => Ended::Stored { mark: Mark { id, sequence }, epoch },
            Ok(_) => Ended::Unknown(format!("duplicate, but message {sequence} is another")),
            Err(cause) => Ended::Unknown(cause),
        }
    }

    async fn end(&self, run: &mut Run<'_>, ended: Ended) -> Result<(), Failure> {
        match ended {
            // An acknowledgement of an older connection proves nothing about this broker.
            Ended::Stored { mark, epoch } if epoch == self.link.epoch() => {
                if self.health.well(&Part::Publisher) {
                    info!(service = self.link.service(), "events can be published again");
                }
                self.health.add_published(1);
                run.marks.push((mark, epoch));
            }
            Ended::Stored { .. } => run.is_in_doubt = true,
            Ended::Unknown(cause) => {
                run.is_in_doubt = true;
                if self.health.ailing(Part::Publisher, &cause) {
                    warn!(service = self.link.service(), cause, "events cannot be published");
                }
            }
            Ended::NoStream(cause) => {
                run.is_in_doubt = true;
                let cause =
                    format!("the stream is gone; `onsale topology apply` makes it: {cause}");
                if self.health.ailing(Part::Publisher, &cause) {
                    error!(service = self.link.service(), cause, "events cannot be published");
                }
            }
            Ended::Refused { id, subject, cause } => {
                self.health.ailing(Part::Publisher, &cause);
                error!(service = self.link.service(), %id, subject, cause,
                    "the broker refuses a message; it waits in the outbox");
                self.engine.put_off(id).await?;
            }
        }
        Ok(())
    }

    /// Marks what was acknowledged on the connection at hand. What another one acknowledged
    /// may be gone, and would be marked below the place from which the next comparison begins.
    async fn write_marks(&self, run: &mut Run<'_>) -> Result<(), Failure> {
        if run.marks.is_empty() || run.dies {
            return Ok(());
        }
        let acknowledged = run.marks.len();
        let marks = of_connection(std::mem::take(&mut run.marks), self.link.epoch());
        run.is_in_doubt |= marks.len() < acknowledged;
        if !marks.is_empty() {
            self.engine.mark(&marks).await?;
        }
        Ok(())
    }

    /// Publishes what has no mark and no owner.
    async fn sweep<'a>(&'a self, run: &mut Run<'a>, ticks: &mut tokio::time::Interval) {
        if !self.link.is_connected() {
            return;
        }
        match self.engine.sweep(SWEEP_MESSAGES_MAX).await {
            Ok(swept) => {
                if swept.len() == SWEEP_MESSAGES_MAX {
                    // There may be more behind these.
                    ticks.reset_immediately();
                }
                for message in swept {
                    self.send(run, message).await;
                }
            }
            Err(failure) => {
                if self.health.store_failed(&failure) {
                    warn!(service = self.link.service(), cause = %failure, "cannot sweep");
                }
            }
        }
    }

    /// Compares outbox and stream on each connection, after a publish whose end is unknown,
    /// and now and then; publishing goes on meanwhile.
    fn verify_if_due<'a>(&'a self, run: &mut Run<'a>) {
        let (epoch, now) = (self.link.epoch(), Instant::now());
        let is_new = run.verified_epoch != Some(epoch);
        let is_quiet = run.in_flight.is_empty();
        let is_wanted =
            is_new || run.is_in_doubt || is_quiet || now >= run.verified_at + VERIFY_AT_LAST;
        if !is_wanted || now < run.verify_at || !run.verifying.is_empty() {
            return;
        }
        if self.link.is_connected() {
            run.is_in_doubt = false;
            run.verifying.push(Box::pin(async move {
                let verified = verify::run(&*self.engine, &self.link).await;
                if verified.is_ok() {
                    self.forget_what_others_published().await;
                }
                (verified, epoch)
            }));
        }
    }

    /// What could not be published here another instance may have brought out.
    async fn forget_what_others_published(&self) {
        if self.health.is_ailing(&Part::Publisher)
            && let Ok(Backlog { facts: 0, .. }) = self.engine.backlog().await
        {
            self.health.well(&Part::Publisher);
        }
    }

    /// What a comparison has come to.
    fn verified(&self, run: &mut Run<'_>, verified: Result<usize, Failure>, epoch: u64) {
        match verified {
            Ok(lost) => {
                run.verified_epoch = Some(epoch);
                run.verified_at = Instant::now();
                run.verify_at = run.verified_at + VERIFY_EVERY;
                if lost > 0 {
                    warn!(
                        service = self.link.service(),
                        lost,
                        "the stream has forgotten messages it had acknowledged; they are published again"
                    );
                }
                self.health.well(&Part::Comparison);
            }
            Err(failure) => {
                run.is_in_doubt = true;
                run.verify_at = Instant::now() + VERIFY_RETRY;
                if self.health.ailing(Part::Comparison, &failure) {
                    warn!(service = self.link.service(), cause = %failure,
                        "outbox and stream cannot be compared");
                }
            }
        }
    }
}

/// The marks that were acknowledged on this connection.
fn of_connection(marks: Vec<(Mark, u64)>, epoch: u64) -> Vec<Mark> {
    marks.into_iter().filter(|(_, of)| *of == epoch).map(|(mark, _)| mark).collect()
}

fn refusal(id: uuid::Uuid, subject: String, error: &PublishError) -> Ended {
    use std::error::Error;
    let cause = error.to_string();
    match error.kind() {
        PublishErrorKind::StreamNotFound => Ended::NoStream(cause),
        PublishErrorKind::TimedOut | PublishErrorKind::BrokenPipe => Ended::Unknown(cause),
        _ => {
            let source =
                error.source().map_or_else(|| cause.clone(), |source| format!("{cause}: {source}"));
            let code = error.source().and_then(|source| {
                source
                    .downcast_ref::<async_nats::jetstream::Error>()
                    .map(|error| error.error_code())
            });
            match code {
                // The broker itself is in trouble, and would refuse any message.
                Some(
                    ErrorCode::STREAM_NOT_FOUND
                    | ErrorCode::CLUSTER_NOT_AVAILABLE
                    | ErrorCode::INSUFFICIENT_RESOURCES
                    | ErrorCode::STREAM_STORE_FAILED,
                )
                // It has not even come to the broker.
                | None => Ended::Unknown(source),
                Some(_) => Ended::Refused { id, subject, cause: source },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(bytes: usize) -> Message {
        let body = vec![0; bytes].into();
        Message { id: uuid::Uuid::now_v7(), subject: "onsale.a.b.v1.-".into(), events: 1, body }
    }

    #[test]
    fn an_acknowledgement_of_an_older_connection_does_not_mark() {
        let mark = |sequence| Mark { id: uuid::Uuid::now_v7(), sequence };
        let marks = [(mark(7), 1), (mark(5), 2), (mark(6), 2)];
        assert_eq!(of_connection(marks.to_vec(), 2), [marks[1].0, marks[2].0]);
        assert_eq!(of_connection(marks.to_vec(), 3), []);
    }

    #[test]
    fn what_does_not_fit_is_left_to_the_sweep() {
        let (hand_off, mut handed) = HandOff::new();
        hand_off.give(vec![message(HAND_OFF_BYTES_MAX / 2), message(HAND_OFF_BYTES_MAX)]);
        hand_off.give((0..2 * HAND_OFF_MESSAGES_MAX).map(|_| message(1)).collect());
        let mut taken = 0;
        while handed.next().now_or_never().flatten().is_some() {
            taken += 1;
        }
        assert_eq!(taken, HAND_OFF_MESSAGES_MAX);
        hand_off.give(vec![message(HAND_OFF_BYTES_MAX)]);
        assert!(handed.next().now_or_never().flatten().is_some(), "there is room again");
    }
}
