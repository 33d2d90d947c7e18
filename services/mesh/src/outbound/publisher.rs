//! Publishes the outbox to JetStream: no message is lost, and repeats are harmless.
//!
//! A message is handed over in memory when its transaction has committed, and published at
//! once, pipelined. Acknowledged messages are marked with their sequence, many rows at a time,
//! in the background. A message without a mark when its lease is over (the process was killed,
//! the broker was away, the hand-off was full) is found by a sweep of any instance and
//! published again: the stream and the inboxes recognise it by its id. [`verify`] compares the
//! stream with the marks. While the stream is full, nothing is published. What the stream has
//! dropped before a consumer took it in is published again by [`missed`].

mod hand_off;
mod marks;
pub(crate) mod missed;
mod own_stream;
mod sweep_requests;
mod sweeps;
pub(crate) mod verify;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use async_nats::jetstream::{
    ErrorCode,
    context::{PublishError, PublishErrorKind},
};
use events::event_of_subject;
use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use tokio::{
    sync::Mutex,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use crate::{
    Link,
    deadline::within,
    failpoint::{
        Failpoint, Failpoints,
        crash::{Step, reach},
    },
    health::{Health, Part},
    nats::link::BROKER,
    outbound::message::{Message, headers},
    store::engine::{Backlog, Engine, Failure, Generation, Mark},
};
pub(crate) use hand_off::{HandOff, Handed};
use own_stream::OwnStream;
pub(crate) use sweep_requests::SweepRequests;

/// Maximum number of messages in flight to the broker.
const IN_FLIGHT_MAX: usize = 256;
/// How often marks are written. After a crash, what was published since is published again.
const MARK_EVERY: Duration = Duration::from_millis(250);
/// How often the outbox is swept for messages without a mark.
const SWEEP_EVERY: Duration = Duration::from_millis(500);
/// How often outbox and stream are compared while there is nothing to publish, or when the
/// outcome of a publish is unknown …
const VERIFY_EVERY: Duration = Duration::from_secs(5);
/// … and at the latest, however much there is to publish.
const VERIFY_AT_LAST: Duration = Duration::from_secs(30);
/// The pause before a failed comparison is retried.
const VERIFY_RETRY: Duration = Duration::from_secs(1);
/// The pause before one message is tried on a full stream; it doubles …
const HOLD_MIN: Duration = Duration::from_secs(1);
/// … up to this.
const HOLD_MAX: Duration = Duration::from_secs(5);
/// How long the client may take to accept a message; it waits when its queue is full.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an acknowledgement may take; the client's own timeout is a little shorter.
const ACK_WITHIN: Duration = Duration::from_secs(3);
/// How long the last messages may take at a shutdown; what is left is swept by another instance.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

/// The publisher of one service.
pub(crate) struct Publisher {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) link: Link,
    pub(crate) handed: Arc<Mutex<Handed>>,
    pub(crate) health: Health,
    pub(crate) failpoints: Arc<Failpoints>,
    pub(crate) sweeps: SweepRequests,
    /// Distinguishes this instance from others of the service while outbox and stream are compared.
    pub(crate) instance: uuid::Uuid,
}

/// A message in flight, until its acknowledgement.
type Sent<'a> = Pin<Box<dyn Future<Output = Ended> + Send + 'a>>;

/// A running comparison: its result, and the epoch of its connection.
type Verifying<'a> =
    Pin<Box<dyn Future<Output = (Result<Option<Compared>, Failure>, u64)> + Send + 'a>>;

/// The result of a comparison of outbox, stream and consumers.
struct Compared {
    /// Number of messages that the stream has lost.
    lost: usize,
    /// The sequence up to which each consumer has taken everything in.
    floors: missed::Floors,
}

/// The outcome of publishing a message.
enum Ended {
    /// It is in the stream.
    Stored { mark: Mark, epoch: u64 },
    /// It is unknown whether it is in the stream.
    Unknown(String),
    /// There is no stream for it.
    NoStream(String),
    /// The stream has no room, for this message or any other.
    NoRoom(String),
    /// The broker refuses this message.
    Refused { id: uuid::Uuid, subject: String, cause: String },
}

