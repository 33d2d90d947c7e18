//! One copy of each seat map that is in use, for all its readers and watchers.
//!
//! A copy subscribes to the announcements of the concert service, reads the map once, and
//! applies each change as it comes. On a gap, on a new connection and every few seconds it
//! requests the changes since its place, so an announcement may get lost. However many clients
//! read or watch, the store is read once. A copy that is no longer used is dropped.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use events::ScheduleId;
use mesh::MeshClient;
use tokio::{sync::broadcast, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::live::{
    seat_keeper::Keeper,
    seat_map::{At, Frame, Gap},
    seat_mirror::{Mirror, SeatsError, Signal},
};

/// Copies at most; further maps are read from the service each time.
const MIRRORS_MAX: usize = 256;

/// The copies of this process.
pub(crate) struct SeatHub {
    client: MeshClient,
    mirrors: Mutex<HashMap<ScheduleId, Arc<Mirror>>>,
    /// When the hub was made; all copies measure time from here.
    born: Instant,
    shutdown: CancellationToken,
}

impl SeatHub {
    /// A hub without any copy.
    pub(crate) fn new(client: MeshClient, shutdown: CancellationToken) -> Self {
        Self { client, mirrors: Mutex::default(), born: Instant::now(), shutdown }
    }

    /// The copy of a schedule's map, made if there is none; `None` when there is no room for
    /// another.
    ///
    /// # Errors
    /// When there is no such map, or it cannot be read.
    pub(crate) async fn mirror(
        self: &Arc<Self>,
        schedule: ScheduleId,
    ) -> Result<Option<Arc<Mirror>>, SeatsError> {
        let Some(mirror) = self.find_or_start(schedule) else { return Ok(None) };
        mirror.is_loaded().await?;
        Ok(Some(mirror))
    }

    fn find_or_start(self: &Arc<Self>, schedule: ScheduleId) -> Option<Arc<Mirror>> {
        let mut mirrors = self.mirrors();
        if let Some(mirror) = mirrors.get(&schedule) {
            // Under the lock: a copy that is found here is not dropped as idle a moment later.
            mirror.touch();
            return Some(mirror.clone());
        }
        if mirrors.len() >= MIRRORS_MAX {
            let unwatched = mirrors.values().filter(|mirror| mirror.watchers() == 0);
            let longest = unwatched.min_by_key(|mirror| mirror.used_ms())?;
            let longest = longest.schedule;
            mirrors.remove(&longest)?.stop().cancel();
        }
        let mirror = Arc::new(Mirror::new(schedule, self.born));
        mirrors.insert(schedule, mirror.clone());
        // A copy that ends is not started again: the next reader starts another.
        tokio::spawn(self.clone().keep(mirror.clone()));
        Some(mirror)
    }

    async fn keep(self: Arc<Self>, mirror: Arc<Mirror>) {
        let mut kept = Kept { hub: &self, mirror: &mirror, why: SeatsError::Away };
        let mut keeper = Keeper::new(&self.client, &mirror);
        let ended = tokio::select! {
            () = self.shutdown.cancelled() => Ok(()),
            () = mirror.stop().cancelled() => Ok(()),
            ended = keeper.run(|| self.forget(&mirror, true)) => ended,
        };
        if let Err(why) = ended {
            if let SeatsError::Stream(error) = &why {
                warn!(error = error.with_cause(), schedule = %mirror.schedule,
                    "a seat map cannot be followed");
            }
            kept.why = why;
        }
    }

    /// Drops a copy, or only if it is idle; whether it was dropped.
    fn forget(&self, mirror: &Arc<Mirror>, only_idle: bool) -> bool {
        let mut mirrors = self.mirrors();
        if only_idle && !mirror.is_idle() {
            return false;
        }
        // Another copy may have taken its place.
        if mirrors.get(&mirror.schedule).is_some_and(|known| Arc::ptr_eq(known, mirror)) {
            mirrors.remove(&mirror.schedule);
        }
        true
    }

    /// Begins to watch a map: what to send at once, and the signals after it. A client that has
    /// the map as of `last` gets the changes since, if they are still known, or else the map.
    ///
    /// # Errors
    /// When the copy has just been dropped.
    pub(crate) async fn watch(
        &self,
        mirror: &Mirror,
        last: Option<At>,
    ) -> Result<(Vec<Frame>, broadcast::Receiver<Signal>), SeatsError> {
        let Some(last) = last else { return mirror.watch_all() };
        // Once with what is here, and once more when the rest has been fetched.
        for _ in 0..2 {
            match mirror.watch_since(last)? {
                Ok(watching) => return Ok(watching),
                Err(Gap::Older) => mirror.reach_back(&self.client, last).await,
                Err(_) => mirror.look_again().await,
            }
        }
        mirror.watch_all()
    }

    fn mirrors(&self) -> MutexGuard<'_, HashMap<ScheduleId, Arc<Mirror>>> {
        // No holder of the lock can panic halfway through a change.
        self.mirrors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A copy that is kept. However that ends, also by a panic, the copy ends and is dropped.
struct Kept<'a> {
    hub: &'a SeatHub,
    mirror: &'a Arc<Mirror>,
    why: SeatsError,
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        self.hub.forget(self.mirror, false);
        self.mirror.end(self.why.clone());
    }
}
