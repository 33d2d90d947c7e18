//! The monolith: what a good engineer would write instead of the mesh.
//!
//! One program (axum and sqlx), one database, one transaction a request. It answers the same
//! request with the same checks, on the same PostgreSQL server, in a process of its own:
//!
//! - the access token's signature (EdDSA) is verified, or remembered as in the mesh;
//! - the hold is the caller's, lives, and is locked; a payment per reservation;
//! - the wallet has the points; a row of a double-entry ledger;
//! - the reservation is confirmed, its place in the waiting room ended, its seats counted;
//! - the idempotency key and its answer are stored; a row of its outbox has the event for others.
//!
//! It is meant to be hard to beat: a payment is one statement and one round trip, statements
//! are prepared once a connection, and no row is shared by all payments of a sale.

mod app;
mod cancel;
mod server;
#[cfg(test)]
mod tests;

use std::{net::SocketAddr, process::Stdio};

use anyhow::{Context, Result, bail};
use events::{ReservationId, ScheduleId};
use sqlx::{PgPool, postgres::PgPoolOptions};
use tokio::process::{Child, Command};
use uuid::Uuid;

use super::{
    hall::{Hall, Hold},
    logs,
    stand::{FANS, Fan, POINTS, PRICE, Stand, seat, wait_until_ready},
};
use crate::development::environment::ask_to_stop;
pub use server::{Monolith, serve};

/// The name of its database, among those of the services.
pub(super) const NAME: &str = "monolith";
/// Run after making holds and before paying them.
const AT_REST: &str = "vacuum (analyze) \
    wallets, entries, schedules, seats, reservations, places, payments, outbox";
/// How long it may take to stop.
const STOPPED_WITHIN: std::time::Duration = std::time::Duration::from_secs(10);

/// A running monolith.
pub(super) struct Opponent {
    child: Child,
    pub(super) addr: SocketAddr,
    pub(super) pool: PgPool,
    has_wallets: bool,
}

impl Opponent {
    /// Starts it on the database that the mesh's servers have for it.
    pub(super) async fn start(stand: &Stand, connections: u32) -> Result<Self> {
        let url = stand.config.database_url(NAME)?;
        let pool = PgPoolOptions::new().max_connections(2).connect(url).await?;
        sqlx::raw_sql(include_str!("monolith/schema.sql"))
            .execute(&pool)
            .await
            .context("its tables")?;
        let (keys, ready_file) =
            (stand.folder().join("keys.json"), stand.folder().join("monolith.json"));
        let set = stand.http.get("/.well-known/jwks.json").send().await?;
        std::fs::write(&keys, set.body)?;
        let mut child = Command::new(std::env::current_exe()?)
            .args(["bench", "monolith", "--connections", &connections.to_string(), "--keys"])
            .arg(&keys)
            .arg("--ready-file")
            .arg(&ready_file)
            .env(server::DATABASE_VARIABLE, url)
            // It ends when this pipe closes, however this process ends.
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(logs::of(NAME)?)
            .kill_on_drop(true)
            .spawn()?;
        let ready: server::Ready = wait_until_ready(&mut child, &ready_file).await?;
        Ok(Self { child, addr: ready.addr, pool, has_wallets: false })
    }

    pub(super) fn pid(&self) -> Result<i32> {
        Ok(self.child.id().context("the monolith has ended")? as i32)
    }

    /// Makes `requests` holds on new schedules, each fan's in a place that is ACTIVE.
    pub(super) async fn prepare(
        &mut self,
        fans: &[Fan],
        requests: usize,
        lost_percent: u32,
    ) -> Result<Hall> {
        if !self.has_wallets {
            open_wallets(&self.pool, fans).await.context("opening wallets")?;
            self.has_wallets = true;
        }
        let mut schedules = Vec::new();
        let mut holds = Vec::with_capacity(requests);
        while holds.len() < requests {
            let schedule = Uuid::now_v7();
            let fans = &fans[..fans.len().min(requests - holds.len())];
            let made = hold_all(&self.pool, schedule, fans).await.context("making holds")?;
            schedules.push(ScheduleId(schedule));
            holds.extend(fans.iter().zip(made).enumerate().map(|(at, (fan, id))| Hold {
                reservation_id: ReservationId(id),
                token: fan.token.clone(),
                fan: at,
                is_lost: false,
            }));
        }
        // As the databases of the services are by then: known to the planner, and at rest.
        sqlx::raw_sql(AT_REST).execute(&self.pool).await?;
        Ok(Hall::new(schedules, holds, lost_percent))
    }

