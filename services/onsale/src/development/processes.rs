//! The services as a deployment runs them: one process each, two of the busy ones, and each with
//! connections of its own to the servers that can be broken.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use mesh::failpoint::crash::CrashAt;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::process::{Child, Command};

use super::proxy::{Proxy, Wire};
use crate::{
    config::Config,
    development::{
        clock, crash,
        environment::{Environment, ask_to_stop},
    },
    http::Http,
    registry::{SERVICES, WITH_DATABASE, WITH_VALKEY},
};

/// Services that run twice.
const BUSY: [&str; 5] = [gateway::NAME, queue::NAME, reservation::NAME, payment::NAME, point::NAME];
/// The servers that a process may be connected to.
pub(super) const SERVERS: [&str; 3] = ["nats", "postgres", "valkey"];
/// How long all of them may take to be ready.
const READY_WITHIN: Duration = Duration::from_secs(120);
/// How long a process may take to stop in order.
const STOP_WITHIN: Duration = Duration::from_secs(30);
/// How long a process may take to get to the step at which it ends.
const CRASHED_WITHIN: Duration = Duration::from_secs(10);
const PROBE: Duration = Duration::from_millis(20);
/// How long a process may take to answer whether it is ready.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// One process of a service.
pub(super) struct Process {
    /// The service.
    pub(super) service: &'static str,
    /// Its name among all processes, for example `payment-2`.
    pub(super) name: String,
    env: Vec<(String, String)>,
    health: SocketAddr,
    log: PathBuf,
    /// Says by how much its clock is moved.
    clock: PathBuf,
    child: Child,
    /// Whether it is paused; a paused process cannot stop.
    is_paused: bool,
    proxies: BTreeMap<&'static str, Proxy>,
}

/// All processes.
pub(super) struct Processes {
    all: Vec<Process>,
    /// Where the gateways listen.
    pub(super) gateways: Vec<SocketAddr>,
}

impl Processes {
    /// Starts them and waits until all are ready.
    ///
    /// # Errors
    /// When one does not become ready in time.
    pub(super) async fn start(env: &Environment, folder: &Path) -> Result<Self> {
        Self::start_with(env, folder, &[]).await
    }

    /// The same with more variables of the environment.
    ///
    /// # Errors
    /// As [`Processes::start`].
    pub(super) async fn start_with(
        env: &Environment,
        folder: &Path,
        more: &[(String, String)],
    ) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let (mut all, mut gateways) = (Vec::new(), Vec::new());
        for service in SERVICES {
            let count = if BUSY.contains(&service) { 2 } else { 1 };
            for number in 1..=count {
                let process = Process::start(env, service, number, folder, more).await?;
                if service == gateway::NAME {
                    gateways.extend(process.listens_at());
                }
                all.push(process);
            }
        }
        let mut processes = Self { all, gateways };
        let until = Instant::now() + READY_WITHIN;
        for process in &mut processes.all {
            while !process.is_ready().await {
                if Instant::now() > until {
                    let log = process.log.display();
                    bail!("{} is not ready after {READY_WITHIN:?}; see {log}", process.name);
                }
                tokio::time::sleep(PROBE).await;
            }
        }
        Ok(processes)
    }

    /// All of them.
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &Process> {
        self.all.iter()
    }

    /// One of them.
    pub(super) fn at(&mut self, index: usize) -> &mut Process {
        &mut self.all[index]
    }

    /// Sets all connections to a server, or those of one process.
    pub(super) fn wire(&self, server: &str, of: Option<usize>, wire: Wire) {
        let processes = match of {
            Some(index) => &self.all[index..=index],
            None => &self.all[..],
        };
        processes.iter().filter_map(|one| one.proxies.get(server)).for_each(|one| one.set(wire));
    }

    /// Starts those again that have ended by themselves, and names them.
    pub(super) fn ended(&mut self) -> Result<Vec<String>> {
        let mut ended = Vec::new();
        for process in &mut self.all {
            if let Some(status) = process.child.try_wait()? {
                ended.push(format!("{} ended by itself: {status}", process.name));
                process.child = process.spawn()?;
            }
        }
        Ok(ended)
    }

    /// Messages of the broker that came again, counted by the processes since they were started.
    pub(super) async fn repeats(&self) -> u64 {
        let reports = self.all.iter().map(Process::report);
        let reports = futures::future::join_all(reports).await;
        let services = reports.iter().flatten().filter_map(|report| report["services"].as_object());
        services
            .flat_map(|services| services.values())
            .filter_map(|one| one["repeats"].as_u64())
            .sum()
    }

    /// Stops all of them in order.
    pub(super) async fn stop(&mut self) {
        futures::future::join_all(self.all.iter_mut().map(Process::stop)).await;
    }
}

