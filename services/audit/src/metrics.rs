//! The metrics of sagas, as the streams show them.

use std::sync::Arc;

use mesh::{
    clock,
    engine::Failure,
    metrics::{Metric, Sample},
};
use sqlx::PgPool;

use crate::listener::Listener;

static OPEN: Metric = Metric::gauge(
    "onsale_sagas_open",
    "Sagas that wait for an event, stalled ones included; counted up to a hundred thousand",
    &[],
);
static STALLED: Metric = Metric::gauge(
    "onsale_sagas_stalled",
    "Sagas whose next event has not come in time; counted up to ten thousand",
    &[],
);
static VIOLATIONS: Metric = Metric::gauge(
    "onsale_violations",
    "Violations of the invariants that were ever found; counted up to ten thousand",
    &[],
);

/// The gauges that are sampled.
pub(crate) const GAUGES: &[&Metric] = &[&OPEN, &STALLED, &VIOLATIONS];

/// Counts by index alone. Whether a saga is stalled is judged as its queries judge it.
pub(crate) async fn sample(
    listener: &Arc<Listener>,
    pool: &PgPool,
) -> Result<Vec<Sample>, Failure> {
    let now = listener.known().unwrap_or_else(clock::now);
    let (open, stalled, violations): (i64, i64, i64) = sqlx::query_as(
        "select (select count(*) from (select from sagas where next_due_at is not null
                                       order by next_due_at limit 100000) as open),
                (select count(*) from (select from sagas where next_due_at < $1
                                       order by next_due_at limit 10000) as stalled),
                (select count(*) from (select from violations
                                       order by found_id limit 10000) as found)",
    )
    .bind(now.0)
    .fetch_one(pool)
    .await?;
    let samples =
        [OPEN.is(open as f64), STALLED.is(stalled as f64), VIOLATIONS.is(violations as f64)];
    Ok(samples.into())
}
