//! Reservations: the service that alone decides who owns a seat.
//!
//! **Owns** the seats of each schedule, the reservations that hold or own them, and the ended
//! places, whose passes are void. A signed pass says that a fan is ACTIVE.
//!
//! **Consumes** schedules opened and cancelled, ended places, payments that began in the last
//! minute of their holds, debits, refunds and withdrawals. **Emits** that seats are held, sold
//! or free again, that a payment came too late, and its answer to a withdrawal.
//!
//! Invariants:
//! - A seat has at most one owner: it is one row, with room for one owner.
//! - The seats of a request are granted together or not at all.
//! - A hold ends within a second of its end time and never lives past its hard cap.
//! - Every step that frees or confirms seats presents the owner and `hold_version`, so a late
//!   message of a former owner never touches the next one.
//! - Every debit is answered once: by a confirmation, or by a refusal that leads to a refund.
//! - A fan whose withdrawal is cleared holds, buys and gives back nothing more, until the
//!   withdrawal is refused.

mod config;
mod domain;
mod handlers;
mod queries;
mod timers;
mod unit_of_work;
mod withdrawal;

#[cfg(test)]
mod tests;

use std::sync::Arc;
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
use mesh::{Allow, Link, QueryContext, Running, Service, metrics::Metric, postgres::Postgres};

pub use config::Config;
pub use unit_of_work::{Keys, UnitOfWork};

/// What the simulation needs of this service.
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
pub static MIGRATIONS: mesh::postgres::Migrations = mesh::migrations![
    "reservation/0101_reservation.sql",
    "reservation/0102_terms_and_ends.sql",
    "reservation/0103_traces_of_reservations.sql",
];

/// How often the timers look for due holds and cancelled shows.
const TICK: Duration = Duration::from_millis(200);

/// What became of holds. A confirmed reservation that is given back is cancelled as well.
static HOLDS: Metric = Metric::counter(
    "onsale_holds",
    "Holds that were created, and reservations that were confirmed, expired or cancelled",
    &["state"],
);

/// The events this service consumes, the commands and queries it answers, and its timers.
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
        .queries::<Reserve, _, _>(Allow::User, queries::reserve)
        .executes::<handlers::Hold>(Allow::Inside, &[CREATED])
        .executes::<Cancel>(Allow::User, &[CANCELLED])
        .queries::<GetReservation, _, _>(Allow::User, queries::get)
        .queries::<FindReservations, _, _>(Allow::User, queries::find)
        .queries::<StateSeats, _, _>(
            Allow::Service,
            |ctx: QueryContext<Postgres<UnitOfWork>>, query, _| async move {
                queries::stated(ctx.pool(), query).await
            },
        )
        .executes::<timers::ExpireHold>(Allow::Inside, &[EXPIRED])
        .executes::<timers::EmptyShow>(Allow::Inside, &[CANCELLED])
        .every("expire", TICK, timers::due_holds)
        .every("empty", TICK, timers::cancelled_shows)
        .counts(CREATED, &HOLDS, &["created"])
        .counts(CONFIRMED, &HOLDS, &["confirmed"])
        .counts(EXPIRED, &HOLDS, &["expired"])
        .counts(CANCELLED, &HOLDS, &["cancelled"])
}

/// Starts the service. All of the runtime for its engine is compiled in this crate, once, and
/// not again in every program that starts it.
pub fn start(engine: Arc<Postgres<UnitOfWork>>, link: Link) -> Running {
    mesh::start(service(), engine, link)
}
