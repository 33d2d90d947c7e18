//! What everybody may look at: concerts, schedules and the seat map.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
};

use events::{
    ConcertId, Page, Problem, ScheduleId, Timestamp, codes,
    concert::{
        Concert, FindConcerts, FindSchedules, GetConcert, GetSeats, Schedule, SeatBlock, SeatMap,
        SeatState,
    },
};
use mesh::{engine::Failure, page::Cut};
use sqlx::{PgPool, Row, postgres::PgRow, types::Json};

use crate::{
    book,
    domain::{self, words},
    map,
};

/// Concerts whose title or artist has, for each word asked, a word that begins with it;
/// newest first.
pub(crate) async fn concerts(
    pool: &PgPool,
    command: FindConcerts,
) -> Result<Page<Concert>, Problem> {
    let cut = Cut::new(command.cursor.as_deref(), command.limit)?;
    let asked = command.q.unwrap_or_default();
    if asked.chars().count() > 200 {
        return Err(domain::invalid("q", "must have at most 200 characters"));
    }
    // Words are letters and digits only, so none can break out of its quotes.
    let begins = |word: String| format!("'{word}':*");
    let query = words(&asked).into_iter().map(begins).collect::<Vec<_>>().join(" & ");
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
    let rows = rows.fetch_all(pool).await.map_err(unread)?;
    let concerts: Vec<_> =
        rows.iter().map(concert_of).collect::<sqlx::Result<_>>().map_err(unread)?;
    Ok(cut.page(concerts, |concert| concert.concert_id.0))
}

/// One concert.
pub(crate) async fn concert(pool: &PgPool, command: GetConcert) -> Result<Concert, Problem> {
    sqlx::query("select * from concerts where concert_id = $1")
        .bind(command.concert_id.0)
        .fetch_optional(pool)
        .await
        .and_then(|row| row.as_ref().map(concert_of).transpose())
        .map_err(unread)?
        .ok_or_else(no_concert)
}

/// The schedules of one concert, the last entered first.
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
    .map_err(unread)?;
    if rows.is_empty() {
        check_concert(command.concert_id, pool).await?;
    }
    let schedules: Vec<_> =
        rows.iter().map(book::schedule).collect::<sqlx::Result<_>>().map_err(unread)?;
    Ok(cut.page(schedules, |schedule| schedule.schedule_id.0))
}

/// The seat map of a schedule.
pub(crate) async fn seats(
    pool: &PgPool,
    plans: &Plans,
    command: GetSeats,
) -> Result<SeatMap, Problem> {
    let GetSeats { schedule_id, section } = command;
    let plan = plans.of(schedule_id, pool).await?;
    // Only a section that is in the plan reaches the database.
    let section = section.as_deref();
    let is_known = section.is_none_or(|name| plan.iter().any(|block| block.section == name));
    let states = match is_known {
        true => states(schedule_id, section, pool).await.map_err(unread)?,
        false => HashMap::new(),
    };
    Ok(map::draw(schedule_id, &plan, section, &states))
}

/// The seats that are not free.
async fn states(
    schedule_id: ScheduleId,
    section: Option<&str>,
    pool: &PgPool,
) -> sqlx::Result<HashMap<String, SeatState>> {
    let rows: Vec<(String, String)> = sqlx::query_as(
        "select seat, stage::text from seat_states
         where schedule_id = $1 and stage <> 'freed'
           and ($2::text is null or starts_with(seat, $2 || '-'))",
    )
    .bind(schedule_id.0)
    .bind(section)
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(|(seat, stage)| (seat, map::seat_state(&stage))).collect())
}

/// Schedules whose plans are kept in memory at most.
const PLANS_MAX: usize = 64;
/// Seats of the plans kept in memory at most: plans differ in size by thousands.
const PLAN_SEATS_MAX: usize = 400_000;

/// The plans that were wanted last. A plan never changes, so none is ever out of date,
/// and of a map only the seats that are not free have to be read.
#[derive(Default)]
pub(crate) struct Plans(Mutex<VecDeque<Kept>>);

struct Kept {
    schedule_id: ScheduleId,
    seats_total: usize,
    plan: Arc<Vec<SeatBlock>>,
}

