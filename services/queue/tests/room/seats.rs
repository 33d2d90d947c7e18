//! Nothing left to sell, and something again.

use events::{
    codes,
    payment::PaymentFailure::HoldGone,
    queue::{PlaceEnd, PlaceState},
};

use crate::stage::{Stage, cancelled, completed, failed, fan, paid};

/// All ten seats are paid by somebody else; fan 0 is ACTIVE, and five wait behind.
async fn sold_out() -> Stage {
    let mut stage = Stage::open().await;
    stage.admit(1).await;
    for n in 1..6 {
        stage.enter(fan(n), 1_000).await.unwrap();
    }
    stage.said().await;
    stage.hear(paid(1, fan(50), 10), 1_000).await;
    stage
}

#[tokio::test]
async fn when_every_seat_is_sold_who_waits_is_sent_home() {
    let mut stage = sold_out().await;
    assert!(stage.enter(fan(9), 1_000).await.unwrap_err().is(codes::SOLD_OUT));
    stage.tick(1_000).await;
    let expected: Vec<String> = (1..6).map(|n| format!("expired {n} sold_out")).collect();
    assert_eq!(stage.names().await, expected);
    assert_eq!(stage.state(fan(0), 1_000).await, PlaceState::Active);
    let place = stage.look(fan(3), 1_000).await.unwrap();
    assert_eq!(place.reason, Some(PlaceEnd::SoldOut));
    stage.hear(completed(2, fan(0), 900), 1_100).await;
    assert_eq!(stage.names().await, ["completed 0"]);
    assert_eq!(stage.tick(1_200).await, 0);
}

#[tokio::test]
async fn a_seat_given_back_opens_the_room_again() {
    let stage = sold_out().await;
    stage.tick(1_000).await;
    stage.hear(cancelled(1, fan(50), true), 2_000).await;
    stage.hear(cancelled(1, fan(50), true), 2_000).await;
    let place = stage.enter(fan(3), 2_000).await.unwrap();
    assert_eq!(place.state, PlaceState::Waiting);
    stage.tick(2_100).await;
    assert_eq!(stage.state(fan(3), 2_100).await, PlaceState::Active);
}

#[tokio::test]
async fn the_same_seats_are_counted_once_however_often_they_are_heard_of() {
    let stage = Stage::open().await;
    for _ in 0..3 {
        stage.hear(paid(1, fan(50), 4), 1_000).await;
    }
    stage.enter(fan(9), 1_000).await.unwrap();
    stage.hear(paid(2, fan(51), 6), 1_000).await;
    assert!(stage.enter(fan(8), 1_000).await.unwrap_err().is(codes::SOLD_OUT));
}

#[tokio::test]
async fn seats_whose_return_was_heard_first_are_never_counted() {
    let stage = Stage::open().await;
    stage.hear(cancelled(1, fan(50), true), 1_000).await;
    stage.hear(paid(1, fan(50), 10), 1_000).await;
    stage.enter(fan(9), 1_000).await.unwrap();
}

#[tokio::test]
async fn a_hold_that_is_cancelled_gives_no_sold_seats_back() {
    let stage = sold_out().await;
    stage.hear(cancelled(2, fan(1), false), 1_500).await;
    assert!(stage.enter(fan(9), 1_500).await.unwrap_err().is(codes::SOLD_OUT));
}

#[tokio::test]
async fn seats_sold_before_the_schedule_was_heard_of_count() {
    let stage = Stage::empty().await;
    stage.hear(paid(1, fan(50), 10), 0).await;
    let opened = crate::stage::opened(crate::stage::SCHEDULE, crate::stage::ADMISSION, 10);
    stage.hear(opened, 0).await;
    assert!(stage.enter(fan(9), 0).await.unwrap_err().is(codes::SOLD_OUT));
}

#[tokio::test]
async fn who_lost_the_hold_of_a_sold_out_show_is_returned_and_sent_home() {
    let mut stage = sold_out().await;
    stage.tick(1_000).await;
    stage.said().await;
    stage.hear(failed(7, fan(0), HoldGone, 900), 1_100).await;
    stage.tick(1_200).await;
    assert_eq!(stage.names().await, ["returned 0", "expired 0 sold_out"]);
}
