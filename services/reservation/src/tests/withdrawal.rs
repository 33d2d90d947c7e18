//! A fan wants to leave: let go, kept, let go after all.

use events::{codes, payment::PaymentRefunded, reservation::ReservationState};

use super::*;

const CLEARED: &str = "reservation.withdrawal_cleared";
const BLOCKED: &str = "reservation.withdrawal_blocked";
const CONFIRMED: &str = "reservation.confirmed";
const CANCELLED: &str = "reservation.cancelled";

impl Stage {
    /// A show with a hold and a ticket of the first fan.
    fn with_ticket() -> (Self, ReservationId, ReservationId) {
        let mut stage = Self::open();
        let held = stage.reserve(fan(1), &[1]).unwrap().reservation_id;
        let paid = stage.reserve(fan(1), &[2]).unwrap().reservation_id;
        stage.hear(&stage.debited(paid, payment(1))).unwrap();
        stage.told();
        (stage, held, paid)
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
        self.hear(&wants_to_leave(fan(1), n, forfeit)).unwrap();
        let [said] = &self.said[..] else { panic!("one answer: {:?}", self.said) };
        said.body.get("reason").cloned().unwrap_or_else(|| said.fact.as_str().into())
    }
}

#[test]
fn who_may_leave_holds_nothing_new_until_that_is_refused() {
    let mut stage = Stage::open();
    stage.hear(&wants_to_leave(fan(1), 1, false)).unwrap();
    stage.hear(&wants_to_leave(fan(1), 1, false)).unwrap();
    assert_eq!(stage.told(), [CLEARED]);
    assert!(refusal(stage.reserve(fan(1), &[1])).is(codes::ACCOUNT_CLOSING));
    assert!(stage.reserve(fan(2), &[1]).is_ok());
    stage.hear(&may_not_leave(fan(1), 1)).unwrap();
    stage.hear(&may_not_leave(fan(1), 1)).unwrap();
    stage.hear(&wants_to_leave(fan(1), 1, false)).unwrap();
    assert!(stage.reserve(fan(1), &[2]).is_ok());
}

#[test]
fn a_payment_of_a_hold_waits_for_the_end_of_the_attempt() {
    let mut stage = Stage::open();
    let hold = stage.reserve(fan(1), &[1]).unwrap().reservation_id;
    assert_eq!(stage.asks(1, false), CLEARED);
    let debited = stage.debited(hold, payment(1));
    assert!(matches!(stage.hear(&debited), Err(Miss::NotYet(_))));
    stage.hear(&may_not_leave(fan(1), 1)).unwrap();
    stage.told();
    stage.hear(&debited).unwrap();
    assert_eq!(stage.told(), [CONFIRMED]);
}

#[test]
fn money_for_a_hold_of_a_fan_who_has_left_goes_back() {
    let mut stage = Stage::open();
    let hold = stage.reserve(fan(1), &[1]).unwrap().reservation_id;
    assert_eq!(stage.asks(1, false), CLEARED);
    stage.told();
    stage.hear(&has_left(fan(1), 1, false)).unwrap();
    stage.hear(&stage.debited(hold, payment(1))).unwrap();
    assert_eq!(stage.told(), [CANCELLED, "reservation.confirm_refused"]);
    assert!(refusal(stage.reserve(fan(1), &[2])).is(codes::ACCOUNT_CLOSING));
}

#[test]
fn tickets_for_a_show_to_come_keep_the_fan_and_stay() {
    let (mut stage, _, paid) = Stage::with_ticket();
    assert_eq!(stage.asks(1, false), "tickets");
    assert!(stage.reserve(fan(1), &[3]).is_ok());
    stage.now = at(100_000);
    assert_eq!(stage.asks(2, false), CLEARED, "the show is past");
    stage.hear(&has_left(fan(1), 2, true)).unwrap();
    assert_eq!(stage.reservation(paid).state, ReservationState::Confirmed);
}

#[test]
fn tickets_that_are_given_up_are_free_again_and_nothing_is_returned() {
    let (mut stage, held, paid) = Stage::with_ticket();
    assert_eq!(stage.asks(1, true), CLEARED);
    assert_eq!(stage.owner(2), Some(paid), "it may still be refused");
    assert!(refusal(stage.cancel(fan(1), paid)).is(codes::ACCOUNT_CLOSING));
    stage.said.clear();
    stage.hear(&has_left(fan(1), 1, true)).unwrap();
    stage.hear(&has_left(fan(1), 1, true)).unwrap();
    let forfeited = stage.said.iter().find(|said| said.body.get("payment_id").is_some()).unwrap();
    assert_eq!(forfeited.body["reservation_id"], paid.to_string());
    assert_eq!(
        (&forfeited.body["refund"], &forfeited.body["reason"]),
        (&0.into(), &"withdrawn".into())
    );
    assert_eq!(stage.told(), [CANCELLED, CANCELLED]);
    assert_eq!((stage.owner(1), stage.owner(2)), (None, None));
    assert_eq!(stage.reservation(paid).refund, Some(crate::domain::Refund::Forfeited));
    assert_eq!(stage.reservation(held).refund, None);
}

#[test]
fn a_refund_keeps_the_fan_whatever_is_given_up_until_the_money_is_back() {
    let (mut stage, _, paid) = Stage::with_ticket();
    stage.cancel(fan(1), paid).unwrap();
    assert_eq!(stage.asks(1, true), "refund_due");
    let refunded = stage.refunded(paid);
    stage.hear(&refunded).unwrap();
    stage.hear(&refunded).unwrap();
    assert_eq!(stage.asks(2, false), CLEARED);
}

#[test]
fn a_ticket_of_a_show_that_is_called_off_is_a_refund_to_come() {
    let (mut stage, _, paid) = Stage::with_ticket();
    stage.hear(&called_off()).unwrap();
    assert_eq!(stage.asks(1, true), "refund_due");
    stage.empty_show(vec![paid]);
    assert_eq!(stage.asks(2, true), "refund_due");
}

#[test]
fn a_request_behind_its_refusal_closes_nothing() {
    let mut stage = Stage::open();
    stage.hear(&may_not_leave(fan(1), 1)).unwrap();
    assert_eq!(stage.asks(1, false), "too_late");
    stage.hear(&wants_to_leave(fan(1), 1, false)).unwrap();
    assert_eq!(stage.told(), [BLOCKED]);
    assert!(stage.reserve(fan(1), &[1]).is_ok());
}

#[test]
fn a_late_refusal_of_one_attempt_leaves_the_next_one_cleared() {
    let mut stage = Stage::open();
    let hold = stage.reserve(fan(1), &[1]).unwrap().reservation_id;
    assert_eq!(stage.asks(1, false), CLEARED);
    assert_eq!(stage.asks(2, false), CLEARED);
    stage.hear(&may_not_leave(fan(1), 1)).unwrap();
    assert!(refusal(stage.reserve(fan(1), &[2])).is(codes::ACCOUNT_CLOSING));
    assert!(stage.reservation(hold).closing);
    stage.hear(&may_not_leave(fan(1), 2)).unwrap();
    assert!(!stage.reservation(hold).closing);
}
