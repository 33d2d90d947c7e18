//! The stream of this service, as a comparison sees it: it is read, and lost messages are published
//! to it again.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;
use tracing::warn;

use super::{sweep_requests::SweepRequests, verify};
use crate::{
    Link,
    health::{Health, Part},
    nats::{
        consumer_state::ConsumerState,
        error::BrokerError,
        link::{StreamState, stream_of},
    },
    store::engine::Place,
};

/// A consumer with more messages before it than this is awaited …
const UNTAKEN_MAX: u64 = 500;
/// … for so long, and then more is published all the same.
const TAKEN_IN_WITHIN: Duration = Duration::from_secs(1);
/// How often it is looked meanwhile.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// A consumer that has taken in nothing for so long is not awaited. One that has just lost its
/// stream takes some seconds to begin.
const STILL_AFTER: Duration = Duration::from_secs(5);

/// The stream of this service during one comparison.
pub(super) struct OwnStream<'a> {
    link: &'a Link,
    sweeps: &'a SweepRequests,
    health: &'a Health,
    /// Whether the comparison has reported a loss.
    is_reported: AtomicBool,
    /// How far consumers were at the last look.
    seen: Mutex<HashMap<String, Seen>>,
}

/// A consumer at the last look.
#[derive(Clone, Copy)]
struct Seen {
    floor: u64,
    lag: u64,
    /// When it was seen to have taken something in.
    moved_at: Instant,
}

impl<'a> OwnStream<'a> {
    pub(super) fn new(link: &'a Link, sweeps: &'a SweepRequests, health: &'a Health) -> Self {
        Self { link, sweeps, health, is_reported: AtomicBool::new(false), seen: Mutex::default() }
    }
}

impl verify::Stream for OwnStream<'_> {
    fn epoch(&self) -> u64 {
        self.link.epoch()
    }

    async fn state(&self) -> Result<StreamState, BrokerError> {
        self.link.stream_state().await
    }

    async fn places(&self, from: u64, to: u64) -> Result<HashMap<u64, Place>, BrokerError> {
        self.link.places(from, to).await
    }

    async fn publish_lost(&self, lost: usize) {
        self.health.metrics().forgotten(lost as u64);
        // A walk through a long history takes hours, and the service can work meanwhile.
        self.health.clear_fault(&Part::Comparison);
        if !self.is_reported.swap(true, Relaxed) {
            warn!(
                service = self.link.service(),
                "the stream has lost messages it had acknowledged; they are published again"
            );
        }
        self.sweeps.now().await;
        self.until_taken_in().await;
    }
}

impl OwnStream<'_> {
    /// Waits while a consumer is far behind, for [`TAKEN_IN_WITHIN`] at most.
    async fn until_taken_in(&self) {
        let (stream, until) = (stream_of(self.link.service()), Instant::now() + TAKEN_IN_WITHIN);
        // The walk notices by itself when the broker does not answer.
        while let Ok(consumers) = self.link.consumers(&stream).await {
            let now = Instant::now();
            // Each of them is looked at, also behind the first that is awaited.
            let awaited = consumers.iter().filter(|one| self.is_awaited(one, now)).count();
            if awaited == 0 || now >= until {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Whether a consumer is far behind and takes something in.
    fn is_awaited(&self, consumer: &ConsumerState, now: Instant) -> bool {
        let ConsumerState { floor, lag, .. } = *consumer;
        let mut all = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let new = Seen { floor, lag, moved_at: now };
        let seen = all.entry(consumer.name.clone()).or_insert(new);
        let has_moved = floor > seen.floor || lag < seen.lag;
        *seen = Seen { moved_at: if has_moved { now } else { seen.moved_at }, ..new };
        lag > UNTAKEN_MAX && now - seen.moved_at < STILL_AFTER
    }
}
