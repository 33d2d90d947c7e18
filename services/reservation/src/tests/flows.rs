//! Each flow in order, then repeated, late and out of order.

use events::{
    codes,
    queue::{PlaceEnd, QueueExpired},
    reservation::{
        CancelReason,
        ReservationState::{Cancelled, Confirmed, Expired, Pending},
    },
};

use super::*;

const CREATED: &str = "reservation.created";
const CONFIRMED: &str = "reservation.confirmed";
const REFUSED: &str = "reservation.confirm_refused";
const EXPIRED: &str = "reservation.expired";
const CANCELLED: &str = "reservation.cancelled";

#[test]
fn a_granted_hold_owns_all_of_its_seats() {
    let mut harness = Harness::open();
    let hold = harness.reserve(fan(1), &[1, 2]).unwrap();
    assert_eq!((hold.state, hold.amount, hold.expires_at), (Pending, 200, at(301)));
    assert_eq!(harness.owner(1), Some(hold.reservation_id));
    assert_eq!(harness.owner(2), Some(hold.reservation_id));
    let emitted = harness.outbox.remove(0);
    assert_eq!(emitted.event, CREATED);
    assert_eq!(emitted.body["hold_version"], 1);
    assert_eq!(emitted.saga, hold.reservation_id.0, "a hold begins its own saga");
}

#[test]
fn a_refused_hold_takes_no_seat_emits_no_event_and_is_announced() {
    let mut harness = Harness::open();
    harness.reserve(fan(1), &[2]).unwrap();
    harness.emitted();
    let problem = refusal(harness.reserve(fan(2), &[1, 2, 3]));
    assert!(problem.is(codes::SEAT_TAKEN));
    assert_eq!(problem.extra["seats"], serde_json::json!(["A-1-2"]));
    assert_eq!((harness.owner(1), harness.owner(3)), (None, None));
    assert!(harness.emitted().is_empty());
    assert_eq!(harness.live.len(), 1);
    let (subject, body) = &harness.live[0];
    assert_eq!(*subject, format!("live.reservation.refused.{SHOW}"));
    assert_eq!(body["code"], "seat_taken");
    assert_eq!(body["seats"], serde_json::json!(["A-1-2"]));
    assert_eq!(body["user_id"], fan(2).to_string());
}

#[test]
fn every_refusal_of_a_hold_has_its_code() {
    let mut harness = Harness::open();
    assert!(refusal(harness.reserve(fan(1), &[])).is(codes::INVALID));
    assert!(refusal(harness.reserve(fan(1), &[1, 1])).is(codes::INVALID));
    assert!(refusal(harness.hold(fan(1), &[1], None)).is(codes::NOT_ACTIVE));
    let of_another =
        Pass { user_id: fan(2), schedule_id: SHOW, place_version: 1, reserve_until: at(100) };
    assert!(refusal(harness.hold(fan(1), &[1], Some(of_another.clone()))).is(codes::NOT_ACTIVE));
    assert!(
        refusal(harness.hold(fan(1), &[], Some(of_another))).is(codes::INVALID),
        "the seats are checked before the pass"
    );
    assert!(refusal(harness.reserve(fan(1), &[1, 99])).is(codes::UNKNOWN_SEAT));
    assert!(refusal(harness.reserve(fan(1), &[1, 2, 3, 4, 5])).is(codes::LIMIT_EXCEEDED));
    harness.now = at(-1);
    assert!(refusal(harness.reserve(fan(1), &[1])).is(codes::NOT_OPEN_YET));
    harness.now = at(100_000);
    assert!(refusal(harness.reserve(fan(1), &[1])).is(codes::SCHEDULE_CLOSED));
    assert_eq!(harness.live.len(), 9, "each was announced");
}

