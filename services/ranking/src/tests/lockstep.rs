//! The rankings on Valkey and a plain model of them take the same random events, late, in any order
//! and some of them again. After each one both must rank the same, in every window, and so must
//! rankings that were replayed from all of it.
//!
//! `LOCKSTEP_SEED=<n> cargo test -p ranking lockstep` takes the events of one seed, and
//! `LOCKSTEP_SEEDS=<n>` those of so many.

use std::collections::{BTreeMap, BTreeSet};

use events::ranking::Window;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

use super::harness::{HOUR, Harness, at, cancelled, concert, opened, refunded, schedule, sold};

/// Seeds of a usual run.
const SEEDS: u64 = 12;
/// Sales of a seed.
const SALES: u128 = 60;
/// Each concert has two schedules: 0 and 3, 1 and 4, 2 and 5.
const CONCERTS: u128 = 3;
const SCHEDULES: u128 = 6;
/// Seats of a schedule.
const SEATS: u32 = 12;
const MINUTE: i64 = 60_000;
/// The windows, their lengths and their steps.
const WINDOWS: [(Window, i64, i64); 3] = [
    (Window::Hour, HOUR, MINUTE),
    (Window::Day, 24 * HOUR, 10 * MINUTE),
    (Window::Week, 7 * 24 * HOUR, HOUR),
];

/// An event; times are milliseconds after the opening.
#[derive(Debug, Clone, Copy)]
enum Step {
    Sold { n: u128, of: u128, seats: u32, at: i64 },
    Refunded { n: u128, of: u128, at: i64 },
    Cancelled(u128),
}

/// A sale, as far as its events have come.
#[derive(Debug, Clone, Copy, Default)]
struct Sale {
    of: u128,
    sold: Option<(u32, i64)>,
    returned_at: Option<i64>,
}

/// What the rankings are compared with: every sale.
#[derive(Default)]
struct Model {
    sales: BTreeMap<u128, Sale>,
    cancelled: BTreeSet<u128>,
}

impl Model {
    fn take(&mut self, step: Step) {
        match step {
            Step::Sold { n, of, seats, at } => {
                let sale = self.sales.entry(n).or_default();
                sale.of = of;
                sale.sold.get_or_insert((seats, at));
            }
            Step::Refunded { n, of, at } => {
                let sale = self.sales.entry(n).or_default();
                sale.of = of;
                sale.returned_at.get_or_insert(at);
            }
            Step::Cancelled(of) => drop(self.cancelled.insert(of)),
        }
    }

    /// Concerts and their seats in a window, the most first.
    fn sold(&self, span: i64, step: i64, now: i64) -> Vec<(u128, i64)> {
        // Steps begin at whole hours since 1970, as the opening does.
        let reached = (now - span).div_euclid(step)..=now.div_euclid(step);
        let mut seats = BTreeMap::new();
        for sale in self.sales.values().filter(|sale| sale.returned_at.is_none()) {
            if let Some((count, at)) =
                sale.sold.filter(|(_, at)| reached.contains(&at.div_euclid(step)))
            {
                let _ = at;
                *seats.entry(sale.of % CONCERTS).or_default() += i64::from(count);
            }
        }
        let mut ranked: Vec<_> = seats.into_iter().collect();
        ranked.sort_by_key(|(concert, seats)| (-seats, *concert));
        ranked
    }

    /// When the last seat of a schedule was sold for the first time.
    fn sold_out_at(&self, of: u128) -> Option<i64> {
        let mut moves = Vec::new();
        for sale in self.sales.values().filter(|sale| sale.of == of) {
            if let Some((seats, at)) = sale.sold {
                moves.push((at, -i64::from(seats)));
                moves.extend(sale.returned_at.map(|at| (at, i64::from(seats))));
            }
        }
        // Of those at the same time, sales come first.
        moves.sort_unstable();
        let mut free = i64::from(SEATS);
        moves
            .into_iter()
            .find(|(_, change)| {
                free += change;
                free <= 0
            })
            .map(|(at, _)| at)
    }

