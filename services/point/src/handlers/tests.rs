//! Each flow on a book in memory: as it should be, twice, late, and out of order.

use events::{
    AttemptId, Event, ReservationId, Timestamp,
    reservation::{CancelReason, ConfirmRefusal},
    user::{Role, UserWithdrawalRefused, UserWithdrawalRequested, UserWithdrawn},
};
use uuid::Uuid;

use super::*;

const NOW: Timestamp = Timestamp(time::OffsetDateTime::UNIX_EPOCH);
const FAN: UserId = UserId(Uuid::from_u128(1));
const SCHEDULE: ScheduleId = ScheduleId(Uuid::from_u128(2));
const HOLD: ReservationId = ReservationId(Uuid::from_u128(3));

const ATTEMPT: AttemptId = AttemptId(Uuid::from_u128(4));

/// A service in memory: a book, and the facts it has told with their balances
/// (-1 when there is none in it).
#[derive(Default)]
struct Desk {
    book: Book,
    told: Vec<(String, i64)>,
}

impl Desk {
    /// One where the fan has a wallet with so many points.
    fn with(balance: i64) -> Self {
        let mut desk = Self::default();
        desk.hear(&registered()).unwrap();
        if balance > 0 {
            desk.charge(balance).unwrap();
        }
        desk.told.clear();
        desk
    }

    fn hear<E: Event>(&mut self, fact: &E) -> Result<(), Miss>
    where
        Book: Hear<E>,
    {
        self.hear_again(fact, 1)
    }

    fn hear_again<E: Event>(&mut self, fact: &E, attempt: u64) -> Result<(), Miss>
    where
        Book: Hear<E>,
    {
        let rules = Rules::default();
        let mut turn = mesh::Turn::at(NOW, &rules, &Caller::Mesh, Uuid::nil());
        turn.attempt = attempt;
        let heard = self.book.hear(fact, &mut turn);
        self.note(&turn);
        heard
    }

    fn charge(&mut self, amount: i64) -> Result<point::Entry, Refusal> {
        let rules = Rules::default();
        let caller = Caller::User { user_id: FAN, roles: vec![Role::Fan], expires_at: NOW };
        let mut turn = mesh::Turn::at(NOW, &rules, &caller, Uuid::nil());
        let charged = self.book.answer(&Charge { amount }, &mut turn);
        self.note(&turn);
        charged
    }

    fn note(&mut self, turn: &Turn<'_>) {
        for told in turn.told() {
            let fact: serde_json::Value = serde_json::from_slice(&told.payload).unwrap();
            let name = events::fact_of_subject(&told.subject).unwrap();
            self.told.push((name.to_owned(), fact["balance"].as_i64().unwrap_or(-1)));
        }
    }

    fn told(&self) -> Vec<(&str, i64)> {
        self.told.iter().map(|(name, balance)| (name.as_str(), *balance)).collect()
    }

    /// The balance, after a look at the books: the ledger must add up to it.
    fn balance(&self) -> i64 {
        let balance = self.book.wallet(FAN).unwrap().balance;
        assert_eq!(self.book.entries().iter().map(|entry| entry.amount).sum::<i64>(), balance);
        assert_eq!(self.book.entries().last().map_or(0, |entry| entry.balance), balance);
        balance
    }
}

fn registered() -> UserRegistered {
    UserRegistered { user_id: FAN, at: NOW }
}

fn withdrawn() -> UserWithdrawn {
    UserWithdrawn { user_id: FAN, attempt: ATTEMPT, forfeit: false, at: NOW }
}

fn wants_to_leave(forfeit: bool) -> UserWithdrawalRequested {
    UserWithdrawalRequested { user_id: FAN, attempt: ATTEMPT, forfeit, at: NOW }
}

fn may_not_leave() -> UserWithdrawalRefused {
    UserWithdrawalRefused { user_id: FAN, attempt: ATTEMPT, reasons: Vec::new(), at: NOW }
}

fn payment(n: u128) -> PaymentId {
    PaymentId(Uuid::from_u128(n))
}

fn requested(n: u128, amount: i64) -> PaymentRequested {
    PaymentRequested {
        payment_id: payment(n),
        reservation_id: HOLD,
        schedule_id: SCHEDULE,
        user_id: FAN,
        amount,
        hold_version: 7,
        requested_at: NOW,
    }
}