#[test]
fn a_hold_of_an_unknown_schedule_waits_for_schedule_opened() {
    let mut harness = Harness::empty();
    let answer = harness.reserve(fan(1), &[1]);
    assert!(matches!(answer, Err(Refusal::NotYet(problem)) if problem.is(codes::NOT_FOUND)));
    harness.handle(&opened()).unwrap();
    harness.reserve(fan(1), &[1]).unwrap();
}

#[test]
fn held_and_owned_seats_count_towards_the_limit_and_freed_ones_do_not() {
    let mut harness = Harness::open();
    let first = harness.reserve(fan(1), &[1, 2]).unwrap().reservation_id;
    let second = harness.reserve(fan(1), &[3]).unwrap().reservation_id;
    harness.handle(&harness.debited(first, payment(1))).unwrap();
    assert!(refusal(harness.reserve(fan(1), &[4, 5])).is(codes::LIMIT_EXCEEDED));
    harness.cancel(fan(1), second).unwrap();
    let anew =
        Pass { user_id: fan(1), schedule_id: SHOW, place_version: 8, reserve_until: at(100) };
    harness.hold(fan(1), &[4, 5], Some(anew)).unwrap();
}

#[test]
fn the_pass_of_an_ended_place_is_void_and_a_later_one_is_good() {
    let mut harness = Harness::open();
    let ended = |place_version| QueueExpired {
        schedule_id: SHOW,
        user_id: fan(1),
        place_version,
        reason: PlaceEnd::Left,
    };
    harness.handle(&ended(4)).unwrap();
    harness.reserve(fan(1), &[1]).unwrap();
    harness.handle(&ended(6)).unwrap();
    harness.handle(&ended(4)).unwrap();
    assert!(
        refusal(harness.reserve(fan(1), &[2])).is(codes::NOT_ACTIVE),
        "the pass has place version 5"
    );
    let pass =
        Pass { user_id: fan(1), schedule_id: SHOW, place_version: 8, reserve_until: at(200) };
    harness.hold(fan(1), &[2], Some(pass)).unwrap();
}

#[test]
fn an_opening_that_comes_twice_is_handled_once() {
    let mut harness = Harness::open();
    let hold = harness.reserve(fan(1), &[1]).unwrap().reservation_id;
    harness.handle(&opened()).unwrap();
    assert_eq!(harness.owner(1), Some(hold), "the seats were not created again");
}

#[test]
fn a_debit_in_time_confirms_and_its_repeat_emits_nothing() {
    let mut harness = Harness::open();
    let hold = harness.reserve(fan(1), &[1]).unwrap().reservation_id;
    harness.handle(&harness.extension(hold, payment(1))).unwrap();
    harness.handle(&harness.debited(hold, payment(1))).unwrap();
    assert_eq!(harness.reservation(hold).state, Confirmed);
    assert_eq!(harness.emitted(), [CREATED, CONFIRMED]);
    harness.handle(&harness.debited(hold, payment(1))).unwrap();
    harness.handle(&harness.extension(hold, payment(1))).unwrap();
    harness.now = at(10_000);
    harness.sweep(hold);
    assert!(harness.emitted().is_empty());
    assert_eq!(harness.owner(1), Some(hold));
}

#[test]
fn a_payment_in_the_last_minute_extends_its_hold_once() {
    let mut harness = Harness::open();
    let hold = harness.reserve(fan(1), &[1]).unwrap().reservation_id;
    harness.now = at(290);
    harness.handle(&harness.extension(hold, payment(1))).unwrap();
    harness.handle(&harness.extension(hold, payment(1))).unwrap();
    assert_eq!(harness.reservation(hold).expires_at, at(350));
    harness.now = at(349);
    harness.handle(&harness.extension(hold, payment(2))).unwrap();
    assert_eq!(harness.reservation(hold).expires_at, at(350), "not twice");
    harness.sweep(hold);
    harness.handle(&harness.debited(hold, payment(1))).unwrap();
    assert_eq!(harness.reservation(hold).state, Confirmed);
    assert_eq!(harness.emitted(), [CREATED, CONFIRMED]);
}

