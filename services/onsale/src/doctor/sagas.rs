//! What audit and data-platform have noted: sagas that are overdue, what cannot be true, an
//! export that is not taken.

use mesh::postgres;
use sqlx::{Row as _, postgres::PgRow};

use super::{Look, Seen, nothing};
use crate::config::Config;

/// One row of a service's database; `None` when that is not named.
async fn ask(config: &Config, service: &str, sql: &'static str) -> Result<Option<PgRow>, String> {
    let Some(url) = config.database_urls.get(service) else { return Ok(None) };
    let mut database = postgres::connect(url).await.map_err(|failure| failure.to_string())?;
    let row = sqlx::query(sql).fetch_one(&mut database).await;
    row.map(Some).map_err(|error| error.to_string())
}

/// Sagas that the watchdog has reported and that have not gone on since.
pub(super) async fn stalled(config: &Config) -> Look {
    let stalled = "select count(distinct saga_id), min(next_due_at)::text
         from stalls join sagas using (saga_id) where next_due_at < now()";
    let Some(row) = ask(config, audit::NAME, stalled).await? else { return nothing("not named") };
    let (count, since): (i64, Option<String>) = (row.get(0), row.get(1));
    match (count, since) {
        (0, _) => Ok(Seen::Good("none is stalled".into())),
        (count, since) => Err(format!(
            "{count} sagas are stalled, the first since {}; onsale saga ls --state stalled",
            since.unwrap_or_default()
        )),
    }
}

/// What the auditor has found.
pub(super) async fn violations(config: &Config) -> Look {
    let found = "select count(*) from violations";
    let Some(row) = ask(config, audit::NAME, found).await? else { return nothing("not named") };
    match row.get::<i64, _>(0) {
        0 => Ok(Seen::Good("none".into())),
        count => Err(format!("{count} found; /v1/violations has them, onsale audit verify")),
    }
}

/// Whether the data platform takes what it is given.
pub(super) async fn export(config: &Config) -> Look {
    let trouble = "select trouble, attempts from export";
    let Some(row) = ask(config, data_platform::NAME, trouble).await? else {
        return nothing("not named");
    };
    let (trouble, attempts): (Option<String>, i64) = (row.get(0), row.get(1));
    match trouble {
        None => Ok(Seen::Good("nothing is in its way".into())),
        Some(trouble) => Err(format!("stuck after {attempts} attempts: {trouble}")),
    }
}
