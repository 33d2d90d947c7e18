//! What a batch needs of a service's store: a transaction.

use std::{collections::HashSet, future::Future};

use bytes::Bytes;
use events::UserId;
use uuid::Uuid;

use super::closing::{Closed, Closing};
use crate::{
    UnitOfWork,
    engine::Failure,
    parked::{Parked, ParkedState, one_line},
    work::{Answered, Entry, Work},
};

/// A store that keeps a service's state.
pub(crate) trait Ledger<B: UnitOfWork>: Sync {
    /// Its transactions.
    type Tx: Transaction<B>;

    /// Begins a transaction.
    fn begin(&self) -> impl Future<Output = Result<Self::Tx, Failure>> + Send;
}

/// A transaction: all of it takes effect at the commit, or nothing does. Dropping it rolls it back.
pub(crate) trait Transaction<B: UnitOfWork>: Send + Sized {
    /// Loads and locks what `keys` name.
    fn load(&mut self, keys: B::Keys) -> impl Future<Output = Result<B, Failure>> + Send;

    /// Writes what has changed.
    fn save(&mut self, unit: B) -> impl Future<Output = Result<(), Failure>> + Send;

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

/// An answer that was given under an `Idempotency-Key`.
#[derive(Clone)]
pub(crate) struct KeptAnswer {
    /// Hash of key, caller and endpoint.
    pub(crate) scope: [u8; 32],
    /// Hash of the request.
    pub(crate) body: [u8; 32],
    /// The answer.
    pub(crate) answered: Answered,
}

/// An event to be parked.
pub(crate) struct Parking {
    pub(crate) key: String,
    pub(crate) state: ParkedState,
    pub(crate) cause: String,
    pub(crate) envelope: Bytes,
    pub(crate) subject: String,
    pub(crate) stream: String,
    pub(crate) sequence: u64,
}

impl Parking {
    /// The event at index `at` of a message.
    pub(super) fn of<D>(
        work: &Work<D>,
        at: usize,
        state: ParkedState,
        cause: String,
    ) -> Option<Self> {
        let (delivery, entry): (_, &Entry<D>) = (work.delivery()?, work.entries.get(at)?);
        Some(Self {
            key: entry.key(),
            state,
            cause: one_line(&cause),
            envelope: entry.raw.clone(),
            subject: delivery.subject.to_string(),
            stream: delivery.stream.clone(),
            sequence: delivery.sequence,
        })
    }
}
