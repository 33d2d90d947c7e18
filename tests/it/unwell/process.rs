//! Processes that are paused or limited from outside.

use std::fs;

/// A server that is paused with all of its children, until this is dropped.
pub struct Paused(Vec<u32>);

impl Paused {
    /// Pauses a process, as a virtual machine is paused: its connections stay open, and it is silent.
    pub fn of(pid: u32) -> Self {
        let mut pids = vec![pid];
        // Once the parent is paused, it starts no further children.
        signal(pid, libc::SIGSTOP);
        pids.extend(children(pid));
        pids[1..].iter().for_each(|child| signal(*child, libc::SIGSTOP));
        Self(pids)
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        self.0.iter().for_each(|pid| signal(*pid, libc::SIGCONT));
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

#[expect(unsafe_code, reason = "the standard library sends SIGKILL only")]
fn signal(pid: u32, signal: i32) {
    // SAFETY: kill takes two integers. A process that has ended meanwhile gets nothing.
    unsafe { libc::kill(pid.cast_signed(), signal) };
}

/// Lets a process write no file beyond this many bytes, as if its disk were full.
#[expect(unsafe_code, reason = "the standard library sets no limits")]
pub fn limit_files(pid: u32, bytes: u64) {
    let limit = libc::rlimit { rlim_cur: bytes, rlim_max: bytes };
    // SAFETY: the limit is read during the call, and no old one is asked for.
    let set = unsafe {
        libc::prlimit(pid.cast_signed(), libc::RLIMIT_FSIZE, &limit, std::ptr::null_mut())
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
}
