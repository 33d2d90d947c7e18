//! Wallets and the ledger: every point is accounted for, twice.
//!
//! Owns wallets and the entries that explain them.
//!
//! | hears | and then |
//! |---|---|
//! | `user.registered` | opens the wallet |
//! | `user.withdrawal_requested` | `point.withdrawal_cleared`, and nothing is charged or taken any more; or `.withdrawal_blocked` while points are left |
//! | `user.withdrawal_refused` | the wallet is open again |
//! | `user.withdrawn` | closes the wallet for good; `point.forfeited` if points are given up |
//! | `payment.requested` | `point.debited` or `point.debit_refused` |
//! | `reservation.confirm_refused` | `point.refunded{hold_gone}` |
//! | `reservation.cancelled` of a paid reservation | `point.refunded{cancelled}` |
//!
//! **Invariants.** No balance is below zero. The entries of a wallet add up to its
//! balance, and every entry has its other side. A payment is taken at most once and given
//! back at most once, and only what was taken is given back. It is given back also to a wallet
//! that is closed; what lies in one then is listed in `stranded`, and logged.

mod domain;
mod handlers;
mod reads;
mod unit_of_work;
mod withdrawal;

use events::{payment, point, reservation, user};
use mesh::{Allow, Service, postgres::Postgres};

pub use unit_of_work::{Keys, UnitOfWork};

/// What the simulation drives this service with.
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
pub static MIGRATIONS: mesh::postgres::Migrations = mesh::migrations!["point/0101_wallets_and_ledger.sql"];

/// What this service's decisions depend on.
#[derive(Debug, Clone)]
pub struct Config {
    /// Points that one charge buys at most.
    pub charge_max: i64,
    /// Points that a charge may fill a wallet up to. Points given back may exceed it.
    pub balance_max: i64,
    /// How often a payment is tried before a wallet that nobody has heard of counts as
    /// missing. Until then `user.registered` is taken to be on its way.
    pub unknown_wallet_attempts: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { charge_max: 10_000_000, balance_max: 1_000_000_000_000, unknown_wallet_attempts: 10 }
    }
}

/// What this service hears and answers.
pub fn service() -> Service<Postgres<UnitOfWork>> {
    Service::<Postgres<UnitOfWork>>::new(NAME)
        .answers::<point::Charge>(Allow::User, &["point.charged"])
        .reads::<point::GetBalance, _, _>(Allow::User, reads::balance)
        .reads::<point::FindEntries, _, _>(Allow::User, reads::entries)
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
