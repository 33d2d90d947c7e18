//! The engine that batches run on: a store that takes a whole batch, or nothing of it.
//!
//! There are three: [`crate::store::postgres::Postgres`] and [`crate::store::valkey::Valkey`], and, for the
//! simulation, one in memory. All pass the same conformance suite (`tests/engine`).

use std::{any::Any, sync::Arc, time::Duration};

use async_trait::async_trait;
use events::{Timestamp, UserId};
use uuid::Uuid;

pub use super::failure::Failure;
pub(crate) use super::failure::{is_away, is_unusable};
use crate::{
    batch::work::{Entry, Outcome, Work},
    failpoint::Failpoints,
    metrics::Observed,
    outbound::message::Message,
    parked::Parked,
    service::context::Announcement,
    store::postgres::{Lead, Positions},
};

/// Positions kept of each stream. They bound how far back the last agreement of a stream that
/// was rolled back is found exactly.
pub(crate) const POSITIONS_MAX: usize = 64;

/// What batches run on: a store, and the handlers of one service.
///
/// The runtime knows engines only as trait objects, so that it is compiled once and not for each
/// service. The type of a service's unit of work is known to the engine alone.
#[async_trait]
pub trait Engine: Any + Send + Sync {
    /// The store.
    fn store(&self) -> &dyn Store;

    /// The system behind the store and what it is asked for a batch, as traces name them.
    fn operation(&self) -> Operation;

    /// Runs one batch: when this returns, every outcome is in the store; on `Err`, none is. A
    /// message is taken in whole: those of its events that cannot be handled are parked in the
    /// same step.
    async fn run(&self, batch: &mut [Work], care: Care) -> Result<Ran, Failure>;

    /// Retries a parked event that has been leased. When it is handled, its row is resolved in
    /// the same step, and its history names the operator who asked for the retry, if one did;
    /// otherwise nothing has changed.
    async fn retry(
        &self,
        parked: &Parked,
        entry: &mut Entry,
        by: Option<UserId>,
    ) -> Result<Retried, Failure>;
}

/// A store with an inbox, a service's state, an outbox and parked events.
#[async_trait]
pub trait Store: Outbox + Parking {
    /// Waits until this instance is the leader, which reads whole streams.
    async fn lead(&self) -> Result<Lead, Failure> {
        Err(Failure::Refused("this store keeps no positions".into()))
    }

    /// How far whole streams have been read.
    async fn positions(&self) -> Result<Positions, Failure> {
        Err(Failure::Refused("this store keeps no positions".into()))
    }

    /// The recorded highest messages of a stream, ascending.
    async fn reached(&self, _stream: &str) -> Result<Vec<Mark>, Failure> {
        Ok(Vec::new())
    }

    /// Records the highest message of a stream, and keeps some of those before it.
    async fn note_reached(&self, _stream: &str, _mark: Mark) -> Result<(), Failure> {
        Ok(())
    }

    /// Deletes the records above a sequence.
    async fn forget_reached(&self, _stream: &str, _above: u64) -> Result<(), Failure> {
        Ok(())
    }

    /// Whether the store can do its work.
    async fn check(&self) -> Result<(), Failure>;

    /// A call that used the store was abandoned in the middle, at an unknown point.
    fn given_up(&self) {}

    /// Housekeeping, about once a minute: create and drop partitions, trim old rows.
    async fn tidy(&self) -> Result<(), Failure>;

    /// Its connections; `None` where it has a single one.
    fn pool(&self) -> Option<Pool> {
        None
    }

    /// The failpoints of this service.
    fn failpoints(&self) -> Arc<Failpoints>;
}

/// The marks that belong together: those of connections to the same broker, as far as any instance
/// knows. Another instance may notice first that the broker lost messages. It compares outbox and
/// stream, and a mark that was acknowledged before and is written after that would lie below the
/// verified position, where it is never compared again.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Generation(pub u64);

