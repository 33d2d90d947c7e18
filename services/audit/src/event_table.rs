//! The table of events: one row for each, in partitions by day.

use std::collections::{BTreeSet, HashSet};

use auditor::Observed;
use events::{EventId, SagaId, Timestamp};
use mesh::postgres::partitions;
use sqlx::{Connection as _, PgConnection, PgExecutor, PgPool, Row as _, postgres::PgRow};
use time::{Date, Duration, OffsetDateTime};
use uuid::Uuid;

use crate::copying::Rows;

/// The table.
pub(crate) const TABLE: &str = "facts";
const COLUMNS: &str =
    "event_id, saga_id, cause_id, about, trace_id, at, stream_seq, deliveries, fact, payload";
/// Bytes of a row beside its payload, about.
const ROW_BYTES: usize = 200;
/// The SQLSTATE of a unique violation.
const UNIQUE_VIOLATION: &str = "23505";

/// Events of one saga that are read at most; a saga has about ten.
const SAGA_EVENTS_MAX: i64 = 2_000;

/// The days of those events that are young enough to be kept.
pub(crate) fn days_of(events: &[Observed], now: Timestamp, keep_days: u16) -> BTreeSet<Date> {
    let today = now.0.date();
    let kept = today - Duration::days(i64::from(keep_days));
    let kept = kept..=today + Duration::days(partitions::DAYS_AHEAD);
    let days = events.iter().filter_map(|observed| partitions::day_of(observed.event_id.0));
    days.filter(|day| kept.contains(day)).collect()
}

/// Writes events and returns those that were not there before, in their order: a stream that
/// was wiped is read again, and the events that were published again are known.
pub(crate) async fn insert(
    tx: &mut PgConnection,
    mut events: Vec<Observed>,
) -> sqlx::Result<Vec<Observed>> {
    let mut seen = HashSet::with_capacity(events.len());
    events.retain(|observed| seen.insert(observed.event_id));
    if all_are_new(tx, &events).await? {
        return Ok(events);
    }
    let uuids = |read: fn(&Observed) -> Uuid| events.iter().map(read).collect::<Vec<_>>();
    let new: Vec<Uuid> = sqlx::query_scalar(
        "insert into facts (event_id, saga_id, cause_id, about, trace_id, at, stream_seq,
                            deliveries, fact, payload)
         select * from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::uuid[],
             $6::timestamptz[], $7::bigint[], $8::integer[], $9::text[], $10::bytea[])
         on conflict do nothing returning event_id",
    )
    .bind(uuids(|observed| observed.event_id.0))
    .bind(uuids(|observed| observed.saga_id.0))
    .bind(events.iter().map(|observed| observed.cause_id).collect::<Vec<_>>())
    .bind(uuids(|observed| observed.about))
    .bind(events.iter().map(trace_id).collect::<Vec<_>>())
    .bind(events.iter().map(|observed| observed.at.0).collect::<Vec<_>>())
    .bind(events.iter().map(|observed| observed.stream_seq as i64).collect::<Vec<_>>())
    .bind(events.iter().map(|observed| observed.deliveries as i32).collect::<Vec<_>>())
    .bind(events.iter().map(|observed| observed.event.as_str()).collect::<Vec<_>>())
    .bind(events.iter().map(|observed| &*observed.payload).collect::<Vec<_>>())
    .fetch_all(tx)
    .await?;
    let new: HashSet<Uuid> = new.into_iter().collect();
    events.retain(|observed| new.contains(&observed.event_id.0));
    Ok(events)
}

/// Writes events and returns true, unless one of them is there; then it writes none.
async fn all_are_new(tx: &mut PgConnection, events: &[Observed]) -> sqlx::Result<bool> {
    let mut attempt = tx.begin().await?;
    match rows(events).copy(&mut attempt).await {
        Ok(()) => attempt.commit().await.map(|()| true),
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(UNIQUE_VIOLATION) => {
            attempt.rollback().await.map(|()| false)
        }
        Err(error) => Err(error),
    }
}

fn rows(events: &[Observed]) -> Rows {
    let bytes = events.iter().map(|observed| ROW_BYTES + observed.payload.len()).sum();
    let mut rows = Rows::of(TABLE, COLUMNS, bytes);
    for observed in events {
        rows.begin();
        rows.uuid(observed.event_id.0);
        rows.uuid(observed.saga_id.0);
        rows.maybe(observed.cause_id, Rows::uuid);
        rows.uuid(observed.about);
        rows.maybe(trace_id(observed), Rows::uuid);
        rows.at(observed.at);
        rows.field(&(observed.stream_seq as i64).to_be_bytes());
        rows.field(&(observed.deliveries as i32).to_be_bytes());
        rows.field(observed.event.as_bytes());
        rows.field(&observed.payload);
    }
    rows
}

fn trace_id(observed: &Observed) -> Option<Uuid> {
    observed.trace_id.as_deref()?.parse().ok()
}

/// The events of one saga with ids between two.
pub(crate) async fn of_saga(
    pool: &PgPool,
    saga_id: SagaId,
    between: (Uuid, Uuid),
) -> sqlx::Result<Vec<Observed>> {
    let statement =
        select("where saga_id = $1 and event_id between $2 and $3 order by event_id limit $4");
    let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(saga_id.0)
        .bind(between.0)
        .bind(between.1)
        .bind(SAGA_EVENTS_MAX)
        .fetch_all(pool)
        .await?;
    rows.iter().map(observed).collect()
}

/// Events after one, the oldest first.
pub(crate) async fn after(
    db: impl PgExecutor<'_>,
    event_id: Uuid,
    limit: i64,
) -> sqlx::Result<Vec<Observed>> {
    let statement = select("where event_id > $1 order by event_id limit $2");
    let rows = sqlx::query(sqlx::AssertSqlSafe(statement))
        .bind(event_id)
        .bind(limit)
        .fetch_all(db)
        .await?;
    rows.iter().map(observed).collect()
}

fn select(which: &str) -> String {
    format!("select {COLUMNS} from facts {which}")
}

fn observed(row: &PgRow) -> sqlx::Result<Observed> {
    let trace_id: Option<Uuid> = row.try_get("trace_id")?;
    let payload: Vec<u8> = row.try_get("payload")?;
    Ok(Observed {
        event_id: EventId(row.try_get("event_id")?),
        event: row.try_get("fact")?,
        stream_seq: row.try_get::<i64, _>("stream_seq")? as u64,
        saga_id: SagaId(row.try_get("saga_id")?),
        cause_id: row.try_get("cause_id")?,
        about: row.try_get("about")?,
        at: Timestamp(row.try_get::<OffsetDateTime, _>("at")?),
        deliveries: row.try_get::<i32, _>("deliveries")? as u32,
        trace_id: trace_id.map(|id| id.simple().to_string()),
        payload: payload.into(),
    })
}
