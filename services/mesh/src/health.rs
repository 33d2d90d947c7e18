//! Whether a service can do its work right now.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

/// The state of one running service, shared by its tasks.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    store_down: AtomicBool,
    publisher_down: AtomicBool,
    /// Why the stream takes no more.
    no_room: Mutex<Option<String>>,
    /// Streams whose consumer is gone.
    consumers_down: Mutex<BTreeSet<String>>,
    handled: AtomicU64,
    messages: AtomicU64,
    repeats: AtomicU64,
    parked: AtomicU64,
    dead: AtomicU64,
    published: AtomicU64,
    unanswered: AtomicU64,
    missed: AtomicU64,
}

/// What has been counted since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events and commands taken in.
    pub handled: u64,
    /// Messages taken in, each with one or more events.
    pub messages: u64,
    /// Messages dropped as seen before.
    pub repeats: u64,
    /// Events that were parked.
    pub parked: u64,
    /// Of these, events that became dead letters at once.
    pub dead: u64,
    /// Messages published.
    pub published: u64,
    /// Requests whose answer would have gone to no inbox.
    pub unanswered: u64,
    /// Messages published again because the stream had dropped them before somebody took them in.
    pub missed: u64,
}

impl Health {
    /// Whether the store answers, the publisher publishes, and every consumer is there.
    pub fn is_ready(&self) -> bool {
        self.ails().is_empty()
    }

    /// What keeps the service from its work, in words; empty when nothing does.
    pub fn ails(&self) -> Vec<String> {
        let mut ails = Vec::new();
        if self.0.store_down.load(Relaxed) {
            ails.push("the store does not answer".to_owned());
        }
        if self.0.publisher_down.load(Relaxed) {
            ails.push("events cannot be published".to_owned());
        }
        if let Some(cause) = &*self.0.no_room.lock().unwrap_or_else(PoisonError::into_inner) {
            ails.push(format!("the stream is full, events are held in the outbox: {cause}"));
        }
        let down = self.0.consumers_down.lock().unwrap_or_else(PoisonError::into_inner);
        ails.extend(down.iter().map(|stream| format!("events of {stream} cannot be consumed")));
        ails
    }

    /// What has been counted since the start.
    pub fn counts(&self) -> Counts {
        Counts {
            handled: self.0.handled.load(Relaxed),
            messages: self.0.messages.load(Relaxed),
            repeats: self.0.repeats.load(Relaxed),
            parked: self.0.parked.load(Relaxed),
            dead: self.0.dead.load(Relaxed),
            published: self.0.published.load(Relaxed),
            unanswered: self.0.unanswered.load(Relaxed),
            missed: self.0.missed.load(Relaxed),
        }
    }

    /// Notes whether the store answers; whether that is news.
    pub(crate) fn store(&self, up: bool) -> bool {
        self.0.store_down.swap(!up, Relaxed) == up
    }

    /// Notes whether events can be published; whether that is news.
    pub(crate) fn publisher(&self, up: bool) -> bool {
        self.0.publisher_down.swap(!up, Relaxed) == up
    }

    /// Notes why the stream takes no more, or that it does; whether that is news.
    pub(crate) fn no_room(&self, cause: Option<&str>) -> bool {
        let mut no_room = self.0.no_room.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = no_room.is_some() != cause.is_some();
        *no_room = cause.map(str::to_owned);
        is_news
    }

    /// Notes whether the consumer of a stream is there.
    pub(crate) fn consumer(&self, stream: &str, up: bool) {
        let mut down = self.0.consumers_down.lock().unwrap_or_else(PoisonError::into_inner);
        if up {
            down.remove(stream);
        } else {
            down.insert(stream.to_owned());
        }
    }

    pub(crate) fn store_is_up(&self) -> bool {
        !self.0.store_down.load(Relaxed)
    }

    pub(crate) fn add_handled(&self, count: u64, is_message: bool) {
        self.0.handled.fetch_add(count, Relaxed);
        self.0.messages.fetch_add(u64::from(is_message), Relaxed);
    }

    pub(crate) fn add_repeat(&self) {
        self.0.repeats.fetch_add(1, Relaxed);
    }

    pub(crate) fn add_parked(&self, is_dead: bool) {
        self.0.parked.fetch_add(1, Relaxed);
        self.0.dead.fetch_add(u64::from(is_dead), Relaxed);
    }

    pub(crate) fn add_published(&self, count: u64) {
        self.0.published.fetch_add(count, Relaxed);
    }

    pub(crate) fn add_missed(&self, count: u64) {
        self.0.missed.fetch_add(count, Relaxed);
    }

    /// How many there are now.
    pub(crate) fn add_unanswered(&self) -> u64 {
        self.0.unanswered.fetch_add(1, Relaxed) + 1
    }
}
