//! From the outbox to JetStream: in order, nothing lost, repeats harmless.
//!
//! One relay per service holds the outbox (see [`Source`]). It reads what was told after
//! its position, publishes it, and moves the position behind what JetStream has
//! acknowledged. Several reads are published at once, and the position follows in order;
//! a crash between publishing and moving repeats messages, and neither the stream (same
//! `Nats-Msg-Id`) nor an inbox (same `ce-id`) takes a repeat in.

use std::{collections::HashMap, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use events::{EventId, SagaId, Timestamp, fact_of_subject};
use futures::{StreamExt, stream::FuturesOrdered};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    Link,
    engine::{Engine, Failure},
    failpoint::{Failpoint, Failpoints},
    health::Health,
    relay::publish::publish,
    trace::TraceParent,
};

mod publish;

/// Facts read, and published as one atomic batch, at a time. JetStream allows 1,000.
const BATCH_FACTS_MAX: usize = 500;
/// Batches on their way to JetStream at once. More would be smaller ones: what is told
/// while one is on its way goes together with the next.
const BATCHES_IN_FLIGHT_MAX: usize = 1;
/// How long told facts wait when the wake-up after a commit was missed.
const POLL: Duration = Duration::from_millis(100);
/// How soon facts are looked at again that wait for an older transaction to end; at once
/// while nothing else is to be done, because transactions are short.
const HELD_BACK_POLL: Duration = Duration::from_millis(1);
/// How far the stored position may lag under a load that never pauses: what was published
/// since is repeated after a crash.
const MOVE_EVERY: Duration = Duration::from_millis(250);
/// How often the stream is compared with what the log remembers.
const COMPARE_EVERY: Duration = Duration::from_secs(30);

/// A place in the outbox; later facts have greater ones.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cursor {
    /// PostgreSQL: the transaction's id. Valkey: the entry's milliseconds.
    pub major: u64,
    /// PostgreSQL: the row's id. Valkey: the entry's sequence.
    pub minor: u64,
}

/// Up to where facts were published, and the stream sequence of the last of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Position {
    /// The last fact published.
    pub cursor: Cursor,
    /// Its sequence in the service's stream; 0 before the first.
    pub stream_seq: u64,
}

/// A told fact, as the outbox keeps it.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its place.
    pub cursor: Cursor,
    /// `ce-id`.
    pub event_id: EventId,
    /// Where it is published.
    pub subject: String,
    /// JSON.
    pub payload: Bytes,
    /// `ce-subject`.
    pub about: Uuid,
    /// Its saga.
    pub saga_id: SagaId,
    /// What it follows from.
    pub cause_id: Option<Uuid>,
    /// `ce-time`.
    pub at: Timestamp,
    /// The span that told it.
    pub trace: TraceParent,
}

/// An outbox, held by one relay at a time.
pub trait Source: Send + 'static {
    /// Where the relay stands.
    fn position(&mut self) -> impl Future<Output = Result<Position, Failure>> + Send;

    /// Up to `limit` facts after a place, in order; never beyond one that may still come.
    fn read(
        &mut self,
        after: Cursor,
        limit: usize,
    ) -> impl Future<Output = Result<Vec<Row>, Failure>> + Send;

    /// Whether the last read left facts behind that are committed, but must wait for an
    /// older transaction. Nobody will wake the relay for them.
    fn held_back(&self) -> bool {
        false
    }

    /// Moves the position. Losing this write only repeats messages.
    fn advance(&mut self, to: Position) -> impl Future<Output = Result<(), Failure>> + Send;

    /// The stream ends at `last_seq`, before what was acknowledged: goes back to the newest
    /// logged position that the stream still has.
    fn rewind(&mut self, last_seq: u64) -> impl Future<Output = Result<Position, Failure>> + Send;
}

/// What a relay works with.
pub(crate) struct Relay<E> {
    pub(crate) engine: Arc<E>,
    pub(crate) link: Link,
    pub(crate) wake: Arc<Notify>,
    pub(crate) health: Health,
    pub(crate) failpoints: Arc<Failpoints>,
}

impl<E: Engine> Relay<E> {
    /// Relays until shutdown; any failure ends it and the supervisor starts it anew from
    /// its stored position.
    pub(crate) async fn run(&self, shutdown: CancellationToken) -> Result<(), Failure> {
        let outcome = self.relay(&shutdown).await;
        self.health.relay(outcome.is_ok());
        outcome
    }

