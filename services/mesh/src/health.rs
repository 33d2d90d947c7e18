//! Whether a service can do its work right now.

use std::{
    collections::BTreeMap,
    fmt::Display,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use tokio::sync::watch;

use crate::engine::Failure;

/// How long an instance whose store is away goes on taking commands, to say so; after that it
/// leaves them to the others.
const LEAVE_AFTER: Duration = Duration::from_secs(3);
/// A store that has failed a batch is not believed sooner than this because it answers.
const DISTRUST: Duration = Duration::from_secs(2);

/// The state of one running service, shared by its tasks.
#[derive(Debug, Clone)]
pub struct Health(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// What is wrong, by what it is wrong with, in words.
    ails: Mutex<BTreeMap<Part, String>>,
    store: Mutex<Store>,
    /// The same, for each command to look at.
    store_down: AtomicBool,
    /// Whether commands are taken; `None` before the store was looked at.
    serving: watch::Sender<Option<bool>>,
    handled: AtomicU64,
    messages: AtomicU64,
    repeats: AtomicU64,
    parked: AtomicU64,
    dead: AtomicU64,
    published: AtomicU64,
    unanswered: AtomicU64,
    missed: AtomicU64,
}

/// Since when the store has been down, and when it failed last.
#[derive(Debug, Default)]
struct Store {
    down_since: Option<Instant>,
    failed_at: Option<Instant>,
}

/// What can be wrong with.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// The service's own store.
    Store,
    /// What it emits cannot be published.
    Publisher,
    /// The stream takes no more.
    Room,
    /// Outbox and stream cannot be compared.
    Comparison,
    /// The broker says so itself.
    Broker,
    /// The consumer of a stream.
    Consumer(String),
    /// The reading of whole streams.
    Follower,
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

impl Default for Health {
    fn default() -> Self {
        Self(Arc::new(Inner {
            ails: Mutex::default(),
            store: Mutex::default(),
            store_down: AtomicBool::new(false),
            serving: watch::Sender::new(None),
            handled: AtomicU64::new(0),
            messages: AtomicU64::new(0),
            repeats: AtomicU64::new(0),
            parked: AtomicU64::new(0),
            dead: AtomicU64::new(0),
            published: AtomicU64::new(0),
            unanswered: AtomicU64::new(0),
            missed: AtomicU64::new(0),
        }))
    }
}

impl Health {
    /// Whether the store can be used, the broker takes events, and every stream is there.
    pub fn is_ready(&self) -> bool {
        self.is_examined() && self.lock_ails().is_empty()
    }

    /// What keeps the service from its work, in words; empty when nothing does.
    pub fn ails(&self) -> Vec<String> {
        let ails = self.lock_ails();
        let mut ails: Vec<String> = ails.iter().map(|(part, cause)| part.said(cause)).collect();
        if !self.is_examined() {
            ails.push("the store was not looked at yet".to_owned());
        }
        ails
    }

    /// The same without what the broker says of itself, for who asks it as well.
    pub fn ails_beside_the_broker(&self) -> Vec<String> {
        let broker = self.lock_ails().get(&Part::Broker).map(|cause| Part::Broker.said(cause));
        let mut ails = self.ails();
        ails.retain(|ail| Some(ail) != broker.as_ref());
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

    /// Notes that something is wrong; whether that is news.
    pub(crate) fn ailing(&self, part: Part, cause: impl Display) -> bool {
        self.lock_ails().insert(part, cause.to_string()).is_none()
    }

    /// Notes that it is not, or not any more; whether that is news.
    pub(crate) fn well(&self, part: &Part) -> bool {
        self.lock_ails().remove(part).is_some()
    }

    /// Whether this is known to be wrong.
    pub(crate) fn is_ailing(&self, part: &Part) -> bool {
        self.lock_ails().contains_key(part)
    }

    /// Notes that the store has failed at work; whether that is news.
    pub(crate) fn store_failed(&self, failure: &Failure) -> bool {
        self.lock_store().failed_at = Some(Instant::now());
        self.store_is_away(failure)
    }

    /// Notes that the store does not answer, or not as it should; whether that is news. One
    /// that cannot be used at all, however often it is asked, is left at once.
    pub(crate) fn store_is_away(&self, failure: &Failure) -> bool {
        let now = Instant::now();
        let is_unusable = matches!(failure, Failure::Unusable(_));
        let mut store = self.lock_store();
        let since = *store.down_since.get_or_insert(now);
        self.0.store_down.store(true, Relaxed);
        let is_own = !matches!(failure, Failure::Emptied);
        if is_unusable || is_own && now.duration_since(since) >= LEAVE_AFTER {
            self.0.serving.send_if_modified(|serving| serving.replace(false) != Some(false));
        } else {
            // Looked at for the first time: whoever asks is told to come again.
            self.0.serving.send_if_modified(|serving| {
                let is_first = serving.is_none();
                serving.get_or_insert(true);
                is_first
            });
        }
        self.ailing(Part::Store, failure)
    }

    /// Notes that the store has done its work; whether that is news.
    pub(crate) fn store_works(&self) -> bool {
        if !self.0.store_down.load(Relaxed) && self.is_serving() {
            return false;
        }
        let mut store = self.lock_store();
        *store = Store::default();
        self.0.store_down.store(false, Relaxed);
        self.0.serving.send_if_modified(|serving| serving.replace(true) != Some(true));
        self.well(&Part::Store)
    }

    /// Notes that the store answers; whether that is news. It does not count yet when the
    /// store has just failed: a full disk answers, too.
    pub(crate) fn store_answers(&self) -> bool {
        let failed_at = self.lock_store().failed_at;
        let is_fresh = failed_at.is_some_and(|at| at.elapsed() < DISTRUST);
        !is_fresh && self.store_works()
    }

    pub(crate) fn store_is_up(&self) -> bool {
        !self.0.store_down.load(Relaxed)
    }

    /// Whether commands are taken; changes with the store.
    pub(crate) fn serving(&self) -> watch::Receiver<Option<bool>> {
        self.0.serving.subscribe()
    }

    fn is_serving(&self) -> bool {
        *self.0.serving.borrow() == Some(true)
    }

    fn is_examined(&self) -> bool {
        self.0.serving.borrow().is_some()
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

    fn lock_ails(&self) -> MutexGuard<'_, BTreeMap<Part, String>> {
        self.0.ails.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_store(&self) -> MutexGuard<'_, Store> {
        self.0.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    fn said(&self, cause: &str) -> String {
        match self {
            Self::Store => cause.to_owned(),
            Self::Publisher => format!("events cannot be published: {cause}"),
            Self::Room => {
                format!("the stream is full, events are held in the outbox: {cause}")
            }
            Self::Comparison => format!("outbox and stream cannot be compared: {cause}"),
            Self::Broker => format!("the broker cannot work: {cause}"),
            Self::Consumer(stream) => format!("events of {stream} cannot be consumed: {cause}"),
            Self::Follower => format!("streams cannot be read: {cause}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn away() -> Failure {
        Failure::Unavailable("connection refused".into())
    }

    #[test]
    fn an_instance_leaves_its_group_at_once_when_its_store_is_not_its_own() {
        let health = Health::default();
        assert!(!health.is_ready(), "nobody has looked");
        assert!(health.store_is_away(&Failure::Unusable("no such database".into())));
        assert_eq!(*health.serving().borrow(), Some(false));
        assert!(health.ails()[0].ends_with("no such database"), "{:?}", health.ails());
        assert!(health.store_answers());
        assert_eq!(*health.serving().borrow(), Some(true));
        assert!(health.is_ready());
    }

    #[test]
    fn a_store_that_is_away_for_a_moment_keeps_its_instance_in_the_group() {
        let health = Health::default();
        health.store_works();
        assert!(health.store_is_away(&away()));
        assert!(!health.store_is_away(&away()), "that is no news");
        assert_eq!(*health.serving().borrow(), Some(true));
        assert!(!health.is_ready());
    }

    #[test]
    fn an_answer_right_after_a_failure_at_work_proves_nothing() {
        let health = Health::default();
        health.store_failed(&Failure::Unavailable("no space left on device".into()));
        assert!(!health.store_answers());
        assert!(!health.store_is_up());
        assert!(health.store_works());
        assert!(health.store_is_up());
    }
}
