//! What a batch runs on: a store that takes a whole batch, or nothing of it.
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
    /// A decoded event or command, ready to run.
    type Handler: Send + Sync + 'static;

    /// Runs one batch: every outcome is in the store when this returns, and on `Err`
    /// nothing of it is. A message is taken in whole: events of it that cannot be are parked
    /// in the same step.
    fn run(
        &self,
        batch: &mut [Work<Self::Handler>],
        care: Care,
    ) -> impl Future<Output = Result<Ran, Failure>> + Send;

    /// Tries a parked event that has been leased. When it is taken in, its row has ended in
    /// the same step, and its history says which operator had it tried, if one had; otherwise
    /// nothing has changed.
    fn retry(
        &self,
        parked: &Parked,
        entry: &mut Entry<Self::Handler>,
        by: Option<UserId>,
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

    /// Something that used the store was given up in the middle, and nobody knows where.
    fn given_up(&self) {}

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

    /// Takes marks away from messages of a gap, so that they are published again; how many.
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

/// Messages that a stream has dropped and somebody has not taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    /// Above this sequence …
    pub above: u64,
    /// … and below that one.
    pub below: u64,
    /// What the subjects of those begin with that are missed.
    pub subjects: Vec<String>,
    /// No message with an id below this one: it was emitted before anybody missed it.
    pub since: Uuid,
}

/// What was emitted and is not published yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Events; a store may stop counting at some thousands.
    pub events: u64,
    /// When the oldest of them was emitted.
    pub since: Option<Timestamp>,
}

/// Why a batch could not be run.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// The store does not answer, or has no room; it is tried again until it does.
    #[error("the store cannot be reached: {0}")]
    Unavailable(String),
    /// The store is there, but not for us: another password, another database, a migration
    /// that is missing, a replica that only reads. It is tried again; others may do better.
    #[error("the store cannot be used: {0}")]
    Unusable(String),
    /// The store knows nothing of what it knew; it is being rebuilt, for all instances alike.
    #[error("the store was emptied and is not rebuilt yet")]
    Emptied,
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

impl Failure {
    /// Whether the store is away, or not ours to use, and trying again at once is of no use.
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

/// What a state of SQL says of a statement that has failed. Only what is in the data can be
/// held against an event; whatever is wrong with the store is not its fault.
fn of_state(code: &str, text: String) -> Failure {
    match code {
        // Canceled for taking too long: as if another had been faster.
        "57014" => Failure::Contended(text),
        "23505" => Failure::Duplicate(text),
        // No right to it; only to be read.
        "42501" | "25006" => Failure::Unusable(text),
        _ => match code.get(..2).unwrap_or_default() {
            // Connection lost, out of resources, shutting down or starting up, broken.
            "08" | "53" | "57" | "58" | "F0" | "XX" => Failure::Unavailable(text),
            // Another password, database or schema.
            "28" | "3D" | "3F" => Failure::Unusable(text),
            // Serialization, deadlock, a lock not had in time.
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

/// What the error of a Valkey says, where nothing can have taken effect.
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

/// Whether a Valkey is there, but not for us.
pub(crate) fn is_unusable(error: &redis::RedisError) -> bool {
    error.kind() == redis::ErrorKind::AuthenticationFailed
        || matches!(error.code(), Some("NOAUTH" | "WRONGPASS" | "NOPERM"))
        || error.kind() == redis::ErrorKind::Server(redis::ServerErrorKind::ReadOnly)
}

/// Whether a Valkey cannot work right now, whatever it is asked.
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
    fn only_what_is_in_the_data_is_held_against_an_event() {
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
    fn a_store_that_is_not_ours_is_told_from_one_that_is_away() {
        for code in ["28P01", "28000", "3D000", "3F000", "42501", "25006"] {
            assert!(matches!(of_state(code, String::new()), Failure::Unusable(_)), "{code}");
        }
    }
}