/// The state of one run of a publisher.
struct Run<'a> {
    in_flight: FuturesUnordered<Sent<'a>>,
    /// Marks to be written, with the epoch in which each message was acknowledged.
    marks: Vec<(Mark, u64)>,
    /// The running comparison, at most one.
    verifying: FuturesUnordered<Verifying<'a>>,
    /// The epoch of the last comparison.
    verified_epoch: Option<u64>,
    verified_at: Instant,
    /// The earliest time of the next comparison, whatever its reason.
    verify_at: Instant,
    /// Whether there was a publish with an unknown outcome (the client may still flush it), or
    /// one that found no stream.
    is_in_doubt: bool,
    /// While the stream is full: until when nothing is published, and how long this pause is.
    hold: Option<(Instant, Duration)>,
    /// The sequence up to which each consumer was seen to have taken everything in.
    floors: missed::Floors,
    dies: bool,
    /// The connection that marks were last written on, and their generation.
    generation: Option<(u64, Generation)>,
}

impl Run<'_> {
    /// Stops publishing to a full stream for a while. Messages in flight at the same time get
    /// the same answer and do not lengthen the pause.
    fn hold_back(&mut self) {
        let now = Instant::now();
        let pause = match self.hold {
            None => HOLD_MIN,
            Some((until, _)) if now < until => return,
            Some((_, pause)) => (pause * 2).min(HOLD_MAX),
        };
        self.hold = Some((now + pause, pause));
    }
}

