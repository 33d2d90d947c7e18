//! Starting and stopping services in this process.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow};
use events::user::Role;
use futures::future::BoxFuture;
use mesh::{
    Callout, Link, LinkSettings, Running,
    deadline::within,
    metrics::{Metrics, Push, Pushing},
    postgres::{self, Postgres},
    trace::{Collector, Tracer},
    valkey::Valkey,
};
use sqlx::PgPool;
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{self, CALLOUT, Config, Credentials, PROVISIONER, answers},
    files,
    registry::{self, Entry, Service, migrations, wirings},
};

/// How long services may take to examine their stores for the first time.
const EXAMINED_WITHIN: Duration = Duration::from_secs(10);
/// How long the user service may take to prepare its database.
const PREPARED_WITHIN: Duration = Duration::from_secs(30);
/// How long the user service may take to create the operator's account.
const ACCOUNTS_WITHIN: Duration = Duration::from_secs(30);

/// How long the gateway may take to end: longer than it gives its requests.
const GATEWAY_WITHIN: Duration = Duration::from_secs(8);
/// How long the last spans and metrics may take to be sent; an absent collector does not delay the
/// stop.
const LAST_SPANS_WITHIN: Duration = Duration::from_secs(2);

/// The configuration of the services in this process, besides the addresses.
#[derive(Clone, Default)]
pub struct ServiceConfigs {
    /// The account that may grant roles; created when it does not exist.
    pub operator: Option<Credentials>,
    /// Seconds after which an attempt to close an account is refused; the default of the user
    /// service when `None`.
    pub withdrawal_secs: Option<i64>,
    /// Seconds that access tokens are valid; the user service's default when `None`.
    pub access_secs: Option<i64>,
    /// The configuration of reservation.
    pub reservation: reservation::Config,
    /// The configuration of notification.
    pub notification: notification::Config,
    /// The configuration of data-platform.
    pub data_platform: data_platform::Config,
    /// The configuration of audit.
    pub audit: audit::Config,
    /// The settings of the gateway.
    pub gateway: gateway::Settings,
    /// What else keeps this process from its work.
    pub beside: Option<gateway::LocalHealth>,
    /// The collector that spans are sent to; the `OTEL_*` variables decide when `None`.
    pub collector: Option<Collector>,
    /// Where the metrics of this process are pushed to; nowhere when `None`.
    pub push_metrics: Option<Push>,
}

impl ServiceConfigs {
    /// What environment variables say.
    ///
    /// # Errors
    /// Names the first variable that is malformed.
    pub fn from_env() -> Result<Self> {
        let mut configs = Self {
            audit: audit::Config::from_env()?,
            notification: notification::Config::from_env().map_err(anyhow::Error::msg)?,
            gateway: gateway::Settings::from_env().map_err(anyhow::Error::msg)?,
            data_platform: data_platform::Config::from_env().map_err(anyhow::Error::msg)?,
            push_metrics: Push::from_env()?,
            ..Self::default()
        };
        if let Ok(secs) = std::env::var("ONSALE_HOLD_GRACE_SECS") {
            configs.reservation.grace_secs = secs
                .parse()
                .with_context(|| format!("ONSALE_HOLD_GRACE_SECS={secs} is not a number"))?;
        }
        Ok(configs)
    }
}

/// Services running in this process.
#[derive(Default)]
pub struct Fleet {
    running: Vec<Running>,
    gateway: Option<Gateway>,
    /// Admits accounts, where the user service runs.
    callout: Option<JoinHandle<()>>,
    metrics: Metrics,
    pushing: Option<Pushing>,
}

struct Gateway {
    addr: SocketAddr,
    link: Link,
    readiness: gateway::Readiness,
    stop: CancellationToken,
    task: JoinHandle<Result<()>>,
}

