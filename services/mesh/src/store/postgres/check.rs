//! Checks that a database is usable and is the one that belongs to the service.

use std::collections::HashMap;

use sqlx::{Connection, PgConnection, migrate::Migrator};

use super::{ANSWER_TIMEOUT, MESH_MIGRATIONS, POSTGRES};
use crate::{deadline::within, store::engine::Failure};

/// Connects to a database, for tools that inspect it.
///
/// # Errors
/// When it cannot be reached in time.
#[expect(clippy::disallowed_methods, reason = "it has a limit")]
pub async fn connect(url: &str) -> Result<PgConnection, Failure> {
    Ok(within(ANSWER_TIMEOUT, POSTGRES, PgConnection::connect(url)).await??)
}

/// Checks that the database takes writes, and that exactly the migrations of the mesh and these
/// ones of the service are applied.
///
/// # Errors
/// `Unusable` when the database answers but is read-only, another service's or not up to date.
pub async fn check(
    connection: &mut PgConnection,
    own: Option<&'static Migrator>,
) -> Result<(), Failure> {
    let is_read_only: bool =
        sqlx::query_scalar("select current_setting('transaction_read_only')::boolean")
            .fetch_one(&mut *connection)
            .await?;
    if is_read_only {
        return Err(Failure::Unusable("the database is read-only; it may be a replica".into()));
    }
    let rows = sqlx::query_as("select version, checksum from _sqlx_migrations where success")
        .fetch_all(connection)
        .await;
    let applied: Vec<(i64, Vec<u8>)> = match rows {
        Ok(rows) => rows,
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("42P01") => Vec::new(),
        Err(error) => return Err(error.into()),
    };
    let applied: HashMap<i64, Vec<u8>> = applied.into_iter().collect();
    let wanted = MESH_MIGRATIONS.iter().chain(own.into_iter().flat_map(|own| own.iter()));
    for migration in wanted {
        let version = migration.version;
        match applied.get(&version) {
            Some(checksum) if *checksum == *migration.checksum => {}
            Some(_) => {
                return Err(Failure::Unusable(format!(
                    "its migration {version} has another checksum: it is another service's \
                     database, or the migration has changed since it was applied"
                )));
            }
            None if applied.is_empty() => {
                let text = "the database has no Onsale tables; `onsale migrate` creates them";
                return Err(Failure::Unusable(text.into()));
            }
            None => {
                return Err(Failure::Unusable(format!(
                    "migration {version} is not applied; `onsale migrate` applies it"
                )));
            }
        }
    }
    Ok(())
}

/// The migrations that a database has and this program does not know: those of a newer version.
///
/// # Errors
/// When the database cannot be read.
pub async fn newer_migrations(
    connection: &mut PgConnection,
    own: Option<&'static Migrator>,
) -> sqlx::Result<Vec<i64>> {
    let known = MESH_MIGRATIONS.iter().chain(own.into_iter().flat_map(|own| own.iter()));
    let known: Vec<i64> = known.map(|migration| migration.version).collect();
    sqlx::query_scalar(
        "select version from _sqlx_migrations where success and version <> all($1)
         order by version",
    )
    .bind(known)
    .fetch_all(connection)
    .await
}

/// The tables of the mesh whose default partition has rows, and how many. Housekeeping creates
/// partitions ahead of time, so there are none unless it has stopped or a clock was wrong.
///
/// # Errors
/// When the database cannot be read.
pub async fn default_partitions(
    connection: &mut PgConnection,
) -> sqlx::Result<Vec<(&'static str, i64)>> {
    let mut found = Vec::new();
    for (table, count) in [
        ("mesh.inbox", "select count(*) from mesh.inbox_rest"),
        ("mesh.outbox", "select count(*) from mesh.outbox_rest"),
    ] {
        let rows: i64 = sqlx::query_scalar(count).fetch_one(&mut *connection).await?;
        found.extend((rows > 0).then_some((table, rows)));
    }
    Ok(found)
}
