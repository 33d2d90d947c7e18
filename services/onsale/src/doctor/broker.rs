//! Whether the broker can work, and has what the mesh needs.

use mesh::MeshClient;

use super::{Look, Seen, link, nothing};
use crate::{
    config::{Config, OPERATOR, PROVISIONER},
    fleet,
};

/// A stream that is fuller than this refuses soon.
const FULL_PERCENT: u64 = 90;

/// Asks the broker how it is, and has it write something: it answers all the same when its
/// disk is full.
pub(super) async fn works(config: &Config) -> Look {
    if let Some(link) = link(config, OPERATOR).await? {
        let ails = MeshClient::new(link.clone()).broker_ails().await;
        link.drain().await;
        if let Some(cause) = ails? {
            return Err(advice(&cause));
        }
    }
    let Some(link) = link(config, PROVISIONER).await? else {
        return nothing("it says that it is well; the provisioner's seed is not at hand to try");
    };
    let written = MeshClient::new(link.clone()).probe().await;
    let cause = match &written {
        Ok(()) => None,
        // The broker has more to say now that it has failed.
        Err(_) => MeshClient::new(link.clone()).broker_ails().await.ok().flatten(),
    };
    link.drain().await;
    match (written, cause) {
        (Ok(()), _) => Ok(Seen::Good("has written a probe".into())),
        (Err(_), Some(cause)) => Err(advice(&cause)),
        (Err(cause), None) => Err(format!(
            "it cannot write: {cause}; look whether its disk is full or its store_dir is in order, \
             free room, and restart it"
        )),
    }
}

/// What is to be done about a broker that cannot write.
fn advice(cause: &str) -> String {
    match cause {
        cause if cause.contains("no space left") => {
            format!("it cannot write: {cause}; free room on its disk and restart it")
        }
        cause if cause.contains("write error") => {
            format!("it cannot write: {cause}; mend that and restart it")
        }
        cause => format!("it cannot work: {cause}"),
    }
}

pub(super) async fn topology(config: &Config) -> Look {
    if config.nats_url.is_empty() {
        return Err("set ONSALE_NATS_URL".into());
    }
    if !config.nkey_seeds.is_empty() && !config.nkey_seeds.contains_key(PROVISIONER) {
        return nothing("the provisioner's seed is not at hand");
    }
    let mut drifts = fleet::check_topology(config).await.map_err(|error| format!("{error:#}"))?;
    // Those of a doctor: they go again.
    drifts.retain(|drift| !drift.starts_with("stream PROBE_"));
    match drifts.as_slice() {
        [] => Ok(Seen::Good("as jetstream/ says".into())),
        [first, ..] => Err(format!("{} differences, {first}; onsale topology apply", drifts.len())),
    }
}

/// Whether any stream is about to refuse what it is given.
pub(super) async fn room(config: &Config) -> Look {
    let Some(link) = link(config, OPERATOR).await? else {
        return nothing("the operator's seed is not at hand");
    };
    let client = MeshClient::new(link.clone());
    let topology = fleet::topology().map_err(|error| format!("{error:#}"))?;
    let (mut full, mut fullest) = (Vec::new(), 0);
    for stream in topology.streams() {
        // One that is missing is named elsewhere.
        let Some(fill) = client.fill(stream).await.map_err(|problem| problem.detail)? else {
            continue;
        };
        let Some(bytes_max) = fill.bytes_max.filter(|_| fill.refuses) else { continue };
        let percent = fill.bytes.saturating_mul(100) / bytes_max;
        fullest = fullest.max(percent);
        if percent >= FULL_PERCENT {
            full.push(format!("{stream} holds {} of {bytes_max} bytes", fill.bytes));
        }
    }
    link.drain().await;
    match full.as_slice() {
        [] => Ok(Seen::Good(format!("the fullest is full to {fullest} percent"))),
        full => Err(format!(
            "{}; it refuses what comes then, and outboxes hold it back: raise max_bytes",
            full.join(", ")
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_about_a_full_disk_is_said() {
        let said = "JetStream stream 'ONSALE > A' write error: no space left on device";
        assert!(advice(said).ends_with("free room on its disk and restart it"), "{}", advice(said));
        assert!(advice("file too large: write error").contains("restart"));
        assert!(!advice("no answer").contains("restart"));
    }
}
