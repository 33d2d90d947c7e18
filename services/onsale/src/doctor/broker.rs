//! Whether the broker works, and has what the mesh needs.

use anyhow::bail;
use mesh::{BrokerServer, MeshClient};

use super::check::{Checked, Outcome, alone, link, skipped};
use crate::{
    config::{Config, OPERATOR, PROVISIONER},
    fleet,
};

/// A stream that is fuller than this will soon refuse messages.
const FULL_PERCENT: u64 = 90;

/// Reads the errors that the broker reports, and has it write a probe: it still answers when its
/// disk is full.
pub(super) async fn works(config: &Config) -> Outcome {
    if let Some(link) = link(config, OPERATOR).await? {
        let faults = MeshClient::new(link.clone()).broker_fault().await;
        link.drain().await;
        if let Some(cause) = faults.map_err(alone)? {
            bail!(advice(&cause));
        }
    }
    let Some(link) = link(config, PROVISIONER).await? else {
        return skipped("it reports no error; without the provisioner's seed no probe was written");
    };
    let written = MeshClient::new(link.clone()).probe().await;
    let cause = match &written {
        Ok(()) => None,
        // The broker reports the cause now that the write has failed.
        Err(_) => MeshClient::new(link.clone()).broker_fault().await.ok().flatten(),
    };
    link.drain().await;
    match (written, cause) {
        (Ok(()), _) => Ok(Checked::Good("has written a probe".into())),
        (Err(_), Some(cause)) => bail!(advice(&cause)),
        (Err(cause), None) => bail!(
            "it cannot write: {cause}; check whether its disk is full and its store_dir is in \
             order, free space, and restart it"
        ),
    }
}

/// What to do about a broker that cannot write.
fn advice(cause: &str) -> String {
    match cause {
        cause if cause.contains("no space left") => {
            format!("it cannot write: {cause}; free space on its disk and restart it")
        }
        cause if cause.contains("write error") => {
            format!("it cannot write: {cause}; fix that and restart it")
        }
        cause => format!("it cannot work: {cause}"),
    }
}

/// The servers of the broker, or the outcome of a check that cannot ask them.
pub(super) async fn servers(config: &Config) -> Result<Vec<BrokerServer>, Outcome> {
    let Some(link) = link(config, OPERATOR).await.map_err(Err)? else {
        return Err(skipped("the operator's seed is not configured"));
    };
    let servers = MeshClient::new(link.clone()).broker_servers().await;
    link.drain().await;
    let servers = servers.map_err(|error| Err(alone(error)))?;
    if servers.is_empty() {
        return Err(skipped(
            "the broker does not answer the operator; grant it broker.jetstream, as \
             jetstream/nats.conf does",
        ));
    }
    Ok(servers)
}

/// Whether each server of the broker has a message on its disk before it acknowledges it.
pub(super) async fn synced(config: &Config) -> Outcome {
    let servers = match servers(config).await {
        Ok(servers) => servers,
        Err(outcome) => return outcome,
    };
    let late: Vec<_> = servers.iter().filter(|server| !server.syncs_always).collect();
    match late.first() {
        None => Ok(Checked::Good("always: what is acknowledged is on the disk".into())),
        Some(server) => bail!(
            "{} writes to its disk every {} s ({} of {} servers do): a power loss takes what it \
             has acknowledged since. Set `sync_interval: always` in its jetstream block and \
             restart it",
            server.name,
            server.sync_interval.as_secs(),
            late.len(),
            servers.len()
        ),
    }
}

pub(super) async fn topology(config: &Config) -> Outcome {
    if config.nats_url.is_empty() {
        bail!("set ONSALE_NATS_URL");
    }
    if !config.nkey_seeds.is_empty() && !config.nkey_seeds.contains_key(PROVISIONER) {
        return skipped("the provisioner's seed is not configured");
    }
    let mut drifts = fleet::check_topology(config).await?;
    // The streams of a doctor's probe are temporary.
    drifts.retain(|drift| !drift.starts_with("stream PROBE_"));
    match drifts.as_slice() {
        [] => Ok(Checked::Good("match jetstream/".into())),
        [first, ..] => bail!("{} differences, {first}; onsale topology apply", drifts.len()),
    }
}

/// Whether a stream is about to refuse messages.
pub(super) async fn room(config: &Config) -> Outcome {
    let Some(link) = link(config, OPERATOR).await? else {
        return skipped("the operator's seed is not configured");
    };
    let client = MeshClient::new(link.clone());
    let topology = fleet::topology(config)?;
    let (mut full, mut fullest) = (Vec::new(), 0);
    for stream in topology.streams() {
        // Another check reports a missing stream.
        let Some(usage) =
            client.stream_usage(stream).await.map_err(|problem| alone(problem.detail))?
        else {
            continue;
        };
        let Some(bytes_max) = usage.bytes_max.filter(|_| usage.refuses) else { continue };
        let percent = usage.bytes.saturating_mul(100) / bytes_max;
        fullest = fullest.max(percent);
        if percent >= FULL_PERCENT {
            full.push(format!("{stream} holds {} of {bytes_max} bytes", usage.bytes));
        }
    }
    link.drain().await;
    match full.as_slice() {
        [] => Ok(Checked::Good(format!("the fullest is {fullest} percent full"))),
        full => bail!(
            "{}; a full stream refuses messages, and they stay in the outboxes: raise max_bytes",
            full.join(", ")
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_advice_for_a_full_disk_is_to_free_space() {
        let full = "JetStream stream 'ONSALE > A' write error: no space left on device";
        let advised = advice(full);
        assert!(advised.ends_with("free space on its disk and restart it"), "{advised}");
        assert!(advice("file too large: write error").contains("restart"));
        assert!(!advice("no answer").contains("restart"));
    }
}
