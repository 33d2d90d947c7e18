//! What the demo, the tests and development run on: real servers, migrated and with the
//! streams and consumers applied.

use std::{
    fs,
    io::Write,
    net::SocketAddr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use futures::future::BoxFuture;
use rustix::process::{Pid, Signal, kill_process};
use servers::{Options, Servers};
use uuid::Uuid;

use crate::{
    config::{Config, Credentials, OPERATOR, PROVISIONER, identities},
    deployment::{READY_FILE, Ready, operator_from_env},
    fleet,
    registry::{SERVICES, WITH_DATABASE},
};

/// Where `dev` and `demo` write messages to fans, beside their data.
pub const MESSAGES_FOLDER: &str = "messages";
/// Where `dev` and `demo` write sales events as Parquet files, beside their data.
pub const EXPORT_FOLDER: &str = "export";
/// The operator of our own servers; its password is generated and kept beside the data.
const OPERATOR_EMAIL: &str = "operator@example.com";

/// Servers that are ready for services.
pub struct Environment {
    /// The servers, when they are ours.
    pub servers: Option<Servers>,
    /// How to reach them.
    pub config: Config,
    /// The account that may grant roles.
    pub operator: Credentials,
}

/// Restarts servers that die.
pub struct ServerKeeper(Option<servers::Keeper>);

impl ServerKeeper {
    /// Waits until one of our own servers does not come up any more; for ever without any.
    pub async fn given_up(&mut self) -> anyhow::Error {
        match &mut self.0 {
            Some(keeper) => keeper.given_up().await.into(),
            None => std::future::pending().await,
        }
    }
}

impl Environment {
    /// Starts the servers on `folder` (a temporary one when `None`), or takes those that the
    /// environment names; migrates the databases and applies the topology.
    ///
    /// # Errors
    /// When a server cannot be started or reached, or refuses a migration or the topology.
    pub fn start(
        folder: Option<PathBuf>,
        say: Arc<dyn Fn(&str) + Send + Sync>,
    ) -> BoxFuture<'static, Result<Self>> {
        Box::pin(Self::start_with(folder, &[], say))
    }

    /// The same with databases for `others`, programs outside the mesh; the environment names
    /// theirs as it names those of the services.
    ///
    /// # Errors
    /// As [`Environment::start`].
    pub async fn start_with(
        folder: Option<PathBuf>,
        others: &[String],
        say: Arc<dyn Fn(&str) + Send + Sync>,
    ) -> Result<Self> {
        if Config::names_servers() {
            say("using the servers named in the environment");
            let identities: Vec<&str> = SERVICES.into_iter().chain([PROVISIONER]).collect();
            let mut config = Config::from_env(&identities)?;
            // No service needs it, but a receipt is read as the operator.
            config.nkey_seeds.extend(Config::named_in_env(&[OPERATOR])?.nkey_seeds);
            let others: Vec<&str> = others.iter().map(String::as_str).collect();
            config.database_urls.extend(Config::named_in_env(&others)?.database_urls);
            return Self::prepare(None, config, operator_from_env()?, &say).await;
        }
        let options = folder.map_or_else(Options::temporary, Options::folder);
        Self::start_own(options, others, say).await
    }

    /// The same on servers of our own with these options, whatever the environment names.
    ///
    /// # Errors
    /// As [`Environment::start`].
    pub async fn start_own(
        options: Options,
        others: &[String],
        say: Arc<dyn Fn(&str) + Send + Sync>,
    ) -> Result<Self> {
        let mut options =
            options.databases(WITH_DATABASE).databases(others.iter().map(String::as_str));
        options.say = say.clone();
        let servers = Servers::start(options).await?;
        let operator = operator_of(servers.folder())?;
        let mut config = config_of(&servers);
        let url = |name: &String| (name.clone(), servers.database_url(name));
        config.database_urls.extend(others.iter().map(url));
        Self::prepare(Some(servers), config, operator, &say).await
    }

    async fn prepare(
        servers: Option<Servers>,
        config: Config,
        operator: Credentials,
        say: &Arc<dyn Fn(&str) + Send + Sync>,
    ) -> Result<Self> {
        say("migrating the databases");
        fleet::migrate(&config, &WITH_DATABASE).await?;
        say("applying streams and consumers");
        fleet::apply_topology(&config).await?;
        Ok(Self { servers, config, operator })
    }

    /// What another process needs to reach this environment.
    pub fn ready(&self, http_addr: SocketAddr) -> Ready {
        let (config, operator) = (self.config.clone(), self.operator.clone());
        Ready { http_addr, config, operator }
    }

    /// Where messages to fans are written: beside the data, when the servers are ours.
    pub fn messages_folder(&self) -> PathBuf {
        self.beside_the_data(MESSAGES_FOLDER)
    }

    /// Where sales events are written as Parquet files: beside the data, when the servers are
    /// ours.
    pub fn export_folder(&self) -> PathBuf {
        self.beside_the_data(EXPORT_FOLDER)
    }

    fn beside_the_data(&self, name: &str) -> PathBuf {
        let folder = self.servers.as_ref().map(|servers| servers.folder().to_owned());
        folder.unwrap_or_else(std::env::temp_dir).join(name)
    }

    /// Writes the ready file beside the data, when the servers are ours.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn announce(&self, http_addr: SocketAddr) -> Result<()> {
        let Some(servers) = &self.servers else { return Ok(()) };
        let ready = serde_json::to_vec(&self.ready(http_addr))?;
        write_secret(&servers.folder().join(READY_FILE), &ready)
    }

    /// What keeps our own servers from their work: full disks, which they may not have noticed
    /// yet.
    pub fn beside(&self) -> Option<gateway::LocalHealth> {
        let folder = self.servers.as_ref()?.folder().to_owned();
        Some(Arc::new(move || servers::full_disks(&folder)))
    }

    /// Restarts our own servers when they die, for as long as the result is kept.
    pub fn keep_servers(&self, say: Arc<dyn Fn(&str) + Send + Sync>) -> ServerKeeper {
        ServerKeeper(self.servers.as_ref().map(|servers| servers.keep(say)))
    }

    /// Stops the servers, when they are ours.
    pub async fn stop(self) {
        if let Some(servers) = self.servers {
            let _ = fs::remove_file(servers.folder().join(READY_FILE));
            servers.stop().await;
        }
    }
}

