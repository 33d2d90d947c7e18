//! Each flow on a book in memory: as it should be, twice, late, and out of order.

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

/// A service in memory: a book, the names of the facts it has told, and its clock.
struct Desk {
    book: Book,
    told: Vec<String>,
    now: Timestamp,
}

impl Default for Desk {
    fn default() -> Self {
        Self { book: Book::default(), told: Vec::new(), now: NOW }
    }
}

impl Desk {
    /// One where the fan has asked to pay the hold.
    fn paying() -> Self {
        let mut desk = Self::default();
        desk.hear(&created()).unwrap();
        desk.pay(FAN, FIRST).unwrap();
        desk
    }

    fn hear<E: Event>(&mut self, fact: &E) -> Result<(), Miss>
    where
        Book: Hear<E>,
    {
        let mut turn = mesh::Turn::at(self.now, &Rules {}, &Caller::Mesh, Uuid::nil());
        let heard = self.book.hear(fact, &mut turn);
        self.note(&turn);
        heard
    }

    fn pay(&mut self, fan: UserId, id: PaymentId) -> Result<payment::Payment, Refusal> {
        let caller = Caller::User { user_id: fan, roles: vec![Role::Fan], expires_at: NOW };
        let mut turn = mesh::Turn::at(self.now, &Rules {}, &caller, id.0);
        let paid = self.book.answer(&Pay { reservation_id: HOLD }, &mut turn);
        self.note(&turn);
        paid
    }

