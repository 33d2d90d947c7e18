//! The notification service: one message to a fan per subject and kind.

mod book;

use mesh::{Service, postgres::Postgres};
use sqlx::migrate::Migrator;

pub use book::Book;

/// The service.
pub const NAME: &str = "notification";

/// What the service remembers.
pub static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/notification");

/// The service's configuration.
#[derive(Debug, Clone, Default)]
pub struct Rules {}

/// The service, to be run on a [`Postgres`].
pub fn service() -> Service<Postgres<Book>> {
    Service::<Postgres<Book>>::new(NAME)
}
