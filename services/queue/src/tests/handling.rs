//! Events of holds, payments and accounts: once, twice, late, out of order.

use events::{
    codes,
    payment::PaymentFailure::{HoldGone, InsufficientBalance},
    queue::{PlaceEnd, PlaceState},
};
use mesh::Outcome;

use super::harness::{
    Harness, cancelled, cancelled_schedule, completed, created, failed, fan, hold_expired,
    withdrawn,
};

#[tokio::test]
async fn an_event_that_comes_twice_is_a_repeat() {
    let mut harness = Harness::open().await;
    harness.admit(1).await;
    harness.emitted().await;
    let id = events::EventId(uuid::Uuid::now_v7());
    let event = completed(1, fan(0), 2_000);
    let first = harness.handle_as(event.clone(), id, 3_000).await;
    assert!(matches!(first, Outcome::Done(_)), "{first:?}");
    let second = harness.handle_as(event, id, 3_000).await;
    assert!(matches!(second, Outcome::Repeat), "{second:?}");
    assert_eq!(harness.names().await, ["completed 0"]);
}

#[tokio::test]
async fn a_hold_keeps_the_place_until_its_hard_cap() {
    let mut harness = Harness::open().await;
    harness.admit(1).await;
    harness.handle(created(1, fan(0), 400_000), 59_000).await;
    harness.emitted().await;
    assert_eq!(harness.tick(61_500).await, 0);
    let place = harness.look(fan(0), 61_500).await.unwrap();
    assert_eq!(place.state, PlaceState::Active);
    assert_eq!(place.reserve_until, Some(super::harness::at(60_000)), "the pass is no longer");
    harness.tick(401_000).await;
    assert_eq!(harness.names().await, ["expired 0 timeout"]);
}

#[tokio::test]
async fn a_hold_that_ends_ends_its_lease_but_never_the_pass() {
    for paid in [None, Some(false)] {
        let harness = Harness::open().await;
        harness.admit(1).await;
        harness.handle(created(1, fan(0), 400_000), 2_000).await;
        match paid {
            None => harness.handle(hold_expired(1, fan(0)), 3_000).await,
            Some(paid) => harness.handle(cancelled(1, fan(0), paid), 3_000).await,
        }
        harness.tick(60_900).await;
        assert_eq!(harness.state(fan(0), 60_900).await, PlaceState::Active);
        harness.tick(61_000).await;
        assert_eq!(harness.state(fan(0), 61_000).await, PlaceState::Expired);
    }
}

#[tokio::test]
async fn one_of_two_holds_still_keeps_the_place() {
    let harness = Harness::open().await;
    harness.admit(1).await;
    harness.handle(created(1, fan(0), 300_000), 2_000).await;
    harness.handle(created(2, fan(0), 200_000), 2_000).await;
    harness.handle(hold_expired(1, fan(0)), 3_000).await;
    harness.tick(150_000).await;
    assert_eq!(harness.state(fan(0), 150_000).await, PlaceState::Active);
    harness.tick(201_000).await;
    assert_eq!(harness.state(fan(0), 201_000).await, PlaceState::Expired);
}

#[tokio::test]
async fn a_hold_whose_end_comes_first_does_not_come_back_to_life() {
    let harness = Harness::open().await;
    harness.admit(1).await;
    harness.handle(hold_expired(1, fan(0)), 2_000).await;
    harness.handle(created(1, fan(0), 400_000), 3_000).await;
    harness.handle(created(1, fan(0), 400_000), 3_000).await;
    harness.tick(61_000).await;
    assert_eq!(harness.state(fan(0), 61_000).await, PlaceState::Expired);
}

#[tokio::test]
async fn a_hold_of_a_fan_without_a_place_changes_nothing() {
    let mut harness = Harness::open().await;
    harness.handle(created(1, fan(3), 400_000), 2_000).await;
    harness.handle(hold_expired(1, fan(3)), 2_000).await;
    harness.handle(completed(1, fan(3), 2_000), 2_000).await;
    harness.handle(failed(2, fan(3), HoldGone, 2_000), 2_000).await;
    assert_eq!(harness.emitted().await, []);
}

