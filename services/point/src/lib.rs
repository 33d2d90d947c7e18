//! Wallets and their double-entry ledger.
//!
//! Owns wallets and the entries that explain them.
//!
//! | consumes | result |
//! |---|---|
//! | `user.registered` | opens the wallet |
//! | `user.withdrawal_requested` | `point.withdrawal_cleared` or `.withdrawal_blocked` |
//! | `user.withdrawal_refused` | the wallet is open again |
//! | `user.withdrawn` | closes the wallet for good; `point.forfeited` if points are given up |
//! | `payment.requested` | `point.debited` or `point.debit_refused` |
//! | `reservation.confirm_refused` | `point.refunded{hold_gone}` |
//! | `reservation.cancelled` of a paid reservation | `point.refunded{cancelled}` |
//!
//! A withdrawal is blocked while points are left. Once it is cleared, the wallet takes no
//! charge and no debit.
//!
//! **Invariants.** No balance is below zero. The entries of a wallet add up to its balance,
//! and every entry has its other side. A payment is taken at most once and given back at most
//! once, and only what was taken is given back. A refund goes to a closed wallet too; points
//! that lie in a closed wallet are listed in `stranded`, and logged.

mod config;
mod domain;
mod handlers;
mod queries;
mod unit_of_work;
mod withdrawal;

use std::sync::Arc;

use events::{payment, point, reservation, user};
use mesh::{Allow, Link, Running, Service, postgres::Postgres};

pub use config::Config;
pub use unit_of_work::{Keys, UnitOfWork};

/// What the simulation needs of this service.
#[cfg(feature = "sim")]
pub mod sim {
    pub use crate::{
        domain::{Entry, WalletState},
        unit_of_work::in_memory::Tables,
    };
}

/// The service's name.
pub const NAME: &str = "point";

/// The service's tables.
pub static MIGRATIONS: mesh::postgres::Migrations =
    mesh::migrations!["point/0101_wallets_and_ledger.sql"];

/// The events this service consumes, and the commands and queries it answers.
pub fn service() -> Service<Postgres<UnitOfWork>> {
    Service::<Postgres<UnitOfWork>>::new(NAME)
        .executes::<point::Charge>(Allow::User, &["point.charged"])
        .queries::<point::GetBalance, _, _>(Allow::User, queries::balance)
        .queries::<point::FindEntries, _, _>(Allow::User, queries::entries)
        .consumes::<user::UserRegistered>(&[])
        .consumes::<user::UserWithdrawalRequested>(&[
            "point.withdrawal_cleared",
            "point.withdrawal_blocked",
        ])
        .consumes::<user::UserWithdrawalRefused>(&[])
        .consumes::<user::UserWithdrawn>(&["point.forfeited"])
        .consumes::<payment::PaymentRequested>(&["point.debited", "point.debit_refused"])
        .consumes::<reservation::ReservationConfirmRefused>(&["point.refunded"])
        .consumes::<reservation::ReservationCancelled>(&["point.refunded"])
}

/// Starts the service. All of the runtime for its engine is compiled in this crate, once, and
/// not again in every program that starts it.
pub fn start(engine: Arc<Postgres<UnitOfWork>>, link: Link) -> Running {
    mesh::start(service(), engine, link)
}
