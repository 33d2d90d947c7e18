//! The audit service: what happened in each saga, what is still to come, and what never
//! should have happened.

pub mod auditor;
mod book;
pub mod flows;
mod heard;
pub mod timeline;

use mesh::{Service, postgres::Postgres};
use sqlx::migrate::Migrator;

pub use auditor::Auditor;
pub use book::Book;
pub use heard::Heard;
pub use timeline::Progress;

/// The service.
pub const NAME: &str = "audit";

/// What the service remembers.
pub static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/audit");

/// The service's configuration.
#[derive(Debug, Clone, Default)]
pub struct Rules {}

/// The service, to be run on a [`Postgres`].
pub fn service() -> Service<Postgres<Book>> {
    Service::<Postgres<Book>>::new(NAME)
}
