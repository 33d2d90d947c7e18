//! Rebuilds next to the live generation: when idle, under traffic, and after everything was lost.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use events::{
    Event, EventId, codes,
    concert::{Schedule, ScheduleOpened, ScheduleState},
    payment::PaymentCompleted,
    ranking::{RankConcerts, Window},
    state::{SaleStated, ScheduleStated},
};
use mesh::{
    Caller, Outcome,
    engine::{Engine, Failure},
    valkey::Fed,
};
use tokio::sync::Semaphore;
use uuid::Uuid;

use super::harness::{
    HOUR, Harness, at, cancelled, concert, opened, payment, refunded, schedule, sold,
};
use crate::{handlers, ranking_of};

const AT: i64 = 20_000;

/// A few concerts in every state.
async fn used_charts() -> Harness {
    used(Harness::open().await).await
}

async fn used(harness: Harness) -> Harness {
    for n in 2..6 {
        harness.handle(opened(n, concert(n % 3), 10), 0).await;
    }
    for n in 0..40 {
        harness.handle(sold(n, schedule(n % 5 + 1), 1, n as i64 * 100), AT).await;
    }
    for n in 0..5 {
        harness.handle(refunded(n * 3, schedule(n * 3 % 5 + 1), 10_000 + n as i64), AT).await;
    }
    harness.handle(sold(50, schedule(2), 3, 11_000), AT).await;
    harness.handle(cancelled(5, concert(2)), AT).await;
    harness
}

#[tokio::test]
async fn a_replay_in_any_order_gives_the_same_rankings_and_replaces_the_live_ones() {
    for is_backwards in [false, true] {
        let harness = used_charts().await;
        let sold_before = harness.sold(Window::Day, AT).await;
        let fastest_before = harness.fastest().await;
        assert!(!sold_before.is_empty() && !fastest_before.is_empty());
        let before: Option<String> = harness.kit.store.redis(&["GET", "{ranking}:whole"]).await;

        let replay = harness.charts.begin_replay().await.unwrap().unwrap();
        let mut stream = harness.stream();
        let count = stream.len() as u64;
        if is_backwards {
            // Schedules still come first, and everything else after them.
            stream.reverse();
            stream.sort_by_key(|event| !format!("{:?}", event.call).contains("\"open\""));
        }
        assert!(!replay.compare(at(AT)).await.unwrap().is_none(), "it is empty so far");
        let fed = replay.feed(&stream, at(AT)).await.unwrap();
        assert_eq!(fed, Fed { taken: count, repeats: 0, left_out: 0 });
        let fed = replay.feed(&stream, at(AT)).await.unwrap();
        assert_eq!(fed, Fed { taken: 0, repeats: count, left_out: 0 });
        let difference = replay.compare(at(AT)).await.unwrap();
        assert!(difference.is_none(), "backwards: {is_backwards}: {difference:?}");
        replay.swap().await.unwrap();

        assert_eq!(harness.sold(Window::Day, AT).await, sold_before);
        assert_eq!(harness.fastest().await, fastest_before);
        let after: Option<String> = harness.kit.store.redis(&["GET", "{ranking}:whole"]).await;
        assert_ne!(before, after);
        harness.charts.sweep_generations().await.unwrap();
        let left: Vec<String> = harness
            .kit
            .store
            .redis(&["KEYS", &format!("{{ranking}}:g{}:*", before.unwrap())])
            .await;
        assert_eq!(left, [""; 0], "nothing is left of the old generation");
    }
}

#[tokio::test]
async fn a_corrupt_generation_is_reported_and_repaired() {
    let harness = used_charts().await;
    let live: String = harness.kit.store.redis(&["GET", "{ranking}:whole"]).await;
    let counts = format!("{{ranking}}:g{live}:schedule:{}", schedule(1));
    let before = harness.fastest().await;
    let _: i64 = harness.kit.store.redis(&["HINCRBY", &counts, "net", "5"]).await;
    let _: i64 = harness.kit.store.redis(&["DEL", &format!("{{ranking}}:g{live}:fastest")]).await;
    assert_eq!(harness.fastest().await, []);
    let replay = harness.charts.begin_replay().await.unwrap().unwrap();
    replay.feed(&harness.stream(), at(AT)).await.unwrap();
    let difference = replay.compare(at(AT)).await.unwrap();
    let named = format!("schedule {}", schedule(1));
    assert!(difference.only_live.iter().any(|line| line.starts_with(&named)), "{difference:?}");
    assert_eq!(difference.only_live.len(), difference.only_shadow.len());
    replay.swap().await.unwrap();
    assert_eq!(harness.fastest().await, before);
}

#[tokio::test]
async fn nothing_of_a_shadow_is_read_before_the_swap() {
    let harness = used_charts().await;
    let before = harness.sold(Window::Day, AT).await;
    let replay = harness.charts.begin_replay().await.unwrap().unwrap();
    replay.feed(&harness.stream()[..6], at(AT)).await.unwrap();
    assert_eq!(harness.sold(Window::Day, AT).await, before);
    replay.give_up().await.unwrap();
    harness.charts.sweep_generations().await.unwrap();
    assert_eq!(harness.sold(Window::Day, AT).await, before);
    let generations: Vec<String> =
        harness.kit.store.redis(&["SMEMBERS", "{ranking}:generations"]).await;
    assert_eq!(generations.len(), 1, "the abandoned generation is deleted");
}

