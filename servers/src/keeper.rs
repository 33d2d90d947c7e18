//! Servers that have died, started again: for as long as whoever stands on them stays up.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    task::{JoinSet, spawn_blocking},
    time::{Instant, sleep},
};

use crate::{Error, Say, Server, Servers, nats};

/// How often a server is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// How often the broker is asked whether it can write.
const ASK_EVERY: Duration = Duration::from_secs(2);
/// The first pause after a start that has failed; it doubles …
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// … up to this.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Starts that fail in a row, or deaths soon after a start, until a server is given up.
const FAILURES_MAX: u32 = 10;
/// A server that lives for so long has got over what killed it.
const STEADY_AFTER: Duration = Duration::from_secs(60);
/// A disk with fewer free bytes is full.
const FULL: u64 = 256 * 1024;
/// Bytes that must be free before a server is started again.
const ROOM_MIN: u64 = 8 * 1024 * 1024;

/// Looks after servers until it is dropped.
pub struct Keeper(JoinSet<Error>);

impl Servers {
    /// Starts each server again that ends by itself, and the broker as well when it cannot
    /// write any more and has room again; says so, in a line each time.
    pub fn keep(&self, say: Say) -> Keeper {
        let mut tasks = JoinSet::new();
        for server in [&self.nats, &self.postgres, &self.valkey] {
            let asked = (server.name() == self.nats.name()).then_some(self.nats_monitor);
            let folder = self.folder().join(server.name());
            let keeping =
                Keeping { server: server.clone(), asked, folder, say: say.clone(), failures: 0 };
            tasks.spawn(keeping.run());
        }
        Keeper(tasks)
    }
}

impl Keeper {
    /// Waits until a server is given up; what it said last is in the error.
    pub async fn given_up(&mut self) -> Error {
        loop {
            match self.0.join_next().await {
                Some(Ok(error)) => return error,
                // It never panics; were it to, the others would still be kept.
                Some(Err(_)) => {}
                None => std::future::pending().await,
            }
        }
    }
}

/// One server that is looked after.
struct Keeping {
    server: Server,
    /// The port to ask the broker on whether it can write.
    asked: Option<u16>,
    /// Where its data lies.
    folder: PathBuf,
    say: Say,
    failures: u32,
}

impl Keeping {
    async fn run(mut self) -> Error {
        let mut since = Instant::now();
        let mut ask_at = since;
        loop {
            sleep(LOOK_EVERY).await;
            if since.elapsed() > STEADY_AFTER {
                self.failures = 0;
            }
            if let Some(status) = self.server.ended() {
                let line = self.server.last_line();
                self.emit(&format!("has ended ({status}): {line}; starting it again"));
            } else if Instant::now() >= ask_at {
                ask_at = Instant::now() + ASK_EVERY;
                let Some(cause) = self.write_error().await else { continue };
                self.emit(&format!("cannot write any more: {cause}; starting it again"));
            } else {
                continue;
            }
            if let Err(error) = self.start_again().await {
                return error;
            }
            (since, ask_at) = (Instant::now(), Instant::now() + ASK_EVERY);
        }
    }

    /// Why the broker cannot write, if it says so twice: while a stream is being deleted it
    /// may say strange things for a moment.
    async fn write_error(&self) -> Option<String> {
        let monitor = self.asked?;
        let ask = || async move { spawn_blocking(move || nats::write_error(monitor)).await.ok()? };
        ask().await?;
        sleep(LOOK_EVERY).await;
        ask().await
    }

    /// Waits until there is room to write: a server that is started on a full disk ends again.
    async fn room(&self) {
        if free_bytes(&self.folder).is_none_or(|free| free >= ROOM_MIN) {
            return;
        }
        self.emit(&format!("waits for room in {}", self.folder.display()));
        while free_bytes(&self.folder).is_some_and(|free| free < ROOM_MIN) {
            sleep(ASK_EVERY).await;
        }
    }

    async fn start_again(&mut self) -> Result<(), Error> {
        loop {
            self.failures += 1;
            if self.failures > FAILURES_MAX {
                let why = format!("it has ended or failed {FAILURES_MAX} times in a row");
                return Err(self.server.gave_out(why));
            }
            if self.failures > 1 {
                let doubled = PAUSE_MIN * 2_u32.pow((self.failures - 2).min(8));
                sleep(doubled.min(PAUSE_MAX)).await;
            }
            self.room().await;
            match self.server.restart().await {
                Ok(()) => {
                    self.emit("is back");
                    return Ok(());
                }
                Err(_) => {
                    let line = self.server.last_line();
                    self.emit(&format!("does not start: {line}; trying again"));
                }
            }
        }
    }

    fn emit(&self, what: &str) {
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

/// Bytes that are free on the disk of a folder; `None` when nobody can say.
#[expect(unsafe_code, reason = "the standard library does not ask")]
fn free_bytes(folder: &Path) -> Option<u64> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(folder.as_os_str().as_bytes()).ok()?;
    let mut found = std::mem::MaybeUninit::<libc::statvfs>::uninit();
    // SAFETY: the path ends with a zero and the structure is written whole when this returns 0.
    let found = unsafe {
        if libc::statvfs(path.as_ptr(), found.as_mut_ptr()) != 0 {
            return None;
        }
        found.assume_init()
    };
    Some(found.f_bavail * found.f_frsize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_is_there_has_room_and_one_that_is_not_has_none() {
        assert!(free_bytes(Path::new("/")).is_some_and(|free| free > 0));
        assert_eq!(free_bytes(Path::new("/no/such/folder")), None);
    }
}