    /// The fastest schedule of each concert, the fastest first.
    fn fastest(&self) -> Vec<(u128, u128, i64)> {
        let mut ranked = Vec::new();
        for concert in 0..CONCERTS {
            let of_it = (0..SCHEDULES).filter(|of| of % CONCERTS == concert);
            let open = of_it.filter(|of| !self.cancelled.contains(of));
            ranked.extend(open.filter_map(|of| Some((self.sold_out_at(of)?, concert, of))).min());
        }
        ranked.sort_unstable();
        ranked.into_iter().map(|(millis, concert, of)| (concert, of, millis)).collect()
    }
}

#[tokio::test]
async fn lockstep_of_rankings_and_model_from_the_first_sale_to_a_replay() {
    for seed in mesh::testkit::lockstep_seeds(SEEDS) {
        println!("LOCKSTEP_SEED={seed} cargo test -p ranking lockstep");
        run(seed).await;
    }
}

async fn run(seed: u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let harness = Harness::empty().await;
    for of in 0..SCHEDULES {
        harness.handle(opened(of, concert(of % CONCERTS), SEATS as usize), 0).await;
    }
    let (mut model, mut now, mut coming, mut story) =
        (Model::default(), 1_000, Vec::new(), Vec::new());
    let mut begun = 0;
    while begun < SALES || !coming.is_empty() {
        now += match random.random_range(0..20) {
            0 => random.random_range(0..12 * HOUR),
            1..6 => random.random_range(0..10 * MINUTE),
            _ => random.random_range(0..20_000),
        };
        if begun < SALES && random.random_bool(0.5) {
            begun += 1;
            let (n, of) = (begun, random.random_range(0..SCHEDULES));
            let seats = random.random_range(1..5);
            // Two payments may be completed in one millisecond.
            let at = now - i64::from(random.random_range(0..3_u32)) * 500;
            coming.push(Step::Sold { n, of, seats, at });
            if random.random_bool(0.3) {
                coming.push(Step::Refunded { n, of, at: at + random.random_range(0..2 * HOUR) });
            }
        }
        let step = if random.random_range(0..100) == 0 {
            Step::Cancelled(random.random_range(0..SCHEDULES))
        } else if coming.is_empty() {
            continue;
        } else {
            let which = random.random_range(0..coming.len());
            let comes_again = random.random_bool(0.2);
            if comes_again { coming[which] } else { coming.swap_remove(which) }
        };
        story.push(format!("{now:>9} {step:?}"));
        model.take(step);
        match step {
            Step::Sold { n, of, seats, at } => {
                harness.handle(sold(n, schedule(of), seats, at), now).await
            }
            Step::Refunded { n, of, at } => {
                harness.handle(refunded(n, schedule(of), at), now).await
            }
            Step::Cancelled(of) => harness.handle(cancelled(of, concert(of % CONCERTS)), now).await,
        }
        agree(&harness, &model, now, &story).await;
    }
    let replay = harness.charts.begin_replay().await.unwrap().unwrap();
    let (opening, mut rest) = {
        let mut stream = harness.stream();
        let rest = stream.split_off(SCHEDULES as usize);
        (stream, rest)
    };
    rest.shuffle(&mut random);
    replay.feed(&opening, at(now)).await.unwrap();
    replay.feed(&rest, at(now)).await.unwrap();
    let difference = replay.compare(at(now)).await.unwrap();
    assert!(difference.is_none(), "{difference:?}");
    replay.swap().await.unwrap();
    agree(&harness, &model, now, &story).await;
}

/// Both rank the same.
async fn agree(harness: &Harness, model: &Model, now: i64, story: &[String]) {
    for (window, span, step) in WINDOWS {
        let expected = model.sold(span, step, now).into_iter();
        let expected: Vec<_> = expected.map(|(n, seats)| (concert(n), seats)).collect();
        assert_eq!(harness.sold(window, now).await, expected, "{window:?}\n{}", story.join("\n"));
    }
    let expected = model.fastest().into_iter();
    let expected: Vec<_> =
        expected.map(|(n, of, millis)| (concert(n), schedule(of), millis)).collect();
    assert_eq!(harness.fastest().await, expected, "{}", story.join("\n"));
}
