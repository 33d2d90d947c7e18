//! Each flow on a unit of work in memory: in order, repeated, late, and out of order.

use events::{
    AttemptId, Event, ReservationId, ScheduleId, SeatId, Timestamp, UserId,
    payment::{PaymentFailure, PaymentState},
    point::{DebitRefusal, RefundReason},
    reservation::{CancelReason, ConfirmRefusal, PricedSeat},
    user::{Role, UserWithdrawalRefused, UserWithdrawalRequested, UserWithdrawn},
    withdrawal::Standing as Attempted,
};
use uuid::Uuid;

use super::*;

const NOW: Timestamp = Timestamp(time::OffsetDateTime::UNIX_EPOCH);
const HOLD_SECS: i64 = 300;
const FAN: UserId = UserId(Uuid::from_u128(1));
const SCHEDULE: ScheduleId = ScheduleId(Uuid::from_u128(2));
const HOLD: ReservationId = ReservationId(Uuid::from_u128(3));
const FIRST: PaymentId = PaymentId(Uuid::from_u128(4));
const SECOND: PaymentId = PaymentId(Uuid::from_u128(5));

const ATTEMPT: AttemptId = AttemptId(Uuid::from_u128(6));

/// A service in memory: a unit of work, the names of the emitted events, and a clock.
struct Kit {
    unit: UnitOfWork,
    emitted: Vec<String>,
    now: Timestamp,
}

impl Default for Kit {
    fn default() -> Self {
        Self { unit: UnitOfWork::default(), emitted: Vec::new(), now: NOW }
    }
}

impl Kit {
    /// The fan has asked to pay the hold.
    fn paying() -> Self {
        let mut kit = Self::default();
        kit.handle(&created()).unwrap();
        kit.pay(FAN, FIRST).unwrap();
        kit
    }

    fn handle<E: Event>(&mut self, event: &E) -> Result<(), HandleError>
    where
        UnitOfWork: Handle<E>,
    {
        let mut ctx = mesh::Context::at(self.now, &Config {}, &Caller::Mesh, Uuid::nil());
        let result = self.unit.handle(event, &mut ctx);
        self.note(&ctx);
        result
    }

    fn pay(&mut self, fan: UserId, id: PaymentId) -> Result<payment::Payment, Refusal> {
        let caller = Caller::User { user_id: fan, roles: vec![Role::Fan], expires_at: NOW };
        let mut ctx = mesh::Context::at(self.now, &Config {}, &caller, id.0);
        let answer = self.unit.execute(&Pay { reservation_id: HOLD }, &mut ctx);
        self.note(&ctx);
        answer
    }

    fn note(&mut self, ctx: &Context<'_>) {
        let names =
            ctx.emitted().iter().filter_map(|emitted| events::event_of_subject(&emitted.subject));
        self.emitted.extend(names.map(str::to_owned));
    }

    fn refusal(&mut self) -> &'static str {
        match self.pay(FAN, SECOND) {
            Err(Refusal::No(problem)) => codes::ALL
                .iter()
                .find(|kind| problem.is(**kind))
                .map_or("unknown", |kind| kind.code),
            Err(Refusal::NotYet(_)) => "not yet",
            Ok(_) => "granted",
        }
    }

    fn first(&mut self) -> payment::Payment {
        self.unit.payment_mut(FIRST).expect("the first payment").to_view()
    }
}

fn created() -> ReservationCreated {
    ReservationCreated {
        reservation_id: HOLD,
        schedule_id: SCHEDULE,
        user_id: FAN,
        seats: Vec::new(),
        amount: 100,
        hold_version: 7,
        expires_at: NOW.plus_secs(HOLD_SECS),
        hard_cap_at: NOW.plus_secs(HOLD_SECS + 60),
    }
}

