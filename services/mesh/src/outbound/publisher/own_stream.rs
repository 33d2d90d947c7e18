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

use super::{SweepRequests, verify};
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

/// The stream of this service during one comparison.
pub(super) struct OwnStream<'a> {
    link: &'a Link,
    sweeps: &'a SweepRequests,
    health: &'a Health,
    /// Whether the comparison has reported a loss.
    is_reported: AtomicBool,
    /// Consumers that took nothing in while they were awaited, and their positions. They are not
    /// awaited again before they move.
    still: Mutex<HashMap<String, u64>>,
}

impl<'a> OwnStream<'a> {
    pub(super) fn new(link: &'a Link, sweeps: &'a SweepRequests, health: &'a Health) -> Self {
        Self { link, sweeps, health, is_reported: AtomicBool::new(false), still: Mutex::default() }
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
        let mut first: HashMap<String, (u64, u64)> = HashMap::new();
        // The walk notices by itself when the broker does not answer.
        while let Ok(consumers) = self.link.consumers(&stream).await {
            let behind: Vec<_> = consumers.iter().filter(|one| self.is_awaited(one)).collect();
            if behind.is_empty() {
                return;
            }
            for one in &behind {
                let (floor, lag) = *first.entry(one.name.clone()).or_insert((one.floor, one.lag));
                let has_moved = one.floor > floor || one.lag < lag;
                if Instant::now() >= until && !has_moved {
                    self.still().insert(one.name.clone(), floor);
                }
            }
            if Instant::now() >= until {
                return;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn is_awaited(&self, consumer: &ConsumerState) -> bool {
        consumer.lag > UNTAKEN_MAX && self.still().get(&consumer.name) != Some(&consumer.floor)
    }

    fn still(&self) -> std::sync::MutexGuard<'_, HashMap<String, u64>> {
        self.still.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
