//! What keeps one copy of a seat map as the concert service has it.

use std::{collections::BTreeMap, future::pending, time::Duration};

use events::{
    Problem, codes,
    concert::{GetSeatChanges, SeatDelta, SeatsChanged},
};
use mesh::MeshClient;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until};
use tracing::{debug, warn};

use crate::{
    seat_hub::{Mirror, ask, read},
    seat_map::At,
};

/// How often a copy is compared although nothing seems to be missing.
const COMPARE_EVERY: Duration = Duration::from_secs(3);
/// How long a change waits for one before it: two that happen at once are announced in any
/// order.
const HOLE_WAIT: Duration = Duration::from_millis(30);
/// How long a comparison that failed rests while something is missing.
const RETRY_AFTER: Duration = Duration::from_secs(1);
/// Changes that wait for one before them at most.
const EARLY_MAX: usize = 1_000;

/// The keeper of one copy.
pub(crate) struct Keeper<'a> {
    client: &'a MeshClient,
    mirror: &'a Mirror,
    /// Changes that came before those before them.
    early: BTreeMap<u64, SeatDelta>,
    /// When what is missing is asked for.
    compare_at: Option<Instant>,
}

impl<'a> Keeper<'a> {
    /// A keeper that has not begun.
    pub(crate) fn new(client: &'a MeshClient, mirror: &'a Mirror) -> Self {
        Self { client, mirror, early: BTreeMap::new(), compare_at: None }
    }

    /// Keeps the copy until `is_given_up`, which is asked now and then.
    ///
    /// # Errors
    /// Why the map could not be read at first, or `unavailable` when the connection is
    /// closed for good.
    pub(crate) async fn run(&mut self, is_given_up: impl Fn() -> bool) -> Result<(), Problem> {
        let mut reconnects = self.client.reconnects();
        // Before the map is read: no change can fall between the two.
        let mut heard = self.client.listen(SeatsChanged::NAME, self.mirror.schedule.0).await?;
        self.mirror.replace(read(self.client, self.mirror.schedule).await?);
        self.mirror.compared(true);
        let mut compare = interval_at(Instant::now() + COMPARE_EVERY, COMPARE_EVERY);
        compare.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let compare_at = self.compare_at;
            let hole = async {
                match compare_at {
                    Some(at) => sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                said = heard.next() => match said {
                    Some(said) => if !self.handle(&said) { continue },
                    None => return Err(codes::UNAVAILABLE.into()),
                },
                () = hole => {}
                // What was announced in between has passed unheard.
                Ok(()) = reconnects.changed() => {}
                () = self.mirror.look.notified() => {}
                _ = compare.tick() => if is_given_up() { return Ok(()) },
            }
            self.compare().await;
        }
    }

    /// Takes in what was announced; whether the copy has to be compared.
    fn handle(&mut self, said: &[u8]) -> bool {
        let SeatsChanged { epoch, delta } = match serde_json::from_slice(said) {
            Ok(changed) => changed,
            Err(error) => {
                warn!(%error, "a change of a seat map cannot be read");
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

    /// Takes in what joins without a hole, and notes when to ask for the rest.
    fn take_early(&mut self) {
        while let Some(At { sequence, .. }) = self.mirror.at()
            && let Some(first) = self.early.first_entry()
            && *first.key() <= sequence + 1
        {
            self.mirror.apply(&first.remove());
        }
        self.compare_at = match self.early.is_empty() {
            true => None,
            false => self.compare_at.or(Some(Instant::now() + HOLE_WAIT)),
        };
    }

    /// Asks what came since, and takes it in.
    async fn compare(&mut self) {
        self.compare_at = None;
        let caught_up = self.catch_up().await;
        self.mirror.compared(caught_up.is_ok());
        match caught_up {
            Ok(()) => self.take_early(),
            Err(problem) => {
                debug!(%problem, schedule = %self.mirror.schedule, "a seat map is not compared");
                if !self.early.is_empty() {
                    self.compare_at = Some(Instant::now() + RETRY_AFTER);
                }
            }
        }
    }

    async fn catch_up(&mut self) -> Result<(), Problem> {
        let schedule_id = self.mirror.schedule;
        loop {
            let Some(At { epoch, sequence }) = self.mirror.at() else { return Ok(()) };
            let asked = GetSeatChanges { schedule_id, epoch, sequence };
            let changes = ask(self.client, &asked).await?;
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