#[test]
fn a_hold_whose_time_is_up_expires_once_and_frees_its_seats() {
    let mut harness = Harness::open();
    let hold = harness.reserve(fan(1), &[1]).unwrap().reservation_id;
    harness.now = at(300);
    harness.sweep(hold);
    assert_eq!(harness.owner(1), Some(hold), "a second too early");
    harness.now = at(301);
    harness.sweep(hold);
    harness.sweep(hold);
    assert_eq!(harness.owner(1), None);
    assert_eq!(harness.emitted(), [CREATED, EXPIRED]);
}

#[test]
fn a_debit_after_the_end_is_refused_and_expires_the_hold_even_before_the_sweep() {
    let mut harness = Harness::open();
    let hold = harness.reserve(fan(1), &[1]).unwrap().reservation_id;
    harness.now = at(301);
    harness.handle(&harness.debited(hold, payment(1))).unwrap();
    assert_eq!(harness.reservation(hold).state, Expired);
    assert_eq!(harness.owner(1), None);
    let outbox = std::mem::take(&mut harness.outbox);
    assert_eq!([&*outbox[1].event, &*outbox[2].event], [EXPIRED, REFUSED]);
    assert_eq!(outbox[1].saga, hold.0, "it ends in its own saga");
    assert_eq!(
        (&outbox[2].body["reason"], &outbox[2].body["amount"]),
        (&"expired".into(), &100.into())
    );
    harness.sweep(hold);
    assert!(harness.emitted().is_empty());
    harness.handle(&harness.debited(hold, payment(1))).unwrap();
    assert_eq!(harness.emitted(), [REFUSED], "the same answer; its consumer fences by payment");
}

#[test]
fn a_debit_for_an_unknown_reservation_waits_and_is_then_refused() {
    let mut harness = Harness::open();
    let hold = harness.reserve(fan(1), &[1]).unwrap().reservation_id;
    let event = PointDebited {
        reservation_id: Uuid::from_u128(404).into(),
        ..harness.debited(hold, payment(1))
    };
    harness.emitted();
    assert!(matches!(harness.handle(&event), Err(HandleError::NotYet(_))));
    assert!(harness.emitted().is_empty());
    harness.attempt = harness.config.unknown_tries_max;
    harness.handle(&event).unwrap();
    assert_eq!(harness.emitted(), [REFUSED]);
}

#[test]
fn a_late_debit_of_a_former_owner_leaves_the_next_owner_untouched() {
    let mut harness = Harness::open();
    let former = harness.reserve(fan(1), &[1]).unwrap().reservation_id;
    let (late_extension, late_debit) =
        (harness.extension(former, payment(1)), harness.debited(former, payment(1)));
    harness.now = at(301);
    harness.sweep(former);
    let next = harness.reserve(fan(2), &[1]).unwrap().reservation_id;
    let before = harness.reservation(next).clone();
    assert_eq!(before.hold_version, 2);
    harness.emitted();
    harness.handle(&late_extension).unwrap();
    harness.handle(&late_debit).unwrap();
    harness.sweep(former);
    assert!(refusal(harness.cancel(fan(1), former)).is(codes::NOT_CANCELLABLE));
    harness.handle(&withdrawn(fan(1), 1, true)).unwrap();
    assert_eq!(harness.emitted(), [REFUSED]);
    assert_eq!(harness.owner(1), Some(next));
    assert_eq!(*harness.reservation(next), before);
}

