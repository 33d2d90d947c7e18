//! Tables partitioned by day: partitions are created ahead of time and dropped by age.
//!
//! Ids are UUIDv7, so a day is a range of ids, and forgetting a day is dropping a table. The
//! mesh partitions its inbox and outbox like this; a service may partition a table of its own.

use events::Timestamp;
use sqlx::{AssertSqlSafe, PgPool};
use time::{Date, Duration, OffsetDateTime, Time};
use tracing::warn;
use uuid::Uuid;

/// Days created ahead, so that the partition is there at midnight.
pub const DAYS_AHEAD: i64 = 2;
/// Days that the streams keep messages.
const STREAM_DAYS: i64 = 7;
/// Days that emitted messages are kept: one more, for consumers that have not taken them in by then.
const OUTBOX_DAYS: i64 = STREAM_DAYS + 1;
/// Days that inbox ids and answers are kept: longer than a message can be delivered again,
/// whether from a stream or published again from an outbox.
const INBOX_DAYS: i64 = OUTBOX_DAYS + STREAM_DAYS;
/// Days that parked events are kept once they have ended.
const ENDED_DAYS: i64 = 14;

/// Creates the partitions of the coming days and drops those that have aged out.
pub(super) async fn tidy(pool: &PgPool, now: Timestamp) -> sqlx::Result<()> {
    let today = now.0.date();
    for (table, days) in [("mesh.inbox", INBOX_DAYS), ("mesh.outbox", OUTBOX_DAYS)] {
        for ahead in 0..=DAYS_AHEAD {
            make_day(pool, table, today + Duration::days(ahead)).await?;
        }
        drop_before(pool, table, today - Duration::days(days)).await?;
    }
    let first_kept = first_id(today - Duration::days(INBOX_DAYS));
    sqlx::query("delete from mesh.inbox_rest where message_id < $1")
        .bind(first_kept)
        .execute(pool)
        .await?;
    let first_kept = first_id(today - Duration::days(OUTBOX_DAYS));
    sqlx::query("delete from mesh.outbox_rest where id < $1 and stream_seq is not null")
        .bind(first_kept)
        .execute(pool)
        .await?;
    for statement in [
        "delete from mesh.answers where at < now() - make_interval(days => $1)",
        "delete from mesh.parked where ended_at < now() - make_interval(days => $1)",
    ] {
        let days = if statement.contains("answers") { INBOX_DAYS } else { ENDED_DAYS };
        sqlx::query(statement).bind(days as i32).execute(pool).await?;
    }
    Ok(())
}

/// Creates the partition of one day unless it exists. If two instances do so at once, the second
/// finds it. Rows of that day in the default partition move into the new one.
///
/// # Errors
/// When the database refuses.
pub async fn make_day(pool: &PgPool, table: &'static str, day: Date) -> sqlx::Result<()> {
    let name = name(table, day);
    let (from, to) = (first_id(day), first_id(day.next_day().unwrap_or(day)));
    let is_there: bool = sqlx::query_scalar("select to_regclass($1) is not null")
        .bind(&name)
        .fetch_one(pool)
        .await?;
    if is_there {
        return Ok(());
    }
    let range = format!("for values from ('{from}') to ('{to}')");
    let made = format!("create table if not exists {name} partition of {table} {range}");
    match sqlx::query(AssertSqlSafe(made)).execute(pool).await {
        // The default partition has rows of that day: a clock was wrong, or housekeeping stopped.
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("23514") => {}
        made => return made.map(drop),
    }
    let column: String = sqlx::query_scalar(
        "select attname::text from pg_attribute where attrelid = $1::text::regclass and attnum = 1",
    )
    .bind(table)
    .fetch_one(pool)
    .await?;
    let mut tx = pool.begin().await?;
    for statement in [
        format!("lock table {table} in access exclusive mode"),
        format!("create table {name} (like {table} including defaults including constraints)"),
        format!(
            "with moved as (delete from {table}_rest
                 where {column} >= '{from}' and {column} < '{to}' returning *)
             insert into {name} select * from moved"
        ),
        format!("alter table {table} attach partition {name} {range}"),
    ] {
        sqlx::query(AssertSqlSafe(statement)).execute(&mut *tx).await?;
    }
    tx.commit().await
}

/// Drops the partitions of all days before `day`, except those with unpublished messages. A
/// partition that is in use is dropped the next time.
///
/// # Errors
/// When the database refuses.
pub async fn drop_before(pool: &PgPool, table: &'static str, day: Date) -> sqlx::Result<()> {
    let first_kept = name(table, day);
    let first_kept = first_kept.rsplit_once('.').map_or(&*first_kept, |(_, name)| name);
    let days: Vec<String> = sqlx::query_scalar(
        "select inhrelid::regclass::text from pg_class join pg_inherits on inhrelid = pg_class.oid
         where inhparent = $1::text::regclass and relname < $2 and relname ~ '_[0-9]{8}$'",
    )
    .bind(table)
    .bind(first_kept)
    .fetch_all(pool)
    .await?;
    for day in days {
        if table == "mesh.outbox" && has_unpublished(pool, &day).await? {
            warn!(partition = day, "the partition is kept: it has unpublished messages");
            continue;
        }
        let mut tx = pool.begin().await?;
        sqlx::query("set local lock_timeout = '500ms'").execute(&mut *tx).await?;
        let dropped = format!("drop table if exists {day}");
        match sqlx::query(AssertSqlSafe(dropped)).execute(&mut *tx).await {
            Ok(_) => tx.commit().await?,
            Err(error) => warn!(partition = day, %error, "the partition is not dropped yet"),
        }
    }
    Ok(())
}

async fn has_unpublished(pool: &PgPool, partition: &str) -> sqlx::Result<bool> {
    let statement = format!("select exists (select from {partition} where stream_seq is null)");
    sqlx::query_scalar(AssertSqlSafe(statement)).fetch_one(pool).await
}

fn name(table: &str, day: Date) -> String {
    format!("{table}_{:04}{:02}{:02}", day.year(), u8::from(day.month()), day.day())
}

/// The least UUIDv7 of a day: its milliseconds, then zeros.
pub fn first_id(day: Date) -> Uuid {
    let midnight = OffsetDateTime::new_utc(day, Time::MIDNIGHT);
    let millis = Timestamp(midnight).unix_millis() as u128;
    Uuid::from_u128(millis << 80)
}

/// The creation time of a UUIDv7.
pub(crate) fn time_of(id: Uuid) -> Option<OffsetDateTime> {
    let millis = i64::try_from(id.as_u128() >> 80).ok()?;
    Timestamp::from_unix_millis(millis).map(|at| at.0)
}

/// The creation day of a UUIDv7.
pub fn day_of(id: Uuid) -> Option<Date> {
    time_of(id).map(OffsetDateTime::date)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ids_of_a_day_lie_between_its_first_id_and_that_of_the_next_day() {
        let day = Date::from_calendar_date(2026, time::Month::November, 21).unwrap();
        let noon = OffsetDateTime::new_utc(day, Time::MIDNIGHT) + Duration::hours(12);
        let stamp = uuid::Timestamp::from_unix(uuid::NoContext, noon.unix_timestamp() as u64, 0);
        let id = Uuid::new_v7(stamp);
        assert!(first_id(day) < id && id < first_id(day + Duration::days(1)));
        assert_eq!(day_of(id), Some(day));
        assert_eq!(name("mesh.inbox", day), "mesh.inbox_20261121");
    }
}
