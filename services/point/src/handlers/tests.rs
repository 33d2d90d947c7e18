//! Each flow on a unit of work in memory: in order, repeated, late, and out of order.

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

/// A service in memory: a unit of work, and the emitted events with their balances
/// (-1 when an event has none).
#[derive(Default)]
struct Kit {
    unit: UnitOfWork,
    emitted: Vec<(String, i64)>,
}

impl Kit {
    /// The fan has a wallet with this balance.
    fn with(balance: i64) -> Self {
        let mut kit = Self::default();
        kit.handle(&registered()).unwrap();
        if balance > 0 {
            kit.charge(balance).unwrap();
        }
        kit.emitted.clear();
        kit
    }

    fn handle<E: Event>(&mut self, event: &E) -> Result<(), HandleError>
    where
        UnitOfWork: Handle<E>,
    {
        self.handle_attempt(event, 1)
    }

    fn handle_attempt<E: Event>(&mut self, event: &E, attempt: u64) -> Result<(), HandleError>
    where
        UnitOfWork: Handle<E>,
    {
        let config = Config::default();
        let mut ctx = mesh::Context::at(NOW, &config, &Caller::Mesh, Uuid::nil());
        ctx.attempt = attempt;
        let result = self.unit.handle(event, &mut ctx);
        self.note(&ctx);
        result
    }

    fn charge(&mut self, amount: i64) -> Result<point::Entry, Refusal> {
        let config = Config::default();
        let caller = Caller::User { user_id: FAN, roles: vec![Role::Fan], expires_at: NOW };
        let mut ctx = mesh::Context::at(NOW, &config, &caller, Uuid::nil());
        let charged = self.unit.execute(&Charge { amount }, &mut ctx);
        self.note(&ctx);
        charged
    }

    fn note(&mut self, ctx: &Context<'_>) {
        for emitted in ctx.emitted() {
            let event: serde_json::Value = serde_json::from_slice(&emitted.payload).unwrap();
            let name = events::event_of_subject(&emitted.subject).unwrap();
            self.emitted.push((name.to_owned(), event["balance"].as_i64().unwrap_or(-1)));
        }
    }

    fn emitted(&self) -> Vec<(&str, i64)> {
        self.emitted.iter().map(|(name, balance)| (name.as_str(), *balance)).collect()
    }

    /// The balance. The ledger must add up to it.
    fn balance(&self) -> i64 {
        let balance = self.unit.wallet(FAN).unwrap().balance;
        assert_eq!(self.unit.entries().iter().map(|entry| entry.amount).sum::<i64>(), balance);
        assert_eq!(self.unit.entries().last().map_or(0, |entry| entry.balance), balance);
        balance
    }
}

fn registered() -> UserRegistered {
    UserRegistered { user_id: FAN, at: NOW }
}

fn withdrawn() -> UserWithdrawn {
    UserWithdrawn { user_id: FAN, attempt: ATTEMPT, forfeit: false, at: NOW }
}

fn withdrawal_requested(forfeit: bool) -> UserWithdrawalRequested {
    UserWithdrawalRequested { user_id: FAN, attempt: ATTEMPT, forfeit, at: NOW }
}

