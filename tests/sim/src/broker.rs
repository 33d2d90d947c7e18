//! A simulated JetStream: streams that remember message ids for a while, durable consumers that
//! deliver at least once, and a disk that has what was synced last.

use std::collections::{BTreeMap, BTreeSet};

use events::Timestamp;
use mesh::{
    engine::{Mark, Place},
    memory::{Incoming, OwnConsumer, Shelf, Standing},
    message::Message,
};

/// How long a stream remembers the ids of its messages.
const DUPLICATES_SECS: i64 = 120;
/// How long a message may stay unacknowledged before it is redelivered.
const ACK_WAIT_SECS: i64 = 10;

/// A stored message.
#[derive(Debug, Clone)]
struct Stored {
    message: Message,
    at: Timestamp,
}

/// A stream. The sequence of a message is its place, counted from 1.
#[derive(Debug, Clone)]
pub struct Stream {
    messages: Vec<Stored>,
    made_at: Timestamp,
    epoch: u64,
}

/// The consumer of one service on one stream.
#[derive(Debug, Clone, Default)]
struct Consumer {
    /// The last sequence that was delivered for the first time.
    delivered: u64,
    /// Unacknowledged messages: when each is redelivered, and how often it was delivered.
    pending: BTreeMap<u64, (Timestamp, u64)>,
}

/// The acknowledgement of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Acknowledged {
    /// The sequence of the message in the stream.
    pub sequence: u64,
    /// Whether its id was known.
    pub is_duplicate: bool,
}

/// What survives a restart of the broker.
#[derive(Clone)]
struct Disk {
    streams: BTreeMap<&'static str, Stream>,
    consumers: BTreeMap<(&'static str, &'static str), Consumer>,
}

/// The broker.
pub struct Broker {
    now: Disk,
    synced: Disk,
    /// Which events each service consumes.
    filters: BTreeMap<&'static str, BTreeSet<&'static str>>,
}

impl Broker {
    /// A broker with a stream for each producer and a consumer for each service.
    pub fn new(
        producers: &[&'static str],
        filters: BTreeMap<&'static str, BTreeSet<&'static str>>,
        now: Timestamp,
    ) -> Self {
        let disk = empty(producers, &filters, now, 0);
        Self { now: disk.clone(), synced: disk, filters }
    }

    /// Stores a message, unless its id is known.
    pub fn publish(
        &mut self,
        producer: &'static str,
        message: Message,
        now: Timestamp,
    ) -> Acknowledged {
        let Some(stream) = self.now.streams.get_mut(producer) else {
            unreachable!("there is a stream for each producer")
        };
        let is_known = |(_, stored): &(usize, &Stored)| {
            stored.message.id == message.id && stored.at.plus_secs(DUPLICATES_SECS) > now
        };
        let known = stream.messages.iter().enumerate().rev().find(is_known);
        if let Some((at, _)) = known {
            return Acknowledged { sequence: at as u64 + 1, is_duplicate: true };
        }
        stream.messages.push(Stored { message, at: now });
        Acknowledged { sequence: stream.messages.len() as u64, is_duplicate: false }
    }

    /// Delivers messages to a service, at most `most` of them. A message for which `delay` has
    /// an answer comes that many milliseconds later, and others overtake it.
    pub fn deliver(
        &mut self,
        service: &'static str,
        most: usize,
        now: Timestamp,
        mut delay: impl FnMut() -> Option<i64>,
    ) -> Vec<Incoming> {
        let Some(filter) = self.filters.get(service) else { return Vec::new() };
        let is_wanted = |subject: &str| {
            events::event_of_subject(subject).is_some_and(|event| filter.contains(event))
        };
        let mut delivered = Vec::new();
        let Disk { streams, consumers } = &mut self.now;
        for ((producer, of), consumer) in consumers.iter_mut().filter(|((_, of), _)| *of == service)
        {
            debug_assert_eq!(*of, service);
            let Some(stream) = streams.get(producer) else { continue };
            // What the stream has lost is not redelivered.
            consumer.pending.retain(|sequence, _| {
                stream.stored(*sequence).is_some_and(|stored| is_wanted(&stored.message.subject))
            });
            for (&sequence, (again_at, times)) in &mut consumer.pending {
                if delivered.len() < most && *again_at <= now {
                    *again_at = now.plus_secs(ACK_WAIT_SECS);
                    *times += 1;
                    delivered.extend(stream.incoming(producer, sequence, *times));
                }
            }
            while delivered.len() < most && consumer.delivered < stream.last_sequence() {
                consumer.delivered += 1;
                let sequence = consumer.delivered;
                let stored = stream.stored(sequence);
                if !stored.is_some_and(|stored| is_wanted(&stored.message.subject)) {
                    continue;
                }
                match delay() {
                    Some(millis) => {
                        consumer.pending.insert(sequence, (now.plus_millis(millis), 0));
                    }
                    None => {
                        consumer.pending.insert(sequence, (now.plus_secs(ACK_WAIT_SECS), 1));
                        delivered.extend(stream.incoming(producer, sequence, 1));
                    }
                }
            }
        }
        delivered
    }

    /// A service acknowledges a message.
    pub fn acknowledge(&mut self, service: &'static str, stream: &'static str, sequence: u64) {
        if let Some(consumer) = self.now.consumers.get_mut(&(stream, service)) {
            consumer.pending.remove(&sequence);
        }
    }

    /// Makes a message come again soon, for no reason: redelivery is always possible.
    pub fn repeat(
        &mut self,
        service: &'static str,
        stream: &'static str,
        sequence: u64,
        now: Timestamp,
    ) {
        if let Some(consumer) = self.now.consumers.get_mut(&(stream, service)) {
            consumer.pending.entry(sequence).or_insert((now, 1));
        }
    }

    /// Whether every consumer has received and acknowledged everything.
    pub fn is_drained(&self) -> bool {
        let is_done = |((producer, _), consumer): (&(&'static str, &'static str), &Consumer)| {
            let last = self.now.streams.get(producer).map_or(0, Stream::last_sequence);
            consumer.pending.is_empty() && consumer.delivered >= last
        };
        self.now.consumers.iter().all(is_done)
    }

    /// Writes everything to the disk.
    pub fn sync(&mut self) {
        self.synced = self.now.clone();
    }

    /// Restarts the broker with what is on its disk.
    pub fn roll_back(&mut self) {
        let epoch = self.epoch() + 1;
        self.now = self.synced.clone();
        self.reconnect(epoch);
    }

    /// Loses everything, and applies the topology again.
    pub fn wipe(&mut self, now: Timestamp) {
        let epoch = self.epoch() + 1;
        let producers: Vec<_> = self.now.streams.keys().copied().collect();
        self.now = empty(&producers, &self.filters, now, epoch);
        self.synced = self.now.clone();
    }

    /// The streams are those of the last sync, or empty, and their consumers stay where they are.
    pub fn regrow(&mut self, is_empty: bool, now: Timestamp) {
        let epoch = self.epoch() + 1;
        if is_empty {
            let producers: Vec<_> = self.now.streams.keys().copied().collect();
            self.now.streams = empty(&producers, &self.filters, now, epoch).streams;
        } else {
            self.now.streams = self.synced.streams.clone();
        }
        self.reconnect(epoch);
        self.synced = self.now.clone();
    }

    /// The streams that a service consumes.
    pub fn consumed_by(&self, service: &str) -> Vec<&'static str> {
        let own = self.now.consumers.keys().filter(|(_, of)| *of == service);
        own.map(|(producer, _)| *producer).collect()
    }