fn confirm_refused(n: u128) -> ReservationConfirmRefused {
    ReservationConfirmRefused {
        reservation_id: HOLD,
        schedule_id: SCHEDULE,
        user_id: FAN,
        payment_id: payment(n),
        amount: 100,
        reason: ConfirmRefusal::Expired,
    }
}

fn cancelled(payment_id: Option<PaymentId>) -> ReservationCancelled {
    ReservationCancelled {
        reservation_id: HOLD,
        schedule_id: SCHEDULE,
        user_id: FAN,
        seats: Vec::new(),
        hold_version: 7,
        reason: CancelReason::ByFan,
        payment_id,
        refund: 100,
    }
}

#[test]
fn a_charge_fills_the_wallet_and_is_told() {
    let mut desk = Desk::with(0);
    let entry = desk.charge(100).unwrap();
    assert_eq!((entry.kind, entry.amount, entry.balance), (EntryKind::Charge, 100, 100));
    assert_eq!(desk.charge(50).unwrap().balance, 150);
    assert_eq!(desk.told(), [("point.charged", 100), ("point.charged", 150)]);
    assert_eq!(desk.balance(), 150);
}

#[test]
fn charging_before_the_wallet_is_heard_of_waits_for_it() {
    let mut desk = Desk::default();
    assert!(matches!(desk.charge(100), Err(Refusal::NotYet(_))));
    desk.hear(&registered()).unwrap();
    assert!(desk.charge(100).is_ok());
}

#[test]
fn a_wrong_amount_is_refused_before_the_wallet_is_looked_for() {
    let mut desk = Desk::default();
    for amount in [0, -5, 10_000_001] {
        let Err(Refusal::No(problem)) = desk.charge(amount) else { panic!("refused") };
        assert!(problem.is(codes::INVALID));
    }
}

#[test]
fn a_wallet_that_was_closed_first_stays_closed() {
    let mut desk = Desk::default();
    desk.hear(&withdrawn()).unwrap();
    desk.hear(&registered()).unwrap();
    let Err(Refusal::No(problem)) = desk.charge(100) else { panic!("refused") };
    assert!(problem.is(codes::WALLET_CLOSED));
}

#[test]
fn a_second_registration_does_not_empty_the_wallet() {
    let mut desk = Desk::with(100);
    desk.hear(&registered()).unwrap();
    assert_eq!(desk.balance(), 100);
}

#[test]
fn a_payment_is_taken_once_however_often_it_is_asked_for() {
    let mut desk = Desk::with(250);
    for _ in 0..3 {
        desk.hear(&requested(10, 100)).unwrap();
    }
    assert_eq!(desk.told(), [("point.debited", 150)]);
    assert_eq!(desk.balance(), 150);
}

#[test]
fn a_debit_carries_the_fence_of_the_hold() {
    let mut desk = Desk::with(100);
    let rules = Rules::default();
    let mut turn = mesh::Turn::at(NOW, &rules, &Caller::Mesh, Uuid::nil());
    desk.book.hear(&requested(10, 100), &mut turn).unwrap();
    let fact: PointDebited = serde_json::from_slice(&turn.told()[0].payload).unwrap();
    assert_eq!((fact.reservation_id, fact.hold_version, fact.amount), (HOLD, 7, 100));
}

#[test]
fn payments_of_one_batch_share_one_wallet() {
    let mut desk = Desk::with(250);
    for n in 10..13 {
        desk.hear(&requested(n, 100)).unwrap();
    }
    let told = [("point.debited", 150), ("point.debited", 50), ("point.debit_refused", 50)];
    assert_eq!(desk.told(), told);
    assert_eq!(desk.balance(), 50);
}

#[test]
fn a_refused_payment_stays_refused_after_a_charge() {
    let mut desk = Desk::with(50);
    desk.hear(&requested(10, 100)).unwrap();
    desk.charge(100).unwrap();
    desk.hear(&requested(10, 100)).unwrap();
    assert_eq!(desk.told(), [("point.debit_refused", 50), ("point.charged", 150)]);
    desk.hear(&requested(11, 100)).unwrap();
    assert_eq!(desk.balance(), 50);
}

