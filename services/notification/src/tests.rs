//! The service on real tables: several batches at once, and sending to a local server.

mod sending;
mod storage;

use events::{
    Event, ReservationId, ScheduleId, SeatId, Timestamp, UserId,
    concert::{Admission, ScheduleOpened},
    reservation::{PricedSeat, ReservationCreated},
    user::UserWithdrawn,
};
use mesh::{Caller, Execute, Handle, testkit};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{Config, Keys, UnitOfWork};

/// A database of the test's own: a sender takes every message it finds.
async fn database() -> String {
    testkit::database(&crate::MIGRATIONS).await
}

fn withdrawn(user_id: UserId) -> UserWithdrawn {
    UserWithdrawn { user_id, attempt: Uuid::nil().into(), forfeit: true, at: now() }
}

async fn handle<E: Event>(pool: &PgPool, event: &E)
where
    UnitOfWork: Handle<E>,
{
    testkit::handle::<UnitOfWork, E>(pool, &Config::default(), event).await;
}

/// Runs a batch of one command that is granted; returns the names of the events it emitted.
async fn execute<C: events::Command>(
    pool: &PgPool,
    caller: &Caller,
    config: &Config,
    command: &C,
) -> Vec<String>
where
    UnitOfWork: Execute<C>,
{
    let keys = |keys: &mut Keys| <UnitOfWork as Execute<C>>::keys(command, caller, keys);
    let executed = testkit::batch(pool, config, caller, keys, |unit: &mut UnitOfWork, ctx| {
        unit.execute(command, ctx).unwrap_or_else(|refusal| panic!("{refusal:?}"));
        let names =
            ctx.emitted().iter().filter_map(|emitted| events::event_of_subject(&emitted.subject));
        names.map(str::to_owned).collect()
    });
    executed.await.unwrap()
}

fn now() -> Timestamp {
    mesh::clock::now()
}

fn fan() -> UserId {
    UserId(Uuid::now_v7())
}

fn opened(schedule_id: ScheduleId) -> ScheduleOpened {
    ScheduleOpened {
        schedule_id,
        concert_id: Uuid::now_v7().into(),
        title: "Night Train".into(),
        venue: "Club Blau".into(),
        starts_at: now().plus_secs(86_400),
        refund_until: None,
        by: None,
        opens_at: now(),
        admission: Admission::default(),
        hold_secs: 300,
        seats_per_fan_max: 4,
        seats: vec![],
    }
}

fn created(user_id: UserId, schedule_id: ScheduleId) -> ReservationCreated {
    ReservationCreated {
        reservation_id: ReservationId(Uuid::now_v7()),
        schedule_id,
        user_id,
        seats: vec![PricedSeat { seat: SeatId("A-1-1".into()), price: 100 }],
        amount: 100,
        hold_version: 1,
        expires_at: now().plus_secs(300),
        hard_cap_at: now().plus_secs(360),
    }
}
