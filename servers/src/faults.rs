//! What a server can be put through: pauses, a full disk, lost files.

use std::{
    io,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, Stdio},
};

use rustix::process::{Resource, Rlimit, Signal, prlimit};

use crate::{account::Account, process, server::Server, servers::Servers};

/// Where each server keeps what it must not lose, from its own folder.
const FILES: [(&str, &str); 4] = [
    ("nats", "jetstream"),
    ("nats-2", "jetstream"),
    ("nats-3", "jetstream"),
    ("valkey", "appendonlydir"),
];

impl Server {
    /// Pauses it with all of its children, as a virtual machine is paused: its connections stay
    /// open, and it is silent.
    pub fn pause(&self) {
        // The parent first: once it is paused, it starts no further children.
        self.signal_all(Signal::STOP);
    }

    /// Lets it go on after a pause.
    pub fn resume(&self) {
        self.signal_all(Signal::CONT);
    }

    /// Lets it and its children write no file beyond this many bytes until it is started again, as
    /// if its disk were full.
    ///
    /// # Errors
    /// When it does not run.
    pub fn limit_files(&self, bytes: u64) -> io::Result<()> {
        let parent = self.pid().ok_or(io::ErrorKind::NotFound)?;
        let account = self.account();
        // The parent first: its further children inherit the limit.
        limit(parent, bytes, account)?;
        for pid in process::children(parent) {
            // One that has ended meanwhile writes nothing.
            let _ = limit(pid, bytes, account);
        }
        Ok(())
    }

    fn signal_all(&self, signal: Signal) {
        let Some(parent) = self.pid() else { return };
        process::signal_id(parent, signal);
        process::children(parent).into_iter().for_each(|pid| process::signal_id(pid, signal));
    }
}

impl Servers {
    /// The folder in which Valkey or a node of the broker keeps what it must not lose; `None` for
    /// PostgreSQL.
    pub fn files_of(&self, server: &str) -> Option<PathBuf> {
        let (name, files) = FILES.iter().find(|(name, _)| *name == server)?;
        Some(self.folder().join(name).join(files))
    }
}

/// Limits the files of a process. Not even root may always do that to a process of another account,
/// so the command `prlimit` does it there as that account.
fn limit(pid: u32, bytes: u64, account: Option<&Account>) -> io::Result<()> {
    let Some(account) = account else {
        let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
        let pid = process::id(pid).ok_or(io::ErrorKind::NotFound)?;
        return Ok(prlimit(Some(pid), Resource::Fsize, limit).map(drop)?);
    };
    let mut command = Command::new("prlimit");
    command.args([format!("--pid={pid}"), format!("--fsize={bytes}:{bytes}")]);
    let done = command.uid(account.uid).gid(account.gid).stderr(Stdio::null()).status()?;
    if done.success() { Ok(()) } else { Err(io::Error::other(format!("prlimit: {done}"))) }
}
