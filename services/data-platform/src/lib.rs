//! The data-platform service: exports sales events to the data platform, in order.
//!
//! It reads all events of payment and reservation in the order of each stream, and exports them
//! as records: as newline-delimited JSON over HTTP to one endpoint, as Parquet files in a folder,
//! or both. It decides nothing and emits nothing.
//!
//! | file | what is in it |
//! |---|---|
//! | `domain` | records, batches, ranges and totals |
//! | `platform` | the endpoint of a data platform |
//! | `table`, `folder` | rows, and the Parquet files they are kept in |
//! | `targets` | all targets as one |
//! | `export`, `progress`, `queries` | the service: hand over, record, show how far it has come |
//! | `backfill` | exports a range again, beside the service (`onsale export`) |
//!
//! **Invariants.** An event is recorded as taken after every target has taken it, never before:
//! at least once, without a gap. Of one stream no record is handed over before the earlier ones
//! are taken; between streams there is no order. The same event gives the same record with the
//! same key and version, in every export: a target that keeps a row per key and lets no lower
//! version change it ends the same. A watermark is handed over with or after everything that it
//! covers. Without a target the position does not move.

mod backfill;
mod config;
mod domain;
mod export;
mod folder;
mod platform;
mod progress;
mod queries;
mod table;
mod targets;
mod unit_of_work;

use std::sync::Arc;

use events::{data_platform::GetExport, user::Role};
use mesh::{Allow, Link, Running, Service, postgres::Postgres};

pub use backfill::{BackfillError, Progress, backfill};
pub use config::{Config, ConfigError, FOLDER_VARIABLE, TOKEN_VARIABLE, URL_VARIABLE};
pub use domain::{BATCH_BYTES_MAX, BATCH_RECORDS_MAX, EVENTS, Range, Record, Tally, Totals};
pub use folder::{Folder, FolderError};
pub use platform::{BATCH_ID, EndpointError, WATERMARK};
pub use table::{Cell, Kind, PAYMENTS, RESERVATIONS, Row, Table};
pub use unit_of_work::UnitOfWork;

use export::Exporter;

/// Events of one stream that are handed over together when there are many: a file of the folder
/// that fills is rewritten each time.
const PIECE: usize = 5_000;

/// The service.
pub const NAME: &str = "data-platform";

/// The service's tables.
pub static MIGRATIONS: mesh::postgres::Migrations =
    mesh::migrations!["data-platform/0101_data_platform.sql"];

/// The service, to be run on a [`Postgres`].
pub fn service() -> Service<Postgres<UnitOfWork>> {
    let exporter = Arc::new(Exporter::default());
    Service::<Postgres<UnitOfWork>>::new(NAME)
        .follows(EVENTS, PIECE, move |ctx, read| {
            let exporter = exporter.clone();
            async move { exporter.take(ctx, &read).await }
        })
        .queries::<GetExport, _, _>(Allow::Role(Role::Operator), queries::export)
}

/// Starts the service. All of the runtime for its engine is compiled in this crate, once, and
/// not again in every program that starts it.
pub fn start(engine: Arc<Postgres<UnitOfWork>>, link: Link) -> Running {
    mesh::start(service(), engine, link)
}
