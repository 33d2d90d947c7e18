//! `onsale doctor`: what is wrong with a deployment, asked of each of its parts.
//!
//! | file | what is looked at |
//! |---|---|
//! | `broker` | whether the broker can write, its streams and consumers |
//! | `consumers` | who stands still while events wait |
//! | `stores` | databases and Valkey: whether they can be used, outboxes, dead letters |
//! | `sagas` | what is stalled, what cannot be true, what is not exported |
//!
//! What answers may still not work, so each look is at work done: something written, something
//! moved, something owed.

mod broker;
mod consumers;
mod sagas;
mod stores;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anstream::println;
use anstyle::{AnsiColor, Style};
use anyhow::{Result, bail};
use clap::Args;
use futures::{FutureExt, future::BoxFuture};
use mesh::{Link, LinkSettings, MeshClient, trace::Tracer};

use crate::{
    config::{Config, OPERATOR, PROVISIONER, SERVICES, WITH_DATABASE},
    environment::{self, DATA_FOLDER},
    http::Http,
};

/// How long any part may take to answer: longer than a look that watches whether it moves.
const WITHIN: Duration = Duration::from_secs(12);
/// The parts of Valkey that a service keeps something in.
const IN_VALKEY: [&str; 3] = ["concert", "queue", "ranking"];

const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();
const DIM: Style = Style::new().dimmed();

/// Options of `onsale doctor`.
#[derive(Debug, Clone, Args)]
pub struct Doctor {
    /// Where a running `dev` or `demo` keeps its data; not used when the environment names
    /// servers
    #[arg(long, value_name = "DIR", default_value = DATA_FOLDER)]
    pub data: PathBuf,
}

/// What became of one look.
type Look = Result<Seen, String>;

enum Seen {
    Good(String),
    /// Nothing is named that could be looked at.
    Nothing(String),
}

struct Finding {
    what: String,
    look: Look,
}

/// Looks at every part and prints what it saw.
///
/// # Errors
/// When there is nothing to look at, or something is wrong.
pub async fn run(options: Doctor) -> Result<()> {
    let config = environment::find(&options.data)?;
    let findings = examine(&config).await;
    let width = findings.iter().map(|finding| finding.what.len()).max().unwrap_or(0);
    for Finding { what, look } in &findings {
        let (style, word, detail) = match look {
            Ok(Seen::Good(detail)) => (GOOD, "ok", detail),
            Ok(Seen::Nothing(detail)) => (DIM, "-", detail),
            Err(detail) => (BAD, "wrong", detail),
        };
        println!("{style}{word:5}{style:#}  {what:width$}  {}", detail.replace('\n', " "));
    }
    match findings.iter().filter(|finding| finding.look.is_err()).count() {
        0 => Ok(()),
        1 => bail!("something is wrong"),
        wrong => bail!("{wrong} things are wrong"),
    }
}

/// What is wrong with a deployment, part by part; nothing when all is well.
pub async fn ills(config: &Config) -> Vec<String> {
    let findings = examine(config).await.into_iter();
    findings.filter_map(|one| Some(format!("{}: {}", one.what, one.look.err()?))).collect()
}

