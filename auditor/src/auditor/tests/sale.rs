//! A sale with the events that its services would emit.

use std::collections::HashMap;

use events::{
    AttemptId, EntryId, EventId, SagaId, SeatId,
    point::{DebitRefusal, PointWithdrawalCleared},
    reservation::{CancelReason, ConfirmRefusal, PricedSeat},
    user::{UserWithdrawalRequested, UserWithdrawn},
};

use super::*;

/// 2026-01-01, in milliseconds.
const BEGIN_MS: i64 = 1_767_225_600_000;
/// Milliseconds between two events.
const STEP_MS: i64 = 10;
pub const PRICE: i64 = 100;

/// Numbers that look like chance and are the same for the same seed (splitmix64).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
}

/// All emitted events, and what is needed to emit more.
pub struct Sale {
    pub events: Vec<Observed>,
    pub schedule: ScheduleId,
    now_ms: i64,
    count: u64,
    seqs: HashMap<String, u64>,
    pub balances: HashMap<UserId, i64>,
    versions: HashMap<String, i64>,
}

/// An emitted hold.
#[derive(Clone)]
pub struct Hold {
    pub id: ReservationId,
    pub fan: UserId,
    pub seats: Vec<SeatId>,
    pub version: i64,
    pub amount: i64,
    pub created: Uuid,
}

/// A requested payment.
#[derive(Clone)]
pub struct Paying {
    pub id: PaymentId,
    pub hold: Hold,
    pub requested: Uuid,
    pub requested_at: Timestamp,
}

impl Sale {
    pub fn new() -> Self {
        let mut sale = Self {
            events: Vec::new(),
            schedule: ScheduleId(Uuid::nil()),
            now_ms: BEGIN_MS,
            count: 0,
            seqs: HashMap::new(),
            balances: HashMap::new(),
            versions: HashMap::new(),
        };
        sale.schedule = ScheduleId(sale.id());
        sale
    }

    pub fn now(&self) -> Timestamp {
        Timestamp::from_unix_millis(self.now_ms).unwrap()
    }

    pub fn wait(&mut self, secs: i64) {
        self.now_ms += secs * 1_000;
    }

    /// An id made now; ids grow.
    pub fn id(&mut self) -> Uuid {
        self.count += 1;
        let mut tail = [0; 10];
        tail[2..].copy_from_slice(&self.count.to_be_bytes());
        uuid::Builder::from_unix_timestamp_millis(self.now_ms as u64, &tail).into_uuid()
    }

    /// Emits an event; returns its id.
    pub fn emit<E: Event>(&mut self, cause: Uuid, saga: Uuid, event: &E) -> Uuid {
        self.now_ms += STEP_MS;
        let id = self.id();
        let seq = self.seqs.entry(events::producer_of(E::NAME).to_owned()).or_default();
        *seq += 1;
        self.events.push(Observed {
            event_id: EventId(id),
            event: E::NAME.to_owned(),
            stream_seq: *seq,
            saga_id: SagaId(saga),
            cause_id: Some(cause),
            about: event.about(),
            at: Timestamp::from_unix_millis(self.now_ms).unwrap(),
            deliveries: 1,
            trace_id: None,
            payload: serde_json::to_vec(event).unwrap().into(),
        });
        id
    }

    /// A fan with points, and the event of the charge.
    pub fn fan(&mut self, points: i64) -> (UserId, Uuid) {
        let fan = UserId(self.id());
        (fan, self.charge(fan, points))
    }

    pub fn charge(&mut self, user_id: UserId, amount: i64) -> Uuid {
        let balance = self.moves(user_id, amount);
        let (command, entry_id) = (self.id(), EntryId(self.id()));
        self.emit(command, command, &PointCharged { user_id, entry_id, amount, balance })
    }

