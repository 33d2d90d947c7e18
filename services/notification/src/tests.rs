//! The service on real tables: several batches at once, and sending to a local server.

mod sending;
mod storage;

use std::sync::atomic::{AtomicUsize, Ordering};

use events::{
    Event, ReservationId, ScheduleId, SeatId, Timestamp, UserId,
    concert::{Admission, ScheduleOpened},
    reservation::{PricedSeat, ReservationCreated},
    user::UserWithdrawn,
};
use mesh::{Caller, Context, Execute, Handle, UnitOfWork as _};
use servers::{Options, Servers};
use sqlx::PgPool;
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::{Config, Keys, UnitOfWork};

/// Databases for as many tests.
const DATABASES: usize = 16;

/// A database of the test's own, on a server that all tests share: a sender takes every message
/// it finds.
async fn database() -> String {
    static SERVERS: OnceCell<Servers> = OnceCell::const_new();
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    let start = || async {
        let mut options = Options::temporary();
        options.services = (0..DATABASES).map(|n| format!("notification_{n}")).collect();
        Servers::start(options).await.unwrap()
    };
    let servers = SERVERS.get_or_init(start).await;
    let name = format!("notification_{}", NEXT.fetch_add(1, Ordering::Relaxed));
    let url = servers.database_url(&name);
    let pool = PgPool::connect(&url).await.unwrap();
    mesh::postgres::migrate(&pool, &crate::MIGRATIONS).await.unwrap();
    url
}

fn withdrawn(user_id: UserId) -> UserWithdrawn {
    UserWithdrawn { user_id, attempt: Uuid::nil().into(), forfeit: true, at: now() }
}

/// Runs one batch; an error says that it could not be stored.
async fn batch<T>(
    pool: &PgPool,
    caller: &Caller,
    config: &Config,
    keys: impl FnOnce(&mut Keys),
    act: impl FnOnce(&mut UnitOfWork, &mut Context<'_, Config>) -> T,
) -> sqlx::Result<T> {
    let mut wanted = Keys::default();
    keys(&mut wanted);
    let mut tx = pool.begin().await?;
    let mut unit = UnitOfWork::load(wanted, &mut tx).await?;
    let done = act(&mut unit, &mut Context::at(now(), config, caller, Uuid::now_v7()));
    unit.save(&mut tx).await?;
    tx.commit().await?;
    Ok(done)
}

async fn handle<E: Event>(pool: &PgPool, event: &E)
where
    UnitOfWork: Handle<E>,
{
    let keys = |keys: &mut Keys| <UnitOfWork as Handle<E>>::keys(event, keys);
    let config = Config::default();
    let handled = batch(pool, &Caller::Mesh, &config, keys, |unit, ctx| unit.handle(event, ctx));
    handled.await.unwrap().unwrap();
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
    let executed = batch(pool, caller, config, keys, |unit, ctx| {
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
