//! Checks that the streams a service consumes are still the same streams.
//!
//! A durable consumer has a sequence, and a sequence does not identify its stream. When a
//! stream was lost or rolled back and has grown past that sequence again, the consumer would
//! miss every new message below it. So a service keeps in its own store the sequence and id of
//! the highest messages that it took in, and checks that they are still there: on each
//! connection, and at an interval. Where they are not, its consumer is reset to the last
//! message that is; the inbox drops the repeats.

pub(crate) mod check;

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_nats::jetstream::consumer;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    Link,
    batch::work::Delivery,
    deadline::within,
    nats::{
        error::BrokerError,
        link::{BROKER, REQUEST_TIMEOUT, StreamState},
    },
    store::engine::{Engine, Failure, Mark},
};
use check::{Consumed, Standing, When};

/// How often the highest message is recorded. After a crash, that much more is redelivered.
const RECORD_EVERY: Duration = Duration::from_secs(1);
/// How often the streams are checked while the connection stays up.
const CHECK_EVERY: Duration = Duration::from_secs(15);

/// The first and the highest message of each stream that were acknowledged since they were last
/// recorded; cheap to clone. The first one may be of a stream that was lost since, and that the
/// highest no longer is of.
#[derive(Clone, Default)]
pub(crate) struct Reached(Arc<Mutex<BTreeMap<String, [Mark; 2]>>>);

impl Reached {
    /// Notes that a message was taken in.
    pub(crate) fn note(&self, delivery: &Delivery) {
        // A message without an id cannot be distinguished from another at its sequence.
        if !delivery.has_id() {
            return;
        }
        let mark = Mark { id: delivery.id, sequence: delivery.sequence };
        let mut reached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match reached.get_mut(&delivery.stream) {
            Some([_, highest]) if highest.sequence >= mark.sequence => {}
            Some([_, highest]) => *highest = mark,
            None => drop(reached.insert(delivery.stream.clone(), [mark; 2])),
        }
    }

    fn take(&self) -> BTreeMap<String, [Mark; 2]> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// The task that records and checks positions for one service.
pub(crate) struct Agreement {
    pub(crate) link: Link,
    pub(crate) engine: Arc<dyn Engine>,
    /// The streams that the service consumes.
    pub(crate) streams: Vec<String>,
    pub(crate) reached: Reached,
}

impl Agreement {
    /// Records and checks until shutdown, and then records what was acknowledged last, so that
    /// the next start finds no gap.
    pub(crate) async fn run(&self, shutdown: CancellationToken) -> Result<(), Failure> {
        tokio::select! {
            ended = self.record_and_check() => ended,
            () = shutdown.cancelled() => self.record().await,
        }
    }

    async fn record_and_check(&self) -> Result<(), Failure> {
        let mut ticks = interval(RECORD_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut checked: Option<(u64, Instant)> = None;
        loop {
            ticks.tick().await;
            // First, so that the check knows of what was taken in from a stream that is lost.
            self.record().await?;
            let epoch = self.link.epoch();
            let is_fresh = |(of, at): (u64, Instant)| of == epoch && at.elapsed() < CHECK_EVERY;
            if self.link.is_connected() && !checked.is_some_and(is_fresh) {
                let when = match checked {
                    None => When::First,
                    Some((of, _)) if of != epoch => When::Connected,
                    Some(_) => When::Again,
                };
                match self.check_all(when).await {
                    Ok(()) => checked = Some((epoch, Instant::now())),
                    // A server that is away is reported elsewhere, and this is checked again.
                    Err(cause) if cause.is_lost() => {}
                    Err(cause) => {
                        let service = self.link.service();
                        warn!(service, %cause, "cannot check that the streams are still the same");
                    }
                }
            }
        }
    }

    async fn record(&self) -> Result<(), Failure> {
        for (stream, [first, highest]) in self.reached.take() {
            self.engine.store().note_reached(&stream, first).await?;
            if highest.sequence > first.sequence {
                self.engine.store().note_reached(&stream, highest).await?;
            }
        }
        Ok(())
    }

    async fn check_all(&self, when: When) -> Result<(), Failure> {
        for stream in &self.streams {
            check::run(&self.link, self.engine.store(), stream, when).await?;
        }
        Ok(())
    }
}

impl Consumed for Link {
    async fn state(&self, stream: &str) -> Result<StreamState, BrokerError> {
        self.state_of(stream).await
    }

    async fn ids(
        &self,
        stream: &str,
        from: u64,
        to: u64,
    ) -> Result<HashMap<u64, Uuid>, BrokerError> {
        self.ids_of(stream, from, to).await
    }

    async fn standing(&self, stream: &str) -> Result<Standing, BrokerError> {
        let consumer = self.own_consumer(stream).await?;
        let delivered = consumer.delivered.stream_sequence;
        Ok(Standing { floor: consumer.ack_floor.stream_sequence, delivered })
    }

    async fn is_any_wanted(&self, stream: &str, from: u64, to: u64) -> Result<bool, BrokerError> {
        let consumer = self.own_consumer(stream).await?;
        let filters = &consumer.config.filter_subjects;
        let is_wanted = |subject: &str| {
            filters.iter().any(|filter| subject.starts_with(filter.trim_end_matches('>')))
        };
        let there = self.subjects_of(stream, from, to).await?;
        Ok(there.iter().any(|subject| is_wanted(subject)))
    }

    async fn reset(&self, stream: &str, from: u64) -> Result<(), BrokerError> {
        let service = self.service();
        // Usual after a kill: what was taken in last was not recorded. The inbox drops the repeats.
        info!(service, stream, from, "the consumer is ahead of what was taken in; it is set back");
        self.reset_consumer(stream, from).await
    }
}

impl Link {
    /// The service's own consumer of a stream.
    #[expect(clippy::disallowed_methods, reason = "it has a limit")]
    async fn own_consumer(&self, stream: &str) -> Result<consumer::Info, BrokerError> {
        let request = self.jetstream().get_consumer_from_stream(self.service(), stream);
        let found: Result<consumer::PullConsumer, _> =
            within(REQUEST_TIMEOUT, BROKER, request).await?;
        let found = found.map_err(|error| self.no_consumer(stream, error.into()))?;
        Ok(found.cached_info().clone())
    }

    /// Resets the service's own consumer of a stream to a sequence.
    #[expect(clippy::disallowed_methods, reason = "it has a limit")]
    async fn reset_consumer(&self, stream: &str, from: u64) -> Result<(), BrokerError> {
        let reset = async {
            let found = self.jetstream().get_stream_no_info(stream).await?;
            found.reset_consumer(self.service(), Some(from)).await?;
            Ok(())
        };
        let reset = within(REQUEST_TIMEOUT, BROKER, reset).await?;
        reset.map_err(|source| self.no_consumer(stream, source))
    }

    fn no_consumer(&self, stream: &str, source: async_nats::Error) -> BrokerError {
        BrokerError::Consumer { what: format!("consumer {} of {stream}", self.service()), source }
    }
}
