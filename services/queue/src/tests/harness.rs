//! A room on a Valkey of its own, with the events and commands that it handles.

use bytes::Bytes;
use events::{
    Command, Envelope, Event, EventId, PaymentId, Problem, ReservationId, SagaId, ScheduleId,
    SeatId, Timestamp, UserId,
    concert::{Admission, Schedule, ScheduleCancelled, ScheduleOpened, ScheduleState, SeatBlock},
    payment::{PaymentCompleted, PaymentFailed, PaymentFailure},
    queue::{Enter, GetPlace, Leave, Place, PlaceState},
    reservation::{
        CancelReason, PricedSeat, ReservationCancelled, ReservationCreated, ReservationExpired,
    },
    state::{ScheduleStated, SeatOwner, SeatStated},
    user::{Role, UserWithdrawn},
};
use futures::{Stream, stream};
use mesh::{
    Caller, Idempotency, Meta, Outcome,
    engine::{Failure, Generation, Mark, Outbox},
    testkit::{OnValkey, OwnValkey},
    valkey::{CallOn, Valkey},
};
use serde_json::value::RawValue;
use uuid::Uuid;

use crate::{
    Config, Room,
    rebuild::{Known, rebuild},
};

/// The one schedule of most tests.
pub const SCHEDULE: ScheduleId = ScheduleId(Uuid::from_u128(1));
/// The admission of `Harness::open`: slow enough to count.
pub const ADMISSION: Admission = Admission { per_second: 20, active_max: 5, pass_secs: 60 };

/// The moment `millis` milliseconds after the room opens.
pub fn at(millis: i64) -> Timestamp {
    Timestamp::from_unix_millis(1_800_000_000_000 + millis).unwrap()
}

pub fn fan(n: u128) -> UserId {
    UserId(Uuid::from_u128(0x1000 + n))
}

pub fn hold(n: u128) -> ReservationId {
    ReservationId(Uuid::from_u128(0x2000_0000 + n))
}

pub fn payment(n: u128) -> PaymentId {
    PaymentId(Uuid::from_u128(0x3000_0000 + n))
}

pub struct Harness {
    pub room: Valkey<Room>,
    pub kit: OnValkey<Room>,
    /// Messages published so far.
    published: u64,
}

/// An event that the room emitted, with its envelope.
#[derive(Debug, Clone)]
pub struct Row {
    pub subject: String,
    pub event_id: EventId,
    pub saga_id: SagaId,
    pub cause_id: Option<Uuid>,
    pub traceparent: Option<String>,
    pub about: Uuid,
    pub at: Timestamp,
    pub payload: Bytes,
}

/// An event that the room emitted.
#[derive(Debug, Clone, PartialEq)]
pub struct EmittedEvent {
    pub event: String,
    pub about: Uuid,
    pub data: serde_json::Value,
}

impl Harness {
    /// A whole store without schedules.
    pub async fn empty() -> Self {
        Self::empty_on(OwnValkey::open().await).await
    }

    async fn empty_on(valkey: OwnValkey) -> Self {
        let kit = OnValkey::of(&crate::service(), Config::default(), valkey);
        rebuild(&kit.engine, stream::empty(), std::future::pending(), at(0)).await.unwrap();
        Self { room: kit.engine.clone(), kit, published: 0 }
    }

    /// A room that opens at zero.
    pub async fn open() -> Self {
        Self::open_with(ADMISSION, 10).await
    }

    /// A room that opens at zero, on a server without other tests.
    pub async fn open_alone() -> Self {
        let harness = Self::empty_on(OwnValkey::alone().await).await;
        harness.handle(opened(SCHEDULE, ADMISSION, 10), 0).await;
        harness
    }

    pub async fn open_with(admission: Admission, seats: usize) -> Self {
        let harness = Self::empty().await;
        harness.handle(opened(SCHEDULE, admission, seats), 0).await;
        harness
    }

    /// Handles an event, with an event id of its own.
    pub async fn handle<E: Event>(&self, event: E, millis: i64)
    where
        Room: CallOn<E>,
    {
        self.kit.handle(event, at(millis)).await;
    }

    pub async fn handle_as<E: Event>(&self, event: E, id: EventId, millis: i64) -> Outcome
    where
        Room: CallOn<E>,
    {
        self.kit.handle_as(event, id, at(millis)).await
    }

    pub async fn enter(&self, user: UserId, millis: i64) -> Result<Place, Problem> {
        self.enter_with(user, None, millis).await
    }

    pub async fn enter_with(
        &self,
        user: UserId,
        ticket: Option<String>,
        millis: i64,
    ) -> Result<Place, Problem> {
        let command = Enter { schedule_id: SCHEDULE, ticket };
        self.kit.answer(command, &self.meta::<Enter>(user), at(millis)).await
    }

