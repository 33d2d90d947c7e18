//! What a service author writes: a book, and what it does with each message.

use std::future::Future;

use events::{Command, Event, Problem};
use sqlx::PgConnection;

use crate::{Caller, Context};

/// The page of a service's state that one batch touches.
///
/// A batch collects keys from its messages, loads one book, lets every message
/// decide on it in order and in memory, and saves it once. Loading locks what it
/// returns (`for update`, ordered by key, so that two batches cannot deadlock).
pub trait UnitOfWork: Sized + Send + 'static {
    /// What the messages of a batch need.
    type Keys: Default + Send;
    /// The service's configuration, the same for every message.
    type Config: Send + Sync + 'static;
    /// The field of a fact that names what it depends on here: behind a dead letter, later
    /// facts with the same value wait. Facts without it depend on what they are about.
    const KEY: &'static str = "";

    /// Loads and locks what `keys` name: one statement per table.
    fn load(
        keys: Self::Keys,
        tx: &mut PgConnection,
    ) -> impl Future<Output = sqlx::Result<Self>> + Send;

    /// Writes what has changed: one statement per table.
    fn save(self, tx: &mut PgConnection) -> impl Future<Output = sqlx::Result<()>> + Send;
}

/// What a service does on hearing a fact.
pub trait Handle<E: Event>: UnitOfWork {
    /// Another field for this fact than [`Book::KEY`].
    const KEY: &'static str = <Self as UnitOfWork>::KEY;

    /// Names what [`Hear::hear`] will need.
    fn keys(event: &E, keys: &mut Self::Keys);

    /// Changes the book and tells what became of it. The fact may be late, or early.
    /// On `Err` it must have changed nothing.
    fn handle(&mut self, event: &E, ctx: &mut Context<'_, Self::Config>)
    -> Result<(), HandleError>;
}

/// What a service does on being asked.
pub trait Execute<C: Command>: UnitOfWork {
    /// Names what [`Answer::answer`] will need.
    fn keys(command: &C, caller: &Caller, keys: &mut Self::Keys);

    /// Grants (changes the book, tells facts, replies) or refuses (changes nothing).
    fn execute(
        &mut self,
        command: &C,
        ctx: &mut Context<'_, Self::Config>,
    ) -> Result<C::Reply, Refusal>;
}

/// Why a fact could not be taken in.
#[derive(Debug, Clone, PartialEq)]
pub enum HandleError {
    /// What it depends on has not been heard yet; it comes again a little later.
    NotYet(&'static str),
    /// It can never succeed; it goes to the dead letters with this cause.
    Never(String),
}

/// Why a command is not granted.
#[derive(Debug, Clone, PartialEq)]
pub enum Refusal {
    /// No, and this is why.
    No(Problem),
    /// What it depends on is on its way; it is tried again for a short while, and then
    /// refused with this.
    NotYet(Problem),
}

impl From<Problem> for Refusal {
    fn from(problem: Problem) -> Self {
        Self::No(problem)
    }
}