#[test]
fn a_payment_waits_for_its_wallet_and_then_counts_it_as_missing() {
    let mut desk = Desk::default();
    let patience = Rules::default().unknown_wallet_attempts;
    assert!(matches!(desk.hear_again(&requested(10, 100), patience - 1), Err(Miss::NotYet(_))));
    desk.hear_again(&requested(10, 100), patience).unwrap();
    assert_eq!(desk.told(), [("point.debit_refused", 0)]);
    desk.hear(&registered()).unwrap();
    desk.charge(100).unwrap();
    desk.hear_again(&requested(10, 100), patience + 1).unwrap();
    assert_eq!(desk.balance(), 100);
}

#[test]
fn a_lost_hold_gives_the_money_back_once() {
    let mut desk = Desk::with(250);
    desk.hear(&requested(10, 100)).unwrap();
    desk.hear(&confirm_refused(10)).unwrap();
    desk.hear(&confirm_refused(10)).unwrap();
    desk.hear(&requested(10, 100)).unwrap();
    assert_eq!(desk.told(), [("point.debited", 150), ("point.refunded", 250)]);
    assert_eq!(desk.balance(), 250);
}

#[test]
fn a_cancelled_reservation_gives_the_money_back_once() {
    let mut desk = Desk::with(100);
    desk.hear(&requested(10, 100)).unwrap();
    desk.hear(&cancelled(Some(payment(10)))).unwrap();
    desk.hear(&cancelled(Some(payment(10)))).unwrap();
    assert_eq!(desk.told(), [("point.debited", 0), ("point.refunded", 100)]);
    assert_eq!(desk.balance(), 100);
}

#[test]
fn the_reason_says_whether_the_payment_had_completed() {
    for (n, reason) in [(10, RefundReason::HoldGone), (11, RefundReason::Cancelled)] {
        let mut desk = Desk::with(100);
        desk.hear(&requested(n, 100)).unwrap();
        let rules = Rules::default();
        let mut turn = mesh::Turn::at(NOW, &rules, &Caller::Mesh, Uuid::nil());
        match reason {
            RefundReason::HoldGone => desk.book.hear(&confirm_refused(n), &mut turn).unwrap(),
            RefundReason::Cancelled => {
                desk.book.hear(&cancelled(Some(payment(n))), &mut turn).unwrap();
            }
        }
        let fact: PointRefunded = serde_json::from_slice(&turn.told()[0].payload).unwrap();
        assert_eq!((fact.reason, fact.amount), (reason, 100));
    }
}

#[test]
fn a_hold_that_was_given_up_moves_no_points() {
    let mut desk = Desk::with(100);
    desk.hear(&cancelled(None)).unwrap();
    assert!(desk.told().is_empty());
}

#[test]
fn a_refund_that_overtakes_its_debit_waits_for_it() {
    let mut desk = Desk::with(100);
    assert!(matches!(desk.hear(&confirm_refused(10)), Err(Miss::NotYet(_))));
    assert!(matches!(desk.hear(&cancelled(Some(payment(10)))), Err(Miss::NotYet(_))));
    assert!(desk.told().is_empty());
    desk.hear(&requested(10, 100)).unwrap();
    desk.hear(&confirm_refused(10)).unwrap();
    assert_eq!(desk.balance(), 100);
}

#[test]
fn a_refused_payment_has_nothing_to_give_back() {
    let mut desk = Desk::with(50);
    desk.hear(&requested(10, 100)).unwrap();
    assert!(matches!(desk.hear(&confirm_refused(10)), Err(Miss::Never(_))));
    assert_eq!(desk.balance(), 50);
}

#[test]
fn a_closed_wallet_keeps_its_points_and_takes_back_what_it_paid() {
    let mut desk = Desk::with(150);
    desk.hear(&requested(10, 100)).unwrap();
    desk.hear(&withdrawn()).unwrap();
    desk.hear(&requested(11, 10)).unwrap();
    desk.hear(&cancelled(Some(payment(10)))).unwrap();
    let told = [("point.debited", 50), ("point.debit_refused", 50), ("point.refunded", 150)];
    assert_eq!(desk.told(), told);
    assert_eq!(desk.balance(), 150);
    // What was in it, and what came back: for operators to see to.
    let stranded = desk.book.stranded().iter().map(|s| (s.payment_id, s.amount));
    assert_eq!(stranded.collect::<Vec<_>>(), [(None, 50), (Some(payment(10)), 100)]);
}

