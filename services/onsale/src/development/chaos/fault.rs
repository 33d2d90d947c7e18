//! The faults: what is done to which part, for how long, and how it is undone.

use std::{fmt, fs, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use mesh::failpoint::crash::{CrashAt, Step};
use rand::{
    RngExt,
    rngs::StdRng,
    seq::{IndexedRandom, IteratorRandom},
};
use serde::Serialize;
use servers::{Server, Servers};

use super::{
    processes::{Process, Processes, SERVERS},
    proxy::Wire,
};

/// The largest file that a broker may write whose disk is full: less than any stream needs.
const NO_ROOM: u64 = 16;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A process of a service is killed and started again at once
    Kill,
    /// A process ends at a given step of the batch worker or of the publisher, and is started again
    Crash,
    /// A process of a service stays dead for a while
    Outage,
    /// A process of a service is paused, as a virtual machine is
    Pause,
    /// A process of a service is stopped in order and started again
    Restart,
    /// Every process is stopped in order and started again, one after the other, under load
    Roll,
    /// A server is killed and started again
    KillServer,
    /// A server is stopped in order and started again
    RestartServer,
    /// A server is paused with its children
    PauseServer,
    /// A process loses its connections to a server and gets no new ones
    Cut,
    /// The same, with resets
    Reset,
    /// Connections of a process to a server stay open and nothing passes
    Silence,
    /// Everything between all processes and a server takes longer
    Slow,
    /// No process reaches a server
    Partition,
    /// The broker goes back to an older copy of its files
    RollBack,
    /// The broker loses all of its files
    Wipe,
    /// The broker loses all of its files, twice within seconds
    WipeTwice,
    /// Valkey loses everything
    Empty,
    /// The broker's disk is full, until it is started again with room
    FullDisk,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}

impl Kind {
    /// Whether it changes the broker's files or process; two of those cannot happen at once.
    fn is_of_server(self) -> bool {
        matches!(
            self,
            Self::KillServer
                | Self::RestartServer
                | Self::PauseServer
                | Self::RollBack
                | Self::Wipe
                | Self::WipeTwice
                | Self::Empty
                | Self::FullDisk
        )
    }

    /// Whether it is about a process of a service.
    fn is_of_process(self) -> bool {
        matches!(
            self,
            Self::Kill | Self::Crash | Self::Outage | Self::Pause | Self::Restart | Self::Roll
        )
    }
}

/// A fault that is chosen: a kind, its target, and how long it lasts.
#[derive(Debug, Clone)]
pub(super) struct Fault {
    pub(super) kind: Kind,
    /// The process, for the kinds that have one.
    process: usize,
    /// The server, for the kinds that have one.
    server: &'static str,
    /// How long it lasts.
    pub(super) lasts: Duration,
    /// Where a crash happens.
    crash: CrashAt,
}

/// What faults are done to.
pub(super) struct Targets<'a> {
    pub(super) processes: &'a mut Processes,
    pub(super) servers: &'a Servers,
}