    /// The account is closed, and the points in the wallet are forfeited.
    pub fn forfeit(&mut self, user_id: UserId, amount: i64) -> Uuid {
        let balance = self.moves(user_id, -amount);
        let (command, entry_id) = (self.id(), EntryId(self.id()));
        let (attempt, at) = (AttemptId(command), self.now());
        let requested = UserWithdrawalRequested { user_id, attempt, forfeit: true, at };
        let cause = self.emit(command, command, &requested);
        let cause = self.emit(cause, command, &PointWithdrawalCleared { user_id, attempt });
        let closed = UserWithdrawn { user_id, attempt, forfeit: true, at };
        let cause = self.emit(cause, command, &closed);
        self.emit(cause, command, &PointForfeited { user_id, entry_id, amount, balance })
    }

    fn moves(&mut self, user_id: UserId, by: i64) -> i64 {
        let balance = self.balances.entry(user_id).or_default();
        *balance += by;
        *balance
    }

    pub fn hold(&mut self, fan: UserId, names: &[&str]) -> Hold {
        let version = names.iter().map(|name| self.versions.get(*name).copied().unwrap_or(0));
        let version = version.max().unwrap_or(0) + 1;
        self.hold_as(fan, names, version)
    }

    pub fn hold_as(&mut self, fan: UserId, names: &[&str], version: i64) -> Hold {
        for name in names {
            self.versions.insert((*name).to_owned(), version);
        }
        let id = ReservationId(self.id());
        let seats: Vec<SeatId> = names.iter().map(|name| SeatId((*name).to_owned())).collect();
        let priced = |seat: &SeatId| PricedSeat { seat: seat.clone(), price: PRICE };
        let amount = PRICE * names.len() as i64;
        let event = ReservationCreated {
            reservation_id: id,
            schedule_id: self.schedule,
            user_id: fan,
            seats: seats.iter().map(priced).collect(),
            amount,
            hold_version: version,
            expires_at: self.now().plus_secs(300),
            hard_cap_at: self.now().plus_secs(330),
        };
        let created = self.emit(id.0, id.0, &event);
        Hold { id, fan, seats, version, amount, created }
    }

    pub fn request(&mut self, hold: &Hold) -> Paying {
        let (id, requested_at) = (PaymentId(self.id()), self.now());
        let event = PaymentRequested {
            payment_id: id,
            reservation_id: hold.id,
            schedule_id: self.schedule,
            user_id: hold.fan,
            amount: hold.amount,
            hold_version: hold.version,
            requested_at,
        };
        let requested = self.emit(id.0, id.0, &event);
        Paying { id, hold: hold.clone(), requested, requested_at }
    }

    pub fn debit(&mut self, cause: Uuid, paying: &Paying) -> Uuid {
        let Hold { id: reservation_id, fan: user_id, amount, version, .. } = paying.hold;
        let balance = self.moves(user_id, -amount);
        let event = PointDebited {
            user_id,
            payment_id: paying.id,
            reservation_id,
            schedule_id: self.schedule,
            hold_version: version,
            amount,
            balance,
        };
        self.emit(cause, paying.id.0, &event)
    }

    pub fn refuse_debit(&mut self, cause: Uuid, paying: &Paying) -> Uuid {
        let event = PointDebitRefused {
            user_id: paying.hold.fan,
            payment_id: paying.id,
            reservation_id: paying.hold.id,
            schedule_id: self.schedule,
            amount: paying.hold.amount,
            balance: self.balances.get(&paying.hold.fan).copied().unwrap_or(0),
            reason: DebitRefusal::InsufficientBalance,
        };
        self.emit(cause, paying.id.0, &event)
    }

    pub fn refund(&mut self, cause: Uuid, paying: &Paying, reason: RefundReason) -> Uuid {
        let amount = paying.hold.amount;
        let balance = self.moves(paying.hold.fan, amount);
        let event = PointRefunded {
            user_id: paying.hold.fan,
            payment_id: paying.id,
            schedule_id: self.schedule,
            amount,
            balance,
            reason,
            because: None,
        };
        self.emit(cause, paying.id.0, &event)
    }