/// The outbox: the table of emitted messages. A published row has a mark, its sequence in the
/// stream; a row without a mark is not published yet. Every method is safe to repeat and may
/// run in any instance.
#[async_trait]
pub trait Outbox: Send + Sync {
    /// Leases up to `most` messages without a mark whose lease is over, oldest first. The lease
    /// goes by the store's clock, so that no other instance takes the same messages.
    async fn sweep(&self, most: usize) -> Result<Vec<Message>, Failure>;

    /// Begins a generation of marks, before the first mark of a connection to the broker is
    /// written. From then on no mark of an earlier generation is written.
    async fn begin_generation(&self) -> Result<Generation, Failure>;

    /// The generation that was begun last.
    async fn generation(&self) -> Result<Generation, Failure>;

    /// Marks messages as published; a message that already has a mark keeps it. When this write
    /// is lost, messages are only published again. Returns `false`, and marks nothing, when a
    /// later generation has begun.
    async fn mark(&self, marks: &[Mark], of: Generation) -> Result<bool, Failure>;

    /// Backs off a message that the broker refuses; the pause grows each time.
    async fn back_off(&self, id: Uuid) -> Result<(), Failure>;

    /// Removes the marks of messages that are not in the stream; a mark that has changed since
    /// it was read stays.
    async fn unmark(&self, lost: &[Mark]) -> Result<(), Failure>;

    /// Removes the marks of the messages in a gap, so that they are published again; returns
    /// their number.
    async fn publish_again(&self, gap: &Gap) -> Result<usize, Failure>;

    /// Up to `most` marks above a sequence, ascending.
    async fn marks_above(&self, sequence: u64, most: usize) -> Result<Vec<Mark>, Failure>;

    /// The marks of up to `most` messages, of those that were emitted last, the latest first.
    async fn latest_marks(&self, most: usize) -> Result<Vec<Mark>, Failure>;

    /// Leases the comparison of outbox and stream to an instance, or prolongs its lease; `false`
    /// while another instance has it. The lease goes by the store's clock.
    async fn lease_comparison(&self, instance: Uuid, lease: Duration) -> Result<bool, Failure>;

    /// Ends the lease of an instance, if it has it.
    async fn release_comparison(&self, instance: Uuid) -> Result<(), Failure>;

    /// The position up to which outbox and stream were verified to agree; `None` at the very
    /// beginning.
    async fn verified(&self) -> Result<Option<Place>, Failure>;

    /// Moves the verified position; returns `false`, and leaves it, when a later generation has
    /// begun.
    async fn set_verified(&self, place: Option<Place>, of: Generation) -> Result<bool, Failure>;

    /// The messages that wait to be published.
    async fn backlog(&self) -> Result<Backlog, Failure>;
}

/// The table of parked events.
#[async_trait]
pub trait Parking: Send + Sync {
    /// Leases events to be retried, and counts the attempt before it is made. Rows in state
    /// `dead` or `behind` hold their key while they are open: only the first of them can be
    /// leased, and an early row only when none before it holds its key. A leased row cannot be
    /// leased again until `lease` is over.
    async fn lease(&self, which: Which, lease: Duration) -> Result<Vec<Parked>, Failure>;

    /// Writes the outcome of an attempt that did not handle the event. When the event held its
    /// key and is early now, the next one with that key comes due.
    async fn settle(&self, number: u64, verdict: Verdict) -> Result<(), Failure>;

    /// Discards a parked event on an operator's request; whether it was still open.
    async fn discard(&self, number: u64, by: UserId, why: &str) -> Result<bool, Failure>;

    /// How many parked events are open; a store may stop counting at some thousands.
    async fn parked_open(&self) -> Result<ParkedOpen, Failure>;

    /// Parked events, in the order of parking.
    async fn parked(&self, show: Show) -> Result<Vec<Parked>, Failure>;
}

/// The connections of a store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pool {
    /// Open and not in use.
    pub idle: u32,
    /// In use.
    pub used: u32,
}