    pub async fn enter_once(
        &self,
        user: UserId,
        key: &Idempotency,
        millis: i64,
    ) -> Result<Place, Problem> {
        let meta = Meta { idempotency: Some(key.clone()), ..self.meta::<Enter>(user) };
        let command = Enter { schedule_id: SCHEDULE, ticket: None };
        self.kit.answer(command, &meta, at(millis)).await
    }

    pub async fn leave(&self, user: UserId, millis: i64) -> Result<Place, Problem> {
        let command = Leave { schedule_id: SCHEDULE };
        self.kit.answer(command, &self.meta::<Leave>(user), at(millis)).await
    }

    pub async fn look(&self, user: UserId, millis: i64) -> Result<Place, Problem> {
        let command = GetPlace { schedule_id: SCHEDULE };
        crate::place_of(&self.room, &command, &self.meta::<GetPlace>(user), at(millis)).await
    }

    fn meta<C: Command>(&self, user_id: UserId) -> Meta {
        let caller = Caller::User { user_id, roles: vec![Role::Fan], expires_at: at(0) };
        self.kit.meta(C::ENDPOINT, caller)
    }

    pub async fn state(&self, user: UserId, millis: i64) -> PlaceState {
        self.look(user, millis).await.unwrap().state
    }

    /// Runs the timer at that moment; returns how many rooms were due.
    pub async fn tick(&self, millis: i64) -> usize {
        let due = crate::due(self.room.clone(), at(millis)).await.unwrap();
        self.room.perform(&due, at(millis)).await.unwrap();
        due.len()
    }

    /// Runs every tick of a range of moments.
    pub async fn tick_through(&self, millis: std::ops::Range<i64>) {
        for millis in millis.step_by(100) {
            self.tick(millis).await;
        }
    }

    /// Lets fans `0..n` enter in this order and ticks until they are ACTIVE.
    pub async fn admit(&self, n: u128) {
        for n in 0..n {
            self.enter(fan(n), 0).await.unwrap();
        }
        self.tick_through(0..1_000).await;
        for n in 0..n {
            assert_eq!(self.state(fan(n), 1_000).await, PlaceState::Active);
        }
    }

    /// Publishes what is in the outbox, and returns its events.
    pub async fn rows(&mut self) -> Vec<Row> {
        let messages = self.room.unpublished(200_000).await.unwrap();
        let mut rows = Vec::new();
        for message in messages {
            self.published += 1;
            let mark = Mark { id: message.id, sequence: self.published };
            self.room.mark(&[mark], Generation::default()).await.unwrap();
            let events: Vec<&RawValue> = serde_json::from_slice(&message.body).unwrap();
            assert_eq!(events.len(), message.events as usize);
            rows.extend(events.into_iter().map(|event| row(&message.subject, event.get())));
        }
        rows
    }

    /// The events emitted since the last call.
    pub async fn emitted(&mut self) -> Vec<EmittedEvent> {
        self.rows().await.into_iter().map(emitted_event).collect()
    }

    /// The events emitted since the last call as names: `activated 3` is `queue.activated` about
    /// fan 3.
    pub async fn names(&mut self) -> Vec<String> {
        let emitted = self.emitted().await;
        emitted
            .into_iter()
            .map(|event| {
                let reason = event.data.get("reason").and_then(|reason| reason.as_str());
                let name = event.event.trim_start_matches("queue.").to_owned();
                let fan = event.about.as_u128() - 0x1000;
                reason.map_or(format!("{name} {fan}"), |why| format!("{name} {fan} {why}"))
            })
            .collect()
    }
}

fn row(subject: &str, event: &str) -> Row {
    let envelope = Envelope::decode(event.as_bytes()).unwrap();
    Row {
        subject: subject.to_owned(),
        event_id: envelope.id,
        saga_id: envelope.sagaid,
        cause_id: envelope.causationid,
        traceparent: envelope.traceparent.as_ref().map(|parent| parent.to_string()),
        about: envelope.subject.parse().unwrap(),
        at: envelope.time,
        payload: Bytes::copy_from_slice(envelope.data.get().as_bytes()),
    }
}

pub fn emitted_event(row: Row) -> EmittedEvent {
    EmittedEvent {
        event: events::event_of_subject(&row.subject).unwrap().to_owned(),
        about: row.about,
        data: serde_json::from_slice(&row.payload).unwrap(),
    }
}

/// An event as a rebuild reads it.
pub fn known<E: Event>(event: &E) -> Known {
    let subject = events::subject(E::NAME, E::VERSION, event.schedule());
    Known::Event(subject, serde_json::to_vec(event).unwrap().into())
}

/// Items in one batch.
pub const BATCH: usize = 3;

/// The items in batches, as a rebuild reads them.
pub fn batches(known: Vec<Known>) -> impl Stream<Item = Result<Vec<Known>, Failure>> {
    let batches: Vec<_> = known.chunks(BATCH).map(|batch| Ok(batch.to_vec())).collect();
    stream::iter(batches)
}

