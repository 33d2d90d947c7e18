//! What a batch needs of a service's store: a transaction.

use std::{collections::HashSet, future::Future};

use events::UserId;
use uuid::Uuid;

use super::{
    answers::KeptAnswer,
    closing::{Closed, Closing, Parking},
};
use crate::{parked::Parked, store::engine::Failure};

/// A store that keeps a service's state.
pub(crate) trait TransactionalStore: Sync {
    /// Its transactions.
    type Tx: Transaction;

    /// Begins a transaction.
    fn begin(&self) -> impl Future<Output = Result<Self::Tx, Failure>> + Send;
}

/// A transaction: all of it takes effect at the commit, or nothing does. Dropping it rolls it back.
pub(crate) trait Transaction: Send + Sized {
    /// Sets a savepoint; only one is open at a time.
    fn savepoint(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Keeps what was done since the savepoint.
    fn release(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Rolls back to the savepoint.
    fn roll_back(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Claims messages, given in the order of their ids. Returns those that were not in the inbox.
    ///
    /// If two batches claim the same id at once, the second waits for the first to commit and
    /// then finds the id claimed.
    fn claim(
        &mut self,
        ids: Vec<Uuid>,
    ) -> impl Future<Output = Result<HashSet<Uuid>, Failure>> + Send;

    /// The answers under these idempotency keys.
    fn answers(
        &mut self,
        scopes: Vec<[u8; 32]>,
    ) -> impl Future<Output = Result<Vec<KeptAnswer>, Failure>> + Send;

    /// Whether a parked event holds any order key at all.
    fn is_any_held(&mut self) -> impl Future<Output = Result<bool, Failure>> + Send;

    /// Which of these order keys a parked event holds. An early event holds none: what it waits
    /// for may come under the same key.
    fn held(
        &mut self,
        keys: Vec<String>,
    ) -> impl Future<Output = Result<HashSet<String>, Failure>> + Send;

    /// Writes the claims, outbox messages and answers of the batch.
    ///
    /// If the same message is in two batches at once, the second waits for the first to commit
    /// and then finds it claimed. If the same idempotency key is in two batches, both found no
    /// answer and both granted the command: the second is refused here as `Contended`, and finds
    /// the answer when it runs again.
    fn close(
        &mut self,
        closing: &Closing<'_>,
    ) -> impl Future<Output = Result<Closed, Failure>> + Send;

    /// Parks events, in their order. An early event comes due soon; an event behind another one
    /// comes due when that one has ended.
    fn park(
        &mut self,
        events: Vec<Parking>,
    ) -> impl Future<Output = Result<Vec<Parked>, Failure>> + Send;

    /// Locks a parked event for a retry; returns whether it is still open.
    fn lock_parked(&mut self, number: u64) -> impl Future<Output = Result<bool, Failure>> + Send;

    /// Marks a parked event as resolved: it is taken in.
    fn resolve(
        &mut self,
        parked: &Parked,
        by: Option<UserId>,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Commits. `Uncertain` when it is unknown whether the commit took effect.
    fn commit(self) -> impl Future<Output = Result<(), Failure>> + Send;
}
