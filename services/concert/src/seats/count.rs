//! How many seats are free, held and sold, of all schedules that are on sale.

use events::{Problem, Timestamp};
use mesh::{
    clock,
    engine::Failure,
    metrics::{Metric, Sample},
    valkey::{FunctionCall, LuaModule, Valkey},
};
use sqlx::PgPool;
use uuid::Uuid;

static SEATS: Metric = Metric::gauge(
    "onsale_seats",
    "Seats of all schedules that are on sale now, as the map shows them",
    &["state"],
);

/// The gauges that are sampled.
pub(super) const GAUGES: &[&Metric] = &[&SEATS];

/// Schedules that are counted by one call.
const SCHEDULES: i64 = 200;

/// Counts the seats. The map has a count for each section, so no seat is looked at.
pub(super) async fn sample<L: LuaModule>(
    valkey: &Valkey<L>,
    pool: Option<&PgPool>,
) -> Result<Vec<Sample>, Failure> {
    let Some(pool) = pool else { return Ok(Vec::new()) };
    let now = clock::now();
    let away = |problem: Problem| Failure::Unavailable(problem.to_string());
    let (mut total, mut held, mut sold, mut last) = (0, 0, 0, Uuid::nil());
    loop {
        let schedules = on_sale(pool, last, now).await?;
        let Some((end, _)) = schedules.last() else { break };
        last = *end;
        total += schedules.iter().map(|(_, seats)| seats).sum::<i64>();
        let call = FunctionCall::new("taken");
        let call = schedules.iter().fold(call, |call, (schedule, _)| call.arg(schedule));
        let taken = valkey.read(call, now).await.map_err(away)?;
        held += taken.get::<i64>(0).map_err(away)?;
        sold += taken.get::<i64>(1).map_err(away)?;
    }
    let free = (total - held - sold).max(0);
    let counts = [("free", free), ("held", held), ("sold", sold)];
    Ok(counts.map(|(state, seats)| SEATS.is_for([state], seats as f64)).into())
}

/// Some schedules that are on sale, after one of them, and how many seats each has.
async fn on_sale(pool: &PgPool, after: Uuid, now: Timestamp) -> sqlx::Result<Vec<(Uuid, i64)>> {
    sqlx::query_as(
        "select schedule_id, seats_total from schedules
         where schedule_id > $1 and cancelled_at is null and opens_at <= $2 and starts_at > $2
         order by schedule_id limit $3",
    )
    .bind(after)
    .bind(now.0)
    .bind(SCHEDULES)
    .fetch_all(pool)
    .await
}