impl Fleet {
    /// Starts the named services.
    ///
    /// # Errors
    /// When a name is unknown, or a service cannot reach what it needs.
    pub fn start<'a>(
        config: &'a Config,
        names: &'a [&'a str],
        configs: &'a ServiceConfigs,
    ) -> BoxFuture<'a, Result<Self>> {
        // Boxed here, its code is compiled in this crate and not again in each that waits for it.
        Box::pin(Self::start_all(config, names, configs))
    }

    async fn start_all(config: &Config, names: &[&str], configs: &ServiceConfigs) -> Result<Self> {
        let mut fleet = Self::default();
        if let Some(push) = configs.push_metrics.clone() {
            fleet.pushing = Some(push.start(fleet.metrics.clone())?);
        }
        for name in names {
            fleet.add(config, name, configs).await.with_context(|| format!("starting {name}"))?;
        }
        let store_checked =
            futures::future::join_all(fleet.running.iter().map(Running::store_checked));
        if let Err(late) = within(EXAMINED_WITHIN, "a store", store_checked).await {
            tracing::warn!(%late, "a service does not accept commands yet");
        }
        Ok(fleet)
    }

    async fn add(&mut self, config: &Config, name: &str, configs: &ServiceConfigs) -> Result<()> {
        let Entry { service, name, .. } = registry::find(name)?;
        let link = link(config, name, tracer(name, configs)?).await?;
        link.count_in(&self.metrics);
        match service {
            Service::User => {
                let mut own = configs
                    .access_secs
                    .map_or_else(user::Config::default, user::Config::with_access_secs);
                own.withdrawal_secs = configs.withdrawal_secs.unwrap_or(own.withdrawal_secs);
                let engine = Postgres::new(config.database_url(name)?, own)?;
                let engine = engine.owning(migrations(name));
                let prepared = within(PREPARED_WITHIN, "the database of user", async {
                    user::prepare(engine.pool(), engine.config()).await?;
                    let Some(Credentials { email, password }) = &configs.operator else {
                        return anyhow::Ok(());
                    };
                    let (pool, config) = (engine.pool(), engine.config());
                    let wished =
                        user::request_account(pool, config, email, password, &[Role::Operator]);
                    wished.await.context("the operator's account")
                });
                prepared.await??;
                let pool = engine.pool().clone();
                if let Some(callout) = callout(config, link.clone()).await? {
                    self.callout = Some(tokio::spawn(callout.run()));
                }
                self.running.push(user::start(Arc::new(engine), link));
                let granted = within(ACCOUNTS_WITHIN, "the user service", wait_for_accounts(&pool));
                granted.await.context("the operator's account was not made in time")??;
            }
            Service::Concert => self.add_concert(config, link, tracer(name, configs)?).await?,
            Service::Reservation => {
                self.add_simple(reservation::start, config, link, configs.reservation.clone())?;
            }
            Service::Payment => {
                self.add_simple(payment::start, config, link, Default::default())?
            }
            Service::Point => self.add_simple(point::start, config, link, Default::default())?,
            Service::Ranking => {
                let engine = Arc::new(Valkey::new(&config.valkey_url, ranking::Config::default())?);
                self.running.push(ranking::start(engine, link));
            }
            Service::Notification => {
                self.add_simple(notification::start, config, link, configs.notification.clone())?;
            }
            Service::DataPlatform => {
                let own = configs.data_platform.clone();
                self.add_simple(data_platform::start, config, link, own)?;
            }
            Service::Audit => self.add_simple(audit::start, config, link, configs.audit.clone())?,
            Service::Queue => {
                let engine = Arc::new(Valkey::new(&config.valkey_url, queue::Config::default())?);
                self.running.push(queue::start(engine, link));
            }
            Service::Gateway => {
                let readiness =
                    gateway::Readiness::new(link.clone(), self.beside(configs.beside.clone()));
                let opened = open_gateway(config, link, configs.gateway.clone(), readiness).await?;
                self.gateway = Some(opened);
            }
        }
        Ok(())
    }

    /// What keeps the services that run here from their work.
    fn beside(&self, others: Option<gateway::LocalHealth>) -> gateway::LocalHealth {
        let running: Vec<_> =
            self.running.iter().map(|one| (one.name(), one.health().clone())).collect();
        Arc::new(move || {
            let faults = running.iter().flat_map(|(name, health)| {
                let faults = health.faults_except_broker().into_iter();
                faults.map(move |ail| format!("{name}: {ail}"))
            });
            faults.chain(others.iter().flat_map(|others| others())).collect()
        })
    }

    /// Concert has one half on each store. Each half has a connection of its own, so that it can
    /// finish the messages that it has accepted in its own time.
    async fn add_concert(&mut self, config: &Config, first: Link, tracer: Tracer) -> Result<()> {
        let engine =
            Postgres::new(config.database_url(concert::NAME)?, concert::Config::default())?;
        let engine = engine.owning(migrations(concert::NAME));
        let own = concert::MapConfig::new(engine.pool().clone());
        let maps = Arc::new(Valkey::new(&config.valkey_url, own)?);
        let second = link(config, concert::NAME, tracer).await?;
        second.count_in(&self.metrics);
        self.running.push(concert::start(Arc::new(engine), first));
        self.running.push(concert::start_map(maps, second));
        Ok(())
    }

    fn add_simple<B: mesh::UnitOfWork>(
        &mut self,
        start: fn(Arc<Postgres<B>>, Link) -> Running,
        config: &Config,
        link: Link,
        own: B::Config,
    ) -> Result<()> {
        let engine = Postgres::new(config.database_url(link.service())?, own)?;
        let engine = engine.owning(migrations(link.service()));
        self.running.push(start(Arc::new(engine), link));
        Ok(())
    }

    /// Where the gateway listens, when it runs here.
    pub fn http_addr(&self) -> Option<SocketAddr> {
        self.gateway.as_ref().map(|gateway| gateway.addr)
    }

    /// The gateway's connection and whether it can do its work, when it runs here.
    pub fn gateway(&self) -> Option<(&Link, &gateway::Readiness)> {
        self.gateway.as_ref().map(|gateway| (&gateway.link, &gateway.readiness))
    }

    /// What the services that run here export.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// The services that run here, without the gateway.
    pub fn running(&self) -> &[Running] {
        &self.running
    }

    /// Stops in order: first the gateway; then every service, once it has finished the messages
    /// that it has accepted.
    pub async fn stop(self) {
        let links = self.running.iter().map(Running::link);
        let links = links.chain(self.gateway.as_ref().map(|gateway| &gateway.link));
        let tracers: Vec<Tracer> = links.map(|link| link.tracer().clone()).collect();
        if let Some(gateway) = self.gateway {
            gateway.stop.cancel();
            match within(GATEWAY_WITHIN, "the gateway", gateway.task).await {
                Ok(Ok(Ok(()))) => {}
                Ok(Ok(Err(error))) => {
                    let error = format!("{error:#}");
                    tracing::warn!(error, "the gateway ended with an error");
                }
                Ok(Err(panic)) => tracing::error!(%panic, "the gateway panicked"),
                Err(late) => tracing::warn!(%late, "the gateway did not end"),
            }
            gateway.link.drain().await;
        }
        self.callout.iter().for_each(JoinHandle::abort);
        futures::future::join_all(self.running.into_iter().map(Running::stop)).await;
        let closing = tracers.into_iter().map(|tracer| tracer.close(LAST_SPANS_WITHIN));
        let pushing = self.pushing;
        let pushed = async move {
            if let Some(pushing) = pushing {
                pushing.end(LAST_SPANS_WITHIN).await;
            }
        };
        tokio::join!(futures::future::join_all(closing), pushed);
    }

    /// Stops like a killed process: at once, with work half done.
    pub fn abandon(self) {
        if let Some(gateway) = self.gateway {
            gateway.task.abort();
        }
        self.callout.iter().for_each(JoinHandle::abort);
        self.running.into_iter().for_each(Running::abandon);
    }
}

