//! What a batch finds of earlier ones: messages taken in (inbox) and answers (idempotency keys).

use std::collections::HashSet;

use uuid::Uuid;

use super::{
    answers::Answers,
    transaction::Transaction,
    work::{Answered, Outcome, Work},
};
use crate::{inbound::repeat::reused, store::engine::Failure};

/// The ids of a batch's messages, sorted and without repeats, so that two batches that claim the
/// same ids cannot deadlock.
pub(super) fn message_ids(batch: &[Work]) -> Vec<Uuid> {
    let delivered = batch.iter().filter_map(Work::delivery);
    let mut ids: Vec<Uuid> = delivered.map(|delivery| delivery.id).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

/// Claims a batch's messages and loads the stored answers to its commands. Returns which of its
/// works are new, and those answers.
pub(super) async fn claim(
    tx: &mut impl Transaction,
    batch: &[Work],
) -> Result<(Vec<bool>, Answers), Failure> {
    let ids = message_ids(batch);
    let mut claimed = if ids.is_empty() { HashSet::new() } else { tx.claim(ids).await? };
    let answers = answers(tx, scopes(batch.iter())).await?;
    // Removing the id makes a second copy in the same batch a repeat.
    let is_fresh = |work: &Work| match work.delivery() {
        Some(delivery) => claimed.remove(&delivery.id),
        None => work.entries.iter().all(|entry| !answers.knows(&entry.meta)),
    };
    Ok((batch.iter().map(is_fresh).collect(), answers))
}

/// Whether a message of a batch was taken in before.
pub(super) fn has_repeats(batch: &[Work], fresh: &[bool]) -> bool {
    batch.iter().zip(fresh).any(|(work, fresh)| work.delivery().is_some() && !fresh)
}

/// The scopes of the commands' idempotency keys.
fn scopes<'a>(batch: impl Iterator<Item = &'a Work>) -> Vec<[u8; 32]> {
    let entries = batch.flat_map(|work| &work.entries);
    entries.filter_map(|entry| entry.meta.idempotency.as_ref().map(|key| key.scope)).collect()
}

/// Loads the answers under these scopes.
async fn answers(tx: &mut impl Transaction, scopes: Vec<[u8; 32]>) -> Result<Answers, Failure> {
    if scopes.is_empty() {
        return Ok(Answers::default());
    }
    Ok(tx.answers(scopes).await?.into_iter().collect())
}

/// The outcome of a message or command that was taken in before.
pub(super) fn stored(work: &Work, answers: &Answers) -> Outcome {
    if work.delivery().is_some() {
        return Outcome::Repeat;
    }
    let known = work.entries.first().and_then(|entry| answers.stored(&entry.meta));
    Outcome::Done(known.unwrap_or_else(|| Answered::refused(&reused())))
}

/// Looks once more for answers to commands that were refused. The first command under the same idempotency
/// key, in an earlier batch or in one that ran at the same time, may itself be the reason for
/// the refusal (seats held, a payment running). Its answer is stored by now, and the second
/// command gets it too.
pub(super) async fn repeat_answers(
    tx: &mut impl Transaction,
    batch: &[Work],
    outcomes: &mut [Outcome],
) -> Result<(), Failure> {
    let refused = |(work, outcome): &(&Work, &mut Outcome)| {
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
