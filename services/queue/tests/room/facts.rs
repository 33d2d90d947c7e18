//! Holds, payments and accounts: once, twice, late, out of order.

use events::{
    codes,
    payment::PaymentFailure::{HoldGone, InsufficientBalance},
    queue::{PlaceEnd, PlaceState},
};
use mesh::Outcome;

use crate::stage::{
    Stage, cancelled, cancelled_schedule, completed, created, failed, fan, hold_expired, withdrawn,
};

#[tokio::test]
async fn a_fact_that_comes_twice_is_a_repeat() {
    let mut stage = Stage::open().await;
    stage.admit(1).await;
    stage.said().await;
    let id = events::EventId(uuid::Uuid::now_v7());
    let fact = completed(1, fan(0), 2_000);
    let first = stage.hear_as(fact.clone(), id, 3_000).await;
    assert!(matches!(first, Outcome::Done(_)), "{first:?}");
    let second = stage.hear_as(fact, id, 3_000).await;
    assert!(matches!(second, Outcome::Repeat), "{second:?}");
    assert_eq!(stage.names().await, ["completed 0"]);
}

#[tokio::test]
async fn a_hold_keeps_the_place_until_its_hard_cap() {
    let mut stage = Stage::open().await;
    stage.admit(1).await;
    stage.hear(created(1, fan(0), 400_000), 59_000).await;
    stage.said().await;
    assert_eq!(stage.tick(61_500).await, 0);
    let place = stage.look(fan(0), 61_500).await.unwrap();
    assert_eq!(place.state, PlaceState::Active);
    assert_eq!(place.reserve_until, Some(crate::stage::at(60_000)), "the pass is no longer");
    stage.tick(401_000).await;
    assert_eq!(stage.names().await, ["expired 0 timeout"]);
}

#[tokio::test]
async fn a_hold_that_ends_gives_the_lease_back_but_never_cuts_the_pass() {
    for paid in [None, Some(false)] {
        let stage = Stage::open().await;
        stage.admit(1).await;
        stage.hear(created(1, fan(0), 400_000), 2_000).await;
        match paid {
            None => stage.hear(hold_expired(1, fan(0)), 3_000).await,
            Some(paid) => stage.hear(cancelled(1, fan(0), paid), 3_000).await,
        }
        stage.tick(60_900).await;
        assert_eq!(stage.state(fan(0), 60_900).await, PlaceState::Active);
        stage.tick(61_000).await;
        assert_eq!(stage.state(fan(0), 61_000).await, PlaceState::Expired);
    }
}

#[tokio::test]
async fn one_of_two_holds_still_keeps_the_place() {
    let stage = Stage::open().await;
    stage.admit(1).await;
    stage.hear(created(1, fan(0), 300_000), 2_000).await;
    stage.hear(created(2, fan(0), 200_000), 2_000).await;
    stage.hear(hold_expired(1, fan(0)), 3_000).await;
    stage.tick(150_000).await;
    assert_eq!(stage.state(fan(0), 150_000).await, PlaceState::Active);
    stage.tick(201_000).await;
    assert_eq!(stage.state(fan(0), 201_000).await, PlaceState::Expired);
}

#[tokio::test]
async fn a_hold_whose_end_was_heard_first_does_not_come_back_to_life() {
    let stage = Stage::open().await;
    stage.admit(1).await;
    stage.hear(hold_expired(1, fan(0)), 2_000).await;
    stage.hear(created(1, fan(0), 400_000), 3_000).await;
    stage.hear(created(1, fan(0), 400_000), 3_000).await;
    stage.tick(61_000).await;
    assert_eq!(stage.state(fan(0), 61_000).await, PlaceState::Expired);
}

#[tokio::test]
async fn a_hold_of_somebody_without_a_place_changes_nothing() {
    let mut stage = Stage::open().await;
    stage.hear(created(1, fan(3), 400_000), 2_000).await;
    stage.hear(hold_expired(1, fan(3)), 2_000).await;
    stage.hear(completed(1, fan(3), 2_000), 2_000).await;
    stage.hear(failed(2, fan(3), HoldGone, 2_000), 2_000).await;
    assert_eq!(stage.said().await, []);
}

