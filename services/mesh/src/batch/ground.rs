//! How a batch is run: hopefully first, and carefully where hope was wrong.
//!
//! A hopeful run decides as if nothing in the batch had been taken in before, nothing had been
//! answered and no key were held by a parked event: nearly always, that is so. Its closing
//! statement says whether it was. Where it was not, nothing has happened, and the batch runs
//! again: it claims its messages and looks for answers and held keys before it decides.

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

/// What batches of one engine run on.
pub(crate) struct Ground<'a, B: UnitOfWork, L> {
    pub(crate) ledger: &'a L,
    pub(crate) config: &'a B::Config,
    pub(crate) failpoints: &'a Failpoints,
    /// Whether a key may be held by a parked event, as far as this instance has seen.
    pub(crate) has_parked: &'a AtomicBool,
}

/// Runs a batch in a transaction of its own.
pub(crate) async fn run<B: UnitOfWork, L: Ledger<B>>(
    ground: &Ground<'_, B, L>,
    batch: &mut [Work<UnitHandler<B>>],
    care: Care,
) -> Result<Ran, Failure> {
    let is_again = |work: &Work<_>| work.delivery().is_some_and(|delivery| delivery.delivered > 1);
    let may_hope =
        care == Care::Together && !ground.has_parked.load(Relaxed) && !batch.iter().any(is_again);
    if may_hope {
        match attempt(ground, batch, care, true).await {
            Ok(Some(ran)) => return Ok(ran),
            Err(failure) if failure.is_lost() => return Err(failure),
            // A repeat may be why a handler or the store has refused.
            Ok(None) | Err(_) => {}
        }
    }
    let ran = attempt(ground, batch, care, false).await?;
    ran.ok_or_else(|| Failure::Refused("a careful batch has hoped".into()))
}

/// One run; `None` when it hoped for too much.
async fn attempt<B: UnitOfWork, L: Ledger<B>>(
    ground: &Ground<'_, B, L>,
    batch: &mut [Work<UnitHandler<B>>],
    care: Care,
    is_hopeful: bool,
) -> Result<Option<Ran>, Failure> {
    let mut page = Run::<B>::new(ground.config, is_hopeful);
    let ran = page.run(ground, batch, care).await;
    page.close_spans(&match &ran {
        Ok(None) => Err(Failure::Contended("something in it was there already".into())),
        Ok(Some(_)) => Ok(()),
        Err(failure) => Err(failure.clone()),
    });
    ran
}

/// Tries a parked event in a transaction of its own.
pub(crate) async fn retry<B: UnitOfWork, L: Ledger<B>>(
    ground: &Ground<'_, B, L>,
    parked: &Parked,
    entry: &mut Entry<UnitHandler<B>>,
    by: Option<UserId>,
) -> Result<Retried, Failure> {
    let mut page = Run::<B>::new(ground.config, false);
    let retried = page.retry(ground, parked, entry, by).await;
    page.close_spans(&retried);
    retried
}
