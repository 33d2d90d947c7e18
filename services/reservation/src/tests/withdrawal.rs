//! A fan wants to leave: let go, kept, let go after all.

use events::{codes, payment::PaymentRefunded, reservation::ReservationState};

use super::*;

const CLEARED: &str = "reservation.withdrawal_cleared";
const BLOCKED: &str = "reservation.withdrawal_blocked";
const CONFIRMED: &str = "reservation.confirmed";
const CANCELLED: &str = "reservation.cancelled";

impl Harness {
    /// A show with a hold and a ticket of the first fan.
    fn with_ticket() -> (Self, ReservationId, ReservationId) {
        let mut harness = Self::open();
        let held = harness.reserve(fan(1), &[1]).unwrap().reservation_id;
        let paid = harness.reserve(fan(1), &[2]).unwrap().reservation_id;
        harness.handle(&harness.debited(paid, payment(1))).unwrap();
        harness.emitted();
        (harness, held, paid)
    }

    fn refunded(&self, id: ReservationId) -> PaymentRefunded {
        let paid = self.reservation(id);
        PaymentRefunded {
            payment_id: paid.payment_id.unwrap(),
            reservation_id: id,
            schedule_id: SHOW,
            user_id: paid.user_id,
            amount: paid.amount,
            seats: 1,
            requested_at: self.now,
            ended_at: self.now,
        }
    }

    /// The answer to one more attempt of the first fan.
    fn asks(&mut self, n: u128, forfeit: bool) -> serde_json::Value {
        self.said.clear();
        self.handle(&wants_to_leave(fan(1), n, forfeit)).unwrap();
        let [said] = &self.said[..] else { panic!("one answer: {:?}", self.said) };
        said.body.get("reason").cloned().unwrap_or_else(|| said.event.as_str().into())
    }
}

#[test]
fn who_may_leave_holds_nothing_new_until_that_is_refused() {
    let mut harness = Harness::open();
    harness.handle(&wants_to_leave(fan(1), 1, false)).unwrap();
    harness.handle(&wants_to_leave(fan(1), 1, false)).unwrap();
    assert_eq!(harness.emitted(), [CLEARED]);
    assert!(refusal(harness.reserve(fan(1), &[1])).is(codes::ACCOUNT_CLOSING));
    assert!(harness.reserve(fan(2), &[1]).is_ok());
    harness.handle(&may_not_leave(fan(1), 1)).unwrap();
    harness.handle(&may_not_leave(fan(1), 1)).unwrap();
    harness.handle(&wants_to_leave(fan(1), 1, false)).unwrap();
    assert!(harness.reserve(fan(1), &[2]).is_ok());
}

#[test]
fn a_payment_of_a_hold_waits_for_the_end_of_the_attempt() {
    let mut harness = Harness::open();
    let hold = harness.reserve(fan(1), &[1]).unwrap().reservation_id;
    assert_eq!(harness.asks(1, false), CLEARED);
    let debited = harness.debited(hold, payment(1));
    assert!(matches!(harness.handle(&debited), Err(HandleError::NotYet(_))));
    harness.handle(&may_not_leave(fan(1), 1)).unwrap();
    harness.emitted();
    harness.handle(&debited).unwrap();
    assert_eq!(harness.emitted(), [CONFIRMED]);
}

#[test]
fn money_for_a_hold_of_a_fan_who_has_left_goes_back() {
    let mut harness = Harness::open();
    let hold = harness.reserve(fan(1), &[1]).unwrap().reservation_id;
    assert_eq!(harness.asks(1, false), CLEARED);
    harness.emitted();
    harness.handle(&has_left(fan(1), 1, false)).unwrap();
    harness.handle(&harness.debited(hold, payment(1))).unwrap();
    assert_eq!(harness.emitted(), [CANCELLED, "reservation.confirm_refused"]);
    assert!(refusal(harness.reserve(fan(1), &[2])).is(codes::ACCOUNT_CLOSING));
}

