//! When a simulated process dies: before which of its effects.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::store::engine::Failure;

/// A process that lives as long as it likes.
const OUT: u32 = u32::MAX;
/// A process that has died.
const BLOWN: u32 = OUT - 1;

/// Counts effects down. A simulation runs on one thread.
///
/// A process with no effect left still lives: it dies at the next one that it tries. So a batch may
/// die between its beginning and its commit, with all that it did wrongly before the commit.
#[derive(Debug)]
pub(super) struct Fuse(AtomicU32);

impl Default for Fuse {
    fn default() -> Self {
        Self(AtomicU32::new(OUT))
    }
}

impl Fuse {
    pub(super) fn light(&self, effects: u32) {
        self.0.store(effects.min(BLOWN - 1), Relaxed);
    }

    pub(super) fn put_out(&self) {
        self.0.store(OUT, Relaxed);
    }

    /// Whether the process has died.
    pub(super) fn is_blown(&self) -> bool {
        self.0.load(Relaxed) == BLOWN
    }

    pub(super) fn spend(&self) -> Result<(), Failure> {
        match self.0.load(Relaxed) {
            OUT => Ok(()),
            0 | BLOWN => {
                self.0.store(BLOWN, Relaxed);
                Err(Failure::Unavailable("the process has died".into()))
            }
            left => {
                self.0.store(left - 1, Relaxed);
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_dies_before_the_effect_that_is_one_too_many_and_stays_dead() {
        let fuse = Fuse::default();
        assert!(fuse.spend().is_ok());
        fuse.light(2);
        let spent: Vec<_> = (0..4).map(|_| (fuse.spend().is_ok(), fuse.is_blown())).collect();
        assert_eq!(spent, [(true, false), (true, false), (false, true), (false, true)]);
        fuse.put_out();
        assert!(fuse.spend().is_ok() && !fuse.is_blown());
    }
}