#[tokio::test]
async fn only_one_replay_runs_at_once() {
    let harness = Harness::open().await;
    let first = harness.charts.begin_replay().await.unwrap().unwrap();
    assert!(harness.charts.begin_replay().await.unwrap().is_none());
    first.give_up().await.unwrap();
    assert!(harness.charts.begin_replay().await.unwrap().is_some());
}

#[tokio::test]
async fn a_replay_that_lost_its_lease_can_neither_write_nor_swap() {
    let harness = used_charts().await;
    let before = harness.sold(Window::Day, AT).await;
    let first = harness.charts.begin_replay().await.unwrap().unwrap();
    let _: i64 = harness.kit.store.redis(&["DEL", "{ranking}:shadow"]).await;
    let second = harness.charts.begin_replay().await.unwrap().unwrap();
    let fed = first.feed(&harness.stream(), at(AT)).await;
    assert!(matches!(fed, Err(Failure::Contended(_))), "{fed:?}");
    assert!(matches!(first.swap().await, Err(Failure::Contended(_))));
    assert!(
        !second.compare(at(AT)).await.unwrap().is_none(),
        "the first wrote nothing into the second"
    );
    second.feed(&harness.stream(), at(AT)).await.unwrap();
    second.swap().await.unwrap();
    assert_eq!(harness.sold(Window::Day, AT).await, before);
}

#[tokio::test]
async fn an_event_that_comes_during_a_replay_is_in_both_generations() {
    let harness = Arc::new(used_charts().await);
    // How many sales may be made while the replay takes its next step.
    let sales = Arc::new(Semaphore::new(100));
    let seller = tokio::spawn({
        let (harness, sales) = (harness.clone(), sales.clone());
        async move {
            let mut n = 1_000;
            while let Ok(sale) = sales.acquire().await {
                sale.forget();
                let hall = 100 + n / 50;
                if n % 50 == 0 {
                    harness.handle(opened(hall, concert(hall), 40), AT).await;
                }
                harness.handle(sold(n, schedule(hall), 1, 12_000 + n as i64), AT).await;
                if n % 7 == 0 {
                    harness.handle(refunded(n, schedule(hall), 13_000 + n as i64), AT).await;
                }
                n += 1;
            }
            n
        }
    });
    for _ in 0..3 {
        let replay = harness.charts.begin_replay().await.unwrap().unwrap();
        // In batches, up to where the stream ended when the replay began.
        let (mut read, last) = (0, harness.emitted());
        while read < last {
            let batch = harness.stream_after(read, 100);
            read += batch.len();
            sales.add_permits(20);
            replay.feed(&batch, at(AT)).await.unwrap();
        }
        let settled = async {
            while !replay.compare(at(AT)).await.unwrap().is_none() {
                sales.add_permits(20);
            }
        };
        let within = std::time::Duration::from_secs(30);
        tokio::time::timeout(within, settled).await.expect("both agree under traffic");
        replay.swap().await.unwrap();
    }
    sales.close();
    let sold = seller.await.unwrap() - 1_000;
    assert!(sold > 0);
    // Every event handled while generations came and went is counted once.
    let replay = harness.charts.begin_replay().await.unwrap().unwrap();
    replay.feed(&harness.stream(), at(AT)).await.unwrap();
    let difference = replay.compare(at(AT)).await.unwrap();
    assert!(difference.is_none(), "{difference:?}");
}

#[tokio::test]
async fn an_event_that_a_replay_has_read_is_a_repeat_for_the_consumer_afterwards() {
    let harness = Harness::open().await;
    let id = EventId(Uuid::now_v7());
    let sale = sold(1, schedule(1), 2, 500);
    // Emitted, read by the replay, and consumed only after the swap.
    harness.emit(&sale, id);
    let replay = harness.charts.begin_replay().await.unwrap().unwrap();
    replay.feed(&harness.stream(), at(AT)).await.unwrap();
    let difference = replay.compare(at(AT)).await.unwrap();
    assert!(!difference.is_none(), "the live generation has not handled it");
    replay.swap().await.unwrap();
    let outcome = harness.kit.handle_as(sale, id, at(AT)).await;
    assert!(matches!(outcome, Outcome::Repeat), "{outcome:?}");
    assert_eq!(harness.sold(Window::Day, AT).await, [(concert(1), 2)]);
}

#[tokio::test]
async fn a_repeat_for_the_live_generation_is_still_handled_by_the_shadow() {
    let harness = Harness::open().await;
    let id = EventId(Uuid::now_v7());
    let sale = || sold(1, schedule(1), 2, 500);
    harness.handle_as(sale(), id, AT).await;
    let replay = harness.charts.begin_replay().await.unwrap().unwrap();
    replay.feed(&harness.stream()[..1], at(AT)).await.unwrap();
    let again = harness.handle_as(sale(), id, AT).await;
    assert!(matches!(again, Outcome::Repeat), "{again:?}");
    assert!(replay.compare(at(AT)).await.unwrap().is_none());
}