#[test]
fn tickets_for_a_show_to_come_keep_the_fan_and_stay() {
    let (mut harness, _, paid) = Harness::with_ticket();
    assert_eq!(harness.asks(1, false), "tickets");
    assert!(harness.reserve(fan(1), &[3]).is_ok());
    harness.now = at(100_000);
    assert_eq!(harness.asks(2, false), CLEARED, "the show is past");
    harness.handle(&has_left(fan(1), 2, true)).unwrap();
    assert_eq!(harness.reservation(paid).state, ReservationState::Confirmed);
}

#[test]
fn tickets_that_are_given_up_are_free_again_and_nothing_is_returned() {
    let (mut harness, held, paid) = Harness::with_ticket();
    assert_eq!(harness.asks(1, true), CLEARED);
    assert_eq!(harness.owner(2), Some(paid), "it may still be refused");
    assert!(refusal(harness.cancel(fan(1), paid)).is(codes::ACCOUNT_CLOSING));
    harness.said.clear();
    harness.handle(&has_left(fan(1), 1, true)).unwrap();
    harness.handle(&has_left(fan(1), 1, true)).unwrap();
    let forfeited = harness.said.iter().find(|said| said.body.get("payment_id").is_some()).unwrap();
    assert_eq!(forfeited.body["reservation_id"], paid.to_string());
    assert_eq!(
        (&forfeited.body["refund"], &forfeited.body["reason"]),
        (&0.into(), &"withdrawn".into())
    );
    assert_eq!(harness.emitted(), [CANCELLED, CANCELLED]);
    assert_eq!((harness.owner(1), harness.owner(2)), (None, None));
    assert_eq!(harness.reservation(paid).refund, Some(crate::domain::Refund::Forfeited));
    assert_eq!(harness.reservation(held).refund, None);
}

#[test]
fn a_refund_keeps_the_fan_whatever_is_given_up_until_the_money_is_back() {
    let (mut harness, _, paid) = Harness::with_ticket();
    harness.cancel(fan(1), paid).unwrap();
    assert_eq!(harness.asks(1, true), "refund_due");
    let refunded = harness.refunded(paid);
    harness.handle(&refunded).unwrap();
    harness.handle(&refunded).unwrap();
    assert_eq!(harness.asks(2, false), CLEARED);
}

#[test]
fn a_ticket_of_a_show_that_is_called_off_is_a_refund_to_come() {
    let (mut harness, _, paid) = Harness::with_ticket();
    harness.handle(&called_off()).unwrap();
    assert_eq!(harness.asks(1, true), "refund_due");
    harness.empty_show(vec![paid]);
    assert_eq!(harness.asks(2, true), "refund_due");
}

#[test]
fn a_request_behind_its_refusal_closes_nothing() {
    let mut harness = Harness::open();
    harness.handle(&may_not_leave(fan(1), 1)).unwrap();
    assert_eq!(harness.asks(1, false), "too_late");
    harness.handle(&wants_to_leave(fan(1), 1, false)).unwrap();
    assert_eq!(harness.emitted(), [BLOCKED]);
    assert!(harness.reserve(fan(1), &[1]).is_ok());
}

#[test]
fn a_late_refusal_of_one_attempt_leaves_the_next_one_cleared() {
    let mut harness = Harness::open();
    let hold = harness.reserve(fan(1), &[1]).unwrap().reservation_id;
    assert_eq!(harness.asks(1, false), CLEARED);
    assert_eq!(harness.asks(2, false), CLEARED);
    harness.handle(&may_not_leave(fan(1), 1)).unwrap();
    assert!(refusal(harness.reserve(fan(1), &[2])).is(codes::ACCOUNT_CLOSING));
    assert!(harness.reservation(hold).closing);
    harness.handle(&may_not_leave(fan(1), 2)).unwrap();
    assert!(!harness.reservation(hold).closing);
}
