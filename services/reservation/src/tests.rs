//! Flows through the handlers, on a book in memory: each also twice, late, out of order.

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
use mesh::{Answer, Caller, Hear, Miss, Refusal, Turn};
use uuid::Uuid;

use crate::{
    Book, Rules,
    domain::{Pass, Reservation},
    handlers::Hold,
    timers::{EmptyShow, ExpireHold},
};

/// Who may be told what, in tests: a fact by name with its saga, as JSON.
#[derive(Debug, Clone, PartialEq)]
struct Said {
    fact: String,
    saga: Uuid,
    body: serde_json::Value,
}

/// A book that lives longer than a batch, and a clock that is turned by hand.
struct Stage {
    book: Book,
    now: Timestamp,
    rules: Rules,
    attempt: u64,
    ids: u128,
    said: Vec<Said>,
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

fn wants_to_leave(user_id: UserId, n: u128, forfeit: bool) -> UserWithdrawalRequested {
    UserWithdrawalRequested { user_id, attempt: attempt(n), forfeit, at: at(1) }
}

fn may_not_leave(user_id: UserId, n: u128) -> UserWithdrawalRefused {
    UserWithdrawalRefused { user_id, attempt: attempt(n), reasons: Vec::new(), at: at(1) }
}

fn has_left(user_id: UserId, n: u128, forfeit: bool) -> UserWithdrawn {
    UserWithdrawn { user_id, attempt: attempt(n), forfeit, at: at(1) }
}

fn called_off() -> ScheduleCancelled {
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

impl Stage {
    /// Before anything was heard.
    fn empty() -> Self {
        Self {
            book: Book::default(),
            now: at(1),
            rules: Rules::default(),
            attempt: 1,
            ids: 0,
            said: Vec::new(),
            live: Vec::new(),
        }
    }

    /// A show is on sale.
    fn open() -> Self {
        let mut stage = Self::empty();
        stage.hear(&opened()).unwrap();
        stage
    }

    fn turn<T>(
        &mut self,
        caller: &Caller,
        act: impl FnOnce(&mut Book, &mut Turn<'_, Rules>) -> T,
    ) -> T {
        self.ids += 1;
        let mut turn = Turn::at(self.now, &self.rules, caller, Uuid::from_u128(self.ids));
        turn.attempt = self.attempt;
        let done = act(&mut self.book, &mut turn);
        self.said.extend(turn.told().iter().map(|told| Said {
            fact: events::fact_of_subject(&told.subject).unwrap().to_owned(),
            saga: told.saga_id.0,
            body: serde_json::from_slice(&told.payload).unwrap(),
        }));
        self.live.extend(
            turn.announced()
                .iter()
                .map(|said| (said.subject.clone(), serde_json::from_slice(&said.payload).unwrap())),
        );
        done
    }

    fn hear<E: Event>(&mut self, fact: &E) -> Result<(), Miss>
    where
        Book: Hear<E>,
    {
        self.turn(&Caller::Mesh, |book, turn| book.hear(fact, turn))
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
        self.turn(&caller(user_id), |book, turn| book.answer(&hold, turn))
    }

    fn cancel(&mut self, user_id: UserId, reservation_id: ReservationId) -> Result<View, Refusal> {
        let cancel = Cancel { reservation_id };
        self.turn(&caller(user_id), |book, turn| book.answer(&cancel, turn))
    }

    fn sweep(&mut self, reservation_id: ReservationId) {
        let expire = ExpireHold { reservation_id };
        self.turn(&Caller::Mesh, |book, turn| book.answer(&expire, turn)).unwrap();
    }

    fn empty_show(&mut self, reservations: Vec<ReservationId>) {
        let empty = EmptyShow { schedule_id: SHOW, reservations };
        self.turn(&Caller::Mesh, |book, turn| book.answer(&empty, turn)).unwrap();
    }

    fn reservation(&self, id: ReservationId) -> &Reservation {
        &self.book.reservations[&id]
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
        self.book.seat(SHOW, &seat(n)).unwrap().owner
    }

    /// The facts told since last asked, by name.
    fn told(&mut self) -> Vec<String> {
        self.said.drain(..).map(|said| said.fact).collect()
    }
}

fn refusal<T: std::fmt::Debug>(answer: Result<T, Refusal>) -> Problem {
    match answer.unwrap_err() {
        Refusal::No(problem) | Refusal::NotYet(problem) => problem,
    }
}
