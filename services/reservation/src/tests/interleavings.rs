//! Two fans want the same three seats; the messages arrive in random orders.

use std::collections::{HashMap, HashSet};

use events::reservation::ReservationState;

use super::*;

const SEEDS: u64 = 500;
const STEPS: usize = 120;

/// SplitMix64: random enough for a test, and the same on every machine.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % bound as u64) as usize
    }

    fn pick<'a, T>(&mut self, from: &'a [T]) -> Option<&'a T> {
        (!from.is_empty()).then(|| &from[self.below(from.len())])
    }
}

/// Messages on their way. None is ever removed: each may come late, and again.
#[derive(Default)]
struct Wire {
    extensions: Vec<PaymentHoldExtensionRequested>,
    debited: Vec<PointDebited>,
}

fn step(
    harness: &mut Harness,
    wire: &mut Wire,
    held: &mut Vec<ReservationId>,
    random: &mut Random,
) {
    let user_id = fan(random.below(2) as u128);
    let reservation = random.pick(held).copied();
    match (random.below(10), reservation) {
        (0..=2, _) | (_, None) => {
            let seats: HashSet<usize> = (0..2).map(|_| 1 + random.below(3)).collect();
            let seats: Vec<usize> = seats.into_iter().collect();
            held.extend(harness.reserve(user_id, &seats).map(|hold| hold.reservation_id));
        }
        (3, Some(id)) => {
            let payment_id = payment(wire.debited.len() as u128);
            wire.extensions.push(harness.extension(id, payment_id));
            wire.debited.push(harness.debited(id, payment_id));
        }
        (4, _) => {
            if let Some(event) = random.pick(&wire.extensions) {
                harness.handle(event).unwrap();
            }
        }
        (5..=6, _) => {
            if let Some(event) = random.pick(&wire.debited) {
                let is_closing = harness.reservation(event.reservation_id).closing;
                let result = harness.handle(event);
                assert!(result.is_ok() || is_closing, "{result:?}");
            }
        }
        (7, Some(id)) => harness.sweep(id),
        (8, Some(id)) => drop(harness.cancel(user_id, id)),
        (_, _) if random.below(20) == 0 => {
            let n = random.below(3) as u128;
            let forfeit = random.below(2) == 0;
            match random.below(5) {
                0 | 1 => harness.handle(&withdrawal_requested(user_id, n, forfeit)).unwrap(),
                2 | 3 => harness.handle(&withdrawal_refused(user_id, n)).unwrap(),
                _ => harness.handle(&withdrawn(user_id, n, forfeit)).unwrap(),
            }
        }
        (_, _) => harness.now = harness.now.plus_secs(random.below(200) as i64),
    }
}

/// The invariants that must hold after every step.
fn check(harness: &Harness, seed: u64) {
    let mut owners: HashMap<&SeatId, &Reservation> = HashMap::new();
    for reservation in harness.unit.reservations.values().filter(|row| row.owns()) {
        for name in reservation.seat_ids() {
            let other = owners.insert(name, reservation);
            assert!(other.is_none(), "seed {seed}: {name} has two owners");
        }
        assert!(reservation.expires_at <= reservation.hard_cap_at, "seed {seed}");
    }
    for (name, seat) in harness.unit.seats[&SHOW].iter() {
        let owner = owners.get(name).map(|owner| (owner.id, owner.hold_version));
        let stored = seat.owner.map(|id| (id, seat.hold_version));
        assert_eq!(stored, owner, "seed {seed}: seat {name} and its owner disagree");
    }
    let marked = |row: &&Reservation| row.closing == harness.unit.is_closing(row.user_id);
    assert!(owners.values().all(marked), "seed {seed}: a reservation is marked wrongly");
    for n in 0..2 {
        let has: usize = owners.values().filter(|owner| owner.user_id == fan(n)).count();
        let held: usize = harness.unit.bought(SHOW, fan(n)).map(|it| it.seats).sum();
        assert_eq!(held, has, "seed {seed}: seats of fan {n}");
    }
}

/// Each payment got one kind of answer, and the end of every hold was emitted once.
fn check_emitted(harness: &Harness, seed: u64) {
    let mut answers: HashMap<String, HashSet<&str>> = HashMap::new();
    let mut ends: HashMap<String, usize> = HashMap::new();
    for emitted in &harness.outbox {
        let text = |name: &str| emitted.body[name].as_str().unwrap_or_default().to_owned();
        match emitted.event.as_str() {
            "reservation.confirmed" | "reservation.confirm_refused" => {
                answers.entry(text("payment_id")).or_default().insert(&emitted.event);
            }
            "reservation.expired" | "reservation.cancelled" => {
                *ends.entry(text("reservation_id")).or_default() += 1;
            }
            _ => {}
        }
    }
    assert!(answers.values().all(|kinds| kinds.len() == 1), "seed {seed}: {answers:?}");
    assert!(ends.values().all(|times| *times == 1), "seed {seed}: {ends:?}");
}

#[test]
fn a_seat_has_at_most_one_owner_in_any_order_of_messages() {
    for seed in 0..SEEDS {
        let mut random = Random(seed);
        let (mut harness, mut wire, mut held) = (Harness::open(), Wire::default(), Vec::new());
        for _ in 0..STEPS {
            step(&mut harness, &mut wire, &mut held, &mut random);
            check(&harness, seed);
        }
        harness.now = harness.now.plus_secs(1_000);
        held.iter().for_each(|id| harness.sweep(*id));
        check(&harness, seed);
        check_emitted(&harness, seed);
        let pending = harness.unit.pick(|row| row.state == ReservationState::Pending);
        assert!(pending.is_empty(), "seed {seed}: a hold outlived its time");
    }
}
