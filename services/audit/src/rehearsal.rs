//! Made-up sagas with the events that services emit: to measure and to test with.

use auditor::Observed;
use events::{
    Event, EventId, PaymentId, ReservationId, SagaId, ScheduleId, SeatId, Timestamp, UserId,
    payment::{PaymentCompleted, PaymentFailed, PaymentFailure, PaymentRequested},
    point::{DebitRefusal, PointDebitRefused, PointDebited, PointRefunded, RefundReason},
    queue::{QueueCompleted, QueueReturned},
    reservation::{
        ConfirmRefusal, PricedSeat, ReservationConfirmRefused, ReservationConfirmed,
        ReservationCreated, ReservationExpired,
    },
};
use uuid::Uuid;

/// Points of a seat.
const PRICE: i64 = 120;
/// Points in every wallet before the payment.
const BALANCE: i64 = 1_000;
/// Milliseconds from one step of a saga to the next.
const STEP_MILLIS: i64 = 4;
/// Seconds that a hold lives.
const HOLD_SECS: i64 = 300;

/// How a payment ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The seat is paid.
    Paid,
    /// There are too few points.
    TooFewPoints,
    /// The hold is gone; the money goes back.
    HoldGone,
}

/// One fan who holds a seat and pays it.
#[derive(Debug, Clone)]
pub struct Visit {
    /// Whose sale.
    pub schedule_id: ScheduleId,
    /// Who.
    pub user_id: UserId,
    /// The seat.
    pub seat: SeatId,
    /// The hold, and its saga.
    pub reservation_id: ReservationId,
    /// The payment, and its saga.
    pub payment_id: PaymentId,
    /// The trace of the payment: 32 hex digits.
    pub trace_id: String,
    /// When the seat is reserved.
    pub at: Timestamp,
    emitted: Vec<Observed>,
}

impl Visit {
    /// A fan's visit at a time; nothing is emitted yet.
    pub fn new(schedule_id: ScheduleId, seat: u64, at: Timestamp) -> Self {
        Self {
            schedule_id,
            user_id: UserId(id_at(at)),
            seat: SeatId::new("A", &(seat / 50 + 1).to_string(), &(seat % 50 + 1).to_string()),
            reservation_id: ReservationId(id_at(at)),
            payment_id: PaymentId(id_at(at.plus_millis(2 * STEP_MILLIS))),
            trace_id: Uuid::new_v4().simple().to_string(),
            at,
            emitted: Vec::new(),
        }
    }

    /// All its events: the seat is reserved, and the payment runs to its end.
    pub fn events(mut self, end: End) -> Vec<Observed> {
        self.reserve();
        self.request();
        match end {
            End::Paid => self.pay(),
            End::TooFewPoints => self.refuse(),
            End::HoldGone => self.lose_hold(),
        }
        self.emitted
    }

    /// The events up to the request for the payment.
    pub fn begun(mut self) -> Vec<Observed> {
        self.reserve();
        self.request();
        self.emitted
    }

    fn reserve(&mut self) {
        let expires_at = self.at.plus_secs(HOLD_SECS);
        self.emit(
            self.reservation_id.0,
            None,
            ReservationCreated {
                reservation_id: self.reservation_id,
                schedule_id: self.schedule_id,
                user_id: self.user_id,
                seats: vec![PricedSeat { seat: self.seat.clone(), price: PRICE }],
                amount: PRICE,
                hold_version: 1,
                expires_at,
                hard_cap_at: expires_at.plus_secs(HOLD_SECS),
            },
        );
    }

    fn request(&mut self) {
        self.emit(
            self.payment_id.0,
            None,
            PaymentRequested {
                payment_id: self.payment_id,
                reservation_id: self.reservation_id,
                schedule_id: self.schedule_id,
                user_id: self.user_id,
                amount: PRICE,
                hold_version: 1,
                requested_at: self.next_at(),
            },
        );
    }

    fn debit(&mut self) {
        self.follow(PointDebited {
            user_id: self.user_id,
            payment_id: self.payment_id,
            reservation_id: self.reservation_id,
            schedule_id: self.schedule_id,
            hold_version: 1,
            amount: PRICE,
            balance: BALANCE - PRICE,
        });
    }

