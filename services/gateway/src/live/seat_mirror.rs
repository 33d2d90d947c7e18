//! One copy of a seat map, and its encodings.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use events::{
    Command, Problem, ScheduleId,
    concert::{GetSeatChanges, GetSeats, SeatDelta},
};
use mesh::{MeshClient, RequestHeaders, StreamError};
use tokio::{
    sync::{Notify, broadcast, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::live::seat_map::{At, Frame, Gap, Map};

/// How long an unused copy is kept.
const IDLE_MS: u64 = 60_000;
/// A copy that could not be compared with the service for this long is no longer served.
const STALE_MS: u64 = 15_000;
/// Changes that a watcher may lag behind.
const CHANNEL_FRAMES_MAX: usize = 512;
/// How long a watcher waits for a comparison.
const LOOK_WITHIN: Duration = Duration::from_secs(1);
/// After an encoding, the map is not encoded again for so many times as long as that took.
const ENCODING_RESTS: u32 = 9;

/// Why a seat map cannot be read or followed.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum SeatsError {
    /// There is no copy that is up to date.
    #[error("no copy of the seat map is up to date")]
    Away,
    /// The changes cannot be followed.
    #[error(transparent)]
    Stream(#[from] StreamError),
    /// The concert service refuses, or does not answer; as it is said to any caller.
    #[error("{0}")]
    Refused(Box<Problem>),
    /// The concert service's answer cannot be read.
    #[error("the seat map as it was answered cannot be read")]
    Malformed,
}

/// What a watcher receives.
#[derive(Debug, Clone)]
pub(crate) enum Signal {
    /// The next event.
    Event(Frame),
    /// The copy is dropped; a client that comes back gets another.
    End,
}

/// The state of a copy.
#[derive(Debug, Clone)]
enum State {
    Loading,
    Loaded,
    Ended(SeatsError),
}

/// The copy of one map.
pub(crate) struct Mirror {
    pub(crate) schedule: ScheduleId,
    shown: Mutex<Option<Shown>>,
    state: watch::Sender<State>,
    changes: broadcast::Sender<Signal>,
    /// Asks the keeper to compare now.
    pub(crate) look: Notify,
    /// Counts the comparisons.
    compared: watch::Sender<u64>,
    /// Of clients that come back at the same time, one fetches what all of them missed.
    reaching: tokio::sync::Mutex<()>,
    born: Instant,
    used_ms: AtomicU64,
    confirmed_ms: AtomicU64,
    stop: CancellationToken,
}

/// A map and its encodings.
struct Shown {
    map: Map,
    whole: Option<Encoded>,
    sections: HashMap<String, Encoded>,
    snapshot: Option<(At, Frame)>,
}

struct Encoded {
    at: At,
    body: Bytes,
    rests_until: Instant,
}

impl Mirror {
    /// A copy that has not been read yet.
    pub(crate) fn new(schedule: ScheduleId, born: Instant) -> Self {
        let now_ms = born.elapsed().as_millis() as u64;
        Self {
            schedule,
            shown: Mutex::default(),
            state: watch::Sender::new(State::Loading),
            changes: broadcast::Sender::new(CHANNEL_FRAMES_MAX),
            look: Notify::new(),
            compared: watch::Sender::new(0),
            reaching: tokio::sync::Mutex::default(),
            born,
            used_ms: AtomicU64::new(now_ms),
            confirmed_ms: AtomicU64::new(now_ms),
            stop: CancellationToken::new(),
        }
    }

    /// The map as a response body, and its place in the map's history. It may be a moment older
    /// than what watchers have seen: a large map that changes all the time is not encoded for
    /// every reader.
    ///
    /// # Errors
    /// When the copy has not been compared for too long.
    pub(crate) fn body(&self, section: Option<&str>) -> Result<(At, Bytes), SeatsError> {
        if self.elapsed_ms().saturating_sub(self.confirmed_ms.load(Ordering::Relaxed)) > STALE_MS {
            return Err(SeatsError::Away);
        }
        let mut shown = self.shown();
        let shown = shown.as_mut().ok_or(SeatsError::Away)?;
        let encoded = match section {
            None => shown.whole.as_ref(),
            Some(name) => shown.sections.get(name),
        };
        let now = Instant::now();
        if let Some(encoded) = encoded
            && (encoded.at == shown.map.at() || now < encoded.rests_until)
        {
            return Ok((encoded.at, encoded.body.clone()));
        }
        let (at, body) = (shown.map.at(), shown.map.body(section));
        let rests_until = now + now.elapsed() * ENCODING_RESTS;
        let encoded = Encoded { at, body: body.clone(), rests_until };
        match section {
            None => shown.whole = Some(encoded),
            // Bodies of made-up section names are not kept.
            Some(name) if shown.map.has(name) => {
                shown.sections.insert(name.to_owned(), encoded);
            }
            Some(_) => {}
        }
        Ok((at, body))
    }

    /// Begins to watch: the map as it is, and the signals after it.
    pub(crate) fn watch_all(
        &self,
    ) -> Result<(Vec<Frame>, broadcast::Receiver<Signal>), SeatsError> {
        let mut shown = self.shown();
        let shown = self.watchable(&mut shown)?;
        let at = shown.map.at();
        let made = shown.snapshot.take().filter(|(made_at, _)| *made_at == at);
        let (_, frame) = made.unwrap_or_else(|| (at, shown.map.snapshot()));
        shown.snapshot = Some((at, frame.clone()));
        // Under the lock: the next change goes to every client that has this map.
        Ok((vec![frame], self.changes.subscribe()))
    }

    /// Begins to watch from a place on: the changes since, and the signals after them; or what is
    /// missing here.
    #[expect(clippy::type_complexity, reason = "a gap is no failure")]
    pub(crate) fn watch_since(
        &self,
        last: At,
    ) -> Result<Result<(Vec<Frame>, broadcast::Receiver<Signal>), Gap>, SeatsError> {
        let mut shown = self.shown();
        let shown = self.watchable(&mut shown)?;
        Ok(match shown.map.since(last) {
            Gap::Deltas(missed) => Ok((missed, self.changes.subscribe())),
            gap => Err(gap),
        })
    }

    /// Under the lock of the map the copy cannot end between this check and the subscription.
    fn watchable<'a>(&self, shown: &'a mut Option<Shown>) -> Result<&'a mut Shown, SeatsError> {
        match &*self.state.borrow() {
            State::Ended(why) => Err(why.clone()),
            _ => shown.as_mut().ok_or(SeatsError::Away),
        }
    }

    /// Fetches the changes after `last` that are not here and that the service still has.
    pub(crate) async fn reach_back(&self, client: &MeshClient, last: At) {
        let _alone = self.reaching.lock().await;
        let (mut at, mut older) = (last, Vec::new());
        while let Some(first) = self.reaches_back_to()
            && first.epoch == at.epoch
            && at.sequence < first.sequence
        {
            let schedule_id = self.schedule;
            let query = GetSeatChanges { schedule_id, epoch: at.epoch, sequence: at.sequence };
            let Ok(page) = request(client, &query).await else { return };
            let Some(end) = page.deltas.last() else { return };
            at.sequence = end.sequence;
            older.extend(page.deltas);
        }
        if let Some(shown) = self.shown().as_mut() {
            shown.map.reach_back(last.epoch, &older);
        }
    }

    /// Compares now: a client has come further with another gateway, or seems to have.
    pub(crate) async fn look_again(&self) {
        let mut compared = self.compared.subscribe();
        compared.mark_unchanged();
        self.look.notify_one();
        let _ = tokio::time::timeout(LOOK_WITHIN, compared.changed()).await;
    }

    /// Waits until the map has been read.
    pub(crate) async fn is_loaded(&self) -> Result<(), SeatsError> {
        let mut state = self.state.subscribe();
        let loaded = state.wait_for(|state| !matches!(state, State::Loading)).await;
        match &*loaded.map_err(|_| SeatsError::Away)? {
            State::Ended(why) => Err(why.clone()),
            _ => Ok(()),
        }
    }

    /// Replaces the map by one that was read; watchers get all of it.
    pub(crate) fn replace(&self, map: Map) {
        let mut shown = self.shown();
        if self.watchers() > 0 {
            let _ = self.changes.send(Signal::Event(map.snapshot()));
        }
        let sections = HashMap::new();
        *shown = Some(Shown { map, whole: None, sections, snapshot: None });
        self.state.send_replace(State::Loaded);
    }

    /// Applies a change, if it is the next one.
    pub(crate) fn apply(&self, delta: &SeatDelta) {
        let mut shown = self.shown();
        let Some(shown) = shown.as_mut() else { return };
        if let Some(frame) = shown.map.apply(delta) {
            // Under the lock: changes are sent in their order.
            let _ = self.changes.send(Signal::Event(frame));
        }
    }

    /// Its place in the map's history, once it is loaded.
    pub(crate) fn at(&self) -> Option<At> {
        self.shown().as_ref().map(|shown| shown.map.at())
    }

    fn reaches_back_to(&self) -> Option<At> {
        self.shown().as_ref().map(|shown| shown.map.reaches_back_to())
    }

    /// Notes a comparison, and whether the copy is now as the service has it.
    pub(crate) fn compared(&self, is_same: bool) {
        if is_same {
            self.confirmed_ms.store(self.elapsed_ms(), Ordering::Relaxed);
        }
        self.compared.send_modify(|count| *count += 1);
    }

    /// Ends it: requests that wait for it and connections that watch it learn why.
    pub(crate) fn end(&self, why: SeatsError) {
        let _shown = self.shown();
        self.state.send_replace(State::Ended(why));
        let _ = self.changes.send(Signal::End);
    }

    /// Notes that it is used now.
    pub(crate) fn touch(&self) {
        self.used_ms.store(self.elapsed_ms(), Ordering::Relaxed);
    }

    /// When it was last used.
    pub(crate) fn used_ms(&self) -> u64 {
        self.used_ms.load(Ordering::Relaxed)
    }

    /// Cancelled when another copy takes its place.
    pub(crate) fn stop(&self) -> &CancellationToken {
        &self.stop
    }

    /// Whether nobody has used it for a while.
    pub(crate) fn is_idle(&self) -> bool {
        let unused = self.elapsed_ms().saturating_sub(self.used_ms());
        self.watchers() == 0 && unused > IDLE_MS
    }

    /// How many connections watch it.
    pub(crate) fn watchers(&self) -> usize {
        self.changes.receiver_count()
    }

    fn elapsed_ms(&self) -> u64 {
        self.born.elapsed().as_millis() as u64
    }

    fn shown(&self) -> MutexGuard<'_, Option<Shown>> {
        // No holder of the lock can panic halfway through a change.
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends a query to the concert service.
pub(crate) async fn request<C: Command>(
    client: &MeshClient,
    command: &C,
) -> Result<C::Reply, SeatsError> {
    let body = serde_json::to_vec(command).expect("queries are plain data").into();
    let answered = client.request(C::ENDPOINT, body, RequestHeaders::default()).await;
    let answered = answered.map_err(|problem| SeatsError::Refused(Box::new(problem)))?;
    if answered.is_granted() {
        return serde_json::from_slice(&answered.body).map_err(|_| SeatsError::Malformed);
    }
    Err(serde_json::from_slice(&answered.body)
        .map_or(SeatsError::Malformed, |problem| SeatsError::Refused(Box::new(problem))))
}

/// Reads a whole map.
pub(crate) async fn read(client: &MeshClient, schedule_id: ScheduleId) -> Result<Map, SeatsError> {
    request(client, &GetSeats { schedule_id, section: None }).await.map(Map::new)
}

#[cfg(test)]
mod tests {
    use events::{
        SeatId,
        concert::{Epoch, MapState, Seat, SeatMap, SeatState, SectionCount, SectionTaken},
    };
    use uuid::Uuid;

    use super::*;

    fn at(sequence: u64) -> At {
        At { epoch: Epoch(7), sequence }
    }

    /// A copy of a map of two seats, at 7.5.
    fn mirror() -> Mirror {
        let mirror = Mirror::new(ScheduleId(Uuid::nil()), Instant::now());
        mirror.replace(Map::new(SeatMap {
            schedule_id: mirror.schedule,
            epoch: Epoch(7),
            sequence: 5,
            state: MapState::Open,
            sections: vec![SectionCount { section: "A".into(), free: 2, held: 0, sold: 0 }],
            seats: Vec::new(),
        }));
        mirror
    }

    fn hold(sequence: u64) -> SeatDelta {
        let sections = vec![SectionTaken { section: "A".into(), held: 1, sold: 0 }];
        let seats = vec![Seat { seat: SeatId("A-1-1".into()), state: SeatState::Held }];
        SeatDelta { sequence, sections, seats, state: None }
    }

    fn sequences(signals: &mut broadcast::Receiver<Signal>) -> Vec<u64> {
        let mut all = Vec::new();
        while let Ok(Signal::Event(frame)) = signals.try_recv() {
            all.push(frame.sequence);
        }
        all
    }

    #[test]
    fn a_watcher_misses_nothing_and_sees_nothing_twice() {
        let mirror = mirror();
        let (first, mut new) = mirror.watch_all().unwrap();
        mirror.apply(&hold(6));
        let (missed, mut back) = mirror.watch_since(at(5)).unwrap().unwrap();
        mirror.apply(&hold(7));
        mirror.apply(&hold(7));
        mirror.apply(&hold(9));
        assert_eq!((first[0].sequence, sequences(&mut new)), (5, vec![6, 7]));
        assert_eq!((missed[0].sequence, sequences(&mut back)), (6, vec![7]));
        assert_eq!(mirror.watch_since(at(4)).unwrap().unwrap_err(), Gap::Older);
    }

    #[test]
    fn a_copy_that_has_ended_turns_watchers_away() {
        let mirror = mirror();
        let (_, mut signals) = mirror.watch_all().unwrap();
        mirror.end(SeatsError::Away);
        assert!(matches!(signals.try_recv(), Ok(Signal::End)));
        assert!(mirror.watch_all().is_err_and(|why| matches!(why, SeatsError::Away)));
        assert!(mirror.watch_since(at(5)).is_err_and(|why| matches!(why, SeatsError::Away)));
    }

    #[test]
    fn a_body_is_encoded_once_for_each_change() {
        let mirror = mirror();
        let (named, body) = mirror.body(None).unwrap();
        assert_eq!(named, at(5));
        assert_eq!(mirror.body(None).unwrap().1.as_ptr(), body.as_ptr());
        assert!(mirror.body(Some("A")).unwrap().1.len() > 100);
        assert!(!mirror.shown().as_ref().unwrap().sections.contains_key("B"));
        mirror.body(Some("B")).unwrap();
        assert!(!mirror.shown().as_ref().unwrap().sections.contains_key("B"), "made up");
    }

    #[test]
    fn a_copy_that_was_not_compared_for_long_is_not_served() {
        let long_ago = Instant::now() - Duration::from_millis(STALE_MS + 1_000);
        let mut mirror = mirror();
        mirror.born = long_ago;
        assert!(mirror.body(None).is_err_and(|why| matches!(why, SeatsError::Away)));
        mirror.compared(false);
        assert!(mirror.body(None).is_err());
        mirror.compared(true);
        assert!(mirror.body(None).is_ok());
    }
}
