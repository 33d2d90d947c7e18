//! Payments, from a fan's request to the final outcome. No payment ends half done.
//!
//! Owns payments. Keeps a copy of the holds, so that it can refuse at once what cannot
//! succeed. Only the hold counts: a live hold can be paid, whatever became of the place in
//! the waiting room. No event is needed to learn that a hold has run out: the copy has its end.
//!
//! | consumes | result |
//! |---|---|
//! | `reservation.created`, `.cancelled` | knows which holds can be paid |
//! | `reservation.confirmed` | `payment.completed` |
//! | `reservation.confirm_refused` | waits for the refund |
//! | `point.debit_refused` | `payment.failed` |
//! | `point.refunded` | `payment.failed` or `payment.refunded` |
//! | `user.withdrawal_requested` | `payment.withdrawal_cleared` or `.withdrawal_blocked` |
//! | `user.withdrawal_refused`, `.withdrawn` | payments may begin again, or never will |
//!
//! A withdrawal is blocked while a payment runs or a refund is due. Once it is cleared, no new
//! payment begins.
//!
//! A payment that begins in the last minute of its hold also emits
//! `payment.hold_extension_requested`, in the same transaction.
//!
//! **Invariants.** No payment begins after its hold's original end. A reservation has at most
//! one running or completed payment. A payment ends COMPLETED only when its seats were
//! confirmed, FAILED only when nothing was taken or everything was given back, REFUNDED only
//! after COMPLETED. The payment's id is the id of its saga.

mod config;
mod domain;
mod handlers;
mod metrics;
mod queries;
mod rows;
mod unit_of_work;
mod withdrawal;

use std::sync::Arc;

use events::{payment, point, reservation, state::StateSales, user};
use mesh::{Allow, Link, Running, Service, postgres::Postgres};

pub use config::Config;
pub use unit_of_work::{Keys, UnitOfWork};

/// What the simulation needs of this service.
#[cfg(feature = "sim")]
pub mod sim {
    pub use crate::{domain::Standing, unit_of_work::in_memory::Tables};
}

/// The service's name.
pub const NAME: &str = "payment";

/// The service's tables.
pub static MIGRATIONS: mesh::postgres::Migrations = mesh::migrations![
    "payment/0101_holds_and_payments.sql",
    "payment/0102_called_off.sql",
    "payment/0103_traces_of_holds.sql",
];

/// The events that a request to pay may emit.
const EMITTED_BY_PAY: &[&str] = &["payment.requested", "payment.hold_extension_requested"];

/// The events this service consumes, and the commands and queries it answers.
pub fn service() -> Service<Postgres<UnitOfWork>> {
    Service::<Postgres<UnitOfWork>>::new(NAME)
        .executes::<payment::Pay>(Allow::User, EMITTED_BY_PAY)
        .queries::<payment::GetPayment, _, _>(Allow::User, queries::get)
        .queries::<payment::FindPayments, _, _>(Allow::User, queries::find)
        .queries::<StateSales, _, _>(Allow::Service, queries::stated)
        .consumes::<reservation::ReservationCreated>(&[])
        .consumes::<reservation::ReservationConfirmed>(&["payment.completed"])
        .consumes::<reservation::ReservationConfirmRefused>(&[])
        .consumes::<reservation::ReservationCancelled>(&[])
        .consumes::<point::PointDebitRefused>(&["payment.failed"])
        .consumes::<point::PointRefunded>(&["payment.failed", "payment.refunded"])
        .consumes::<user::UserWithdrawalRequested>(&[
            "payment.withdrawal_cleared",
            "payment.withdrawal_blocked",
        ])
        .consumes::<user::UserWithdrawalRefused>(&[])
        .consumes::<user::UserWithdrawn>(&[])
        .observes(&metrics::PAYMENTS, metrics::ENDS)
        .observes(&metrics::DURATION, metrics::OUTCOMES)
        .samples(metrics::GAUGES, |engine: Arc<Postgres<UnitOfWork>>| async move {
            metrics::sample(engine.pool()).await
        })
}

/// Starts the service. All of the runtime for its engine is compiled in this crate, once, and
/// not again in every program that starts it.
pub fn start(engine: Arc<Postgres<UnitOfWork>>, link: Link) -> Running {
    mesh::start(service(), engine, link)
}