/// Waits for the requested accounts: the user service creates them once it runs.
async fn wait_for_accounts(pool: &PgPool) -> Result<()> {
    while !user::requests_are_granted(pool).await? {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

fn tracer(service: &str, configs: &ServiceConfigs) -> Result<Tracer> {
    let tracer = match &configs.collector {
        Some(collector) => Tracer::to_collector(service, collector),
        None => Tracer::from_env(service),
    };
    tracer.map_err(anyhow::Error::msg)
}

/// A connection of a service.
pub(crate) async fn link(config: &Config, service: &'static str, tracer: Tracer) -> Result<Link> {
    // The gateway and the tools answer no commands over NATS.
    let answers_seed = config.nkey_seeds.get(&answers(service)).cloned();
    let link = Link::connect_to_answer(link_settings(config, service), answers_seed, tracer).await;
    link.map_err(anyhow::Error::msg)
}

fn link_settings(config: &Config, service: &'static str) -> LinkSettings {
    LinkSettings {
        service,
        nats_url: config.nats_url.clone(),
        nkey_seed: config.nkey_seeds.get(service).cloned(),
    }
}

/// Accounts connect over NATS where the user service runs. Without the keys for it (the broker
/// requires none) there is nothing to authorise.
async fn callout(config: &Config, user: Link) -> Result<Option<Callout>> {
    let [callout, issuer] = CALLOUT;
    let Some(issuer) = config.nkey_seeds.get(issuer) else { return Ok(None) };
    let callout = link(config, callout, Tracer::off()).await?;
    Callout::new(callout, user, issuer).map(Some).map_err(anyhow::Error::msg)
}

async fn open_gateway(
    config: &Config,
    link: Link,
    settings: gateway::Settings,
    readiness: gateway::Readiness,
) -> Result<Gateway> {
    let wanted = match config.http_addr {
        Some(addr) => addr,
        None => config::http_addr()?,
    };
    let listener = TcpListener::bind(wanted).await.with_context(|| {
        format!("cannot listen on {wanted}; set ONSALE_HTTP_ADDR to another address")
    })?;
    let addr = listener.local_addr()?;
    let stop = CancellationToken::new();
    let serving = gateway::serve(listener, link.clone(), settings, readiness.clone(), stop.clone());
    let task = tokio::spawn(async move { Ok(serving.await?) });
    Ok(Gateway { addr, link, readiness, stop, task })
}

/// Migrates the databases of the named services.
///
/// # Errors
/// When one cannot be reached, or a migration fails.
pub async fn migrate(config: &Config, services: &[&str]) -> Result<()> {
    let migrating = services.iter().map(|service| async move {
        let Some(migrations) = migrations(service) else { return Ok(()) };
        let pool = PgPool::connect(config.database_url(service)?)
            .await
            .with_context(|| format!("the database of {service}"))?;
        postgres::migrate(&pool, migrations).await.with_context(|| format!("migrating {service}"))
    });
    futures::future::try_join_all(migrating).await?;
    Ok(())
}

/// Creates and updates the broker's streams and consumers as `jetstream/` defines them.
///
/// # Errors
/// When the broker refuses.
pub async fn apply_topology(config: &Config) -> Result<Vec<String>> {
    let link = link(config, PROVISIONER, Tracer::off()).await?;
    let changed = topology(config)?.apply(&link).await.map_err(|error| anyhow!("{error}"))?;
    link.drain().await;
    Ok(changed)
}

/// Lists every difference between the broker and `jetstream/`, and between `jetstream/` and
/// what the services declare.
///
/// # Errors
/// When the broker cannot be reached.
pub async fn check_topology(config: &Config) -> Result<Vec<String>> {
    let settings = link_settings(config, PROVISIONER);
    let link = Link::connect_now(settings, Tracer::off()).await.map_err(anyhow::Error::msg)?;
    let topology = topology(config)?;
    let drifts = topology.check(&link).await.map_err(|error| anyhow!("{error}"))?;
    link.drain().await;
    let against_files = drifts.iter().map(ToString::to_string);
    Ok(against_files.chain(topology.compare(&wirings())).collect())
}

/// `jetstream/`, parsed, with as many replicas as the configuration says.
///
/// # Errors
/// When a file is not a configuration of NATS.
pub fn topology(config: &Config) -> Result<mesh::topology::Topology> {
    let (streams, consumers) = (files::jetstream("streams"), files::jetstream("consumers"));
    let topology = mesh::topology::Topology::parse(&streams, &consumers);
    let topology = topology.map_err(|error| anyhow!("{error}"))?;
    Ok(match config.replicas {
        Some(count) => topology.with_replicas(count),
        None => topology,
    })
}
