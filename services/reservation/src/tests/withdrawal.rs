//! Withdrawals: cleared, blocked, refused, and completed.

use events::{codes, payment::PaymentRefunded, reservation::ReservationState};

use super::*;

const CLEARED: &str = "reservation.withdrawal_cleared";
const BLOCKED: &str = "reservation.withdrawal_blocked";
const CONFIRMED: &str = "reservation.confirmed";
const CANCELLED: &str = "reservation.cancelled";

impl Harness {
    /// A show where the first fan has a hold and a ticket.
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
    fn request_withdrawal(&mut self, n: u128, forfeit: bool) -> serde_json::Value {
        self.outbox.clear();
        self.handle(&withdrawal_requested(fan(1), n, forfeit)).unwrap();
        let [answer] = &self.outbox[..] else { panic!("one answer: {:?}", self.outbox) };
        answer.body.get("reason").cloned().unwrap_or_else(|| answer.event.as_str().into())
    }
}

#[test]
fn a_fan_with_a_cleared_withdrawal_holds_nothing_new_until_it_is_refused() {
    let mut harness = Harness::open();
    harness.handle(&withdrawal_requested(fan(1), 1, false)).unwrap();
    harness.handle(&withdrawal_requested(fan(1), 1, false)).unwrap();
    assert_eq!(harness.emitted(), [CLEARED]);
    assert!(refusal(harness.reserve(fan(1), &[1])).is(codes::ACCOUNT_CLOSING));
    assert!(harness.reserve(fan(2), &[1]).is_ok());
    harness.handle(&withdrawal_refused(fan(1), 1)).unwrap();
    harness.handle(&withdrawal_refused(fan(1), 1)).unwrap();
    harness.handle(&withdrawal_requested(fan(1), 1, false)).unwrap();
    assert!(harness.reserve(fan(1), &[2]).is_ok());
}

#[test]
fn a_debit_for_a_hold_waits_for_the_end_of_the_withdrawal() {
    let mut harness = Harness::open();
    let hold = harness.reserve(fan(1), &[1]).unwrap().reservation_id;
    assert_eq!(harness.request_withdrawal(1, false), CLEARED);
    let debited = harness.debited(hold, payment(1));
    assert!(matches!(harness.handle(&debited), Err(HandleError::NotYet(_))));
    harness.handle(&withdrawal_refused(fan(1), 1)).unwrap();
    harness.emitted();
    harness.handle(&debited).unwrap();
    assert_eq!(harness.emitted(), [CONFIRMED]);
}

#[test]
fn a_debit_for_a_hold_of_a_withdrawn_fan_is_refused() {
    let mut harness = Harness::open();
    let hold = harness.reserve(fan(1), &[1]).unwrap().reservation_id;
    assert_eq!(harness.request_withdrawal(1, false), CLEARED);
    harness.emitted();
    harness.handle(&withdrawn(fan(1), 1, false)).unwrap();
    harness.handle(&harness.debited(hold, payment(1))).unwrap();
    assert_eq!(harness.emitted(), [CANCELLED, "reservation.confirm_refused"]);
    assert!(refusal(harness.reserve(fan(1), &[2])).is(codes::ACCOUNT_CLOSING));
}

#[test]
fn tickets_for_a_show_to_come_block_the_withdrawal_and_stay() {
    let (mut harness, _, paid) = Harness::with_ticket();
    assert_eq!(harness.request_withdrawal(1, false), "tickets");
    assert!(harness.reserve(fan(1), &[3]).is_ok());
    harness.now = at(100_000);
    assert_eq!(harness.request_withdrawal(2, false), CLEARED, "the show is past");
    harness.handle(&withdrawn(fan(1), 2, true)).unwrap();
    assert_eq!(harness.reservation(paid).state, ReservationState::Confirmed);
}

#[test]
fn the_seats_of_forfeited_tickets_are_free_again_and_nothing_is_refunded() {
    let (mut harness, held, paid) = Harness::with_ticket();
    assert_eq!(harness.request_withdrawal(1, true), CLEARED);
    assert_eq!(harness.owner(2), Some(paid), "the withdrawal may still be refused");
    assert!(refusal(harness.cancel(fan(1), paid)).is(codes::ACCOUNT_CLOSING));
    harness.outbox.clear();
    harness.handle(&withdrawn(fan(1), 1, true)).unwrap();
    harness.handle(&withdrawn(fan(1), 1, true)).unwrap();
    let is_paid = |emitted: &&Emitted| emitted.body.get("payment_id").is_some();
    let forfeited = harness.outbox.iter().find(is_paid).unwrap();
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
fn a_refund_due_blocks_even_a_withdrawal_with_forfeit_until_the_money_is_back() {
    let (mut harness, _, paid) = Harness::with_ticket();
    harness.cancel(fan(1), paid).unwrap();
    assert_eq!(harness.request_withdrawal(1, true), "refund_due");
    let refunded = harness.refunded(paid);
    harness.handle(&refunded).unwrap();
    harness.handle(&refunded).unwrap();
    assert_eq!(harness.request_withdrawal(2, false), CLEARED);
}

#[test]
fn a_ticket_of_a_cancelled_show_blocks_the_withdrawal_as_a_refund_due() {
    let (mut harness, _, paid) = Harness::with_ticket();
    harness.handle(&schedule_cancelled()).unwrap();
    assert_eq!(harness.request_withdrawal(1, true), "refund_due");
    harness.empty_show(vec![paid]);
    assert_eq!(harness.request_withdrawal(2, true), "refund_due");
}

#[test]
fn a_withdrawal_request_that_arrives_after_its_refusal_closes_nothing() {
    let mut harness = Harness::open();
    harness.handle(&withdrawal_refused(fan(1), 1)).unwrap();
    assert_eq!(harness.request_withdrawal(1, false), "too_late");
    harness.handle(&withdrawal_requested(fan(1), 1, false)).unwrap();
    assert_eq!(harness.emitted(), [BLOCKED]);
    assert!(harness.reserve(fan(1), &[1]).is_ok());
}

#[test]
fn a_late_refusal_of_one_attempt_leaves_the_next_one_cleared() {
    let mut harness = Harness::open();
    let hold = harness.reserve(fan(1), &[1]).unwrap().reservation_id;
    assert_eq!(harness.request_withdrawal(1, false), CLEARED);
    assert_eq!(harness.request_withdrawal(2, false), CLEARED);
    harness.handle(&withdrawal_refused(fan(1), 1)).unwrap();
    assert!(refusal(harness.reserve(fan(1), &[2])).is(codes::ACCOUNT_CLOSING));
    assert!(harness.reservation(hold).closing);
    harness.handle(&withdrawal_refused(fan(1), 2)).unwrap();
    assert!(!harness.reservation(hold).closing);
}
