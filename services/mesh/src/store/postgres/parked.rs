//! The table of parked events.

use std::{collections::HashSet, time::Duration};

use async_trait::async_trait;
use events::{
    UserId,
    dead_letter::{DeadLetterEvent, DeadLetterState},
};
use serde_json::json;
use sqlx::{FromRow, PgConnection, Row as _, postgres::PgRow};
use time::OffsetDateTime;

use super::{ANSWER_TIMEOUT, Database};
use crate::{
    batch::closing::Parking,
    parked::{Parked, ParkedState, key::NONE, one_line, pause_after},
    store::engine::{self, Failure, ParkedOpen, Show, Verdict, Which},
};

/// The columns of a row, as [`Parked`] reads them.
macro_rules! columns {
    () => {
        "number, order_key, state, cause, attempts, unsettled, envelope, subject, stream, sequence, \
         kept_at, history"
    };
}

/// Events of one order key listed at most.
const SHOWN_MAX: usize = 10_000;
/// Open events counted at most.
const COUNTED_MAX: i64 = 10_000;

/// Whether any order key is held.
pub(super) async fn is_any_held(tx: &mut PgConnection) -> Result<bool, Failure> {
    let is_any = sqlx::query_scalar(
        "select exists (select from mesh.parked where ended_at is null and state <> 'early')",
    )
    .fetch_one(tx)
    .await?;
    Ok(is_any)
}

/// Which of these order keys are held.
pub(super) async fn held(
    tx: &mut PgConnection,
    keys: Vec<String>,
) -> Result<HashSet<String>, Failure> {
    let held: Vec<String> = sqlx::query_scalar(
        "select k from unnest($1::text[]) as k
         where exists (select from mesh.parked
                       where order_key = k and ended_at is null and state <> 'early')",
    )
    .bind(keys)
    .fetch_all(tx)
    .await?;
    Ok(held.into_iter().collect())
}

/// Inserts the events that a batch parks, in their order. An early event comes due soon; an
/// event behind another one comes due when that one has ended.
pub(super) async fn insert(
    tx: &mut PgConnection,
    parking: Vec<Parking>,
) -> Result<Vec<Parked>, Failure> {
    let soon = pause_after(1).as_secs_f64();
    let rows: Vec<Parked> = sqlx::query_as(concat!(
        "insert into mesh.parked
             (order_key, state, cause, attempts, due_at, envelope, subject, stream, sequence)
         select k, s, c, case s when 'behind' then 0 else 1 end,
             case s when 'early' then clock_timestamp() + make_interval(secs => $8)
                    else 'infinity' end, e, j, t, q
         from unnest($1::text[], $2::text[], $3::text[], $4::bytea[], $5::text[], $6::text[],
                     $7::bigint[]) with ordinality as p (k, s, c, e, j, t, q, place)
         order by place
         returning ",
        columns!()
    ))
    .bind(parking.iter().map(|p| p.key.as_str()).collect::<Vec<_>>())
    .bind(parking.iter().map(|p| p.state.as_str()).collect::<Vec<_>>())
    .bind(parking.iter().map(|p| p.cause.as_str()).collect::<Vec<_>>())
    .bind(parking.iter().map(|p| &p.envelope[..]).collect::<Vec<_>>())
    .bind(parking.iter().map(|p| p.subject.as_str()).collect::<Vec<_>>())
    .bind(parking.iter().map(|p| p.stream.as_str()).collect::<Vec<_>>())
    .bind(parking.iter().map(|p| p.sequence as i64).collect::<Vec<_>>())
    .bind(soon)
    .fetch_all(tx)
    .await?;
    Ok(rows)
}

/// Locks a row for a retry; returns whether it is still open.
pub(super) async fn lock(tx: &mut PgConnection, number: u64) -> Result<bool, Failure> {
    let found =
        sqlx::query("select from mesh.parked where number = $1 and ended_at is null for update")
            .bind(number as i64)
            .fetch_optional(tx)
            .await?;
    Ok(found.is_some())
}

/// Ends a row whose event was taken in, in the transaction that took it in.
pub(super) async fn resolve(
    tx: &mut PgConnection,
    parked: &Parked,
    by: Option<UserId>,
) -> Result<(), Failure> {
    end(tx, parked.number, ParkedState::Resolved, by, None).await.map(drop)
}

