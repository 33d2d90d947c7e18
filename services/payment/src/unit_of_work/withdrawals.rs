//! Withdrawals: attempts to close an account, as they stand in this service.
//!
//! A new payment and the clearance of a withdrawal must not miss each other. Both take the fan's
//! gate ([`mesh::postgres::gates`]): a payment shared, a decision on a withdrawal exclusively.

use events::{AttemptId, UserId, withdrawal::Standing};
use mesh::postgres::{Rows, column, unknown};
use sqlx::PgConnection;
use uuid::Uuid;

/// An attempt to close an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// The fan.
    pub(crate) user_id: UserId,
    /// Where the attempt stands in this service.
    pub(crate) standing: Standing,
}

/// The attempts of these fans.
pub(super) async fn load(
    users: &[Uuid],
    tx: &mut PgConnection,
) -> sqlx::Result<Rows<AttemptId, Attempt>> {
    let rows: Vec<(Uuid, Uuid, String)> = sqlx::query_as(
        "select attempt, user_id, standing from withdrawals where user_id = any($1)",
    )
    .bind(users)
    .fetch_all(tx)
    .await?;
    let attempt = |(attempt, user_id, name): (Uuid, Uuid, String)| {
        let standing = Standing::named(&name).ok_or_else(|| unknown("standing", &name))?;
        Ok((AttemptId(attempt), Attempt { user_id: UserId(user_id), standing }))
    };
    rows.into_iter().map(attempt).collect()
}

/// A batch that writes attempts of a fan holds the fan's gate exclusively.
pub(super) async fn save(
    attempts: &Rows<AttemptId, Attempt>,
    tx: &mut PgConnection,
) -> sqlx::Result<()> {
    let dirty = attempts.dirty();
    if dirty.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into withdrawals (attempt, user_id, standing)
         select * from unnest($1::uuid[], $2::uuid[], $3::text[])
         on conflict (attempt) do update set standing = excluded.standing",
    )
    .bind(column(&dirty, |(id, _)| id.0))
    .bind(column(&dirty, |(_, row)| row.user_id.0))
    .bind(column(&dirty, |(_, row)| row.standing.as_str()))
    .execute(tx)
    .await?;
    Ok(())
}