impl Process {
    async fn start(
        env: &Environment,
        service: &'static str,
        number: usize,
        folder: &Path,
        more: &[(String, String)],
    ) -> Result<Self> {
        let servers = env.servers.as_ref().context("servers of our own")?;
        let mut proxies = BTreeMap::new();
        let mut config = env.config.clone();
        for server in servers.all() {
            let (name, port) = (server.name(), server.port());
            let proxy = Proxy::to(port).await?;
            redirect(&mut config, name, port, proxy.port());
            proxies.insert(name, proxy);
        }
        config.http_addr = Some(free()?);
        let health = free()?;
        let name = format!("{service}-{number}");
        let log = folder.join(format!("{name}.log"));
        let clock = folder.join(format!("{name}.clock"));
        fs::write(&clock, "0")?;
        let mut env = variables(env, &config, health, folder);
        env.push((clock::VARIABLE.to_owned(), clock.to_string_lossy().into_owned()));
        env.extend(more.iter().cloned());
        let child = spawn(service, &env, &log)?;
        Ok(Self { service, name, env, health, log, clock, child, is_paused: false, proxies })
    }

    fn spawn(&self) -> Result<Child> {
        spawn(self.service, &self.env, &self.log)
    }

    /// Its id among the processes of this machine; `None` when it has ended.
    pub(super) fn pid(&self) -> Option<i32> {
        self.child.id().map(u32::cast_signed)
    }

    fn listens_at(&self) -> Option<SocketAddr> {
        let value = |(name, value): &(String, String)| {
            (name == "ONSALE_HTTP_ADDR").then(|| value.parse().ok())
        };
        self.env.iter().find_map(value).flatten()
    }

    /// Whether events and commands come all the time. The gateway handles none.
    pub(super) fn is_busy(&self) -> bool {
        BUSY.contains(&self.service) && self.service != gateway::NAME
    }

