//! What a batch finds of earlier ones: messages taken in (inbox) and answers (idempotency keys).

use std::collections::{HashMap, HashSet};

use uuid::Uuid;

use super::transaction::{KeptAnswer, Transaction};
use crate::{
    UnitOfWork,
    engine::Failure,
    repeat::reused,
    work::{Answered, Meta, Outcome, Work},
};

/// The ids of a batch's messages, sorted and without repeats, so that two batches that claim the
/// same ids cannot deadlock.
pub(super) fn message_ids<D>(batch: &[Work<D>]) -> Vec<Uuid> {
    let delivered = batch.iter().filter_map(Work::delivery);
    let mut ids: Vec<Uuid> = delivered.map(|delivery| delivery.id).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Claims a batch's messages and loads the stored answers to its commands. Returns which of its
/// works are new, and those answers.
pub(super) async fn known<B: UnitOfWork, D: Sync>(
    tx: &mut impl Transaction<B>,
    batch: &[Work<D>],
) -> Result<(Vec<bool>, Answers), Failure> {
    let ids = message_ids(batch);
    let mut claimed = if ids.is_empty() { HashSet::new() } else { tx.claim(ids).await? };
    let answers = answers(tx, scopes(batch.iter())).await?;
    // Removing the id makes a second copy in the same batch a repeat.
    let is_fresh = |work: &Work<_>| match work.delivery() {
        Some(delivery) => claimed.remove(&delivery.id),
        None => work.entries.iter().all(|entry| !answers.knows(&entry.meta)),
    };
    Ok((batch.iter().map(is_fresh).collect(), answers))
}

/// An answer under an `Idempotency-Key`.
pub(crate) struct Stored {
    pub(crate) body: [u8; 32],
    pub(crate) answered: Answered,
    is_new: bool,
}

/// The answers under the keys of one batch, by scope.
#[derive(Default)]
pub(crate) struct Answers(HashMap<[u8; 32], Stored>);

impl Answers {
    /// Whether there is an answer under the command's idempotency key.
    pub(super) fn knows(&self, meta: &Meta) -> bool {
        meta.idempotency.as_ref().is_some_and(|key| self.0.contains_key(&key.scope))
    }

    /// The answer stored under the key, if it was given to the same request.
    pub(super) fn stored(&self, meta: &Meta) -> Option<Answered> {
        let key = meta.idempotency.as_ref()?;
        let stored = self.0.get(&key.scope)?;
        (stored.body == key.body).then(|| stored.answered.clone())
    }

    /// The answers given in this batch, ordered by scope.
    pub(crate) fn given_now(&self) -> Vec<(&[u8; 32], &Stored)> {
        let mut new: Vec<_> = self.0.iter().filter(|(_, stored)| stored.is_new).collect();
        new.sort_unstable_by_key(|(scope, _)| **scope);
        new
    }

    /// Stores the answer to a granted command.
    pub(super) fn given(&mut self, meta: &Meta, answered: &Answered) {
        if let Some(key) = &meta.idempotency {
            let stored = Stored { body: key.body, answered: answered.clone(), is_new: true };
            self.0.insert(key.scope, stored);
        }
    }
}

/// The scopes of the commands' idempotency keys.
fn scopes<'a, D: 'a>(batch: impl Iterator<Item = &'a Work<D>>) -> Vec<[u8; 32]> {
    let entries = batch.flat_map(|work| &work.entries);
    entries.filter_map(|entry| entry.meta.idempotency.as_ref().map(|key| key.scope)).collect()
}

/// Loads the answers under these scopes.
async fn answers<B: UnitOfWork>(
    tx: &mut impl Transaction<B>,
    scopes: Vec<[u8; 32]>,
) -> Result<Answers, Failure> {
    if scopes.is_empty() {
        return Ok(Answers::default());
    }
    let mut answers = Answers::default();
    for KeptAnswer { scope, body, answered } in tx.answers(scopes).await? {
        answers.0.insert(scope, Stored { body, answered, is_new: false });
    }
    Ok(answers)
}

/// The outcome of a message or command that was taken in before.
pub(super) fn stored<D>(work: &Work<D>, answers: &Answers) -> Outcome {
    if work.delivery().is_some() {
        return Outcome::Repeat;
    }
    let known = work.entries.first().and_then(|entry| answers.stored(&entry.meta));
    Outcome::Done(known.unwrap_or_else(|| Answered::refused(&reused())))
}

/// Looks for answers to refused commands again. The first command under the same idempotency
/// key, in an earlier batch or in one that ran at the same time, may itself be the reason for
/// the refusal (seats held, a payment running). Its answer is stored by now, and the second
/// command gets it too.
pub(super) async fn look_again<B: UnitOfWork, D: Sync>(
    tx: &mut impl Transaction<B>,
    batch: &[Work<D>],
    outcomes: &mut [Outcome],
) -> Result<(), Failure> {
    let refused = |(work, outcome): &(&Work<D>, &mut Outcome)| {
        let is_refused = match outcome {
            Outcome::Done(answered) => !answered.is_granted(),
            Outcome::NotYet(_) | Outcome::Never(_) => true,
            Outcome::Repeat => false,
        };
        work.delivery().is_none() && is_refused
    };
    let again: Vec<_> = batch.iter().zip(outcomes).filter(refused).collect();
    let known = answers(tx, scopes(again.iter().map(|(work, _)| *work))).await?;
    for (work, outcome) in again {
        if work.entries.iter().any(|entry| known.knows(&entry.meta)) {
            *outcome = stored(work, &known);
        }
    }
    Ok(())
}
