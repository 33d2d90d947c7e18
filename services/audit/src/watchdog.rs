//! The stall watchdog: finds awaited events that did not come in time.
//!
//! `watch` has every deadline that a saga has after a read was taken in. When a deadline has
//! passed, its saga is checked once: most have moved on, and the deadline is deleted. A saga
//! that has not is reported, and the transaction of the report deletes the deadline.

use std::sync::Arc;

use events::{SagaId, Timestamp, audit::ReportStall};
use sqlx::PgPool;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    listener::Listener,
    sagas::progress,
    stalls::{cross_off, due_now},
};

/// Deadlines checked together.
const LOOKS: i64 = 500;
/// Rounds in a row at most, before other work is let in.
const ROUNDS: usize = 20;

/// The stalls to be reported. Deadlines are judged by how far the streams have been read, so
/// that no service is blamed for an event that audit itself has not read yet.
pub(crate) async fn due(listener: Arc<Listener>, pool: PgPool) -> sqlx::Result<Vec<ReportStall>> {
    let mut reports = Vec::new();
    let Some(known) = listener.known() else { return Ok(reports) };
    for _ in 0..ROUNDS {
        let rows: Vec<(OffsetDateTime, Uuid, Option<Vec<u8>>)> = sqlx::query_as(
            "select w.due_at, w.saga_id, s.progress
             from watch w left join sagas s on s.saga_id = w.saga_id
             where w.due_at < $1 order by w.due_at, w.saga_id limit $2",
        )
        .bind(known.0)
        .bind(LOOKS)
        .fetch_all(&pool)
        .await?;
        let count = rows.len();
        let mut past = Vec::new();
        for (due_at, saga_id, stored) in rows {
            let stalled = stored.map(|stored| progress(&stored)).transpose()?;
            let stalled =
                stalled.map(|progress| due_now(&progress, SagaId(saga_id), Timestamp(due_at)));
            match stalled {
                Some(stalled) if !stalled.is_empty() => {
                    reports.extend(stalled.into_iter().map(|stalled| ReportStall { stalled }));
                }
                _ => past.push((due_at, saga_id)),
            }
        }
        cross_off(&pool, &past).await?;
        // Deadlines to be reported stay in the table, so the next query would not get past them.
        if count < LOOKS as usize || !reports.is_empty() {
            break;
        }
    }
    Ok(reports)
}

#[cfg(test)]
mod tests {
    use crate::{WATCH_EVERY, listener::ON_ITS_WAY_MILLIS};

    /// Half a second is left for reading, querying and reporting.
    #[test]
    fn stalls_are_looked_for_often_enough_to_be_reported_within_a_second() {
        let looks = mesh::READ_EVERY + WATCH_EVERY;
        assert!(looks.as_millis() as i64 + ON_ITS_WAY_MILLIS <= 500, "{looks:?}");
    }
}