#[test]
fn an_empty_wallet_lets_the_fan_go_and_takes_no_more_points_until_that_is_refused() {
    let mut desk = Desk::with(0);
    desk.hear(&wants_to_leave(false)).unwrap();
    desk.hear(&wants_to_leave(false)).unwrap();
    assert_eq!(desk.told(), [("point.withdrawal_cleared", -1)]);
    let Err(Refusal::No(problem)) = desk.charge(100) else { panic!("refused") };
    assert!(problem.is(codes::WALLET_CLOSED));
    desk.hear(&requested(10, 0)).unwrap();
    assert_eq!(desk.told().last(), Some(&("point.debit_refused", 0)));
    desk.hear(&may_not_leave()).unwrap();
    desk.hear(&may_not_leave()).unwrap();
    desk.hear(&wants_to_leave(false)).unwrap();
    assert!(desk.charge(100).is_ok());
    assert_eq!(desk.told().last(), Some(&("point.charged", 100)));
}

#[test]
fn points_keep_the_fan_and_the_wallet_open() {
    let mut desk = Desk::with(100);
    desk.hear(&wants_to_leave(false)).unwrap();
    assert_eq!(desk.told(), [("point.withdrawal_blocked", -1)]);
    assert!(desk.charge(1).is_ok());
}

#[test]
fn points_that_are_given_up_leave_the_wallet_when_the_account_is_closed() {
    let mut desk = Desk::with(100);
    desk.hear(&wants_to_leave(true)).unwrap();
    assert_eq!(desk.balance(), 100, "it may still be refused");
    let withdrawn = UserWithdrawn { forfeit: true, ..withdrawn() };
    desk.hear(&withdrawn).unwrap();
    desk.hear(&withdrawn).unwrap();
    assert_eq!(desk.told(), [("point.withdrawal_cleared", -1), ("point.forfeited", 0)]);
    assert_eq!(desk.balance(), 0);
    assert_eq!(desk.book.entries().last().unwrap().kind, EntryKind::Forfeit);
    assert!(desk.book.stranded().is_empty());
    desk.hear(&may_not_leave()).unwrap();
    assert!(desk.charge(1).is_err());
}

#[test]
fn a_refund_while_the_account_is_being_closed_is_booked() {
    let mut desk = Desk::with(100);
    desk.hear(&requested(10, 100)).unwrap();
    desk.hear(&wants_to_leave(false)).unwrap();
    desk.hear(&cancelled(Some(payment(10)))).unwrap();
    assert_eq!(desk.balance(), 100);
    assert!(desk.book.stranded().is_empty(), "it may still be refused");
    desk.hear(&withdrawn()).unwrap();
    assert_eq!(desk.book.stranded()[0].amount, 100);
}

#[test]
fn tickets_that_are_forfeited_give_nothing_back() {
    let mut desk = Desk::with(100);
    desk.hear(&requested(10, 100)).unwrap();
    let forfeited = ReservationCancelled {
        reason: CancelReason::Withdrawn,
        refund: 0,
        ..cancelled(Some(payment(10)))
    };
    desk.hear(&forfeited).unwrap();
    assert_eq!(desk.balance(), 0);
}

#[test]
fn a_request_behind_its_refusal_closes_nothing_and_one_before_the_wallet_waits() {
    let mut desk = Desk::default();
    assert!(matches!(desk.hear(&wants_to_leave(false)), Err(Miss::NotYet(_))));
    assert!(matches!(desk.hear(&may_not_leave()), Err(Miss::NotYet(_))));
    desk.hear(&registered()).unwrap();
    desk.hear(&may_not_leave()).unwrap();
    desk.hear(&wants_to_leave(false)).unwrap();
    desk.hear(&wants_to_leave(false)).unwrap();
    assert_eq!(desk.told(), [("point.withdrawal_blocked", -1)]);
    assert!(desk.charge(1).is_ok());
}