impl Plans {
    async fn of(
        &self,
        schedule_id: ScheduleId,
        pool: &PgPool,
    ) -> Result<Arc<Vec<SeatBlock>>, Problem> {
        if let Some(plan) = self.find(schedule_id) {
            return Ok(plan);
        }
        let stored: Option<Json<Vec<SeatBlock>>> =
            sqlx::query_scalar("select blocks from seat_plans where schedule_id = $1")
                .bind(schedule_id.0)
                .fetch_optional(pool)
                .await
                .map_err(unread)?;
        let Some(Json(plan)) = stored else {
            return Err(no_schedule());
        };
        let plan = Arc::new(plan);
        self.keep(schedule_id, plan.clone());
        Ok(plan)
    }

    /// Finds a plan, and puts it behind all others in the line of those to forget.
    fn find(&self, schedule_id: ScheduleId) -> Option<Arc<Vec<SeatBlock>>> {
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = line.iter().position(|kept| kept.schedule_id == schedule_id)?;
        let kept = line.remove(at)?;
        let plan = kept.plan.clone();
        line.push_back(kept);
        Some(plan)
    }

    fn keep(&self, schedule_id: ScheduleId, plan: Arc<Vec<SeatBlock>>) {
        let seats_total = plan.iter().map(|block| block.seats.len()).sum();
        let mut line = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Two that missed it at once both bring it; the second replaces the first.
        line.retain(|kept| kept.schedule_id != schedule_id);
        line.push_back(Kept { schedule_id, seats_total, plan });
        let mut all: usize = line.iter().map(|kept| kept.seats_total).sum();
        while line.len() > 1 && (line.len() > PLANS_MAX || all > PLAN_SEATS_MAX) {
            all -= line.pop_front().map_or(0, |kept| kept.seats_total);
        }
    }
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

/// Tells an empty list from the list of nothing.
async fn check_concert(concert_id: ConcertId, pool: &PgPool) -> Result<(), Problem> {
    let exists: bool =
        sqlx::query_scalar("select exists (select from concerts where concert_id = $1)")
            .bind(concert_id.0)
            .fetch_one(pool)
            .await
            .map_err(unread)?;
    if exists { Ok(()) } else { Err(no_concert()) }
}

fn no_concert() -> Problem {
    Problem::new(codes::NOT_FOUND, "There is no such concert.")
}

fn no_schedule() -> Problem {
    Problem::new(codes::NOT_FOUND, "There is no such schedule.")
}

/// Why a read failed, without what is nobody's business outside.
fn unread(error: sqlx::Error) -> Problem {
    match Failure::from(error) {
        Failure::Unavailable(_) => codes::UNAVAILABLE.into(),
        failure => {
            tracing::error!(%failure, "a read failed");
            codes::INTERNAL.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    fn block(section: &str, row: &str, price: i64, seats: &[&str]) -> SeatBlock {
        SeatBlock {
            section: section.into(),
            row: row.into(),
            price,
            seats: seats.iter().map(|&seat| seat.into()).collect(),
        }
    }

    fn id(number: u128) -> ScheduleId {
        ScheduleId(Uuid::from_u128(number))
    }

    #[test]
    fn the_plan_that_was_wanted_longest_ago_is_forgotten_first() {
        let plans = Plans::default();
        let plan = Arc::new(vec![block("A", "1", 50, &["1"])]);
        for number in 1..=PLANS_MAX as u128 {
            plans.keep(id(number), plan.clone());
        }
        assert!(plans.find(id(1)).is_some(), "wanted again");
        plans.keep(id(1_000), plan.clone());
        assert!(plans.find(id(1)).is_some());
        assert!(plans.find(id(2)).is_none());
        assert!(plans.find(id(1_000)).is_some());
    }

    #[test]
    fn large_plans_crowd_out_sooner() {
        let plans = Plans::default();
        let names = vec![""; PLAN_SEATS_MAX / 2];
        let large = Arc::new(vec![block("A", "1", 50, &names)]);
        for number in 1..=3 {
            plans.keep(id(number), large.clone());
        }
        assert!(plans.find(id(1)).is_none());
        assert!(plans.find(id(2)).is_some() && plans.find(id(3)).is_some());
    }

    #[test]
    fn a_plan_brought_twice_is_kept_once() {
        let plans = Plans::default();
        let plan = Arc::new(vec![block("A", "1", 50, &["1"])]);
        plans.keep(id(1), plan.clone());
        plans.keep(id(1), plan);
        assert_eq!(plans.0.lock().expect("not poisoned").len(), 1);
    }
}