impl Fault {
    /// Chooses the target and the length of a fault of this kind.
    pub(super) fn of(kind: Kind, processes: &Processes, random: &mut StdRng) -> Self {
        let millis = match kind {
            Kind::Kill
            | Kind::Crash
            | Kind::Restart
            | Kind::Roll
            | Kind::Wipe
            | Kind::WipeTwice => 0..=1,
            Kind::KillServer | Kind::RestartServer | Kind::Empty => 0..=1_500,
            Kind::RollBack => 200..=4_000,
            // Longer than every timeout of the mesh, now and then.
            Kind::Pause | Kind::Silence if random.random_range(0..10) == 0 => 12_000..=15_000,
            _ => 300..=4_000,
        };
        let lasts = Duration::from_millis(random.random_range(millis));
        // Only a service with much to do gets to every step.
        let may = |one: &Process| kind != Kind::Crash || one.is_busy();
        let all = processes.iter().enumerate().filter(|(_, one)| may(one));
        let (process, of) = all.choose(random).expect("services run");
        let used: Vec<&'static str> = match kind {
            // A connection that does not exist cannot be cut.
            Kind::Cut | Kind::Reset | Kind::Silence => of.servers().collect(),
            _ => SERVERS.to_vec(),
        };
        let server = match kind {
            Kind::RollBack | Kind::Wipe | Kind::WipeTwice | Kind::FullDisk => "nats",
            Kind::Empty => "valkey",
            _ => used.choose(random).copied().unwrap_or("nats"),
        };
        let step = *Step::ALL.choose(random).unwrap_or(&Step::Committed);
        let crash = CrashAt { step, arrival: random.random_range(1..=20) };
        Self { kind, process, server, lasts, crash }
    }

    /// Whether it can happen while the other one does. A rolling restart waits for each process to
    /// be ready again, which it may never be while another fault lasts.
    pub(super) fn goes_with(&self, other: &Self) -> bool {
        if self.kind == Kind::Roll || other.kind == Kind::Roll {
            return false;
        }
        let both = |of: fn(Kind) -> bool| of(self.kind) && of(other.kind);
        self.kind != other.kind && !both(Kind::is_of_server) && !both(Kind::is_of_process)
    }

    /// What it is done to, in words.
    pub(super) fn target(&self, processes: &Processes) -> String {
        let name = || processes.iter().nth(self.process).map_or("", |one| one.name.as_str());
        match self.kind {
            Kind::Roll => "every process".to_owned(),
            Kind::Crash => format!("{} at {}", name(), self.crash),
            kind if kind.is_of_process() => name().to_owned(),
            Kind::Cut | Kind::Reset | Kind::Silence => format!("{} to {}", name(), self.server),
            Kind::Slow | Kind::Partition => format!("everything to {}", self.server),
            _ => self.server.to_owned(),
        }
    }

    /// The process that it ends and starts again, if it is about one.
    pub(super) fn restarted(&self) -> Option<usize> {
        matches!(self.kind, Kind::Kill | Kind::Crash | Kind::Outage | Kind::Restart)
            .then_some(self.process)
    }

    /// Whether clients may notice it: a gateway, the broker, or the store of a service was hit.
    /// Of services that run twice the other process goes on.
    pub(super) fn may_be_noticed(&self, processes: &Processes) -> bool {
        let service = processes.iter().nth(self.process).map_or("", |one| one.service);
        let is_one_of_two = matches!(
            self.kind,
            Kind::Kill
                | Kind::Crash
                | Kind::Outage
                | Kind::Pause
                | Kind::Restart
                | Kind::Cut
                | Kind::Reset
        );
        !is_one_of_two || service == gateway::NAME
    }

    /// Does it; returns the kind that it was. A process that does not get to the step of its crash is
    /// killed.
    ///
    /// # Errors
    /// When it cannot be done.
    pub(super) async fn strike(&self, on: &mut Targets<'_>) -> Result<Kind> {
        let wire = |wire| on.processes.wire(self.server, Some(self.process), wire);
        match self.kind {
            Kind::Kill | Kind::Outage => on.processes.at(self.process).kill().await?,
            Kind::Crash => {
                let process = on.processes.at(self.process);
                process.kill().await?;
                if !process.restart_until(self.crash).await? {
                    return Ok(Kind::Kill);
                }
            }
            Kind::Pause => on.processes.at(self.process).pause(),
            Kind::Restart => on.processes.at(self.process).stop().await,
            Kind::Roll => {
                let count = on.processes.iter().len();
                for index in 0..count {
                    let process = on.processes.at(index);
                    process.stop().await;
                    process.restart()?;
                    wait_until_ready(process).await?;
                }
            }
            Kind::KillServer | Kind::Wipe | Kind::WipeTwice | Kind::Empty => {
                self.server(on)?.kill();
            }
            Kind::RestartServer => self.server(on)?.stop().await,
            Kind::PauseServer => self.server(on)?.pause(),
            Kind::Cut => wire(Wire::Cut),
            Kind::Reset => wire(Wire::Reset),
            Kind::Silence => wire(Wire::Silent),
            Kind::Slow => on.processes.wire(self.server, None, Wire::Slow(SLOWER)),
            Kind::Partition => on.processes.wire(self.server, None, Wire::Silent),
            Kind::RollBack => copy_store(on.servers)?,
            Kind::FullDisk => {
                self.server(on)?.limit_files(NO_ROOM).context("limiting the broker's files")?;
            }
        }
        Ok(self.kind)
    }

    /// Undoes it.
    ///
    /// # Errors
    /// When it cannot be undone.
    pub(super) async fn heal(&self, on: &mut Targets<'_>) -> Result<()> {
        let wire = |wire| on.processes.wire(self.server, Some(self.process), wire);
        match self.kind {
            Kind::Kill | Kind::Crash | Kind::Outage | Kind::Restart => {
                on.processes.at(self.process).restart()?;
            }
            Kind::Pause => on.processes.at(self.process).resume(),
            Kind::Roll => {}
            Kind::KillServer | Kind::RestartServer | Kind::FullDisk => {
                self.server(on)?.restart().await?;
            }
            Kind::PauseServer => self.server(on)?.resume(),
            Kind::Cut | Kind::Reset | Kind::Silence => wire(Wire::Open),
            Kind::Slow | Kind::Partition => on.processes.wire(self.server, None, Wire::Open),
            Kind::RollBack => {
                let nats = self.server(on)?;
                nats.kill();
                let store = files(on.servers, self.server)?;
                fs::remove_dir_all(&store)?;
                fs::rename(copy_of_store(on.servers), &store)?;
                nats.restart().await?;
            }
            Kind::Wipe | Kind::Empty => wipe(on.servers, self.server(on)?).await?,
            Kind::WipeTwice => {
                let nats = self.server(on)?;
                wipe(on.servers, nats).await?;
                tokio::time::sleep(Duration::from_secs(3)).await;
                nats.kill();
                wipe(on.servers, nats).await?;
            }
        }
        Ok(())
    }

    fn server<'a>(&self, on: &Targets<'a>) -> Result<&'a Server> {
        on.servers.by_name(self.server).context("a server of our own")
    }
}

