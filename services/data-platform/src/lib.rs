//! The data-platform service: sales facts handed to the data platform, in order.

mod book;

use mesh::{Service, postgres::Postgres};
use sqlx::migrate::Migrator;

pub use book::Book;

/// The service.
pub const NAME: &str = "data-platform";

/// What the service remembers.
pub static MIGRATIONS: Migrator = sqlx::migrate!("../../migrations/data-platform");

/// The service's configuration.
#[derive(Debug, Clone, Default)]
pub struct Rules {}

/// The service, to be run on a [`Postgres`].
pub fn service() -> Service<Postgres<Book>> {
    Service::<Postgres<Book>>::new(NAME)
}