    fn note(&mut self, turn: &Turn<'_>) {
        let names = turn.told().iter().filter_map(|told| events::fact_of_subject(&told.subject));
        self.told.extend(names.map(str::to_owned));
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
        self.book.payment_mut(FIRST).expect("the first payment").to_view()
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
fn a_granted_request_is_told_with_the_price_and_fence_of_the_hold() {
    let mut desk = Desk::default();
    desk.hear(&created()).unwrap();
    let caller = Caller::User { user_id: FAN, roles: vec![Role::Fan], expires_at: NOW };
    let mut turn = mesh::Turn::at(NOW, &Rules {}, &caller, FIRST.0);
    let view = desk.book.answer(&Pay { reservation_id: HOLD }, &mut turn).unwrap();
    assert_eq!((view.payment_id, view.state), (FIRST, PaymentState::Requested));
    let [told] = turn.told() else { panic!("one fact") };
    assert_eq!(told.saga_id.0, FIRST.0);
    let fact: PaymentRequested = serde_json::from_slice(&told.payload).unwrap();
    assert_eq!((fact.payment_id, fact.amount, fact.hold_version), (FIRST, 100, 7));
}

#[test]
fn paying_before_the_hold_is_heard_of_waits_for_it() {
    let mut desk = Desk::default();
    assert_eq!(desk.refusal(), "not yet");
    desk.hear(&created()).unwrap();
    assert_eq!(desk.refusal(), "granted");
}

#[test]
fn nobody_pays_for_a_stranger() {
    let mut desk = Desk::default();
    desk.hear(&created()).unwrap();
    let refusal = desk.pay(UserId(Uuid::from_u128(9)), FIRST).unwrap_err();
    assert_eq!(refusal, Refusal::No(codes::NOT_FOUND.into()));
    assert!(desk.told.is_empty());
}

#[test]
fn a_second_payment_in_the_same_batch_is_refused_and_names_the_first() {
    let mut desk = Desk::paying();
    let Err(Refusal::No(problem)) = desk.pay(FAN, SECOND) else { panic!("refused") };
    assert!(problem.is(codes::PAYMENT_RUNNING));
    assert_eq!(problem.extra["payment_id"], FIRST.to_string());
    assert_eq!(desk.told, ["payment.requested"]);
}

#[test]
fn an_end_says_how_many_seats_were_paid() {
    let mut desk = Desk::default();
    let seats = ["1", "2", "3"].map(|seat| {
        let seat = SeatId::new("A", "1", seat);
        PricedSeat { seat, price: 30 }
    });
    desk.hear(&ReservationCreated { seats: seats.into(), ..created() }).unwrap();
    desk.pay(FAN, FIRST).unwrap();
    let mut turn = mesh::Turn::at(NOW, &Rules {}, &Caller::Mesh, Uuid::nil());
    desk.book.hear(&confirmed(), &mut turn).unwrap();
    desk.book.hear(&refunded(RefundReason::Cancelled), &mut turn).unwrap();
    let [completed, refunded] = turn.told() else { panic!("two facts") };
    let completed: PaymentCompleted = serde_json::from_slice(&completed.payload).unwrap();
    let refunded: PaymentRefunded = serde_json::from_slice(&refunded.payload).unwrap();
    assert_eq!((completed.seats, refunded.seats), (3, 3));
}

#[test]
fn a_confirmed_reservation_completes_its_payment_once() {
    let mut desk = Desk::paying();
    desk.hear(&confirmed()).unwrap();
    desk.hear(&confirmed()).unwrap();
    assert_eq!(desk.first().state, PaymentState::Completed);
    assert_eq!(desk.told, ["payment.requested", "payment.completed"]);
    assert_eq!(desk.refusal(), "already_paid");
}

#[test]
fn after_too_few_points_the_fan_may_pay_again() {
    let mut desk = Desk::paying();
    desk.hear(&debit_refused(DebitRefusal::InsufficientBalance)).unwrap();
    desk.hear(&debit_refused(DebitRefusal::InsufficientBalance)).unwrap();
    assert_eq!(desk.first().reason, Some(PaymentFailure::InsufficientBalance));
    desk.pay(FAN, SECOND).unwrap();
    assert_eq!(desk.told, ["payment.requested", "payment.failed", "payment.requested"]);
}

#[test]
fn a_late_refusal_of_the_first_payment_leaves_the_second_running() {
    let mut desk = Desk::paying();
    desk.hear(&debit_refused(DebitRefusal::NoWallet)).unwrap();
    desk.pay(FAN, SECOND).unwrap();
    desk.hear(&debit_refused(DebitRefusal::NoWallet)).unwrap();
    assert_eq!(desk.book.live(HOLD).unwrap().id, SECOND);
}

#[test]
fn a_lost_hold_fails_the_payment_only_when_the_money_is_back() {
    let mut desk = Desk::paying();
    desk.hear(&confirm_refused()).unwrap();
    desk.hear(&confirm_refused()).unwrap();
    assert_eq!(desk.first().state, PaymentState::Requested);
    assert_eq!(desk.refusal(), "hold_gone");
    desk.hear(&refunded(RefundReason::HoldGone)).unwrap();
    desk.hear(&refunded(RefundReason::HoldGone)).unwrap();
    assert_eq!(desk.first().reason, Some(PaymentFailure::HoldGone));
    assert_eq!(desk.told, ["payment.requested", "payment.failed"]);
}

#[test]
fn money_that_is_back_before_the_refusal_is_heard_fails_the_payment_too() {
    let mut desk = Desk::paying();
    desk.hear(&refunded(RefundReason::HoldGone)).unwrap();
    desk.hear(&confirm_refused()).unwrap();
    assert_eq!(desk.first().state, PaymentState::Failed);
    assert_eq!(desk.told, ["payment.requested", "payment.failed"]);
}

#[test]
fn a_cancelled_reservation_refunds_its_payment_once() {
    let mut desk = Desk::paying();
    desk.hear(&confirmed()).unwrap();
    desk.hear(&cancelled()).unwrap();
    assert_eq!(desk.first().state, PaymentState::Completed);
    desk.hear(&refunded(RefundReason::Cancelled)).unwrap();
    desk.hear(&refunded(RefundReason::Cancelled)).unwrap();
    desk.hear(&confirmed()).unwrap();
    assert_eq!(desk.first().state, PaymentState::Refunded);
    assert_eq!(desk.told, ["payment.requested", "payment.completed", "payment.refunded"]);
}

#[test]
fn a_refund_that_overtakes_the_confirmation_waits_for_it() {
    let mut desk = Desk::paying();
    desk.hear(&cancelled()).unwrap();
    let miss = desk.hear(&refunded(RefundReason::Cancelled)).unwrap_err();
    assert!(matches!(miss, Miss::NotYet(_)));
    assert_eq!(desk.first().state, PaymentState::Requested);
    desk.hear(&confirmed()).unwrap();
    desk.hear(&refunded(RefundReason::Cancelled)).unwrap();
    assert_eq!(desk.told, ["payment.requested", "payment.completed", "payment.refunded"]);
}

#[test]
fn facts_of_an_unknown_payment_wait_and_change_nothing() {
    let mut desk = Desk::default();
    desk.hear(&created()).unwrap();
    let misses = [
        desk.hear(&confirmed()),
        desk.hear(&confirm_refused()),
        desk.hear(&debit_refused(DebitRefusal::NoWallet)),
        desk.hear(&refunded(RefundReason::HoldGone)),
        desk.hear(&refunded(RefundReason::Cancelled)),
    ];
    assert!(misses.iter().all(|miss| matches!(miss, Err(Miss::NotYet(_)))));
    assert!(!desk.book.hold(HOLD).unwrap().ended);
    assert!(desk.told.is_empty());
}

#[test]
fn an_end_that_overtakes_the_beginning_wins() {
    let mut desk = Desk::default();
    desk.hear(&cancelled()).unwrap();
    desk.hear(&created()).unwrap();
    assert_eq!(desk.refusal(), "hold_gone");
}

#[test]
fn a_payment_in_the_last_minute_asks_for_more_time_and_one_before_does_not() {
    for (left_millis, is_urgent) in [(60_000, false), (59_999, true), (1, true)] {
        let mut desk = Desk::default();
        desk.hear(&created()).unwrap();
        desk.now = NOW.plus_millis(HOLD_SECS * 1_000 - left_millis);
        let caller = Caller::User { user_id: FAN, roles: vec![Role::Fan], expires_at: NOW };
        let mut turn = mesh::Turn::at(desk.now, &Rules {}, &caller, FIRST.0);
        desk.book.answer(&Pay { reservation_id: HOLD }, &mut turn).unwrap();
        assert_eq!(turn.told().len(), 1 + usize::from(is_urgent), "{left_millis} ms are left");
        let Some(told) = turn.told().get(1) else { continue };
        assert_eq!(told.saga_id.0, FIRST.0);
        let fact: PaymentHoldExtensionRequested = serde_json::from_slice(&told.payload).unwrap();
        let expected = PaymentHoldExtensionRequested {
            payment_id: FIRST,
            reservation_id: HOLD,
            schedule_id: SCHEDULE,
            user_id: FAN,
            hold_version: 7,
        };
        assert_eq!(fact, expected);
    }
}

#[test]
fn no_payment_begins_after_the_original_end_of_its_hold() {
    let mut desk = Desk::paying();
    desk.hear(&debit_refused(DebitRefusal::InsufficientBalance)).unwrap();
    desk.now = NOW.plus_secs(HOLD_SECS);
    assert_eq!(desk.refusal(), "hold_gone");
    desk.now = NOW.plus_secs(HOLD_SECS - 1);
    assert_eq!(desk.refusal(), "granted");
    desk.now = NOW.plus_secs(HOLD_SECS + 1);
    assert_eq!(desk.refusal(), "payment_running", "one that has begun in time runs on");
}

#[test]
fn a_late_cancellation_of_another_version_leaves_a_hold_payable() {
    let mut desk = Desk::default();
    desk.hear(&created()).unwrap();
    desk.hear(&ReservationCancelled { hold_version: 6, ..cancelled() }).unwrap();
    assert_eq!(desk.refusal(), "granted");
}

fn wants_to_leave() -> UserWithdrawalRequested {
    UserWithdrawalRequested { user_id: FAN, attempt: ATTEMPT, forfeit: false, at: NOW }
}

fn may_not_leave() -> UserWithdrawalRefused {
    UserWithdrawalRefused { user_id: FAN, attempt: ATTEMPT, reasons: Vec::new(), at: NOW }
}

fn has_left() -> UserWithdrawn {
    UserWithdrawn { user_id: FAN, attempt: ATTEMPT, forfeit: false, at: NOW }
}

#[test]
fn who_may_leave_begins_no_payment_until_the_attempt_is_refused() {
    let mut desk = Desk::default();
    desk.hear(&created()).unwrap();
    desk.hear(&wants_to_leave()).unwrap();
    desk.hear(&wants_to_leave()).unwrap();
    assert_eq!(desk.told, ["payment.withdrawal_cleared"]);
    assert_eq!(desk.refusal(), "account_closing");
    desk.hear(&may_not_leave()).unwrap();
    desk.hear(&may_not_leave()).unwrap();
    desk.hear(&wants_to_leave()).unwrap();
    assert_eq!(desk.refusal(), "granted");
}

#[test]
fn who_has_left_begins_no_payment_ever() {
    let mut desk = Desk::default();
    desk.hear(&created()).unwrap();
    desk.hear(&wants_to_leave()).unwrap();
    desk.hear(&has_left()).unwrap();
    desk.hear(&has_left()).unwrap();
    desk.hear(&may_not_leave()).unwrap();
    desk.hear(&wants_to_leave()).unwrap();
    assert_eq!(desk.refusal(), "account_closing");
    assert_eq!(desk.told, ["payment.withdrawal_cleared"]);
}

#[test]
fn a_running_payment_keeps_the_fan_and_is_not_disturbed() {
    let mut desk = Desk::paying();
    desk.hear(&wants_to_leave()).unwrap();
    desk.hear(&confirmed()).unwrap();
    let told = ["payment.requested", "payment.withdrawal_blocked", "payment.completed"];
    assert_eq!(desk.told, told);
    assert_eq!(desk.book.standing(ATTEMPT), Some(Attempted::Blocked));
}

#[test]
fn a_refund_keeps_the_fan_until_the_money_is_back() {
    let mut desk = Desk::paying();
    desk.hear(&confirmed()).unwrap();
    desk.hear(&cancelled()).unwrap();
    desk.hear(&wants_to_leave()).unwrap();
    assert_eq!(desk.told.last().unwrap(), "payment.withdrawal_blocked");
    desk.hear(&refunded(RefundReason::Cancelled)).unwrap();
    let attempt = AttemptId(Uuid::from_u128(7));
    desk.hear(&UserWithdrawalRequested { attempt, ..wants_to_leave() }).unwrap();
    assert_eq!(desk.told.last().unwrap(), "payment.withdrawal_cleared");
}

#[test]
fn a_request_behind_its_refusal_closes_nothing() {
    let mut desk = Desk::default();
    desk.hear(&created()).unwrap();
    desk.hear(&may_not_leave()).unwrap();
    desk.hear(&wants_to_leave()).unwrap();
    desk.hear(&wants_to_leave()).unwrap();
    assert_eq!(desk.told, ["payment.withdrawal_blocked"]);
    assert_eq!(desk.refusal(), "granted");
}

#[test]
fn a_late_refusal_of_one_attempt_leaves_the_next_one_cleared() {
    let mut desk = Desk::default();
    desk.hear(&created()).unwrap();
    desk.hear(&wants_to_leave()).unwrap();
    let attempt = AttemptId(Uuid::from_u128(7));
    desk.hear(&UserWithdrawalRequested { attempt, ..wants_to_leave() }).unwrap();
    desk.hear(&may_not_leave()).unwrap();
    assert_eq!(desk.refusal(), "account_closing");
}
