//! The stall watchdog: what was awaited and did not come in time.
//!
//! Every deadline that a saga has when a batch was taken in stands in `watch`. When the time
//! has come, the saga is looked at once: most have moved on, and the deadline is crossed off.
//! A saga that did not is reported, and the deadline goes with the transaction of the report.

use std::sync::Arc;

use events::{
    SagaId, Timestamp,
    audit::{ReportStall, SagaStalled},
};
use sqlx::PgPool;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    flows::Flows,
    listener::Listener,
    sagas::{NEVER, progress},
    timeline::Progress,
};

/// Deadlines looked at together.
const LOOKS: i64 = 500;
/// How often that is done in a row at most, before others have their turn.
const ROUNDS: usize = 20;

/// What separates the names of facts of which one is awaited.
const OR: &str = "|";

/// The stalls to be reported. Judged by how far the streams have been read, so that nobody
/// is blamed for what audit itself has not heard yet.
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
        // What is to be reported is still there, and nothing behind it can be seen.
        if count < LOOKS as usize || !reports.is_empty() {
            break;
        }
    }
    Ok(reports)
}

/// What a saga still awaits of all that was due at one moment.
fn due_now(progress: &Progress, saga_id: SagaId, due_at: Timestamp) -> Vec<SagaStalled> {
    let mut awaited = progress.stalled(Flows::shipped(), saga_id, NEVER);
    awaited.retain(|stalled| stalled.due_at == due_at);
    awaited
}

/// Whether a saga still awaits this.
pub(crate) fn is_awaited(progress: &Progress, stalled: &SagaStalled) -> bool {
    due_now(progress, stalled.saga_id, stalled.due_at).contains(stalled)
}

/// The name under which a stall is noted.
pub(crate) fn name(stalled: &SagaStalled) -> String {
    stalled.awaited.join(OR)
}

/// Forgets deadlines that have been looked at.
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

    /// Half a second is left for reading, asking and telling.
    #[test]
    fn a_stall_is_looked_for_often_enough_to_be_told_within_a_second() {
        let looks = mesh::READ_EVERY + WATCH_EVERY;
        assert!(looks.as_millis() as i64 + ON_ITS_WAY_MILLIS <= 500, "{looks:?}");
    }
}
