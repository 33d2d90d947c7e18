//! `onsale doctor`: what is wrong with a deployment, asked of each of its parts.

use std::{collections::HashMap, net::SocketAddr, path::PathBuf, time::Duration};

use anstream::println;
use anstyle::{AnsiColor, Style};
use anyhow::{Result, bail};
use clap::Args;
use futures::{FutureExt, future::BoxFuture};
use mesh::{
    Asker, Link, LinkSettings,
    engine::{Backlog, Outbox, Parking, Show},
    parked::ParkedState,
    postgres,
    trace::Tracer,
    valkey::Valkey,
};
use sqlx::{Connection, PgConnection, PgPool};

use crate::{
    config::{Config, OPERATOR, PROVISIONER, SERVICES, WITH_DATABASE},
    fleet,
    http::Http,
    lag::{LISTENERS, Lag, Observer},
    retention,
    stage::{self, DATA_FOLDER},
    verify::outboxes,
};

/// How long any part may take to answer.
const WITHIN: Duration = Duration::from_secs(4);
/// Facts wait a moment to be published; longer than this they are stuck.
const STUCK_SECS: i64 = 10;
/// Parked events of the room that are counted at most.
const PARKED_MAX: usize = 10_000;

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
    let config = stage::find(&options.data)?;
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
    looks.push(("streams and consumers".into(), topology(config).boxed()));
    for service in WITH_DATABASE {
        looks.push((format!("database of {service}"), database(config, service).boxed()));
        looks.push((format!("outbox of {service}"), outbox(config, service).boxed()));
        looks.push((format!("parked by {service}"), parked(config, service).boxed()));
    }
    looks.push(("valkey".into(), valkey_is_whole(config).boxed()));
    looks.push(("outbox of queue".into(), valkey_outbox(config).boxed()));
    looks.push(("parked by queue".into(), valkey_parked(config).boxed()));
    // The gateway answers HTTP alone.
    for service in SERVICES.into_iter().filter(|service| *service != gateway::NAME) {
        looks.push((format!("service {service}"), answers(config, service).boxed()));
    }
    looks.push(("facts heard".into(), listeners(config).boxed()));
    looks.push(("events kept".into(), retained(config).boxed()));
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
    Link::connect(settings, Tracer::off()).await.map(Some)
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

async fn topology(config: &Config) -> Look {
    if config.nats_url.is_empty() {
        return Err("set ONSALE_NATS_URL".into());
    }
    if !config.nkey_seeds.is_empty() && !config.nkey_seeds.contains_key(PROVISIONER) {
        return nothing("the provisioner's seed is not at hand");
    }
    let drifts = fleet::check_topology(config).await.map_err(|error| format!("{error:#}"))?;
    match drifts.as_slice() {
        [] => Ok(Seen::Good("as jetstream/ says".into())),
        [first, ..] => Err(format!("{} differences, {first}; onsale topology apply", drifts.len())),
    }
}

async fn open(config: &Config, service: &str) -> Result<Option<PgConnection>, String> {
    let Some(url) = config.database_urls.get(service) else { return Ok(None) };
    PgConnection::connect(url).await.map(Some).map_err(|error| error.to_string())
}

async fn database(config: &Config, service: &str) -> Look {
    let Some(mut database) = open(config, service).await? else { return nothing("not named") };
    let rows = sqlx::query_as("select version, checksum from _sqlx_migrations where success");
    let applied: HashMap<i64, Vec<u8>> = rows
        .fetch_all(&mut database)
        .await
        .map_err(|error| format!("{error}; onsale migrate"))?
        .into_iter()
        .collect();
    let own = fleet::migrations(service).into_iter().flat_map(|migrator| migrator.iter());
    for migration in postgres::MESH_MIGRATIONS.iter().chain(own) {
        let version = migration.version;
        match applied.get(&version) {
            Some(checksum) if *checksum == *migration.checksum => {}
            Some(_) => return Err(format!("migration {version} has changed since it was applied")),
            None => return Err(format!("migration {version} is not applied; onsale migrate")),
        }
    }
    Ok(Seen::Good(format!("{} migrations applied", applied.len())))
}

