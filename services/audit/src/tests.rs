//! The tables on a real PostgreSQL: what is taken in, found again, reported and deleted.

mod found;
mod reported;
mod rows;

use auditor::Observed;
use events::{ScheduleId, Timestamp};
use flows::Flows;
use sqlx::PgPool;
use uuid::Uuid;

use crate::{
    Config, event_table,
    listener::keep,
    rehearsal::{End, Visit},
};

/// A database of its own for each test.
async fn database() -> PgPool {
    mesh::testkit::pool(&crate::MIGRATIONS).await
}

/// Takes in events as one read; returns how many were new.
async fn take(pool: &PgPool, observed: &[Observed]) -> usize {
    let now = mesh::clock::now();
    for day in event_table::days_of(observed, now, Config::default().keep_days) {
        mesh::postgres::partitions::make_day(pool, event_table::TABLE, day).await.unwrap();
    }
    let new = keep(pool, Flows::shipped(), observed.to_vec(), async |_: &mut _| Ok(())).await;
    new.unwrap().len()
}

/// Visits of a show some days ago, with every end that there is.
fn sale(visits: u64, days_ago: i64) -> Vec<Observed> {
    let schedule_id = ScheduleId(Uuid::now_v7());
    let at = moment(days_ago);
    let ends = [End::Paid, End::TooFewPoints, End::HoldGone];
    let visit = |index: u64| {
        let visit = Visit::new(schedule_id, index, at.plus_millis(index as i64 * 7));
        match index % 4 {
            3 => visit.begun(),
            end => visit.events(ends[end as usize]),
        }
    };
    (0..visits).flat_map(visit).collect()
}

/// Now, to the millisecond, some days ago.
fn moment(days_ago: i64) -> Timestamp {
    let now = mesh::clock::now().plus_secs(-days_ago * 86_400);
    Timestamp::from_unix_millis(now.unix_millis()).unwrap()
}
