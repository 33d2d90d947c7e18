//! Keeps one copy of a seat map in step with the concert service.

use std::{collections::BTreeMap, future::pending, time::Duration};

use events::concert::{GetSeatChanges, SeatDelta, SeatsChanged};
use mesh::{BrokerError, MeshClient, StreamError};
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tracing::{debug, warn};

use crate::live::{
    seat_map::At,
    seat_mirror::{Mirror, SeatsError, read, request},
};

/// How often a copy is compared even though nothing seems to be missing.
const COMPARE_EVERY: Duration = Duration::from_secs(3);
/// How long a change waits for the one before it: two that happen at once are announced in any
/// order.
const GAP_WAIT: Duration = Duration::from_millis(30);
/// After a failed comparison, how long until the next one while something is missing.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Changes that wait for an earlier one at most.
const EARLY_MAX: usize = 1_000;

/// The keeper of one copy.
pub(crate) struct Keeper<'a> {
    client: &'a MeshClient,
    mirror: &'a Mirror,
    /// Changes that came earlier than those that precede them.
    early: BTreeMap<u64, SeatDelta>,
    /// When to request what is missing.
    compare_at: Option<Instant>,
}

impl<'a> Keeper<'a> {
    /// A keeper that has not started.
    pub(crate) fn new(client: &'a MeshClient, mirror: &'a Mirror) -> Self {
        Self { client, mirror, early: BTreeMap::new(), compare_at: None }
    }

    /// Keeps the copy until `drop_if_idle`, which is called every few seconds, has dropped it.
    ///
    /// # Errors
    /// Why the first read of the map failed, or that the connection is closed for good.
    pub(crate) async fn run(&mut self, drop_if_idle: impl Fn() -> bool) -> Result<(), SeatsError> {
        let mut reconnects = self.client.reconnects();
        // Subscribed before the map is read: no change can fall between the two.
        let mut announcements =
            self.client.listen(SeatsChanged::NAME, self.mirror.schedule.0).await?;
        self.mirror.replace(read(self.client, self.mirror.schedule).await?);
        self.mirror.compared(true);
        let mut compare = interval_at(Instant::now() + COMPARE_EVERY, COMPARE_EVERY);
        compare.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let compare_at = self.compare_at;
            let gap = async {
                match compare_at {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                announced = announcements.next() => match announced {
                    Some(announced) => if !self.handle(&announced) { continue },
                    None => return Err(StreamError::not_followed(BrokerError::Disconnected).into()),
                },
                () = gap => {}
                // What was announced in between was missed.
                Ok(()) = reconnects.changed() => {}
                () = self.mirror.look.notified() => {}
                _ = compare.tick() => if drop_if_idle() { return Ok(()) },
            }
            self.compare().await;
        }
    }

    /// Handles an announcement; whether the copy has to be compared.
    fn handle(&mut self, announced: &[u8]) -> bool {
        let SeatsChanged { epoch, delta } = match serde_json::from_slice(announced) {
            Ok(changed) => changed,
            Err(error) => {
                warn!(%error, "an announced change of a seat map cannot be read");
                return true;
            }
        };
        let Some(at) = self.mirror.at() else { return true };
        if epoch != at.epoch {
            return true;
        }
        self.early.insert(delta.sequence, delta);
        self.take_early();
        self.early.len() > EARLY_MAX
    }

    /// Applies the changes that follow without a gap, and notes when to request the rest.
    fn take_early(&mut self) {
        while let Some(At { sequence, .. }) = self.mirror.at()
            && let Some(first) = self.early.first_entry()
            && *first.key() <= sequence + 1
        {
            self.mirror.apply(&first.remove());
        }
        self.compare_at = match self.early.is_empty() {
            true => None,
            false => self.compare_at.or(Some(Instant::now() + GAP_WAIT)),
        };
    }

    /// Requests the changes since its place, and applies them.
    async fn compare(&mut self) {
        self.compare_at = None;
        let wait_until_caught_up = self.catch_up().await;
        self.mirror.compared(wait_until_caught_up.is_ok());
        match wait_until_caught_up {
            Ok(()) => self.take_early(),
            Err(error) => {
                debug!(%error, schedule = %self.mirror.schedule, "a seat map could not be compared");
                if !self.early.is_empty() {
                    self.compare_at = Some(Instant::now() + RETRY_AFTER);
                }
            }
        }
    }

    async fn catch_up(&mut self) -> Result<(), SeatsError> {
        let schedule_id = self.mirror.schedule;
        loop {
            let Some(At { epoch, sequence }) = self.mirror.at() else { return Ok(()) };
            let query = GetSeatChanges { schedule_id, epoch, sequence };
            let changes = request(self.client, &query).await?;
            if changes.is_gone {
                self.early.clear();
                self.mirror.replace(read(self.client, schedule_id).await?);
                return Ok(());
            }
            changes.deltas.iter().for_each(|delta| self.mirror.apply(delta));
            let end = changes.deltas.last().map(|delta| delta.sequence);
            if end.is_none_or(|end| end >= changes.sequence) {
                return Ok(());
            }
        }
    }
}
