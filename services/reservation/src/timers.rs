//! Timers: they expire holds whose time is up, and cancel the reservations of cancelled shows.
//!
//! What a timer finds may have changed before its command runs. So every command here checks
//! the locked row again.

use events::{Command, ReservationId, SagaId, ScheduleId, Timestamp, reservation::CancelReason};
use mesh::{Caller, Execute, Refusal};
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

use crate::{
    Config,
    domain::Schedule,
    queries,
    unit_of_work::{Keys, UnitOfWork},
};

type Context<'a> = mesh::Context<'a, Config>;

/// Expire a hold if its time is up.
#[derive(Debug, Serialize, Deserialize)]
pub struct ExpireHold {
    /// The hold.
    pub reservation_id: ReservationId,
}

impl Command for ExpireHold {
    const ENDPOINT: &'static str = "reservation.expire";
    type Reply = ();
}

/// Cancel these reservations of a cancelled show. When none is left, mark the show as cancelled.
#[derive(Debug, Serialize, Deserialize)]
pub struct EmptyShow {
    /// The show.
    pub schedule_id: ScheduleId,
    /// Some reservations that still have seats; empty when there are no more.
    pub reservations: Vec<ReservationId>,
}

impl Command for EmptyShow {
    const ENDPOINT: &'static str = "reservation.empty_show";
    type Reply = ();
}

/// The holds whose time is up.
pub(crate) async fn due_holds(pool: PgPool, now: Timestamp) -> sqlx::Result<Vec<ExpireHold>> {
    let ids = queries::due_holds(&pool, now).await?;
    Ok(ids.into_iter().map(|reservation_id| ExpireHold { reservation_id }).collect())
}

/// The cancelled shows that may still have reservations.
pub(crate) async fn cancelled_shows(pool: PgPool, _now: Timestamp) -> sqlx::Result<Vec<EmptyShow>> {
    let shows = queries::cancelled_shows(&pool).await?;
    let empty = |(schedule_id, reservations)| EmptyShow { schedule_id, reservations };
    Ok(shows.into_iter().map(empty).collect())
}

impl Execute<ExpireHold> for UnitOfWork {
    fn keys(command: &ExpireHold, _caller: &Caller, keys: &mut Keys) {
        keys.ending.insert(command.reservation_id);
    }

    /// A payment may have confirmed or extended the hold since the timer looked.
    fn execute(&mut self, command: &ExpireHold, ctx: &mut Context<'_>) -> Result<(), Refusal> {
        self.expire(command.reservation_id, ctx);
        Ok(())
    }
}

impl Execute<EmptyShow> for UnitOfWork {
    fn keys(command: &EmptyShow, _caller: &Caller, keys: &mut Keys) {
        if command.reservations.is_empty() {
            keys.changing.insert(command.schedule_id);
        }
        keys.ending.extend(&command.reservations);
    }

    fn execute(&mut self, command: &EmptyShow, ctx: &mut Context<'_>) -> Result<(), Refusal> {
        for id in &command.reservations {
            if let Some(cancelled) = self.cancel(*id, CancelReason::ShowCancelled) {
                let saga_id = cancelled.payment_id.map_or(id.0, |payment_id| payment_id.0);
                if cancelled.payment_id.is_none() {
                    ctx.ends_saga_of(SagaId(saga_id), "compensated", Some("show_cancelled"));
                }
                ctx.concerns(self.reservations[id].traceparent.as_deref());
                ctx.emit_in(SagaId(saga_id), cancelled);
            }
        }
        // No hold was granted after the cancellation was stored, so none will appear any more.
        if command.reservations.is_empty()
            && let Some(schedule) = self.schedules.change(&command.schedule_id)
            && *schedule == Schedule::Cancelling
        {
            *schedule = Schedule::Cancelled;
        }
        Ok(())
    }
}