    /// Looks at a service's consumer of a stream.
    pub fn with_consumer<T>(
        &self,
        stream: &'static str,
        service: &'static str,
        look: impl FnOnce(&OwnConsumer<'_, Stream>) -> T,
    ) -> Option<T> {
        let consumer = self.now.consumers.get(&(stream, service))?;
        let (stream, filter) = (self.now.streams.get(stream)?, self.filters.get(service)?);
        let first_pending = consumer.pending.keys().next();
        let floor = first_pending.map_or(consumer.delivered, |first| first - 1);
        let is_wanted = |sequence| {
            let subject = stream.stored(sequence).map(|stored| stored.message.subject.as_str());
            let event = subject.and_then(events::event_of_subject);
            event.is_some_and(|event| filter.contains(event))
        };
        let standing = Standing { floor, delivered: consumer.delivered };
        Some(look(&OwnConsumer { stream, standing, is_wanted: &is_wanted }))
    }

    /// Sets a service's consumer of a stream to go on from a sequence.
    pub fn reset(&mut self, stream: &'static str, service: &'static str, from: u64) {
        if let Some(consumer) = self.now.consumers.get_mut(&(stream, service)) {
            *consumer = Consumer { delivered: from.saturating_sub(1), ..Consumer::default() };
        }
    }

    fn reconnect(&mut self, epoch: u64) {
        self.now.streams.values_mut().for_each(|stream| stream.epoch = epoch);
    }

    /// The number of the current connection.
    pub fn epoch(&self) -> u64 {
        self.now.streams.values().map(|stream| stream.epoch).max().unwrap_or_default()
    }

    /// The stream of a producer.
    pub fn stream(&self, producer: &str) -> Option<&Stream> {
        self.now.streams.get(producer)
    }
}

fn empty(
    producers: &[&'static str],
    filters: &BTreeMap<&'static str, BTreeSet<&'static str>>,
    made_at: Timestamp,
    epoch: u64,
) -> Disk {
    let stream = Stream { messages: Vec::new(), made_at, epoch };
    let streams = producers.iter().map(|producer| (*producer, stream.clone())).collect();
    let mut consumers = BTreeMap::new();
    for (service, events) in filters {
        for producer in producers {
            if events.iter().any(|event| events::producer_of(event) == *producer) {
                consumers.insert((*producer, *service), Consumer::default());
            }
        }
    }
    Disk { streams, consumers }
}

impl Stream {
    fn stored(&self, sequence: u64) -> Option<&Stored> {
        self.messages.get(usize::try_from(sequence).ok()?.checked_sub(1)?)
    }

    fn incoming(&self, name: &'static str, sequence: u64, times: u64) -> Option<Incoming> {
        let stored = self.stored(sequence)?;
        Some(Incoming { message: stored.message.clone(), stream: name, sequence, times })
    }
}

impl Shelf for Stream {
    fn epoch(&self) -> u64 {
        self.epoch
    }

    fn first_sequence(&self) -> u64 {
        1
    }

    fn last_sequence(&self) -> u64 {
        self.messages.len() as u64
    }

    fn max_age_secs(&self) -> i64 {
        7 * 86_400
    }

    fn made_at(&self) -> Timestamp {
        self.made_at
    }

    fn at(&self, sequence: u64) -> Option<Place> {
        let stored = self.stored(sequence)?;
        Some(Place { mark: Mark { id: stored.message.id, sequence }, stored_at: stored.at })
    }
}
