//! Flows through the handlers, on a unit of work in memory: each also repeated, late and out
//! of order.

mod flows;
mod interleavings;
mod storage;
mod withdrawal;

use events::{
    AttemptId, Event, PaymentId, Problem, ReservationId, ScheduleId, SeatId, Timestamp, UserId,
    concert::{Admission, ScheduleCancelled, ScheduleOpened, SeatBlock},
    payment::PaymentHoldExtensionRequested,
    point::PointDebited,
    reservation::{Cancel, Reservation as View},
    user::{UserWithdrawalRefused, UserWithdrawalRequested, UserWithdrawn},
};
use mesh::{Caller, Context, Execute, Handle, HandleError, Refusal};
use uuid::Uuid;

use crate::{
    Config, UnitOfWork,
    domain::{Pass, Reservation},
    handlers::Hold,
    timers::{EmptyShow, ExpireHold},
};

/// An emitted event: its name, its saga and its data as JSON.
#[derive(Debug, Clone, PartialEq)]
struct Emitted {
    event: String,
    saga: Uuid,
    body: serde_json::Value,
}

/// A unit of work that lives longer than a batch, and a clock that the test sets.
struct Harness {
    unit: UnitOfWork,
    now: Timestamp,
    config: Config,
    attempt: u64,
    ids: u128,
    outbox: Vec<Emitted>,
    live: Vec<(String, serde_json::Value)>,
}

const SHOW: ScheduleId = ScheduleId(Uuid::from_u128(0xA));

fn at(secs: i64) -> Timestamp {
    Timestamp(time::OffsetDateTime::UNIX_EPOCH).plus_secs(1_000_000 + secs)
}

fn fan(n: u128) -> UserId {
    UserId(Uuid::from_u128(0xF00 + n))
}

fn payment(n: u128) -> PaymentId {
    PaymentId(Uuid::from_u128(0xBA00 + n))
}

fn caller(user_id: UserId) -> Caller {
    Caller::User { user_id, roles: vec![], expires_at: at(1_000_000) }
}

fn opened() -> ScheduleOpened {
    ScheduleOpened {
        schedule_id: SHOW,
        concert_id: Uuid::from_u128(0xC).into(),
        title: "Evening".into(),
        venue: "Hall".into(),
        starts_at: at(100_000),
        opens_at: at(0),
        refund_until: Some(at(50_000)),
        admission: Admission::default(),
        hold_secs: 300,
        seats_per_fan_max: 4,
        seats: vec![SeatBlock {
            section: "A".into(),
            row: "1".into(),
            price: 100,
            seats: (1..=10).map(|n| n.to_string()).collect(),
        }],
        by: None,
    }
}

fn attempt(n: u128) -> AttemptId {
    AttemptId(Uuid::from_u128(0xA77 + n))
}

fn withdrawal_requested(user_id: UserId, n: u128, forfeit: bool) -> UserWithdrawalRequested {
    UserWithdrawalRequested { user_id, attempt: attempt(n), forfeit, at: at(1) }
}

fn withdrawal_refused(user_id: UserId, n: u128) -> UserWithdrawalRefused {
    UserWithdrawalRefused { user_id, attempt: attempt(n), reasons: Vec::new(), at: at(1) }
}

fn withdrawn(user_id: UserId, n: u128, forfeit: bool) -> UserWithdrawn {
    UserWithdrawn { user_id, attempt: attempt(n), forfeit, at: at(1) }
}

fn schedule_cancelled() -> ScheduleCancelled {
    ScheduleCancelled {
        schedule_id: SHOW,
        concert_id: Uuid::from_u128(0xC).into(),
        reason: "Storm".into(),
        by: None,
    }
}

fn seat(n: usize) -> SeatId {
    SeatId::new("A", "1", &n.to_string())
}

impl Harness {
    /// No event has arrived yet.
    fn empty() -> Self {
        Self {
            unit: UnitOfWork::default(),
            now: at(1),
            config: Config::default(),
            attempt: 1,
            ids: 0,
            outbox: Vec::new(),
            live: Vec::new(),
        }
    }

