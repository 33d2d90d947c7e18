//! What a batch runs on: a store that takes a whole batch, or nothing of it.

use std::{future::Future, sync::Arc};

use events::Timestamp;

use crate::{
    failpoint::Failpoints,
    postgres::{Lead, Positions},
    relay::Source,
    turn::Announcement,
    work::{Outcome, Work},
};

/// A store in which one batch of messages takes effect as a unit.
///
/// There are two: [`crate::postgres::Postgres`] (inbox, book and outbox in one
/// transaction) and [`crate::valkey::Valkey`] (each message one atomic function call).
pub trait Engine: Send + Sync + Sized + 'static {
    /// A decoded message, ready to run.
    type Deed: Send + Sync + 'static;
    /// Where the relay reads what was told.
    type Outbox: Source;

    /// Runs one batch: every outcome is in the store when this returns, and on `Err`
    /// nothing of it is.
    fn run(
        &self,
        batch: &mut [Work<Self::Deed>],
    ) -> impl Future<Output = Result<Ran, Failure>> + Send;

    /// Opens the outbox for the relay; waits until no other instance holds it.
    fn outbox(&self) -> impl Future<Output = Result<Self::Outbox, Failure>> + Send;

    /// Waits until this instance is the one that reads whole streams.
    fn lead(&self) -> impl Future<Output = Result<Lead, Failure>> + Send {
        async { Err(Failure::Refused("this store keeps no positions".into())) }
    }

    /// How far whole streams have been read.
    fn positions(&self) -> impl Future<Output = Result<Positions, Failure>> + Send {
        async { Err(Failure::Refused("this store keeps no positions".into())) }
    }

    /// Whether the store answers.
    fn check(&self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Housekeeping, about once a minute: make and drop partitions, trim what is old.
    fn tidy(&self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// The places where this service can be made to fail.
    fn failpoints(&self) -> Arc<Failpoints>;
}

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Ran {
    /// One for each message, in order.
    pub outcomes: Vec<Outcome>,
    /// To be said now that it is stored.
    pub announced: Vec<Announcement>,
}

/// Facts that were told and are not published yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// How many; a store may stop counting at some thousands.
    pub facts: u64,
    /// When the oldest of them was told.
    pub since: Option<Timestamp>,
}

/// Why a batch could not be run.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// The store does not answer; it is tried again until it does.
    #[error("the store cannot be reached: {0}")]
    Unavailable(String),
    /// The store was lost while committing: the batch has taken effect, or it has not.
    #[error("the store was lost while committing: {0}")]
    Uncertain(String),
    /// Another batch was faster, and nothing of this one took effect: decided again, it sees
    /// what the other has done.
    #[error("another batch was faster: {0}")]
    Contended(String),
    /// The store refuses this batch; its messages are tried one by one.
    #[error("the store refuses the batch: {0}")]
    Refused(String),
}

impl From<sqlx::Error> for Failure {
    fn from(error: sqlx::Error) -> Self {
        match &error {
            sqlx::Error::Database(database) => match database.code().as_deref() {
                // Shutting down, starting up, too many connections, out of resources.
                Some(code) if code.starts_with("57P") || code.starts_with("53") => {
                    Self::Unavailable(error.to_string())
                }
                // Broken uniqueness, serialization, deadlock.
                Some("23505" | "40001" | "40P01") => Self::Contended(error.to_string()),
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
