//! The queries on concerts and schedules. Seat plans are in [`crate::plan_store`], the seat map
//! is in [`crate::seats`].

use events::{
    ConcertId, Page, Problem, ScheduleId, Timestamp, codes,
    concert::{
        Concert, FindConcerts, FindSchedules, GetConcert, GetOrganizers, Organizers, Schedule,
    },
    state::{ScheduleStated, StateSchedules, Stated},
    user::Role,
};
use mesh::{Caller, page::Cut, postgres::read_failed};
use sqlx::{PgPool, Row, postgres::PgRow};
use uuid::Uuid;

use crate::{domain, team, unit_of_work};

/// Characters of a search at most.
const SEARCH_CHARS_MAX: usize = 200;

/// Concerts whose title or artist has, for each word of the search, a word that begins with
/// it; newest first.
pub(crate) async fn concerts(
    pool: &PgPool,
    command: FindConcerts,
) -> Result<Page<Concert>, Problem> {
    let cut = Cut::new(command.cursor.as_deref(), command.limit)?;
    let search = command.q.unwrap_or_default();
    let found = text::length(&search);
    if found > SEARCH_CHARS_MAX {
        let why = format!("has {found} characters; at most {SEARCH_CHARS_MAX} are allowed");
        return Err(domain::invalid("q", &why));
    }
    let words = text::search::words(&search);
    let query = words.iter().map(|word| begins(word)).collect::<Vec<_>>().join(" & ");
    let rows = if query.is_empty() {
        sqlx::query(
            "select * from concerts where concert_id < $1 order by concert_id desc limit $2",
        )
        .bind(cut.before)
        .bind(cut.rows())
    } else {
        sqlx::query(
            "select * from concerts where concert_id < $1 and words @@ $3::text::tsquery
             order by concert_id desc limit $2",
        )
        .bind(cut.before)
        .bind(cut.rows())
        .bind(query)
    };
    let rows = rows.fetch_all(pool).await.map_err(read_failed)?;
    let concerts: Vec<_> =
        rows.iter().map(concert_of).collect::<sqlx::Result<_>>().map_err(read_failed)?;
    Ok(cut.page(concerts, |concert| concert.concert_id.0))
}

/// A prefix match as a `tsquery`. Everything between the quotes is taken literally once
/// backslashes and quotes are doubled.
fn begins(word: &str) -> String {
    format!("'{}':*", word.replace('\\', "\\\\").replace('\'', "''"))
}

/// One concert.
pub(crate) async fn concert(pool: &PgPool, command: GetConcert) -> Result<Concert, Problem> {
    sqlx::query("select * from concerts where concert_id = $1")
        .bind(command.concert_id.0)
        .fetch_optional(pool)
        .await
        .and_then(|row| row.as_ref().map(concert_of).transpose())
        .map_err(read_failed)?
        .ok_or_else(no_concert)
}

/// The schedules of one concert, newest first.
pub(crate) async fn schedules(
    pool: &PgPool,
    command: FindSchedules,
) -> Result<Page<Schedule>, Problem> {
    let cut = Cut::new(command.cursor.as_deref(), command.limit)?;
    let rows = sqlx::query(
        "select * from schedules where concert_id = $1 and schedule_id < $2
         order by schedule_id desc limit $3",
    )
    .bind(command.concert_id.0)
    .bind(cut.before)
    .bind(cut.rows())
    .fetch_all(pool)
    .await
    .map_err(read_failed)?;
    if rows.is_empty() {
        check_concert(command.concert_id, pool).await?;
    }
    let mut schedules: Vec<_> = rows
        .iter()
        .map(unit_of_work::schedule)
        .collect::<sqlx::Result<_>>()
        .map_err(read_failed)?;
    let now = mesh::clock::now();
    for schedule in &mut schedules {
        schedule.state = domain::state_at(schedule, now);
    }
    Ok(cut.page(schedules, |schedule| schedule.schedule_id.0))
}

/// The organizers of a concert; only they and operators may read them.
pub(crate) async fn organizers(
    pool: &PgPool,
    command: GetOrganizers,
    caller: &Caller,
) -> Result<Organizers, Problem> {
    let GetOrganizers { concert_id } = command;
    let mut connection = pool.acquire().await.map_err(read_failed)?;
    let wanted = [concert_id].into();
    let found = team::concerts(&wanted, false, &mut connection).await.map_err(read_failed)?;
    let organizers = &found.get(&concert_id).ok_or_else(no_concert)?.organizers;
    domain::actor(organizers, caller.user_id()?, caller.has(Role::Operator))?;
    Ok(domain::listed(concert_id, organizers))
}

fn concert_of(row: &PgRow) -> sqlx::Result<Concert> {
    Ok(Concert {
        concert_id: ConcertId(row.try_get("concert_id")?),
        title: row.try_get("title")?,
        artist: row.try_get("artist")?,
        description: row.try_get("description")?,
        created_at: Timestamp(row.try_get("created_at")?),
    })
}

/// Schedules in one page of [`stated`].
const STATED_MAX: i64 = 500;

/// Every schedule, for services that rebuild their copy.
pub(crate) async fn stated(
    pool: &PgPool,
    command: StateSchedules,
) -> Result<Stated<ScheduleStated, ScheduleId>, Problem> {
    let rows = sqlx::query(
        "select s.*, c.title from schedules s join concerts c using (concert_id)
         where s.schedule_id > $1 and s.starts_at > $2 order by s.schedule_id limit $3",
    )
    .bind(command.after.map_or(Uuid::nil(), |id| id.0))
    .bind(command.starts_after.map_or(time::OffsetDateTime::UNIX_EPOCH, |at| at.0))
    .bind(STATED_MAX)
    .fetch_all(pool)
    .await
    .map_err(read_failed)?;
    let stated = |row: &PgRow| {
        let title = row.try_get("title")?;
        Ok(ScheduleStated { schedule: unit_of_work::schedule(row)?, title })
    };
    let items: Vec<_> =
        rows.iter().map(stated).collect::<sqlx::Result<_>>().map_err(read_failed)?;
    let last = items.last().filter(|_| items.len() as i64 == STATED_MAX);
    let next = last.map(|last: &ScheduleStated| last.schedule.schedule_id);
    Ok(Stated { items, next })
}

/// Distinguishes a concert without schedules from an unknown concert.
async fn check_concert(concert_id: ConcertId, pool: &PgPool) -> Result<(), Problem> {
    let exists: bool =
        sqlx::query_scalar("select exists (select from concerts where concert_id = $1)")
            .bind(concert_id.0)
            .fetch_one(pool)
            .await
            .map_err(read_failed)?;
    if exists { Ok(()) } else { Err(no_concert()) }
}

fn no_concert() -> Problem {
    Problem::new(codes::NOT_FOUND, "There is no such concert.")
}
