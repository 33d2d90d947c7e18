//! Deletes what is too old, and the whole timeline when it is to be rebuilt.

use events::Timestamp;
use mesh::postgres::partitions;
use sqlx::{PgExecutor, PgPool};
use time::Duration;
use uuid::Uuid;

use crate::{event_table, sagas::unpacked};

/// Rows of sagas that are deleted at once; the rest is deleted the next time.
const SAGAS_AT_ONCE: i64 = 5_000;

/// Deletes what is older than the days kept: events day by day, a saga when its last event is
/// too old.
pub(crate) async fn forget_old(pool: &PgPool, now: Timestamp, keep_days: u16) -> sqlx::Result<()> {
    let first_kept = now.0.date() - Duration::days(i64::from(keep_days));
    partitions::drop_before(pool, event_table::TABLE, first_kept).await?;
    let first_id = partitions::first_id(first_kept);
    execute(pool, "delete from facts_rest where event_id < $1", first_id).await?;
    execute(pool, "delete from violations where found_id < $1", first_id).await?;
    let before = first_kept.midnight().assume_utc();
    sqlx::query("delete from stalls where due_at < $1").bind(before).execute(pool).await?;
    let mut tx = pool.begin().await?;
    let gone: Vec<(Uuid, Vec<u8>)> = sqlx::query_as(
        "delete from sagas where saga_id in
             (select saga_id from sagas where last_at < $1 order by last_at limit $2)
         returning saga_id, keys",
    )
    .bind(before)
    .bind(SAGAS_AT_ONCE)
    .fetch_all(&mut *tx)
    .await?;
    let gone: Vec<(Uuid, Uuid)> = gone
        .iter()
        .flat_map(|(id, keys)| unpacked(keys).into_iter().map(move |key| (key, *id)))
        .collect();
    if !gone.is_empty() {
        sqlx::query(
            "delete from saga_keys k using unnest($1::uuid[], $2::uuid[]) as gone (key, saga_id)
             where k.key = gone.key and k.saga_id = gone.saga_id",
        )
        .bind(gone.iter().map(|(key, _)| *key).collect::<Vec<_>>())
        .bind(gone.iter().map(|(_, id)| *id).collect::<Vec<_>>())
        .execute(&mut *tx)
        .await?;
    }
    tx.commit().await
}

async fn execute(db: impl PgExecutor<'_>, statement: &'static str, id: Uuid) -> sqlx::Result<()> {
    sqlx::query(statement).bind(id).execute(db).await?;
    Ok(())
}

/// Deletes the timeline, so that the service rebuilds it from the streams: it then reads them
/// from their beginning. What was reported stays, and is not reported again. Call it while no
/// instance of the service runs: a running one has its position in the streams in memory and
/// would go on from there.
///
/// # Errors
/// When the database refuses.
pub async fn forget(pool: &PgPool) -> sqlx::Result<()> {
    // Without a reader, the next instance that reads rebuilds its auditor as well.
    sqlx::query("truncate facts, sagas, saga_keys, watch, reader, mesh.positions")
        .execute(pool)
        .await?;
    Ok(())
}
