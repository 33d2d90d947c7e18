//! Runs PostgreSQL: one cluster, with one database and one role per service.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::fs::{DirBuilderExt, chown, symlink},
    path::{Path, PathBuf},
};

use rustix::process::Signal;
use sha2::{Digest, Sha256};
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row};

use crate::{
    account::{Account, open_to_all},
    binaries::Binary,
    data::Folder,
    error::Error,
    process::{self, Launch},
    say::Say,
    secrets::Passwords,
    server::{Plan, Server, log_tail},
};

/// How the cluster is run; everything else is PostgreSQL's default.
const SETTINGS: &[&str] = &[
    "listen_addresses=127.0.0.1",
    "unix_socket_directories=",
    "max_connections=200",
    "shared_buffers=128MB",
    // What was committed is on the disk: the guarantee that the whole mesh depends on.
    "fsync=on",
    "synchronous_commit=on",
    "full_page_writes=on",
    // Many small commits: short records, and checkpoints far apart, because the first change of
    // a page after a checkpoint writes the whole page.
    "wal_level=minimal",
    "max_wal_senders=0",
    "wal_buffers=16MB",
    "min_wal_size=256MB",
    "max_wal_size=2GB",
    "checkpoint_timeout=15min",
    // Every statement is short; compiling it would take longer than running it.
    "jit=off",
    // A transaction that its client has abandoned releases its locks.
    "idle_in_transaction_session_timeout=30s",
    "log_min_messages=warning",
];

/// The folder of the cluster and the account that owns it.
struct Home {
    cluster: PathBuf,
    account: Option<Account>,
}

/// Starts PostgreSQL on the folder's cluster, which is created if there is none.
pub(crate) fn start(
    binary: &Binary,
    folder: &Folder,
    account: Option<Account>,
    password: &str,
    fixed: Option<u16>,
    say: &Say,
) -> Result<Server, Error> {
    let (folder, temporary) = (folder.path(), folder.is_temporary());
    let home = Home::open(folder, account, say)?;
    home.init(binary, folder, password, temporary)?;
    Server::start(fixed, |port| {
        let mut args: Vec<OsString> = vec!["-D".into(), home.cluster.clone().into()];
        args.extend(["-c".into(), format!("port={port}").into()]);
        args.extend(SETTINGS.iter().flat_map(|setting| ["-c".into(), setting.into()]));
        let pid_file = home.cluster.join("postmaster.pid");
        Ok(Plan {
            name: "postgres",
            launch: home.launch(binary.path.clone(), args, folder),
            url: url(port, "postgres", password, "postgres"),
            port,
            // SIGINT is the fast shutdown. SIGQUIT, for an orphaned server, is the immediate
            // one: no process waits for it, and the next start can recover.
            stop: Signal::INT,
            answers: Box::new(move |pid| is_ready(&pid_file, pid)),
        })
    })
}

/// The URL of one database.
pub(crate) fn url(port: u16, role: &str, password: &str, database: &str) -> String {
    format!("postgres://{role}:{password}@127.0.0.1:{port}/{database}?sslmode=disable")
}

/// The database of a service, and the role that owns it.
pub(crate) fn database_of(service: &str) -> String {
    format!("onsale_{}", service.replace('-', "_"))
}

/// Creates each service's database and role unless they exist. No role may even connect to a
/// database of another service.
pub(crate) async fn prepare(server: &Server, passwords: &Passwords) -> Result<(), sqlx::Error> {
    let mut admin = PgConnection::connect(server.url()).await?;
    let databases: Vec<String> = sqlx::query("select datname::text from pg_database")
        .fetch_all(&mut admin)
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    let roles: Vec<String> = sqlx::query("select rolname::text from pg_roles")
        .fetch_all(&mut admin)
        .await?
        .iter()
        .map(|row| row.get(0))
        .collect();
    let mut statements =
        vec!["revoke connect on database postgres, template1 from public".to_owned()];
    for (service, password) in &passwords.services {
        let name = database_of(service);
        if !roles.contains(&name) {
            statements.push(format!("create role {name} login password '{password}'"));
        }
        if !databases.contains(&name) {
            statements.push(format!("create database {name} owner {name}"));
        }
        statements.push(format!("revoke connect, temporary on database {name} from public"));
    }
    for statement in statements {
        // Safe to insert: the names are ours, and the passwords are hexadecimal digits.
        sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut admin).await?;
    }
    admin.close().await
}