#[tokio::test]
async fn who_has_paid_is_done() {
    let mut stage = Stage::open().await;
    stage.admit(1).await;
    stage.said().await;
    stage.hear(completed(1, fan(0), 2_000), 3_000).await;
    stage.hear(completed(1, fan(0), 2_000), 3_100).await;
    let told = stage.said().await;
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].fact, "queue.completed");
    assert_eq!(told[0].what["payment_id"], crate::stage::payment(1).to_string());
    assert_eq!(told[0].what["place_version"], 3);
    let place = stage.look(fan(0), 4_000).await.unwrap();
    assert_eq!((place.state, place.reason), (PlaceState::Completed, None));
    assert_eq!((place.pass, place.ticket), (None, None));
    let left = stage.leave(fan(0), 4_000).await.unwrap();
    assert_eq!(left.state, PlaceState::Completed, "there is nothing to leave");
    assert_eq!(stage.said().await, []);
}

#[tokio::test]
async fn a_payment_of_an_earlier_place_does_not_end_the_next_one() {
    let mut stage = Stage::open().await;
    stage.admit(1).await;
    stage.tick(61_000).await;
    stage.enter(fan(0), 70_000).await.unwrap();
    stage.said().await;
    stage.hear(completed(1, fan(0), 59_000), 71_000).await;
    assert_eq!(stage.said().await, []);
    assert_eq!(stage.state(fan(0), 71_000).await, PlaceState::Waiting);
}

#[tokio::test]
async fn who_lost_the_hold_stands_in_front_of_everybody_and_in_order_of_returning() {
    let mut stage = Stage::open().await;
    stage.admit(5).await;
    for n in 10..13 {
        stage.enter(fan(n), 1_000).await.unwrap();
    }
    stage.said().await;
    stage.hear(failed(1, fan(4), HoldGone, 2_000), 3_000).await;
    stage.hear(failed(2, fan(0), HoldGone, 2_000), 3_000).await;
    assert_eq!(stage.names().await, ["returned 4", "returned 0"]);
    for (ahead, user) in [4, 0, 10, 11, 12].into_iter().enumerate() {
        let place = stage.look(fan(user), 3_000).await.unwrap();
        assert_eq!((place.state, place.position), (PlaceState::Waiting, Some(ahead as u64)));
    }
    stage.tick_through(3_000..4_000).await;
    assert_eq!(stage.names().await, ["activated 4", "activated 0"]);
}

#[tokio::test]
async fn a_fan_is_brought_back_once_for_each_payment() {
    let mut stage = Stage::open().await;
    stage.admit(1).await;
    stage.said().await;
    stage.hear(failed(1, fan(0), HoldGone, 2_000), 3_000).await;
    stage.hear(failed(1, fan(0), HoldGone, 2_000), 3_050).await;
    stage.tick(3_100).await;
    stage.hear(failed(1, fan(0), HoldGone, 2_000), 3_200).await;
    assert_eq!(stage.names().await, ["returned 0", "activated 0"]);
}

#[tokio::test]
async fn a_failure_told_again_after_a_later_one_or_to_a_later_place_moves_nobody() {
    let mut stage = Stage::open().await;
    stage.admit(1).await;
    for (payment, at) in [(1, 2_000), (2, 3_000)] {
        stage.hear(failed(payment, fan(0), HoldGone, at), at).await;
        stage.tick(at + 100).await;
        assert_eq!(stage.state(fan(0), at + 100).await, PlaceState::Active);
    }
    stage.said().await;
    stage.hear(failed(1, fan(0), HoldGone, 2_000), 4_000).await;
    stage.leave(fan(0), 5_000).await.unwrap();
    stage.enter(fan(0), 6_000).await.unwrap();
    stage.hear(failed(2, fan(0), HoldGone, 3_000), 6_050).await;
    assert_eq!(stage.names().await, ["expired 0 left", "waiting 0"]);
}

