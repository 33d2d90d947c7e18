//! The engine that batches run on: a store that takes a whole batch, or nothing of it.
//!
//! There are three: [`crate::postgres::Postgres`] and [`crate::valkey::Valkey`], and, for the
//! simulation, one in memory. All pass the same conformance suite (`tests/engine`).

use std::{future::Future, sync::Arc, time::Duration};

use events::{Timestamp, UserId};
use uuid::Uuid;

use crate::{
    context::Announcement,
    deadline::Late,
    failpoint::Failpoints,
    message::Message,
    parked::Parked,
    postgres::{Lead, Positions},
    work::{Entry, Outcome, Work},
};

/// A store with an inbox, a service's state, an outbox and parked events.
pub trait Engine: Outbox + Parking + Send + Sync + Sized + 'static {
    /// A decoded event or command with its handler, ready to run.
    type Handler: Send + Sync + 'static;

    /// Runs one batch: when this returns, every outcome is in the store; on `Err`, none is. A
    /// message is taken in whole: those of its events that cannot be handled are parked in the
    /// same step.
    fn run(
        &self,
        batch: &mut [Work<Self::Handler>],
        care: Care,
    ) -> impl Future<Output = Result<Ran, Failure>> + Send;

    /// Retries a parked event that has been leased. When it is handled, its row is resolved in
    /// the same step, and its history names the operator who asked for the retry, if one did;
    /// otherwise nothing has changed.
    fn retry(
        &self,
        parked: &Parked,
        entry: &mut Entry<Self::Handler>,
        by: Option<UserId>,
    ) -> impl Future<Output = Result<Retried, Failure>> + Send;

    /// Waits until this instance is the leader, which reads whole streams.
    fn lead(&self) -> impl Future<Output = Result<Lead, Failure>> + Send {
        async { Err(Failure::Refused("this store keeps no positions".into())) }
    }

    /// How far whole streams have been read.
    fn positions(&self) -> impl Future<Output = Result<Positions, Failure>> + Send {
        async { Err(Failure::Refused("this store keeps no positions".into())) }
    }

    /// The recorded highest messages of a stream, ascending.
    fn reached(&self, _stream: &str) -> impl Future<Output = Result<Vec<Mark>, Failure>> + Send {
        async { Ok(Vec::new()) }
    }

    /// Records the highest message of a stream, and keeps some of those before it.
    fn note_reached(
        &self,
        _stream: &str,
        _mark: Mark,
    ) -> impl Future<Output = Result<(), Failure>> + Send {
        async { Ok(()) }
    }

    /// Deletes the records above a sequence.
    fn forget_reached(
        &self,
        _stream: &str,
        _above: u64,
    ) -> impl Future<Output = Result<(), Failure>> + Send {
        async { Ok(()) }
    }

    /// Whether the store can do its work.
    fn check(&self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// A call that used the store was abandoned in the middle, at an unknown point.
    fn given_up(&self) {}

    /// Housekeeping, about once a minute: create and drop partitions, trim old rows.
    fn tidy(&self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// The failpoints of this service.
    fn failpoints(&self) -> Arc<Failpoints>;
}

/// The outbox: the table of emitted messages. A published row has a mark, its sequence in the
/// stream; a row without a mark is not published yet. Every method is safe to repeat and may
/// run in any instance.
pub trait Outbox {
    /// Leases up to `most` messages without a mark whose lease is over, oldest first. The lease
    /// goes by the store's clock, so that no other instance takes the same messages.
    fn sweep(&self, most: usize) -> impl Future<Output = Result<Vec<Message>, Failure>> + Send;

    /// Marks messages as published; a message that already has a mark keeps it. When this write
    /// is lost, messages are only published again.
    fn mark(&self, marks: &[Mark]) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Backs off a message that the broker refuses; the pause grows each time.
    fn back_off(&self, id: Uuid) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Removes the marks of messages that are not in the stream; a mark that has changed since
    /// it was read stays.
    fn unmark(&self, lost: &[Mark]) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Removes the marks of the messages in a gap, so that they are published again; returns
    /// their number.
    fn publish_again(&self, gap: &Gap) -> impl Future<Output = Result<usize, Failure>> + Send;

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

    /// The position up to which outbox and stream were verified to agree; `None` at the very
    /// beginning.
    fn verified(&self) -> impl Future<Output = Result<Option<Mark>, Failure>> + Send;

    /// Moves the verified position.
    fn set_verified(&self, place: Option<Mark>)
    -> impl Future<Output = Result<(), Failure>> + Send;

    /// The messages that wait to be published.
    fn backlog(&self) -> impl Future<Output = Result<Backlog, Failure>> + Send;
}

/// The table of parked events.
pub trait Parking {
    /// Leases events to be retried, and counts the attempt before it is made. Rows in state
    /// `dead` or `behind` hold their key while they are open: only the first of them can be
    /// leased, and an early row only when none before it holds its key. A leased row cannot be
    /// leased again until `lease` is over.
    fn lease(
        &self,
        which: Which,
        lease: Duration,
    ) -> impl Future<Output = Result<Vec<Parked>, Failure>> + Send;

    /// Writes the outcome of an attempt that did not handle the event. When the event held its
    /// key and is early now, the next one with that key comes due.
    fn settle(
        &self,
        number: u64,
        verdict: Verdict,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Discards a parked event on an operator's request; whether it was still open.
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

/// How a batch is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Care {
    /// As one unit of work; a panic or a refusal by the store fails the whole batch.
    Together,
    /// One message or command, event by event, so that a poison event parks only itself.
    /// A unique violation is a lost race, and the whole message is decided again.
    Standalone,
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

/// Why a batch could not be run.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// The store does not answer, or has no room; the batch is retried until it does.
    #[error("the store cannot be reached: {0}")]
    Unavailable(String),
    /// The store answers, but this instance cannot use it: a wrong password or database, a
    /// missing migration, a read-only replica. It is retried; other instances may do better.
    #[error("the store cannot be used: {0}")]
    Unusable(String),
    /// The store has lost its state; it is being rebuilt, for all instances alike.
    #[error("the store was emptied and is not rebuilt yet")]
    Emptied,
    /// The store was lost while committing: it is unknown whether the batch took effect.
    #[error("the store was lost while committing: {0}")]
    Uncertain(String),
    /// Another batch was faster, and nothing of this one took effect: decided again, it sees
    /// what the other did.
    #[error("another batch was faster: {0}")]
    Contended(String),
    /// A unique violation: a lost race, or, when it comes again, poison.
    #[error("it exists already: {0}")]
    Duplicate(String),
    /// The store refuses something in the batch, or a handler panicked: its messages are run
    /// one by one.
    #[error("the store refuses the batch: {0}")]
    Refused(String),
}

impl Failure {
    /// Whether the store is unavailable or unusable, so that retrying at once is of no use.
    pub fn is_lost(&self) -> bool {
        use Failure::{Emptied, Unavailable, Uncertain, Unusable};
        matches!(self, Unavailable(_) | Uncertain(_) | Unusable(_) | Emptied)
    }
}

impl From<Late> for Failure {
    fn from(late: Late) -> Self {
        Self::Unavailable(late.to_string())
    }
}

/// The failure behind an SQLSTATE. Only an error in the data counts against an event; a fault of
/// the store does not.
fn of_state(code: &str, text: String) -> Failure {
    match code {
        // Statement timeout: as if another batch had been faster.
        "57014" => Failure::Contended(text),
        "23505" => Failure::Duplicate(text),
        // Insufficient privilege; read-only transaction.
        "42501" | "25006" => Failure::Unusable(text),
        _ => match code.get(..2).unwrap_or_default() {
            // Connection lost, out of resources, shutting down or starting up, internal error.
            "08" | "53" | "57" | "58" | "F0" | "XX" => Failure::Unavailable(text),
            // Wrong password, database or schema.
            "28" | "3D" | "3F" => Failure::Unusable(text),
            // Serialization failure, deadlock, lock timeout.
            "40" | "55" => Failure::Contended(text),
            _ => Failure::Refused(text),
        },
    }
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        let text = error.to_string();
        match &error {
            sqlx::Error::Database(database) => {
                of_state(database.code().as_deref().unwrap_or_default(), text)
            }
            sqlx::Error::Io(_)
            | sqlx::Error::Tls(_)
            | sqlx::Error::PoolTimedOut
            | sqlx::Error::PoolClosed
            | sqlx::Error::WorkerCrashed
            | sqlx::Error::Protocol(_) => Self::Unavailable(text),
            _ => Self::Refused(text),
        }
    }
}

/// The failure behind an error of Valkey, where nothing can have taken effect.
impl From<redis::RedisError> for Failure {
    fn from(error: redis::RedisError) -> Self {
        let text = error.to_string();
        if is_unusable(&error) {
            Self::Unusable(text)
        } else if is_away(&error)
            || error.is_io_error()
            || error.is_timeout()
            || error.is_connection_dropped()
        {
            Self::Unavailable(text)
        } else {
            Self::Refused(text)
        }
    }
}

/// Whether Valkey answers, but this instance cannot use it.
pub(crate) fn is_unusable(error: &redis::RedisError) -> bool {
    error.kind() == redis::ErrorKind::AuthenticationFailed
        || matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM"))
        || error.kind() == redis::ErrorKind::Server(redis::ServerErrorKind::ReadOnly)
}

/// Whether Valkey cannot serve any request right now.
pub(crate) fn is_away(error: &redis::RedisError) -> bool {
    use redis::ServerErrorKind::{BusyLoading, ClusterDown, MasterDown, TryAgain};
    let kinds = [BusyLoading, ClusterDown, MasterDown, TryAgain];
    matches!(error.kind(), redis::ErrorKind::Server(kind) if kinds.contains(&kind))
        || matches!(error.code(), Some("OOM" | "MISCONF" | "BUSY" | "NOREPLICAS"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_error_in_the_data_counts_against_an_event() {
        for code in ["22001", "22P02", "23502", "23514", "54000", "P0001", "42P01"] {
            assert!(matches!(of_state(code, String::new()), Failure::Refused(_)), "{code}");
        }
        for code in ["08006", "53100", "57P03", "58030", "XX001", "28P01", "3D000", "42501"] {
            assert!(of_state(code, String::new()).is_lost(), "{code}");
        }
        for code in ["40001", "40P01", "55P03", "57014"] {
            assert!(matches!(of_state(code, String::new()), Failure::Contended(_)), "{code}");
        }
    }

    #[test]
    fn an_unusable_store_is_distinguished_from_an_unavailable_one() {
        for code in ["28P01", "28000", "3D000", "3F000", "42501", "25006"] {
            assert!(matches!(of_state(code, String::new()), Failure::Unusable(_)), "{code}");
        }
    }
}