#[tokio::test]
async fn an_emptied_store_handles_nothing_until_it_is_rebuilt() {
    let harness = used(Harness::open_alone().await).await;
    let (sold_before, fastest) = (harness.sold(Window::Day, AT).await, harness.fastest().await);
    let replay = harness.charts.begin_replay().await.unwrap().unwrap();
    harness.kit.store.empty().await;
    let _: String = harness.kit.store.redis(&["FUNCTION", "FLUSH"]).await;
    assert!(!harness.charts.is_whole().await.unwrap());
    assert!(harness.charts.store().check().await.is_err());
    let look = ranking_of(&harness.charts, &RankConcerts::default(), at(AT)).await;
    assert!(look.unwrap_err().is(codes::UNAVAILABLE));
    let meta = harness.kit.meta(PaymentCompleted::NAME, Caller::Mesh);
    let lost = harness.charts.handle(sold(900, schedule(1), 1, 500), &meta, at(AT)).await;
    assert!(matches!(lost, Err(Failure::Emptied)), "{lost:?}");
    // The running replay finds that everything is gone, and may not swap in a part.
    assert!(replay.feed(&harness.stream(), at(AT)).await.is_err());
    assert!(replay.swap().await.is_err());

    let replay = harness.charts.begin_replay().await.unwrap().unwrap();
    replay.feed(&harness.stream(), at(AT)).await.unwrap();
    assert!(!harness.charts.is_whole().await.unwrap(), "it is not whole before the swap");
    replay.swap().await.unwrap();
    harness.charts.store().check().await.unwrap();
    assert_eq!(harness.sold(Window::Day, AT).await, sold_before);
    assert_eq!(harness.fastest().await, fastest);
}

#[tokio::test]
async fn a_replay_that_ends_while_the_store_is_away_is_given_up_as_soon_as_it_is_back() {
    let harness = used(Harness::open_alone().await).await;
    let replay = harness.charts.begin_replay().await.unwrap().unwrap();
    harness.kit.store.server().kill();
    let began = Instant::now();
    let given_up = tokio::spawn(replay.give_up());
    harness.kit.store.server().restart().await.unwrap();
    given_up.await.unwrap().unwrap();
    assert!(harness.charts.begin_replay().await.unwrap().is_some());
    assert!(began.elapsed() < Duration::from_secs(12), "the lease would have run out by itself");
}

#[tokio::test]
async fn owners_state_what_has_left_the_streams() {
    let harness = used_charts().await;
    let last = 8 * 24 * HOUR;
    harness.handle(sold(60, schedule(1), 1, last), last).await;
    let now = at(last + 1);
    let mut kept = harness.stream();
    let kept = kept.split_off(kept.len() - 1);
    let fastest = harness.fastest().await;
    assert!(!fastest.is_empty());
    let replay = harness.charts.begin_replay().await.unwrap().unwrap();
    for n in 1..6 {
        let state = if n == 5 { ScheduleState::Cancelled } else { ScheduleState::Open };
        let opened = opened(n, concert(if n == 1 { 1 } else { n % 3 }), 10);
        let calls = handlers::schedule_stated(&schedule_stated(&opened, state));
        replay.state(&calls, now).await.unwrap();
    }
    replay.feed(&kept, now).await.unwrap();
    let sale = |n: u128, of: u128, seats, sold_at, returned_at: Option<i64>| SaleStated {
        payment_id: payment(n),
        schedule_id: schedule(of),
        seats,
        sold_at: at(sold_at),
        returned_at: returned_at.map(at),
    };
    let mut sales: Vec<_> = (0..40)
        .map(|n| {
            let back = (n % 3 == 0 && n < 15).then(|| 10_000 + n as i64 / 3);
            sale(n, n % 5 + 1, 1, n as i64 * 100, back)
        })
        .collect();
    sales.push(sale(50, 2, 3, 11_000, None));
    // The stream has this sale too, and its event wins.
    sales.push(sale(60, 1, 1, last + 77, None));
    for sales in sales.chunks(7) {
        let calls: Vec<_> = sales.iter().flat_map(handlers::sale_stated).collect();
        replay.state(&calls, now).await.unwrap();
    }
    let difference = replay.compare(now).await.unwrap();
    assert!(difference.is_none(), "{difference:?}");
    replay.swap().await.unwrap();
    assert_eq!(harness.fastest().await, fastest);
}

fn schedule_stated(opened: &ScheduleOpened, state: ScheduleState) -> ScheduleStated {
    ScheduleStated {
        schedule: Schedule {
            schedule_id: opened.schedule_id,
            concert_id: opened.concert_id,
            venue: opened.venue.clone(),
            starts_at: opened.starts_at,
            opens_at: opened.opens_at,
            refund_until: opened.refund_until.unwrap_or(opened.starts_at),
            state,
            cancelled: None,
            admission: opened.admission,
            hold_secs: opened.hold_secs,
            seats_per_fan_max: opened.seats_per_fan_max,
            seats_total: 10,
        },
        title: opened.title.clone(),
    }
}
