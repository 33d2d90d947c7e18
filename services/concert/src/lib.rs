//! Concerts, their schedules and seat plans, and the map of which seats are free.
//!
//! | | in PostgreSQL: [`service`] | in Valkey: [`map_service`] |
//! |---|---|---|
//! | owns | concerts, schedules, seat plans | a copy of the seats' states |
//! | consumes | `user.role_granted`, `user.withdrawn` (reads the stream) | `reservation.created`, `.confirmed`, `.expired`, `.cancelled`; `concert.schedule_cancelled` |
//! | emits | `concert.schedule_opened`, `.schedule_cancelled`, `.organizer_added`, `.organizer_removed` | nothing; announces each change of the map |
//!
//! The two halves run together and never call each other; they share the seat plans.
//!
//! **Invariants:**
//! 1. Concerts and seat plans never change once stored; a schedule changes once, when it
//!    is cancelled. Only the organizers of a concert may change it, or an operator in their
//!    place. A concert keeps its last organizer, unless that account is closed; then an
//!    operator may add another.
//! 2. A seat plan is stored whole or not at all ([`plan`]).
//! 3. The seat map is a copy: the reservation service decides, this service shows. For each
//!    seat the update with the highest (hold version, stage) wins, so the order of arrival
//!    does not matter, and a late message of a former owner changes nothing.
//! 4. The map's sequence grows by one with every visible change, and with nothing else. The
//!    map at one sequence and every change after it give the current map.

mod accounts;
mod config;
mod domain;
mod handlers;
mod map;
pub mod plan;
mod plan_store;
mod queries;
mod seats;
mod team;
#[cfg(test)]
mod tests;
mod unit_of_work;

use std::sync::Arc;

use events::{
    Event,
    concert::{
        AddOrganizer, CancelSchedule, CreateConcert, FindConcerts, FindSchedules, GetConcert,
        GetOrganizers, GetPlan, OpenSchedule, OrganizerAdded, OrganizerRemoved, RemoveOrganizer,
        ScheduleCancelled, ScheduleOpened, SeatPlan,
    },
    state::StateSchedules,
    user::Role,
};
use mesh::{Allow, Link, QueryContext, Running, Service, postgres::Postgres};

pub use config::Config;
pub use seats::{MapConfig, REBUILT_FROM, SeatMaps, map_service, read_model, start_map};
pub use unit_of_work::{Keys, UnitOfWork};

/// The name of this service.
pub const NAME: &str = "concert";

/// The tables of this service.
pub static MIGRATIONS: mesh::postgres::Migrations = mesh::migrations![
    "concert/0101_concerts_and_schedules.sql",
    "concert/0102_seat_states.sql",
    "concert/0103_seat_map_in_valkey.sql",
    "concert/0104_organizers.sql"
];

/// Account events that are handled before the reader's position is saved.
const READ_BATCH: usize = 100;

type Ctx = QueryContext<Postgres<UnitOfWork>>;

/// The half of this service that answers commands.
pub fn service() -> Service<Postgres<UnitOfWork>> {
    // An operator may do in an organizer's place whatever the organizer may do.
    let organizer = Allow::OneOf(&[Role::Organizer, Role::Operator]);
    let plans = Arc::new(plan_store::Plans::default());
    Service::<Postgres<UnitOfWork>>::new(NAME)
        .executes::<CreateConcert>(organizer, &[])
        .executes::<OpenSchedule>(organizer, &[ScheduleOpened::NAME])
        .executes::<CancelSchedule>(organizer, &[ScheduleCancelled::NAME])
        .executes::<AddOrganizer>(organizer, &[OrganizerAdded::NAME])
        .executes::<RemoveOrganizer>(organizer, &[OrganizerRemoved::NAME])
        .executes::<accounts::NoteAccount>(Allow::Inside, &[OrganizerRemoved::NAME])
        .follows(&accounts::FOLLOWED, READ_BATCH, |ctx, read| async move {
            accounts::take(ctx, &read).await
        })
        .queries::<GetOrganizers, _, _>(organizer, |ctx: Ctx, command, meta| async move {
            queries::organizers(ctx.pool(), command, &meta.caller).await
        })
        .queries::<FindConcerts, _, _>(Allow::Anyone, |ctx: Ctx, command, _| async move {
            queries::concerts(ctx.pool(), command).await
        })
        .queries::<GetConcert, _, _>(Allow::Anyone, |ctx: Ctx, command, _| async move {
            queries::concert(ctx.pool(), command).await
        })
        .queries::<FindSchedules, _, _>(Allow::Anyone, |ctx: Ctx, command, _| async move {
            queries::schedules(ctx.pool(), command).await
        })
        .queries::<StateSchedules, _, _>(Allow::Service, |ctx: Ctx, command, _| async move {
            queries::stated(ctx.pool(), command).await
        })
        .queries::<GetPlan, _, _>(Allow::Anyone, move |ctx: Ctx, command, _| {
            let plans = plans.clone();
            async move {
                let GetPlan { schedule_id } = command;
                let seats = plans.of(schedule_id, ctx.pool()).await?.to_vec();
                Ok(SeatPlan { schedule_id, seats })
            }
        })
}

/// Starts the service. All of the runtime for its engine is compiled in this crate, once, and
/// not again in every program that starts it.
pub fn start(engine: Arc<Postgres<UnitOfWork>>, link: Link) -> Running {
    mesh::start(service(), engine, link)
}
