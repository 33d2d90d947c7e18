//! The room on Valkey and the plain model of it take the same random steps: events of holds and
//! payments come twice, late and in any order, time passes, and in the end the store is lost and
//! rebuilt. After each step both must have emitted the same and show the same place to each fan.
//!
//! `LOCKSTEP_SEED=<n> cargo test -p queue lockstep` takes the steps of one seed, and
//! `LOCKSTEP_SEEDS=<n>` those of so many.

use std::future::pending;

use events::{
    Event,
    concert::ScheduleState,
    payment::PaymentFailure,
    queue::PlaceState,
    state::{SeatOwner, SeatStated},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};

use super::{
    harness::{
        ADMISSION, Harness, SCHEDULE, at, batches, cancelled, cancelled_schedule, completed,
        created, failed, fan, hold, hold_expired, known, schedule_stated, withdrawn,
    },
    model::{Model, Step},
};
use crate::rebuild::{Known, rebuild};

/// Seeds of a usual run.
const SEEDS: u64 = 24;
/// Steps of a seed before everything that is on its way comes.
const STEPS: usize = 160;
const FANS: u128 = 9;
const SEATS: u32 = 14;
/// When the show of `opened` begins.
const STARTS_AT: i64 = 86_400_000;

/// A room and its model.
struct Pair {
    harness: Harness,
    model: Model,
    random: StdRng,
    now: i64,
    /// Events that are on their way.
    coming: Vec<Step>,
    holds: u128,
    /// What the room can be rebuilt from: the events that it has handled, and its own.
    handled: Vec<Known>,
    emitted: Vec<Known>,
    /// What happened so far, for the message of a failure.
    taken: Vec<(i64, Step)>,
}

#[tokio::test]
async fn lockstep_of_room_and_model_from_the_first_fan_to_a_rebuilt_store() {
    for seed in mesh::testkit::lockstep_seeds(SEEDS) {
        println!("LOCKSTEP_SEED={seed} cargo test -p queue lockstep");
        let mut pair = Pair::open(seed).await;
        for _ in 0..STEPS {
            let step = pair.next();
            pair.take(step).await;
        }
        while let Some(step) = pair.coming.pop() {
            pair.take(step).await;
        }
        pair.lose_and_rebuild().await;
        // Passes and holds run out, and the next fans are admitted.
        for _ in 0..40 {
            pair.now += 2_500;
            pair.take(Step::Tick).await;
        }
    }
}

impl Pair {
    async fn open(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        // Some rooms are used until the show begins.
        let now = if random.random_bool(0.25) { STARTS_AT - 120_000 } else { 0 };
        Self {
            harness: Harness::open_with(ADMISSION, SEATS as usize).await,
            model: Model::new(ADMISSION, SEATS, STARTS_AT),
            random,
            now,
            coming: Vec::new(),
            holds: 0,
            handled: Vec::new(),
            emitted: Vec::new(),
            taken: Vec::new(),
        }
    }

    fn next(&mut self) -> Step {
        self.now += match self.random.random_range(0..20) {
            0 => self.random.random_range(5_000..40_000),
            1..6 => self.random.random_range(100..1_500),
            _ => self.random.random_range(0..60),
        };
        let fan = self.random.random_range(0..FANS);
        match self.random.random_range(0..100) {
            0..25 => Step::Enter(fan),
            25..30 => Step::Leave(fan),
            30..50 => Step::Tick,
            50..65 => self.reserve(fan),
            65..66 => Step::Withdrawn(fan),
            66 if self.random.random_bool(0.2) => Step::ShowCancelled,
            _ => self.arrives().unwrap_or(Step::Tick),
        }
    }

    /// A fan reserves a seat; what becomes of the hold is on its way too, in any order.
    fn reserve(&mut self, fan: u128) -> Step {
        self.holds += 1;
        let (hold, now) = (self.holds, self.now);
        let hard_cap = now + self.random.random_range(3_000..90_000);
        let was_paid = self.random.random_bool(0.5);
        let seats = self.random.random_range(1..3);
        let requested_at = now + self.random.random_range(0..3_000);
        match self.random.random_range(0..4) {
            0 => self.coming.push(Step::Expired { hold, fan }),
            1 => self
                .coming
                .extend([Step::HoldGone { hold, fan, requested_at }, Step::Expired { hold, fan }]),
            _ if was_paid => self.coming.push(Step::Paid { hold, fan, seats, requested_at }),
            _ => self.coming.extend([
                Step::Paid { hold, fan, seats, requested_at },
                Step::Cancelled { hold, fan, was_paid: true },
            ]),
        }
        let held = Step::Held { hold, fan, hard_cap };
        if self.random.random_bool(0.7) {
            return held;
        }
        self.coming.push(held);
        self.arrives().expect("it is on its way")
    }

