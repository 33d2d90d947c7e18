//! Room for connections: how many are open at once, and which one goes when there is no room.
//!
//! A client costs nothing to open a connection and send nothing on it, or its request a byte at a
//! time. So a connection on which the gateway waits for its client is kept only while there is
//! room: when there is none, those that have waited longest are closed. One whose request is
//! being answered, or that follows events, stays.

use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use crate::http::wire::Progress;

/// Connections open at once, where the system allows as many.
const CONNECTIONS_MAX: usize = 16_384;
/// Open files that the process needs besides its connections.
const FILES_FOR_OTHERS: u64 = 512;
/// Connections open at once, however little the system allows.
const CONNECTIONS_MIN: usize = 64;
/// Of so many connections one is closed at once when there is no room.
const CLOSED_OF: usize = 64;
/// How long the closed ones may take to go, until further ones are closed.
const GO_WITHIN: Duration = Duration::from_millis(100);

/// The connections by their numbers, each with what says that its place is wanted.
type Places = HashMap<u64, (Arc<Progress>, Arc<Notify>)>;

/// Room for connections.
pub(crate) struct Room {
    max: usize,
    permits: Arc<Semaphore>,
    places: Mutex<Places>,
    next: AtomicU64,
}

/// The place of one connection.
pub(crate) struct Place {
    id: u64,
    room: Arc<Room>,
    progress: Arc<Progress>,
    wanted: Arc<Notify>,
    _permit: OwnedSemaphorePermit,
}

impl Room {
    /// Room for as many connections as the process may have files open.
    pub(crate) fn of_this_process() -> Arc<Self> {
        Self::new(files_max().map_or(CONNECTIONS_MAX, connections_of))
    }

    /// Room for so many connections.
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self {
            max,
            permits: Arc::new(Semaphore::new(max)),
            places: Mutex::default(),
            next: AtomicU64::new(0),
        })
    }

    /// How many connections there is room for.
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    /// Room for one more connection. Closes others when there is none.
    pub(crate) async fn permit(&self) -> io::Result<OwnedSemaphorePermit> {
        loop {
            if self.permits.available_permits() == 0 {
                self.want_some();
            }
            let permit = self.permits.clone().acquire_owned();
            if let Ok(permit) = tokio::time::timeout(GO_WITHIN, permit).await {
                return permit.map_err(io::Error::other);
            }
        }
    }

    /// The place of a connection with this progress.
    pub(crate) fn place(
        self: &Arc<Self>,
        permit: OwnedSemaphorePermit,
        progress: Arc<Progress>,
    ) -> Place {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let wanted = Arc::new(Notify::new());
        self.places().insert(id, (progress.clone(), wanted.clone()));
        Place { id, room: self.clone(), progress, wanted, _permit: permit }
    }

    /// Wants the places of the connections that have waited longest for their clients.
    fn want_some(&self) {
        let places = self.places();
        let waiting = places.values().filter_map(|(it, wanted)| Some((it.waits_since()?, wanted)));
        let mut waiting: Vec<_> = waiting.collect();
        waiting.sort_unstable_by_key(|(since, _)| *since);
        for (_, wanted) in waiting.into_iter().take(self.max.div_ceil(CLOSED_OF)) {
            wanted.notify_one();
        }
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        // A panic while the lock was held leaves whole entries.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Waits until the place is wanted while its connection waits for its client. It is awaited
    /// by the task that also drives the connection, so no request can begin meanwhile.
    pub(crate) async fn is_wanted(&self) {
        loop {
            self.wanted.notified().await;
            if self.progress.waits_since().is_some() {
                return;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.room.places().remove(&self.id);
    }
}

/// How many files the process may have open, once its limit is as high as the system allows.
/// Many systems begin with 1,024, which is no limit for a server.
fn files_max() -> Option<u64> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    match setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        Ok(()) => maximum,
        Err(_) => current,
    }
}

fn connections_of(files: u64) -> usize {
    let left = usize::try_from(files.saturating_sub(FILES_FOR_OTHERS)).unwrap_or(usize::MAX);
    left.clamp(CONNECTIONS_MIN, CONNECTIONS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long something that happens at once may take.
    const SOON: Duration = Duration::from_secs(20);

    async fn is_wanted(place: &Place) -> bool {
        tokio::time::timeout(Duration::ZERO, place.is_wanted()).await.is_ok()
    }

    #[tokio::test]
    async fn without_room_the_connection_that_has_waited_longest_goes() {
        let room = Room::new(3);
        let mut places = Vec::new();
        for _ in 0..3 {
            let permit = room.permit().await.unwrap();
            let place = room.place(permit, Arc::default());
            // It has waited longer than the next one.
            while Progress::default().waits_since() <= place.progress.waits_since() {
                tokio::task::yield_now().await;
            }
            places.push(place);
        }
        // The first one is being answered.
        let in_flight = places[0].progress.begin();
        let waits = tokio::time::timeout(GO_WITHIN / 2, room.permit()).await;
        assert!(waits.is_err(), "there is room for three");
        let wanted =
            [is_wanted(&places[0]).await, is_wanted(&places[1]).await, is_wanted(&places[2]).await];
        assert_eq!(wanted, [false, true, false]);
        drop(places.remove(1));
        assert!(tokio::time::timeout(SOON, room.permit()).await.is_ok());
        drop(in_flight);
    }

    #[tokio::test]
    async fn a_connection_that_has_begun_to_be_answered_meanwhile_stays() {
        let room = Room::new(1);
        let place = room.place(room.permit().await.unwrap(), Arc::default());
        room.want_some();
        let in_flight = place.progress.begin();
        assert!(!is_wanted(&place).await);
        drop(in_flight);
        room.want_some();
        assert!(is_wanted(&place).await);
    }

    #[test]
    fn there_are_no_more_connections_than_files() {
        assert_eq!(connections_of(1_024), 512);
        assert_eq!(connections_of(100), CONNECTIONS_MIN);
        assert_eq!(connections_of(u64::MAX), CONNECTIONS_MAX);
    }
}
