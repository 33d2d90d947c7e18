//! Concerts, their schedules and seat plans, and the map of which seats are free.
//!
//! | | |
//! |---|---|
//! | owns | concerts, schedules, seat plans; a copy of the seats' states |
//! | hears | `reservation.created`, `.confirmed`, `.expired`, `.cancelled` |
//! | says | `concert.schedule_opened`, `concert.schedule_cancelled` |
//!
//! **Invariants:**
//! 1. Concerts and seat plans never change once stored; a schedule changes once, when it
//!    is cancelled. Only the organizer who entered a concert acts on it.
//! 2. A seat plan is stored whole or not at all ([`plan`]).
//! 3. The seat map is a copy: the reservation service judges, this service shows. Of each
//!    seat the word with the highest (hold version, stage) remains, so the order of
//!    arrival does not matter, and a late message of a former owner changes nothing.

mod book;
mod domain;
mod handlers;
mod map;
pub mod plan;
mod reads;

use std::sync::Arc;

use events::{
    Event,
    concert::{
        CancelSchedule, CreateConcert, FindConcerts, FindSchedules, GetConcert, GetSeats,
        OpenSchedule, ScheduleCancelled, ScheduleOpened,
    },
    reservation::{
        ReservationCancelled, ReservationConfirmed, ReservationCreated, ReservationExpired,
    },
    user::Role,
};
use mesh::{Allow, Desk, Service, postgres::Postgres};

pub use book::{Book, Keys};

/// The name of this service.
pub const NAME: &str = "concert";

/// The tables of this service.
pub static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("../../migrations/concert");

/// What can be configured.
#[derive(Debug, Clone)]
pub struct Rules {
    /// Bytes of a `concert.schedule_opened` at most. What the broker would not carry must
    /// be refused while somebody is there to hear it.
    pub opened_bytes_max: usize,
}

impl Default for Rules {
    fn default() -> Self {
        // `max_payload` of the broker is 8 MiB, headers included.
        Self { opened_bytes_max: 7_000_000 }
    }
}

type Here = Desk<Postgres<Book>>;

/// What this service does.
pub fn service() -> Service<Postgres<Book>> {
    let organizer = Allow::Role(Role::Organizer);
    let plans = Arc::new(reads::Plans::default());
    Service::<Postgres<Book>>::new(NAME)
        .hears::<ReservationCreated>(&[])
        .hears::<ReservationConfirmed>(&[])
        .hears::<ReservationExpired>(&[])
        .hears::<ReservationCancelled>(&[])
        .answers::<CreateConcert>(organizer, &[])
        .answers::<OpenSchedule>(organizer, &[ScheduleOpened::FACT])
        .answers::<CancelSchedule>(organizer, &[ScheduleCancelled::FACT])
        .reads::<FindConcerts, _, _>(Allow::Anyone, |desk: Here, command, _| async move {
            reads::concerts(desk.pool(), command).await
        })
        .reads::<GetConcert, _, _>(Allow::Anyone, |desk: Here, command, _| async move {
            reads::concert(desk.pool(), command).await
        })
        .reads::<FindSchedules, _, _>(Allow::Anyone, |desk: Here, command, _| async move {
            reads::schedules(desk.pool(), command).await
        })
        .reads::<GetSeats, _, _>(Allow::Anyone, move |desk: Here, command, _| {
            let plans = plans.clone();
            async move { reads::seats(desk.pool(), &plans, command).await }
        })
}
