//! The table of the highest messages taken in from each stream.

use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    store::engine::POSITIONS_MAX,
    store::engine::{Failure, Mark},
};

/// The noted messages of a stream, ascending.
pub(super) async fn places(pool: &PgPool, stream: &str) -> Result<Vec<Mark>, Failure> {
    let rows: Vec<(i64, Uuid)> = sqlx::query_as(
        "select stream_seq, message_id from mesh.reached where stream = $1 order by stream_seq",
    )
    .bind(stream)
    .fetch_all(pool)
    .await?;
    let mark = |(sequence, id): (i64, Uuid)| Mark { id, sequence: sequence.unsigned_abs() };
    Ok(rows.into_iter().map(mark).collect())
}

/// Notes a message, and deletes all but the highest notes.
pub(super) async fn note(pool: &PgPool, stream: &str, mark: Mark) -> Result<(), Failure> {
    let mut tx = pool.begin().await?;
    // Losing a note only repeats messages, so no commit waits for the disk.
    sqlx::query("set local synchronous_commit = off").execute(&mut *tx).await?;
    sqlx::query(
        "insert into mesh.reached (stream, stream_seq, message_id) values ($1, $2, $3)
         on conflict (stream, stream_seq) do nothing",
    )
    .bind(stream)
    .bind(mark.sequence as i64)
    .bind(mark.id)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "delete from mesh.reached where stream = $1 and stream_seq <= (
             select stream_seq from mesh.reached where stream = $1
             order by stream_seq desc offset $2 limit 1)",
    )
    .bind(stream)
    .bind(POSITIONS_MAX as i64)
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok(())
}

/// Deletes the notes above a sequence.
pub(super) async fn forget(pool: &PgPool, stream: &str, above: u64) -> Result<(), Failure> {
    sqlx::query("delete from mesh.reached where stream = $1 and stream_seq > $2")
        .bind(stream)
        .bind(above as i64)
        .execute(pool)
        .await?;
    Ok(())
}
