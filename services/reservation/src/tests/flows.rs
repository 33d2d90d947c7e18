//! Each flow, then twice, late and out of order.

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
    let mut stage = Stage::open();
    let hold = stage.reserve(fan(1), &[1, 2]).unwrap();
    assert_eq!((hold.state, hold.amount, hold.expires_at), (Pending, 200, at(301)));
    assert_eq!(stage.owner(1), Some(hold.reservation_id));
    assert_eq!(stage.owner(2), Some(hold.reservation_id));
    let said = stage.said.remove(0);
    assert_eq!(said.fact, CREATED);
    assert_eq!(said.body["hold_version"], 1);
    assert_eq!(said.saga, hold.reservation_id.0, "a hold begins its own saga");
}

#[test]
fn a_refused_hold_takes_nothing_tells_nothing_and_is_announced() {
    let mut stage = Stage::open();
    stage.reserve(fan(1), &[2]).unwrap();
    stage.told();
    let problem = refusal(stage.reserve(fan(2), &[1, 2, 3]));
    assert!(problem.is(codes::SEAT_TAKEN));
    assert_eq!(problem.extra["seats"], serde_json::json!(["A-1-2"]));
    assert_eq!((stage.owner(1), stage.owner(3)), (None, None));
    assert!(stage.told().is_empty());
    assert_eq!(stage.live.len(), 1);
    let (subject, body) = &stage.live[0];
    assert_eq!(*subject, format!("live.reservation.refused.{SHOW}"));
    assert_eq!(body["code"], "seat_taken");
    assert_eq!(body["seats"], serde_json::json!(["A-1-2"]));
    assert_eq!(body["user_id"], fan(2).to_string());
}

#[test]
fn every_refusal_of_a_hold_has_its_code() {
    let mut stage = Stage::open();
    assert!(refusal(stage.reserve(fan(1), &[])).is(codes::INVALID));
    assert!(refusal(stage.reserve(fan(1), &[1, 1])).is(codes::INVALID));
    assert!(refusal(stage.hold(fan(1), &[1], None)).is(codes::NOT_ACTIVE));
    let foreign =
        Pass { user_id: fan(2), schedule_id: SHOW, place_version: 1, reserve_until: at(100) };
    assert!(refusal(stage.hold(fan(1), &[1], Some(foreign.clone()))).is(codes::NOT_ACTIVE));
    assert!(
        refusal(stage.hold(fan(1), &[], Some(foreign))).is(codes::INVALID),
        "first things first"
    );
    assert!(refusal(stage.reserve(fan(1), &[1, 99])).is(codes::UNKNOWN_SEAT));
    assert!(refusal(stage.reserve(fan(1), &[1, 2, 3, 4, 5])).is(codes::LIMIT_EXCEEDED));
    stage.now = at(-1);
    assert!(refusal(stage.reserve(fan(1), &[1])).is(codes::NOT_OPEN_YET));
    stage.now = at(100_000);
    assert!(refusal(stage.reserve(fan(1), &[1])).is(codes::SCHEDULE_CLOSED));
    assert_eq!(stage.live.len(), 9, "each was announced");
}

#[test]
fn a_hold_before_its_schedule_was_heard_of_is_tried_again() {
    let mut stage = Stage::empty();
    let answer = stage.reserve(fan(1), &[1]);
    assert!(matches!(answer, Err(Refusal::NotYet(problem)) if problem.is(codes::NOT_FOUND)));
    stage.hear(&opened()).unwrap();
    stage.reserve(fan(1), &[1]).unwrap();
}

#[test]
fn held_and_owned_seats_count_towards_the_limit_and_freed_ones_do_not() {
    let mut stage = Stage::open();
    let first = stage.reserve(fan(1), &[1, 2]).unwrap().reservation_id;
    let second = stage.reserve(fan(1), &[3]).unwrap().reservation_id;
    stage.hear(&stage.debited(first, payment(1))).unwrap();
    assert!(refusal(stage.reserve(fan(1), &[4, 5])).is(codes::LIMIT_EXCEEDED));
    stage.cancel(fan(1), second).unwrap();
    let anew =
        Pass { user_id: fan(1), schedule_id: SHOW, place_version: 8, reserve_until: at(100) };
    stage.hold(fan(1), &[4, 5], Some(anew)).unwrap();
}