/// Whether everything is published, and what counts as published is in the stream.
async fn outbox(config: &Config, service: &'static str) -> Look {
    let Some(mut database) = open(config, service).await? else { return nothing("not named") };
    let backlog = postgres::backlog(&mut database).await.map_err(|error| error.to_string())?;
    let link = link(config, OPERATOR).await?;
    if let (Some(link), true) = (&link, backlog.facts > 0) {
        let oldest: Option<i32> = sqlx::query_scalar(
            "select octet_length(body) from mesh.outbox where stream_seq is null
             order by id limit 1",
        )
        .fetch_optional(&mut database)
        .await
        .map_err(|error| error.to_string())?;
        retention::has_room(link, service, &backlog, oldest.unwrap_or(0).unsigned_abs()).await?;
    }
    judge(backlog)?;
    let Some(link) = link else {
        return nothing("published, but the operator's seed is not at hand to compare it");
    };
    let pool = PgPool::connect_lazy(config.database_url(service).map_err(|e| e.to_string())?)
        .map_err(|error| error.to_string())?;
    let compared = outboxes::compare(&Asker::new(link.clone()), service, &pool).await;
    link.drain().await;
    let (compared, lost) = compared.map_err(|error| format!("{error:#}"))?;
    match lost.as_slice() {
        [] => Ok(Seen::Good(format!("{} messages are in the stream", compared.rows))),
        lost => Err(format!(
            "{} of {} messages that count as published are not in the stream; the service \
             publishes them again while it runs",
            lost.len(),
            compared.rows
        )),
    }
}

/// Whether an operator is waited for.
async fn parked(config: &Config, service: &str) -> Look {
    let Some(mut database) = open(config, service).await? else { return nothing("not named") };
    let (dead, early): (i64, i64) = sqlx::query_as(
        "select count(*) filter (where state = 'dead'), count(*) filter (where state = 'early')
         from mesh.parked where ended_at is null",
    )
    .fetch_one(&mut database)
    .await
    .map_err(|error| error.to_string())?;
    judge_parked(dead as usize, early as usize)
}

fn judge_parked(dead: usize, early: usize) -> Look {
    match (dead, early) {
        (0, 0) => Ok(Seen::Good("nothing".into())),
        (0, early) => Ok(Seen::Good(format!("{early} events wait for what they depend on"))),
        (dead, _) => {
            Err(format!("{dead} dead letters wait for an operator; onsale dead-letters ls"))
        }
    }
}

fn judge(backlog: Backlog) -> Look {
    let Backlog { facts, since } = backlog;
    let age_secs = since.map_or(0, |since| (mesh::clock::now().0 - since.0).whole_seconds());
    match facts {
        0 => Ok(Seen::Good("everything told is published".into())),
        _ if age_secs <= STUCK_SECS => Ok(Seen::Good(format!("{facts} facts on their way"))),
        _ => Err(format!("{facts} facts wait to be published, the oldest for {age_secs} s")),
    }
}

fn valkey(config: &Config) -> Result<Option<Valkey<queue::Room>>, String> {
    if config.valkey_url.is_empty() {
        return Ok(None);
    }
    Valkey::new(&config.valkey_url, queue::Rules::default()).map(Some).map_err(|e| e.to_string())
}

async fn valkey_is_whole(config: &Config) -> Look {
    let Some(valkey) = valkey(config)? else { return nothing("not named") };
    match valkey.is_whole().await {
        Ok(true) => Ok(Seen::Good("knows every place".into())),
        Ok(false) => Err("it was emptied and is not rebuilt; the queue does that".into()),
        Err(failure) => Err(failure.to_string()),
    }
}