#[test]
fn the_seats_of_a_cancelled_hold_are_free_at_once_and_a_late_debit_is_refused() {
    let mut harness = Harness::open();
    let hold = harness.reserve(fan(1), &[1]).unwrap().reservation_id;
    assert!(refusal(harness.cancel(fan(2), hold)).is(codes::NOT_FOUND));
    assert!(refusal(harness.cancel(fan(1), Uuid::nil().into())).is(codes::NOT_FOUND));
    assert_eq!(harness.cancel(fan(1), hold).unwrap().state, Cancelled);
    assert_eq!(harness.owner(1), None);
    assert!(refusal(harness.cancel(fan(1), hold)).is(codes::NOT_CANCELLABLE));
    let outbox = std::mem::take(&mut harness.outbox);
    assert_eq!(outbox[1].event, CANCELLED);
    let body = &outbox[1].body;
    assert_eq!((&body["refund"], &body["reason"]), (&0.into(), &"by_fan".into()));
    assert!(body.get("payment_id").is_none());
    harness.handle(&harness.debited(hold, payment(1))).unwrap();
    assert_eq!(harness.outbox[0].body["reason"], "cancelled");
    assert_eq!(harness.emitted(), [REFUSED]);
}

#[test]
fn a_cancelled_ticket_names_its_payment_and_a_repeated_debit_emits_nothing() {
    let mut harness = Harness::open();
    let id = harness.reserve(fan(1), &[1, 2]).unwrap().reservation_id;
    harness.handle(&harness.debited(id, payment(1))).unwrap();
    harness.emitted();
    harness.cancel(fan(1), id).unwrap();
    assert_eq!(harness.outbox[0].body["payment_id"], payment(1).to_string());
    assert_eq!(harness.outbox[0].body["refund"], 200);
    assert_eq!((harness.owner(1), harness.owner(2)), (None, None));
    harness.emitted();
    harness.handle(&harness.debited(id, payment(1))).unwrap();
    assert!(harness.emitted().is_empty(), "the cancellation alone returns the money");
}

#[test]
fn a_cancelled_show_sells_nothing_and_cancels_all_of_its_reservations() {
    let mut harness = Harness::open();
    let held = harness.reserve(fan(1), &[1]).unwrap().reservation_id;
    let paid = harness.reserve(fan(2), &[2]).unwrap().reservation_id;
    harness.handle(&harness.debited(paid, payment(2))).unwrap();
    harness.emitted();
    harness.handle(&schedule_cancelled()).unwrap();
    harness.handle(&schedule_cancelled()).unwrap();
    harness.handle(&opened()).unwrap();
    assert!(refusal(harness.reserve(fan(3), &[3])).is(codes::SCHEDULE_CANCELLED));
    harness.empty_show(vec![held, paid]);
    harness.empty_show(vec![held, paid]);
    let outbox = std::mem::take(&mut harness.outbox);
    assert_eq!([&*outbox[0].event, &*outbox[1].event], [CANCELLED, CANCELLED]);
    assert_eq!([outbox[0].saga, outbox[1].saga], [held.0, payment(2).0], "each in its own saga");
    assert_eq!(outbox[1].body["refund"], 100);
    assert_eq!((outbox.len(), harness.owner(1), harness.owner(2)), (2, None, None));
    harness.empty_show(vec![]);
    harness.empty_show(vec![]);
    assert_eq!(harness.unit.schedules[&SHOW], crate::domain::Schedule::Cancelled);
}

#[test]
fn a_cancellation_that_overtakes_the_opening_wins() {
    let mut harness = Harness::empty();
    harness.handle(&schedule_cancelled()).unwrap();
    harness.handle(&opened()).unwrap();
    assert!(refusal(harness.reserve(fan(1), &[1])).is(codes::SCHEDULE_CANCELLED));
}

