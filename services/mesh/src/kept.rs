//! Stores that are rebuilt when they have lost their data.

use std::{future::Future, time::Duration};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{MeshClient, store::engine::Failure};

/// How often a store is checked.
const CHECK_EVERY: Duration = Duration::from_millis(500);
/// How soon a rebuild is retried at first, and how many times.
const SOON: Duration = Duration::from_millis(50);
const SOON_TRIES: u32 = 40;

/// A store that is rebuilt when it has lost its data.
pub trait Kept: Send + Sync + 'static {
    /// What is in it.
    const WHAT: &'static str;

    /// Whether it has all of its data.
    fn is_whole(&self) -> impl Future<Output = Result<bool, Failure>> + Send;

    /// Rebuilds it; returns from how many entries.
    fn rebuild(&self, client: &MeshClient) -> impl Future<Output = Result<u64, Failure>> + Send;
}

/// Watches a store until `stop`, and rebuilds it whenever it is found empty. Until then its
/// service refuses to answer rather than to guess.
pub(crate) async fn keep(kept: &impl Kept, client: &MeshClient, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = rebuild_when_lost(kept, client) => {}
    }
}

async fn rebuild_when_lost<K: Kept>(kept: &K, client: &MeshClient) {
    let mut failures = 0;
    loop {
        // A store that does not answer is the housekeeping's concern; it is checked again.
        if matches!(kept.is_whole().await, Ok(false)) {
            failures += 1;
            match kept.rebuild(client).await {
                Ok(count) => info!(count, "{} is rebuilt", K::WHAT),
                // Another instance is rebuilding it.
                Err(Failure::Contended(_)) => {}
                // Where all services start together, its owners may need a moment longer.
                Err(_) if failures < SOON_TRIES => {
                    tokio::time::sleep(SOON).await;
                    continue;
                }
                Err(error) => warn!(%error, "{} cannot be rebuilt yet", K::WHAT),
            }
        } else {
            failures = 0;
        }
        tokio::time::sleep(CHECK_EVERY).await;
    }
}
