//! All three servers.

use std::{path::Path, time::Duration};

use crate::{
    account::Account,
    binaries::{self, Binary},
    cache::Cache,
    data::Folder,
    error::{Error, blocking},
    identities::IDENTITIES,
    nats,
    options::Options,
    postgres,
    secrets::{Nkeys, Passwords},
    server::Server,
    valkey,
};

/// How long creating the databases and roles may take.
const PREPARED_WITHIN: Duration = Duration::from_secs(60);

/// NATS, PostgreSQL and Valkey, running. Dropping them stops them.
pub struct Servers {
    /// The broker, or its first node.
    pub nats: Server,
    /// The databases; the URL is the administrator's.
    pub postgres: Server,
    /// The waiting room's store; the URL contains the password.
    pub valkey: Server,
    /// The other nodes of the broker, with their monitoring ports.
    others: Vec<(Server, u16)>,
    pub(crate) nats_monitor: u16,
    nkeys: Nkeys,
    passwords: Passwords,
    // Last: a temporary folder is deleted after the servers in it have stopped.
    folder: Folder,
}

impl Servers {
    /// Starts all three servers and returns when they answer.
    ///
    /// # Errors
    /// When a binary is missing, a server does not come up, or the data folder is in use.
    pub async fn start(options: Options) -> Result<Self, Error> {
        let servers = blocking(move || Self::start_now(&options)).await?;
        let prepared = postgres::prepare(&servers.postgres, &servers.passwords);
        tokio::time::timeout(PREPARED_WITHIN, prepared).await.map_err(|_| {
            servers.postgres.not_started("it accepts connections but does not answer".into())
        })??;
        Ok(servers)
    }

    fn start_now(options: &Options) -> Result<Self, Error> {
        let say = &options.say;
        let account = Account::for_postgres()
            .map_err(Error::io("cannot read accounts from", Path::new("/etc/passwd")))?;
        let cache = Cache::open(account.as_ref(), say)?;
        let found = |product| binaries::find(product, &cache, account.as_ref(), say);
        let for_nats: Binary = found(&binaries::NATS)?;
        let (for_postgres, for_valkey) = (found(&binaries::POSTGRES)?, found(&binaries::VALKEY)?);
        let folder = Folder::open(&options.data, account.is_some())?;
        let at = folder.path();
        let failed = Error::io("cannot store secrets in", at);
        let (passwords, nkeys) = Passwords::open(at, &options.services)
            .and_then(|passwords| Ok((passwords, Nkeys::open(&at.join("nkeys"), &IDENTITIES)?)))
            .map_err(failed)?;
        let (ports, nodes) = (options.ports, options.nodes);
        // Each of them waits for the disk, so they start in parallel.
        let (nats, postgres, valkey) = std::thread::scope(|scope| {
            let nats = scope.spawn(|| nats::start(&for_nats, at, &nkeys, ports, nodes));
            let valkey =
                scope.spawn(|| valkey::start(&for_valkey, at, &passwords.valkey, ports.valkey));
            let (account, password) = (account.clone(), &passwords.postgres);
            let postgres =
                postgres::start(&for_postgres, &folder, account, password, ports.postgres, say);
            let panicked = "starting a server does not panic";
            (nats.join().expect(panicked), postgres, valkey.join().expect(panicked))
        });
        let mut others = nats?;
        let (nats, nats_monitor) = others.remove(0);
        let (postgres, valkey) = (postgres?, valkey?);
        Ok(Self { nats, postgres, valkey, others, nats_monitor, nkeys, passwords, folder })
    }

    /// The URL of a service's database, as the role that owns it.
    ///
    /// # Panics
    /// When the service is not one of those of [`Options::databases`].
    pub fn database_url(&self, service: &str) -> String {
        let password = self.passwords.services.get(service);
        let password = password.expect("a service that was named in the options");
        let name = postgres::database_of(service);
        postgres::url(self.postgres.port(), &name, password, &name)
    }

    /// The URL of the broker's monitoring: `/healthz`, `/varz`, `/connz`.
    pub fn nats_monitor_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.nats_monitor)
    }

    /// The seed of an identity's NATS user, or of the [`ISSUER`].
    ///
    /// # Panics
    /// When it is neither.
    pub fn nkey_seed(&self, identity: &str) -> &str {
        self.nkeys.seed(identity).expect("an identity that the broker knows")
    }

    /// The folder with the seeds, one file `<identity>.nk` each.
    pub fn nkeys_folder(&self) -> &Path {
        &self.nkeys.folder
    }

    /// The data folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &Server> {
        let first = [&self.nats, &self.postgres, &self.valkey];
        first.into_iter().chain(self.others.iter().map(|(node, _)| node))
    }

    /// The server of this name: `nats`, `postgres` or `valkey`; `nats-2` and `nats-3` are further
    /// nodes of the broker.
    pub fn by_name(&self, name: &str) -> Option<&Server> {
        self.all().find(|server| server.name() == name)
    }

    /// How many nodes the broker has.
    pub fn nodes(&self) -> usize {
        1 + self.others.len()
    }

    /// The URLs of the broker's nodes, separated by commas.
    pub fn nats_url(&self) -> String {
        let others = self.others.iter().map(|(node, _)| node.url());
        [self.nats.url()].into_iter().chain(others).collect::<Vec<_>>().join(",")
    }

    /// The node that leads a stream, or with `None` the one that leads the broker; `None` when no
    /// node knows one, and for a broker of one node.
    pub async fn leader_of(&self, stream: Option<&str>) -> Option<&Server> {
        let stream = stream.map(ToOwned::to_owned);
        let monitors = [self.nats_monitor].into_iter();
        let monitors: Vec<u16> = monitors.chain(self.others.iter().map(|other| other.1)).collect();
        let query = move || monitors.iter().find_map(|port| nats::leader(*port, stream.as_deref()));
        self.by_name(&tokio::task::spawn_blocking(query).await.ok()??)
    }

    /// Stops all servers: gracefully, or at once when their folder is temporary.
    pub async fn stop(self) {
        // Fails only when the runtime is shutting down; then they have been dropped.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.all().for_each(|server| server.ask_to_end(self.folder.is_temporary()));
        self.all().for_each(|server| server.wait_for_end());
    }
}
