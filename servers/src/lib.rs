//! Real NATS, PostgreSQL and Valkey as child processes, for the demo and for the tests.
//!
//! [`Servers::start`] finds the binaries (pinned and fetched once, see `cache`), starts the
//! three servers on free ports of 127.0.0.1, creates a database and a role per service and a
//! NATS user per identity, and returns when all servers answer. Each [`Server`] can be killed
//! and restarted on the same port and data.
//!
//! **Invariant:** no server outlives this process, however it dies: dropping [`Servers`] stops
//! them in order, and the kernel kills them if this process had no chance to (`process`).

use std::{
    fs, io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

mod account;
mod alone;
mod binaries;
mod cache;
mod data;
mod keeper;
mod nats;
mod ports;
mod postgres;
mod probe;
mod process;
mod secrets;
mod server;
mod valkey;

pub use alone::Standalone;
pub use data::Data;
pub use keeper::{Keeper, full_disks};
pub use server::Server;

use account::Account;
use binaries::Binary;
use cache::Cache;
use data::Folder;
use secrets::{Nkeys, Passwords};

/// The services that get a database and a role of their own; the others have none.
pub const SERVICES: &[&str] = &[
    "user",
    "concert",
    "reservation",
    "payment",
    "point",
    "notification",
    "data-platform",
    "audit",
];

/// The identities that have a user on the broker; `nats.conf` has their permissions. A service
/// has two: one publishes its events, the other one answers.
pub const IDENTITIES: &[&str] = &[
    "user",
    "concert",
    "queue",
    "reservation",
    "payment",
    "point",
    "ranking",
    "notification",
    "data-platform",
    "audit",
    "user-answers",
    "concert-answers",
    "queue-answers",
    "reservation-answers",
    "payment-answers",
    "point-answers",
    "ranking-answers",
    "notification-answers",
    "data-platform-answers",
    "audit-answers",
    "callout",
    "gateway",
    "client",
    "operator",
    "provisioner",
];
/// The identity that admits accounts: no user of the broker, but the key that signs their JWTs.
pub const ISSUER: &str = "issuer";

/// The servers that run by default, the same on every machine, each with the version of its
/// package, which begins with the server's own version.
pub const PINNED: [(&str, &str); 3] = [
    ("nats", binaries::NATS.pin.version),
    ("postgres", binaries::POSTGRES.pin.version),
    ("valkey", binaries::VALKEY.pin.version),
];

/// The broker's configuration as the project ships it.
pub const NATS_CONF: &str = include_str!("../../jetstream/nats.conf");

/// How long creating the databases and roles may take.
const PREPARED_WITHIN: Duration = Duration::from_secs(60);

/// Where progress is reported, one line at a time.
pub type Say = Arc<dyn Fn(&str) + Send + Sync>;

/// How the servers are started.
#[derive(Clone)]
pub struct Options {
    /// Where their data is kept.
    pub data: Data,
    /// Fixed ports, for the servers that need one.
    pub ports: Ports,
    /// The services that get a database; [`SERVICES`] by default.
    pub services: Vec<String>,
    /// Where progress is reported; standard error by default.
    pub say: Say,
}

/// Ports on 127.0.0.1; `None` takes a free one.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ports {
    /// NATS, for clients.
    pub nats: Option<u16>,
    /// NATS, for `/healthz` and `/varz`.
    pub nats_monitor: Option<u16>,
    /// PostgreSQL.
    pub postgres: Option<u16>,
    /// Valkey.
    pub valkey: Option<u16>,
}

impl Options {
    /// Options with a temporary folder, for tests.
    pub fn temporary() -> Self {
        Self::with(Data::Temporary)
    }

    /// Options with a folder that is kept; it is created if it does not exist.
    pub fn folder(folder: impl Into<PathBuf>) -> Self {
        Self::with(Data::Folder(folder.into()))
    }

    fn with(data: Data) -> Self {
        Self {
            data,
            ports: Ports::default(),
            services: SERVICES.iter().map(|service| (*service).to_owned()).collect(),
            say: Arc::new(|line| eprintln!("{line}")),
        }
    }
}

