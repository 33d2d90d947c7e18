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

use crate::{metrics::OfService, store::engine::Failure};

/// How long an instance whose store is unavailable still takes commands, to refuse them; after
/// that it leaves them to other instances.
const LEAVE_AFTER: Duration = Duration::from_secs(3);
/// A store that has failed a batch does not count as healthy for this long, although it answers.
const DISTRUST: Duration = Duration::from_secs(2);

/// The state of one running service, shared by its tasks.
#[derive(Debug, Clone)]
pub struct Health(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The problem of each part that has one, in words.
    faults: Mutex<BTreeMap<Part, String>>,
    store: Mutex<Store>,
    /// Whether the store is down, readable without a lock for each command.
    store_down: AtomicBool,
    /// Whether commands are accepted; `None` before the first check of the store.
    serving: watch::Sender<Option<bool>>,
    handled: AtomicU64,
    messages: AtomicU64,
    repeats: AtomicU64,
    parked: AtomicU64,
    dead: AtomicU64,
    published: AtomicU64,
    unanswered: AtomicU64,
    missed: AtomicU64,
    metrics: OfService,
}

/// Since when the store has been down, and when it failed last.
#[derive(Debug, Default)]
struct Store {
    down_since: Option<Instant>,
    failed_at: Option<Instant>,
}

/// A part that can have a problem.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Part {
    /// The service's own store.
    Store,
    /// The publishing of events.
    Publisher,
    /// The room in the service's stream.
    Room,
    /// The comparison of outbox and stream.
    Comparison,
    /// The broker, by its own report.
    Broker,
    /// The consumer of a stream.
    Consumer(String),
    /// The reading of whole streams.
    Follower,
}

/// Counters since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Events and commands handled.
    pub handled: u64,
    /// Messages taken in, each with one or more events.
    pub messages: u64,
    /// Messages dropped because they were taken in before.
    pub repeats: u64,
    /// Events that were parked.
    pub parked: u64,
    /// Of these, events that became dead letters at once.
    pub dead: u64,
    /// Messages published.
    pub published: u64,
    /// Requests whose answer would have gone to no inbox.
    pub unanswered: u64,
    /// Messages published again because the stream had dropped them before a consumer took them
    /// in.
    pub missed: u64,
}

impl Default for Health {
    fn default() -> Self {
        Self::new(OfService::default())
    }
}

