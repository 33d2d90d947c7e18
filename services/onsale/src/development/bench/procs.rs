//! What processes of this machine have used, from `/proc`.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinHandle;

/// The kernel reports processor time in hundredths of a second.
const TICK: Duration = Duration::from_millis(10);
/// How often the memory of a process is read.
const MEMORY_EVERY: Duration = Duration::from_millis(50);

/// What `/proc/<pid>/stat` says of a process.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stat {
    name: String,
    parent: i32,
    /// Ticks of its own.
    own: u64,
    /// Ticks of children that it has waited for.
    ended: u64,
}

impl Stat {
    fn of(pid: i32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    /// The name stands in brackets and may have blanks and brackets in it.
    fn parse(text: &str) -> Option<Self> {
        let (head, fields) = text.rsplit_once(')')?;
        let (_, name) = head.split_once('(')?;
        let fields: Vec<&str> = fields.split_whitespace().collect();
        let field = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Self {
            name: name.to_owned(),
            parent: fields.get(1)?.parse().ok()?,
            own: field(11)? + field(12)?,
            ended: field(13)? + field(14)?,
        })
    }
}

fn all() -> impl Iterator<Item = (i32, Stat)> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.filter_map(|pid| Some((pid, Stat::of(pid)?)))
}

/// The parent of a process.
pub(super) fn parent_of(pid: i32) -> Option<i32> {
    Stat::of(pid).map(|stat| stat.parent)
}

/// What a process runs.
pub(super) fn name_of(pid: i32) -> Option<String> {
    Stat::of(pid).map(|stat| stat.name)
}

/// The children of a process, with their names.
pub(crate) fn children_of(pid: i32) -> Vec<(i32, String)> {
    all().filter(|(_, stat)| stat.parent == pid).map(|(pid, stat)| (pid, stat.name)).collect()
}

/// Processor time of a process alone.
pub(super) fn time_of(pid: i32) -> Duration {
    ticks(Stat::of(pid).map_or(0, |stat| stat.own))
}

/// Processor time of a process and its children, those that have ended included.
pub(super) fn time_of_family(pid: i32) -> Duration {
    let own = Stat::of(pid).map_or(0, |stat| stat.own + stat.ended);
    let children = all().filter(|(_, stat)| stat.parent == pid);
    // Each child's own children are counted in it once they have ended.
    ticks(own + children.map(|(_, stat)| stat.own + stat.ended).sum::<u64>())
}

fn ticks(count: u64) -> Duration {
    TICK * u32::try_from(count).unwrap_or(u32::MAX)
}

/// Bytes that a process has sent to storage; `None` when we may not know.
pub(super) fn written_by(pid: i32) -> Option<u64> {
    number_in(&fs::read_to_string(format!("/proc/{pid}/io")).ok()?, "write_bytes:")
}

/// Resident memory of a process now, in MB.
pub(super) fn resident_mb(pid: i32) -> Option<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(number_in(&status, "VmRSS:")? as f64 / 1_024.0)
}

/// The number behind a name at the beginning of a line.
pub(crate) fn number_in(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Watches how much memory a process takes.
pub(super) struct Memory {
    done: Arc<AtomicBool>,
    looking: JoinHandle<f64>,
}

impl Memory {
    /// Watches from now on.
    pub(super) fn watch(pid: i32) -> Self {
        let done = Arc::new(AtomicBool::new(false));
        let end = done.clone();
        let looking = tokio::spawn(async move {
            let mut most = 0.0_f64;
            loop {
                most = most.max(resident_mb(pid).unwrap_or(0.0));
                if end.load(Ordering::Relaxed) {
                    return most;
                }
                tokio::time::sleep(MEMORY_EVERY).await;
            }
        });
        Self { done, looking }
    }

    /// The most that was resident since, in MB.
    pub(super) async fn most_mb(self) -> f64 {
        self.done.store(true, Ordering::Relaxed);
        self.looking.await.unwrap_or(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_blanks_and_brackets_shifts_no_field() {
        let text = "4242 (a (b) c) S 17 4242 4242 0 -1 4194304 1 2 3 4 70 30 5 6 20 0 1 0 99";
        let stat = Stat::parse(text).unwrap();
        let expected = Stat { name: "a (b) c".into(), parent: 17, own: 100, ended: 11 };
        assert_eq!(stat, expected);
        assert_eq!(Stat::parse("4242 (cut"), None);
        assert_eq!(Stat::parse("4242 (cut) S 17"), None);
    }

    #[test]
    fn a_number_is_found_by_its_whole_name() {
        let io = "rchar: 1\nwrite_bytes: 8192\ncancelled_write_bytes: 4096\n";
        assert_eq!(number_in(io, "write_bytes:"), Some(8192));
        assert_eq!(number_in("VmRSS:\t   2048 kB\n", "VmRSS:"), Some(2048));
        assert_eq!(number_in(io, "syncs:"), None);
    }

    #[test]
    fn this_process_has_a_parent_that_knows_it() {
        let own = std::process::id() as i32;
        let parent = parent_of(own).unwrap();
        assert!(children_of(parent).iter().any(|(pid, _)| *pid == own));
        assert!(resident_mb(own).unwrap() > 0.0);
    }

    #[tokio::test]
    async fn memory_is_read_at_least_once_however_short_the_time() {
        assert!(Memory::watch(std::process::id() as i32).most_mb().await > 0.0);
    }
}
