//! How a batch is run: first an optimistic run and, where its assumption was wrong, a checked one.
//!
//! An optimistic run assumes that no message of the batch was taken in before, no command was
//! answered, and no parked event holds a key. That is nearly always so. The closing statement
//! verifies it. If it was wrong, the transaction is rolled back and the batch runs again: this
//! time it claims its messages and looks for answers and held keys before it decides.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use events::UserId;

use super::{Run, UnitHandler, transaction::Ledger};
use crate::{
    UnitOfWork,
    engine::{Care, Failure, Ran, Retried},
    failpoint::Failpoints,
    parked::Parked,
    work::{Entry, Work},
};

/// What all batches of one engine share.
pub(crate) struct Ground<'a, B: UnitOfWork, L> {
    pub(crate) ledger: &'a L,
    pub(crate) config: &'a B::Config,
    pub(crate) failpoints: &'a Failpoints,
    /// Whether a parked event may hold its order key, as far as this instance knows.
    pub(crate) has_parked: &'a AtomicBool,
}

/// Runs a batch in a transaction of its own.
pub(crate) async fn run<B: UnitOfWork, L: Ledger<B>>(
    ground: &Ground<'_, B, L>,
    batch: &mut [Work<UnitHandler<B>>],
    care: Care,
) -> Result<Ran, Failure> {
    let is_again = |work: &Work<_>| work.delivery().is_some_and(|delivery| delivery.delivered > 1);
    let is_optimistic =
        care == Care::Together && !ground.has_parked.load(Relaxed) && !batch.iter().any(is_again);
    if is_optimistic {
        match attempt(ground, batch, care, true).await {
            Ok(Some(ran)) => return Ok(ran),
            Err(failure) if failure.is_lost() => return Err(failure),
            // A repeat may be the reason why a handler or the store refused.
            Ok(None) | Err(_) => {}
        }
    }
    let ran = attempt(ground, batch, care, false).await?;
    ran.ok_or_else(|| Failure::Refused("a checked run ended as an optimistic one".into()))
}

/// One run; `None` when its optimistic assumption was wrong.
async fn attempt<B: UnitOfWork, L: Ledger<B>>(
    ground: &Ground<'_, B, L>,
    batch: &mut [Work<UnitHandler<B>>],
    care: Care,
    is_optimistic: bool,
) -> Result<Option<Ran>, Failure> {
    let mut run = Run::<B>::new(ground.config, is_optimistic);
    let ran = run.run(ground, batch, care).await;
    run.close_spans(&match &ran {
        Ok(None) => Err(Failure::Contended("the optimistic run met something known".into())),
        Ok(Some(_)) => Ok(()),
        Err(failure) => Err(failure.clone()),
    });
    ran
}

/// Retries a parked event in a transaction of its own.
pub(crate) async fn retry<B: UnitOfWork, L: Ledger<B>>(
    ground: &Ground<'_, B, L>,
    parked: &Parked,
    entry: &mut Entry<UnitHandler<B>>,
    by: Option<UserId>,
) -> Result<Retried, Failure> {
    let mut run = Run::<B>::new(ground.config, false);
    let retried = run.retry(ground, parked, entry, by).await;
    run.close_spans(&retried);
    retried
}