fn confirmed() -> ReservationConfirmed {
    ReservationConfirmed {
        reservation_id: HOLD,
        schedule_id: SCHEDULE,
        user_id: FAN,
        payment_id: FIRST,
        seats: vec![SeatId::new("A", "1", "1")],
        amount: 100,
        hold_version: 7,
    }
}

fn confirm_refused() -> ReservationConfirmRefused {
    ReservationConfirmRefused {
        reservation_id: HOLD,
        schedule_id: SCHEDULE,
        user_id: FAN,
        payment_id: FIRST,
        amount: 100,
        reason: ConfirmRefusal::Expired,
    }
}

fn cancelled() -> ReservationCancelled {
    ReservationCancelled {
        reservation_id: HOLD,
        schedule_id: SCHEDULE,
        user_id: FAN,
        seats: Vec::new(),
        hold_version: 7,
        reason: CancelReason::ByFan,
        payment_id: Some(FIRST),
        refund: 100,
    }
}

fn debit_refused(reason: DebitRefusal) -> PointDebitRefused {
    PointDebitRefused {
        user_id: FAN,
        payment_id: FIRST,
        reservation_id: HOLD,
        schedule_id: SCHEDULE,
        amount: 100,
        balance: 0,
        reason,
    }
}

fn refunded(reason: RefundReason) -> PointRefunded {
    PointRefunded {
        user_id: FAN,
        payment_id: FIRST,
        schedule_id: SCHEDULE,
        amount: 100,
        balance: 100,
        reason,
        because: None,
    }
}

#[test]
fn a_granted_request_emits_the_price_and_fence_of_the_hold() {
    let mut kit = Kit::default();
    kit.handle(&created()).unwrap();
    let caller = Caller::User { user_id: FAN, roles: vec![Role::Fan], expires_at: NOW };
    let mut ctx = mesh::Context::at(NOW, &Config {}, &caller, FIRST.0);
    let view = kit.unit.execute(&Pay { reservation_id: HOLD }, &mut ctx).unwrap();
    assert_eq!((view.payment_id, view.state), (FIRST, PaymentState::Requested));
    let [emitted] = ctx.emitted() else { panic!("one event") };
    assert_eq!(emitted.saga_id.0, FIRST.0);
    let event: PaymentRequested = serde_json::from_slice(&emitted.payload).unwrap();
    assert_eq!((event.payment_id, event.amount, event.hold_version), (FIRST, 100, 7));
}

#[test]
fn a_payment_of_an_unknown_hold_waits_for_reservation_created() {
    let mut kit = Kit::default();
    assert_eq!(kit.refusal(), "not yet");
    kit.handle(&created()).unwrap();
    assert_eq!(kit.refusal(), "granted");
}

#[test]
fn a_fan_cannot_pay_the_hold_of_another_fan() {
    let mut kit = Kit::default();
    kit.handle(&created()).unwrap();
    let refusal = kit.pay(UserId(Uuid::from_u128(9)), FIRST).unwrap_err();
    assert_eq!(refusal, Refusal::No(codes::NOT_FOUND.into()));
    assert!(kit.emitted.is_empty());
}

#[test]
fn a_second_payment_in_the_same_batch_is_refused_and_names_the_first() {
    let mut kit = Kit::paying();
    let Err(Refusal::No(problem)) = kit.pay(FAN, SECOND) else { panic!("refused") };
    assert!(problem.is(codes::PAYMENT_RUNNING));
    assert_eq!(problem.extra["payment_id"], FIRST.to_string());
    assert_eq!(kit.emitted, ["payment.requested"]);
}

