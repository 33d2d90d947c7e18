//! `onsale audit verify`: checks the invariants over every stored event, and whether the
//! databases of the services agree with the events.
//!
//! The events are judged alone ([`auditor::Auditor`]); only then are the databases read. The two
//! are compared at rest: while an event is in flight, one of them knows more.

mod compare;
pub(crate) mod outboxes;
mod report;
mod streams;

use std::{io::IsTerminal, path::PathBuf, time::Duration};

use anstream::println;
use anyhow::{Result, bail};
use auditor::Auditor;
use clap::Args;
use events::{
    EventId,
    audit::{Rule, Violation},
};
use indicatif::{ProgressBar, ProgressStyle};
use mesh::{Link, LinkSettings, MeshClient, trace::Tracer};
use tokio::time::Instant;

use crate::{
    config::{Config, OPERATOR},
    databases::Databases,
    deployment::{self, DATA_FOLDER},
};
use compare::Comparison;
pub use report::{Compared, Difference, Found, Line, Report};
use streams::Streams;

/// How long to wait for events that are in flight.
const PATIENCE: Duration = Duration::from_secs(15);
/// How often streams and outboxes are polled meanwhile.
const POLL_EVERY: Duration = Duration::from_millis(200);
/// What is unfinished after so long without a new event will not finish by itself.
const STILL: Duration = Duration::from_secs(5);

/// Options of `onsale audit verify`.
#[derive(Debug, Clone, Args)]
pub struct Verify {
    /// Where a running `dev` or `demo` keeps its data; not used when the environment names
    /// servers
    #[arg(long, value_name = "DIR", default_value = DATA_FOLDER)]
    pub data: PathBuf,
    /// Prints the report as JSON
    #[arg(long)]
    pub json: bool,
}

/// Verifies a deployment and prints the report.
///
/// # Errors
/// When it cannot be read, events stay in flight, or something is wrong.
pub async fn run(options: Verify) -> Result<()> {
    let config = deployment::find(&options.data)?;
    let bar = if std::io::stderr().is_terminal() && !options.json {
        let style = "  reading events {bar:40} {human_pos} of {human_len}";
        ProgressBar::new(0).with_style(ProgressStyle::with_template(style)?)
    } else {
        ProgressBar::hidden()
    };
    let report = verify(&config, &bar).await?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        report.print();
    }
    match report.violations.len() + report.differences.len() {
        0 if report.compared.is_none() => bail!("events are still in flight; try again later"),
        0 => Ok(()),
        1 => bail!("1 violation or difference was found"),
        wrong => bail!("{wrong} violations and differences were found"),
    }
}

/// Verifies the deployment at `config`, as its operator, without output.
///
/// # Errors
/// When streams or databases cannot be read.
pub async fn run_over(config: &Config) -> Result<Report> {
    verify(config, &ProgressBar::hidden()).await
}

async fn verify(config: &Config, bar: &ProgressBar) -> Result<Report> {
    let settings = LinkSettings {
        service: OPERATOR,
        nats_url: config.nats_url.clone(),
        nkey_seed: config.nkey_seeds.get(OPERATOR).cloned(),
    };
    let link = Link::connect_now(settings, Tracer::off()).await.map_err(anyhow::Error::msg)?;
    let report = verify_as(MeshClient::new(link.clone()), config, bar).await;
    link.drain().await;
    report
}

async fn verify_as(client: MeshClient, config: &Config, bar: &ProgressBar) -> Result<Report> {
    let databases = Databases::open(config).await?;
    let mut streams = Streams::new(client.clone());
    let mut auditor = Auditor::default();
    let mut found = streams.read(&mut auditor, bar).await?;
    bar.finish_and_clear();
    let is_at_rest = rest(&mut streams, &mut auditor, &databases, &mut found).await?;
    let now = mesh::clock::now();
    let (mut compared, mut differences) = (None, Vec::new());
    if is_at_rest {
        found.extend(auditor.at_rest(now));
        let (mut count, differing) =
            Comparison { databases: &databases, auditor: &auditor }.run().await?;
        differences = differing;
        for (service, pool) in databases.named() {
            let (rows, lost) = outboxes::compare(&client, service, pool).await?;
            count.messages += rows.rows;
            differences.extend(lost);
        }
        compared = Some(count);
        // Events emitted meanwhile may explain the differences.
        if !differences.is_empty() && streams.have_more().await? {
            (compared, differences) = (None, Vec::new());
        }
    } else {
        found.extend(auditor.settled(now));
    }
    Ok(report(&auditor, streams.unread, found, compared, differences))
}

/// Waits until nothing is in flight: outboxes are empty, every stored event is read, and
/// nothing is unfinished, or has been so for long without a new event.
async fn rest(
    streams: &mut Streams,
    auditor: &mut Auditor,
    databases: &Databases,
    found: &mut Vec<Violation>,
) -> Result<bool> {
    let until = Instant::now() + PATIENCE;
    let mut moved = Instant::now();
    let mut is_logged = false;
    loop {
        let is_published = databases.unpublished().await? == 0;
        let events = auditor.events();
        found.extend(streams.read(auditor, &ProgressBar::hidden()).await?);
        if auditor.events() > events {
            moved = Instant::now();
        }
        let is_still = auditor.unfinished() == 0 || moved.elapsed() > STILL;
        if is_published && is_still && !streams.have_more().await? {
            return Ok(true);
        }
        if Instant::now() > until {
            return Ok(false);
        }
        if !is_logged {
            tracing::info!("events are still in flight; waiting for them");
            is_logged = true;
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

fn report(
    auditor: &Auditor,
    unread: u64,
    found: Vec<Violation>,
    compared: Option<Compared>,
    differences: Vec<Difference>,
) -> Report {
    let line = |rule: Rule| Line {
        rule,
        checked: auditor.checked(rule),
        violations: found.iter().filter(|one| one.rule == rule).count(),
    };
    let rules = Rule::ALL.map(line).into();
    let named = |violation: Violation| {
        let name = |event: &EventId| (*event, auditor.name_of(*event).unwrap_or("unknown"));
        Found { events: violation.events.iter().map(name).collect(), violation }
    };
    Report {
        events: auditor.events(),
        unread: unread + auditor.unread(),
        since: auditor.since(),
        rules,
        violations: found.into_iter().map(named).collect(),
        compared,
        differences,
    }
}
