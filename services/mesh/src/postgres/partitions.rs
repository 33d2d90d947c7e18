//! Tables cut into days by id: made ahead, dropped by age.
//!
//! Ids are UUIDv7, so a range of ids is a day, and forgetting one is dropping a table. The
//! mesh keeps its inbox and outbox like this; a service may keep a table of its own so.

use events::Timestamp;
use sqlx::{AssertSqlSafe, PgPool};
use time::{Date, Duration, OffsetDateTime, Time};
use uuid::Uuid;

/// Days made ahead, so that midnight finds its partition.
pub const DAYS_AHEAD: i64 = 2;
/// Days kept. It exceeds the age of anything that can come again: streams keep facts for 7.
const DAYS_KEPT: i64 = 14;
/// Hours that the answer under an idempotency key is kept.
const ANSWER_HOURS: i64 = 24;
/// Lines of the relay's log that are kept at least; older ones go with the outbox.
const LOG_DAYS: i64 = DAYS_KEPT;

/// Makes the partitions of the coming days and drops those that are past.
pub(super) async fn tidy(pool: &PgPool, now: Timestamp) -> sqlx::Result<()> {
    let today = now.0.date();
    for table in ["mesh.inbox", "mesh.outbox"] {
        for ahead in 0..=DAYS_AHEAD {
            make_day(pool, table, today + Duration::days(ahead)).await?;
        }
        drop_before(pool, table, today - Duration::days(DAYS_KEPT)).await?;
    }
    sqlx::query("delete from mesh.answers where at < now() - make_interval(hours => $1)")
        .bind(ANSWER_HOURS as i32)
        .execute(pool)
        .await?;
    sqlx::query(
        "delete from mesh.relay_log where at < now() - make_interval(days => $1)
         and line < (select max(line) from mesh.relay_log)",
    )
    .bind(LOG_DAYS as i32)
    .execute(pool)
    .await?;
    Ok(())
}

/// Makes the partition of one day, unless it is there; two instances at once: the second
/// finds it.
///
/// # Errors
/// When the database refuses, be it because the default partition has rows of that day.
pub async fn make_day(pool: &PgPool, table: &'static str, day: Date) -> sqlx::Result<()> {
    let next = day.next_day().unwrap_or(day);
    let statement = format!(
        "create table if not exists {} partition of {table} for values from ('{}') to ('{}')",
        name(table, day),
        first_id(day),
        first_id(next),
    );
    sqlx::query(AssertSqlSafe(statement)).execute(pool).await?;
    Ok(())
}

/// Drops the partitions of all days before `day`.
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
        sqlx::query(AssertSqlSafe(format!("drop table if exists {day}"))).execute(pool).await?;
    }
    Ok(())
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

/// The day that a UUIDv7 was made on.
pub fn day_of(id: Uuid) -> Option<Date> {
    let millis = i64::try_from(id.as_u128() >> 80).ok()?;
    Timestamp::from_unix_millis(millis).map(|at| at.0.date())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_days_ids_lie_between_its_first_and_the_next_days_first() {
        let day = Date::from_calendar_date(2026, time::Month::November, 21).unwrap();
        let noon = OffsetDateTime::new_utc(day, Time::MIDNIGHT) + Duration::hours(12);
        let stamp = uuid::Timestamp::from_unix(uuid::NoContext, noon.unix_timestamp() as u64, 0);
        let id = Uuid::new_v7(stamp);
        assert!(first_id(day) < id && id < first_id(day + Duration::days(1)));
        assert_eq!(day_of(id), Some(day));
        assert_eq!(name("mesh.inbox", day), "mesh.inbox_20261121");
    }
}