#[test]
fn completed_and_refunded_carry_the_number_of_seats() {
    let mut kit = Kit::default();
    let seats = ["1", "2", "3"].map(|seat| {
        let seat = SeatId::new("A", "1", seat);
        PricedSeat { seat, price: 30 }
    });
    kit.handle(&ReservationCreated { seats: seats.into(), ..created() }).unwrap();
    kit.pay(FAN, FIRST).unwrap();
    let mut ctx = mesh::Context::at(NOW, &Config {}, &Caller::Mesh, Uuid::nil());
    kit.unit.handle(&confirmed(), &mut ctx).unwrap();
    kit.unit.handle(&refunded(RefundReason::Cancelled), &mut ctx).unwrap();
    let [completed, refunded] = ctx.emitted() else { panic!("two events") };
    let completed: PaymentCompleted = serde_json::from_slice(&completed.payload).unwrap();
    let refunded: PaymentRefunded = serde_json::from_slice(&refunded.payload).unwrap();
    assert_eq!((completed.seats, refunded.seats), (3, 3));
}

#[test]
fn a_confirmed_reservation_completes_its_payment_once() {
    let mut kit = Kit::paying();
    kit.handle(&confirmed()).unwrap();
    kit.handle(&confirmed()).unwrap();
    assert_eq!(kit.first().state, PaymentState::Completed);
    assert_eq!(kit.emitted, ["payment.requested", "payment.completed"]);
    assert_eq!(kit.refusal(), "already_paid");
}

#[test]
fn after_too_few_points_the_fan_may_pay_again() {
    let mut kit = Kit::paying();
    kit.handle(&debit_refused(DebitRefusal::InsufficientBalance)).unwrap();
    kit.handle(&debit_refused(DebitRefusal::InsufficientBalance)).unwrap();
    assert_eq!(kit.first().reason, Some(PaymentFailure::InsufficientBalance));
    kit.pay(FAN, SECOND).unwrap();
    assert_eq!(kit.emitted, ["payment.requested", "payment.failed", "payment.requested"]);
}

#[test]
fn a_late_refusal_of_the_first_payment_leaves_the_second_running() {
    let mut kit = Kit::paying();
    kit.handle(&debit_refused(DebitRefusal::NoWallet)).unwrap();
    kit.pay(FAN, SECOND).unwrap();
    kit.handle(&debit_refused(DebitRefusal::NoWallet)).unwrap();
    assert_eq!(kit.unit.live(HOLD).unwrap().id, SECOND);
}

#[test]
fn a_lost_hold_fails_the_payment_only_when_the_money_is_back() {
    let mut kit = Kit::paying();
    kit.handle(&confirm_refused()).unwrap();
    kit.handle(&confirm_refused()).unwrap();
    assert_eq!(kit.first().state, PaymentState::Requested);
    assert_eq!(kit.refusal(), "hold_gone");
    kit.handle(&refunded(RefundReason::HoldGone)).unwrap();
    kit.handle(&refunded(RefundReason::HoldGone)).unwrap();
    assert_eq!(kit.first().reason, Some(PaymentFailure::HoldGone));
    assert_eq!(kit.emitted, ["payment.requested", "payment.failed"]);
}

#[test]
fn a_refund_that_arrives_before_the_refusal_fails_the_payment_too() {
    let mut kit = Kit::paying();
    kit.handle(&refunded(RefundReason::HoldGone)).unwrap();
    kit.handle(&confirm_refused()).unwrap();
    assert_eq!(kit.first().state, PaymentState::Failed);
    assert_eq!(kit.emitted, ["payment.requested", "payment.failed"]);
}

#[test]
fn a_cancelled_reservation_refunds_its_payment_once() {
    let mut kit = Kit::paying();
    kit.handle(&confirmed()).unwrap();
    kit.handle(&cancelled()).unwrap();
    assert_eq!(kit.first().state, PaymentState::Completed);
    kit.handle(&refunded(RefundReason::Cancelled)).unwrap();
    kit.handle(&refunded(RefundReason::Cancelled)).unwrap();
    kit.handle(&confirmed()).unwrap();
    assert_eq!(kit.first().state, PaymentState::Refunded);
    assert_eq!(kit.emitted, ["payment.requested", "payment.completed", "payment.refunded"]);
}