/// Ends a row and lets the next one that holds its key come due; returns whether it was open.
async fn end(
    tx: &mut PgConnection,
    number: u64,
    state: ParkedState,
    by: Option<UserId>,
    why: Option<&str>,
) -> Result<bool, Failure> {
    let became = match state {
        ParkedState::Resolved => DeadLetterState::Resolved,
        _ => DeadLetterState::Discarded,
    };
    let key: Option<String> = sqlx::query_scalar(
        "update mesh.parked set state = $2, ended_at = clock_timestamp(),
             unsettled = 0, history = history || $3
         where number = $1 and ended_at is null returning order_key",
    )
    .bind(number as i64)
    .bind(state.as_str())
    .bind(happened(became, by, why))
    .fetch_optional(&mut *tx)
    .await?;
    let Some(key) = key else { return Ok(false) };
    wake(tx, &key).await?;
    Ok(true)
}

/// Lets the event that now holds the key come due, if it has never been tried. A locked row is
/// being worked on elsewhere; if it is left over, it is found as stranded.
async fn wake(tx: &mut PgConnection, key: &str) -> Result<(), Failure> {
    sqlx::query(
        "update mesh.parked set due_at = clock_timestamp() where number =
             (select number from mesh.parked
              where state = 'behind' and due_at = 'infinity' and number =
                  (select min(number) from mesh.parked
                   where order_key = $1 and order_key <> $2 and ended_at is null
                       and state <> 'early')
              for update skip locked)",
    )
    .bind(key)
    .bind(NONE)
    .execute(tx)
    .await?;
    Ok(())
}

fn happened(became: DeadLetterState, by: Option<UserId>, why: Option<&str>) -> serde_json::Value {
    let why = why.map(str::to_owned);
    json!([DeadLetterEvent { at: Some(crate::clock::now()), became, by, why }])
}

/// Only the first event that holds a key may be tried; early events hold none.
const IS_FIRST: &str = "(order_key = '-' or not exists (select from mesh.parked as before
     where before.order_key = p.order_key and before.ended_at is null
         and before.state <> 'early' and before.number < p.number))";