#[tokio::test]
async fn a_completed_payment_completes_the_place() {
    let mut harness = Harness::open().await;
    harness.admit(1).await;
    harness.emitted().await;
    harness.handle(completed(1, fan(0), 2_000), 3_000).await;
    harness.handle(completed(1, fan(0), 2_000), 3_100).await;
    let emitted = harness.emitted().await;
    assert_eq!(emitted.len(), 1);
    assert_eq!(emitted[0].event, "queue.completed");
    assert_eq!(emitted[0].data["payment_id"], super::harness::payment(1).to_string());
    assert_eq!(emitted[0].data["place_version"], 3);
    let place = harness.look(fan(0), 4_000).await.unwrap();
    assert_eq!((place.state, place.reason), (PlaceState::Completed, None));
    assert_eq!((place.pass, place.ticket), (None, None));
    let left = harness.leave(fan(0), 4_000).await.unwrap();
    assert_eq!(left.state, PlaceState::Completed, "there is nothing to leave");
    assert_eq!(harness.emitted().await, []);
}

#[tokio::test]
async fn a_payment_of_an_earlier_place_does_not_end_the_next_one() {
    let mut harness = Harness::open().await;
    harness.admit(1).await;
    harness.tick(61_000).await;
    harness.enter(fan(0), 70_000).await.unwrap();
    harness.emitted().await;
    harness.handle(completed(1, fan(0), 59_000), 71_000).await;
    assert_eq!(harness.emitted().await, []);
    assert_eq!(harness.state(fan(0), 71_000).await, PlaceState::Waiting);
}

#[tokio::test]
async fn fans_with_a_lost_hold_are_first_in_the_order_of_their_return() {
    let mut harness = Harness::open().await;
    harness.admit(5).await;
    for n in 10..13 {
        harness.enter(fan(n), 1_000).await.unwrap();
    }
    harness.emitted().await;
    harness.handle(failed(1, fan(4), HoldGone, 2_000), 3_000).await;
    harness.handle(failed(2, fan(0), HoldGone, 2_000), 3_000).await;
    assert_eq!(harness.names().await, ["returned 4", "returned 0"]);
    for (ahead, user) in [4, 0, 10, 11, 12].into_iter().enumerate() {
        let place = harness.look(fan(user), 3_000).await.unwrap();
        assert_eq!((place.state, place.position), (PlaceState::Waiting, Some(ahead as u64)));
    }
    harness.tick_through(3_000..4_000).await;
    assert_eq!(harness.names().await, ["activated 4", "activated 0"]);
}

#[tokio::test]
async fn a_fan_is_returned_once_for_each_payment() {
    let mut harness = Harness::open().await;
    harness.admit(1).await;
    harness.emitted().await;
    harness.handle(failed(1, fan(0), HoldGone, 2_000), 3_000).await;
    harness.handle(failed(1, fan(0), HoldGone, 2_000), 3_050).await;
    harness.tick(3_100).await;
    harness.handle(failed(1, fan(0), HoldGone, 2_000), 3_200).await;
    assert_eq!(harness.names().await, ["returned 0", "activated 0"]);
}

#[tokio::test]
async fn a_failure_that_comes_again_after_a_later_one_or_for_a_later_place_moves_no_place() {
    let mut harness = Harness::open().await;
    harness.admit(1).await;
    for (payment, at) in [(1, 2_000), (2, 3_000)] {
        harness.handle(failed(payment, fan(0), HoldGone, at), at).await;
        harness.tick(at + 100).await;
        assert_eq!(harness.state(fan(0), at + 100).await, PlaceState::Active);
    }
    harness.emitted().await;
    harness.handle(failed(1, fan(0), HoldGone, 2_000), 4_000).await;
    harness.leave(fan(0), 5_000).await.unwrap();
    harness.enter(fan(0), 6_000).await.unwrap();
    harness.handle(failed(2, fan(0), HoldGone, 3_000), 6_050).await;
    assert_eq!(harness.names().await, ["expired 0 left", "waiting 0"]);
}

#[tokio::test]
async fn a_fan_whose_place_timed_out_meanwhile_is_returned_too() {
    let mut harness = Harness::open().await;
    harness.admit(1).await;
    harness.tick(61_000).await;
    harness.emitted().await;
    harness.handle(failed(1, fan(0), HoldGone, 59_000), 62_000).await;
    let emitted = harness.emitted().await;
    assert_eq!(emitted[0].event, "queue.returned");
    assert_eq!(emitted[0].data["place_version"], 4);
}

