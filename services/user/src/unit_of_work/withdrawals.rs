//! Loads and saves attempts to close accounts.

use std::collections::BTreeSet;

use events::{AttemptId, Timestamp, UserId, user::WithdrawalState, withdrawal::WithdrawalReason};
use mesh::postgres::{Rows, column, unknown};
use sqlx::{FromRow, PgConnection, Row, postgres::PgRow};
use time::OffsetDateTime;

use crate::withdrawal::{Answered, Withdrawal};

/// The columns of an attempt.
pub const COLUMNS: &str = "attempt, user_id, forfeit, requested_at, payment, reservation, point, \
                           state, reasons, ended_at";

/// The stored name of an answer that clears the withdrawal.
const CLEARED: &str = "cleared";

/// These attempts, and those of leaving users that are running or have succeeded. Their
/// accounts are locked before them.
pub(super) async fn load(
    attempts: &BTreeSet<AttemptId>,
    leaving: &BTreeSet<UserId>,
    tx: &mut PgConnection,
) -> sqlx::Result<Rows<AttemptId, Withdrawal>> {
    if leaving.is_empty() && attempts.is_empty() {
        return Ok(Rows::default());
    }
    let sql = format!(
        "select {COLUMNS} from withdrawals
         where attempt = any($1) or (user_id = any($2) and state <> 'refused')
         order by attempt for update"
    );
    let rows: Vec<WithdrawalRow> = sqlx::query_as(sqlx::AssertSqlSafe(sql))
        .bind(attempts.iter().map(|id| id.0).collect::<Vec<_>>())
        .bind(leaving.iter().map(|id| id.0).collect::<Vec<_>>())
        .fetch_all(tx)
        .await?;
    Ok(rows.into_iter().map(|WithdrawalRow(row)| (row.attempt, row)).collect())
}

/// Two batches cannot begin an attempt of one account at once: each needs the lock of the account.
pub(super) async fn save(
    dirty: &[(&AttemptId, &Withdrawal)],
    tx: &mut PgConnection,
) -> sqlx::Result<()> {
    if dirty.is_empty() {
        return Ok(());
    }
    let answer = |place: usize| column(dirty, |(_, row)| row.answers[place].map(answer_name));
    let reasons = |(_, row): &(&AttemptId, &Withdrawal)| {
        row.reasons.iter().map(|reason| reason.as_str()).collect::<Vec<_>>().join(",")
    };
    sqlx::query(
        "insert into withdrawals (attempt, user_id, forfeit, requested_at, payment, reservation,
                                  point, state, reasons, ended_at)
         select a, u, f, t, p, r, q, s, string_to_array(w, ','), e
         from unnest($1::uuid[], $2::uuid[], $3::bool[], $4::timestamptz[], $5::text[],
                     $6::text[], $7::text[], $8::text[], $9::text[], $10::timestamptz[])
             as row (a, u, f, t, p, r, q, s, w, e)
         on conflict (attempt) do update set
             payment = excluded.payment, reservation = excluded.reservation,
             point = excluded.point, state = excluded.state, reasons = excluded.reasons,
             ended_at = excluded.ended_at",
    )
    .bind(column(dirty, |(id, _)| id.0))
    .bind(column(dirty, |(_, row)| row.user_id.0))
    .bind(column(dirty, |(_, row)| row.forfeit))
    .bind(column(dirty, |(_, row)| row.requested_at.0))
    .bind(answer(0))
    .bind(answer(1))
    .bind(answer(2))
    .bind(column(dirty, |(_, row)| state_name(row.state)))
    .bind(column(dirty, reasons))
    .bind(column(dirty, |(_, row)| row.ended_at.map(|at| at.0)))
    .execute(tx)
    .await?;
    Ok(())
}

/// An attempt as a row.
pub struct WithdrawalRow(pub Withdrawal);

impl FromRow<'_, PgRow> for WithdrawalRow {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let reason =
            |name: String| WithdrawalReason::named(&name).ok_or_else(|| unknown("reason", &name));
        let answer = |column: &str| {
            let name: Option<String> = row.try_get(column)?;
            name.map(|name| answer_named(&name).ok_or_else(|| unknown("answer", &name))).transpose()
        };
        let ended_at: Option<OffsetDateTime> = row.try_get("ended_at")?;
        Ok(Self(Withdrawal {
            attempt: AttemptId(row.try_get("attempt")?),
            user_id: UserId(row.try_get("user_id")?),
            forfeit: row.try_get("forfeit")?,
            requested_at: row.try_get::<OffsetDateTime, _>("requested_at")?.into(),
            answers: [answer("payment")?, answer("reservation")?, answer("point")?],
            state: state_named(&row.try_get::<String, _>("state")?)?,
            reasons: row
                .try_get::<Vec<String>, _>("reasons")?
                .into_iter()
                .map(reason)
                .collect::<sqlx::Result<_>>()?,
            ended_at: ended_at.map(Timestamp::from),
        }))
    }
}

fn answer_name(answer: Answered) -> &'static str {
    answer.err().map_or(CLEARED, WithdrawalReason::as_str)
}

fn answer_named(name: &str) -> Option<Answered> {
    if name == CLEARED { Some(Ok(())) } else { WithdrawalReason::named(name).map(Err) }
}

fn state_name(state: WithdrawalState) -> &'static str {
    match state {
        WithdrawalState::Requested => "requested",
        WithdrawalState::Completed => "completed",
        WithdrawalState::Refused => "refused",
    }
}

fn state_named(name: &str) -> sqlx::Result<WithdrawalState> {
    match name {
        "requested" => Ok(WithdrawalState::Requested),
        "completed" => Ok(WithdrawalState::Completed),
        "refused" => Ok(WithdrawalState::Refused),
        other => Err(unknown("state", other)),
    }
}
