//! What a server can be put through: pauses, a full disk, lost files.

use std::{
    fs, io,
    os::unix::process::CommandExt,
    path::PathBuf,
    process::{Command, Stdio},
};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

use crate::{account::Account, server::Server, servers::Servers};

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
        for pid in children(parent) {
            // One that has ended meanwhile writes nothing.
            let _ = limit(pid, bytes, account);
        }
        Ok(())
    }

    fn signal_all(&self, signal: Signal) {
        let send = |pid: u32| {
            // A process that has ended meanwhile gets nothing.
            let _ = id(pid).map(|pid| kill_process(pid, signal));
        };
        let Some(parent) = self.pid() else { return };
        send(parent);
        children(parent).into_iter().for_each(send);
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
        let pid = id(pid).ok_or(io::ErrorKind::NotFound)?;
        return Ok(prlimit(Some(pid), Resource::Fsize, limit).map(drop)?);
    };
    let mut command = Command::new("prlimit");
    command.args([format!("--pid={pid}"), format!("--fsize={bytes}:{bytes}")]);
    let done = command.uid(account.uid).gid(account.gid).stderr(Stdio::null()).status()?;
    if done.success() { Ok(()) } else { Err(io::Error::other(format!("prlimit: {done}"))) }
}

fn id(pid: u32) -> Option<Pid> {
    Pid::from_raw(pid.cast_signed())
}

/// The processes that a process has started and that still run.
fn children(parent: u32) -> Vec<u32> {
    let is_child = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let rest = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
        rest.split(' ').nth(1) == Some(&parent.to_string())
    };
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(is_child).collect()
}