    fn pay(&mut self) {
        let requested_at = self.last_at();
        self.debit();
        self.follow(ReservationConfirmed {
            reservation_id: self.reservation_id,
            schedule_id: self.schedule_id,
            user_id: self.user_id,
            payment_id: self.payment_id,
            seats: vec![self.seat.clone()],
            amount: PRICE,
            hold_version: 1,
        });
        self.follow(PaymentCompleted {
            payment_id: self.payment_id,
            reservation_id: self.reservation_id,
            schedule_id: self.schedule_id,
            user_id: self.user_id,
            amount: PRICE,
            seats: 1,
            requested_at,
            ended_at: self.next_at(),
        });
        self.follow(QueueCompleted {
            schedule_id: self.schedule_id,
            user_id: self.user_id,
            place_version: 3,
            payment_id: self.payment_id,
        });
    }

    fn refuse(&mut self) {
        let requested_at = self.last_at();
        self.follow(PointDebitRefused {
            user_id: self.user_id,
            payment_id: self.payment_id,
            reservation_id: self.reservation_id,
            schedule_id: self.schedule_id,
            amount: PRICE,
            balance: 0,
            reason: DebitRefusal::InsufficientBalance,
        });
        self.fail(PaymentFailure::InsufficientBalance, requested_at);
    }

    fn lose_hold(&mut self) {
        let requested_at = self.last_at();
        self.debit();
        let debited = self.last_id();
        self.follow(ReservationExpired {
            reservation_id: self.reservation_id,
            schedule_id: self.schedule_id,
            user_id: self.user_id,
            seats: vec![self.seat.clone()],
            hold_version: 1,
        });
        self.emit(
            self.payment_id.0,
            debited,
            ReservationConfirmRefused {
                reservation_id: self.reservation_id,
                schedule_id: self.schedule_id,
                user_id: self.user_id,
                payment_id: self.payment_id,
                amount: PRICE,
                reason: ConfirmRefusal::Expired,
            },
        );
        self.follow(PointRefunded {
            user_id: self.user_id,
            payment_id: self.payment_id,
            schedule_id: self.schedule_id,
            amount: PRICE,
            balance: BALANCE,
            reason: RefundReason::HoldGone,
            because: None,
        });
        self.fail(PaymentFailure::HoldGone, requested_at);
        self.follow(QueueReturned {
            schedule_id: self.schedule_id,
            user_id: self.user_id,
            place_version: 3,
        });
    }

    fn fail(&mut self, reason: PaymentFailure, requested_at: Timestamp) {
        self.follow(PaymentFailed {
            payment_id: self.payment_id,
            reservation_id: self.reservation_id,
            schedule_id: self.schedule_id,
            user_id: self.user_id,
            amount: PRICE,
            reason,
            requested_at,
            ended_at: self.next_at(),
        });
    }

    /// Emits an event of the payment's saga that follows from the last one.
    fn follow<E: Event>(&mut self, event: E) {
        let cause = self.last_id();
        self.emit(self.payment_id.0, cause, event);
    }

    fn emit<E: Event>(&mut self, saga_id: Uuid, cause_id: Option<Uuid>, event: E) {
        let at = self.next_at();
        self.emitted.push(Observed {
            event_id: EventId(id_at(at)),
            event: E::NAME.to_owned(),
            stream_seq: self.emitted.len() as u64 + 1,
            saga_id: SagaId(saga_id),
            // An event without a causing event follows from the command.
            cause_id: cause_id.or(Some(saga_id)),
            about: event.about(),
            at,
            deliveries: 1,
            trace_id: (saga_id == self.payment_id.0).then(|| self.trace_id.clone()),
            payload: serde_json::to_vec(&event).expect("events are plain data").into(),
        });
    }

    fn last_at(&self) -> Timestamp {
        self.emitted.last().map_or(self.at, |observed| observed.at)
    }

    fn last_id(&self) -> Option<Uuid> {
        self.emitted.last().map(|observed| observed.event_id.0)
    }

    fn next_at(&self) -> Timestamp {
        self.last_at().plus_millis(STEP_MILLIS)
    }
}

/// An id made at a time.
fn id_at(at: Timestamp) -> Uuid {
    let millis = at.unix_millis().max(0).unsigned_abs();
    let nanos = (millis % 1_000) as u32 * 1_000_000;
    Uuid::new_v7(uuid::Timestamp::from_unix(uuid::NoContext, millis / 1_000, nanos))
}