async fn examine(config: &Config) -> Vec<Finding> {
    let mut looks: Vec<(String, BoxFuture<'_, Look>)> = Vec::new();
    // A service that answers has its other user as well.
    for identity in SERVICES.into_iter().chain([PROVISIONER, OPERATOR]) {
        looks.push((format!("nats as {identity}"), connects(config, identity).boxed()));
    }
    looks.push(("broker".into(), broker::works(config).boxed()));
    looks.push(("streams and consumers".into(), broker::topology(config).boxed()));
    looks.push(("room in the streams".into(), broker::room(config).boxed()));
    for service in WITH_DATABASE {
        looks.push((format!("database of {service}"), stores::database(config, service).boxed()));
        looks.push((format!("outbox of {service}"), stores::outbox(config, service).boxed()));
        looks.push((format!("parked by {service}"), stores::parked(config, service).boxed()));
    }
    for service in IN_VALKEY {
        looks.push((format!("valkey of {service}"), stores::valkey(config, service).boxed()));
    }
    // The gateway answers HTTP alone.
    for service in SERVICES.into_iter().filter(|service| *service != gateway::NAME) {
        looks.push((format!("service {service}"), answers(config, service).boxed()));
    }
    looks.push(("events consumed".into(), consumers::move_on(config).boxed()));
    looks.push(("events kept".into(), consumers::retained(config).boxed()));
    looks.push(("sagas".into(), sagas::stalled(config).boxed()));
    looks.push(("violations".into(), sagas::violations(config).boxed()));
    looks.push(("export".into(), sagas::export(config).boxed()));
    looks.push(("gateway".into(), gateway_is_ready(config.http_addr).boxed()));
    let finding = |(what, look)| async move {
        let looked = tokio::time::timeout(WITHIN, look).await;
        let late = || Err(format!("no answer within {} s", WITHIN.as_secs()));
        Finding { what, look: looked.unwrap_or_else(|_| late()) }
    };
    futures::future::join_all(looks.into_iter().map(finding)).await
}

fn nothing(detail: impl Into<String>) -> Look {
    Ok(Seen::Nothing(detail.into()))
}

/// A connection as this identity; `None` when its seed is not at hand.
async fn link(config: &Config, identity: &'static str) -> Result<Option<Link>, String> {
    if config.nats_url.is_empty() {
        return Err("set ONSALE_NATS_URL".into());
    }
    let nkey_seed = config.nkey_seeds.get(identity).cloned();
    if nkey_seed.is_none() && !config.nkey_seeds.is_empty() {
        return Ok(None);
    }
    let nats_url = config.nats_url.clone();
    let settings = LinkSettings { service: identity, nats_url, nkey_seed };
    Link::connect_now(settings, Tracer::off()).await.map(Some)
}

async fn connects(config: &Config, identity: &'static str) -> Look {
    match link(config, identity).await? {
        None => nothing("its seed is not at hand"),
        Some(link) => {
            link.drain().await;
            Ok(Seen::Good(config.nats_url.clone()))
        }
    }
}

async fn answers(config: &Config, service: &str) -> Look {
    let Some(link) = link(config, OPERATOR).await? else {
        return nothing("the operator's seed is not at hand");
    };
    let pong = MeshClient::new(link.clone()).ping(service).await;
    link.drain().await;
    match pong {
        Ok(version) => Ok(Seen::Good(format!("answers, version {version}"))),
        Err(problem) => Err(format!(
            "no instance answers: none runs, or none can use its store ({})",
            problem.detail
        )),
    }
}

async fn gateway_is_ready(addr: Option<SocketAddr>) -> Look {
    let Some(mut addr) = addr else { return nothing("not named") };
    if addr.ip().is_unspecified() {
        addr.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let http = Http::new(format!("http://{addr}"));
    match http.get("/readyz").send().await {
        Ok(answer) if answer.status.is_success() => Ok(Seen::Good(http.base().to_owned())),
        Ok(answer) => {
            let problem = serde_json::from_slice::<events::Problem>(&answer.body);
            let detail = problem.map_or_else(|_| answer.status.to_string(), |one| one.detail);
            Err(format!("{addr}: {detail}"))
        }
        Err(error) => Err(format!("{addr}: {error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_not_named_is_not_wrong_but_a_mesh_without_a_broker_is() {
        let findings = examine(&Config::default()).await;
        let wrong: Vec<_> = findings.iter().filter(|f| f.look.is_err()).map(|f| &f.what).collect();
        assert!(wrong.iter().any(|what| what.as_str() == "nats as point"), "{wrong:?}");
        assert!(!wrong.iter().any(|what| what.as_str() == "database of point"), "{wrong:?}");
    }
}
