//! A fan's place with two holds, one of them paid, with the events in every order.

use events::{codes, payment::PaymentFailure::HoldGone, queue::PlaceState};

use super::harness::{Harness, cancelled, completed, created, failed, fan, hold_expired, payment};

/// A room with an ACTIVE fan who has two holds and has paid for the first.
async fn one_of_two_paid() -> Harness {
    let mut harness = Harness::open().await;
    harness.admit(1).await;
    harness.handle(created(1, fan(0), 300_000), 2_000).await;
    harness.handle(created(2, fan(0), 200_000), 2_000).await;
    harness.emitted().await;
    harness.handle(completed(1, fan(0), 2_500), 3_000).await;
    assert_eq!(harness.emitted().await, []);
    assert_eq!(harness.state(fan(0), 3_000).await, PlaceState::Active);
    harness
}

#[tokio::test]
async fn a_fan_who_pays_one_of_two_holds_keeps_the_place_until_the_other_is_paid() {
    let mut harness = one_of_two_paid().await;
    harness.handle(completed(2, fan(0), 3_500), 4_000).await;
    harness.handle(completed(1, fan(0), 2_500), 4_100).await;
    let emitted = harness.emitted().await;
    assert_eq!(emitted.len(), 1, "{emitted:?}");
    assert_eq!(emitted[0].event, "queue.completed");
    assert_eq!(emitted[0].data["payment_id"], payment(2).to_string(), "the latest one");
}

#[tokio::test]
async fn a_fan_who_pays_one_of_two_holds_keeps_the_place_until_the_other_ends() {
    for is_cancelled in [false, true] {
        let mut harness = one_of_two_paid().await;
        match is_cancelled {
            false => harness.handle(hold_expired(2, fan(0)), 4_000).await,
            true => harness.handle(cancelled(2, fan(0), false), 4_000).await,
        }
        let emitted = harness.emitted().await;
        assert_eq!(emitted.len(), 1, "{emitted:?}");
        assert_eq!(emitted[0].data["payment_id"], payment(1).to_string());
        assert_eq!(harness.state(fan(0), 4_000).await, PlaceState::Completed);
        // A reservation that has ended never revives.
        harness.handle(created(2, fan(0), 200_000), 5_000).await;
        assert_eq!(harness.state(fan(0), 5_000).await, PlaceState::Completed);
        let again = harness.enter(fan(0), 6_000).await.unwrap();
        assert_eq!((again.state, again.position), (PlaceState::Waiting, Some(0)));
        harness.handle(hold_expired(2, fan(0)), 6_500).await;
        assert_eq!(
            harness.state(fan(0), 6_500).await,
            PlaceState::Waiting,
            "that hold belongs to the earlier place"
        );
    }
}

#[tokio::test]
async fn the_place_of_a_fan_who_paid_and_then_loses_the_other_hold_completes() {
    let mut harness = one_of_two_paid().await;
    harness.handle(failed(2, fan(0), HoldGone, 3_500), 4_000).await;
    harness.handle(hold_expired(2, fan(0)), 4_100).await;
    assert_eq!(harness.names().await, ["completed 0"]);
}

#[tokio::test]
async fn a_paid_place_does_not_time_out_when_the_end_of_the_other_hold_never_comes() {
    let mut harness = one_of_two_paid().await;
    harness.tick(200_999).await;
    assert_eq!(harness.state(fan(0), 200_999).await, PlaceState::Active);
    harness.tick(201_000).await;
    assert_eq!(harness.names().await, ["completed 0"]);
    assert_eq!(harness.tick(201_100).await, 0);
}

#[tokio::test]
async fn a_paid_place_completes_once_in_any_order_of_events() {
    let orders = permutations(4);
    assert_eq!(orders.len(), 24);
    for order in orders {
        let mut harness = Harness::open().await;
        harness.admit(1).await;
        harness.emitted().await;
        for at in &order {
            match at {
                0 => harness.handle(created(1, fan(0), 300_000), 2_000).await,
                1 => harness.handle(created(2, fan(0), 300_000), 2_000).await,
                2 => harness.handle(completed(1, fan(0), 2_500), 3_000).await,
                _ => harness.handle(hold_expired(2, fan(0)), 4_000).await,
            }
        }
        assert_eq!(harness.names().await, ["completed 0"], "{order:?}");
    }
}

fn permutations(count: usize) -> Vec<Vec<usize>> {
    let Some(last) = count.checked_sub(1) else { return vec![Vec::new()] };
    let shorter = permutations(last);
    let inserted = shorter.iter().flat_map(|order| {
        (0..count).map(move |at| {
            let mut longer = order.clone();
            longer.insert(at, last);
            longer
        })
    });
    inserted.collect()
}

#[tokio::test]
async fn a_fan_who_holds_seats_cannot_leave_before_giving_them_back() {
    let mut harness = Harness::open().await;
    harness.admit(1).await;
    harness.handle(created(1, fan(0), 300_000), 2_000).await;
    harness.emitted().await;
    assert!(harness.leave(fan(0), 3_000).await.unwrap_err().is(codes::HOLDING_SEATS));
    assert_eq!(harness.emitted().await, []);
    assert_eq!(harness.state(fan(0), 3_000).await, PlaceState::Active);
    harness.handle(cancelled(1, fan(0), false), 4_000).await;
    harness.leave(fan(0), 4_000).await.unwrap();
    assert_eq!(harness.names().await, ["expired 0 left"]);
}

#[tokio::test]
async fn a_hold_past_its_hard_cap_does_not_keep_a_fan_from_leaving() {
    let harness = Harness::open().await;
    harness.admit(1).await;
    harness.handle(created(1, fan(0), 30_000), 2_000).await;
    assert!(harness.leave(fan(0), 29_999).await.unwrap_err().is(codes::HOLDING_SEATS));
    assert_eq!(harness.leave(fan(0), 30_000).await.unwrap().state, PlaceState::Expired);
}