    pub fn confirm(&mut self, cause: Uuid, paying: &Paying) -> Uuid {
        let event = ReservationConfirmed {
            reservation_id: paying.hold.id,
            schedule_id: self.schedule,
            user_id: paying.hold.fan,
            payment_id: paying.id,
            seats: paying.hold.seats.clone(),
            amount: paying.hold.amount,
            hold_version: paying.hold.version,
        };
        self.emit(cause, paying.id.0, &event)
    }

    pub fn refuse_confirm(&mut self, cause: Uuid, paying: &Paying) -> Uuid {
        let event = ReservationConfirmRefused {
            reservation_id: paying.hold.id,
            schedule_id: self.schedule,
            user_id: paying.hold.fan,
            payment_id: paying.id,
            amount: paying.hold.amount,
            reason: ConfirmRefusal::Expired,
        };
        self.emit(cause, paying.id.0, &event)
    }

    pub fn complete(&mut self, cause: Uuid, paying: &Paying) -> Uuid {
        let event = PaymentCompleted {
            payment_id: paying.id,
            reservation_id: paying.hold.id,
            schedule_id: self.schedule,
            user_id: paying.hold.fan,
            amount: paying.hold.amount,
            seats: 1,
            requested_at: paying.requested_at,
            ended_at: self.now(),
        };
        self.emit(cause, paying.id.0, &event)
    }

    pub fn fail(&mut self, cause: Uuid, paying: &Paying, reason: PaymentFailure) -> Uuid {
        let event = PaymentFailed {
            payment_id: paying.id,
            reservation_id: paying.hold.id,
            schedule_id: self.schedule,
            user_id: paying.hold.fan,
            amount: paying.hold.amount,
            reason,
            requested_at: paying.requested_at,
            ended_at: self.now(),
        };
        self.emit(cause, paying.id.0, &event)
    }

    pub fn return_payment(&mut self, cause: Uuid, paying: &Paying) -> Uuid {
        let event = PaymentRefunded {
            payment_id: paying.id,
            reservation_id: paying.hold.id,
            schedule_id: self.schedule,
            user_id: paying.hold.fan,
            amount: paying.hold.amount,
            seats: 1,
            requested_at: paying.requested_at,
            ended_at: self.now(),
        };
        self.emit(cause, paying.id.0, &event)
    }

    pub fn expire(&mut self, hold: &Hold) -> Uuid {
        let event = ReservationExpired {
            reservation_id: hold.id,
            schedule_id: self.schedule,
            user_id: hold.fan,
            seats: hold.seats.clone(),
            hold_version: hold.version,
        };
        let timer = self.id();
        self.emit(timer, hold.id.0, &event)
    }

    pub fn cancel(&mut self, hold: &Hold, paid: Option<&Paying>, reason: CancelReason) -> Uuid {
        let event = ReservationCancelled {
            reservation_id: hold.id,
            schedule_id: self.schedule,
            user_id: hold.fan,
            seats: hold.seats.clone(),
            hold_version: hold.version,
            reason,
            payment_id: paid.map(|paying| paying.id),
            refund: paid.filter(|_| reason != CancelReason::Withdrawn).map_or(0, |_| hold.amount),
        };
        let command = self.id();
        self.emit(command, command, &event)
    }

    /// Pays a hold, with all events but the last.
    pub fn pay(&mut self, hold: &Hold) -> (Paying, Uuid) {
        let paying = self.request(hold);
        let debited = self.debit(paying.requested, &paying);
        let confirmed = self.confirm(debited, &paying);
        (paying, confirmed)
    }

    /// Pays a hold to its end.
    pub fn sell(&mut self, names: &[&str]) -> Paying {
        let (fan, _) = self.fan(1_000);
        let hold = self.hold(fan, names);
        let (paying, confirmed) = self.pay(&hold);
        self.complete(confirmed, &paying);
        paying
    }

    /// Cancels a paid reservation and returns the money.
    pub fn give_up(&mut self, paying: &Paying, reason: CancelReason) {
        let cancelled = self.cancel(&paying.hold, Some(paying), reason);
        let refunded = self.refund(cancelled, paying, RefundReason::Cancelled);
        self.return_payment(refunded, paying);
    }
}