impl Publisher {
    /// Publishes until shutdown, and then the messages that were handed over before it.
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
            hold: None,
            floors: missed::Floors::default(),
            dies: false,
            generation: None,
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
                    // A message that a full stream would refuse stays in the outbox and is swept.
                    Some(_) if run.hold.is_some() => {}
                    Some(message) => self.send(&mut run, message).await,
                    None => break,
                },
                _ = mark.tick() => {
                    self.generation(&mut run).await?;
                    self.write_marks(&mut run).await?;
                    self.verify_if_due(&mut run);
                }
                _ = sweep.tick(), if has_room => self.sweep(&mut run, &mut sweep).await,
                () = self.sweeps.wanted(), if has_room => self.sweep(&mut run, &mut sweep).await,
                () = shutdown.cancelled() => break,
            }
        }
        run.verifying.clear();
        // Also when the broker is away: another instance sweeps what is not published by then.
        let drained = self.drain(&mut run, &mut handed);
        tokio::time::timeout(DRAIN_TIMEOUT, drained).await.unwrap_or(Ok(()))
    }

    /// Publishes the messages that were handed over, and marks them.
    async fn drain<'a>(&'a self, run: &mut Run<'a>, handed: &mut Handed) -> Result<(), Failure> {
        loop {
            let next = handed.next().now_or_never().flatten();
            if let Some(message) = next.filter(|_| !run.dies && run.hold.is_none()) {
                self.send(run, message).await;
                continue;
            }
            let Some(ended) = run.in_flight.next().await else { break };
            self.end(run, ended).await?;
        }
        self.write_marks(run).await
    }

    /// Sends a message; its acknowledgement is awaited later.
    #[expect(clippy::disallowed_methods, reason = "it has a limit")]
    async fn send<'a>(&'a self, run: &mut Run<'a>, message: Message) {
        if !self.link.is_connected() {
            // The client would keep the message and flush it much later; the sweep publishes it.
            return;
        }
        let name = event_of_subject(&message.subject).unwrap_or_default();
        run.dies |= self.failpoints.should_fail(Failpoint::BeforeMark, [name].into_iter());
        let epoch = self.link.epoch();
        let headers = headers(&message.id.hyphenated().to_string());
        let Message { id, subject, body, .. } = message;
        let jetstream = self.link.jetstream();
        // Sent here and awaited later: messages go out in the order in which they came.
        let sent = jetstream.publish_with_headers(subject.clone(), headers, body.clone());
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
        reach(Step::Sent);
        run.in_flight.push(Box::pin(async move {
            match within(ACK_WITHIN, BROKER, ack).await {
                Ok(Ok(ack)) if ack.duplicate && !self.is_there(id, ack.sequence).await => {
                    self.send_respelt(id, subject, body, epoch).await
                }
                Ok(Ok(ack)) => Ended::Stored { mark: Mark { id, sequence: ack.sequence }, epoch },
                Ok(Err(error)) => refusal(id, subject, &error),
                Err(late) => Ended::Unknown(late.to_string()),
            }
        }));
    }

    /// Whether the broker has the message at the sequence that it names for a duplicate.
    async fn is_there(&self, id: uuid::Uuid, sequence: u64) -> bool {
        let there = self.link.places(sequence, sequence).await;
        there.is_ok_and(|there| there.get(&sequence).is_some_and(|place| place.mark.id == id))
    }

    /// Publishes a message that the stream has dropped, but whose id the broker remembers and
    /// takes for a duplicate. The broker compares ids as text; all other readers parse them.
    #[expect(clippy::disallowed_methods, reason = "it has a limit")]
    async fn send_respelt(
        &self,
        id: uuid::Uuid,
        subject: String,
        body: bytes::Bytes,
        epoch: u64,
    ) -> Ended {
        let (jetstream, headers) = (self.link.jetstream(), headers(&id.simple().to_string()));
        let sent = async {
            match jetstream.publish_with_headers(subject.clone(), headers, body).await {
                Ok(ack) => ack.await,
                Err(error) => Err(error),
            }
        };
        let ack = match within(ACK_WITHIN, BROKER, sent).await {
            Ok(ack) => ack,
            Err(late) => return Ended::Unknown(late.to_string()),
        };
        match ack {
            Ok(ack) if ack.duplicate && !self.is_there(id, ack.sequence).await => {
                Ended::Unknown(format!("a duplicate, but message {} has another id", ack.sequence))
            }
            Ok(ack) => Ended::Stored { mark: Mark { id, sequence: ack.sequence }, epoch },
            Err(error) => refusal(id, subject, &error),
        }
    }

    async fn end(&self, run: &mut Run<'_>, ended: Ended) -> Result<(), Failure> {
        match ended {
            // An acknowledgement of an older connection proves nothing about this broker.
            Ended::Stored { mark, epoch } if epoch == self.link.epoch() => {
                reach(Step::Stored);
                if self.health.clear_fault(&Part::Publisher) {
                    info!(service = self.link.service(), "events can be published again");
                }
                run.hold = None;
                if self.health.clear_fault(&Part::Room) {
                    let service = self.link.service();
                    info!(service, "the stream has room again; what was held is published");
                }
                self.health.add_published(1);
                run.marks.push((mark, epoch));
            }
            Ended::Stored { .. } => run.is_in_doubt = true,
            Ended::Unknown(cause) => {
                run.is_in_doubt = true;
                if self.health.set_fault(Part::Publisher, &cause) && self.link.is_connected() {
                    warn!(service = self.link.service(), cause, "events cannot be published");
                }
            }
            Ended::NoStream(cause) => {
                run.is_in_doubt = true;
                let cause =
                    format!("the stream is gone; `onsale topology apply` makes it: {cause}");
                if self.health.set_fault(Part::Publisher, &cause) {
                    error!(service = self.link.service(), cause, "events cannot be published");
                }
            }
            Ended::NoRoom(cause) => {
                run.hold_back();
                if self.health.set_fault(Part::Room, &cause) {
                    error!(
                        service = self.link.service(),
                        cause,
                        "the stream takes no more; events are held in the outbox until it has room"
                    );
                }
            }
            Ended::Refused { id, subject, cause } => {
                self.health.set_fault(Part::Publisher, &cause);
                error!(service = self.link.service(), %id, subject, cause,
                    "the broker refuses a message; it waits in the outbox");
                self.engine.store().back_off(id).await?;
            }
        }
        Ok(())
    }

    /// Starts a comparison of outbox and stream: on each connection, after a publish with an
    /// unknown outcome, and at intervals. Publishing goes on meanwhile.
    fn verify_if_due<'a>(&'a self, run: &mut Run<'a>) {
        let (epoch, now) = (self.link.epoch(), Instant::now());
        let is_new = run.verified_epoch != Some(epoch);
        let is_quiet = run.in_flight.is_empty();
        let is_wanted =
            is_new || run.is_in_doubt || is_quiet || now >= run.verified_at + VERIFY_AT_LAST;
        if !is_wanted || now < run.verify_at || !run.verifying.is_empty() {
            return;
        }
        let has_begun = run.generation.is_some_and(|(of, _)| of == epoch);
        if has_begun && self.link.is_connected() {
            run.is_in_doubt = false;
            let before = run.floors.clone();
            run.verifying.push(Box::pin(async move { (self.compare_alone(before).await, epoch) }));
        }
    }

    /// Compares, unless another instance does: when the broker has just come back, all of them would
    /// read the same, and wait for each other's rows. `None` then, and when another instance has
    /// connected meanwhile, so that this comparison does not count.
    async fn compare_alone(&self, before: missed::Floors) -> Result<Option<Compared>, Failure> {
        let store = self.engine.store();
        if !store.lease_comparison(self.instance, verify::LEASE).await? {
            return Ok(None);
        }
        let compared = self.compare(before).await;
        // Where this fails, the lease ends by itself.
        let _ = store.release_comparison(self.instance).await;
        compared
    }

    /// Compares outbox and stream, and then the stream and what its consumers have taken in.
    async fn compare(&self, before: missed::Floors) -> Result<Option<Compared>, Failure> {
        // Whichever instance has begun it: all that is compared is read after it.
        let of = self.engine.store().generation().await?;
        let stream = OwnStream::new(&self.link, &self.sweeps, &self.health);
        let lost = verify::run(self.engine.store(), &stream, of, self.instance).await?;
        let Some(lost) = lost else { return Ok(None) };
        self.forget_what_others_published().await;
        let floors = missed::run(self.engine.store(), &self.link, &self.health, before).await?;
        Ok(Some(Compared { lost, floors }))
    }

    /// Another instance may have published what this one could not.
    async fn forget_what_others_published(&self) {
        if self.health.has_fault(&Part::Publisher)
            && let Ok(Backlog { events: 0, .. }) = self.engine.store().backlog().await
        {
            self.health.clear_fault(&Part::Publisher);
        }
    }

    /// Takes in the result of a comparison. A server that is away is reported elsewhere.
    fn verified(&self, run: &mut Run<'_>, of: Result<Option<Compared>, Failure>, epoch: u64) {
        match of {
            // What this instance doubts, it still has to look at: the other may have begun before.
            Ok(None) => {
                run.is_in_doubt = true;
                run.verify_at = Instant::now() + VERIFY_RETRY;
                self.health.clear_fault(&Part::Comparison);
            }
            Ok(Some(Compared { lost, floors })) => {
                run.floors = floors;
                run.verified_epoch = Some(epoch);
                run.verified_at = Instant::now();
                run.verify_at = run.verified_at + VERIFY_EVERY;
                if lost > 0 {
                    let service = self.link.service();
                    info!(service, lost, "everything that the stream had lost is published again");
                }
                self.health.clear_fault(&Part::Comparison);
            }
            Err(failure) => {
                run.is_in_doubt = true;
                run.verify_at = Instant::now() + VERIFY_RETRY;
                if self.health.set_fault(Part::Comparison, &failure) && !failure.is_lost() {
                    let service = self.link.service();
                    warn!(service, cause = %failure, "outbox and stream cannot be compared");
                }
            }
        }
    }
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
                // The stream has reached its limits, or the broker its own.
                Some(
                    ErrorCode::STREAM_STORE_FAILED
                    | ErrorCode::INSUFFICIENT_RESOURCES
                    | ErrorCode::ACCOUNT_RESOURCES_EXCEEDED
                    | ErrorCode::STORAGE_RESOURCES_EXCEEDED
                    | ErrorCode::MEMORY_RESOURCES_EXCEEDED,
                ) => Ended::NoRoom(source),
                // The broker itself has a problem, and would refuse any message.
                Some(ErrorCode::STREAM_NOT_FOUND | ErrorCode::CLUSTER_NOT_AVAILABLE)
                // The message has not even reached the broker.
                | None => Ended::Unknown(source),
                Some(_) => Ended::Refused { id, subject, cause: source },
            }
        }
    }
}