    /// Any of the events on their way; some come again.
    fn arrives(&mut self) -> Option<Step> {
        if self.coming.is_empty() {
            return None;
        }
        let which = self.random.random_range(0..self.coming.len());
        let comes_again = self.random.random_bool(0.2);
        Some(if comes_again { self.coming[which] } else { self.coming.swap_remove(which) })
    }

    async fn take(&mut self, step: Step) {
        self.taken.push((self.now, step));
        let expected = self.model.take(step, self.now).map_err(|code| code.code.to_owned());
        let now = self.now;
        let answered = match step {
            Step::Enter(n) => self.harness.enter(fan(n), now).await.map(drop),
            Step::Leave(n) => self.harness.leave(fan(n), now).await.map(drop),
            Step::Tick => {
                self.harness.tick(now).await;
                Ok(())
            }
            Step::Held { hold, fan: n, hard_cap } => {
                self.handle(created(hold, fan(n), hard_cap)).await
            }
            Step::Expired { hold, fan: n } => self.handle(hold_expired(hold, fan(n))).await,
            Step::Cancelled { hold, fan: n, was_paid } => {
                self.handle(cancelled(hold, fan(n), was_paid)).await
            }
            Step::Paid { hold, fan: n, seats, requested_at } => {
                let mut paid = completed(hold, fan(n), requested_at);
                paid.seats = seats;
                self.handle(paid).await
            }
            Step::HoldGone { hold, fan: n, requested_at } => {
                let failed = failed(hold, fan(n), PaymentFailure::HoldGone, requested_at);
                self.handle(failed).await
            }
            Step::Withdrawn(n) => self.handle(withdrawn(fan(n))).await,
            Step::ShowCancelled => self.handle(cancelled_schedule()).await,
        };
        assert_eq!(answered.map_err(|problem| problem.code), expected, "{}", self.story());
        self.agrees().await;
    }

    async fn handle<E: Event>(&mut self, event: E) -> Result<(), events::Problem>
    where
        crate::Room: mesh::valkey::CallOn<E>,
    {
        self.handled.push(known(&event));
        self.harness.handle(event, self.now).await;
        Ok(())
    }

    /// Both have emitted the same, and show the same place to each fan.
    async fn agrees(&mut self) {
        let mut emitted = Vec::new();
        for row in self.harness.rows().await {
            self.emitted.push(Known::Event(row.subject.clone(), row.payload.clone()));
            let event = super::harness::emitted_event(row);
            let name = event.event.trim_start_matches("queue.");
            let number = event.about.as_u128() - fan(0).0.as_u128();
            let why = event.data["reason"].as_str().unwrap_or_default();
            let said = format!("{name} {number} v{} {why}", event.data["place_version"]);
            emitted.push(said.trim_end().to_owned());
        }
        assert_eq!(emitted, self.model.emitted(), "{}", self.story());
        for n in 0..FANS {
            let seen = self.harness.look(fan(n), self.now).await.ok();
            let seen =
                seen.map(|place| (place.state, place.position, place.reason, place.reserve_until));
            let expected = self.model.look(n).map(|(place, ahead)| {
                let until = (place.state == PlaceState::Active).then(|| at(place.reserve_until));
                let waits = place.state == PlaceState::Waiting;
                (place.state, waits.then_some(ahead), place.reason, until)
            });
            assert_eq!(seen, expected, "fan {n} {}", self.story());
        }
    }

    /// Valkey loses everything. The room is rebuilt from what other services state, from the events
    /// that it had handled, in any order, and from its own.
    async fn lose_and_rebuild(&mut self) {
        use rand::seq::SliceRandom;
        let state = match self.model.is_cancelled() {
            true => ScheduleState::Cancelled,
            false => ScheduleState::Open,
        };
        let mut known = vec![schedule_stated(SEATS.into(), state)];
        for (n, of, seats, cap) in self.model.owned(self.now) {
            let owner = SeatOwner {
                reservation_id: hold(n),
                user_id: fan(of),
                is_sold: cap.is_none(),
                seats,
                hard_cap_at: at(cap.unwrap_or_default()),
            };
            let seat = events::SeatId(format!("A-1-{n}"));
            known.push(Known::Seat(
                SCHEDULE,
                SeatStated { seat, hold_version: 1, owner: Some(owner) },
            ));
        }
        self.handled.shuffle(&mut self.random);
        known.append(&mut self.handled);
        known.append(&mut self.emitted);
        self.harness.kit.store.empty().await;
        rebuild(&self.harness.room, batches(known), pending(), at(self.now)).await.unwrap();
        self.model.rebuild(at(self.now).unix_millis());
        self.agrees().await;
    }

    fn story(&self) -> String {
        let last = self.taken.iter().rev().take(30).rev();
        let lines = last.map(|(at, step)| format!("\n{at:>9} {step:?}"));
        format!("after {} steps, the last ones:{}", self.taken.len(), lines.collect::<String>())
    }
}
