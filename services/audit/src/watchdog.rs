//! The stall watchdog: finds awaited events that did not come in time.
//!
//! `watch` has every deadline that a saga has after a read was taken in. When a deadline has
//! passed, its saga is checked once: most have moved on, and the deadline is deleted. A saga
//! that has not is reported, and the transaction of the report deletes the deadline.

use std::sync::Arc;

use auditor::timeline::Progress;
use events::{
    SagaId, Timestamp,
    audit::{ReportStall, SagaStalled},
};
use flows::Flows;
use sqlx::PgPool;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    listener::Listener,
    sagas::{NEVER, progress},
};

/// Deadlines checked together.
const LOOKS: i64 = 500;
/// Rounds in a row at most, before other work is let in.
const ROUNDS: usize = 20;

/// Separates the names of events of which one is awaited.
const OR: &str = "|";

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

/// What a saga still awaits of the events that were due at one moment.
fn due_now(progress: &Progress, saga_id: SagaId, due_at: Timestamp) -> Vec<SagaStalled> {
    let mut awaited = progress.stalled(Flows::shipped(), saga_id, NEVER);
    awaited.retain(|stalled| stalled.due_at == due_at);
    awaited
}

/// Whether a saga still awaits this.
pub(crate) fn is_awaited(progress: &Progress, stalled: &SagaStalled) -> bool {
    due_now(progress, stalled.saga_id, stalled.due_at).contains(stalled)
}

/// The name under which a stall is stored.
pub(crate) fn name(stalled: &SagaStalled) -> String {
    stalled.awaited.join(OR)
}

/// Deletes deadlines that have been checked.
pub(crate) async fn cross_off(
    db: impl sqlx::PgExecutor<'_>,
    past: &[(OffsetDateTime, Uuid)],
) -> sqlx::Result<()> {
    if past.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "delete from watch w using unnest($1::timestamptz[], $2::uuid[]) as past (due_at, saga_id)
         where w.due_at = past.due_at and w.saga_id = past.saga_id",
    )
    .bind(past.iter().map(|(at, _)| *at).collect::<Vec<_>>())
    .bind(past.iter().map(|(_, id)| *id).collect::<Vec<_>>())
    .execute(db)
    .await?;
    Ok(())
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
