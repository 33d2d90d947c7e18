//! The concerts and schedules that one batch touches.

use std::collections::BTreeMap;

use events::{
    ConcertId, ScheduleId, Timestamp, UserId,
    concert::{Admission, Concert, Schedule, ScheduleState, SeatBlock},
};
use sqlx::{PgConnection, Row, postgres::PgRow, types::Json};
use text::search::beginnings;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::Rules;

/// What a batch needs.
#[derive(Debug, Default)]
pub struct Keys {
    pub(crate) concerts: Vec<ConcertId>,
    pub(crate) schedules: Vec<ScheduleId>,
}

/// The page of this service's state that one batch touches.
#[derive(Debug, Default)]
pub struct Book {
    /// Who entered each concert, and its title.
    pub(crate) concerts: BTreeMap<ConcertId, (UserId, String)>,
    /// Each schedule, and who entered its concert.
    pub(crate) schedules: BTreeMap<ScheduleId, (UserId, Schedule)>,
    new_concerts: Vec<(UserId, Concert)>,
    new_schedules: Vec<(Schedule, Vec<SeatBlock>)>,
    cancelled: Vec<(ScheduleId, Timestamp, String)>,
}

impl Book {
    /// Enters a concert.
    pub(crate) fn enter(&mut self, organizer_id: UserId, concert: Concert) {
        self.concerts.insert(concert.concert_id, (organizer_id, concert.title.clone()));
        self.new_concerts.push((organizer_id, concert));
    }

    /// Enters a schedule with its seats.
    pub(crate) fn open(&mut self, organizer_id: UserId, schedule: Schedule, seats: Vec<SeatBlock>) {
        self.schedules.insert(schedule.schedule_id, (organizer_id, schedule.clone()));
        self.new_schedules.push((schedule, seats));
    }

    /// Notes that a schedule was called off.
    pub(crate) fn cancel(&mut self, schedule_id: ScheduleId, at: Timestamp, reason: String) {
        if let Some((_, schedule)) = self.schedules.get_mut(&schedule_id) {
            schedule.state = ScheduleState::Cancelled;
        }
        self.cancelled.push((schedule_id, at, reason));
    }
}

impl mesh::Book for Book {
    type Keys = Keys;
    type Rules = Rules;
    const KEY: &'static str = "reservation_id";

    async fn load(keys: Keys, tx: &mut PgConnection) -> sqlx::Result<Self> {
        let mut book = Self::default();
        if !keys.concerts.is_empty() {
            // Not locked: a concert never changes.
            let rows: Vec<(Uuid, Uuid, String)> = sqlx::query_as(
                "select concert_id, organizer_id, title from concerts where concert_id = any($1)",
            )
            .bind(keys.concerts.iter().map(|id| id.0).collect::<Vec<_>>())
            .fetch_all(&mut *tx)
            .await?;
            let known = |(id, organizer, title)| (ConcertId(id), (UserId(organizer), title));
            book.concerts = rows.into_iter().map(known).collect();
        }
        if !keys.schedules.is_empty() {
            let rows = sqlx::query(
                "select concerts.organizer_id, schedules.*
                 from schedules join concerts using (concert_id)
                 where schedule_id = any($1) order by schedule_id for update of schedules",
            )
            .bind(keys.schedules.iter().map(|id| id.0).collect::<Vec<_>>())
            .fetch_all(&mut *tx)
            .await?;
            for row in rows {
                let organizer_id = UserId(row.try_get("organizer_id")?);
                let schedule = schedule(&row)?;
                book.schedules.insert(schedule.schedule_id, (organizer_id, schedule));
            }
        }
        Ok(book)
    }

    async fn save(self, tx: &mut PgConnection) -> sqlx::Result<()> {
        insert_concerts(self.new_concerts, tx).await?;
        insert_schedules(self.new_schedules, tx).await?;
        cancel_schedules(self.cancelled, tx).await
    }
}

