//! The seat map on Valkey and a plain model of it take the same random batches of changes, in any
//! order and some of them again, and some that fail. After each batch both must show the same, and
//! so must a watcher who applies the changes that were announced.
//!
//! `LOCKSTEP_SEED=<n> cargo test -p concert lockstep` takes the batches of one seed, and
//! `LOCKSTEP_SEEDS=<n>` those of so many.

use std::collections::BTreeMap;

use events::{
    EventId,
    concert::{Epoch, MapState, SeatState},
};
use mesh::valkey::{FunctionCall, ReplayedEvent};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};
use uuid::Uuid;

use super::harness::{Harness, SCHEDULE, now};

/// Seeds of a usual run.
const SEEDS: u64 = 12;
/// Batches of a seed.
const BATCHES: usize = 60;
/// Seats of each of the two sections of the harness.
const SEATS: u32 = 10;
/// The stages of one owner, in their order.
const STAGES: [&str; 3] = ["held", "sold", "freed"];
/// Seats of one change at most.
const CHANGE_SEATS: usize = 50;

/// What the map is compared with: the latest update of each seat.
#[derive(Default)]
struct Model {
    /// The version and the stage of the latest update.
    seats: BTreeMap<String, (u32, usize)>,
    is_off: bool,
    sequence: u64,
}

impl Model {
    /// The seats that are not free.
    fn shown(&self) -> BTreeMap<String, SeatState> {
        let state = |(seat, (_, stage)): (&String, &(u32, usize))| match stage {
            0 => Some((seat.clone(), SeatState::Held)),
            1 => Some((seat.clone(), SeatState::Sold)),
            _ => None,
        };
        self.seats.iter().filter_map(state).collect()
    }

    fn update(&mut self, seat: &str, version: u32, stage: usize) {
        let latest = self.seats.entry(seat.to_owned()).or_insert((version, stage));
        *latest = (*latest).max((version, stage));
    }
}

/// A map, its model and a watcher.
struct Pair {
    harness: Harness,
    model: Model,
    random: StdRng,
    /// The calls so far that did not fail.
    calls: Vec<FunctionCall>,
    watcher: (Epoch, u64, BTreeMap<String, SeatState>),
    story: Vec<String>,
}

#[tokio::test]
async fn lockstep_of_seat_map_model_and_watcher_from_an_empty_map_to_a_replayed_one() {
    for seed in mesh::testkit::lockstep_seeds(SEEDS) {
        println!("LOCKSTEP_SEED={seed} cargo test -p concert lockstep");
        let harness = Harness::open().await;
        let epoch = harness.snapshot().await.epoch;
        let mut pair = Pair {
            harness,
            model: Model::default(),
            random: StdRng::seed_from_u64(seed),
            calls: Vec::new(),
            watcher: (epoch, 0, BTreeMap::new()),
            story: Vec::new(),
        };
        for _ in 0..BATCHES {
            pair.batch().await;
        }
        pair.replay().await;
    }
}

impl Pair {
    async fn batch(&mut self) {
        let (before, was_off) = (self.model.shown(), self.model.is_off);
        let (mut batch, mut fails) = (Vec::new(), false);
        for _ in 0..self.random.random_range(1..8) {
            let again = self.random.random_bool(0.15) && !self.calls.is_empty();
            match self.random.random_range(0..100) {
                0 => {
                    batch.push(FunctionCall::new("off").arg(SCHEDULE));
                    self.model.is_off = true;
                }
                1..8 => {
                    let failing = self.failing();
                    fails |= failing.is_some();
                    batch.extend(failing);
                    continue;
                }
                // What was done before changes nothing: a later update stands.
                _ if again => {
                    batch.push(self.calls[self.random.random_range(0..self.calls.len())].clone())
                }
                _ => {
                    let (version, stage) =
                        (self.random.random_range(1..30), self.random.random_range(0..3));
                    let call = self.mark(version, stage);
                    batch.push(call);
                }
            }
            self.calls.extend(batch.last().cloned());
        }
        let done = self.harness.map.perform(&batch, now()).await;
        assert_eq!(done.is_err(), fails, "{done:?} {}", self.story.join("\n"));
        let after = self.model.shown();
        let changed = (before.keys().chain(after.keys()))
            .filter(|seat| before.get(*seat) != after.get(*seat))
            .collect::<std::collections::BTreeSet<_>>();
        self.model.sequence += changed.len().div_ceil(CHANGE_SEATS) as u64;
        self.model.sequence += u64::from(self.model.is_off && !was_off);
        self.agrees().await;
        if self.random.random_bool(0.3) {
            self.watch().await;
        }
    }

