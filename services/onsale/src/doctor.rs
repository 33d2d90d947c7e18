//! `onsale doctor`: checks each part of a deployment and reports what is wrong.
//!
//! | file | what is checked |
//! |---|---|
//! | `check` | what a check needs, and its outcome |
//! | `broker` | whether the broker can write, its streams and consumers |
//! | `permissions` | what the broker permits each identity |
//! | `consumers` | whether consumers make progress while events wait, and how long events wait |
//! | `stores` | databases and Valkey: whether they can be used, outboxes, dead letters |
//! | `clocks` | whether the clocks of the servers agree with ours |
//! | `disks` | room in JetStream and on disks, as far as it is visible |
//! | `sagas` | stalled sagas, violations, an export that is stuck |
//!
//! A part that answers may still not work, so each check looks at work done: something was
//! written, something has moved, something is outstanding.

mod broker;
mod check;
mod clocks;
mod consumers;
mod disks;
mod permissions;
mod sagas;
mod stores;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anstream::println;
use anstyle::{AnsiColor, Style};
use anyhow::{Result, anyhow, bail};
use clap::Args;
use futures::{FutureExt, future::BoxFuture};
use mesh::MeshClient;
use serde::Serialize;

use check::{Checked, Outcome, link, skipped};

use crate::{
    config::{Config, OPERATOR, PROVISIONER},
    deployment::{self, DATA_FOLDER},
    http::Http,
    registry::{SERVICES, WITH_DATABASE, WITH_VALKEY},
};

/// The timeout of each check: longer than the one that watches consumers for a while.
const WITHIN: Duration = Duration::from_secs(12);

const GOOD: Style = AnsiColor::Green.on_default();
const WARN: Style = AnsiColor::Yellow.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();
const DIM: Style = Style::new().dimmed();

/// Options of `onsale doctor`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
Each line is one check: `ok`, `warn` (it works, but not for long or not well), `wrong`, or `-` when
it was not checked, and why. The command fails when something is wrong.")]
pub struct Doctor {
    /// Where a running `dev` or `demo` keeps its data; not used when the environment names
    /// servers
    #[arg(long, value_name = "DIR", default_value = DATA_FOLDER)]
    pub data: PathBuf,
    /// Prints JSON, one object a line: `what`, `state` (ok, warning, wrong, not_checked), `detail`
    #[arg(long)]
    pub json: bool,
}

/// The state of what was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// It works.
    Ok,
    /// It works, but not for long, or not well.
    Warning,
    /// It does not work.
    Wrong,
    /// There was nothing to check, or no way to.
    NotChecked,
}

/// The outcome of one check.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// The part that was checked.
    pub what: String,
    /// Its state.
    pub state: State,
    /// What was seen, and what to do about it.
    pub detail: String,
}

impl Finding {
    fn new(what: String, outcome: Outcome) -> Self {
        let (state, detail) = match outcome {
            Ok(Checked::Good(detail)) => (State::Ok, detail),
            Ok(Checked::Warning(detail)) => (State::Warning, detail),
            Ok(Checked::Skipped(detail)) => (State::NotChecked, detail),
            Err(error) => (State::Wrong, format!("{error:#}")),
        };
        Self { what, state, detail: detail.replace('\n', " ") }
    }
}

/// Checks every part and prints the findings.
///
/// # Errors
/// When there is nothing to check, or something is wrong.
pub async fn run(options: Doctor) -> Result<()> {
    let config = deployment::find(&options.data)?;
    let findings = findings(&config).await;
    if options.json {
        for finding in &findings {
            println!("{}", serde_json::to_string(finding)?);
        }
    } else {
        print(&findings);
    }
    match findings.iter().filter(|finding| finding.state == State::Wrong).count() {
        0 => Ok(()),
        1 => bail!("1 check failed"),
        failed => bail!("{failed} checks failed"),
    }
}

fn print(findings: &[Finding]) {
    let width = findings.iter().map(|finding| finding.what.len()).max().unwrap_or(0);
    for Finding { what, state, detail } in findings {
        let (style, word, before) = match state {
            State::Ok => (GOOD, "ok", ""),
            State::Warning => (WARN, "warn", ""),
            State::Wrong => (BAD, "wrong", ""),
            State::NotChecked => (DIM, "-", "not checked: "),
        };
        println!("{style}{word:5}{style:#}  {what:width$}  {before}{detail}");
    }
}

/// What is wrong with a deployment, part by part; empty when every check succeeds.
pub async fn problems(config: &Config) -> Vec<String> {
    let findings = findings(config).await.into_iter();
    let wrong = findings.filter(|finding| finding.state == State::Wrong);
    wrong.map(|finding| format!("{}: {}", finding.what, finding.detail)).collect()
}

