//! Requests of sweeps, by a comparison that has found lost messages.

use std::time::Duration;

use tokio::sync::Notify;

/// How long somebody waits for the sweeps that they asked for.
const SWEPT_WITHIN: Duration = Duration::from_millis(1_500);

/// Requests of sweeps.
#[derive(Debug, Default)]
pub(crate) struct SweepRequests {
    wanted: Notify,
    /// Notified when a sweep has left nothing behind, or could not take place.
    ended: Notify,
}

impl SweepRequests {
    /// Has everything published at once that is due now. Returns when it is sent or cannot be, and
    /// after [`SWEPT_WITHIN`] at the latest.
    pub(super) async fn now(&self) {
        let ended = self.ended.notified();
        self.wanted.notify_one();
        let _ = tokio::time::timeout(SWEPT_WITHIN, ended).await;
    }

    /// Waits until a sweep is asked for.
    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// A sweep has left nothing behind, or could not take place.
    pub(super) fn end(&self) {
        self.ended.notify_waiters();
    }
}