#[test]
fn the_pass_of_an_ended_place_is_void_and_a_later_one_is_good() {
    let mut stage = Stage::open();
    let ended = |place_version| QueueExpired {
        schedule_id: SHOW,
        user_id: fan(1),
        place_version,
        reason: PlaceEnd::Left,
    };
    stage.hear(&ended(4)).unwrap();
    stage.reserve(fan(1), &[1]).unwrap();
    stage.hear(&ended(6)).unwrap();
    stage.hear(&ended(4)).unwrap();
    assert!(refusal(stage.reserve(fan(1), &[2])).is(codes::NOT_ACTIVE), "the pass is of the fifth");
    let pass =
        Pass { user_id: fan(1), schedule_id: SHOW, place_version: 8, reserve_until: at(200) };
    stage.hold(fan(1), &[2], Some(pass)).unwrap();
}

#[test]
fn an_opening_is_taken_in_once() {
    let mut stage = Stage::open();
    let hold = stage.reserve(fan(1), &[1]).unwrap().reservation_id;
    stage.hear(&opened()).unwrap();
    assert_eq!(stage.owner(1), Some(hold), "the inventory was not made anew");
}

#[test]
fn money_in_time_confirms_and_its_repeat_says_nothing() {
    let mut stage = Stage::open();
    let hold = stage.reserve(fan(1), &[1]).unwrap().reservation_id;
    stage.hear(&stage.extension(hold, payment(1))).unwrap();
    stage.hear(&stage.debited(hold, payment(1))).unwrap();
    assert_eq!(stage.reservation(hold).state, Confirmed);
    assert_eq!(stage.told(), [CREATED, CONFIRMED]);
    stage.hear(&stage.debited(hold, payment(1))).unwrap();
    stage.hear(&stage.extension(hold, payment(1))).unwrap();
    stage.now = at(10_000);
    stage.sweep(hold);
    assert!(stage.told().is_empty());
    assert_eq!(stage.owner(1), Some(hold));
}

#[test]
fn a_payment_in_the_last_minute_extends_its_hold_once() {
    let mut stage = Stage::open();
    let hold = stage.reserve(fan(1), &[1]).unwrap().reservation_id;
    stage.now = at(290);
    stage.hear(&stage.extension(hold, payment(1))).unwrap();
    stage.hear(&stage.extension(hold, payment(1))).unwrap();
    assert_eq!(stage.reservation(hold).expires_at, at(350));
    stage.now = at(349);
    stage.hear(&stage.extension(hold, payment(2))).unwrap();
    assert_eq!(stage.reservation(hold).expires_at, at(350), "not twice");
    stage.sweep(hold);
    stage.hear(&stage.debited(hold, payment(1))).unwrap();
    assert_eq!(stage.reservation(hold).state, Confirmed);
    assert_eq!(stage.told(), [CREATED, CONFIRMED]);
}

#[test]
fn a_hold_whose_time_is_up_expires_once_and_frees_its_seats() {
    let mut stage = Stage::open();
    let hold = stage.reserve(fan(1), &[1]).unwrap().reservation_id;
    stage.now = at(300);
    stage.sweep(hold);
    assert_eq!(stage.owner(1), Some(hold), "a second too early");
    stage.now = at(301);
    stage.sweep(hold);
    stage.sweep(hold);
    assert_eq!(stage.owner(1), None);
    assert_eq!(stage.told(), [CREATED, EXPIRED]);
}

#[test]
fn money_after_the_end_is_refused_and_the_end_is_told_even_before_the_sweep() {
    let mut stage = Stage::open();
    let hold = stage.reserve(fan(1), &[1]).unwrap().reservation_id;
    stage.now = at(301);
    stage.hear(&stage.debited(hold, payment(1))).unwrap();
    assert_eq!(stage.reservation(hold).state, Expired);
    assert_eq!(stage.owner(1), None);
    let said = std::mem::take(&mut stage.said);
    assert_eq!([&*said[1].fact, &*said[2].fact], [EXPIRED, REFUSED]);
    assert_eq!(said[1].saga, hold.0, "it ends in its own saga");
    assert_eq!(
        (&said[2].body["reason"], &said[2].body["amount"]),
        (&"expired".into(), &100.into())
    );
    stage.sweep(hold);
    assert!(stage.told().is_empty());
    stage.hear(&stage.debited(hold, payment(1))).unwrap();
    assert_eq!(stage.told(), [REFUSED], "the same answer, whose hearer fences by payment");
}

#[test]
fn money_for_an_unknown_reservation_waits_and_is_then_returned() {
    let mut stage = Stage::open();
    let hold = stage.reserve(fan(1), &[1]).unwrap().reservation_id;
    let fact = PointDebited {
        reservation_id: Uuid::from_u128(404).into(),
        ..stage.debited(hold, payment(1))
    };
    stage.told();
    assert!(matches!(stage.hear(&fact), Err(Miss::NotYet(_))));
    assert!(stage.told().is_empty());
    stage.attempt = stage.rules.unknown_tries_max;
    stage.hear(&fact).unwrap();
    assert_eq!(stage.told(), [REFUSED]);
}

