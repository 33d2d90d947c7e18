//! Whether batches may be run optimistically, as far as this instance has seen.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

/// What the last batches of a service have met in its store.
pub(crate) struct Outlook {
    /// Whether a parked event may hold its order key.
    has_parked: AtomicBool,
    /// Whether there were messages that had been taken in before. When a stream is published again
    /// after a loss, nearly all are, and each batch would be run twice.
    has_repeats: AtomicBool,
}

impl Outlook {
    /// Before the first batch nothing is known of parked events.
    pub(crate) fn unknown() -> Self {
        Self { has_parked: AtomicBool::new(true), has_repeats: AtomicBool::new(false) }
    }

    /// Whether the next batch may be run as if its messages were new and no event were parked.
    pub(super) fn is_clear(&self) -> bool {
        !self.has_parked.load(Relaxed) && !self.has_repeats.load(Relaxed)
    }

    pub(super) fn note_parked(&self, has_parked: bool) {
        self.has_parked.store(has_parked, Relaxed);
    }

    pub(super) fn note_repeats(&self, has_repeats: bool) {
        self.has_repeats.store(has_repeats, Relaxed);
    }
}
