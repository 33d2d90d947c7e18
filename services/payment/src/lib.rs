//! Payments: from a fan's request to an end that is never half an end.
//!
//! Owns payments. Keeps what it has heard of holds, so that it can refuse at once what cannot
//! succeed. It goes by the hold alone: a hold that lives can be paid, whatever became of the
//! place in the waiting room. When a hold runs out it knows by itself.
//!
//! | hears | and then |
//! |---|---|
//! | `reservation.created`, `.cancelled` | knows which holds can be paid |
//! | `reservation.confirmed` | `payment.completed` |
//! | `reservation.confirm_refused` | waits for the money to be back |
//! | `point.debit_refused` | `payment.failed` |
//! | `point.refunded` | `payment.failed` or `payment.refunded` |
//! | `user.withdrawal_requested` | `payment.withdrawal_cleared`, and none begins any more; or `.withdrawal_blocked` while one runs or a refund is due |
//! | `user.withdrawal_refused`, `.withdrawn` | payments may begin again, or never will |
//!
//! A payment that begins in the last minute of its hold tells
//! `payment.hold_extension_requested` too, in the same transaction.
//!
//! **Invariants.** No payment begins after its hold's original end. A reservation has at most one running or completed payment. A payment
//! ends COMPLETED only when its seats were confirmed, FAILED only when nothing was taken
//! or all is back, REFUNDED only after COMPLETED. Its id is the id of its saga.

mod domain;
mod handlers;
mod reads;
mod rows;
mod unit_of_work;
mod withdrawal;

use events::{payment, point, reservation, state::StateSales, user};
use mesh::{Allow, Service, postgres::Postgres};

pub use unit_of_work::{Keys, UnitOfWork};

/// What the simulation drives this service with.
#[cfg(feature = "sim")]
pub mod sim {
    pub use crate::{domain::Standing, unit_of_work::in_memory::Tables};
}

/// The service's name.
pub const NAME: &str = "payment";

/// The service's tables.
pub static MIGRATIONS: mesh::postgres::Migrations = mesh::migrations!["payment/0101_holds_and_payments.sql", "payment/0102_called_off.sql"];

/// Nothing of this service can be configured: every deadline belongs to others.
#[derive(Debug, Clone, Default)]
pub struct Config {}

/// What a request to pay may tell.
const ANSWERS: &[&str] = &["payment.requested", "payment.hold_extension_requested"];

/// What this service hears and answers.
pub fn service() -> Service<Postgres<UnitOfWork>> {
    Service::<Postgres<UnitOfWork>>::new(NAME)
        .answers::<payment::Pay>(Allow::User, ANSWERS)
        .reads::<payment::GetPayment, _, _>(Allow::User, reads::get)
        .reads::<payment::FindPayments, _, _>(Allow::User, reads::find)
        .reads::<StateSales, _, _>(Allow::Service, reads::stated)
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
}