/// Parked events that are open.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ParkedOpen {
    /// They are retried, or wait behind another one.
    pub waiting: u64,
    /// An operator has to decide about them.
    pub dead: u64,
}

/// Which parked events to lease.
#[derive(Debug, Clone, PartialEq)]
pub enum Which {
    /// Those that are due, at most so many.
    Due(usize),
    /// Those parked behind another event at the moment when it ended or became early, so that
    /// nothing has made them due, at most so many.
    Missed(usize),
    /// The first of those that hold a key, due or not, because an operator asks for it.
    First(String),
    /// This one, if it has no key or is early: it does not hold a key, and waits behind no other.
    Number(u64),
}

/// Which parked events to show.
#[derive(Debug, Clone, PartialEq)]
pub enum Show {
    /// All that are open; with `true` also those that have ended. The newest ones when there
    /// are more than so many.
    All(bool, usize),
    /// All of a key, ended ones included.
    Key(String),
    /// The one with this number.
    Number(u64),
}

/// The outcome of an attempt that did not handle the event.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It is retried after a pause. An attempt that the store prevented does not count.
    Again {
        /// The pause.
        after: Duration,
        /// Why.
        cause: String,
        /// Whether the attempt counts.
        counts: bool,
    },
    /// It is a dead letter: an operator decides.
    Dead {
        /// Why.
        cause: String,
        /// The operator who asked for the retry.
        by: Option<UserId>,
    },
}

/// What a store is asked for a batch, by the conventions of OpenTelemetry for databases.
#[derive(Debug, Clone, Copy)]
pub struct Operation {
    /// `db.system.name`.
    pub system: &'static str,
    /// `db.operation.name`.
    pub name: &'static str,
}

/// How a batch is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Care {
    /// As one unit of work; a panic or a refusal by the store fails the whole batch.
    Together,
    /// One message or command, event by event, so that a poison event parks only itself.
    /// A unique violation is a lost race, and the whole message is decided again.
    Alone,
    /// The same, but a unique violation counts as poison, because it came again and again.
    AloneFinal,
    /// For a message that seems to kill the process: its events are parked without being run.
    ParkUnrun,
}

/// The outcome of a batch.
#[derive(Debug, Default)]
pub struct Ran {
    /// One for each message or command, in order.
    pub outcomes: Vec<Outcome>,
    /// The emitted messages, to be published now.
    pub emitted: Vec<Message>,
    /// Live messages, to be sent now that the batch is stored.
    pub announced: Vec<Announcement>,
    /// Events that were parked.
    pub parked: Vec<Parked>,
    /// What the handlers have counted and measured.
    pub observed: Vec<Observed>,
}

/// The outcome of an attempt at a parked event.
#[derive(Debug)]
pub enum Retried {
    /// The event is handled.
    Done(Ran),
    /// The row had already ended.
    Gone,
    /// What the event depends on is not here yet.
    Early(String),
    /// The event cannot be handled.
    Failed(String),
}

/// A message's id, and its sequence in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The message.
    pub id: Uuid,
    /// Its sequence.
    pub sequence: u64,
}

/// A message at its sequence, and when the stream stored it. A message that was lost and published
/// again may be at the same sequence as before; only the time distinguishes the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The message and its sequence.
    pub mark: Mark,
    /// When the stream stored it.
    pub stored_at: Timestamp,
}

/// Messages that a stream has dropped before some consumer took them in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Above this sequence …
    pub above: u64,
    /// … and below that one.
    pub below: u64,
    /// Subject prefixes of the missed messages.
    pub subjects: Vec<String>,
    /// Messages with an id below this one are not missed: they were emitted before the consumer
    /// was created.
    pub since: Uuid,
}

/// The emitted messages that are not published yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Number of events; a store may stop counting at some thousands.
    pub events: u64,
    /// When the oldest of them was emitted.
    pub since: Option<Timestamp>,
}
