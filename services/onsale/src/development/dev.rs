//! `onsale dev`: servers and every service in one process.

use std::{net::SocketAddr, path::PathBuf, sync::Arc};

use anyhow::{Context, Result};
use clap::Args;

use super::{
    environment::{self, Environment},
    topology,
};
use crate::{
    deployment::DATA_FOLDER,
    fleet::{Fleet, ServiceConfigs},
    health::Listener,
    registry::{self, SERVICES},
    stop,
};

/// Options of `onsale dev`.
#[derive(Args)]
pub struct Dev {
    /// Where the servers keep their data
    #[arg(long, value_name = "DIR", default_value = DATA_FOLDER)]
    data: PathBuf,
    /// Where the gateway listens [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    http: Option<SocketAddr>,
    /// Writes addresses and secrets here (mode 0600) once everything runs
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Leaves services out, to be run elsewhere or not at all
    #[arg(long, value_name = "SERVICE", value_delimiter = ',')]
    without: Vec<String>,
    /// Creates one more database, for a program outside the mesh
    #[arg(long, value_name = "NAME", hide = true)]
    database: Vec<String>,
    /// Stops when standard input closes, however the parent process ends
    #[arg(long, hide = true)]
    with_parent: bool,
}

/// Runs `onsale dev`; returns when asked to stop.
///
/// # Errors
/// When something cannot be started, or one of our servers does not come up any more.
pub async fn run(options: Dev) -> Result<()> {
    options.without.iter().try_for_each(|name| registry::find(name).map(drop))?;
    let here = |service: &&str| !options.without.iter().any(|without| without == service);
    let names: Vec<&str> = SERVICES.into_iter().filter(here).collect();
    let say: Arc<dyn Fn(&str) + Send + Sync> = Arc::new(|line| eprintln!("{line}"));
    let mut env =
        Environment::start_with(Some(options.data), &options.database, say.clone()).await?;
    let mut servers = env.keep_servers(say);
    if options.http.is_some() {
        env.config.http_addr = options.http;
    }
    let health = Listener::open_for_development().await?;
    let fleet = Fleet::start(&env.config, &names, &configs(&env)?).await?;
    health.watch(&fleet);
    eprintln!("metrics of all services: http://{}/metrics", health.addr());
    let keeper = tokio::spawn(topology::keep(env.config.clone()));
    let http_addr = fleet.http_addr().context("without the gateway, use `run`")?;
    println!("http://{http_addr}");
    env.announce(http_addr)?;
    if let Some(file) = options.ready_file {
        environment::write_secret(&file, &serde_json::to_vec(&env.ready(http_addr))?)?;
    }
    let outcome = tokio::select! {
        () = stop::wait(options.with_parent) => Ok(()),
        error = servers.given_up() => Err(error),
    };
    drop(servers);
    keeper.abort();
    fleet.stop().await;
    env.stop().await;
    outcome
}

/// What the environment says. Messages and sales events go to folders beside the data unless it
/// names other targets.
fn configs(env: &Environment) -> Result<ServiceConfigs> {
    let notification = notification::Config::from_env_or(env.messages_folder());
    let mut configs = ServiceConfigs {
        operator: Some(env.operator.clone()),
        beside: env.beside(),
        notification: notification.map_err(anyhow::Error::msg)?,
        ..ServiceConfigs::from_env()?
    };
    if !configs.data_platform.has_target() {
        configs.data_platform.folder = Some(env.export_folder());
    }
    Ok(configs)
}