/// Why the servers do not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A binary is missing; the text says how to fix that.
    #[error("{0}")]
    Missing(String),
    /// A server does not come up.
    #[error("{name} does not start: {why}\n{said}")]
    NotStarted {
        /// Which one.
        name: &'static str,
        /// The reason, as far as it is known.
        why: String,
        /// The end of its log.
        said: String,
    },
    /// Another process runs its servers on this folder.
    #[error("{} is in use by another process", .0.display())]
    InUse(PathBuf),
    /// The folder's database was created by another major version of PostgreSQL.
    #[error(
        "{} was made by PostgreSQL {made_by} and this is PostgreSQL {major}: delete it, \
         or set ONSALE_BIN_DIR to a PostgreSQL {made_by}",
        folder.display()
    )]
    OtherVersion {
        /// The data folder.
        folder: PathBuf,
        /// The version that created it.
        made_by: String,
        /// The version of the binary that was found.
        major: u32,
    },
    /// A database or a role could not be created.
    #[error("PostgreSQL refuses: {0}")]
    Database(#[from] sqlx::Error),
    /// The operating system refuses an operation.
    #[error("{what}: {source}")]
    Io {
        /// The operation, and the file or folder.
        what: String,
        /// The reason.
        source: io::Error,
    },
}

impl Error {
    pub(crate) fn io(what: &str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let what = format!("{what} {}", path.display());
        move |source| Self::Io { what, source }
    }
}

/// NATS, PostgreSQL and Valkey, running. Dropping them stops them.
pub struct Servers {
    /// The broker.
    pub nats: Server,
    /// The databases; the URL is the administrator's.
    pub postgres: Server,
    /// The waiting room's store; the URL contains the password.
    pub valkey: Server,
    nats_monitor: u16,
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
            .and_then(|passwords| Ok((passwords, Nkeys::open(&at.join("nkeys"), IDENTITIES)?)))
            .map_err(failed)?;
        let ports = options.ports;
        // Each of them waits for the disk, so they start in parallel.
        let (nats, postgres, valkey) = std::thread::scope(|scope| {
            let nats =
                scope.spawn(|| nats::start(&for_nats, at, &nkeys, ports.nats, ports.nats_monitor));
            let valkey =
                scope.spawn(|| valkey::start(&for_valkey, at, &passwords.valkey, ports.valkey));
            let (account, password) = (account.clone(), &passwords.postgres);
            let postgres =
                postgres::start(&for_postgres, &folder, account, password, ports.postgres, say);
            let panicked = "starting a server does not panic";
            (nats.join().expect(panicked), postgres, valkey.join().expect(panicked))
        });
        let (nats, nats_monitor) = nats?;
        let (postgres, valkey) = (postgres?, valkey?);
        Ok(Self { nats, postgres, valkey, nats_monitor, nkeys, passwords, folder })
    }

    /// The URL of a service's database, as the role that owns it.
    ///
    /// # Panics
    /// When the service is not one of [`Options::services`].
    pub fn database_url(&self, service: &str) -> String {
        let password = self.passwords.services.get(service);
        let password = password.expect("a service that was named in the options");
        let name = postgres::database_of(service);
        postgres::url(self.postgres.port(), &name, password, &name)
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

    /// The URL of the broker's `/healthz`, `/varz` and `/jsz`.
    pub fn nats_monitor_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.nats_monitor)
    }

    /// The data folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The server of this name: `nats`, `postgres` or `valkey`.
    pub fn by_name(&self, name: &str) -> Option<&Server> {
        [&self.nats, &self.postgres, &self.valkey].into_iter().find(|server| server.name() == name)
    }

    /// Stops all three servers: gracefully, or at once when their folder is temporary.
    pub async fn stop(self) {
        // Fails only when the runtime is shutting down; then they have been dropped.
        let _ = tokio::task::spawn_blocking(move || drop(self)).await;
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        let all = [&self.nats, &self.postgres, &self.valkey];
        all.iter().for_each(|server| server.ask_to_end(self.folder.is_temporary()));
        all.iter().for_each(|server| server.wait_for_end());
    }
}

/// Runs blocking work on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Error> + Send + 'static,
) -> Result<T, Error> {
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|gone| {
        let source = io::Error::other(gone);
        Err(Error::Io { what: "starting the servers was interrupted".into(), source })
    })
}

/// Creates a folder for this account alone; when `passable`, other accounts may pass through it
/// to what is theirs.
pub(crate) fn own_folder(folder: &Path, passable: bool) -> io::Result<()> {
    let mode = if passable { 0o711 } else { 0o700 };
    fs::DirBuilder::new().recursive(true).mode(mode).create(folder)
}
