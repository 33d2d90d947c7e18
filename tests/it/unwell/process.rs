//! Processes that are paused or limited from outside.

use std::fs;

use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};

/// A server that is paused with all of its children, until this is dropped.
pub struct Paused(Vec<u32>);

impl Paused {
    /// Pauses a process, as a virtual machine is paused: its connections stay open, and it is silent.
    pub fn of(pid: u32) -> Self {
        let mut pids = vec![pid];
        // Once the parent is paused, it starts no further children.
        signal(pid, Signal::STOP);
        pids.extend(children(pid));
        pids[1..].iter().for_each(|child| signal(*child, Signal::STOP));
        Self(pids)
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        self.0.iter().for_each(|pid| signal(*pid, Signal::CONT));
    }
}

fn children(parent: u32) -> Vec<u32> {
    let is_child = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let rest = stat.rsplit_once(") ").map(|(_, rest)| rest).unwrap_or_default();
        rest.split(' ').nth(1) == Some(&parent.to_string())
    };
    let entries = fs::read_dir("/proc").expect("the processes").flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(is_child).collect()
}

fn signal(pid: u32, signal: Signal) {
    // A process that has ended meanwhile gets nothing.
    let _ = kill_process(id(pid), signal);
}

/// Lets a process write no file beyond this many bytes, as if its disk were full.
pub fn limit_files(pid: u32, bytes: u64) {
    let limit = Rlimit { current: Some(bytes), maximum: Some(bytes) };
    prlimit(Some(id(pid)), Resource::Fsize, limit).expect("limited");
}

fn id(pid: u32) -> Pid {
    Pid::from_raw(pid.cast_signed()).expect("the id of a process")
}