/// The schedule of most tests, as `concert` states it.
pub fn schedule_stated(seats: i64, state: ScheduleState) -> Known {
    let opened = opened(SCHEDULE, ADMISSION, 0);
    Known::Schedule(ScheduleStated {
        schedule: Schedule {
            schedule_id: SCHEDULE,
            concert_id: opened.concert_id,
            venue: opened.venue,
            starts_at: opened.starts_at,
            opens_at: opened.opens_at,
            refund_until: opened.refund_until.unwrap_or(opened.starts_at),
            state,
            cancelled: None,
            admission: ADMISSION,
            hold_secs: opened.hold_secs,
            seats_per_fan_max: opened.seats_per_fan_max,
            seats_total: seats,
        },
        title: opened.title,
    })
}

/// One of the seats of a hold or a sale, as `reservation` states it.
pub fn seat_stated(n: u128, user_id: UserId, seats: u32, is_sold: bool) -> Known {
    let owner =
        SeatOwner { reservation_id: hold(n), user_id, is_sold, seats, hard_cap_at: at(400_000) };
    let seat = SeatId(format!("A-1-{n}"));
    Known::Seat(SCHEDULE, SeatStated { seat, hold_version: 1, owner: Some(owner) })
}

pub fn opened(schedule_id: ScheduleId, admission: Admission, seats: usize) -> ScheduleOpened {
    ScheduleOpened {
        schedule_id,
        concert_id: events::ConcertId(Uuid::nil()),
        title: "T".into(),
        venue: "V".into(),
        starts_at: at(86_400_000),
        refund_until: None,
        by: None,
        opens_at: at(0),
        admission,
        hold_secs: 300,
        seats_per_fan_max: 4,
        seats: vec![SeatBlock {
            section: "A".into(),
            row: "1".into(),
            price: 100,
            seats: (0..seats).map(|seat| seat.to_string()).collect(),
        }],
    }
}

pub fn cancelled_schedule() -> ScheduleCancelled {
    ScheduleCancelled {
        schedule_id: SCHEDULE,
        concert_id: events::ConcertId(Uuid::nil()),
        reason: "rain".into(),
        by: None,
    }
}

fn seats(count: usize) -> Vec<SeatId> {
    (0..count).map(|seat| SeatId::new("A", "1", &seat.to_string())).collect()
}

pub fn created(n: u128, user_id: UserId, hard_cap_millis: i64) -> ReservationCreated {
    ReservationCreated {
        reservation_id: hold(n),
        schedule_id: SCHEDULE,
        user_id,
        seats: seats(1).into_iter().map(|seat| PricedSeat { seat, price: 100 }).collect(),
        amount: 100,
        hold_version: 1,
        expires_at: at(hard_cap_millis),
        hard_cap_at: at(hard_cap_millis),
    }
}

pub fn hold_expired(n: u128, user_id: UserId) -> ReservationExpired {
    let reservation_id = hold(n);
    let seats = seats(1);
    ReservationExpired { reservation_id, schedule_id: SCHEDULE, user_id, seats, hold_version: 1 }
}

/// A payment for this many seats, requested when the room opens.
pub fn paid(n: u128, user_id: UserId, seats: u32) -> PaymentCompleted {
    PaymentCompleted { seats, ..completed(n, user_id, 0) }
}

pub fn cancelled(n: u128, user_id: UserId, paid: bool) -> ReservationCancelled {
    ReservationCancelled {
        reservation_id: hold(n),
        schedule_id: SCHEDULE,
        user_id,
        seats: seats(1),
        hold_version: 1,
        reason: CancelReason::ByFan,
        payment_id: paid.then(|| payment(n)),
        refund: 0,
    }
}

pub fn completed(n: u128, user_id: UserId, requested_millis: i64) -> PaymentCompleted {
    PaymentCompleted {
        payment_id: payment(n),
        reservation_id: hold(n),
        schedule_id: SCHEDULE,
        user_id,
        amount: 100,
        seats: 1,
        requested_at: at(requested_millis),
        ended_at: at(requested_millis + 5),
    }
}

pub fn failed(
    n: u128,
    user_id: UserId,
    reason: PaymentFailure,
    requested_millis: i64,
) -> PaymentFailed {
    PaymentFailed {
        payment_id: payment(n),
        reservation_id: hold(n),
        schedule_id: SCHEDULE,
        user_id,
        amount: 100,
        reason,
        requested_at: at(requested_millis),
        ended_at: at(requested_millis + 5),
    }
}

pub fn withdrawn(user_id: UserId) -> UserWithdrawn {
    UserWithdrawn { user_id, attempt: Uuid::nil().into(), forfeit: false, at: at(0) }
}
