//! A seat map on a Valkey of its own, and the events of the reservation service.

use events::{
    ConcertId, Event, EventId, PaymentId, ReservationId, ScheduleId, SeatId, Timestamp, UserId,
    concert::{
        Epoch, GetSeatChanges, GetSeats, ScheduleCancelled, SeatChanges, SeatMap, SeatState,
        SectionCount,
    },
    reservation::{
        CancelReason, PricedSeat, ReservationCancelled, ReservationConfirmed, ReservationCreated,
        ReservationExpired,
    },
};
use mesh::{
    Outcome,
    testkit::{OnValkey, OwnValkey},
    valkey::{CallOn, FunctionCall, Replay, ReplayedEvent, Valkey},
};
use uuid::Uuid;

use crate::{MapConfig, SeatMaps, map_service, seats};

/// The one schedule of most tests.
pub const SCHEDULE: ScheduleId = ScheduleId(Uuid::from_u128(1));

pub fn now() -> Timestamp {
    Timestamp::from_unix_millis(1_800_000_000_000).unwrap()
}

/// An event that changes seats, with its hold version.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum SeatEvent {
    Created(i64),
    Confirmed(i64),
    Expired(i64),
    Cancelled(i64),
    /// `concert.schedule_cancelled`.
    Off,
}

/// The reservation with this hold version, made an hour before `now`.
pub fn owner(hold_version: i64) -> ReservationId {
    let millis = now().unix_millis() as u128 - 3_600_000;
    ReservationId(Uuid::from_u128(millis << 80 | 7 << 76 | 8 << 60 | hold_version as u128))
}

pub struct Harness {
    pub map: Valkey<SeatMaps>,
    kit: OnValkey<SeatMaps>,
}

impl Harness {
    /// A complete, empty map without seat plans.
    pub async fn open() -> Self {
        let store = OwnValkey::open().await;
        let kit = OnValkey::of(&map_service(), MapConfig::default(), store);
        let harness = Self { map: kit.engine.clone(), kit };
        harness.begin().await.swap().await.unwrap();
        harness
    }

    /// Begins a replay into a shadow.
    pub async fn begin(&self) -> Replay {
        self.map.begin_replay().await.unwrap().expect("no other shadow")
    }

    /// Handles an event on these seats, with an event id of its own.
    pub async fn handle(&self, event: SeatEvent, seats: &[&str]) {
        self.handle_on(SCHEDULE, event, seats).await;
    }

    pub async fn handle_on(&self, schedule: ScheduleId, event: SeatEvent, seats: &[&str]) {
        let seats: Vec<SeatId> = seats.iter().map(|&seat| SeatId(seat.into())).collect();
        let user_id = UserId(Uuid::nil());
        let payment_id = PaymentId(Uuid::nil());
        let schedule_id = schedule;
        match event {
            SeatEvent::Created(hold_version) => {
                let seats = seats.into_iter().map(|seat| PricedSeat { seat, price: 100 });
                self.take(ReservationCreated {
                    reservation_id: owner(hold_version),
                    schedule_id,
                    user_id,
                    seats: seats.collect(),
                    amount: 100,
                    hold_version,
                    expires_at: now(),
                    hard_cap_at: now(),
                })
                .await;
            }
            SeatEvent::Confirmed(hold_version) => {
                self.take(ReservationConfirmed {
                    reservation_id: owner(hold_version),
                    schedule_id,
                    user_id,
                    payment_id,
                    seats,
                    amount: 100,
                    hold_version,
                })
                .await;
            }
            SeatEvent::Expired(hold_version) => {
                self.take(ReservationExpired {
                    reservation_id: owner(hold_version),
                    schedule_id,
                    user_id,
                    seats,
                    hold_version,
                })
                .await;
            }
            SeatEvent::Off => {
                self.take(ScheduleCancelled {
                    schedule_id,
                    concert_id: ConcertId(Uuid::nil()),
                    reason: "rain".into(),
                    by: None,
                })
                .await;
            }
            SeatEvent::Cancelled(hold_version) => {
                self.take(ReservationCancelled {
                    reservation_id: owner(hold_version),
                    schedule_id,
                    user_id,
                    seats,
                    hold_version,
                    reason: CancelReason::ByFan,
                    payment_id: Some(payment_id),
                    refund: 100,
                })
                .await;
            }
        }
    }

    async fn take<E: Event>(&self, event: E)
    where
        SeatMaps: CallOn<E>,
    {
        self.kit.handle(event, now()).await;
    }

    pub async fn take_as<E: Event>(&self, event: E, id: EventId) -> Outcome
    where
        SeatMaps: CallOn<E>,
    {
        self.kit.handle_as(event, id, now()).await
    }

    /// The same event as it is stored in the stream.
    pub fn stored(&self, event: SeatEvent, seat: &str) -> ReplayedEvent {
        let SeatEvent::Created(hold_version) = event else { panic!("only holds are stored here") };
        let event = ReservationCreated {
            reservation_id: owner(hold_version),
            schedule_id: SCHEDULE,
            user_id: UserId(Uuid::nil()),
            seats: vec![PricedSeat { seat: SeatId(seat.into()), price: 100 }],
            amount: 100,
            hold_version,
            expires_at: now(),
            hard_cap_at: now(),
        };
        let call: FunctionCall = self.map.replaying(&event, now());
        ReplayedEvent { event_id: EventId(Uuid::now_v7()), call }
    }

    pub async fn snapshot(&self) -> SeatMap {
        let section =
            |name: &str| SectionCount { section: name.into(), free: 10, held: 0, sold: 0 };
        let command = GetSeats { schedule_id: SCHEDULE, section: None };
        let sections = [section("A"), section("B")];
        seats::snapshot(&self.map, &command, &sections, now()).await.unwrap()
    }

    /// Each seat that is not free.
    pub async fn shown(&self) -> Vec<(String, SeatState)> {
        self.snapshot().await.seats.into_iter().map(|seat| (seat.seat.0, seat.state)).collect()
    }

    pub async fn sequence(&self) -> u64 {
        self.snapshot().await.sequence
    }

    pub async fn since(&self, epoch: Epoch, sequence: u64) -> SeatChanges {
        let command = GetSeatChanges { schedule_id: SCHEDULE, epoch, sequence };
        seats::since(&self.map, &command, now()).await.unwrap()
    }
}