    /// One to four seats of one owner.
    fn some_seats(&mut self) -> Vec<String> {
        let section = ["A", "B"][self.random.random_range(0..2)];
        let first = self.random.random_range(1..=SEATS);
        let last = (first + self.random.random_range(0..4)).min(SEATS);
        (first..=last).map(|number| format!("{section}-1-{number}")).collect()
    }

    /// A call that fails at its last seat, which has an update; `None` before there is one.
    fn failing(&mut self) -> Option<FunctionCall> {
        let known: Vec<String> = self.model.seats.keys().cloned().collect();
        let last = known.get(self.random.random_range(0..known.len().max(1)))?;
        let seats = self.some_seats();
        let call = FunctionCall::new("mark").arg(SCHEDULE).arg("no number").arg("sold");
        Some(
            seats
                .iter()
                .filter(|seat| *seat != last)
                .fold(call, |call, seat| call.arg(seat))
                .arg(last),
        )
    }

    fn mark(&mut self, version: u32, stage: usize) -> FunctionCall {
        let seats = self.some_seats();
        self.story.push(format!("{version} {} {seats:?}", STAGES[stage]));
        for seat in &seats {
            self.model.update(seat, version, stage);
        }
        let call = FunctionCall::new("mark").arg(SCHEDULE).arg(version).arg(STAGES[stage]);
        seats.iter().fold(call, |call, seat| call.arg(seat))
    }

    /// Map and model show the same.
    async fn agrees(&self) {
        let map = self.harness.snapshot().await;
        let shown: BTreeMap<_, _> =
            map.seats.iter().map(|seat| (seat.seat.0.clone(), seat.state)).collect();
        let expected = self.model.shown();
        assert_eq!(shown, expected, "{}", self.story.join("\n"));
        assert_eq!(map.sequence, self.model.sequence, "{}", self.story.join("\n"));
        assert_eq!(map.state == MapState::Cancelled, self.model.is_off);
        for section in &map.sections {
            let count = |state| {
                let of_it = |(seat, is): &(&String, &SeatState)| {
                    seat.starts_with(&format!("{}-", section.section)) && **is == state
                };
                expected.iter().filter(of_it).count() as i64
            };
            let (held, sold) = (count(SeatState::Held), count(SeatState::Sold));
            let free = if self.model.is_off { 0 } else { i64::from(SEATS) - held - sold };
            assert_eq!((section.free, section.held, section.sold), (free, held, sold));
        }
    }

    /// The watcher applies what was announced since the last time, and sees the map.
    async fn watch(&mut self) {
        let (epoch, mut sequence, mut seen) =
            std::mem::replace(&mut self.watcher, (Epoch(0), 0, BTreeMap::new()));
        loop {
            let changes = self.harness.since(epoch, sequence).await;
            assert!(!changes.is_gone);
            for delta in &changes.deltas {
                sequence += 1;
                assert_eq!(delta.sequence, sequence, "without a gap");
                for seat in &delta.seats {
                    let before = match seat.state {
                        SeatState::Free => seen.remove(&seat.seat.0),
                        state => seen.insert(seat.seat.0.clone(), state),
                    };
                    let before = before.unwrap_or(SeatState::Free);
                    assert_ne!(before, seat.state, "only what changes is announced");
                }
            }
            if changes.deltas.is_empty() {
                break;
            }
        }
        assert_eq!(
            (sequence, &seen),
            (self.model.sequence, &self.model.shown()),
            "{}",
            self.story.join("\n")
        );
        self.watcher = (epoch, sequence, seen);
    }

    /// All of it in another order gives the same map.
    async fn replay(&mut self) {
        self.calls.shuffle(&mut self.random);
        let stored = |call: &FunctionCall| ReplayedEvent {
            event_id: EventId(Uuid::now_v7()),
            call: call.clone(),
        };
        let stream: Vec<_> = self.calls.iter().map(stored).collect();
        let replay = self.harness.begin().await;
        replay.feed(&stream, now()).await.unwrap();
        replay.swap().await.unwrap();
        let map = self.harness.snapshot().await;
        let shown: BTreeMap<_, _> =
            map.seats.into_iter().map(|seat| (seat.seat.0, seat.state)).collect();
        assert_eq!(shown, self.model.shown());
        assert_eq!(map.state == MapState::Cancelled, self.model.is_off);
    }
}