    /// The servers that it needs.
    pub(super) fn servers(&self) -> impl Iterator<Item = &'static str> {
        self.proxies.keys().copied().filter(|server| match *server {
            "postgres" => WITH_DATABASE.contains(&self.service),
            "valkey" => WITH_VALKEY.contains(&self.service),
            _ => true,
        })
    }

    /// Those of them that it is connected to now: of several nodes of the broker, one.
    pub(super) fn connected(&self) -> impl Iterator<Item = &'static str> {
        self.servers().filter(|server| self.proxies.get(server).is_some_and(Proxy::is_used))
    }

    /// What it says of itself; `None` when it does not answer.
    async fn report(&self) -> Option<Value> {
        let http = Http::new(format!("http://{}", self.health));
        let ask = http.get("/readyz");
        let asked = tokio::time::timeout(ANSWER_WITHIN, ask.send());
        serde_json::from_slice(&asked.await.ok()?.ok()?.body).ok()
    }

    /// Whether it is ready for work.
    pub(super) async fn is_ready(&self) -> bool {
        self.report().await.is_some_and(|report| report["status"] == "ready")
    }

    /// Events and commands that it has handled since it was started.
    pub(super) async fn handled(&self) -> u64 {
        let Some(report) = self.report().await else { return 0 };
        let Some(services) = report["services"].as_object() else { return 0 };
        services.values().filter_map(|one| one["handled"].as_u64()).sum()
    }

    /// Kills it, as the kernel or a machine that fails does.
    pub(super) async fn kill(&mut self) -> Result<()> {
        self.is_paused = false;
        self.child.kill().await.with_context(|| format!("killing {}", self.name))
    }

    /// Starts it again after it was killed or stopped.
    pub(super) fn restart(&mut self) -> Result<()> {
        self.child = self.spawn()?;
        Ok(())
    }

    /// Starts it again to end at a step, and waits for that; returns whether it got there. It is
    /// killed when it did not.
    pub(super) async fn restart_until(&mut self, at: CrashAt) -> Result<bool> {
        let mut env = self.env.clone();
        env.push((crash::VARIABLE.to_owned(), at.to_string()));
        self.child = spawn(self.service, &env, &self.log)?;
        match tokio::time::timeout(CRASHED_WITHIN, self.child.wait()).await {
            Ok(ended) => ended.map(|_| true).context("waiting for a crash"),
            Err(_) => self.kill().await.map(|()| false),
        }
    }

    /// Pauses it, as a virtual machine is paused.
    pub(super) fn pause(&mut self) {
        self.is_paused = true;
        self.signal(Signal::STOP);
    }

    /// Lets it go on.
    pub(super) fn resume(&mut self) {
        self.is_paused = false;
        self.signal(Signal::CONT);
    }

    /// Moves its clock: it is ahead of the machine's by this much, or behind.
    pub(super) fn move_clock(&self, ahead_millis: i64) -> Result<()> {
        let file = &self.clock;
        fs::write(file, ahead_millis.to_string()).with_context(|| file.display().to_string())
    }

    /// Stops it in order; it is killed when it does not end.
    pub(super) async fn stop(&mut self) {
        if self.is_paused {
            self.resume();
        }
        if let Some(pid) = self.child.id() {
            ask_to_stop(pid);
        }
        if tokio::time::timeout(STOP_WITHIN, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = self.child.id().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        if let Some(pid) = pid {
            // It fails only when the process is gone.
            let _ = kill_process(pid, signal);
        }
    }
}

/// Lets a service reach a server through a proxy.
fn redirect(config: &mut Config, server: &str, from: u16, to: u16) {
    let moved = |url: &str| url.replace(&format!("127.0.0.1:{from}"), &format!("127.0.0.1:{to}"));
    match server {
        "valkey" => config.valkey_url = moved(&config.valkey_url),
        "postgres" => config.database_urls.values_mut().for_each(|url| *url = moved(url)),
        // The broker, or one of its nodes.
        _ => config.nats_url = moved(&config.nats_url),
    }
}

/// An address that nothing listens on now.
fn free() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn variables(
    env: &Environment,
    config: &Config,
    health: SocketAddr,
    folder: &Path,
) -> Vec<(String, String)> {
    let beside = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let mut variables = config.to_env();
    let own = [
        ("ONSALE_HEALTH_ADDR", health.to_string()),
        ("ONSALE_OPERATOR_EMAIL", env.operator.email.clone()),
        ("ONSALE_OPERATOR_PASSWORD", env.operator.password.clone()),
        ("ONSALE_LOGIN_RATE_PER_MINUTE", "off".to_owned()),
        ("ONSALE_HOLD_GRACE_SECS", "5".to_owned()),
        ("ONSALE_NOTIFY", "folder".to_owned()),
        ("ONSALE_NOTIFY_FOLDER", beside("messages")),
        (data_platform::FOLDER_VARIABLE, beside("export")),
        (data_platform::URL_VARIABLE, String::new()),
        ("ONSALE_LOG_FORMAT", "text".to_owned()),
    ];
    variables.extend(own.map(|(name, value)| (name.to_owned(), value)));
    variables
}

fn spawn(service: &str, env: &[(String, String)], log: &Path) -> Result<Child> {
    let log = File::options().create(true).append(true).open(log)?;
    Command::new(std::env::current_exe()?)
        .args(["run", service, "--with-parent"])
        .envs(env.iter().map(|(name, value)| (name, value)))
        // It ends when this pipe closes, however this process ends.
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log)
        // Ctrl-C in the terminal is for this process alone.
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {service} in a process of its own"))
}
