//! The faults: what is done to which part, for how long, and how it is undone.

use std::{fmt, fs, ops::RangeInclusive, path::PathBuf, process::Command, time::Duration};

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

use crate::development::{
    processes::{Process, Processes, SERVERS},
    proxy::Wire,
};

/// The largest file that a server may write whose disk is full: less than it needs for anything …
const NO_ROOM: u64 = 16;
/// … and of PostgreSQL: its log has room, which says what happened, and its WAL has none, because
/// it writes into files of 16 MiB.
const NO_ROOM_FOR_WAL: u64 = 1024 * 1024;
/// By how much a clock is moved: more than `onsale doctor` calls wrong, now and then.
const MOVED_MILLIS: RangeInclusive<i64> = 2_000..=9_000;

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
    /// The broker, or one of its nodes, goes back to an older copy of its files
    RollBack,
    /// The broker, or one of its nodes, loses all of its files
    Wipe,
    /// The broker loses all of its files, twice within seconds
    WipeTwice,
    /// Valkey loses everything
    Empty,
    /// The disk of a server is full, until it is started again with room
    FullDisk,
    /// The node of the broker that leads a stream, or all of them, is killed (with --nodes 3)
    Leader,
    /// The clock of a process jumps by 2 to 9 seconds, forwards or back, and later back again
    Clock,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value();
        f.write_str(value.as_ref().map_or("", |value| value.get_name()))
    }
}

/// Whose leader is killed: that of a stream, or of the broker.
const LED: [Option<&str>; 5] =
    [None, Some("PAYMENT"), Some("POINT"), Some("QUEUE"), Some("RESERVATION")];
/// How long an election may take.
const ELECTED_WITHIN: Duration = Duration::from_secs(20);

impl Kind {
    /// All that can be made with so many nodes of the broker.
    pub fn all(nodes: u8) -> impl Iterator<Item = Self> {
        let all = Self::value_variants().iter().copied();
        all.filter(move |kind| kind.is_possible(nodes))
    }

    /// Whether it can be made with so many nodes of the broker.
    pub(super) fn is_possible(self, nodes: u8) -> bool {
        self != Self::Leader || nodes > 1
    }

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
                | Self::Leader
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
    /// By how much a clock is moved.
    ahead_millis: i64,
    /// Which stream's leader is killed; `None` for that of the broker.
    led: Option<&'static str>,
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
            Kind::Clock => 1_000..=6_000,
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
            Kind::Cut | Kind::Reset | Kind::Silence => of.connected().collect(),
            _ => SERVERS.to_vec(),
        };
        let mut server = match kind {
            Kind::RollBack | Kind::Wipe | Kind::WipeTwice => "nats",
            Kind::Empty => "valkey",
            _ => used.choose(random).copied().unwrap_or("nats"),
        };
        if server == "nats" && used == SERVERS {
            server = nodes(of).choose(random).unwrap_or(server);
        }
        let step = *Step::ALL.choose(random).unwrap_or(&Step::Committed);
        let crash = CrashAt { step, arrival: random.random_range(1..=20) };
        let sign = if random.random() { 1 } else { -1 };
        let ahead_millis = sign * random.random_range(MOVED_MILLIS);
        let led = LED.choose(random).copied().flatten();
        Self { kind, process, server, lasts, crash, ahead_millis, led }
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
            Kind::Clock => {
                format!("{} by {:+.1} s", name(), self.ahead_millis as f64 / 1_000.0)
            }
            kind if kind.is_of_process() => name().to_owned(),
            Kind::Cut | Kind::Reset | Kind::Silence => format!("{} to {}", name(), self.server),
            Kind::Leader => {
                format!("{}, which led {}", self.server, self.led.unwrap_or("the broker"))
            }
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
    pub(super) async fn strike(&mut self, on: &mut Targets<'_>) -> Result<Kind> {
        let (server, process) = (self.server, self.process);
        let wire = |wire| on.processes.wire(server, Some(process), wire);
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
            Kind::RollBack => copy_store(on.servers, self.server(on)?)?,
            Kind::Leader => {
                let leader = leader(on.servers, self.led).await?;
                leader.kill();
                self.server = leader.name();
            }
            Kind::FullDisk => {
                let server = self.server(on)?;
                let room = if self.server == "postgres" { NO_ROOM_FOR_WAL } else { NO_ROOM };
                server.limit_files(room).with_context(|| format!("limiting {}", self.server))?;
            }
            Kind::Clock => on.processes.at(self.process).move_clock(self.ahead_millis)?,
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
            Kind::KillServer | Kind::RestartServer | Kind::Leader => {
                self.server(on)?.restart().await?;
            }
            Kind::FullDisk => {
                let server = self.server(on)?;
                // PostgreSQL does not stop in order while it fails to recover.
                server.kill();
                server.restart().await?;
            }
            Kind::PauseServer => self.server(on)?.resume(),
            Kind::Clock => on.processes.at(self.process).move_clock(0)?,
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

/// The nodes of the broker.
fn nodes(process: &Process) -> impl Iterator<Item = &'static str> {
    process.servers().filter(|server| server.starts_with("nats"))
}

/// The node that leads, once one does: there may be an election.
async fn leader<'a>(servers: &'a Servers, of: Option<&str>) -> Result<&'a Server> {
    let elected = async {
        loop {
            match servers.leader_of(of).await {
                Some(leader) if leader.pid().is_some() => return leader,
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    };
    let elected = tokio::time::timeout(ELECTED_WITHIN, elected).await;
    elected.with_context(|| format!("nothing leads {}", of.unwrap_or("the broker")))
}

/// Where the broker's files are copied to.
fn copy_of_store(servers: &Servers) -> PathBuf {
    servers.folder().join("nats-copy")
}

/// The files of a server that loses them.
fn files(servers: &Servers, server: &str) -> Result<PathBuf> {
    servers.files_of(server).with_context(|| format!("{server} keeps its files elsewhere"))
}

/// Copies the files of a broker while it is paused: what a snapshot of its disk has.
fn copy_store(servers: &Servers, nats: &Server) -> Result<()> {
    let (store, copy) = (files(servers, nats.name())?, copy_of_store(servers));
    let _ = fs::remove_dir_all(&copy);
    nats.pause();
    let copied = Command::new("cp").arg("-a").arg(&store).arg(&copy).status();
    nats.resume();
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