#[tokio::test]
async fn a_fan_who_entered_again_at_the_end_is_moved_to_the_front() {
    let mut harness = Harness::open().await;
    harness.admit(1).await;
    harness.tick(61_000).await;
    for n in 1..4 {
        harness.enter(fan(n), 61_500).await.unwrap();
    }
    harness.enter(fan(0), 62_000).await.unwrap();
    harness.emitted().await;
    harness.handle(failed(1, fan(0), HoldGone, 59_000), 62_500).await;
    assert_eq!(harness.names().await, ["returned 0"]);
    assert_eq!(harness.look(fan(0), 62_500).await.unwrap().position, Some(0));
}

#[tokio::test]
async fn a_hold_that_is_gone_keeps_no_place_also_when_its_fan_is_not_returned() {
    let mut harness = Harness::open().await;
    harness.admit(1).await;
    harness.handle(created(1, fan(0), 400_000), 2_000).await;
    harness.emitted().await;
    // The payment was requested under an earlier place.
    harness.handle(failed(1, fan(0), HoldGone, -1_000), 3_000).await;
    assert_eq!(harness.emitted().await, []);
    harness.tick(61_500).await;
    assert_eq!(harness.names().await, ["expired 0 timeout"]);
}

#[tokio::test]
async fn a_fan_who_left_bought_or_was_admitted_again_is_not_returned() {
    let mut harness = Harness::open().await;
    harness.admit(3).await;
    harness.leave(fan(0), 2_000).await.unwrap();
    harness.handle(completed(1, fan(1), 2_000), 3_000).await;
    harness.tick(61_200).await;
    harness.enter(fan(2), 70_000).await.unwrap();
    harness.tick(70_000).await;
    assert_eq!(harness.state(fan(2), 70_000).await, PlaceState::Active);
    harness.emitted().await;
    for n in 0..3 {
        harness.handle(failed(10 + n, fan(n), HoldGone, 1_900), 70_100).await;
    }
    assert_eq!(harness.emitted().await, []);
}

#[tokio::test]
async fn a_payment_that_failed_for_another_reason_changes_nothing() {
    let mut harness = Harness::open().await;
    harness.admit(1).await;
    harness.emitted().await;
    harness.handle(failed(1, fan(0), InsufficientBalance, 2_000), 3_000).await;
    assert_eq!(harness.emitted().await, []);
    assert_eq!(harness.state(fan(0), 3_000).await, PlaceState::Active);
}

#[tokio::test]
async fn a_withdrawn_fan_loses_every_place_and_gets_no_new_one() {
    let mut harness = Harness::open().await;
    harness.admit(1).await;
    harness.enter(fan(1), 1_000).await.unwrap();
    harness.emitted().await;
    for _ in 0..2 {
        harness.handle(withdrawn(fan(0)), 2_000).await;
        harness.handle(withdrawn(fan(1)), 2_000).await;
    }
    assert_eq!(harness.names().await, ["expired 0 withdrawn", "expired 1 withdrawn"]);
    assert!(harness.enter(fan(0), 3_000).await.unwrap_err().is(codes::ACCOUNT_CLOSING));
}

#[tokio::test]
async fn a_withdrawal_that_comes_before_the_fan_enters_stands() {
    let harness = Harness::open().await;
    harness.handle(withdrawn(fan(0)), 0).await;
    assert!(harness.enter(fan(0), 1).await.unwrap_err().is(codes::ACCOUNT_CLOSING));
}

#[tokio::test]
async fn a_cancelled_show_ends_every_place_and_admits_no_fan() {
    let mut harness = Harness::open().await;
    harness.admit(5).await;
    for n in 5..8 {
        harness.enter(fan(n), 1_000).await.unwrap();
    }
    harness.emitted().await;
    harness.handle(cancelled_schedule(), 2_000).await;
    harness.handle(cancelled_schedule(), 2_000).await;
    assert!(harness.enter(fan(9), 2_000).await.unwrap_err().is(codes::SCHEDULE_CANCELLED));
    harness.tick(2_000).await;
    let expected: Vec<String> = (0..8).map(|n| format!("expired {n} cancelled")).collect();
    let mut emitted = harness.names().await;
    emitted.sort();
    assert_eq!(emitted, expected);
    assert_eq!(harness.tick(2_100).await, 0);
    harness.handle(failed(1, fan(0), HoldGone, 1_500), 2_200).await;
    assert_eq!(harness.emitted().await, []);
}

