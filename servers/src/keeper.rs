//! Restarts servers that have died, for as long as the process that uses them runs.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    task::{JoinSet, spawn_blocking},
    time::{Instant, sleep},
};

use crate::{error::Error, nats, say::Say, server::Server, servers::Servers};

/// How often a server is checked.
const CHECK_EVERY: Duration = Duration::from_millis(300);
/// How often the broker's health is queried: whether it can write.
const QUERY_EVERY: Duration = Duration::from_secs(2);
/// The first pause after a failed start; it doubles …
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// … up to this.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Failed starts in a row, or deaths soon after a start, until a server is given up.
const FAILURES_MAX: u32 = 10;
/// A server that runs for this long is stable: its failures no longer count.
const STEADY_AFTER: Duration = Duration::from_secs(60);
/// A disk with fewer free bytes counts as full.
const FULL: u64 = 256 * 1024;
/// Bytes that must be free before a server is restarted.
const ROOM_MIN: u64 = 8 * 1024 * 1024;

/// Restarts servers until it is dropped.
pub struct Keeper(JoinSet<Error>);

impl Servers {
    /// Restarts each server that ends by itself, and also the broker when it can no longer write,
    /// once there is room on the disk. Reports each restart in a line.
    pub fn keep(&self, say: Say) -> Keeper {
        let mut tasks = JoinSet::new();
        for server in [&self.nats, &self.postgres, &self.valkey] {
            let monitor = (server.name() == self.nats.name()).then_some(self.nats_monitor);
            let folder = self.folder().join(server.name());
            let keeping =
                Keeping { server: server.clone(), monitor, folder, say: say.clone(), failures: 0 };
            tasks.spawn(keeping.run());
        }
        Keeper(tasks)
    }
}

impl Keeper {
    /// Waits until a server is given up; the error has the end of its log.
    pub async fn given_up(&mut self) -> Error {
        loop {
            match self.0.join_next().await {
                Some(Ok(error)) => return error,
                // The task never panics; if it did, the other servers would still be kept.
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }
}

/// One server that is kept running.
struct Keeping {
    server: Server,
    /// The broker's monitoring port, to check whether it can write; `None` for other servers.
    monitor: Option<u16>,
    /// Where its data is kept.
    folder: PathBuf,
    say: Say,
    failures: u32,
}

impl Keeping {
    async fn run(mut self) -> Error {
        let mut since = Instant::now();
        let mut query_at = since;
        loop {
            sleep(CHECK_EVERY).await;
            if since.elapsed() > STEADY_AFTER {
                self.failures = 0;
            }
            if let Some(status) = self.server.ended() {
                let line = self.server.last_line();
                self.report(&format!("has ended ({status}): {line}; restarting it"));
            } else if Instant::now() >= query_at {
                query_at = Instant::now() + QUERY_EVERY;
                let Some(cause) = self.write_error().await else { continue };
                self.report(&format!("can no longer write: {cause}; restarting it"));
            } else {
                continue;
            }
            if let Err(error) = self.start_again().await {
                return error;
            }
            (since, query_at) = (Instant::now(), Instant::now() + QUERY_EVERY);
        }
    }

    /// Why the broker cannot write, if it reports an error twice: while a stream is being
    /// deleted, it may report one for a moment.
    async fn write_error(&self) -> Option<String> {
        let port = self.monitor?;
        let query = || async move { spawn_blocking(move || nats::write_error(port)).await.ok()? };
        query().await?;
        sleep(CHECK_EVERY).await;
        query().await
    }

    /// Waits until there is room on the disk: a server that is started on a full disk ends again.
    async fn room(&self) {
        if free_bytes(&self.folder).is_none_or(|free| free >= ROOM_MIN) {
            return;
        }
        self.report(&format!("waits for free disk space in {}", self.folder.display()));
        while free_bytes(&self.folder).is_some_and(|free| free < ROOM_MIN) {
            sleep(QUERY_EVERY).await;
        }
    }

    async fn start_again(&mut self) -> Result<(), Error> {
        loop {
            self.failures += 1;
            if self.failures > FAILURES_MAX {
                let why = format!("it has ended or failed {FAILURES_MAX} times in a row");
                return Err(self.server.not_started(why));
            }
            if self.failures > 1 {
                let doubled = PAUSE_MIN * 2_u32.pow((self.failures - 2).min(8));
                sleep(doubled.min(PAUSE_MAX)).await;
            }
            self.room().await;
            match self.server.restart().await {
                Ok(()) => {
                    self.report("is back");
                    return Ok(());
                }
                Err(_) => {
                    let line = self.server.last_line();
                    self.report(&format!("does not start: {line}; retrying"));
                }
            }
        }
    }

    fn report(&self, what: &str) {
        (self.say)(&format!("{} {what}", self.server.name()));
    }
}

/// The servers of a data folder whose disk is full, in words.
pub fn full_disks(folder: &Path) -> Vec<String> {
    let mut full = Vec::new();
    for name in ["nats", "postgres", "valkey"] {
        let folder = folder.join(name);
        if free_bytes(&folder).is_some_and(|free| free < FULL) {
            full.push(format!("the disk of {name} is full: no space left in {}", folder.display()));
        }
    }
    full
}

/// Bytes that are free on the disk of a folder; `None` when that cannot be found out.
fn free_bytes(folder: &Path) -> Option<u64> {
    let found = rustix::fs::statvfs(folder).ok()?;
    Some(found.f_bavail * found.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_bytes_are_known_only_for_a_folder_that_exists() {
        assert!(free_bytes(Path::new("/")).is_some_and(|free| free > 0));
        assert_eq!(free_bytes(Path::new("/no/such/folder")), None);
    }
}