#[test]
fn a_refund_that_overtakes_the_confirmation_waits_for_it() {
    let mut kit = Kit::paying();
    kit.handle(&cancelled()).unwrap();
    let error = kit.handle(&refunded(RefundReason::Cancelled)).unwrap_err();
    assert!(matches!(error, HandleError::NotYet(_)));
    assert_eq!(kit.first().state, PaymentState::Requested);
    kit.handle(&confirmed()).unwrap();
    kit.handle(&refunded(RefundReason::Cancelled)).unwrap();
    assert_eq!(kit.emitted, ["payment.requested", "payment.completed", "payment.refunded"]);
}

#[test]
fn events_of_an_unknown_payment_wait_and_change_nothing() {
    let mut kit = Kit::default();
    kit.handle(&created()).unwrap();
    let results = [
        kit.handle(&confirmed()),
        kit.handle(&confirm_refused()),
        kit.handle(&debit_refused(DebitRefusal::NoWallet)),
        kit.handle(&refunded(RefundReason::HoldGone)),
        kit.handle(&refunded(RefundReason::Cancelled)),
    ];
    assert!(results.iter().all(|result| matches!(result, Err(HandleError::NotYet(_)))));
    assert!(!kit.unit.hold(HOLD).unwrap().ended);
    assert!(kit.emitted.is_empty());
}

#[test]
fn the_end_of_a_hold_that_overtakes_its_creation_wins() {
    let mut kit = Kit::default();
    kit.handle(&cancelled()).unwrap();
    kit.handle(&created()).unwrap();
    assert_eq!(kit.refusal(), "hold_gone");
}

#[test]
fn a_payment_in_the_last_minute_asks_for_more_time_and_one_before_does_not() {
    for (left_millis, is_urgent) in [(60_000, false), (59_999, true), (1, true)] {
        let mut kit = Kit::default();
        kit.handle(&created()).unwrap();
        kit.now = NOW.plus_millis(HOLD_SECS * 1_000 - left_millis);
        let caller = Caller::User { user_id: FAN, roles: vec![Role::Fan], expires_at: NOW };
        let mut ctx = mesh::Context::at(kit.now, &Config {}, &caller, FIRST.0);
        kit.unit.execute(&Pay { reservation_id: HOLD }, &mut ctx).unwrap();
        assert_eq!(ctx.emitted().len(), 1 + usize::from(is_urgent), "{left_millis} ms are left");
        let Some(emitted) = ctx.emitted().get(1) else { continue };
        assert_eq!(emitted.saga_id.0, FIRST.0);
        let event: PaymentHoldExtensionRequested =
            serde_json::from_slice(&emitted.payload).unwrap();
        let expected = PaymentHoldExtensionRequested {
            payment_id: FIRST,
            reservation_id: HOLD,
            schedule_id: SCHEDULE,
            user_id: FAN,
            hold_version: 7,
        };
        assert_eq!(event, expected);
    }
}

#[test]
fn no_payment_begins_after_the_original_end_of_its_hold() {
    let mut kit = Kit::paying();
    kit.handle(&debit_refused(DebitRefusal::InsufficientBalance)).unwrap();
    kit.now = NOW.plus_secs(HOLD_SECS);
    assert_eq!(kit.refusal(), "hold_gone");
    kit.now = NOW.plus_secs(HOLD_SECS - 1);
    assert_eq!(kit.refusal(), "granted");
    kit.now = NOW.plus_secs(HOLD_SECS + 1);
    assert_eq!(kit.refusal(), "payment_running", "a payment that began in time goes on");
}

#[test]
fn a_late_cancellation_of_another_version_leaves_a_hold_payable() {
    let mut kit = Kit::default();
    kit.handle(&created()).unwrap();
    kit.handle(&ReservationCancelled { hold_version: 6, ..cancelled() }).unwrap();
    assert_eq!(kit.refusal(), "granted");
}

fn withdrawal_requested() -> UserWithdrawalRequested {
    UserWithdrawalRequested { user_id: FAN, attempt: ATTEMPT, forfeit: false, at: NOW }
}

