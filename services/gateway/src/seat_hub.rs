//! One copy of each seat map that is looked at, for everybody who looks.
//!
//! A copy listens to what the concert service announces, reads the map once, and takes in
//! each change as it comes. A hole, a new connection and every few seconds make it ask what
//! came since, so an announcement may get lost. However many read or watch, the store is
//! asked once. A copy that nobody wants any more is dropped.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use events::{
    Command, Problem, ScheduleId, codes,
    concert::{GetSeatChanges, GetSeats, SeatDelta},
};
use mesh::{MeshClient, RequestHeaders};
use tokio::{
    sync::{Notify, broadcast, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    call::json,
    seat_keeper::Keeper,
    seat_map::{At, Frame, Gap, Map},
};

/// Copies at once at most; further maps are read from the service each time.
const MIRRORS_MAX: usize = 256;
/// How long a copy is kept that nobody wants.
const IDLE_MS: u64 = 60_000;
/// A copy that could not be compared for so long is not shown any more.
const STALE_MS: u64 = 15_000;
/// Changes that a watcher may lag behind.
const CHANNEL_FRAMES_MAX: usize = 512;
/// How long a comparison may take that a watcher waits for.
const LOOK_WITHIN: Duration = Duration::from_secs(1);
/// For each time that a map takes to be encoded, it rests so many times as long.
const ENCODING_RESTS: u32 = 9;

/// The copies of this process.
pub(crate) struct SeatHub {
    client: MeshClient,
    mirrors: Mutex<HashMap<ScheduleId, Arc<Mirror>>>,
    /// From when on all copies count their time.
    born: Instant,
    shutdown: CancellationToken,
}

impl SeatHub {
    /// A hub without any copy.
    pub(crate) fn new(client: MeshClient, shutdown: CancellationToken) -> Self {
        Self { client, mirrors: Mutex::default(), born: Instant::now(), shutdown }
    }

    /// The copy of a schedule's map, made when there is none; `None` when there is no room
    /// for another.
    ///
    /// # Errors
    /// `not_found`, or `unavailable` when the map cannot be read.
    pub(crate) async fn mirror(
        self: &Arc<Self>,
        schedule: ScheduleId,
    ) -> Result<Option<Arc<Mirror>>, Problem> {
        let Some(mirror) = self.find_or_begin(schedule) else { return Ok(None) };
        mirror.is_begun().await?;
        Ok(Some(mirror))
    }

    fn find_or_begin(self: &Arc<Self>, schedule: ScheduleId) -> Option<Arc<Mirror>> {
        let mut mirrors = self.mirrors();
        if let Some(mirror) = mirrors.get(&schedule) {
            // Under the lock: who is found is not dropped as idle a moment later.
            mirror.touch();
            return Some(mirror.clone());
        }
        if mirrors.len() >= MIRRORS_MAX {
            let unwatched = mirrors.values().filter(|mirror| mirror.watchers() == 0);
            let longest = unwatched.min_by_key(|mirror| mirror.used_ms.load(Ordering::Relaxed))?;
            let longest = longest.schedule;
            mirrors.remove(&longest)?.stop.cancel();
        }
        let mirror = Arc::new(Mirror::new(schedule, self.born));
        mirrors.insert(schedule, mirror.clone());
        tokio::spawn(self.clone().keep(mirror.clone()));
        Some(mirror)
    }

    async fn keep(self: Arc<Self>, mirror: Arc<Mirror>) {
        let mut keeper = Keeper::new(&self.client, &mirror);
        let ended = tokio::select! {
            () = self.shutdown.cancelled() => Ok(()),
            () = mirror.stop.cancelled() => Ok(()),
            ended = keeper.run(|| self.forget(&mirror, true)) => ended,
        };
        self.forget(&mirror, false);
        mirror.end(ended.err().unwrap_or_else(away));
    }

    /// Forgets a copy, perhaps only if it is idle; whether it did.
    fn forget(&self, mirror: &Arc<Mirror>, only_idle: bool) -> bool {
        let mut mirrors = self.mirrors();
        if only_idle && !mirror.is_idle() {
            return false;
        }
        // Another may have taken its place.
        if mirrors.get(&mirror.schedule).is_some_and(|known| Arc::ptr_eq(known, mirror)) {
            mirrors.remove(&mirror.schedule);
        }
        true
    }

    /// Begins to watch a map: what to send at once, and what comes after it. Who has the map
    /// of `last` gets the changes since, if they are known anywhere, or else the map.
    ///
    /// # Errors
    /// `unavailable` when the copy has just been given up.
    pub(crate) async fn watch(
        &self,
        mirror: &Mirror,
        last: Option<At>,
    ) -> Result<(Vec<Frame>, broadcast::Receiver<Signal>), Problem> {
        let Some(last) = last else { return mirror.watch_all() };
        // Once as it is, once more when the rest has been fetched.
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
        // Nothing that holds the lock can panic half way through a change.
        self.mirrors.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a watcher hears.
#[derive(Debug, Clone)]
pub(crate) enum Signal {
    /// The next event.
    Event(Frame),
    /// The copy is given up; whoever comes back gets another.
    End,
}

/// What a copy is good for.
#[derive(Debug, Clone)]
enum Standing {
    Beginning,
    Begun,
    Ended(Problem),
}

/// The copy of one map.
pub(crate) struct Mirror {
    pub(crate) schedule: ScheduleId,
    shown: Mutex<Option<Shown>>,
    standing: watch::Sender<Standing>,
    changes: broadcast::Sender<Signal>,
    /// Asks the keeper to compare now.
    pub(crate) look: Notify,
    /// Counts the comparisons.
    compared: watch::Sender<u64>,
    /// One of those who come back at once fetches what all of them missed.
    reaching: tokio::sync::Mutex<()>,
    born: Instant,
    used_ms: AtomicU64,
    confirmed_ms: AtomicU64,
    stop: CancellationToken,
}

/// A map and what was made of it.
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
    fn new(schedule: ScheduleId, born: Instant) -> Self {
        let now_ms = born.elapsed().as_millis() as u64;
        Self {
            schedule,
            shown: Mutex::default(),
            standing: watch::Sender::new(Standing::Beginning),
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

    /// The map as a response body, and which map it is. It may be a moment older than what
    /// watchers have seen: a large map that changes all the time is not encoded for every
    /// reader.
    ///
    /// # Errors
    /// `unavailable` when the copy has not been compared for too long.
    pub(crate) fn body(&self, section: Option<&str>) -> Result<(At, Bytes), Problem> {
        if self.elapsed_ms().saturating_sub(self.confirmed_ms.load(Ordering::Relaxed)) > STALE_MS {
            return Err(away());
        }
        let mut shown = self.shown();
        let shown = shown.as_mut().ok_or_else(away)?;
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
            // Of names that are made up none is kept.
            Some(name) if shown.map.has(name) => {
                shown.sections.insert(name.to_owned(), encoded);
            }
            Some(_) => {}
        }
        Ok((at, body))
    }

    fn watch_all(&self) -> Result<(Vec<Frame>, broadcast::Receiver<Signal>), Problem> {
        let mut shown = self.shown();
        let shown = self.watchable(&mut shown)?;
        let at = shown.map.at();
        let made = shown.snapshot.take().filter(|(made_at, _)| *made_at == at);
        let (_, frame) = made.unwrap_or_else(|| (at, shown.map.snapshot()));
        shown.snapshot = Some((at, frame.clone()));
        // Under the lock: the next change goes to whoever has this map.
        Ok((vec![frame], self.changes.subscribe()))
    }

    #[expect(clippy::type_complexity, reason = "what is missing is no failure")]
    fn watch_since(
        &self,
        last: At,
    ) -> Result<Result<(Vec<Frame>, broadcast::Receiver<Signal>), Gap>, Problem> {
        let mut shown = self.shown();
        let shown = self.watchable(&mut shown)?;
        Ok(match shown.map.since(last) {
            Gap::Deltas(missed) => Ok((missed, self.changes.subscribe())),
            gap => Err(gap),
        })
    }

    /// Under the lock of the map an end cannot come between the look and the subscription.
    fn watchable<'a>(&self, shown: &'a mut Option<Shown>) -> Result<&'a mut Shown, Problem> {
        match &*self.standing.borrow() {
            Standing::Ended(problem) => Err(problem.clone()),
            _ => shown.as_mut().ok_or_else(away),
        }
    }

    /// Fetches what is known of the changes after `last` and is not here.
    async fn reach_back(&self, client: &MeshClient, last: At) {
        let _alone = self.reaching.lock().await;
        let (mut at, mut older) = (last, Vec::new());
        while let Some(first) = self.reaches_back_to()
            && first.epoch == at.epoch
            && at.sequence < first.sequence
        {
            let schedule_id = self.schedule;
            let asked = GetSeatChanges { schedule_id, epoch: at.epoch, sequence: at.sequence };
            let Ok(page) = ask(client, &asked).await else { return };
            let Some(end) = page.deltas.last() else { return };
            at.sequence = end.sequence;
            older.extend(page.deltas);
        }
        if let Some(shown) = self.shown().as_mut() {
            shown.map.reach_back(last.epoch, &older);
        }
    }

    /// Compares, because somebody has come further elsewhere, or seems to have.
    async fn look_again(&self) {
        let mut compared = self.compared.subscribe();
        compared.mark_unchanged();
        self.look.notify_one();
        let _ = tokio::time::timeout(LOOK_WITHIN, compared.changed()).await;
    }

    /// Waits for the first reading.
    async fn is_begun(&self) -> Result<(), Problem> {
        let mut standing = self.standing.subscribe();
        let begun = standing.wait_for(|standing| !matches!(standing, Standing::Beginning)).await;
        match &*begun.map_err(|_| away())? {
            Standing::Ended(problem) => Err(problem.clone()),
            _ => Ok(()),
        }
    }

    /// Takes over a map that was read; who watches gets all of it.
    pub(crate) fn replace(&self, map: Map) {
        let mut shown = self.shown();
        if self.watchers() > 0 {
            let _ = self.changes.send(Signal::Event(map.snapshot()));
        }
        let sections = HashMap::new();
        *shown = Some(Shown { map, whole: None, sections, snapshot: None });
        self.standing.send_replace(Standing::Begun);
    }

    /// Takes in the next change, if it is the next one.
    pub(crate) fn apply(&self, delta: &SeatDelta) {
        let mut shown = self.shown();
        let Some(shown) = shown.as_mut() else { return };
        if let Some(frame) = shown.map.apply(delta) {
            // Under the lock: changes go out in their order.
            let _ = self.changes.send(Signal::Event(frame));
        }
    }

    /// How far it has come, once it has begun.
    pub(crate) fn at(&self) -> Option<At> {
        self.shown().as_ref().map(|shown| shown.map.at())
    }

    fn reaches_back_to(&self) -> Option<At> {
        self.shown().as_ref().map(|shown| shown.map.reaches_back_to())
    }

    /// It was compared; whether it is as the service has it.
    pub(crate) fn compared(&self, is_same: bool) {
        if is_same {
            self.confirmed_ms.store(self.elapsed_ms(), Ordering::Relaxed);
        }
        self.compared.send_modify(|count| *count += 1);
    }

    fn end(&self, problem: Problem) {
        let _shown = self.shown();
        self.standing.send_replace(Standing::Ended(problem));
        let _ = self.changes.send(Signal::End);
    }

    fn touch(&self) {
        self.used_ms.store(self.elapsed_ms(), Ordering::Relaxed);
    }

    fn is_idle(&self) -> bool {
        let unused = self.elapsed_ms().saturating_sub(self.used_ms.load(Ordering::Relaxed));
        self.watchers() == 0 && unused > IDLE_MS
    }

    fn watchers(&self) -> usize {
        self.changes.receiver_count()
    }

    fn elapsed_ms(&self) -> u64 {
        self.born.elapsed().as_millis() as u64
    }

    fn shown(&self) -> MutexGuard<'_, Option<Shown>> {
        // Nothing that holds the lock can panic half way through a change.
        self.shown.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Asks the concert service.
pub(crate) async fn ask<C: Command>(client: &MeshClient, command: &C) -> Result<C::Reply, Problem> {
    let answered = client.ask(C::ENDPOINT, json(command), RequestHeaders::default()).await?;
    let read = |_| Problem::from(codes::INTERNAL);
    if answered.is_granted() {
        return serde_json::from_slice(&answered.body).map_err(read);
    }
    Err(serde_json::from_slice(&answered.body).unwrap_or_else(read))
}

/// Reads a map whole.
pub(crate) async fn read(client: &MeshClient, schedule_id: ScheduleId) -> Result<Map, Problem> {
    ask(client, &GetSeats { schedule_id, section: None }).await.map(Map::new)
}

fn away() -> Problem {
    Problem::new(codes::UNAVAILABLE, "The seat map cannot be read right now.")
        .with("retry_after_secs", 1)
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

    /// A copy of a map of two seats, which stands at 7.5.
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

    fn heard(signals: &mut broadcast::Receiver<Signal>) -> Vec<u64> {
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
        assert_eq!((first[0].sequence, heard(&mut new)), (5, vec![6, 7]));
        assert_eq!((missed[0].sequence, heard(&mut back)), (6, vec![7]));
        assert_eq!(mirror.watch_since(at(4)).unwrap().unwrap_err(), Gap::Older);
    }

    #[test]
    fn who_watches_a_copy_that_has_ended_is_sent_away() {
        let mirror = mirror();
        let (_, mut signals) = mirror.watch_all().unwrap();
        mirror.end(away());
        assert!(matches!(signals.try_recv(), Ok(Signal::End)));
        assert!(mirror.watch_all().unwrap_err().is(codes::UNAVAILABLE));
        assert!(mirror.watch_since(at(5)).unwrap_err().is(codes::UNAVAILABLE));
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
    fn a_copy_that_was_not_compared_for_long_is_not_shown() {
        let long_ago = Instant::now() - Duration::from_millis(STALE_MS + 1_000);
        let mut mirror = mirror();
        mirror.born = long_ago;
        assert!(mirror.body(None).unwrap_err().is(codes::UNAVAILABLE));
        mirror.compared(false);
        assert!(mirror.body(None).is_err());
        mirror.compared(true);
        assert!(mirror.body(None).is_ok());
    }
}
