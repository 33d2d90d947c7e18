//! Streams of the simulated broker, as publisher and consumer read them.

use std::{
    collections::HashMap,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use events::Timestamp;
use uuid::Uuid;

use crate::{
    inbound::agreement::check::{Consumed, Standing},
    nats::{error::BrokerError, link::StreamState},
    outbound::publisher::verify,
    store::engine::Place,
};

/// A stream of the simulated broker.
pub trait Shelf: Sync {
    /// The number of the current connection to the broker.
    fn epoch(&self) -> u64;
    /// The sequence of its oldest message; one above the last sequence when it has none.
    fn first_sequence(&self) -> u64;
    /// The sequence of the newest message it has ever had.
    fn last_sequence(&self) -> u64;
    /// Seconds that it keeps messages; 0 means for ever.
    fn max_age_secs(&self) -> i64;
    /// When it was created.
    fn made_at(&self) -> Timestamp;
    /// The message at a sequence, if there is one.
    fn at(&self, sequence: u64) -> Option<Place>;
}

/// A stream that a service consumes, and its consumer of it.
pub struct OwnConsumer<'a, S> {
    /// The stream.
    pub stream: &'a S,
    /// Where the consumer stands.
    pub standing: Standing,
    /// Whether the consumer wants the message at a sequence.
    pub is_wanted: &'a (dyn Fn(u64) -> bool + Sync),
}

/// A simulated stream, as the publisher reads it.
pub(super) struct Read<'a, S>(pub(super) &'a S);

/// A simulated stream, as its consumer is checked.
pub(super) struct Own<'a, S> {
    own: &'a OwnConsumer<'a, S>,
    /// From where the consumer must go on; 0 when it may stay where it is.
    reset: AtomicU64,
}

impl<'a, S: Shelf> Own<'a, S> {
    pub(super) fn new(own: &'a OwnConsumer<'a, S>) -> Self {
        Self { own, reset: AtomicU64::new(0) }
    }

    /// From where the consumer must go on, when it stands elsewhere.
    pub(super) fn reset(self) -> Option<u64> {
        Some(self.reset.into_inner()).filter(|from| *from > 0)
    }
}

fn state_of(stream: &impl Shelf) -> StreamState {
    StreamState {
        first_sequence: stream.first_sequence(),
        last_sequence: stream.last_sequence(),
        max_age_secs: stream.max_age_secs(),
        made_at: stream.made_at().0,
        leader: None,
    }
}

fn places_of(stream: &impl Shelf, from: u64, to: u64) -> HashMap<u64, Place> {
    let to = to.min(stream.last_sequence());
    (from..=to).filter_map(|at| Some((at, stream.at(at)?))).collect()
}

impl<S: Shelf> verify::Stream for Read<'_, S> {
    fn epoch(&self) -> u64 {
        self.0.epoch()
    }

    async fn state(&self) -> Result<StreamState, BrokerError> {
        Ok(state_of(self.0))
    }

    async fn places(&self, from: u64, to: u64) -> Result<HashMap<u64, Place>, BrokerError> {
        Ok(places_of(self.0, from, to))
    }
}

impl<S: Shelf> Consumed for Own<'_, S> {
    async fn state(&self, _stream: &str) -> Result<StreamState, BrokerError> {
        Ok(state_of(self.own.stream))
    }

    async fn ids(
        &self,
        _stream: &str,
        from: u64,
        to: u64,
    ) -> Result<HashMap<u64, Uuid>, BrokerError> {
        let places = places_of(self.own.stream, from, to);
        Ok(places.into_iter().map(|(sequence, place)| (sequence, place.mark.id)).collect())
    }

    async fn standing(&self, _stream: &str) -> Result<Standing, BrokerError> {
        Ok(self.own.standing)
    }

    async fn is_any_wanted(&self, _stream: &str, from: u64, to: u64) -> Result<bool, BrokerError> {
        let to = to.min(self.own.stream.last_sequence());
        Ok((from..=to).any(self.own.is_wanted))
    }

    async fn reset(&self, _stream: &str, from: u64) -> Result<(), BrokerError> {
        self.reset.store(from, Relaxed);
        Ok(())
    }
}