#[async_trait]
impl engine::Parking for Database {
    async fn lease(&self, which: Which, lease: Duration) -> Result<Vec<Parked>, Failure> {
        self.answer(ANSWER_TIMEOUT, async {
            let none = String::new();
            let (wanted, key, number, most) = match which {
                Which::Due(most) => (
                    "due_at <= clock_timestamp() and state <> 'dead' and $1 = '' and $2 = 0",
                    none,
                    0,
                    most,
                ),
                // An event that was parked behind another one at the very moment in which that
                // one ended or became early was not seen by it, and now holds the key.
                Which::Missed(most) => (
                    "state = 'behind' and kept_at < clock_timestamp() - interval '1 second'
                         and $1 = '' and $2 = 0",
                    none,
                    0,
                    most,
                ),
                Which::First(key) => (
                    "order_key = $1 and order_key <> '-' and state <> 'early' and $2 = 0",
                    key,
                    0,
                    1,
                ),
                Which::Number(number) => (
                    "number = $2 and (order_key = '-' or state = 'early') and $1 = ''",
                    none,
                    number,
                    1,
                ),
            };
            // An event under a running lease is being tried, and is skipped.
            let statement = format!(
                "with due as (select number from mesh.parked as p
                     where ended_at is null and {wanted} and {IS_FIRST}
                         and leased_until < clock_timestamp()
                     order by due_at, number limit $3 for update skip locked)
                 update mesh.parked as p set attempts = p.attempts + 1, unsettled = p.unsettled + 1,
                     leased_until = clock_timestamp() + make_interval(secs => $4),
                     due_at = clock_timestamp() + make_interval(secs => $4)
                 from due where p.number = due.number returning p.*"
            );
            let mut leased: Vec<Parked> = sqlx::query_as(sqlx::AssertSqlSafe(statement))
                .bind(key)
                .bind(number as i64)
                .bind(most as i64)
                .bind(lease.as_secs_f64())
                .fetch_all(&self.pool)
                .await?;
            leased.sort_unstable_by_key(|parked| parked.number);
            Ok(leased)
        })
        .await
    }

    async fn settle(&self, number: u64, verdict: Verdict) -> Result<(), Failure> {
        self.answer(ANSWER_TIMEOUT, async {
            let (state, after, cause, counts, by) = match verdict {
                Verdict::Again { after, cause, counts } => {
                    (Some("early"), Some(after.as_secs_f64()), cause, counts, None)
                }
                Verdict::Dead { cause, by } => (Some("dead"), None, cause, true, by),
            };
            let cause = one_line(&cause);
            let history = match (state, by) {
                (Some("dead"), by) => Some(happened(DeadLetterState::Parked, by, Some(&cause))),
                _ => None,
            };
            let freed: Option<String> = sqlx::query_scalar(
                "update mesh.parked as p set
                     state = case when $5 then $2 else p.state end,
                     cause = $3, unsettled = 0, leased_until = '-infinity',
                     attempts = p.attempts - case when $5 then 0 else 1 end,
                     due_at = case when p.state = 'dead' and not $5 then 'infinity' else
                         coalesce(clock_timestamp() + make_interval(secs => $4), 'infinity') end,
                     history = p.history || coalesce($6, '[]')
                 from (select number, state from mesh.parked where number = $1 for update) as before
                 where p.number = before.number and p.ended_at is null
                 returning case when before.state <> 'early' and p.state = 'early'
                     then p.order_key end",
            )
            .bind(number as i64)
            .bind(state)
            .bind(cause)
            .bind(after)
            .bind(counts)
            .bind(history)
            .fetch_optional(&self.pool)
            .await?
            .flatten();
            if let Some(key) = freed {
                let mut connection = self.pool.acquire().await?;
                wake(&mut connection, &key).await?;
            }
            Ok(())
        })
        .await
    }

    async fn discard(&self, number: u64, by: UserId, why: &str) -> Result<bool, Failure> {
        self.answer(ANSWER_TIMEOUT, async {
            let mut tx = self.pool.begin().await?;
            let was_open =
                end(&mut tx, number, ParkedState::Discarded, Some(by), Some(why)).await?;
            tx.commit().await?;
            Ok(was_open)
        })
        .await
    }

    async fn parked_open(&self) -> Result<ParkedOpen, Failure> {
        self.answer(ANSWER_TIMEOUT, async {
            let (waiting, dead): (i64, i64) = sqlx::query_as(
                "select count(*) filter (where state <> 'dead'),
                        count(*) filter (where state = 'dead')
                 from (select state from mesh.parked where ended_at is null
                       order by due_at limit $1) as open",
            )
            .bind(COUNTED_MAX)
            .fetch_one(&self.pool)
            .await?;
            Ok(ParkedOpen { waiting: waiting.unsigned_abs(), dead: dead.unsigned_abs() })
        })
        .await
    }

    async fn parked(&self, show: Show) -> Result<Vec<Parked>, Failure> {
        self.answer(ANSWER_TIMEOUT, async {
            let none = String::new();
            let (wanted, key, number, most) = match show {
                Show::All(false, most) => {
                    ("ended_at is null and $1 = '' and $2 = 0", none, 0, most)
                }
                Show::All(true, most) => ("$1 = '' and $2 = 0", none, 0, most),
                Show::Key(key) => ("order_key = $1 and $2 = 0", key, 0, SHOWN_MAX),
                Show::Number(number) => ("number = $2 and $1 = ''", none, number, 1),
            };
            let statement = format!(
                "select {} from mesh.parked where {wanted} order by number desc limit $3",
                columns!()
            );
            let mut rows: Vec<Parked> = sqlx::query_as(sqlx::AssertSqlSafe(statement))
                .bind(key)
                .bind(number as i64)
                .bind(most as i64)
                .fetch_all(&self.pool)
                .await?;
            rows.reverse();
            Ok(rows)
        })
        .await
    }
}

impl FromRow<'_, PgRow> for Parked {
    fn from_row(row: &PgRow) -> sqlx::Result<Self> {
        let at: OffsetDateTime = row.try_get("kept_at")?;
        let history: sqlx::types::Json<Vec<DeadLetterEvent>> = row.try_get("history")?;
        Ok(Self {
            number: row.try_get::<i64, _>("number")?.unsigned_abs(),
            key: row.try_get("order_key")?,
            state: ParkedState::read(row.try_get("state")?),
            cause: row.try_get("cause")?,
            attempts: row.try_get::<i64, _>("attempts")?.unsigned_abs(),
            unsettled: row.try_get::<i32, _>("unsettled")?.unsigned_abs(),
            envelope: row.try_get::<Vec<u8>, _>("envelope")?.into(),
            subject: row.try_get("subject")?,
            stream: row.try_get("stream")?,
            sequence: row.try_get::<i64, _>("sequence")?.unsigned_abs(),
            kept_at: at.into(),
            history: history.0,
        })
    }
}
