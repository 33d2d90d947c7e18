//! Whether a service can do its work right now.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

/// The state of one running service, shared by its tasks.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    store_down: AtomicBool,
    relay_down: AtomicBool,
    handled: AtomicU64,
    repeats: AtomicU64,
    dead: AtomicU64,
    published: AtomicU64,
}

/// What has been counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages taken in.
    pub handled: u64,
    /// Messages dropped as seen before.
    pub repeats: u64,
    /// Messages sent to the dead letters.
    pub dead: u64,
    /// Facts published.
    pub published: u64,
}

impl Health {
    /// Whether the store answers and the relay runs.
    pub fn is_ready(&self) -> bool {
        !self.0.store_down.load(Ordering::Relaxed) && !self.0.relay_down.load(Ordering::Relaxed)
    }

    /// What has been counted since the start.
    pub fn counts(&self) -> Counts {
        Counts {
            handled: self.0.handled.load(Ordering::Relaxed),
            repeats: self.0.repeats.load(Ordering::Relaxed),
            dead: self.0.dead.load(Ordering::Relaxed),
            published: self.0.published.load(Ordering::Relaxed),
        }
    }

    pub(crate) fn store(&self, up: bool) {
        self.0.store_down.store(!up, Ordering::Relaxed);
    }

    pub(crate) fn relay(&self, up: bool) {
        self.0.relay_down.store(!up, Ordering::Relaxed);
    }

    pub(crate) fn store_is_up(&self) -> bool {
        !self.0.store_down.load(Ordering::Relaxed)
    }

    pub(crate) fn add_handled(&self, count: u64) {
        self.0.handled.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn add_repeats(&self, count: u64) {
        self.0.repeats.fetch_add(count, Ordering::Relaxed);
    }

    pub(crate) fn add_dead(&self) {
        self.0.dead.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn add_published(&self, count: u64) {
        self.0.published.fetch_add(count, Ordering::Relaxed);
    }
}