impl Health {
    /// The state of a service that counts in these metrics.
    pub(crate) fn new(metrics: OfService) -> Self {
        Self(Arc::new(Inner {
            metrics,
            faults: Mutex::default(),
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

    /// What the service counts for its metrics.
    pub(crate) fn metrics(&self) -> &OfService {
        &self.0.metrics
    }

    /// Whether the store can be used, the broker takes events, and every stream is there.
    pub fn is_ready(&self) -> bool {
        self.is_checked() && self.lock_faults().is_empty()
    }

    /// The problems that keep the service from its work, in words.
    pub fn faults(&self) -> Vec<String> {
        let faults = self.lock_faults();
        let mut faults: Vec<String> =
            faults.iter().map(|(part, cause)| part.describe(cause)).collect();
        if !self.is_checked() {
            faults.push("the store was not checked yet".to_owned());
        }
        faults
    }

    /// The same without the broker's own report, for a caller that asks the broker as well.
    pub fn faults_except_broker(&self) -> Vec<String> {
        let broker =
            self.lock_faults().get(&Part::Broker).map(|cause| Part::Broker.describe(cause));
        let mut faults = self.faults();
        faults.retain(|fault| Some(fault) != broker.as_ref());
        faults
    }

    /// Counters since the start.
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

    /// Notes the problem of a part; whether it is new.
    pub(crate) fn set_fault(&self, part: Part, cause: impl Display) -> bool {
        self.lock_faults().insert(part, cause.to_string()).is_none()
    }

    /// Notes that a part has no problem; whether it had one before.
    pub(crate) fn clear_fault(&self, part: &Part) -> bool {
        self.lock_faults().remove(part).is_some()
    }

    /// Whether a part has a problem.
    pub(crate) fn has_fault(&self, part: &Part) -> bool {
        self.lock_faults().contains_key(part)
    }

    /// Notes that the store has failed a batch; whether this is new.
    pub(crate) fn mark_store_failed(&self, failure: &Failure) -> bool {
        self.lock_store().failed_at = Some(Instant::now());
        self.mark_store_down(failure)
    }

    /// Notes that the store does not answer, or answers with a failure; whether this is new. An
    /// instance whose store is unusable stops serving at once, because retrying does not help.
    pub(crate) fn mark_store_down(&self, failure: &Failure) -> bool {
        let now = Instant::now();
        let is_unusable = matches!(failure, Failure::Unusable(_));
        let mut store = self.lock_store();
        let since = *store.down_since.get_or_insert(now);
        self.0.store_down.store(true, Relaxed);
        let is_own = !matches!(failure, Failure::Emptied);
        if is_unusable || is_own && now.duration_since(since) >= LEAVE_AFTER {
            self.0.serving.send_if_modified(|serving| serving.replace(false) != Some(false));
        } else {
            // After its first check the instance serves, so that callers are asked to retry.
            self.0.serving.send_if_modified(|serving| {
                let is_first = serving.is_none();
                serving.get_or_insert(true);
                is_first
            });
        }
        self.set_fault(Part::Store, failure)
    }

    /// Notes that the store has completed a batch; whether it was down before.
    pub(crate) fn mark_store_up(&self) -> bool {
        if !self.0.store_down.load(Relaxed) && self.is_serving() {
            return false;
        }
        let mut store = self.lock_store();
        *store = Store::default();
        self.0.store_down.store(false, Relaxed);
        self.0.serving.send_if_modified(|serving| serving.replace(true) != Some(true));
        self.clear_fault(&Part::Store)
    }

    /// Notes that the store answers; whether it was down before. An answer does not count when
    /// the store has just failed a batch: a store with a full disk answers, too.
    pub(crate) fn mark_store_answering(&self) -> bool {
        let failed_at = self.lock_store().failed_at;
        let is_fresh = failed_at.is_some_and(|at| at.elapsed() < DISTRUST);
        !is_fresh && self.mark_store_up()
    }

    pub(crate) fn is_store_up(&self) -> bool {
        !self.0.store_down.load(Relaxed)
    }

    /// Whether commands are accepted; changes with the store.
    pub(crate) fn serving(&self) -> watch::Receiver<Option<bool>> {
        self.0.serving.subscribe()
    }

    fn is_serving(&self) -> bool {
        *self.0.serving.borrow() == Some(true)
    }

    pub(crate) fn is_checked(&self) -> bool {
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
        self.0.metrics.published(count);
    }

    pub(crate) fn add_missed(&self, count: u64) {
        self.0.missed.fetch_add(count, Relaxed);
    }

    /// Counts one more; returns how many there are now.
    pub(crate) fn add_unanswered(&self) -> u64 {
        self.0.unanswered.fetch_add(1, Relaxed) + 1
    }

    fn lock_faults(&self) -> MutexGuard<'_, BTreeMap<Part, String>> {
        self.0.faults.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock_store(&self) -> MutexGuard<'_, Store> {
        self.0.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Part {
    fn describe(&self, cause: &str) -> String {
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
    fn an_instance_leaves_its_queue_group_at_once_when_its_store_is_unusable() {
        let health = Health::default();
        assert!(!health.is_ready(), "the store was not checked yet");
        assert!(health.mark_store_down(&Failure::Unusable("no such database".into())));
        assert_eq!(*health.serving().borrow(), Some(false));
        assert!(health.faults()[0].ends_with("no such database"), "{:?}", health.faults());
        assert!(health.mark_store_answering());
        assert_eq!(*health.serving().borrow(), Some(true));
        assert!(health.is_ready());
    }

    #[test]
    fn an_instance_stays_in_its_queue_group_while_its_store_is_away_for_a_moment() {
        let health = Health::default();
        health.mark_store_up();
        assert!(health.mark_store_down(&away()));
        assert!(!health.mark_store_down(&away()), "it is not new");
        assert_eq!(*health.serving().borrow(), Some(true));
        assert!(!health.is_ready());
    }

    #[test]
    fn an_answer_right_after_a_failed_batch_does_not_make_a_store_healthy() {
        let health = Health::default();
        health.mark_store_failed(&Failure::Unavailable("no space left on device".into()));
        assert!(!health.mark_store_answering());
        assert!(!health.is_store_up());
        assert!(health.mark_store_up());
        assert!(health.is_store_up());
    }
}
