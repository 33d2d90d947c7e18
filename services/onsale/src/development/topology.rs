//! Keeps the streams and consumers of a broker that is ours alone.

use std::time::Duration;

use anyhow::{Result, anyhow};
use mesh::trace::Tracer;

use crate::{
    config::{Config, PROVISIONER},
    fleet,
};

/// How often the broker is checked for its streams.
const EVERY: Duration = Duration::from_secs(2);

/// Recreates streams and consumers that the broker has lost, for as long as it is polled: for a
/// broker that is ours alone.
pub async fn keep(config: Config) {
    loop {
        tokio::time::sleep(EVERY).await;
        if let Err(error) = mend(&config).await {
            tracing::debug!(%error, "streams and consumers cannot be checked");
        }
    }
}

async fn mend(config: &Config) -> Result<()> {
    let link = fleet::link(config, PROVISIONER, Tracer::off()).await?;
    let topology = fleet::topology(config)?;
    loop {
        let missing = topology.missing(&link).await.map_err(|error| anyhow!("{error}"))?;
        if !missing.is_empty() {
            let missing = missing.join(", ");
            tracing::warn!(missing, "the broker has lost streams or consumers; recreating them");
            topology.apply(&link).await.map_err(|error| anyhow!("{error}"))?;
        }
        tokio::time::sleep(EVERY).await;
    }
}
