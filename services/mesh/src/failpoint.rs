//! Places where a crash hurts most, to be armed by tests and proofs.
//!
//! An armed point fails once: the code behind it behaves as if the process had died there
//! and been started again. Nothing is armed in production, where a check costs one load.

use std::sync::atomic::{AtomicU32, Ordering};

/// Where a service can be made to fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failpoint {
    /// The batch is written but not committed.
    BeforeCommit,
    /// The batch is committed, but nobody was answered and nothing acknowledged.
    BeforeAck,
    /// The facts are published, but the relay's position has not moved.
    BeforeCursor,
}

impl Failpoint {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::BeforeCommit, Self::BeforeAck, Self::BeforeCursor];
}

/// The armed points of one service.
#[derive(Debug, Default)]
pub struct Failpoints {
    armed: [AtomicU32; 3],
    hit: [AtomicU32; 3],
}

impl Failpoints {
    /// Lets `point` fail the next `times` times.
    pub fn arm(&self, point: Failpoint, times: u32) {
        self.armed[point as usize].store(times, Ordering::SeqCst);
    }

    /// How often `point` has failed.
    pub fn hits(&self, point: Failpoint) -> u32 {
        self.hit[point as usize].load(Ordering::SeqCst)
    }

    /// Whether to fail here, now.
    pub fn strikes(&self, point: Failpoint) -> bool {
        let armed = &self.armed[point as usize];
        if armed.load(Ordering::Relaxed) == 0 {
            return false;
        }
        let strikes = armed
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1))
            .is_ok();
        if strikes {
            self.hit[point as usize].fetch_add(1, Ordering::SeqCst);
        }
        strikes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_armed_point_fails_as_often_as_it_was_told_and_no_more() {
        let points = Failpoints::default();
        points.arm(Failpoint::BeforeAck, 2);
        let strikes: Vec<bool> = (0..4).map(|_| points.strikes(Failpoint::BeforeAck)).collect();
        assert_eq!(strikes, [true, true, false, false]);
        assert!(!points.strikes(Failpoint::BeforeCommit));
    }
}