#[tokio::test]
async fn who_ran_out_of_time_meanwhile_is_brought_back_too() {
    let mut stage = Stage::open().await;
    stage.admit(1).await;
    stage.tick(61_000).await;
    stage.said().await;
    stage.hear(failed(1, fan(0), HoldGone, 59_000), 62_000).await;
    let told = stage.said().await;
    assert_eq!(told[0].fact, "queue.returned");
    assert_eq!(told[0].what["place_version"], 4);
}

#[tokio::test]
async fn who_lined_up_again_at_the_end_is_moved_to_the_front() {
    let mut stage = Stage::open().await;
    stage.admit(1).await;
    stage.tick(61_000).await;
    for n in 1..4 {
        stage.enter(fan(n), 61_500).await.unwrap();
    }
    stage.enter(fan(0), 62_000).await.unwrap();
    stage.said().await;
    stage.hear(failed(1, fan(0), HoldGone, 59_000), 62_500).await;
    assert_eq!(stage.names().await, ["returned 0"]);
    assert_eq!(stage.look(fan(0), 62_500).await.unwrap().position, Some(0));
}

#[tokio::test]
async fn who_left_bought_or_was_admitted_anew_is_not_brought_back() {
    let mut stage = Stage::open().await;
    stage.admit(3).await;
    stage.leave(fan(0), 2_000).await.unwrap();
    stage.hear(completed(1, fan(1), 2_000), 3_000).await;
    stage.tick(61_200).await;
    stage.enter(fan(2), 70_000).await.unwrap();
    stage.tick(70_000).await;
    assert_eq!(stage.state(fan(2), 70_000).await, PlaceState::Active);
    stage.said().await;
    for n in 0..3 {
        stage.hear(failed(10 + n, fan(n), HoldGone, 1_900), 70_100).await;
    }
    assert_eq!(stage.said().await, []);
}

#[tokio::test]
async fn a_payment_that_failed_for_another_reason_changes_nothing() {
    let mut stage = Stage::open().await;
    stage.admit(1).await;
    stage.said().await;
    stage.hear(failed(1, fan(0), InsufficientBalance, 2_000), 3_000).await;
    assert_eq!(stage.said().await, []);
    assert_eq!(stage.state(fan(0), 3_000).await, PlaceState::Active);
}

#[tokio::test]
async fn who_withdraws_gives_up_every_place_and_gets_no_new_one() {
    let mut stage = Stage::open().await;
    stage.admit(1).await;
    stage.enter(fan(1), 1_000).await.unwrap();
    stage.said().await;
    for _ in 0..2 {
        stage.hear(withdrawn(fan(0)), 2_000).await;
        stage.hear(withdrawn(fan(1)), 2_000).await;
    }
    assert_eq!(stage.names().await, ["expired 0 withdrawn", "expired 1 withdrawn"]);
    assert!(stage.enter(fan(0), 3_000).await.unwrap_err().is(codes::ACCOUNT_CLOSING));
}

#[tokio::test]
async fn a_withdrawal_heard_before_the_fan_enters_stands() {
    let stage = Stage::open().await;
    stage.hear(withdrawn(fan(0)), 0).await;
    assert!(stage.enter(fan(0), 1).await.unwrap_err().is(codes::ACCOUNT_CLOSING));
}

#[tokio::test]
async fn a_show_called_off_ends_every_place_and_lets_nobody_in() {
    let mut stage = Stage::open().await;
    stage.admit(5).await;
    for n in 5..8 {
        stage.enter(fan(n), 1_000).await.unwrap();
    }
    stage.said().await;
    stage.hear(cancelled_schedule(), 2_000).await;
    stage.hear(cancelled_schedule(), 2_000).await;
    assert!(stage.enter(fan(9), 2_000).await.unwrap_err().is(codes::SCHEDULE_CANCELLED));
    stage.tick(2_000).await;
    let expected: Vec<String> = (0..8).map(|n| format!("expired {n} cancelled")).collect();
    let mut told = stage.names().await;
    told.sort();
    assert_eq!(told, expected);
    assert_eq!(stage.tick(2_100).await, 0);
    stage.hear(failed(1, fan(0), HoldGone, 1_500), 2_200).await;
    assert_eq!(stage.said().await, []);
}

