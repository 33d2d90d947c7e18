//! Whether the streams that a service consumes are still those it has consumed so far.
//!
//! A durable consumer stands at a sequence, and a sequence says nothing about which stream it
//! is of. A stream that was lost, or rolled back, and has grown again past that sequence would
//! hide everything before it. So a service keeps in its own store sequence and id of the
//! highest messages that it took in, and looks whether they are still there: on each
//! connection, and now and then. Where they are not, its consumer is set back to the last
//! message that is; what was taken in before, the inbox drops.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_nats::jetstream::consumer;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use crate::{
    Link,
    deadline::within,
    engine::{Engine, Failure, Mark},
    link::{BROKER, REQUEST_TIMEOUT},
    work::Delivery,
};

/// Places that are kept of each stream: how far back it is found exactly up to where a stream
/// that was rolled back agrees.
pub(crate) const PLACES_MAX: usize = 64;
/// How often the highest message is noted. A crash forgets as much, and more comes again.
const NOTE_EVERY: Duration = Duration::from_secs(1);
/// How often the streams are looked at while the connection stays.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// The highest messages that were acknowledged since the last note; cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Reached(Arc<Mutex<BTreeMap<String, Mark>>>);

impl Reached {
    /// A message was taken in.
    pub(crate) fn note(&self, delivery: &Delivery) {
        // Without an id of its own it could not be told from another at its place.
        if !delivery.has_id() {
            return;
        }
        let mark = Mark { id: delivery.id, sequence: delivery.sequence };
        let mut reached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match reached.get_mut(&delivery.stream) {
            Some(highest) if highest.sequence >= mark.sequence => {}
            Some(highest) => *highest = mark,
            None => drop(reached.insert(delivery.stream.clone(), mark)),
        }
    }

    fn take(&self) -> BTreeMap<String, Mark> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// What notes and looks for one service.
pub(crate) struct Agreement<E> {
    pub(crate) link: Link,
    pub(crate) engine: Arc<E>,
    /// The streams that it consumes.
    pub(crate) streams: Vec<String>,
    pub(crate) reached: Reached,
}

impl<E: Engine> Agreement<E> {
    /// Notes and looks until shutdown, and then notes what was acknowledged last, so that the
    /// next start finds no gap.
    pub(crate) async fn run(&self, shutdown: CancellationToken) -> Result<(), Failure> {
        tokio::select! {
            ended = self.note_and_look() => ended,
            () = shutdown.cancelled() => self.note().await,
        }
    }

    async fn note_and_look(&self) -> Result<(), Failure> {
        let mut ticks = interval(NOTE_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut looked: Option<(u64, Instant)> = None;
        loop {
            ticks.tick().await;
            let epoch = self.link.epoch();
            let is_fresh = |(of, at): (u64, Instant)| of == epoch && at.elapsed() < LOOK_EVERY;
            if self.link.is_connected() && !looked.is_some_and(is_fresh) {
                match self.look_at_all(looked.is_none()).await {
                    Ok(()) => looked = Some((epoch, Instant::now())),
                    Err(cause) => {
                        let service = self.link.service();
                        warn!(service, %cause, "it cannot be seen whether the streams are the same");
                    }
                }
            }
            self.note().await?;
        }
    }

    async fn note(&self) -> Result<(), Failure> {
        for (stream, mark) in self.reached.take() {
            self.engine.note_reached(&stream, mark).await?;
        }
        Ok(())
    }

    async fn look_at_all(&self, is_first: bool) -> Result<(), Failure> {
        for stream in &self.streams {
            self.look(stream, is_first).await?;
        }
        Ok(())
    }

    /// Looks at one stream, and sets its consumer back where it is another. At first also
    /// where the consumer stands beyond what this store knows of: the store may be an older
    /// one. All of that may be no more than what was not noted when a process died.
    async fn look(&self, stream: &str, is_first: bool) -> Result<(), Failure> {
        let places = self.engine.reached(stream).await?;
        let Some(highest) = places.last() else { return Ok(()) };
        let unseen = Failure::Unavailable;
        let state = self.link.state_of(stream).await.map_err(unseen)?;
        let has_aged_out =
            |at: &Mark| at.sequence < state.first_sequence && at.sequence <= state.last_sequence;
        let agrees = |at: &Mark, there: &HashMap<u64, Uuid>| {
            has_aged_out(at) || there.get(&at.sequence) == Some(&at.id)
        };
        let there = self.link.ids_of(stream, highest.sequence, highest.sequence).await;
        if agrees(highest, &there.map_err(unseen)?) {
            return if is_first {
                self.look_beyond(stream, highest.sequence).await
            } else {
                Ok(())
            };
        }
        // One that agrees behind one that does not proves nothing.
        let mut upto = 0;
        for place in &places {
            let there = self.link.ids_of(stream, place.sequence, place.sequence).await;
            if !agrees(place, &there.map_err(unseen)?) {
                break;
            }
            upto = place.sequence;
        }
        self.set_back(stream, upto).await?;
        self.engine.forget_reached(stream, upto).await
    }

    /// Sets the consumer back where it stands beyond messages that this store knows nothing of.
    async fn look_beyond(&self, stream: &str, highest: u64) -> Result<(), Failure> {
        let unseen = Failure::Unavailable;
        let consumer = self.link.own_consumer(stream).await.map_err(unseen)?;
        let floor = consumer.ack_floor.stream_sequence;
        let filters = &consumer.config.filter_subjects;
        let is_taken = |subject: &str| {
            filters.iter().any(|filter| subject.starts_with(filter.trim_end_matches('>')))
        };
        // It passes over what it does not take.
        let there = self.link.subjects_of(stream, highest + 1, floor).await.map_err(unseen)?;
        match there.iter().any(|subject| is_taken(subject)) {
            true => self.set_back(stream, highest).await,
            false => Ok(()),
        }
    }

    /// Has the consumer go on behind a sequence, if it stands beyond it.
    async fn set_back(&self, stream: &str, upto: u64) -> Result<(), Failure> {
        let consumer = self.link.own_consumer(stream).await.map_err(Failure::Unavailable)?;
        let floor = consumer.ack_floor.stream_sequence;
        if floor > upto {
            let service = self.link.service();
            warn!(service, stream, floor, upto, "its consumer stands beyond what was taken in");
            let reset = self.link.reset_consumer(stream, upto + 1).await;
            reset.map_err(Failure::Unavailable)?;
        }
        Ok(())
    }
}

impl Link {
    /// The service's own consumer of a stream.
    #[expect(clippy::disallowed_methods, reason = "it has a limit")]
    async fn own_consumer(&self, stream: &str) -> Result<consumer::Info, String> {
        let asked = self.jetstream().get_consumer_from_stream(self.service(), stream);
        let found = within(REQUEST_TIMEOUT, BROKER, asked).await;
        let found: consumer::PullConsumer =
            found.map_err(|late| late.to_string())?.map_err(|error| error.to_string())?;
        Ok(found.cached_info().clone())
    }

    /// Has the service's own consumer of a stream go on from a sequence.
    #[expect(clippy::disallowed_methods, reason = "it has a limit")]
    async fn reset_consumer(&self, stream: &str, from: u64) -> Result<(), String> {
        let reset = async {
            let found = self.jetstream().get_stream_no_info(stream).await;
            let stream = found.map_err(|error| error.to_string())?;
            let reset = stream.reset_consumer(self.service(), Some(from)).await;
            reset.map(drop).map_err(|error| error.to_string())
        };
        within(REQUEST_TIMEOUT, BROKER, reset).await.map_err(|late| late.to_string())?
    }
}
