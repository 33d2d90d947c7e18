//! Stored seat plans, and a cache of the most recently used ones.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use events::{Problem, ScheduleId, codes, concert::SeatBlock};
use mesh::postgres::read_failed;
use sqlx::{PgPool, types::Json};

/// The stored plan of a schedule.
///
/// # Errors
/// `not_found`, or `unavailable` when the database is away.
pub(crate) async fn read(
    schedule_id: ScheduleId,
    pool: &PgPool,
) -> Result<Vec<SeatBlock>, Problem> {
    let stored: Option<Json<Vec<SeatBlock>>> =
        sqlx::query_scalar("select blocks from seat_plans where schedule_id = $1")
            .bind(schedule_id.0)
            .fetch_optional(pool)
            .await
            .map_err(read_failed)?;
    let Some(Json(plan)) = stored else {
        return Err(Problem::new(codes::NOT_FOUND, "There is no such schedule."));
    };
    Ok(plan)
}

/// Schedules whose plans are kept in memory at most.
const PLANS_MAX: usize = 64;
/// Seats of the plans kept in memory at most: plans differ in size by thousands.
const PLAN_SEATS_MAX: usize = 400_000;

/// The most recently used plans. A plan never changes, so none is ever out of date.
#[derive(Default)]
pub(crate) struct Plans(Mutex<VecDeque<Kept>>);

struct Kept {
    schedule_id: ScheduleId,
    seats_total: usize,
    plan: Arc<Vec<SeatBlock>>,
}

impl Plans {
    /// The plan of a schedule.
    pub(crate) async fn of(
        &self,
        schedule_id: ScheduleId,
        pool: &PgPool,
    ) -> Result<Arc<Vec<SeatBlock>>, Problem> {
        if let Some(plan) = self.find(schedule_id) {
            return Ok(plan);
        }
        let plan = Arc::new(read(schedule_id, pool).await?);
        self.keep(schedule_id, plan.clone());
        Ok(plan)
    }

    /// Finds a plan, and marks it as the most recently used.
    fn find(&self, schedule_id: ScheduleId) -> Option<Arc<Vec<SeatBlock>>> {
        let mut plans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let at = plans.iter().position(|kept| kept.schedule_id == schedule_id)?;
        let kept = plans.remove(at)?;
        let plan = kept.plan.clone();
        plans.push_back(kept);
        Some(plan)
    }

    fn keep(&self, schedule_id: ScheduleId, plan: Arc<Vec<SeatBlock>>) {
        let seats_total = plan.iter().map(|block| block.seats.len()).sum();
        let mut plans = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Two calls that miss at once both insert the plan; the second replaces the first.
        plans.retain(|kept| kept.schedule_id != schedule_id);
        plans.push_back(Kept { schedule_id, seats_total, plan });
        let mut all: usize = plans.iter().map(|kept| kept.seats_total).sum();
        while plans.len() > 1 && (plans.len() > PLANS_MAX || all > PLAN_SEATS_MAX) {
            all -= plans.pop_front().map_or(0, |kept| kept.seats_total);
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
    fn the_least_recently_used_plan_is_evicted_first() {
        let plans = Plans::default();
        let plan = Arc::new(vec![block("A", "1", 50, &["1"])]);
        for number in 1..=PLANS_MAX as u128 {
            plans.keep(id(number), plan.clone());
        }
        assert!(plans.find(id(1)).is_some(), "used again");
        plans.keep(id(1_000), plan.clone());
        assert!(plans.find(id(1)).is_some());
        assert!(plans.find(id(2)).is_none());
        assert!(plans.find(id(1_000)).is_some());
    }

    #[test]
    fn large_plans_are_evicted_sooner() {
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
    fn a_plan_inserted_twice_is_kept_once() {
        let plans = Plans::default();
        let plan = Arc::new(vec![block("A", "1", 50, &["1"])]);
        plans.keep(id(1), plan.clone());
        plans.keep(id(1), plan);
        assert_eq!(plans.0.lock().expect("not poisoned").len(), 1);
    }
}
