//! SweepRequests: messages without a mark whose lease is over are published, at intervals and on request.

use std::time::Duration;

use tokio::{sync::Notify, time::Instant};
use tracing::warn;

use super::{Publisher, Run};
use crate::failpoint::crash::{Step, reach};

/// Maximum number of messages in one sweep.
const SWEEP_MESSAGES_MAX: usize = 128;
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
}

impl Run<'_> {
    /// How many messages a sweep may take: only one while it is unknown whether there is room.
    fn sweep_messages_max(&self) -> usize {
        match self.hold {
            None => SWEEP_MESSAGES_MAX,
            Some((until, _)) => usize::from(Instant::now() >= until),
        }
    }
}

impl Publisher {
    /// Publishes messages that have no mark and no lease.
    pub(super) async fn sweep<'a>(&'a self, run: &mut Run<'a>, ticks: &mut tokio::time::Interval) {
        let most = run.sweep_messages_max();
        let swept = match self.link.is_connected() && most > 0 {
            true => self.sweep_up_to(run, most).await,
            false => 0,
        };
        if swept == SWEEP_MESSAGES_MAX {
            // There may be more.
            ticks.reset_immediately();
        } else {
            self.sweeps.ended.notify_waiters();
        }
    }

    /// Publishes up to `most` such messages; returns how many.
    async fn sweep_up_to<'a>(&'a self, run: &mut Run<'a>, most: usize) -> usize {
        let swept = match self.engine.store().sweep(most).await {
            Ok(swept) => swept,
            Err(failure) => {
                if self.health.mark_store_failed(&failure) {
                    let service = self.link.service();
                    warn!(service, cause = %failure, "the outbox cannot be swept");
                }
                return 0;
            }
        };
        let count = swept.len();
        if count > 0 {
            reach(Step::Swept);
        }
        self.health.metrics().swept(count);
        for message in swept {
            self.send(run, message).await;
        }
        count
    }
}
