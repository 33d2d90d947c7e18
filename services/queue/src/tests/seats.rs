//! Sold-out rooms, and seats that come back on sale.

use events::{
    codes,
    payment::PaymentFailure::HoldGone,
    queue::{PlaceEnd, PlaceState},
};

use super::harness::{Harness, cancelled, completed, failed, fan, paid};

/// Another fan has paid for all ten seats; fan 0 is ACTIVE, and five fans wait.
async fn sold_out() -> Harness {
    let mut harness = Harness::open().await;
    harness.admit(1).await;
    for n in 1..6 {
        harness.enter(fan(n), 1_000).await.unwrap();
    }
    harness.emitted().await;
    harness.handle(paid(1, fan(50), 10), 1_000).await;
    harness
}

#[tokio::test]
async fn when_every_seat_is_sold_waiting_places_expire() {
    let mut harness = sold_out().await;
    assert!(harness.enter(fan(9), 1_000).await.unwrap_err().is(codes::SOLD_OUT));
    harness.tick(1_000).await;
    let expected: Vec<String> = (1..6).map(|n| format!("expired {n} sold_out")).collect();
    assert_eq!(harness.names().await, expected);
    assert_eq!(harness.state(fan(0), 1_000).await, PlaceState::Active);
    let place = harness.look(fan(3), 1_000).await.unwrap();
    assert_eq!(place.reason, Some(PlaceEnd::SoldOut));
    harness.handle(completed(2, fan(0), 900), 1_100).await;
    assert_eq!(harness.names().await, ["completed 0"]);
    assert_eq!(harness.tick(1_200).await, 0);
}

#[tokio::test]
async fn a_cancelled_sale_opens_the_room_again() {
    let harness = sold_out().await;
    harness.tick(1_000).await;
    harness.handle(cancelled(1, fan(50), true), 2_000).await;
    harness.handle(cancelled(1, fan(50), true), 2_000).await;
    let place = harness.enter(fan(3), 2_000).await.unwrap();
    assert_eq!(place.state, PlaceState::Waiting);
    harness.tick(2_100).await;
    assert_eq!(harness.state(fan(3), 2_100).await, PlaceState::Active);
}

#[tokio::test]
async fn seats_of_a_payment_that_comes_repeatedly_are_counted_once() {
    let harness = Harness::open().await;
    for _ in 0..3 {
        harness.handle(paid(1, fan(50), 4), 1_000).await;
    }
    harness.enter(fan(9), 1_000).await.unwrap();
    harness.handle(paid(2, fan(51), 6), 1_000).await;
    assert!(harness.enter(fan(8), 1_000).await.unwrap_err().is(codes::SOLD_OUT));
}

#[tokio::test]
async fn seats_whose_cancellation_comes_before_the_payment_are_never_counted() {
    let harness = Harness::open().await;
    harness.handle(cancelled(1, fan(50), true), 1_000).await;
    harness.handle(paid(1, fan(50), 10), 1_000).await;
    harness.enter(fan(9), 1_000).await.unwrap();
}

#[tokio::test]
async fn a_cancelled_hold_returns_no_sold_seats() {
    let harness = sold_out().await;
    harness.handle(cancelled(2, fan(1), false), 1_500).await;
    assert!(harness.enter(fan(9), 1_500).await.unwrap_err().is(codes::SOLD_OUT));
}

#[tokio::test]
async fn seats_sold_before_the_schedule_is_known_count() {
    let harness = Harness::empty().await;
    harness.handle(paid(1, fan(50), 10), 0).await;
    let opened = super::harness::opened(super::harness::SCHEDULE, super::harness::ADMISSION, 10);
    harness.handle(opened, 0).await;
    assert!(harness.enter(fan(9), 0).await.unwrap_err().is(codes::SOLD_OUT));
}

#[tokio::test]
async fn a_fan_with_a_lost_hold_of_a_sold_out_show_is_returned_and_then_expires() {
    let mut harness = sold_out().await;
    harness.tick(1_000).await;
    harness.emitted().await;
    harness.handle(failed(7, fan(0), HoldGone, 900), 1_100).await;
    harness.tick(1_200).await;
    assert_eq!(harness.names().await, ["returned 0", "expired 0 sold_out"]);
}