fn config_of(servers: &Servers) -> Config {
    let mut config = Config {
        nats_url: servers.nats_url(),
        replicas: u8::try_from(servers.nodes()).ok().filter(|nodes| *nodes > 1),
        valkey_url: servers.valkey.url().to_owned(),
        ..Config::default()
    };
    for service in WITH_DATABASE {
        config.database_urls.insert(service.to_owned(), servers.database_url(service));
    }
    for key in identities() {
        let seed = servers.nkey_seed(&key).to_owned();
        config.nkey_seeds.insert(key, seed);
    }
    config
}

/// The operator of a data folder: generated once, kept with it.
fn operator_of(folder: &Path) -> Result<Credentials> {
    let file = folder.join("operator.json");
    if let Ok(text) = fs::read(&file) {
        return serde_json::from_slice(&text).with_context(|| file.display().to_string());
    }
    let password = Uuid::new_v4().to_string();
    let operator = Credentials { email: OPERATOR_EMAIL.to_owned(), password };
    write_secret(&file, &serde_json::to_vec_pretty(&operator)?)?;
    Ok(operator)
}

/// Writes a file that only its owner can read; it appears whole or not at all.
///
/// # Errors
/// When the folder cannot be written to.
pub fn write_secret(file: &Path, content: &[u8]) -> Result<()> {
    let part = file.with_extension("part");
    let _ = fs::remove_file(&part);
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&part)
        .and_then(|mut open| open.write_all(content))
        .and_then(|()| fs::rename(&part, file))
        .with_context(|| format!("cannot write {}", file.display()))
}

/// Asks another process to shut down gracefully.
pub fn ask_to_stop(pid: u32) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        // It fails only when the process is gone.
        let _ = kill_process(pid, Signal::TERM);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::CLIENT;

    #[test]
    fn the_broker_knows_every_identity() {
        let ours: BTreeSet<String> = identities().chain([CLIENT.to_owned()]).collect();
        let theirs = servers::IDENTITIES.iter().chain([&servers::ISSUER]);
        assert_eq!(ours, theirs.map(|identity| (*identity).to_owned()).collect());
    }
}
