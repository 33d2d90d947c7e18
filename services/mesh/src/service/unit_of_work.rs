//! What a service author writes: a unit of work, and a handler for each event and command.

use std::future::Future;

use events::{Command, Event, Problem};
use sqlx::PgConnection;

use crate::{Caller, Context};

/// The part of a service's state that one batch touches.
///
/// A batch collects keys from its messages, loads one unit of work, runs the handler of each
/// message on it in order and in memory, and saves it once. Loading locks what it
/// returns (`for update`, ordered by key, so that two batches cannot deadlock).
pub trait UnitOfWork: Sized + Send + 'static {
    /// What the messages of a batch need.
    type Keys: Default + Send;
    /// The service's configuration, the same for every message.
    type Config: Send + Sync + 'static;
    /// The field of an event that holds its order key in this service: behind a dead letter,
    /// later events with the same value wait. The order key of an event without this field is
    /// the entity it is about.
    const KEY: &'static str = "";

    /// Loads and locks what `keys` name: one statement per table.
    fn load(
        keys: Self::Keys,
        tx: &mut PgConnection,
    ) -> impl Future<Output = sqlx::Result<Self>> + Send;

    /// Writes what has changed: one statement per table.
    fn save(self, tx: &mut PgConnection) -> impl Future<Output = sqlx::Result<()>> + Send;
}

/// The handler of an event.
pub trait Handle<E: Event>: UnitOfWork {
    /// The field of this event that holds its order key, where it is not [`UnitOfWork::KEY`].
    const KEY: &'static str = <Self as UnitOfWork>::KEY;

    /// Adds the keys that [`Handle::handle`] will need.
    fn keys(event: &E, keys: &mut Self::Keys);

    /// Changes the unit of work and emits the outcome. The event may be late, or early.
    /// On `Err` it must have changed nothing.
    fn handle(&mut self, event: &E, ctx: &mut Context<'_, Self::Config>)
    -> Result<(), HandleError>;
}

/// The handler of a command.
pub trait Execute<C: Command>: UnitOfWork {
    /// Adds the keys that [`Execute::execute`] will need.
    fn keys(command: &C, caller: &Caller, keys: &mut Self::Keys);

    /// Grants the command (changes the unit of work, emits events, replies) or refuses it
    /// (changes nothing).
    fn execute(
        &mut self,
        command: &C,
        ctx: &mut Context<'_, Self::Config>,
    ) -> Result<C::Reply, Refusal>;
}

/// Why an event could not be handled.
#[derive(Debug, Clone, PartialEq)]
pub enum HandleError {
    /// What the event depends on has not arrived yet; it is parked and retried.
    NotYet(&'static str),
    /// The event can never be handled; it becomes a dead letter with this cause.
    Never(String),
}

/// Why a command is not granted.
#[derive(Debug, Clone, PartialEq)]
pub enum Refusal {
    /// The command is refused, for this reason.
    No(Problem),
    /// What the command depends on is on its way; it is retried for a short while, and then
    /// refused with this problem.
    NotYet(Problem),
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::No(problem)
    }
}
