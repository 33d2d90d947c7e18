//! Stores that are rebuilt when they have lost their data.

use std::{
    future::Future,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::{MeshClient, store::engine::Failure};

/// How often a store is checked.
const CHECK_EVERY: Duration = Duration::from_millis(500);
/// Where all services start together, the owners may need a moment: for so long a rebuild that fails
/// is repeated at once, and nothing is logged.
const SOON_WITHIN: Duration = Duration::from_secs(2);
/// The pause before it is repeated meanwhile.
const SOON: Duration = Duration::from_millis(50);
/// How long a rebuild that is stopped may take to leave its place to another instance.
const STOP_WITHIN: Duration = Duration::from_millis(500);

/// A store that is rebuilt when it has lost its data.
pub trait Kept: Send + Sync + 'static {
    /// What is in it.
    const WHAT: &'static str;

    /// Whether it has all of its data.
    fn is_whole(&self) -> impl Future<Output = Result<bool, Failure>> + Send;

    /// Rebuilds it; returns from how many entries. At the stop it leaves the rebuild to another
    /// instance at once.
    fn rebuild(
        &self,
        client: &MeshClient,
        stop: impl Future<Output = ()> + Send,
    ) -> impl Future<Output = Result<u64, Failure>> + Send;
}

/// The failure of a rebuild that was stopped.
pub fn stopped() -> Failure {
    Failure::Refused("the rebuild was stopped before its end".into())
}

/// Watches a store until `stop`, and rebuilds it whenever it is found empty. Until then its
/// service refuses to answer rather than to guess.
pub(crate) async fn keep<K: Kept>(kept: &K, client: &MeshClient, stop: CancellationToken) {
    let mut lost_at = None;
    loop {
        let pause = match is_whole(kept, &stop).await {
            Some(false) => {
                let lost_at = *lost_at.get_or_insert_with(Instant::now);
                rebuild(kept, client, &stop, lost_at).await
            }
            Some(true) => {
                lost_at = None;
                CHECK_EVERY
            }
            None => CHECK_EVERY,
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Whether the data is whole. `None` for a store that does not answer: it is the housekeeping's
/// concern.
async fn is_whole(kept: &impl Kept, stop: &CancellationToken) -> Option<bool> {
    tokio::select! {
        () = stop.cancelled() => None,
        whole = kept.is_whole() => whole.ok(),
    }
}

/// Rebuilds a store that was found empty at that moment; returns the pause until it is checked
/// again.
async fn rebuild<K: Kept>(
    kept: &K,
    client: &MeshClient,
    stop: &CancellationToken,
    lost_at: Instant,
) -> Duration {
    let rebuilt = tokio::select! {
        rebuilt = kept.rebuild(client, stop.cancelled()) => rebuilt,
        () = async { stop.cancelled().await; tokio::time::sleep(STOP_WITHIN).await } => return SOON,
    };
    match rebuilt {
        Ok(count) => info!(count, "{} is rebuilt", K::WHAT),
        // Another instance is rebuilding it.
        Err(Failure::Contended(_)) => {}
        Err(_) if lost_at.elapsed() < SOON_WITHIN => return SOON,
        Err(error) if !stop.is_cancelled() => warn!(%error, "{} cannot be rebuilt yet", K::WHAT),
        Err(_) => {}
    }
    CHECK_EVERY
}
