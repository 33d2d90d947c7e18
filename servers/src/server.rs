//! One running server, which can be killed, stopped and restarted.

use std::{
    fs,
    process::{Child, ExitStatus},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    account::Account,
    error::{Error, blocking},
    ports::free_port,
    process::{self, Launch},
};

/// How long a server may take until it answers, including recovery after a kill.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// How long a server may take to stop before it is killed.
const STOPPED_WITHIN: Duration = Duration::from_secs(20);
/// How often a starting server is probed.
const PROBE_EVERY: Duration = Duration::from_millis(20);
/// Attempts to start: the port may be taken at the last moment.
const TRIES_MAX: u32 = 8;
/// For how long a restart is tried again: what a killed server has left behind (PostgreSQL's own
/// children, while they wait for a disk) may take a moment to end.
const RESTARTED_WITHIN: Duration = Duration::from_secs(6);
/// The pause between two attempts.
const TRY_AGAIN_AFTER: Duration = Duration::from_millis(300);

/// How to run one server.
pub(crate) struct Plan {
    pub(crate) name: &'static str,
    pub(crate) launch: Launch,
    pub(crate) url: String,
    pub(crate) port: u16,
    /// The signal that asks it to stop.
    pub(crate) stop: Signal,
    /// Whether the process with this id takes requests, and not another server that was faster
    /// to take the port.
    pub(crate) answers: Box<dyn Fn(u32) -> bool + Send + Sync>,
}

/// A server that runs as a child process; clones are handles to the same one.
#[derive(Clone)]
pub struct Server(Arc<Inner>);

struct Inner {
    plan: Plan,
    child: Mutex<Option<Child>>,
}

impl Server {
    /// Runs the plan for a port, and for another port when that one is taken.
    pub(crate) fn start(
        fixed: Option<u16>,
        plan: impl Fn(u16) -> Result<Plan, Error>,
    ) -> Result<Self, Error> {
        let mut tried = 1;
        loop {
            let plan = plan(fixed.unwrap_or_else(free_port))?;
            let server = Self(Arc::new(Inner { plan, child: Mutex::new(None) }));
            match server.try_once() {
                Err(_) if tried < TRIES_MAX => tried += 1,
                outcome => return outcome.map(|()| server),
            }
            thread::sleep(TRY_AGAIN_AFTER);
        }
    }

    /// `nats`, `postgres` or `valkey`.
    pub fn name(&self) -> &'static str {
        self.0.plan.name
    }

    /// The URL to reach it, with the administrator's password if it needs one.
    pub fn url(&self) -> &str {
        &self.0.plan.url
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.0.plan.port
    }

    /// The id of its process, unless it was killed or stopped.
    pub fn pid(&self) -> Option<u32> {
        self.child().as_ref().map(Child::id)
    }

    /// The account that it runs as; `None` for our own.
    pub(crate) fn account(&self) -> Option<&Account> {
        self.0.plan.launch.account.as_ref()
    }

    /// How it ended, if it has ended by itself since the last call.
    pub fn ended(&self) -> Option<ExitStatus> {
        // The holder of the lock is stopping or restarting it.
        let mut child = self.0.child.try_lock().ok()?;
        let status = child.as_mut()?.try_wait().ok()??;
        *child = None;
        Some(status)
    }

    /// The last line of its log; empty when there is none.
    pub fn last_line(&self) -> String {
        log_tail(&self.0.plan.launch).lines().last().unwrap_or_default().to_owned()
    }

    /// An error with the end of its log.
    pub(crate) fn not_started(&self, why: String) -> Error {
        let said = log_tail(&self.0.plan.launch);
        Error::NotStarted { name: self.name(), why, said }
    }

    /// Kills it and its children at once (SIGKILL), as the end of its machine would. Its data
    /// stays.
    pub fn kill(&self) {
        let mut child = self.child();
        if let Some(child) = child.as_mut() {
            // Paused, it starts no further children and keeps the ids of those that end.
            process::signal(child, Signal::STOP);
            let children = process::children(child.id());
            // Otherwise they end a moment later, when they find that they are alone.
            children.into_iter().for_each(|pid| process::signal_id(pid, Signal::KILL));
            // Both fail only when it has ended already.
            let _ = child.kill();
            let _ = child.wait();
        }
        *child = None;
    }

    /// Stops it gracefully. Its data stays.
    pub async fn stop(&self) {
        let server = self.clone();
        // Fails only when the runtime is shutting down; then dropping stops it.
        let _ = tokio::task::spawn_blocking(move || server.stop_now()).await;
    }

    /// Restarts it on the same port and data, stopping it first if it runs; returns when it
    /// answers.
    ///
    /// # Errors
    /// When it does not come up; the error has the end of its log.
    pub async fn restart(&self) -> Result<(), Error> {
        let server = self.clone();
        blocking(move || {
            server.stop_now();
            let until = Instant::now() + RESTARTED_WITHIN;
            loop {
                match server.try_once() {
                    Err(_) if Instant::now() < until => thread::sleep(TRY_AGAIN_AFTER),
                    outcome => return outcome,
                }
            }
        })
        .await
    }

    /// Asks it to end without waiting for it. With `discard`, it does not write its data to the
    /// disk first, since the data will not be read again.
    pub(crate) fn ask_to_end(&self, discard: bool) {
        let Plan { stop, launch, .. } = &self.0.plan;
        if let Some(child) = self.child().as_ref() {
            process::signal(child, if discard { launch.orphaned } else { *stop });
            // A paused process would not handle the signal.
            process::signal(child, Signal::CONT);
        }
    }

    fn stop_now(&self) {
        self.ask_to_end(false);
        self.wait_for_end();
    }

    pub(crate) fn wait_for_end(&self) {
        let ended = match self.child().as_mut() {
            Some(child) => process::wait(child, STOPPED_WITHIN).is_some(),
            None => true,
        };
        if ended {
            *self.child() = None;
        } else {
            self.kill();
        }
    }

    /// Tries to start it once; on a failure no process of it is left running.
    fn try_once(&self) -> Result<(), Error> {
        let Plan { name, launch, answers, .. } = &self.0.plan;
        let mut child = process::spawn(launch).map_err(Error::io("cannot run", &launch.program))?;
        let deadline = Instant::now() + READY_WITHIN;
        let why = loop {
            if answers(child.id()) {
                *self.child() = Some(child);
                return Ok(());
            }
            if let Some(status) = process::wait(&mut child, PROBE_EVERY) {
                break format!("it ended at once ({status})");
            }
            if Instant::now() >= deadline {
                break format!("it did not answer within {} s", READY_WITHIN.as_secs());
            }
        };
        let _ = child.kill();
        let _ = child.wait();
        Err(Error::NotStarted { name, why, said: log_tail(launch) })
    }

    fn child(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.0.child.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Inner {
    /// Stops the server when its last handle is dropped.
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(child) = child {
            process::signal(child, self.plan.stop);
            if process::wait(child, STOPPED_WITHIN).is_none() {
                let _ = child.kill();
                let _ = child.wait();
            }
        }
    }
}

/// The end of a server's log.
pub(crate) fn log_tail(launch: &Launch) -> String {
    let log = fs::read(&launch.log).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}