/// Whether the server takes connections. `postmaster.pid` has the id of the running server in
/// its first line, and in its eighth whether it takes connections.
fn is_ready(pid_file: &Path, pid: u32) -> bool {
    let content = fs::read_to_string(pid_file).unwrap_or_default();
    let mut lines = content.lines();
    lines.next() == Some(pid.to_string().as_str())
        && lines.nth(6).is_some_and(|status| status.trim() == "ready")
}

impl Home {
    /// The cluster is in the data folder. If the account that PostgreSQL runs as cannot enter
    /// that (a checkout in root's home), the cluster is in `/var/lib/onsale`, and the data folder
    /// has a link to it.
    fn open(folder: &Path, account: Option<Account>, say: &Say) -> Result<Self, Error> {
        let here = folder.join("postgres");
        let Some(account) = account else {
            return Ok(Self { cluster: here, account: None });
        };
        if open_to_all(folder) {
            return Ok(Self { cluster: here, account: Some(account) });
        }
        let name: String = Sha256::digest(folder.as_os_str().as_encoded_bytes())
            .iter()
            .take(8)
            .map(|byte| format!("{byte:02x}"))
            .collect();
        let public = Path::new("/var/lib/onsale").join(name);
        let cluster = public.join("postgres");
        let failed = |error| Error::io("cannot store PostgreSQL's data in", &public)(error);
        if !here.is_symlink() {
            // Left over from a data folder that was deleted.
            if public.exists() {
                fs::remove_dir_all(&public).map_err(failed)?;
            }
            fs::DirBuilder::new().recursive(true).mode(0o755).create(&public).map_err(failed)?;
            symlink(&cluster, &here).map_err(failed)?;
        }
        say(&format!(
            "PostgreSQL runs as `{}`, which may not enter {}: its data is in {}",
            account.name,
            folder.display(),
            public.display()
        ));
        Ok(Self { cluster, account: Some(account) })
    }

    /// Creates the cluster, completely or not at all: it is renamed into place.
    fn init(
        &self,
        binary: &Binary,
        folder: &Path,
        password: &str,
        temporary: bool,
    ) -> Result<(), Error> {
        let failed = |error| Error::io("cannot create PostgreSQL's data in", &self.cluster)(error);
        if let Ok(made_by) = fs::read_to_string(self.cluster.join("PG_VERSION")) {
            let (made_by, major) = (made_by.trim().to_owned(), binary.version.0);
            return if made_by == major.to_string() {
                Ok(())
            } else {
                Err(Error::OtherVersion { folder: folder.to_owned(), made_by, major })
            };
        }
        let new = self.cluster.with_extension("new");
        let secret = self.cluster.with_extension("password");
        if new.exists() {
            fs::remove_dir_all(&new).map_err(failed)?;
        }
        fs::DirBuilder::new().mode(0o700).create(&new).map_err(failed)?;
        crate::secrets::write(&secret, password.as_bytes()).map_err(failed)?;
        self.give(&new).map_err(failed)?;
        self.give(&secret).map_err(failed)?;
        let mut args: Vec<OsString> = vec!["-D".into(), new.clone().into()];
        args.extend(["--pwfile".into(), secret.clone().into()]);
        args.extend(
            ["-U", "postgres", "-A", "scram-sha-256", "-E", "UTF8", "--locale", "C"]
                .map(OsString::from),
        );
        if temporary {
            // A thousand files that need not survive a crash of the machine.
            args.push("--no-sync".into());
        }
        let launch = self.launch(self.initdb(binary)?, args, folder);
        let mut child =
            process::spawn(&launch).map_err(Error::io("cannot run", &launch.program))?;
        let status = child.wait().map_err(failed)?;
        let _ = fs::remove_file(&secret);
        if !status.success() {
            let why = format!("initdb ended with {status}");
            return Err(Error::NotStarted { name: "postgres", why, said: log_tail(&launch) });
        }
        fs::rename(&new, &self.cluster).map_err(failed)
    }

    fn initdb(&self, binary: &Binary) -> Result<PathBuf, Error> {
        let initdb = binary.path.with_file_name("initdb");
        if initdb.is_file() {
            return Ok(initdb);
        }
        Err(Error::Missing(format!(
            "There is no `initdb` beside {}. Set ONSALE_BIN_DIR to a folder that has both.",
            binary.path.display()
        )))
    }

    fn launch(&self, program: PathBuf, args: Vec<OsString>, folder: &Path) -> Launch {
        Launch {
            program,
            args,
            env: Vec::new(),
            account: self.account.clone(),
            log: folder.join("postgres.log"),
            orphaned: Signal::QUIT,
        }
    }

    fn give(&self, path: &Path) -> io::Result<()> {
        match &self.account {
            Some(account) => chown(path, Some(account.uid), Some(account.gid)),
            None => Ok(()),
        }
    }
}
