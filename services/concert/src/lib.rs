//! Concerts, their schedules and seat plans, and the map of which seats are free.
//!
//! | | in PostgreSQL: [`service`] | in Valkey: [`map_service`] |
//! |---|---|---|
//! | owns | concerts, schedules, seat plans | a copy of the seats' states |
//! | hears | `user.role_granted`, `user.withdrawn` (reads the stream) | `reservation.created`, `.confirmed`, `.expired`, `.cancelled`; `concert.schedule_cancelled` |
//! | says | `concert.schedule_opened`, `.schedule_cancelled`, `.organizer_added`, `.organizer_removed` | to whoever listens: how the map changes |
//!
//! The two halves run together and never ask each other; what they share are the plans.
//!
//! **Invariants:**
//! 1. Concerts and seat plans never change once stored; a schedule changes once, when it
//!    is cancelled. Only the organizers of a concert act on it, and operators in their place.
//!    A concert keeps its last organizer, unless that account is closed: then it is in the
//!    operators' hands, who may add another.
//! 2. A seat plan is stored whole or not at all ([`plan`]).
//! 3. The seat map is a copy: the reservation service judges, this service shows. Of each
//!    seat the word with the highest (hold version, stage) remains, so the order of
//!    arrival does not matter, and a late message of a former owner changes nothing.
//! 4. The map's sequence grows by one with every change that can be seen, and by nothing
//!    else. Whoever has the map of one sequence and every change after it has the map.

mod accounts;
mod domain;
mod handlers;
mod map;
pub mod plan;
mod plan_store;
mod reads;
pub mod seats;
mod team;
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
use mesh::{Allow, QueryContext, Service, postgres::Postgres};

pub use seats::{MADE_OF, MapConfig, SeatMaps, map_service};
pub use unit_of_work::{Keys, UnitOfWork};

/// The name of this service.
pub const NAME: &str = "concert";

/// The tables of this service.
pub static MIGRATIONS: mesh::postgres::Migrations = mesh::migrations!["concert/0101_concerts_and_schedules.sql", "concert/0102_seat_states.sql", "concert/0103_seat_map_in_valkey.sql", "concert/0104_organizers.sql"];

/// Events of accounts that are noted before it is noted how far.
const PIECE: usize = 100;

/// What can be configured.
#[derive(Debug, Clone)]
pub struct Config {
    /// Bytes of a `concert.schedule_opened` at most. What the broker would not carry must
    /// be refused while somebody is there to hear it.
    pub opened_bytes_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        // `max_payload` of the broker is 8 MiB, headers included.
        Self { opened_bytes_max: 7_000_000 }
    }
}

type Here = QueryContext<Postgres<UnitOfWork>>;

/// The half of this service that decides.
pub fn service() -> Service<Postgres<UnitOfWork>> {
    // Whatever an organizer may do, an operator may do in their place.
    let organizer = Allow::OneOf(&[Role::Organizer, Role::Operator]);
    let plans = Arc::new(plan_store::Plans::default());
    Service::<Postgres<UnitOfWork>>::new(NAME)
        .answers::<CreateConcert>(organizer, &[])
        .answers::<OpenSchedule>(organizer, &[ScheduleOpened::NAME])
        .answers::<CancelSchedule>(organizer, &[ScheduleCancelled::NAME])
        .answers::<AddOrganizer>(organizer, &[OrganizerAdded::NAME])
        .answers::<RemoveOrganizer>(organizer, &[OrganizerRemoved::NAME])
        .answers::<accounts::NoteAccount>(Allow::Inside, &[OrganizerRemoved::NAME])
        .follows(
            &accounts::FOLLOWED,
            PIECE,
            |ctx, read| async move { accounts::take(ctx, &read).await },
        )
        .reads::<GetOrganizers, _, _>(organizer, |ctx: Here, command, meta| async move {
            reads::organizers(ctx.pool(), command, &meta.caller).await
        })
        .reads::<FindConcerts, _, _>(Allow::Anyone, |ctx: Here, command, _| async move {
            reads::concerts(ctx.pool(), command).await
        })
        .reads::<GetConcert, _, _>(Allow::Anyone, |ctx: Here, command, _| async move {
            reads::concert(ctx.pool(), command).await
        })
        .reads::<FindSchedules, _, _>(Allow::Anyone, |ctx: Here, command, _| async move {
            reads::schedules(ctx.pool(), command).await
        })
        .reads::<StateSchedules, _, _>(Allow::Service, |ctx: Here, command, _| async move {
            reads::stated(ctx.pool(), command).await
        })
        .reads::<GetPlan, _, _>(Allow::Anyone, move |ctx: Here, command, _| {
            let plans = plans.clone();
            async move {
                let GetPlan { schedule_id } = command;
                let seats = plans.of(schedule_id, ctx.pool()).await?.to_vec();
                Ok(SeatPlan { schedule_id, seats })
            }
        })
}
