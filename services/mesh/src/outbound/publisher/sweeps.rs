//! Sweeps: messages without a mark whose lease is over are published, at intervals and on request.

use tokio::time::Instant;
use tracing::warn;

use super::{Publisher, Run};
use crate::failpoint::crash::{Step, reach};

/// Maximum number of messages in one sweep.
const SWEEP_MESSAGES_MAX: usize = 128;

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
            self.sweeps.end();
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