#[test]
fn a_late_debit_of_a_former_owner_leaves_the_next_owner_untouched() {
    let mut stage = Stage::open();
    let former = stage.reserve(fan(1), &[1]).unwrap().reservation_id;
    let (late_extension, late_debit) =
        (stage.extension(former, payment(1)), stage.debited(former, payment(1)));
    stage.now = at(301);
    stage.sweep(former);
    let next = stage.reserve(fan(2), &[1]).unwrap().reservation_id;
    let before = stage.reservation(next).clone();
    assert_eq!(before.hold_version, 2);
    stage.told();
    stage.hear(&late_extension).unwrap();
    stage.hear(&late_debit).unwrap();
    stage.sweep(former);
    assert!(refusal(stage.cancel(fan(1), former)).is(codes::NOT_CANCELLABLE));
    stage.hear(&has_left(fan(1), 1, true)).unwrap();
    assert_eq!(stage.told(), [REFUSED]);
    assert_eq!(stage.owner(1), Some(next));
    assert_eq!(*stage.reservation(next), before);
}

#[test]
fn a_cancelled_hold_is_free_at_once_and_its_money_comes_back() {
    let mut stage = Stage::open();
    let hold = stage.reserve(fan(1), &[1]).unwrap().reservation_id;
    assert!(refusal(stage.cancel(fan(2), hold)).is(codes::NOT_FOUND));
    assert!(refusal(stage.cancel(fan(1), Uuid::nil().into())).is(codes::NOT_FOUND));
    assert_eq!(stage.cancel(fan(1), hold).unwrap().state, Cancelled);
    assert_eq!(stage.owner(1), None);
    assert!(refusal(stage.cancel(fan(1), hold)).is(codes::NOT_CANCELLABLE));
    let said = std::mem::take(&mut stage.said);
    assert_eq!(said[1].fact, CANCELLED);
    assert_eq!((&said[1].body["refund"], &said[1].body["reason"]), (&0.into(), &"by_fan".into()));
    assert!(said[1].body.get("payment_id").is_none());
    stage.hear(&stage.debited(hold, payment(1))).unwrap();
    assert_eq!(stage.said[0].body["reason"], "cancelled");
    assert_eq!(stage.told(), [REFUSED]);
}

#[test]
fn cancelling_what_was_paid_names_the_payment_and_a_late_debit_of_it_is_silent() {
    let mut stage = Stage::open();
    let id = stage.reserve(fan(1), &[1, 2]).unwrap().reservation_id;
    stage.hear(&stage.debited(id, payment(1))).unwrap();
    stage.told();
    stage.cancel(fan(1), id).unwrap();
    assert_eq!(stage.said[0].body["payment_id"], payment(1).to_string());
    assert_eq!(stage.said[0].body["refund"], 200);
    assert_eq!((stage.owner(1), stage.owner(2)), (None, None));
    stage.told();
    stage.hear(&stage.debited(id, payment(1))).unwrap();
    assert!(stage.told().is_empty(), "the cancellation returns the money, and once is enough");
}

#[test]
fn a_cancelled_show_sells_nothing_and_lets_all_of_its_owners_go() {
    let mut stage = Stage::open();
    let held = stage.reserve(fan(1), &[1]).unwrap().reservation_id;
    let paid = stage.reserve(fan(2), &[2]).unwrap().reservation_id;
    stage.hear(&stage.debited(paid, payment(2))).unwrap();
    stage.told();
    stage.hear(&called_off()).unwrap();
    stage.hear(&called_off()).unwrap();
    stage.hear(&opened()).unwrap();
    assert!(refusal(stage.reserve(fan(3), &[3])).is(codes::SCHEDULE_CANCELLED));
    stage.empty_show(vec![held, paid]);
    stage.empty_show(vec![held, paid]);
    let said = std::mem::take(&mut stage.said);
    assert_eq!([&*said[0].fact, &*said[1].fact], [CANCELLED, CANCELLED]);
    assert_eq!([said[0].saga, said[1].saga], [held.0, payment(2).0], "each in its own saga");
    assert_eq!(said[1].body["refund"], 100);
    assert_eq!((said.len(), stage.owner(1), stage.owner(2)), (2, None, None));
    stage.empty_show(vec![]);
    stage.empty_show(vec![]);
    assert_eq!(*stage.book.schedules[&SHOW], crate::domain::Schedule::Cancelled);
}

