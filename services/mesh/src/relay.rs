//! From the outbox to JetStream: in order, nothing lost, repeats harmless.
//!
//! One relay per service holds the outbox (see [`Source`]). It reads what was told after
//! its position, publishes it, and moves the position behind what JetStream has
//! acknowledged. One batch is on its way at a time: what is told meanwhile makes the next
//! one larger, and larger batches cost the broker less. A crash between publishing and
//! moving repeats messages, and neither the stream (same `Nats-Msg-Id`) nor an inbox (same
//! `ce-id`) takes a repeat in.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use events::{EventId, SagaId, Timestamp, fact_of_subject};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::warn;
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
/// How long told facts wait when the wake-up after a commit was missed.
const POLL: Duration = Duration::from_millis(100);
/// Facts that wait for an older transaction are looked at again at once so many times,
/// because transactions are short, and one look takes as long as a round trip …
const HELD_BACK_LOOKS: u32 = 20;
/// … and then this often: that transaction is not a short one.
const HELD_BACK_POLL: Duration = Duration::from_millis(2);
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
    /// How often the message it follows from was delivered.
    pub deliveries: u64,
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
        let mut reconnected = self.link.reconnects();
        let mut position = self.compare(&mut source).await?;
        let (mut moved, mut moved_at) = (position, Instant::now());
        let mut compare_at = Instant::now() + COMPARE_EVERY;
        let mut looks = 0;
        self.health.relay(true);
        loop {
            let rows = source.read(position.cursor, BATCH_FACTS_MAX).await?;
            let is_idle = rows.is_empty();
            if !is_idle {
                position = self.publish(rows, position).await?;
            }
            if moved != position && (is_idle || moved_at.elapsed() >= MOVE_EVERY) {
                source.advance(position).await?;
                (moved, moved_at) = (position, Instant::now());
            }
            if reconnected.has_changed().is_ok_and(|changed| changed)
                || Instant::now() >= compare_at
            {
                reconnected.mark_unchanged();
                source.advance(position).await?;
                position = self.compare(&mut source).await?;
                (moved, compare_at) = (position, Instant::now() + COMPARE_EVERY);
                continue;
            }
            if !is_idle {
                looks = 0;
                continue;
            }
            looks = if source.held_back() { looks + 1 } else { 0 };
            let pause = match looks {
                0 => POLL,
                1..=HELD_BACK_LOOKS => continue,
                _ => HELD_BACK_POLL,
            };
            tokio::select! {
                () = self.wake.notified() => {}
                () = tokio::time::sleep(pause) => {}
                () = shutdown.cancelled() => return Ok(()),
            }
        }
    }

    /// Publishes a run of facts; the position behind the last of them.
    async fn publish(&self, rows: Vec<Row>, before: Position) -> Result<Position, Failure> {
        let facts = rows.iter().filter_map(|row| fact_of_subject(&row.subject));
        let dies = self.failpoints.strikes(Failpoint::BeforeCursor, facts);
        let count = rows.len() as u64;
        let Position { cursor, stream_seq } =
            publish(&self.link, rows).await.map_err(Failure::Unavailable)?;
        if dies {
            return Err(Failure::Unavailable("failpoint: before the cursor".into()));
        }
        self.health.add_published(count);
        Ok(Position { cursor, stream_seq: stream_seq.max(before.stream_seq) })
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