/// By how much a slow wire delays everything.
const SLOWER: Duration = Duration::from_millis(150);
/// How long a process may take to be ready during a rolling restart.
const READY_WITHIN: Duration = Duration::from_secs(60);

async fn wait_until_ready(process: &Process) -> Result<()> {
    let ready = async {
        while !process.is_ready().await {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let waited = tokio::time::timeout(READY_WITHIN, ready).await;
    waited.with_context(|| format!("{} is not ready in time", process.name))
}

/// Where the broker's files are copied to.
fn copy_of_store(servers: &Servers) -> PathBuf {
    servers.folder().join("nats-copy")
}

/// The files of a server that loses them.
fn files(servers: &Servers, server: &str) -> Result<PathBuf> {
    servers.files_of(server).with_context(|| format!("{server} keeps its files elsewhere"))
}

/// Copies the broker's files while it is paused: what a snapshot of its disk has.
fn copy_store(servers: &Servers) -> Result<()> {
    let (store, copy) = (files(servers, "nats")?, copy_of_store(servers));
    let _ = fs::remove_dir_all(&copy);
    servers.nats.pause();
    let copied = Command::new("cp").arg("-a").arg(&store).arg(&copy).status();
    servers.nats.resume();
    ensure!(copied.context("cp")?.success(), "the broker's files cannot be copied");
    Ok(())
}

/// Starts a server, which was killed, without its files.
async fn wipe(servers: &Servers, server: &Server) -> Result<()> {
    let files = files(servers, server.name())?;
    // Whatever is not there cannot be lost, and the fault would be none.
    fs::remove_dir_all(&files).with_context(|| files.display().to_string())?;
    Ok(server.restart().await?)
}
