//! Reservations: the one judge of who owns a seat.
//!
//! **Owns** the seats of each schedule, the reservations that hold or own them, and which
//! passes are void because their places have ended. Who is ACTIVE is what a signed pass says.
//!
//! **Hears** what is put on sale and called off, which places have ended, which payments began
//! in the last minute of their holds, which money was taken or is back, and who wants to leave.
//! **Says** that seats are held, sold, or free again, and that a
//! payment came too late.
//!
//! Invariants:
//! - A seat has at most one owner: it is one row, with room for one.
//! - Seats are given all together or not at all.
//! - A hold ends within a second of its time and never lives past its hard cap.
//! - Whoever frees or confirms presents owner and `hold_version`, so a late message of a
//!   former owner never touches the next one.
//! - Money that was taken is answered, once: by a confirmation or by a refusal that has it
//!   returned.
//! - A fan who was let go holds, buys and gives back nothing more, until that is refused.

mod domain;
mod handlers;
mod reads;
mod timers;
mod unit_of_work;
mod withdrawal;

#[cfg(test)]
mod tests;

use std::time::Duration;

use events::{
    Event, concert, payment, point, queue,
    reservation::{
        Cancel, FindReservations, GetReservation, ReservationCancelled, ReservationConfirmRefused,
        ReservationConfirmed, ReservationCreated, ReservationExpired, ReservationWithdrawalBlocked,
        ReservationWithdrawalCleared, Reserve,
    },
    state::StateSeats,
    user,
};
use mesh::{Allow, QueryContext, Service, postgres::Postgres};

pub use unit_of_work::{Keys, UnitOfWork};

/// What the simulation drives this service with.
#[cfg(feature = "sim")]
pub mod sim {
    pub use crate::{
        domain::{Pass, Refund, Reservation, Schedule},
        handlers::Hold,
        timers::{EmptyShow, ExpireHold},
        unit_of_work::in_memory::Tables,
    };
}

/// The service's name: its stream, its database, its user.
pub const NAME: &str = "reservation";

/// The service's tables.
pub static MIGRATIONS: mesh::postgres::Migrations = mesh::migrations!["reservation/0101_reservation.sql", "reservation/0102_terms_and_ends.sql"];

/// How often the clock is asked what has come due.
const TICK: Duration = Duration::from_millis(200);

/// What may be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Seconds that a hold lives on, once, when its payment has begun in its last minute,
    /// and by which it may outlive its time at most.
    pub grace_secs: u32,
    /// Deliveries after which money for a reservation that was never heard of is returned.
    pub unknown_tries_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { grace_secs: 60, unknown_tries_max: 10 }
    }
}

/// The service.
pub fn service() -> Service<Postgres<UnitOfWork>> {
    const CREATED: &str = ReservationCreated::NAME;
    const CONFIRMED: &str = ReservationConfirmed::NAME;
    const REFUSED: &str = ReservationConfirmRefused::NAME;
    const EXPIRED: &str = ReservationExpired::NAME;
    const CANCELLED: &str = ReservationCancelled::NAME;
    Service::<Postgres<UnitOfWork>>::new(NAME)
        .consumes::<concert::ScheduleOpened>(&[])
        .consumes::<concert::ScheduleCancelled>(&[])
        .consumes::<queue::QueueExpired>(&[])
        .consumes::<payment::PaymentHoldExtensionRequested>(&[])
        .consumes::<point::PointDebited>(&[CONFIRMED, REFUSED, EXPIRED])
        .consumes::<payment::PaymentRefunded>(&[])
        .consumes::<user::UserWithdrawalRequested>(&[
            ReservationWithdrawalCleared::NAME,
            ReservationWithdrawalBlocked::NAME,
        ])
        .consumes::<user::UserWithdrawalRefused>(&[])
        .consumes::<user::UserWithdrawn>(&[CANCELLED])
        .reads::<Reserve, _, _>(Allow::User, reads::reserve)
        .answers::<handlers::Hold>(Allow::Inside, &[CREATED])
        .answers::<Cancel>(Allow::User, &[CANCELLED])
        .reads::<GetReservation, _, _>(Allow::User, reads::get)
        .reads::<FindReservations, _, _>(Allow::User, reads::find)
        .reads::<StateSeats, _, _>(
            Allow::Service,
            |ctx: QueryContext<Postgres<UnitOfWork>>, command, _| async move {
                reads::stated(ctx.pool(), command).await
            },
        )
        .answers::<timers::ExpireHold>(Allow::Inside, &[EXPIRED])
        .answers::<timers::EmptyShow>(Allow::Inside, &[CANCELLED])
        .every("expire", TICK, timers::due_holds)
        .every("empty", TICK, timers::cancelled_shows)
}
