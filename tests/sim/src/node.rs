//! One service in the simulation: a process that can die, its publisher and its consumer.

use std::collections::{BTreeMap, VecDeque};

use events::Timestamp;
use mesh::{
    engine::Mark,
    memory::{Shelf as _, When},
    message::Message,
};

use crate::{
    broker::Broker,
    faults::Luck,
    host::{EndpointSpec, Host},
};

/// How often the streams are checked while the connection stays up, in seconds.
const AGREE_EVERY_SECS: i64 = 15;

/// A service with its publisher, its consumer and its waiting commands.
pub struct Node {
    /// Its name, and that of its stream.
    pub name: &'static str,
    /// The service.
    pub host: Box<dyn Host>,
    /// Commands that wait for the next batch.
    pub waiting: VecDeque<EndpointSpec>,
    /// Messages that were handed to the publisher in memory.
    pub handed: VecDeque<Message>,
    /// The marks of acknowledged messages, each with its connection.
    acknowledged: Vec<(Mark, u64)>,
    /// Messages that are stuck in the client and go out with the next connection.
    pub stuck: Vec<Message>,
    /// The connection that outbox and stream were compared on.
    verified: Option<u64>,
    in_doubt: bool,
    /// The highest messages acknowledged since they were last recorded.
    reached: BTreeMap<&'static str, [Mark; 2]>,
    /// The connection that consumers and streams were compared on, and when.
    agreed: Option<(u64, Timestamp)>,
    /// When each of its tasks is due next.
    pub next: Next,
    /// Until when it is paused.
    pub paused_until: Timestamp,
    /// Until when the broker cannot be reached.
    pub cut_until: Timestamp,
}

/// When each task is due next.
#[derive(Debug, Clone, Copy)]
pub struct Next {
    /// Marks are written.
    pub mark: Timestamp,
    /// Messages without a mark are swept.
    pub sweep: Timestamp,
    /// Parked events are retried.
    pub retry: Timestamp,
    /// Outbox and stream are compared.
    pub verify: Timestamp,
    /// What was taken in is recorded, and compared with the streams.
    pub agree: Timestamp,
    /// Timers run.
    pub timer: Timestamp,
}

impl Node {
    /// A service that was just started.
    pub fn new(name: &'static str, host: Box<dyn Host>, now: Timestamp) -> Self {
        let next = Next { mark: now, sweep: now, retry: now, verify: now, agree: now, timer: now };
        Self {
            name,
            host,
            waiting: VecDeque::new(),
            handed: VecDeque::new(),
            acknowledged: Vec::new(),
            stuck: Vec::new(),
            verified: None,
            in_doubt: false,
            reached: BTreeMap::new(),
            agreed: None,
            next,
            paused_until: now,
            cut_until: now,
        }
    }

    /// The process dies: what was in its memory is gone. It is restarted at once.
    pub fn die(&mut self) {
        self.host.restart();
        self.waiting.clear();
        self.handed.clear();
        self.acknowledged.clear();
        self.stuck.clear();
        self.reached.clear();
        (self.verified, self.in_doubt, self.agreed) = (None, false, None);
    }

    /// Publishes one message; `luck` decides the outcome.
    pub fn send(&mut self, broker: &mut Broker, message: Message, luck: Luck, now: Timestamp) {
        let epoch = broker.epoch();
        match luck {
            Luck::Lost => self.in_doubt = true,
            Luck::Stuck => {
                self.in_doubt = true;
                self.stuck.push(message);
            }
            Luck::Unacknowledged => {
                broker.publish(self.name, message, now);
                self.in_doubt = true;
            }
            Luck::Good => {
                let id = message.id;
                let ack = broker.publish(self.name, message, now);
                let there = broker
                    .stream(self.name)
                    .and_then(|all| all.at(ack.sequence))
                    .map(|place| place.mark.id);
                if ack.is_duplicate && there != Some(id) {
                    self.in_doubt = true;
                    return;
                }
                self.acknowledged.push((Mark { id, sequence: ack.sequence }, epoch));
            }
        }
    }

    /// Writes the marks that were acknowledged on this connection.
    pub fn write_marks(&mut self, broker: &Broker) {
        let epoch = broker.epoch();
        let marks: Vec<Mark> = self
            .acknowledged
            .drain(..)
            .filter(|(_, of)| *of == epoch)
            .map(|(mark, _)| mark)
            .collect();
        if !marks.is_empty() {
            self.host.mark(&marks);
        }
    }

    /// Compares outbox and stream.
    pub fn verify(&mut self, broker: &Broker) {
        if self.host.verify(broker) {
            self.verified = Some(broker.epoch());
            self.in_doubt = false;
        }
    }

    /// Whether outbox and stream must be compared at once.
    pub fn must_verify(&self, broker: &Broker) -> bool {
        self.in_doubt || self.verified != Some(broker.epoch())
    }

    /// Notes that a message was taken in.
    pub fn note_reached(&mut self, stream: &'static str, mark: Mark) {
        let [_, highest] = self.reached.entry(stream).or_insert([mark; 2]);
        if highest.sequence < mark.sequence {
            *highest = mark;
        }
    }

    /// Records what was taken in, and compares the streams with it when that is due.
    pub fn agree(&mut self, broker: &mut Broker, now: Timestamp) {
        for (stream, [first, highest]) in std::mem::take(&mut self.reached) {
            self.host.note_reached(stream, first);
            self.host.note_reached(stream, highest);
        }
        let epoch = broker.epoch();
        let is_fresh =
            |(of, at): (u64, Timestamp)| of == epoch && now < at.plus_secs(AGREE_EVERY_SECS);
        if !self.agreed.is_some_and(is_fresh) {
            let when = match self.agreed {
                None => When::First,
                Some((of, _)) if of != epoch => When::Connected,
                Some(_) => When::Again,
            };
            let streams = broker.consumed_by(self.name);
            let compared = streams.into_iter().all(|stream| self.host.agree(broker, stream, when));
            if compared {
                self.agreed = Some((epoch, now));
            }
        }
    }

    /// Whether nothing is left to do here.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.handed.is_empty() && self.host.unpublished() == 0
    }
}