async fn valkey_outbox(config: &Config) -> Look {
    let Some(valkey) = valkey(config)? else { return nothing("not named") };
    let backlog = valkey.backlog().await.map_err(|failure| failure.to_string())?;
    if backlog.facts > 0
        && let Some(link) = link(config, OPERATOR).await?
    {
        let oldest = valkey.unpublished(1).await.map_err(|failure| failure.to_string())?;
        let bytes = oldest.first().map_or(0, |message| message.body.len() as u32);
        retention::has_room(&link, queue::NAME, &backlog, bytes).await?;
    }
    judge(backlog)
}

/// Whether somebody has left lying for so long what a stream will drop.
async fn retained(config: &Config) -> Look {
    let Some(link) = link(config, OPERATOR).await? else {
        return nothing("the operator's seed is not at hand");
    };
    let looked = retention::untaken(config, &Asker::new(link.clone())).await;
    link.drain().await;
    match looked.map_err(|error| format!("{error:#}"))?.as_slice() {
        [] => Ok(Seen::Good("nobody is a day behind".into())),
        late => Err(late.join(", ")),
    }
}

async fn valkey_parked(config: &Config) -> Look {
    let Some(valkey) = valkey(config)? else { return nothing("not named") };
    let open = valkey.parked(Show::All(false, PARKED_MAX)).await.map_err(|e| e.to_string())?;
    let count = |state| open.iter().filter(|parked| parked.state == state).count();
    judge_parked(count(ParkedState::Dead), count(ParkedState::Early))
}

async fn answers(config: &Config, service: &str) -> Look {
    let Some(link) = link(config, OPERATOR).await? else {
        return nothing("the operator's seed is not at hand");
    };
    let pong = Asker::new(link.clone()).ping(service).await;
    link.drain().await;
    match pong {
        Ok(version) => Ok(Seen::Good(format!("answers, version {version}"))),
        Err(problem) => Err(format!("does not answer: {}", problem.detail)),
    }
}

/// How far whoever only listens is behind. That is no illness: under load they may be.
async fn listeners(config: &Config) -> Look {
    let seeds = &config.nkey_seeds;
    if config.nats_url.is_empty() || !seeds.is_empty() && !seeds.contains_key(OPERATOR) {
        return nothing("the operator's seed is not at hand");
    }
    let named = |service: &&str| {
        !WITH_DATABASE.contains(service) || config.database_urls.contains_key(*service)
    };
    let here: Vec<&str> = LISTENERS.into_iter().filter(named).collect();
    let observer = Observer::open(config, &here).await.map_err(|error| format!("{error:#}"))?;
    let lags = observer.lags().await.map_err(|error| format!("{error:#}"))?;
    observer.close().await;
    let behind = |lag: &Lag| format!("{} by {} facts of {}", lag.service, lag.facts, lag.teller);
    match lags.as_slice() {
        [] => Ok(Seen::Good("by everybody who listens".into())),
        lags => {
            let behind: Vec<String> = lags.iter().map(behind).collect();
            Ok(Seen::Good(format!("behind: {}", behind.join(", "))))
        }
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
        Ok(answer) => Err(format!("{addr} is not ready: {}", answer.status)),
        Err(error) => Err(format!("{addr}: {error:#}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn facts_on_their_way_are_no_illness_but_facts_that_stay_are() {
        assert!(judge(Backlog::default()).is_ok());
        for (secs, is_well) in [(1, true), (STUCK_SECS + 60, false)] {
            let since = Some(mesh::clock::now().plus_secs(-secs));
            assert_eq!(judge(Backlog { facts: 1, since }).is_ok(), is_well, "{secs} s");
        }
    }

    #[tokio::test]
    async fn what_is_not_named_is_not_wrong_but_a_mesh_without_a_broker_is() {
        let findings = examine(&Config::default()).await;
        let wrong: Vec<_> = findings.iter().filter(|f| f.look.is_err()).map(|f| &f.what).collect();
        assert!(wrong.iter().any(|what| what.as_str() == "nats as point"), "{wrong:?}");
        assert!(!wrong.iter().any(|what| what.as_str() == "database of point"), "{wrong:?}");
    }
}