#[tokio::test]
async fn the_room_of_a_cancelled_show_is_emptied_in_bounded_steps() {
    let mut harness = Harness::open().await;
    let calls: Vec<_> = (0..2_500)
        .map(|n| {
            mesh::valkey::FunctionCall::new("enter")
                .arg(super::harness::SCHEDULE)
                .arg(fan(n))
                .arg("")
        })
        .collect();
    harness.room.perform(&calls, super::harness::at(-5)).await.unwrap();
    harness.handle(cancelled_schedule(), -4).await;
    harness.emitted().await;
    let mut steps = Vec::new();
    while harness.tick(-3).await > 0 {
        steps.push(harness.emitted().await.len());
    }
    assert_eq!(steps, [1_000, 1_000, 500]);
}

#[tokio::test]
async fn a_cancellation_that_comes_before_the_opening_stands() {
    let mut harness = Harness::empty().await;
    harness.handle(cancelled_schedule(), 0).await;
    assert!(harness.enter(fan(1), 0).await.unwrap_err().is(codes::NOT_FOUND));
    let opened = super::harness::opened(super::harness::SCHEDULE, super::harness::ADMISSION, 10);
    harness.handle(opened, 10).await;
    assert!(harness.enter(fan(1), 20).await.unwrap_err().is(codes::SCHEDULE_CANCELLED));
    assert_eq!(harness.emitted().await, []);
}

#[tokio::test]
async fn an_opening_that_comes_twice_does_not_reset_the_room() {
    let harness = Harness::open().await;
    harness.admit(2).await;
    let mut again = super::harness::opened(super::harness::SCHEDULE, super::harness::ADMISSION, 99);
    again.admission.active_max = 1;
    harness.handle(again, 1_000).await;
    let place = harness.enter(fan(5), 1_000).await.unwrap();
    assert_eq!(place.position, Some(0));
    harness.tick(1_100).await;
    assert_eq!(harness.state(fan(5), 1_100).await, PlaceState::Active);
}

#[tokio::test]
async fn waiting_places_expire_when_the_show_begins() {
    let mut harness = Harness::open().await;
    harness.admit(5).await;
    harness.enter(fan(6), 1_000).await.unwrap();
    harness.emitted().await;
    harness.tick(86_400_000).await;
    let emitted = harness.names().await;
    assert!(emitted.contains(&"expired 6 closed".to_owned()), "{emitted:?}");
    assert!(harness.enter(fan(7), 86_400_000).await.unwrap_err().is(codes::SCHEDULE_CLOSED));
    assert_eq!(harness.tick(86_400_100).await, 0, "the room is put away");
}

/// When the show of the harness begins.
const START: i64 = 86_400_000;

#[tokio::test]
async fn a_room_admits_until_the_very_start_and_expires_every_place_from_then_on() {
    let harness = Harness::open().await;
    harness.enter(fan(1), START - 1).await.unwrap();
    harness.tick(START - 1).await;
    let place = harness.look(fan(1), START - 1).await.unwrap();
    assert_eq!(place.state, PlaceState::Active);
    assert_eq!(place.reserve_until, Some(super::harness::at(START)), "no pass outlives the start");
    let refused = harness.enter(fan(2), START).await.unwrap_err();
    assert!(refused.is(codes::SCHEDULE_CLOSED));
    harness.tick(START + 1_000).await;
    let ended = harness.look(fan(1), START + 1_000).await.unwrap();
    assert_eq!(ended.reason, Some(PlaceEnd::Closed));
    // A cancellation after the start still counts.
    harness.handle(cancelled_schedule(), START + 2_000).await;
    let refused = harness.enter(fan(2), START + 2_000).await.unwrap_err();
    assert!(refused.is(codes::SCHEDULE_CANCELLED));
}

#[tokio::test]
async fn a_pass_that_ran_out_before_the_start_times_out_however_late_the_tick_is() {
    let harness = Harness::open().await;
    harness.enter(fan(1), START - 120_000).await.unwrap();
    harness.tick(START - 120_000).await;
    harness.tick(START + 5_000).await;
    let ended = harness.look(fan(1), START + 5_000).await.unwrap();
    assert_eq!(ended.reason, Some(PlaceEnd::Timeout));
}
