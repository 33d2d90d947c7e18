//! Failpoints: the places where a crash hurts most, to be armed by tests and proofs.
//!
//! An armed failpoint fails once: the code behind it behaves as if the process had died there
//! and been started again. Nothing is armed in production, where a check costs one load.

pub mod crash;

use std::{
    collections::BTreeSet,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
};

/// Where a service can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failpoint {
    /// The batch is written but not committed.
    BeforeCommit,
    /// The batch is committed, but no caller was answered and no message acknowledged.
    BeforeAck,
    /// The messages are published, but not marked as such.
    BeforeMark,
}

impl Failpoint {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::BeforeCommit, Self::BeforeAck, Self::BeforeMark];
}

/// The failpoints of one service.
#[derive(Debug, Default)]
pub struct Failpoints {
    /// Whether anything was ever armed.
    used: AtomicBool,
    /// How many more times each one fails.
    armed: [AtomicU32; 3],
    /// The names for which each one is still to fail.
    armed_for: [Mutex<BTreeSet<&'static str>>; 3],
    hits: [AtomicU32; 3],
}

impl Failpoints {
    /// Makes `point` fail the next `times` times.
    pub fn arm(&self, point: Failpoint, times: u32) {
        self.armed[point as usize].store(times, Ordering::SeqCst);
        self.used.store(true, Ordering::SeqCst);
    }

    /// Makes `point` fail once for each of `names`, when it gets there: a consumed event, an
    /// endpoint or a timer; at [`Failpoint::BeforeMark`], an emitted event.
    pub fn arm_for(&self, point: Failpoint, names: impl IntoIterator<Item = &'static str>) {
        self.names(point).extend(names);
        self.used.store(true, Ordering::SeqCst);
    }

    /// The names that `point` is armed for and that have not got there yet.
    pub fn pending(&self, point: Failpoint) -> Vec<&'static str> {
        self.names(point).iter().copied().collect()
    }

    /// How often `point` has failed.
    pub fn hits(&self, point: Failpoint) -> u32 {
        self.hits[point as usize].load(Ordering::SeqCst)
    }

    /// Whether to fail here and now, with messages of these names.
    pub fn should_fail<'a>(&self, point: Failpoint, names: impl Iterator<Item = &'a str>) -> bool {
        if !self.used.load(Ordering::Relaxed) {
            return false;
        }
        let armed = &self.armed[point as usize];
        let mut should_fail = armed
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
            .is_ok();
        let mut names_left = self.names(point);
        for name in names {
            should_fail |= names_left.remove(name);
        }
        if should_fail {
            self.hits[point as usize].fetch_add(1, Ordering::SeqCst);
        }
        should_fail
    }

    fn names(&self, point: Failpoint) -> MutexGuard<'_, BTreeSet<&'static str>> {
        self.armed_for[point as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn should_fail(points: &Failpoints, names: &[&str]) -> bool {
        points.should_fail(Failpoint::BeforeAck, names.iter().copied())
    }

    #[test]
    fn an_armed_point_fails_the_given_number_of_times_and_no_more() {
        let points = Failpoints::default();
        points.arm(Failpoint::BeforeAck, 2);
        let seen: Vec<bool> = (0..4).map(|_| should_fail(&points, &[])).collect();
        assert_eq!(seen, [true, true, false, false]);
        assert!(!points.should_fail(Failpoint::BeforeCommit, [].into_iter()));
    }

    #[test]
    fn a_point_that_is_armed_for_names_fails_once_for_each() {
        let points = Failpoints::default();
        points.arm_for(Failpoint::BeforeAck, ["a", "b", "c"]);
        assert!(!should_fail(&points, &["x"]));
        assert!(should_fail(&points, &["x", "a", "b"]));
        assert!(!should_fail(&points, &["b"]));
        assert_eq!(points.pending(Failpoint::BeforeAck), ["c"]);
        assert_eq!(points.hits(Failpoint::BeforeAck), 1);
    }
}
