//! What a batch runs on: a store that takes a whole batch, or nothing of it.
//!
//! There are three: [`crate::postgres::Postgres`] and [`crate::valkey::Valkey`], and, for the
//! simulation, one in memory. All pass the same conformance suite (`tests/engine`).

use std::{future::Future, sync::Arc, time::Duration};

use events::{Timestamp, UserId};
use uuid::Uuid;

use crate::{
    failpoint::Failpoints,
    message::Message,
    parked::Parked,
    postgres::{Lead, Positions},
    turn::Announcement,
    work::{Entry, Outcome, Work},
};

/// A store with an inbox, a service's state, an outbox and parked events.
pub trait Engine: Outbox + Parking + Send + Sync + Sized + 'static {
    /// A decoded event or command, ready to run.
    type Deed: Send + Sync + 'static;

    /// Runs one batch: every outcome is in the store when this returns, and on `Err`
    /// nothing of it is. A message is taken in whole: events of it that cannot be are parked
    /// in the same step.
    fn run(
        &self,
        batch: &mut [Work<Self::Deed>],
        care: Care,
    ) -> impl Future<Output = Result<Ran, Failure>> + Send;

    /// Tries a parked event that has been leased. When it is taken in, its row has ended in
    /// the same step; otherwise nothing has changed.
    fn retry(
        &self,
        parked: &Parked,
        entry: &mut Entry<Self::Deed>,
    ) -> impl Future<Output = Result<Retried, Failure>> + Send;

    /// Waits until this instance is the one that reads whole streams.
    fn lead(&self) -> impl Future<Output = Result<Lead, Failure>> + Send {
        async { Err(Failure::Refused("this store keeps no positions".into())) }
    }

    /// How far whole streams have been read.
    fn positions(&self) -> impl Future<Output = Result<Positions, Failure>> + Send {
        async { Err(Failure::Refused("this store keeps no positions".into())) }
    }

    /// The highest messages of a stream that were noted, ascending.
    fn reached(&self, _stream: &str) -> impl Future<Output = Result<Vec<Mark>, Failure>> + Send {
        async { Ok(Vec::new()) }
    }

    /// Notes such a message, and keeps some of those before it.
    fn note_reached(
        &self,
        _stream: &str,
        _mark: Mark,
    ) -> impl Future<Output = Result<(), Failure>> + Send {
        async { Ok(()) }
    }

    /// Forgets what was noted above a sequence.
    fn forget_reached(
        &self,
        _stream: &str,
        _above: u64,
    ) -> impl Future<Output = Result<(), Failure>> + Send {
        async { Ok(()) }
    }

    /// Whether the store can do its work.
    fn check(&self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Housekeeping, about once a minute: make and drop partitions, trim what is old.
    fn tidy(&self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// The places where this service can be made to fail.
    fn failpoints(&self) -> Arc<Failpoints>;
}

/// The table of emitted messages. A row is published, and then it has a mark (its sequence in
/// the stream), or it is not. Every method is safe to repeat and may run in any instance.
pub trait Outbox {
    /// Takes up to `most` messages without a mark whose lease has run out, oldest first, and
    /// leases them by the store's clock, so that no other instance takes them as well.
    fn sweep(&self, most: usize) -> impl Future<Output = Result<Vec<Message>, Failure>> + Send;

    /// Marks messages as published; one that has a mark already keeps it. Losing this write
    /// only repeats messages.
    fn mark(&self, marks: &[Mark]) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Leaves a message alone for a while that the broker refuses; how long grows each time.
    fn put_off(&self, id: Uuid) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Takes marks away from messages that are not in the stream; one whose mark has changed
    /// since it was read keeps the new one.
    fn unmark(&self, lost: &[Mark]) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Up to `most` marks above a sequence, ascending.
    fn marks_above(
        &self,
        sequence: u64,
        most: usize,
    ) -> impl Future<Output = Result<Vec<Mark>, Failure>> + Send;

    /// Up to `most` marks at or below a sequence, descending.
    fn marks_to(
        &self,
        sequence: u64,
        most: usize,
    ) -> impl Future<Output = Result<Vec<Mark>, Failure>> + Send;

    /// Up to where outbox and stream were seen to agree; `None` at the very beginning.
    fn verified(&self) -> impl Future<Output = Result<Option<Mark>, Failure>> + Send;

    /// Moves that place.
    fn set_verified(&self, place: Option<Mark>)
    -> impl Future<Output = Result<(), Failure>> + Send;

    /// What waits to be published.
    fn backlog(&self) -> impl Future<Output = Result<Backlog, Failure>> + Send;
}

/// The table of parked events.
pub trait Parking {
    /// Leases events to be tried: counts the attempt before it is made. Rows in state `dead`
    /// or `behind` hold their key while they are open: of them only the first can be leased,
    /// and an early row only when none before it holds its key. What is leased nobody else
    /// can lease until `lease` is over.
    fn lease(
        &self,
        which: Which,
        lease: Duration,
    ) -> impl Future<Output = Result<Vec<Parked>, Failure>> + Send;

    /// Writes what became of an attempt that did not take the event in. One that held its key
    /// and is early now lets the next one come due.
    fn settle(
        &self,
        number: u64,
        verdict: Verdict,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Ends a parked event that an operator gives up; whether it was still open.
    fn discard(
        &self,
        number: u64,
        by: UserId,
        why: &str,
    ) -> impl Future<Output = Result<bool, Failure>> + Send;

    /// Parked events, in the order of parking.
    fn parked(&self, show: Show) -> impl Future<Output = Result<Vec<Parked>, Failure>> + Send;
}

/// Which parked events to lease.
#[derive(Debug, Clone, PartialEq)]
pub enum Which {
    /// Those whose time has come, at most so many.
    Due(usize),
    /// Those that were parked behind another that has ended, or has become early, unseen by
    /// them, at most so many.
    Stranded(usize),
    /// The first of those that hold a key, whatever its time, because an operator asks for it.
    First(String),
    /// This one, if it has no key or is early: it holds no key, and stands in no line.
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
    /// One.
    Number(u64),
}

/// What became of an attempt.
#[derive(Debug, Clone, PartialEq)]
pub enum Verdict {
    /// It is tried again after so long. An attempt that the store has prevented does not count.
    Again {
        /// How long.
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
        /// The operator who had it tried.
        by: Option<UserId>,
    },
}

/// How a batch is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Care {
    /// As one unit; what panics or is refused by the store fails the whole batch.
    Together,
    /// One message or command, event by event, so that poison parks only itself.
    /// A unique violation is a lost race, and the whole is decided again.
    Alone,
    /// The same, and a unique violation counts as poison: it came again and again.
    Judged,
    /// A message that seems to kill the process: its events are parked without being run.
    Unrun,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Ran {
    /// One for each message or command, in order.
    pub outcomes: Vec<Outcome>,
    /// What was emitted, to be published now.
    pub emitted: Vec<Message>,
    /// To be said now that it is stored.
    pub announced: Vec<Announcement>,
    /// Events that were parked.
    pub parked: Vec<Parked>,
}

/// How a parked event's attempt ended.
#[derive(Debug)]
pub enum Retried {
    /// It is taken in.
    Done(Ran),
    /// It had ended already.
    Gone,
    /// What it depends on is not here yet.
    Early(String),
    /// It cannot succeed.
    Failed(String),
}

/// A message's id, and its sequence in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// The message.
    pub id: Uuid,
    /// Where it is.
    pub sequence: u64,
}

/// What was emitted and is not published yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Events; a store may stop counting at some thousands.
    pub facts: u64,
    /// When the oldest of them was emitted.
    pub since: Option<Timestamp>,
}

