//! One service in the simulation: a process that can die, its store, and its publisher.

use std::collections::VecDeque;

use events::Timestamp;
use mesh::{
    Service,
    engine::{Failure, Mark},
    memory::{Database, DecodedCommand, InMemory, Incoming, Process, Shelf as _, Taken},
    message::Message,
    parked::Parked,
    postgres::Postgres,
};

use crate::{
    broker::Broker,
    faults::{Luck, Mutation},
    people::Wish,
};

/// At most this many messages are swept at a time.
const SWEEP_MAX: usize = 64;

/// A command that was sent to a service.
pub struct EndpointSpec {
    /// The command.
    pub wish: Wish,
    /// The caller, the idempotency key and the id.
    pub asking: DecodedCommand,
    /// The fan who waits for the answer; `None` for a service's own timers.
    pub person: Option<usize>,
    /// When it was sent.
    pub at: Timestamp,
}

/// Turns a command into work; nothing when it belongs to another service.
pub type Work<B> = fn(&Process<B>, &Wish, DecodedCommand) -> Option<mesh::Work>;

/// What a service is made of.
pub struct Plan<B: InMemory> {
    /// The table of its handlers.
    pub service: fn() -> Service<Postgres<B>>,
    /// Its configuration.
    pub config: fn() -> B::Config,
    /// Turns a command into work.
    pub work: Work<B>,
    /// The commands that are due in its tables.
    pub due: fn(&B::Tables, Timestamp) -> Vec<Wish>,
}

/// A running service, whatever its unit of work.
pub trait Host {
    /// Takes in messages and commands as one batch.
    fn take(&self, incoming: &[Incoming], asked: &[EndpointSpec]) -> Result<Taken, Failure>;
    /// The commands of its timers that are due.
    fn due(&self, now: Timestamp) -> Vec<Wish>;
    /// Retries parked events.
    fn retry(&self) -> Result<Vec<Message>, Failure>;
    /// Leases messages that have no mark and no lease.
    fn sweep(&self) -> Vec<Message>;
    /// Marks messages as published.
    fn mark(&self, marks: &[Mark]);
    /// How many events are not published.
    fn unpublished(&self) -> u64;
    /// Compares outbox and stream.
    fn verify(&self, broker: &Broker) -> bool;
    /// Events that are parked.
    fn parked(&self) -> Vec<Parked>;
    /// Makes the next batch die before its commit.
    fn die_before_commit(&self);
    /// Replaces the process by a new one.
    fn restart(&mut self);
}

/// A service on its store.
pub struct On<B: InMemory> {
    name: &'static str,
    plan: Plan<B>,
    store: Database<B>,
    process: Process<B>,
}

impl<B: InMemory> On<B> {
    /// A service that was just started on a store.
    pub fn new(name: &'static str, plan: Plan<B>, store: Database<B>) -> Self {
        let process = Process::start((plan.service)(), store.clone(), (plan.config)());
        Self { name, plan, store, process }
    }
}

impl<B: InMemory> Host for On<B> {
    fn take(&self, incoming: &[Incoming], asked: &[EndpointSpec]) -> Result<Taken, Failure> {
        let mut batch: Vec<_> =
            incoming.iter().map(|incoming| self.process.message(incoming)).collect();
        for EndpointSpec { wish, asking, .. } in asked {
            let work = (self.plan.work)(&self.process, wish, asking.clone());
            batch.extend(work);
        }
        self.process.take(batch)
    }

    fn due(&self, now: Timestamp) -> Vec<Wish> {
        self.process.look(|tables| (self.plan.due)(tables, now))
    }

    fn retry(&self) -> Result<Vec<Message>, Failure> {
        self.process.retry_due()
    }

    fn sweep(&self) -> Vec<Message> {
        self.process.sweep(SWEEP_MAX)
    }

    fn mark(&self, marks: &[Mark]) {
        self.process.mark(marks);
    }

    fn unpublished(&self) -> u64 {
        self.process.backlog().events
    }

    fn verify(&self, broker: &Broker) -> bool {
        broker.stream(self.name).is_some_and(|stream| self.process.verify(stream).is_ok())
    }

    fn parked(&self) -> Vec<Parked> {
        self.process.parked()
    }

    fn die_before_commit(&self) {
        self.process.die_before_commit();
    }

    fn restart(&mut self) {
        let Plan { service, config, .. } = &self.plan;
        self.process = Process::start(service(), self.store.clone(), config());
    }
}

/// A service with its publisher and its waiting commands.
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
    /// Timers run.
    pub timer: Timestamp,
}

impl Node {
    /// A service that was just started.
    pub fn new(name: &'static str, host: Box<dyn Host>, now: Timestamp) -> Self {
        let next = Next { mark: now, sweep: now, retry: now, verify: now, timer: now };
        Self {
            name,
            host,
            waiting: VecDeque::new(),
            handed: VecDeque::new(),
            acknowledged: Vec::new(),
            stuck: Vec::new(),
            verified: None,
            in_doubt: false,
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
        (self.verified, self.in_doubt) = (None, false);
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
                let there = broker.stream(self.name).and_then(|all| all.id_at(ack.sequence));
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

    /// Compares outbox and stream when that is due.
    pub fn verify(&mut self, broker: &Broker, mutation: Option<Mutation>) {
        if mutation != Some(Mutation::RollBackUnnoticed) && self.host.verify(broker) {
            self.verified = Some(broker.epoch());
            self.in_doubt = false;
        }
    }

    /// Whether outbox and stream must be compared at once.
    pub fn must_verify(&self, broker: &Broker) -> bool {
        self.in_doubt || self.verified != Some(broker.epoch())
    }

    /// Whether nothing is left to do here.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.handed.is_empty() && self.host.unpublished() == 0
    }
}
