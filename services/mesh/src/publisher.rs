//! From the outbox to JetStream: nothing lost, repeats harmless.
//!
//! A message is handed over in memory when its transaction has committed, and published at
//! once, many on their way at a time. What JetStream has acknowledged is marked with its
//! sequence, many rows at a time, in the background. What has no mark when its lease runs out
//! (the process was killed, the broker was away, the hand-off was full) is found by a sweep,
//! in whatever instance looks first, and published again: the stream knows the message's id,
//! and so do the inboxes. The stream is compared with the marks by [`verify`]. A stream that is
//! full holds everything back, and what it has dropped before a consumer took it in is published
//! again by [`missed`].

mod hand_off;
pub(crate) mod missed;
pub(crate) mod verify;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use async_nats::{
    HeaderMap,
    header::NATS_MESSAGE_ID,
    jetstream::{
        ErrorCode,
        context::{PublishError, PublishErrorKind},
    },
};
use events::{CONTENT_TYPE, event_of_subject};
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
    engine::{Backlog, Engine, Failure, Mark},
    failpoint::{Failpoint, Failpoints},
    health::{Health, Part},
    link::BROKER,
    message::Message,
};
pub(crate) use hand_off::{HandOff, Handed};

/// Messages on their way to the broker at most.
const IN_FLIGHT_MAX: usize = 256;
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
/// How long a stream that is full is left alone before one message is tried; it doubles …
const HOLD_MIN: Duration = Duration::from_secs(1);
/// … up to this.
const HOLD_MAX: Duration = Duration::from_secs(5);
/// How long a message may take to be sent: the client is short of room.
const SEND_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an acknowledgement may take; the client itself gives up a little earlier.
const ACK_WITHIN: Duration = Duration::from_secs(3);
/// How long the last messages may take at a shutdown; what is left is swept by the next one.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);

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

/// A comparison on its way: what it has come to, and on which connection.
type Verifying<'a> = Pin<Box<dyn Future<Output = (Result<Compared, Failure>, u64)> + Send + 'a>>;

/// What outbox, stream and consumers have come to when they were compared.
struct Compared {
    /// Messages that the stream had forgotten.
    lost: usize,
    /// Up to where each consumer has taken everything in.
    floors: missed::Floors,
}

/// How the publishing of a message ended.
enum Ended {
    /// It is in the stream.
    Stored { mark: Mark, epoch: u64 },
    /// It is unknown whether it is.
    Unknown(String),
    /// There is no stream to put it in.
    NoStream(String),
    /// The stream has no room, for this one or any other.
    NoRoom(String),
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
    /// While the stream is full: until when nothing is tried, and how long it was this time.
    hold: Option<(Instant, Duration)>,
    /// Up to where each consumer was seen to have taken everything in.
    floors: missed::Floors,
    dies: bool,
}

impl Run<'_> {
    /// Leaves a stream alone that is full. What was on its way at the same time says the same.
    fn hold_back(&mut self) {
        let now = Instant::now();
        let pause = match self.hold {
            None => HOLD_MIN,
            Some((until, _)) if now < until => return,
            Some((_, pause)) => (pause * 2).min(HOLD_MAX),
        };
        self.hold = Some((now + pause, pause));
    }

    /// How many messages a sweep may take: one while it is not known whether there is room.
    fn sweeps(&self) -> usize {
        match self.hold {
            None => SWEEP_MESSAGES_MAX,
            Some((until, _)) => usize::from(Instant::now() >= until),
        }
    }
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
            hold: None,
            floors: missed::Floors::default(),
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
                    // What a full stream would refuse stays in the outbox, and is swept.
                    Some(_) if run.hold.is_some() => {}
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
            if let Some(message) = next.filter(|_| !run.dies && run.hold.is_none()) {
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
        let name = event_of_subject(&message.subject).unwrap_or_default();
        run.dies |= self.failpoints.strikes(Failpoint::BeforeMark, [name].into_iter());
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

    /// Whether the broker has the message where it says that it has seen its id before.
    async fn is_there(&self, id: uuid::Uuid, sequence: u64) -> bool {
        matches!(self.link.message_id_at(sequence).await, Ok(Some(there)) if there == id)
    }

    /// The stream has dropped the message, and the broker remembers its id and takes it for a
    /// repeat. It knows ids by their text alone, and everybody else reads one in any spelling.
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
                Ended::Unknown(format!("a repeat, but message {} is another", ack.sequence))
            }
            Ok(ack) => Ended::Stored { mark: Mark { id, sequence: ack.sequence }, epoch },
            Err(error) => refusal(id, subject, &error),
        }
    }

    async fn end(&self, run: &mut Run<'_>, ended: Ended) -> Result<(), Failure> {
        match ended {
            // An acknowledgement of an older connection proves nothing about this broker.
            Ended::Stored { mark, epoch } if epoch == self.link.epoch() => {
                if self.health.well(&Part::Publisher) {
                    info!(service = self.link.service(), "events can be published again");
                }
                run.hold = None;
                if self.health.well(&Part::Room) {
                    let service = self.link.service();
                    info!(service, "the stream has room again; what was held is published");
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
            Ended::NoRoom(cause) => {
                run.hold_back();
                if self.health.ailing(Part::Room, &cause) {
                    error!(
                        service = self.link.service(),
                        cause,
                        "the stream takes no more; events are held in the outbox until it has room"
                    );
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
        let most = run.sweeps();
        if !self.link.is_connected() || most == 0 {
            return;
        }
        match self.engine.sweep(most).await {
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
            let before = run.floors.clone();
            run.verifying.push(Box::pin(async move { (self.compare(before).await, epoch) }));
        }
    }

    /// Outbox against stream, and then the stream against what its consumers have taken in.
    async fn compare(&self, before: missed::Floors) -> Result<Compared, Failure> {
        let lost = verify::run(&*self.engine, &self.link).await?;
        self.forget_what_others_published().await;
        let floors = missed::run(&*self.engine, &self.link, &self.health, before).await?;
        Ok(Compared { lost, floors })
    }

    /// What could not be published here another instance may have brought out.
    async fn forget_what_others_published(&self) {
        if self.health.is_ailing(&Part::Publisher)
            && let Ok(Backlog { events: 0, .. }) = self.engine.backlog().await
        {
            self.health.well(&Part::Publisher);
        }
    }

    /// What a comparison has come to.
    fn verified(&self, run: &mut Run<'_>, verified: Result<Compared, Failure>, epoch: u64) {
        match verified {
            Ok(Compared { lost, floors }) => {
                run.floors = floors;
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

fn headers(id: &str) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(NATS_MESSAGE_ID, id);
    headers.insert("content-type", CONTENT_TYPE);
    headers
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
                // The broker itself is in trouble, and would refuse any message.
                Some(ErrorCode::STREAM_NOT_FOUND | ErrorCode::CLUSTER_NOT_AVAILABLE)
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

    #[test]
    fn an_acknowledgement_of_an_older_connection_does_not_mark() {
        let mark = |sequence| Mark { id: uuid::Uuid::now_v7(), sequence };
        let marks = [(mark(7), 1), (mark(5), 2), (mark(6), 2)];
        assert_eq!(of_connection(marks.to_vec(), 2), [marks[1].0, marks[2].0]);
        assert_eq!(of_connection(marks.to_vec(), 3), []);
    }
}