#[test]
fn after_the_refund_deadline_a_hold_can_be_given_back_but_not_a_ticket() {
    let mut harness = Harness::open();
    let paid = harness.reserve(fan(1), &[1]).unwrap().reservation_id;
    harness.handle(&harness.debited(paid, payment(1))).unwrap();
    harness.now = at(50_000);
    let held = harness.reserve(fan(2), &[2]).unwrap().reservation_id;
    harness.emitted();
    let refused = refusal(harness.cancel(fan(1), paid));
    assert!(refused.is(codes::NOT_CANCELLABLE));
    assert_eq!(refused.extra["reason"], "refund_deadline");
    assert!(harness.emitted().is_empty());
    assert_eq!((harness.reservation(paid).state, harness.owner(1)), (Confirmed, Some(paid)));
    harness.cancel(fan(2), held).unwrap();
    // A cancelled show is refunded however late it is.
    harness.now = at(200_000);
    harness.handle(&schedule_cancelled()).unwrap();
    harness.empty_show(vec![paid]);
    assert_eq!(harness.emitted(), [CANCELLED, CANCELLED]);
    assert_eq!(harness.reservation(paid).view().reason, Some(CancelReason::ShowCancelled));
}

#[test]
fn a_pass_is_void_once_a_payment_has_used_up_its_place() {
    let mut harness = Harness::open();
    let first = harness.reserve(fan(1), &[1]).unwrap().reservation_id;
    let second = harness.reserve(fan(1), &[2]).unwrap().reservation_id;
    harness.handle(&harness.debited(first, payment(1))).unwrap();
    let third = harness.reserve(fan(1), &[3]).expect("the second hold lives").reservation_id;
    for hold in [second, third] {
        harness.cancel(fan(1), hold).unwrap();
    }
    assert!(refusal(harness.reserve(fan(1), &[4])).is(codes::NOT_ACTIVE));
    harness.cancel(fan(1), first).unwrap();
    assert!(refusal(harness.reserve(fan(1), &[4])).is(codes::NOT_ACTIVE), "also when given back");
    let anew =
        Pass { user_id: fan(1), schedule_id: SHOW, place_version: 8, reserve_until: at(100) };
    harness.hold(fan(1), &[4], Some(anew)).expect("a place that was admitted later");
}

#[test]
fn the_state_of_the_sale_is_refused_before_the_state_of_the_pass() {
    let mut harness = Harness::open();
    let late = |harness: &mut Harness| {
        let hold = Hold { schedule_id: SHOW, seats: vec![seat(1)], pass: None, is_late: true };
        refusal(harness.run(&caller(fan(1)), |unit, ctx| unit.execute(&hold, ctx)))
    };
    assert!(late(&mut harness).is(codes::NOT_ACTIVE));
    harness.now = at(100_000);
    assert!(late(&mut harness).is(codes::SCHEDULE_CLOSED));
    harness.handle(&schedule_cancelled()).unwrap();
    assert!(late(&mut harness).is(codes::SCHEDULE_CANCELLED));
    let ended = QueueExpired {
        schedule_id: SHOW,
        user_id: fan(1),
        place_version: 9,
        reason: PlaceEnd::Cancelled,
    };
    harness.handle(&ended).unwrap();
    assert!(refusal(harness.reserve(fan(1), &[1])).is(codes::SCHEDULE_CANCELLED));
}

#[test]
fn a_withdrawn_fan_loses_holds_but_keeps_tickets() {
    let mut harness = Harness::open();
    let held = harness.reserve(fan(1), &[1]).unwrap().reservation_id;
    let paid = harness.reserve(fan(1), &[2]).unwrap().reservation_id;
    let others = harness.reserve(fan(2), &[3]).unwrap().reservation_id;
    harness.handle(&harness.debited(paid, payment(1))).unwrap();
    harness.emitted();
    let withdrawn = withdrawn(fan(1), 1, false);
    harness.handle(&withdrawn).unwrap();
    assert_eq!(harness.outbox[0].body["reason"], "withdrawn");
    harness.handle(&withdrawn).unwrap();
    assert_eq!(harness.emitted(), [CANCELLED]);
    let states = [held, paid, others].map(|id| harness.reservation(id).state);
    assert_eq!(states, [Cancelled, Confirmed, Pending]);
    assert_eq!((harness.owner(1), harness.owner(3)), (None, Some(others)));
}