    /// Checks its database and stops it.
    pub(super) async fn end(mut self) -> Result<()> {
        check(&self.pool).await?;
        self.pool.close().await;
        if let Some(pid) = self.child.id() {
            ask_to_stop(pid);
        }
        let _ = tokio::time::timeout(STOPPED_WITHIN, self.child.wait()).await;
        Ok(())
    }
}

async fn open_wallets(pool: &PgPool, fans: &[Fan]) -> sqlx::Result<()> {
    let users: Vec<Uuid> = fans.iter().map(|fan| fan.user_id.0).collect();
    let ids: Vec<Uuid> = fans.iter().map(|_| Uuid::now_v7()).collect();
    sqlx::query(
        "with opened as (
             insert into wallets (user_id, balance) select unnest($1::uuid[]), $3
         )
         insert into entries (user_id, id, amount, balance, at, kind, house)
         select fan, id, $3, $3, now(), 'charge', 'cash'
         from unnest($1::uuid[], $2::uuid[]) as fans (fan, id)",
    )
    .bind(users)
    .bind(ids)
    .bind(POINTS)
    .execute(pool)
    .await?;
    Ok(())
}

/// Makes a schedule with a seat, a place and a hold for each fan; returns the holds, in the order
/// of the fans.
async fn hold_all(pool: &PgPool, schedule: Uuid, fans: &[Fan]) -> sqlx::Result<Vec<Uuid>> {
    let users: Vec<Uuid> = fans.iter().map(|fan| fan.user_id.0).collect();
    let holds: Vec<Uuid> = fans.iter().map(|_| Uuid::now_v7()).collect();
    let seats: Vec<String> = (0..FANS).take(fans.len()).map(|fan| seat(fan).to_string()).collect();
    sqlx::query(
        "with schedule as (
             insert into schedules (id, opens_at) values ($1, now())
         ), wanted as (
             select * from unnest($2::uuid[], $3::uuid[], $4::text[]) as w (fan, hold, seat)
         ), place as (
             insert into places (schedule_id, user_id, state) select $1, fan, 'ACTIVE' from wanted
         ), taken as (
             insert into seats (schedule_id, seat, price, reservation_id, hold_version)
             select $1, seat, $5, hold, 1 from wanted
         )
         insert into reservations (id, schedule_id, user_id, state, seats, amount, hold_version,
             created_at, expires_at)
         select hold, $1, fan, 'PENDING',
             jsonb_build_array(jsonb_build_object('seat', seat, 'price', $5)), $5, 1, now(),
             now() + interval '1 hour'
         from wanted",
    )
    .bind(schedule)
    .bind(users)
    .bind(&holds)
    .bind(seats)
    .bind(PRICE)
    .execute(pool)
    .await?;
    Ok(holds)
}

/// The invariants: each statement counts what breaks one.
const NEVER: [(&str, &str); 5] = [
    (
        "points between balances and ledger",
        "select ((select coalesce(sum(balance), 0) from wallets)
               - (select coalesce(sum(amount), 0) from entries))::bigint",
    ),
    (
        "payments without seats, or seats without payment",
        "select count(*) from (select id, reservation_id from payments where state = 'COMPLETED') p
         full join (select payment_id, id from reservations where state = 'CONFIRMED') r
             on r.payment_id = p.id and r.id = p.reservation_id
         where p.id is null or r.id is null",
    ),
    (
        "payments whose ledger entries do not match",
        "select count(*) from payments p left join (
             select payment_id, count(*) filter (where kind = 'debit') as debits,
                    count(*) filter (where kind = 'refund') as refunds, sum(amount) as sum
             from entries where payment_id is not null group by payment_id) e
             on e.payment_id = p.id
         where case state
             when 'COMPLETED' then debits is distinct from 1 or refunds <> 0 or sum <> -p.amount
             when 'REFUNDED' then debits is distinct from 1 or refunds <> 1 or sum <> 0
             else debits is not null end",
    ),
    (
        "seats that their reservation does not own",
        "select count(*) from reservations r
         cross join lateral jsonb_array_elements(r.seats) claim
         left join seats s on s.schedule_id = r.schedule_id and s.seat = claim->>'seat'
         where r.state in ('PENDING', 'CONFIRMED') and s.reservation_id is distinct from r.id",
    ),
    (
        "seats sold but not counted",
        "select ((select coalesce(sum(jsonb_array_length(seats)), 0) from reservations
                  where state = 'CONFIRMED')
               - (select coalesce(sum(bought), 0) from places))::bigint",
    ),
];

async fn check(pool: &PgPool) -> Result<()> {
    for (what, count) in NEVER {
        let found: i64 = sqlx::query_scalar(count).fetch_one(pool).await.context(what)?;
        if found != 0 {
            bail!("an invariant of the monolith is broken: {what}: {found}, must be 0");
        }
    }
    Ok(())
}
