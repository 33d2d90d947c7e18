//! Rankings on a Valkey of their own, and the events that they consume.

use std::sync::Mutex;

use events::{
    ConcertId, Event, EventId, PaymentId, ReservationId, ScheduleId, Timestamp, UserId,
    concert::{Admission, ScheduleCancelled, ScheduleOpened, SeatBlock},
    payment::{PaymentCompleted, PaymentRefunded},
    ranking::{RankBy, RankConcerts, Window},
};
use mesh::{
    Outcome,
    testkit::{OnValkey, OwnValkey},
    valkey::{CallOn, FunctionCall, ReplayedEvent, Valkey},
};
use uuid::Uuid;

use crate::{Charts, Config, ranking_of};

pub const HOUR: i64 = 3_600_000;

/// The moment `millis` milliseconds after the shows open: a whole hour, so that the steps of
/// every window begin there.
pub fn at(millis: i64) -> Timestamp {
    Timestamp::from_unix_millis(1_800_000_000_000 + millis).unwrap()
}

pub fn concert(n: u128) -> ConcertId {
    ConcertId(Uuid::from_u128(0x1000 + n))
}

pub fn schedule(n: u128) -> ScheduleId {
    ScheduleId(Uuid::from_u128(0x2000 + n))
}

pub fn payment(n: u128) -> PaymentId {
    PaymentId(Uuid::from_u128(0x3000_0000 + n))
}

/// The schedule `n` of a concert, with this many seats.
pub fn opened(n: u128, concert_id: ConcertId, seats: usize) -> ScheduleOpened {
    ScheduleOpened {
        schedule_id: schedule(n),
        concert_id,
        title: format!("Concert {:x}", concert_id.0.as_u128()),
        venue: "V".into(),
        starts_at: at(30 * 24 * HOUR),
        refund_until: None,
        by: None,
        opens_at: at(0),
        admission: Admission::default(),
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

pub fn cancelled(n: u128, concert_id: ConcertId) -> ScheduleCancelled {
    ScheduleCancelled { schedule_id: schedule(n), concert_id, reason: "rain".into(), by: None }
}

/// The payment `n` for seats of a schedule, completed at that moment.
pub fn sold(n: u128, schedule_id: ScheduleId, seats: u32, millis: i64) -> PaymentCompleted {
    PaymentCompleted {
        payment_id: payment(n),
        reservation_id: ReservationId(Uuid::from_u128(n)),
        schedule_id,
        user_id: UserId(Uuid::nil()),
        amount: 100,
        seats,
        requested_at: at(millis - 5),
        ended_at: at(millis),
    }
}

/// The refund of payment `n`, at that moment.
pub fn refunded(n: u128, schedule_id: ScheduleId, millis: i64) -> PaymentRefunded {
    PaymentRefunded {
        payment_id: payment(n),
        reservation_id: ReservationId(Uuid::from_u128(n)),
        schedule_id,
        user_id: UserId(Uuid::nil()),
        amount: 100,
        seats: 1,
        requested_at: at(millis - 5),
        ended_at: at(millis),
    }
}

pub struct Harness {
    pub charts: Valkey<Charts>,
    pub kit: OnValkey<Charts>,
    /// Every event of this test, as the stream has it.
    emitted: Mutex<Vec<(EventId, FunctionCall)>>,
}

impl Harness {
    /// A whole store without schedules.
    pub async fn empty() -> Self {
        Self::empty_on(OwnValkey::open().await).await
    }

    async fn empty_on(store: OwnValkey) -> Self {
        let kit = OnValkey::of(&crate::service(), Config::default(), store);
        kit.engine.begin_replay().await.unwrap().unwrap().swap().await.unwrap();
        Self { charts: kit.engine.clone(), kit, emitted: Mutex::default() }
    }

    /// One concert with one schedule of ten seats, both number 1.
    pub async fn open() -> Self {
        Self::open_on(OwnValkey::open().await).await
    }

    /// The same on a server without other tests.
    pub async fn open_alone() -> Self {
        Self::open_on(OwnValkey::alone().await).await
    }

    async fn open_on(store: OwnValkey) -> Self {
        let harness = Self::empty_on(store).await;
        harness.handle(opened(1, concert(1), 10), 0).await;
        harness
    }

    /// Handles an event, with an event id of its own.
    pub async fn handle<E: Event>(&self, event: E, millis: i64)
    where
        Charts: CallOn<E>,
    {
        let outcome = self.handle_as(event, EventId(Uuid::now_v7()), millis).await;
        assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
    }

    pub async fn handle_as<E: Event>(&self, event: E, id: EventId, millis: i64) -> Outcome
    where
        Charts: CallOn<E>,
    {
        self.emit(&event, id);
        self.kit.handle_as(event, id, at(millis)).await
    }

    /// Adds an event to the stream without handling it.
    pub fn emit<E: Event>(&self, event: &E, id: EventId)
    where
        Charts: CallOn<E>,
    {
        self.emitted.lock().unwrap().push((id, self.charts.replaying(event, at(0))));
    }

    /// The events that a replay reads.
    pub fn stream(&self) -> Vec<ReplayedEvent> {
        self.stream_after(0, usize::MAX)
    }

    pub fn stream_after(&self, seq: usize, limit: usize) -> Vec<ReplayedEvent> {
        let emitted = self.emitted.lock().unwrap();
        let stored = |(id, call): &(EventId, FunctionCall)| ReplayedEvent {
            event_id: *id,
            call: call.clone(),
        };
        emitted.iter().skip(seq).take(limit).map(stored).collect()
    }

    /// How many events the stream has.
    pub fn emitted(&self) -> usize {
        self.emitted.lock().unwrap().len()
    }

    /// Concert and seats, first to last.
    pub async fn sold(&self, window: Window, millis: i64) -> Vec<(ConcertId, i64)> {
        let command = RankConcerts { by: RankBy::Sold, window, limit: None };
        let ranking = ranking_of(&self.charts, &command, at(millis)).await.unwrap();
        let places = ranking.places.into_iter();
        places.map(|place| (place.concert_id, place.seats_sold.unwrap())).collect()
    }

    /// Concert, schedule and milliseconds, fastest first.
    pub async fn fastest(&self) -> Vec<(ConcertId, ScheduleId, i64)> {
        let command = RankConcerts { by: RankBy::SellOut, ..RankConcerts::default() };
        let ranking = ranking_of(&self.charts, &command, at(0)).await.unwrap();
        let row = |place: events::ranking::RankedConcert| {
            (place.concert_id, place.schedule_id.unwrap(), place.sell_out_ms.unwrap())
        };
        ranking.places.into_iter().map(row).collect()
    }
}