/// The outcome of every check.
pub async fn findings(config: &Config) -> Vec<Finding> {
    let mut checks: Vec<(String, BoxFuture<'_, Outcome>)> = Vec::new();
    // A service that answers can connect as its other user as well.
    for identity in SERVICES.into_iter().chain([PROVISIONER, OPERATOR]) {
        checks.push((format!("nats as {identity}"), connects(config, identity).boxed()));
    }
    checks.push(("broker".into(), broker::works(config).boxed()));
    checks.push(("sync_interval".into(), broker::synced(config).boxed()));
    checks.push(("permissions".into(), permissions::granted(config).boxed()));
    checks.push(("streams and consumers".into(), broker::topology(config).boxed()));
    checks.push(("room in the streams".into(), broker::room(config).boxed()));
    for service in WITH_DATABASE {
        checks.push((format!("database of {service}"), stores::database(config, service).boxed()));
        checks.push((format!("outbox of {service}"), stores::outbox(config, service).boxed()));
        checks.push((format!("parked by {service}"), stores::parked(config, service).boxed()));
    }
    for service in WITH_VALKEY {
        checks.push((format!("valkey of {service}"), stores::valkey(config, service).boxed()));
    }
    // The gateway answers only over HTTP.
    for service in SERVICES.into_iter().filter(|service| *service != gateway::NAME) {
        checks.push((format!("service {service}"), answers(config, service).boxed()));
    }
    checks.push(("events consumed".into(), consumers::progress(config).boxed()));
    checks.push(("lag".into(), consumers::lag(config).boxed()));
    checks.push(("clocks".into(), clocks::agree(config).boxed()));
    checks.push(("disk of the broker".into(), disks::of_broker(config).boxed()));
    checks.push(("disk of the databases".into(), disks::of_databases(config).boxed()));
    checks.push(("sagas".into(), sagas::stalled(config).boxed()));
    checks.push(("violations".into(), sagas::violations(config).boxed()));
    checks.push(("export".into(), sagas::export(config).boxed()));
    checks.push(("gateway".into(), gateway_is_ready(config.http_addr).boxed()));
    let finding = |(what, check)| async move {
        let outcome = tokio::time::timeout(WITHIN, check).await;
        let late = || Err(anyhow!("no answer within {} s", WITHIN.as_secs()));
        Finding::new(what, outcome.unwrap_or_else(|_| late()))
    };
    futures::future::join_all(checks.into_iter().map(finding)).await
}

async fn connects(config: &Config, identity: &'static str) -> Outcome {
    match link(config, identity).await? {
        None => skipped("its seed is not configured"),
        Some(link) => {
            link.drain().await;
            Ok(Checked::Good(config.nats_url.clone()))
        }
    }
}

async fn answers(config: &Config, service: &str) -> Outcome {
    let Some(link) = link(config, OPERATOR).await? else {
        return skipped("the operator's seed is not configured");
    };
    let pong = MeshClient::new(link.clone()).ping(service).await;
    link.drain().await;
    match pong {
        Ok(version) => Ok(Checked::Good(format!("answers, version {version}"))),
        Err(problem) => {
            bail!(
                "no instance answers: none runs, or none can use its store ({}); start it with \
                 onsale run {service}, or see what its /readyz reports",
                problem.detail
            )
        }
    }
}

async fn gateway_is_ready(addr: Option<SocketAddr>) -> Outcome {
    let Some(mut addr) = addr else { return skipped("not configured") };
    if addr.ip().is_unspecified() {
        addr.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let http = Http::new(format!("http://{addr}"));
    match http.get("/readyz").send().await {
        Ok(answer) if answer.status.is_success() => Ok(Checked::Good(http.base().to_owned())),
        Ok(answer) => {
            let problem = serde_json::from_slice::<events::Problem>(&answer.body);
            let detail = problem.map_or_else(|_| answer.status.to_string(), |one| one.detail);
            bail!("{addr}: {detail}; its /readyz lists what keeps it from its work")
        }
        Err(error) => bail!("{addr}: {error:#}; start it with onsale run gateway"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_part_that_is_not_configured_is_skipped_but_a_missing_broker_is_wrong() {
        let findings = findings(&Config::default()).await;
        let wrong = findings.iter().filter(|finding| finding.state == State::Wrong);
        let wrong: Vec<_> = wrong.map(|finding| &finding.what).collect();
        assert!(wrong.iter().any(|what| what.as_str() == "nats as point"), "{wrong:?}");
        assert!(!wrong.iter().any(|what| what.as_str() == "database of point"), "{wrong:?}");
    }
}
