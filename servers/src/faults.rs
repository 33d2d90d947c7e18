//! What a server can be put through: pauses, a full disk, lost files.

use std::{fs, io, path::PathBuf};

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

use crate::{server::Server, servers::Servers};

/// Where each server keeps what it must not lose, from the data folder.
const FILES: [(&str, &str); 2] = [("nats", "nats/jetstream"), ("valkey", "valkey/appendonlydir")];

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

    /// Lets it write no file beyond this many bytes until it is started again, as if its disk were
    /// full.
    ///
    /// # Errors
    /// When it does not run.
    pub fn limit_files(&self, bytes: u64) -> io::Result<()> {
        let pid = self.pid().and_then(id).ok_or(io::ErrorKind::NotFound)?;
        let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
        Ok(prlimit(Some(pid), Resource::Fsize, limit).map(drop)?)
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
    /// The folder in which `nats` or `valkey` keeps what it must not lose; `None` for another.
    pub fn files_of(&self, server: &str) -> Option<PathBuf> {
        let (_, files) = FILES.iter().find(|(name, _)| *name == server)?;
        Some(self.folder().join(files))
    }
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
