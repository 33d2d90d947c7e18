//! The keys of a service that are parked right now, in memory.
//!
//! Every instance has a lot of its own. It is filled from the log before the first message
//! is taken in, and follows it live. Where nothing is parked, a message costs one load.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use tokio::sync::{Notify, watch};
use uuid::Uuid;

use super::key;

/// How long a letter that another instance has sent may take to be stored. It is heard before
/// that: until then an empty line proves nothing.
const STORED_WITHIN: Duration = Duration::from_secs(3);

/// Parked keys, and those whose lines are to be looked at.
pub(crate) struct Lot {
    /// Tells what this instance writes into the log from what others do.
    pub(crate) instance: String,
    is_any: AtomicBool,
    keys: Mutex<Keys>,
    wake: Notify,
    is_ready: watch::Sender<bool>,
}

#[derive(Default)]
struct Keys {
    parked: HashMap<String, Parked>,
    to_look_at: BTreeSet<String>,
}

#[derive(Default)]
struct Parked {
    /// Messages on their way into the line.
    arriving: u32,
    /// Grows with each message that sets out for the line, and with each that is there.
    edition: u64,
    /// When another instance was last heard to send a letter into the line.
    sent_at: Option<Instant>,
}

/// Whether a key was freed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Freed {
    /// Nobody waits for anything any more.
    Yes,
    /// A message has set out for the line since it was seen empty: it would be left behind
    /// there, overtaken by all that follow.
    Joined,
    /// Another instance has just sent a letter, which may not be stored yet.
    InDoubt,
}

impl Default for Lot {
    fn default() -> Self {
        Self {
            instance: Uuid::now_v7().to_string(),
            is_any: AtomicBool::new(false),
            keys: Mutex::default(),
            wake: Notify::new(),
            is_ready: watch::channel(false).0,
        }
    }
}

impl Lot {
    /// Whether any key is parked.
    pub(crate) fn is_any(&self) -> bool {
        self.is_any.load(Ordering::Acquire)
    }

    /// Waits until the log has been read.
    pub(crate) async fn ready(&self) {
        // The sender lives as long as this.
        let _ = self.is_ready.subscribe().wait_for(|is_ready| *is_ready).await;
    }

    pub(crate) fn set_ready(&self) {
        self.is_ready.send_replace(true);
    }

    /// A message sets out for the line of `key`, whether there is one or not.
    pub(crate) fn arrive(&self, key: &str) {
        if key != key::NONE {
            let mut keys = self.keys();
            let parked = keys.parked.entry(key.to_owned()).or_default();
            parked.arriving += 1;
            parked.edition += 1;
            self.is_any.store(true, Ordering::Release);
        }
    }

    /// A message sets out for the line of `key` if there is one.
    pub(crate) fn arrive_if_parked(&self, key: &str) -> bool {
        let mut keys = self.keys();
        let Some(parked) = keys.parked.get_mut(key) else { return false };
        parked.arriving += 1;
        parked.edition += 1;
        true
    }

    /// That message is kept, or comes again.
    pub(crate) fn arrived(&self, key: &str) {
        if let Some(parked) = self.keys().parked.get_mut(key) {
            parked.arriving = parked.arriving.saturating_sub(1);
            parked.edition += 1;
        }
    }

    /// The log has letters of `key`; whether that is news here.
    pub(crate) fn park(&self, key: &str) -> bool {
        if key == key::NONE {
            return false;
        }
        let mut keys = self.keys();
        let is_news = !keys.parked.contains_key(key);
        keys.parked.entry(key.to_owned()).or_default().edition += 1;
        self.is_any.store(true, Ordering::Release);
        is_news
    }

    /// Another instance has sent a letter of `key` just now; whether it is parked only since.
    pub(crate) fn hear(&self, key: &str, now: Instant) -> bool {
        let is_news = self.park(key);
        if let Some(parked) = self.keys().parked.get_mut(key) {
            parked.sent_at = Some(now);
        }
        is_news
    }

    /// How far the line of `key` has changed; `None` when it is not parked.
    pub(crate) fn edition(&self, key: &str) -> Option<u64> {
        self.keys().parked.get(key).map(|parked| parked.edition)
    }

    /// Frees `key`, whose line was seen empty at `edition`.
    pub(crate) fn free(&self, key: &str, edition: u64, now: Instant) -> Freed {
        let mut keys = self.keys();
        if let Some(parked) = keys.parked.get(key) {
            if parked.arriving > 0 || parked.edition != edition {
                return Freed::Joined;
            }
            if parked.sent_at.is_some_and(|at| now < at + STORED_WITHIN) {
                return Freed::InDoubt;
            }
        }
        keys.parked.remove(key);
        self.is_any.store(!keys.parked.is_empty(), Ordering::Release);
        Freed::Yes
    }

    /// Has the line of `key` looked at soon.
    pub(crate) fn look_at(&self, key: &str) {
        self.keys().to_look_at.insert(key.to_owned());
        self.wake.notify_one();
    }

    /// Has up to `count` lines looked at soon, those behind `after` first.
    pub(crate) fn look_around(&self, after: &str, count: usize) {
        let mut keys = self.keys();
        let mut all: Vec<String> = keys.parked.keys().cloned().collect();
        all.sort_unstable();
        let from = all.partition_point(|key| key.as_str() <= after);
        all.rotate_left(from);
        keys.to_look_at.extend(all.into_iter().take(count));
        drop(keys);
        self.wake.notify_one();
    }

    /// Waits until lines are to be looked at.
    pub(crate) async fn woken(&self) {
        self.wake.notified().await;
    }

    /// A line to be looked at.
    pub(crate) fn next_look(&self) -> Option<String> {
        self.keys().to_look_at.pop_first()
    }

    fn keys(&self) -> MutexGuard<'_, Keys> {
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_held_back_where_nothing_is_parked() {
        let lot = Lot::default();
        assert!(!lot.is_any());
        assert!(!lot.arrive_if_parked("a"));
        lot.arrive(key::NONE);
        assert!(!lot.park(key::NONE));
        assert!(!lot.is_any());
    }

    #[test]
    fn a_key_is_not_freed_while_a_message_is_on_its_way_into_its_line() {
        let lot = Lot::default();
        assert!(lot.park("a"));
        let before = lot.edition("a").unwrap();
        let now = Instant::now();
        assert!(lot.arrive_if_parked("a"));
        assert_eq!(lot.free("a", before, now), Freed::Joined);
        lot.arrived("a");
        assert_eq!(lot.free("a", before, now), Freed::Joined, "its letter may not have been seen");
        assert_eq!(lot.free("a", lot.edition("a").unwrap(), now), Freed::Yes);
        assert!(!lot.is_any());
    }

    #[test]
    fn a_letter_that_another_instance_has_sent_is_waited_for() {
        let (lot, now) = (Lot::default(), Instant::now());
        assert!(lot.hear("a", now));
        assert!(!lot.hear("a", now));
        let edition = lot.edition("a").unwrap();
        assert_eq!(lot.free("a", edition, now), Freed::InDoubt);
        assert_eq!(lot.free("a", edition, now + STORED_WITHIN), Freed::Yes);
    }

    #[test]
    fn lines_are_looked_at_in_turn() {
        let lot = Lot::default();
        for key in ["a", "b", "c"] {
            assert!(lot.park(key));
        }
        lot.look_around("a", 1);
        assert_eq!(lot.next_look().as_deref(), Some("b"));
        lot.look_around("c", 1);
        assert_eq!(lot.next_look().as_deref(), Some("a"));
        assert_eq!(lot.next_look(), None);
    }
}