fn withdrawal_refused() -> UserWithdrawalRefused {
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
fn a_charge_fills_the_wallet_and_emits_an_event() {
    let mut kit = Kit::with(0);
    let entry = kit.charge(100).unwrap();
    assert_eq!((entry.kind, entry.amount, entry.balance), (EntryKind::Charge, 100, 100));
    assert_eq!(kit.charge(50).unwrap().balance, 150);
    assert_eq!(kit.emitted(), [("point.charged", 100), ("point.charged", 150)]);
    assert_eq!(kit.balance(), 150);
}

#[test]
fn a_charge_of_an_unknown_wallet_waits_for_user_registered() {
    let mut kit = Kit::default();
    assert!(matches!(kit.charge(100), Err(Refusal::NotYet(_))));
    kit.handle(&registered()).unwrap();
    assert!(kit.charge(100).is_ok());
}

#[test]
fn a_wrong_amount_is_refused_before_the_wallet_is_looked_up() {
    let mut kit = Kit::default();
    for amount in [0, -5, 10_000_001] {
        let Err(Refusal::No(problem)) = kit.charge(amount) else { panic!("refused") };
        assert!(problem.is(codes::INVALID));
    }
}

#[test]
fn a_registration_that_arrives_after_the_withdrawal_leaves_the_wallet_closed() {
    let mut kit = Kit::default();
    kit.handle(&withdrawn()).unwrap();
    kit.handle(&registered()).unwrap();
    let Err(Refusal::No(problem)) = kit.charge(100) else { panic!("refused") };
    assert!(problem.is(codes::WALLET_CLOSED));
}

#[test]
fn a_second_registration_does_not_empty_the_wallet() {
    let mut kit = Kit::with(100);
    kit.handle(&registered()).unwrap();
    assert_eq!(kit.balance(), 100);
}

#[test]
fn a_payment_request_that_comes_three_times_is_debited_once() {
    let mut kit = Kit::with(250);
    for _ in 0..3 {
        kit.handle(&requested(10, 100)).unwrap();
    }
    assert_eq!(kit.emitted(), [("point.debited", 150)]);
    assert_eq!(kit.balance(), 150);
}

#[test]
fn a_debit_carries_the_fence_of_the_hold() {
    let mut kit = Kit::with(100);
    let config = Config::default();
    let mut ctx = mesh::Context::at(NOW, &config, &Caller::Mesh, Uuid::nil());
    kit.unit.handle(&requested(10, 100), &mut ctx).unwrap();
    let event: PointDebited = serde_json::from_slice(&ctx.emitted()[0].payload).unwrap();
    assert_eq!((event.reservation_id, event.hold_version, event.amount), (HOLD, 7, 100));
}

#[test]
fn payments_of_one_batch_share_one_wallet() {
    let mut kit = Kit::with(250);
    for n in 10..13 {
        kit.handle(&requested(n, 100)).unwrap();
    }
    let emitted = [("point.debited", 150), ("point.debited", 50), ("point.debit_refused", 50)];
    assert_eq!(kit.emitted(), emitted);
    assert_eq!(kit.balance(), 50);
}

#[test]
fn a_refused_payment_stays_refused_after_a_charge() {
    let mut kit = Kit::with(50);
    kit.handle(&requested(10, 100)).unwrap();
    kit.charge(100).unwrap();
    kit.handle(&requested(10, 100)).unwrap();
    assert_eq!(kit.emitted(), [("point.debit_refused", 50), ("point.charged", 150)]);
    kit.handle(&requested(11, 100)).unwrap();
    assert_eq!(kit.balance(), 50);
}

#[test]
fn a_payment_waits_for_its_wallet_and_is_then_refused() {
    let mut kit = Kit::default();
    let attempts_max = Config::default().unknown_wallet_attempts;
    assert!(matches!(
        kit.handle_attempt(&requested(10, 100), attempts_max - 1),
        Err(HandleError::NotYet(_))
    ));
    kit.handle_attempt(&requested(10, 100), attempts_max).unwrap();
    assert_eq!(kit.emitted(), [("point.debit_refused", 0)]);
    kit.handle(&registered()).unwrap();
    kit.charge(100).unwrap();
    kit.handle_attempt(&requested(10, 100), attempts_max + 1).unwrap();
    assert_eq!(kit.balance(), 100);
}

#[test]
fn a_lost_hold_gives_the_money_back_once() {
    let mut kit = Kit::with(250);
    kit.handle(&requested(10, 100)).unwrap();
    kit.handle(&confirm_refused(10)).unwrap();
    kit.handle(&confirm_refused(10)).unwrap();
    kit.handle(&requested(10, 100)).unwrap();
    assert_eq!(kit.emitted(), [("point.debited", 150), ("point.refunded", 250)]);
    assert_eq!(kit.balance(), 250);
}

#[test]
fn a_cancelled_reservation_gives_the_money_back_once() {
    let mut kit = Kit::with(100);
    kit.handle(&requested(10, 100)).unwrap();
    kit.handle(&cancelled(Some(payment(10)))).unwrap();
    kit.handle(&cancelled(Some(payment(10)))).unwrap();
    assert_eq!(kit.emitted(), [("point.debited", 0), ("point.refunded", 100)]);
    assert_eq!(kit.balance(), 100);
}

#[test]
fn the_reason_of_a_refund_says_whether_the_payment_had_completed() {
    for (n, reason) in [(10, RefundReason::HoldGone), (11, RefundReason::Cancelled)] {
        let mut kit = Kit::with(100);
        kit.handle(&requested(n, 100)).unwrap();
        let config = Config::default();
        let mut ctx = mesh::Context::at(NOW, &config, &Caller::Mesh, Uuid::nil());
        match reason {
            RefundReason::HoldGone => kit.unit.handle(&confirm_refused(n), &mut ctx).unwrap(),
            RefundReason::Cancelled => {
                kit.unit.handle(&cancelled(Some(payment(n))), &mut ctx).unwrap();
            }
        }
        let event: PointRefunded = serde_json::from_slice(&ctx.emitted()[0].payload).unwrap();
        assert_eq!((event.reason, event.amount), (reason, 100));
    }
}

#[test]
fn a_hold_that_was_given_up_moves_no_points() {
    let mut kit = Kit::with(100);
    kit.handle(&cancelled(None)).unwrap();
    assert!(kit.emitted().is_empty());
}

#[test]
fn a_refund_that_overtakes_its_debit_waits_for_it() {
    let mut kit = Kit::with(100);
    assert!(matches!(kit.handle(&confirm_refused(10)), Err(HandleError::NotYet(_))));
    assert!(matches!(kit.handle(&cancelled(Some(payment(10)))), Err(HandleError::NotYet(_))));
    assert!(kit.emitted().is_empty());
    kit.handle(&requested(10, 100)).unwrap();
    kit.handle(&confirm_refused(10)).unwrap();
    assert_eq!(kit.balance(), 100);
}

#[test]
fn a_refused_payment_has_nothing_to_give_back() {
    let mut kit = Kit::with(50);
    kit.handle(&requested(10, 100)).unwrap();
    assert!(matches!(kit.handle(&confirm_refused(10)), Err(HandleError::Never(_))));
    assert_eq!(kit.balance(), 50);
}

#[test]
fn a_closed_wallet_keeps_its_points_and_takes_back_what_it_paid() {
    let mut kit = Kit::with(150);
    kit.handle(&requested(10, 100)).unwrap();
    kit.handle(&withdrawn()).unwrap();
    kit.handle(&requested(11, 10)).unwrap();
    kit.handle(&cancelled(Some(payment(10)))).unwrap();
    let emitted = [("point.debited", 50), ("point.debit_refused", 50), ("point.refunded", 150)];
    assert_eq!(kit.emitted(), emitted);
    assert_eq!(kit.balance(), 150);
    // What was in the wallet, and what came back: both for an operator to deal with.
    let stranded = kit.unit.stranded().iter().map(|s| (s.payment_id, s.amount));
    assert_eq!(stranded.collect::<Vec<_>>(), [(None, 50), (Some(payment(10)), 100)]);
}

#[test]
fn an_empty_wallet_clears_the_withdrawal_and_stays_closed_until_it_is_refused() {
    let mut kit = Kit::with(0);
    kit.handle(&withdrawal_requested(false)).unwrap();
    kit.handle(&withdrawal_requested(false)).unwrap();
    assert_eq!(kit.emitted(), [("point.withdrawal_cleared", -1)]);
    let Err(Refusal::No(problem)) = kit.charge(100) else { panic!("refused") };
    assert!(problem.is(codes::WALLET_CLOSED));
    kit.handle(&requested(10, 0)).unwrap();
    assert_eq!(kit.emitted().last(), Some(&("point.debit_refused", 0)));
    kit.handle(&withdrawal_refused()).unwrap();
    kit.handle(&withdrawal_refused()).unwrap();
    kit.handle(&withdrawal_requested(false)).unwrap();
    assert!(kit.charge(100).is_ok());
    assert_eq!(kit.emitted().last(), Some(&("point.charged", 100)));
}

#[test]
fn points_block_the_withdrawal_and_the_wallet_stays_open() {
    let mut kit = Kit::with(100);
    kit.handle(&withdrawal_requested(false)).unwrap();
    assert_eq!(kit.emitted(), [("point.withdrawal_blocked", -1)]);
    assert!(kit.charge(1).is_ok());
}

#[test]
fn points_that_are_given_up_leave_the_wallet_when_the_account_is_closed() {
    let mut kit = Kit::with(100);
    kit.handle(&withdrawal_requested(true)).unwrap();
    assert_eq!(kit.balance(), 100, "the withdrawal may still be refused");
    let withdrawn = UserWithdrawn { forfeit: true, ..withdrawn() };
    kit.handle(&withdrawn).unwrap();
    kit.handle(&withdrawn).unwrap();
    assert_eq!(kit.emitted(), [("point.withdrawal_cleared", -1), ("point.forfeited", 0)]);
    assert_eq!(kit.balance(), 0);
    assert_eq!(kit.unit.entries().last().unwrap().kind, EntryKind::Forfeit);
    assert!(kit.unit.stranded().is_empty());
    kit.handle(&withdrawal_refused()).unwrap();
    assert!(kit.charge(1).is_err());
}

#[test]
fn a_refund_while_the_account_is_being_closed_is_entered() {
    let mut kit = Kit::with(100);
    kit.handle(&requested(10, 100)).unwrap();
    kit.handle(&withdrawal_requested(false)).unwrap();
    kit.handle(&cancelled(Some(payment(10)))).unwrap();
    assert_eq!(kit.balance(), 100);
    assert!(kit.unit.stranded().is_empty(), "the withdrawal may still be refused");
    kit.handle(&withdrawn()).unwrap();
    assert_eq!(kit.unit.stranded()[0].amount, 100);
}

#[test]
fn forfeited_tickets_are_not_refunded() {
    let mut kit = Kit::with(100);
    kit.handle(&requested(10, 100)).unwrap();
    let forfeited = ReservationCancelled {
        reason: CancelReason::Withdrawn,
        refund: 0,
        ..cancelled(Some(payment(10)))
    };
    kit.handle(&forfeited).unwrap();
    assert_eq!(kit.balance(), 0);
}

#[test]
fn a_withdrawal_request_after_its_refusal_closes_nothing_and_one_before_the_wallet_waits() {
    let mut kit = Kit::default();
    assert!(matches!(kit.handle(&withdrawal_requested(false)), Err(HandleError::NotYet(_))));
    assert!(matches!(kit.handle(&withdrawal_refused()), Err(HandleError::NotYet(_))));
    kit.handle(&registered()).unwrap();
    kit.handle(&withdrawal_refused()).unwrap();
    kit.handle(&withdrawal_requested(false)).unwrap();
    kit.handle(&withdrawal_requested(false)).unwrap();
    assert_eq!(kit.emitted(), [("point.withdrawal_blocked", -1)]);
    assert!(kit.charge(1).is_ok());
}