#[tokio::test]
async fn a_room_that_is_called_off_is_emptied_in_bounded_steps() {
    let mut stage = Stage::open().await;
    let acts: Vec<_> = (0..2_500)
        .map(|n| mesh::valkey::Act::new("enter").arg(crate::stage::SCHEDULE).arg(fan(n)).arg(""))
        .collect();
    stage.room.perform(&acts, crate::stage::at(-5)).await.unwrap();
    stage.hear(cancelled_schedule(), -4).await;
    stage.said().await;
    let mut steps = Vec::new();
    while stage.tick(-3).await > 0 {
        steps.push(stage.said().await.len());
    }
    assert_eq!(steps, [1_000, 1_000, 500]);
}

#[tokio::test]
async fn a_cancellation_heard_before_the_opening_stands() {
    let mut stage = Stage::empty().await;
    stage.hear(cancelled_schedule(), 0).await;
    assert!(stage.enter(fan(1), 0).await.unwrap_err().is(codes::NOT_FOUND));
    let opened = crate::stage::opened(crate::stage::SCHEDULE, crate::stage::ADMISSION, 10);
    stage.hear(opened, 10).await;
    assert!(stage.enter(fan(1), 20).await.unwrap_err().is(codes::SCHEDULE_CANCELLED));
    assert_eq!(stage.said().await, []);
}

#[tokio::test]
async fn an_opening_heard_twice_does_not_reset_the_room() {
    let stage = Stage::open().await;
    stage.admit(2).await;
    let mut again = crate::stage::opened(crate::stage::SCHEDULE, crate::stage::ADMISSION, 99);
    again.admission.active_max = 1;
    stage.hear(again, 1_000).await;
    let place = stage.enter(fan(5), 1_000).await.unwrap();
    assert_eq!(place.position, Some(0));
    stage.tick(1_100).await;
    assert_eq!(stage.state(fan(5), 1_100).await, PlaceState::Active);
}

#[tokio::test]
async fn when_the_show_begins_who_waits_is_sent_home() {
    let mut stage = Stage::open().await;
    stage.admit(5).await;
    stage.enter(fan(6), 1_000).await.unwrap();
    stage.said().await;
    stage.tick(86_400_000).await;
    let told = stage.names().await;
    assert!(told.contains(&"expired 6 closed".to_owned()), "{told:?}");
    assert!(stage.enter(fan(7), 86_400_000).await.unwrap_err().is(codes::SCHEDULE_CLOSED));
    assert_eq!(stage.tick(86_400_100).await, 0, "the room is put away");
}

/// The show of the stage begins then.
const START: i64 = 86_400_000;

#[tokio::test]
async fn a_room_lets_in_until_the_very_start_and_sends_everybody_home_from_then_on() {
    let stage = Stage::open().await;
    stage.enter(fan(1), START - 1).await.unwrap();
    stage.tick(START - 1).await;
    let place = stage.look(fan(1), START - 1).await.unwrap();
    assert_eq!(place.state, PlaceState::Active);
    assert_eq!(place.reserve_until, Some(crate::stage::at(START)), "no pass outlives the start");
    let refused = stage.enter(fan(2), START).await.unwrap_err();
    assert!(refused.is(codes::SCHEDULE_CLOSED));
    stage.tick(START + 1_000).await;
    let ended = stage.look(fan(1), START + 1_000).await.unwrap();
    assert_eq!(ended.reason, Some(PlaceEnd::Closed));
    // Called off afterwards, it is called off.
    stage.hear(cancelled_schedule(), START + 2_000).await;
    let refused = stage.enter(fan(2), START + 2_000).await.unwrap_err();
    assert!(refused.is(codes::SCHEDULE_CANCELLED));
}

#[tokio::test]
async fn a_pass_that_ran_out_before_the_start_has_timed_out_however_late_that_is_seen() {
    let stage = Stage::open().await;
    stage.enter(fan(1), START - 120_000).await.unwrap();
    stage.tick(START - 120_000).await;
    stage.tick(START + 5_000).await;
    let ended = stage.look(fan(1), START + 5_000).await.unwrap();
    assert_eq!(ended.reason, Some(PlaceEnd::Timeout));
}