fn withdrawal_refused() -> UserWithdrawalRefused {
    UserWithdrawalRefused { user_id: FAN, attempt: ATTEMPT, reasons: Vec::new(), at: NOW }
}

fn withdrawn() -> UserWithdrawn {
    UserWithdrawn { user_id: FAN, attempt: ATTEMPT, forfeit: false, at: NOW }
}

#[test]
fn a_fan_with_a_cleared_withdrawal_begins_no_payment_until_it_is_refused() {
    let mut kit = Kit::default();
    kit.handle(&created()).unwrap();
    kit.handle(&withdrawal_requested()).unwrap();
    kit.handle(&withdrawal_requested()).unwrap();
    assert_eq!(kit.emitted, ["payment.withdrawal_cleared"]);
    assert_eq!(kit.refusal(), "account_closing");
    kit.handle(&withdrawal_refused()).unwrap();
    kit.handle(&withdrawal_refused()).unwrap();
    kit.handle(&withdrawal_requested()).unwrap();
    assert_eq!(kit.refusal(), "granted");
}

#[test]
fn a_withdrawn_fan_never_begins_a_payment() {
    let mut kit = Kit::default();
    kit.handle(&created()).unwrap();
    kit.handle(&withdrawal_requested()).unwrap();
    kit.handle(&withdrawn()).unwrap();
    kit.handle(&withdrawn()).unwrap();
    kit.handle(&withdrawal_refused()).unwrap();
    kit.handle(&withdrawal_requested()).unwrap();
    assert_eq!(kit.refusal(), "account_closing");
    assert_eq!(kit.emitted, ["payment.withdrawal_cleared"]);
}

#[test]
fn a_running_payment_blocks_the_withdrawal_and_completes() {
    let mut kit = Kit::paying();
    kit.handle(&withdrawal_requested()).unwrap();
    kit.handle(&confirmed()).unwrap();
    let emitted = ["payment.requested", "payment.withdrawal_blocked", "payment.completed"];
    assert_eq!(kit.emitted, emitted);
    assert_eq!(kit.unit.standing(ATTEMPT), Some(Attempted::Blocked));
}

#[test]
fn a_refund_due_blocks_the_withdrawal_until_the_money_is_back() {
    let mut kit = Kit::paying();
    kit.handle(&confirmed()).unwrap();
    kit.handle(&cancelled()).unwrap();
    kit.handle(&withdrawal_requested()).unwrap();
    assert_eq!(kit.emitted.last().unwrap(), "payment.withdrawal_blocked");
    kit.handle(&refunded(RefundReason::Cancelled)).unwrap();
    let attempt = AttemptId(Uuid::from_u128(7));
    kit.handle(&UserWithdrawalRequested { attempt, ..withdrawal_requested() }).unwrap();
    assert_eq!(kit.emitted.last().unwrap(), "payment.withdrawal_cleared");
}

#[test]
fn a_withdrawal_request_that_arrives_after_its_refusal_closes_nothing() {
    let mut kit = Kit::default();
    kit.handle(&created()).unwrap();
    kit.handle(&withdrawal_refused()).unwrap();
    kit.handle(&withdrawal_requested()).unwrap();
    kit.handle(&withdrawal_requested()).unwrap();
    assert_eq!(kit.emitted, ["payment.withdrawal_blocked"]);
    assert_eq!(kit.refusal(), "granted");
}

#[test]
fn a_late_refusal_of_one_attempt_leaves_the_next_one_cleared() {
    let mut kit = Kit::default();
    kit.handle(&created()).unwrap();
    kit.handle(&withdrawal_requested()).unwrap();
    let attempt = AttemptId(Uuid::from_u128(7));
    kit.handle(&UserWithdrawalRequested { attempt, ..withdrawal_requested() }).unwrap();
    kit.handle(&withdrawal_refused()).unwrap();
    assert_eq!(kit.refusal(), "account_closing");
}