/// Why a batch could not be run.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// The store does not answer, or has no room; it is tried again until it does.
    #[error("the store cannot be reached: {0}")]
    Unavailable(String),
    /// The store was lost while committing: the batch has taken effect, or it has not.
    #[error("the store was lost while committing: {0}")]
    Uncertain(String),
    /// Another batch was faster, and nothing of this one took effect: decided again, it sees
    /// what the other has done.
    #[error("another batch was faster: {0}")]
    Contended(String),
    /// Something in it is there already: a lost race, or, when it comes again, poison.
    #[error("it is there already: {0}")]
    Duplicate(String),
    /// The store refuses something in it, or a handler panicked: its messages are run alone.
    #[error("the store refuses the batch: {0}")]
    Refused(String),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(database) => match database.code().as_deref() {
                // Canceled for taking too long: as if another had been faster.
                Some("57014") => Self::Contended(error.to_string()),
                // Connection lost, out of resources, shutting down or starting up.
                Some(code) if ["08", "53", "57"].contains(&&code[..2]) => {
                    Self::Unavailable(error.to_string())
                }
                // Serialization, deadlock, a lock not had in time.
                Some(code) if ["40", "55"].contains(&&code[..2]) => {
                    Self::Contended(error.to_string())
                }
                Some("23505") => Self::Duplicate(error.to_string()),
                _ => Self::Refused(error.to_string()),
            },
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::Protocol(_) => Self::Unavailable(error.to_string()),
            _ => Self::Refused(error.to_string()),
        }
    }
}

impl From<redis::RedisError> for Failure {
    fn from(error: redis::RedisError) -> Self {
        if error.is_io_error() || error.is_timeout() || error.is_connection_dropped() {
            Self::Unavailable(error.to_string())
        } else {
            Self::Refused(error.to_string())
        }
    }
}
