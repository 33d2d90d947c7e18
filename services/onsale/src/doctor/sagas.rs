//! What audit and data-platform have recorded: stalled sagas, violations, an export that is stuck.

use anyhow::{Result, bail};
use mesh::postgres;
use sqlx::{Row as _, postgres::PgRow};

use super::check::{Checked, Outcome, alone, skipped};
use crate::config::Config;

/// One row of a service's database; `None` when that is not configured.
async fn row(config: &Config, service: &str, sql: &'static str) -> Result<Option<PgRow>> {
    let Some(url) = config.database_urls.get(service) else { return Ok(None) };
    let mut database = postgres::connect(url).await.map_err(alone)?;
    let row = sqlx::query(sql).fetch_one(&mut database).await;
    row.map(Some).map_err(alone)
}

/// Sagas that the watchdog has reported and that have made no progress since.
pub(super) async fn stalled(config: &Config) -> Outcome {
    let stalled = "select count(distinct saga_id), min(next_due_at)::text
         from stalls join sagas using (saga_id) where next_due_at < now()";
    let Some(row) = row(config, audit::NAME, stalled).await? else {
        return skipped("not configured");
    };
    let (count, since): (i64, Option<String>) = (row.get(0), row.get(1));
    match (count, since) {
        (0, _) => Ok(Checked::Good("none is stalled".into())),
        (count, since) => bail!(
            "{count} sagas are stalled, the first since {}; onsale saga ls --state stalled",
            since.unwrap_or_default()
        ),
    }
}

/// The violations that the auditor has found.
pub(super) async fn violations(config: &Config) -> Outcome {
    let found = "select count(*) from violations";
    let Some(row) = row(config, audit::NAME, found).await? else {
        return skipped("not configured");
    };
    match row.get::<i64, _>(0) {
        0 => Ok(Checked::Good("none".into())),
        count => bail!("{count} found; see /v1/violations and onsale audit verify"),
    }
}

/// Whether the export makes progress.
pub(super) async fn export(config: &Config) -> Outcome {
    let trouble = "select trouble, attempts from export";
    let Some(row) = row(config, data_platform::NAME, trouble).await? else {
        return skipped("not configured");
    };
    let (trouble, attempts): (Option<String>, i64) = (row.get(0), row.get(1));
    match trouble {
        None => Ok(Checked::Good("not stuck".into())),
        Some(trouble) => bail!(
            "stuck after {attempts} attempts: {trouble}; it is retried until the target \
             (ONSALE_EXPORT_URL, ONSALE_EXPORT_FOLDER) takes it"
        ),
    }
}