#[test]
fn a_cancellation_heard_before_the_opening_wins() {
    let mut stage = Stage::empty();
    stage.hear(&called_off()).unwrap();
    stage.hear(&opened()).unwrap();
    assert!(refusal(stage.reserve(fan(1), &[1])).is(codes::SCHEDULE_CANCELLED));
}

#[test]
fn a_ticket_is_not_given_back_once_its_deadline_is_over_and_a_hold_is() {
    let mut stage = Stage::open();
    let paid = stage.reserve(fan(1), &[1]).unwrap().reservation_id;
    stage.hear(&stage.debited(paid, payment(1))).unwrap();
    stage.now = at(50_000);
    let held = stage.reserve(fan(2), &[2]).unwrap().reservation_id;
    stage.told();
    let refused = refusal(stage.cancel(fan(1), paid));
    assert!(refused.is(codes::NOT_CANCELLABLE));
    assert_eq!(refused.extra["reason"], "refund_deadline");
    assert!(stage.told().is_empty());
    assert_eq!((stage.reservation(paid).state, stage.owner(1)), (Confirmed, Some(paid)));
    stage.cancel(fan(2), held).unwrap();
    // A show that is off gives the money back however late it is.
    stage.now = at(200_000);
    stage.hear(&called_off()).unwrap();
    stage.empty_show(vec![paid]);
    assert_eq!(stage.told(), [CANCELLED, CANCELLED]);
    assert_eq!(stage.reservation(paid).view().reason, Some(CancelReason::ShowCancelled));
}

#[test]
fn the_pass_of_a_place_that_a_payment_has_used_up_reserves_nothing_more() {
    let mut stage = Stage::open();
    let first = stage.reserve(fan(1), &[1]).unwrap().reservation_id;
    let second = stage.reserve(fan(1), &[2]).unwrap().reservation_id;
    stage.hear(&stage.debited(first, payment(1))).unwrap();
    let third = stage.reserve(fan(1), &[3]).expect("the second hold lives").reservation_id;
    for hold in [second, third] {
        stage.cancel(fan(1), hold).unwrap();
    }
    assert!(refusal(stage.reserve(fan(1), &[4])).is(codes::NOT_ACTIVE));
    stage.cancel(fan(1), first).unwrap();
    assert!(refusal(stage.reserve(fan(1), &[4])).is(codes::NOT_ACTIVE), "also when given back");
    let anew =
        Pass { user_id: fan(1), schedule_id: SHOW, place_version: 8, reserve_until: at(100) };
    stage.hold(fan(1), &[4], Some(anew)).expect("a place that was admitted later");
}

#[test]
fn what_has_become_of_the_sale_is_said_before_what_has_become_of_the_pass() {
    let mut stage = Stage::open();
    let late = |stage: &mut Stage| {
        let hold = Hold { schedule_id: SHOW, seats: vec![seat(1)], pass: None, is_late: true };
        refusal(stage.turn(&caller(fan(1)), |book, turn| book.answer(&hold, turn)))
    };
    assert!(late(&mut stage).is(codes::NOT_ACTIVE));
    stage.now = at(100_000);
    assert!(late(&mut stage).is(codes::SCHEDULE_CLOSED));
    stage.hear(&called_off()).unwrap();
    assert!(late(&mut stage).is(codes::SCHEDULE_CANCELLED));
    let ended = QueueExpired {
        schedule_id: SHOW,
        user_id: fan(1),
        place_version: 9,
        reason: PlaceEnd::Cancelled,
    };
    stage.hear(&ended).unwrap();
    assert!(refusal(stage.reserve(fan(1), &[1])).is(codes::SCHEDULE_CANCELLED));
}

#[test]
fn a_withdrawn_fan_loses_holds_but_not_what_was_paid() {
    let mut stage = Stage::open();
    let held = stage.reserve(fan(1), &[1]).unwrap().reservation_id;
    let paid = stage.reserve(fan(1), &[2]).unwrap().reservation_id;
    let others = stage.reserve(fan(2), &[3]).unwrap().reservation_id;
    stage.hear(&stage.debited(paid, payment(1))).unwrap();
    stage.told();
    let withdrawn = has_left(fan(1), 1, false);
    stage.hear(&withdrawn).unwrap();
    assert_eq!(stage.said[0].body["reason"], "withdrawn");
    stage.hear(&withdrawn).unwrap();
    assert_eq!(stage.told(), [CANCELLED]);
    let states = [held, paid, others].map(|id| stage.reservation(id).state);
    assert_eq!(states, [Cancelled, Confirmed, Pending]);
    assert_eq!((stage.owner(1), stage.owner(3)), (None, Some(others)));
}
