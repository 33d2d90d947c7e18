//! The user service: accounts, their roles and sessions.
//!
//! It owns accounts, their sessions, and the keys that sign access tokens. It publishes the
//! public keys, so that every service verifies tokens by itself.
//!
//! | consumes | emits |
//! |---|---|
//! | `payment.`, `reservation.`, `point.withdrawal_cleared`, `.withdrawal_blocked` | with the last of the three: `user.withdrawn` or `user.withdrawal_refused` |
//!
//! | command or query | emits |
//! |---|---|
//! | `user.register` | `user.registered` |
//! | `user.withdraw` | `user.withdrawal_requested`; after 30 s unanswered `user.withdrawal_refused` |
//! | `user.grant_role` | `user.role_granted` |
//! | `user.log_in`, `.refresh`, `.jwks` | nothing |
//!
//! **Invariants.** An address has at most one account; the unique constraint decides. No
//! password and no token is stored, only hashes of them. A refresh token is valid once: one
//! that is used again ends all sessions that descend from the same log-in. An attempt to log
//! in counts as failed until it has succeeded. An account has one attempt to close it at a
//! time, which is decided once. A closed account has no address, no password and no session,
//! and cannot be opened again.

mod config;
mod domain;
mod handlers;
mod inside;
mod queries;
mod ring;
mod secrets;
mod signing_keys;
mod unit_of_work;
mod withdrawal;

use std::sync::Arc;
use std::time::Duration;

use events::{payment, point, reservation, user};
use mesh::{Allow, Link, Running, Service, clock, postgres::Postgres};
use sqlx::PgPool;

pub use config::Config;
pub use domain::LogInLimit;
pub use queries::{request_account, requests_are_granted};
pub use ring::{Ring, RingError};
pub use secrets::Hashing;
pub use unit_of_work::{Keys, UnitOfWork};

/// What the simulation needs of this service.
#[cfg(feature = "sim")]
pub mod sim {
    pub use crate::{
        domain::Secret,
        inside::{AddAccount, RefuseWithdrawal},
        unit_of_work::in_memory::Tables,
    };
}

/// The service's name.
pub const NAME: &str = "user";

/// The service's tables.
pub static MIGRATIONS: mesh::postgres::Migrations = mesh::migrations!["user/0101_accounts.sql"];

/// How often the service looks for wished accounts.
const WISHES_EVERY: Duration = Duration::from_millis(250);
/// How often the service looks for expired rows.
const TIDY_EVERY: Duration = Duration::from_secs(5);
/// How often the service looks for attempts that were not answered in time.
const UNANSWERED_EVERY: Duration = Duration::from_millis(200);
/// Creates or loads the signing keys. This is optional, for the first token loads them. Called
/// before the start, it reports in time that they cannot be loaded.
///
/// # Errors
/// When the database does not answer, or a stored key is broken.
pub async fn prepare(pool: &PgPool, config: &Config) -> Result<(), RingError> {
    config.ring().load(pool, clock::now()).await.map(drop)
}

/// The events, commands, queries and timers of this service.
pub fn service() -> Service<Postgres<UnitOfWork>> {
    const WITHDRAWN: &str = "user.withdrawn";
    const REFUSED: &str = "user.withdrawal_refused";
    Service::<Postgres<UnitOfWork>>::new(NAME)
        .queries::<user::Register, _, _>(Allow::Newcomer, queries::register)
        .queries::<user::LogIn, _, _>(Allow::Newcomer, queries::log_in)
        .queries::<user::Refresh, _, _>(Allow::Newcomer, queries::refresh)
        .queries::<user::Jwks, _, _>(Allow::Anyone, queries::jwks)
        .queries::<user::GetWithdrawal, _, _>(Allow::User, queries::withdrawal)
        .executes::<user::Withdraw>(Allow::User, &["user.withdrawal_requested"])
        .executes::<user::GrantRole>(Allow::Role(user::Role::Operator), &["user.role_granted"])
        .executes::<inside::AddAccount>(Allow::Inside, &["user.registered"])
        .executes::<inside::GrantWish>(Allow::Inside, &["user.registered", "user.role_granted"])
        .executes::<inside::BeginLogIn>(Allow::Inside, &[])
        .executes::<inside::OpenSession>(Allow::Inside, &[])
        .executes::<inside::RotateRefresh>(Allow::Inside, &[])
        .executes::<inside::RefuseWithdrawal>(Allow::Inside, &[REFUSED])
        .executes::<inside::Tidy>(Allow::Inside, &[])
        .consumes::<payment::PaymentWithdrawalCleared>(&[WITHDRAWN, REFUSED])
        .consumes::<payment::PaymentWithdrawalBlocked>(&[REFUSED])
        .consumes::<reservation::ReservationWithdrawalCleared>(&[WITHDRAWN, REFUSED])
        .consumes::<reservation::ReservationWithdrawalBlocked>(&[REFUSED])
        .consumes::<point::PointWithdrawalCleared>(&[WITHDRAWN, REFUSED])
        .consumes::<point::PointWithdrawalBlocked>(&[REFUSED])
        .every::<inside::GrantWish, _, _>("wishes", WISHES_EVERY, queries::wishes)
        .every_with::<inside::RefuseWithdrawal, _, _>(
            "withdrawals",
            UNANSWERED_EVERY,
            queries::unanswered,
        )
        .every::<inside::Tidy, _, _>("tidy", TIDY_EVERY, queries::due_tidy)
}

/// Starts the service. All of the runtime for its engine is compiled in this crate, once, and
/// not again in every program that starts it.
pub fn start(engine: Arc<Postgres<UnitOfWork>>, link: Link) -> Running {
    mesh::start(service(), engine, link)
}
