//! What a batch needs of a store that keeps a service's book: a transaction.

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

/// A store that keeps a service's book.
pub(crate) trait Ledger<B: UnitOfWork>: Sync {
    /// Its transactions.
    type Tx: Transaction<B>;

    /// Begins one.
    fn begin(&self) -> impl Future<Output = Result<Self::Tx, Failure>> + Send;
}

/// A transaction: everything in it takes effect at its commit, or nothing does. One that is
/// dropped has no effect.
pub(crate) trait Transaction<B: UnitOfWork>: Send + Sized {
    /// Loads and locks what `keys` name.
    fn load(&mut self, keys: B::Keys) -> impl Future<Output = Result<B, Failure>> + Send;

    /// Writes what has changed.
    fn save(&mut self, unit: B) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Notes a place to come back to; only one is open at a time.
    fn savepoint(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Keeps what was done since that place.
    fn release(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Undoes what was done since that place.
    fn roll_back(&mut self) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Claims messages, named in order; those are returned that were never taken in before.
    ///
    /// Two batches that claim the same id at once: the second waits for the first to commit
    /// and then finds it taken.
    fn claim(
        &mut self,
        ids: Vec<Uuid>,
    ) -> impl Future<Output = Result<HashSet<Uuid>, Failure>> + Send;

    /// The answers under the keys of commands.
    fn answers(
        &mut self,
        scopes: Vec<[u8; 32]>,
    ) -> impl Future<Output = Result<Vec<KeptAnswer>, Failure>> + Send;

    /// Whether a parked event holds any key at all.
    fn is_any_held(&mut self) -> impl Future<Output = Result<bool, Failure>> + Send;

    /// Which of these keys a parked event holds. An early event holds none: what it waits for
    /// may come under the same key.
    fn held(
        &mut self,
        keys: Vec<String>,
    ) -> impl Future<Output = Result<HashSet<String>, Failure>> + Send;

    /// Writes what the batch leaves behind beside the service's own rows.
    ///
    /// The same message in two batches at once: the second waits for the first to commit, and
    /// then finds it claimed. The same idempotency key in two batches: both have found no
    /// answer and both have granted; the second is refused here as `Contended`, and finds the
    /// answer when it is run again.
    fn close(
        &mut self,
        closing: &Closing<'_>,
    ) -> impl Future<Output = Result<Closed, Failure>> + Send;

    /// Parks events, in their order. An early one comes due soon; one behind another when
    /// that has ended.
    fn park(
        &mut self,
        events: Vec<Parking>,
    ) -> impl Future<Output = Result<Vec<Parked>, Failure>> + Send;

    /// Locks a parked event that is to be tried; whether it is still open.
    fn lock_parked(&mut self, number: u64) -> impl Future<Output = Result<bool, Failure>> + Send;

    /// Ends a parked event that is taken in.
    fn resolve(
        &mut self,
        parked: &Parked,
        by: Option<UserId>,
    ) -> impl Future<Output = Result<(), Failure>> + Send;

    /// Makes it so. `Uncertain` when nobody can say whether it is.
    fn commit(self) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// An answer that was given under an `Idempotency-Key`.
#[derive(Clone)]
pub(crate) struct KeptAnswer {
    /// The key, its caller and its endpoint.
    pub(crate) scope: [u8; 32],
    /// What was asked.
    pub(crate) body: [u8; 32],
    /// What was answered.
    pub(crate) answered: Answered,
}

/// An event that is about to be parked.
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
    /// The event at `at` of a message.
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
