//! What a saga awaits at a deadline, the name of a stall, and the table of deadlines.

use auditor::timeline::Progress;
use events::{SagaId, Timestamp, audit::SagaStalled};
use flows::Flows;
use sqlx::PgExecutor;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::sagas::NEVER;

/// Separates the names of events of which one is awaited.
const OR: &str = "|";

/// What a saga still awaits of the events that were due at one moment.
pub(crate) fn due_now(progress: &Progress, saga_id: SagaId, due_at: Timestamp) -> Vec<SagaStalled> {
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
    db: impl PgExecutor<'_>,
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