    async fn relay(&self, shutdown: &CancellationToken) -> Result<(), Failure> {
        let mut source = tokio::select! {
            source = self.engine.outbox() => source?,
            () = shutdown.cancelled() => return Ok(()),
        };
        let mut position = self.compare(&mut source).await?;
        self.health.relay(true);
        let mut read_to = position.cursor;
        let (mut moved, mut moved_at) = (position, tokio::time::Instant::now());
        let mut in_flight = FuturesOrdered::new();
        let mut more = true;
        let mut compare_at = tokio::time::Instant::now() + COMPARE_EVERY;
        let mut reconnected = self.link.reconnects();
        loop {
            if more && in_flight.len() < BATCHES_IN_FLIGHT_MAX {
                let rows = source.read(read_to, BATCH_FACTS_MAX).await?;
                more = rows.len() == BATCH_FACTS_MAX;
                if let Some(last) = rows.last() {
                    read_to = last.cursor;
                    let facts = rows.iter().filter_map(|row| fact_of_subject(&row.subject));
                    let dies = self.failpoints.strikes(Failpoint::BeforeCursor, facts);
                    let link = self.link.clone();
                    // A task of its own, so that publishing goes on while the next is read.
                    in_flight.push_back(tokio::spawn(async move {
                        let published = publish(&link, rows).await?;
                        if dies {
                            Err("failpoint: before the cursor".to_owned())
                        } else {
                            Ok(published)
                        }
                    }));
                }
                if more {
                    continue;
                }
            }
            let is_due = in_flight.is_empty() || moved_at.elapsed() >= MOVE_EVERY;
            if is_due && moved != position {
                source.advance(position).await?;
                (moved, moved_at) = (position, tokio::time::Instant::now());
            }
            let pause = match (source.held_back(), in_flight.is_empty()) {
                (true, true) => Duration::ZERO,
                (true, false) => HELD_BACK_POLL,
                (false, _) => POLL,
            };
            tokio::select! {
                Some(published) = in_flight.next() => {
                    let published = published
                        .map_err(|panic| Failure::Refused(panic.to_string()))?
                        .map_err(Failure::Unavailable)?;
                    self.health.add_published(published.count as u64);
                    let stream_seq = published.position.stream_seq.max(position.stream_seq);
                    position = Position { cursor: published.position.cursor, stream_seq };
                    more = true;
                }
                () = self.wake.notified() => more = true,
                () = tokio::time::sleep(pause), if in_flight.len() < BATCHES_IN_FLIGHT_MAX => {
                    more = true;
                }
                changed = reconnected.changed(), if in_flight.is_empty() => {
                    if changed.is_err() { return Ok(()); }
                    compare_at = tokio::time::Instant::now();
                }
                () = shutdown.cancelled(), if in_flight.is_empty() && !more => break,
            }
            if in_flight.is_empty() && tokio::time::Instant::now() >= compare_at {
                source.advance(position).await?;
                position = self.compare(&mut source).await?;
                (read_to, moved, more) = (position.cursor, position, true);
                compare_at = tokio::time::Instant::now() + COMPARE_EVERY;
            }
        }
        if moved != position {
            source.advance(position).await?;
        }
        Ok(())
    }

    /// Compares the stream with what the log remembers. A stream that ends before what it
    /// acknowledged (restored from an old disk, wiped) is told again what it forgot.
    async fn compare(&self, source: &mut E::Outbox) -> Result<Position, Failure> {
        let position = source.position().await?;
        let last_seq = self.link.last_sequence().await.map_err(Failure::Unavailable)?;
        if last_seq >= position.stream_seq {
            return Ok(position);
        }
        let back = source.rewind(last_seq).await?;
        warn!(
            service = self.link.service(),
            acknowledged_seq = position.stream_seq,
            stream_last_seq = last_seq,
            "the stream has forgotten facts it had acknowledged; telling them again"
        );
        Ok(back)
    }
}

/// What was published by one call.
pub(crate) struct Published {
    pub(crate) position: Position,
    pub(crate) count: usize,
}

/// Counts per fact, for the log line of a relay that had much to catch up.
pub(crate) fn log_catch_up(service: &str, rows: &[Row]) {
    let mut counts: HashMap<&str, usize> = HashMap::new();
    for row in rows {
        *counts.entry(events::fact_of_subject(&row.subject).unwrap_or("?")).or_default() += 1;
    }
    info!(service, ?counts, "facts published one by one after a rejected batch");
}