/// A row of `schedules`.
pub(crate) fn schedule(row: &PgRow) -> sqlx::Result<Schedule> {
    let at = |name| row.try_get(name).map(Timestamp);
    let number = |name| row.try_get(name).map(|value: i32| value.unsigned_abs());
    let cancelled_at: Option<OffsetDateTime> = row.try_get("cancelled_at")?;
    Ok(Schedule {
        schedule_id: ScheduleId(row.try_get("schedule_id")?),
        concert_id: ConcertId(row.try_get("concert_id")?),
        venue: row.try_get("venue")?,
        starts_at: at("starts_at")?,
        opens_at: at("opens_at")?,
        state: match cancelled_at {
            None => ScheduleState::Open,
            Some(_) => ScheduleState::Cancelled,
        },
        admission: Admission {
            per_second: number("per_second")?,
            active_max: number("active_max")?,
            pass_secs: number("pass_secs")?,
        },
        hold_secs: number("hold_secs")?,
        seats_per_fan_max: number("seats_per_fan_max")?,
        seats_total: row.try_get("seats_total")?,
    })
}

async fn insert_concerts(new: Vec<(UserId, Concert)>, tx: &mut PgConnection) -> sqlx::Result<()> {
    if new.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into concerts
             (concert_id, organizer_id, title, artist, description, created_at, words)
         select concert_id, organizer_id, title, artist, description, created_at,
                array_to_tsvector(string_to_array(words, ' '))
         from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[],
                     $6::timestamptz[], $7::text[])
             as new (concert_id, organizer_id, title, artist, description, created_at, words)",
    )
    .bind(column(&new, |(_, concert)| concert.concert_id.0))
    .bind(column(&new, |(organizer, _)| organizer.0))
    .bind(column(&new, |(_, concert)| concert.title.clone()))
    .bind(column(&new, |(_, concert)| concert.artist.clone()))
    .bind(column(&new, |(_, concert)| concert.description.clone()))
    .bind(column(&new, |(_, concert)| concert.created_at.0))
    .bind(column(&new, |(_, it)| beginnings(&format!("{} {}", it.title, it.artist)).join(" ")))
    .execute(tx)
    .await?;
    Ok(())
}

async fn insert_schedules(
    new: Vec<(Schedule, Vec<SeatBlock>)>,
    tx: &mut PgConnection,
) -> sqlx::Result<()> {
    if new.is_empty() {
        return Ok(());
    }
    let ids = column(&new, |(schedule, _)| schedule.schedule_id.0);
    let number = |read: fn(&Schedule) -> u32| column(&new, |(it, _)| read(it) as i32);
    sqlx::query(
        "insert into schedules
             (schedule_id, concert_id, venue, starts_at, opens_at, seats_total,
              per_second, active_max, pass_secs, hold_secs, seats_per_fan_max)
         select * from unnest($1::uuid[], $2::uuid[], $3::text[], $4::timestamptz[],
                              $5::timestamptz[], $6::bigint[], $7::integer[], $8::integer[],
                              $9::integer[], $10::integer[], $11::integer[])",
    )
    .bind(&ids)
    .bind(column(&new, |(schedule, _)| schedule.concert_id.0))
    .bind(column(&new, |(schedule, _)| schedule.venue.clone()))
    .bind(column(&new, |(schedule, _)| schedule.starts_at.0))
    .bind(column(&new, |(schedule, _)| schedule.opens_at.0))
    .bind(column(&new, |(schedule, _)| schedule.seats_total))
    .bind(number(|schedule| schedule.admission.per_second))
    .bind(number(|schedule| schedule.admission.active_max))
    .bind(number(|schedule| schedule.admission.pass_secs))
    .bind(number(|schedule| schedule.hold_secs))
    .bind(number(|schedule| schedule.seats_per_fan_max))
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "insert into seat_plans (schedule_id, blocks)
         select * from unnest($1::uuid[], $2::jsonb[])",
    )
    .bind(ids)
    .bind(new.into_iter().map(|(_, blocks)| Json(blocks)).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}

async fn cancel_schedules(
    cancelled: Vec<(ScheduleId, Timestamp, String)>,
    tx: &mut PgConnection,
) -> sqlx::Result<()> {
    if cancelled.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "update schedules set cancelled_at = new.cancelled_at, cancel_reason = new.reason
         from unnest($1::uuid[], $2::timestamptz[], $3::text[])
             as new (schedule_id, cancelled_at, reason)
         where schedules.schedule_id = new.schedule_id",
    )
    .bind(column(&cancelled, |(schedule_id, _, _)| schedule_id.0))
    .bind(column(&cancelled, |(_, at, _)| at.0))
    .bind(column(&cancelled, |(_, _, reason)| reason.clone()))
    .execute(tx)
    .await?;
    Ok(())
}

/// One column of the rows, as an array for `unnest`.
fn column<T, V>(rows: &[T], read: impl Fn(&T) -> V) -> Vec<V> {
    rows.iter().map(read).collect()
}
