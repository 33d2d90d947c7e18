//! Mistakes that can be planted in the store, to check that a simulation finds them.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// A mistake of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mistake {
    /// The inbox keeps nothing.
    ForgetsMessages,
    /// No answer is kept under its idempotency key.
    ForgetsAnswers,
    /// Outbox rows are written after the commit, in a transaction of their own.
    OutboxAfterCommit,
    /// Messages are claimed before the commit, in a transaction of their own.
    ClaimBeforeCommit,
    /// No savepoint is set, so that a roll back goes to the beginning of the transaction.
    ForgetsSavepoints,
    /// Nobody asks which keys parked events hold.
    IgnoresHeldKeys,
}

/// The mistakes that are planted.
#[derive(Debug, Default)]
pub(super) struct Mistakes(AtomicU32);

impl Mistakes {
    pub(super) fn plant(&self, mistake: Mistake) {
        self.0.fetch_or(1 << mistake as u32, Relaxed);
    }

    pub(super) fn has(&self, mistake: Mistake) -> bool {
        self.0.load(Relaxed) & (1 << mistake as u32) != 0
    }
}