    /// A show is on sale.
    fn open() -> Self {
        let mut harness = Self::empty();
        harness.handle(&opened()).unwrap();
        harness
    }

    fn run<T>(
        &mut self,
        caller: &Caller,
        handler: impl FnOnce(&mut UnitOfWork, &mut Context<'_, Config>) -> T,
    ) -> T {
        self.ids += 1;
        let mut ctx = Context::at(self.now, &self.config, caller, Uuid::from_u128(self.ids));
        ctx.attempt = self.attempt;
        let result = handler(&mut self.unit, &mut ctx);
        self.outbox.extend(ctx.emitted().iter().map(|emitted| Emitted {
            event: events::event_of_subject(&emitted.subject).unwrap().to_owned(),
            saga: emitted.saga_id.0,
            body: serde_json::from_slice(&emitted.payload).unwrap(),
        }));
        self.live.extend(ctx.announced().iter().map(|announced| {
            (announced.subject.clone(), serde_json::from_slice(&announced.payload).unwrap())
        }));
        result
    }

    fn handle<E: Event>(&mut self, event: &E) -> Result<(), HandleError>
    where
        UnitOfWork: Handle<E>,
    {
        self.run(&Caller::Mesh, |unit, ctx| unit.handle(event, ctx))
    }

    fn reserve(&mut self, user_id: UserId, seats: &[usize]) -> Result<View, Refusal> {
        let pass = Pass {
            user_id,
            schedule_id: SHOW,
            place_version: 5,
            reserve_until: self.now.plus_secs(100),
        };
        self.hold(user_id, seats, Some(pass))
    }

    fn hold(
        &mut self,
        user_id: UserId,
        seats: &[usize],
        pass: Option<Pass>,
    ) -> Result<View, Refusal> {
        let seats = seats.iter().map(|n| seat(*n)).collect();
        let hold = Hold { schedule_id: SHOW, seats, pass, is_late: false };
        self.run(&caller(user_id), |unit, ctx| unit.execute(&hold, ctx))
    }

    fn cancel(&mut self, user_id: UserId, reservation_id: ReservationId) -> Result<View, Refusal> {
        let cancel = Cancel { reservation_id };
        self.run(&caller(user_id), |unit, ctx| unit.execute(&cancel, ctx))
    }

    fn sweep(&mut self, reservation_id: ReservationId) {
        let expire = ExpireHold { reservation_id };
        self.run(&Caller::Mesh, |unit, ctx| unit.execute(&expire, ctx)).unwrap();
    }

    fn empty_show(&mut self, reservations: Vec<ReservationId>) {
        let empty = EmptyShow { schedule_id: SHOW, reservations };
        self.run(&Caller::Mesh, |unit, ctx| unit.execute(&empty, ctx)).unwrap();
    }

    fn reservation(&self, id: ReservationId) -> &Reservation {
        &self.unit.reservations[&id]
    }

    fn extension(&self, id: ReservationId, payment_id: PaymentId) -> PaymentHoldExtensionRequested {
        let hold = self.reservation(id);
        PaymentHoldExtensionRequested {
            payment_id,
            reservation_id: id,
            schedule_id: SHOW,
            user_id: hold.user_id,
            hold_version: hold.hold_version,
        }
    }

    fn debited(&self, id: ReservationId, payment_id: PaymentId) -> PointDebited {
        let hold = self.reservation(id);
        PointDebited {
            user_id: hold.user_id,
            payment_id,
            reservation_id: id,
            schedule_id: SHOW,
            hold_version: hold.hold_version,
            amount: hold.amount,
            balance: 0,
        }
    }

    fn owner(&self, n: usize) -> Option<ReservationId> {
        self.unit.seat(SHOW, &seat(n)).unwrap().owner
    }

    /// The names of the events emitted since the last call.
    fn emitted(&mut self) -> Vec<String> {
        self.outbox.drain(..).map(|emitted| emitted.event).collect()
    }
}

fn refusal<T: std::fmt::Debug>(answer: Result<T, Refusal>) -> Problem {
    match answer.unwrap_err() {
        Refusal::No(problem) | Refusal::NotYet(problem) => problem,
    }
}
