//! One service in the simulation: a process that can die, what it keeps, and its publisher.

use std::collections::VecDeque;

use events::Timestamp;
use mesh::{
    Answered, Service,
    engine::{Failure, Mark},
    memory::{Asking, InMemory, Incoming, Process, Shelf as _, Store, Taken, UnitHandler},
    message::Message,
    parked::Parked,
    postgres::Postgres,
};

use crate::{broker::Broker, faults::Mutation, people::Wish};

/// Messages swept at a time.
const SWEEP_MAX: usize = 64;

/// Something that was asked of a service.
pub struct Asked {
    /// What.
    pub wish: Wish,
    /// By whom, and how.
    pub asking: Asking,
    /// Who waits for the answer; `None` for a service's own timers.
    pub person: Option<usize>,
    /// When.
    pub at: Timestamp,
}

/// Makes work of what is asked; nothing when that is another service's.
pub type Work<B> = fn(&Process<B>, &Wish, Asking) -> Option<mesh::Work<UnitHandler<B>>>;

/// What a service is made of.
pub struct Plan<B: InMemory> {
    /// The table of its handlers.
    pub service: fn() -> Service<Postgres<B>>,
    /// Its rules.
    pub config: fn() -> B::Config,
    /// Makes work of what is asked.
    pub work: Work<B>,
    /// What its timers find.
    pub due: fn(&B::Tables, Timestamp) -> Vec<Wish>,
}

/// A service that runs, whatever its book.
pub trait Host {
    /// Takes in messages and commands as one batch.
    fn take(&self, incoming: &[Incoming], asked: &[Asked]) -> Result<Taken, Failure>;
    /// What has come due by itself.
    fn due(&self, now: Timestamp) -> Vec<Wish>;
    /// Tries parked events.
    fn retry(&self) -> Result<Vec<Message>, Failure>;
    /// What has no mark and no owner.
    fn sweep(&self) -> Vec<Message>;
    /// Marks messages as published.
    fn mark(&self, marks: &[Mark]);
    /// Events that are not published.
    fn unpublished(&self) -> u64;
    /// Compares outbox and stream.
    fn verify(&self, broker: &Broker) -> bool;
    /// Events that are parked.
    fn parked(&self) -> Vec<Parked>;
    /// The next batch dies before its commit.
    fn die_before_commit(&self);
    /// The process is another now.
    fn restart(&mut self);
}

/// A service on its store.
pub struct On<B: InMemory> {
    name: &'static str,
    plan: Plan<B>,
    store: Store<B>,
    process: Process<B>,
}

impl<B: InMemory> On<B> {
    /// A service, just started on a store.
    pub fn new(name: &'static str, plan: Plan<B>, store: Store<B>) -> Self {
        let process = Process::start((plan.service)(), store.clone(), (plan.config)());
        Self { name, plan, store, process }
    }
}

impl<B: InMemory> Host for On<B> {
    fn take(&self, incoming: &[Incoming], asked: &[Asked]) -> Result<Taken, Failure> {
        let mut batch: Vec<_> =
            incoming.iter().map(|incoming| self.process.message(incoming)).collect();
        for Asked { wish, asking, .. } in asked {
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

/// A service with its publisher and what waits for it.
pub struct Node {
    /// Its name, and that of its stream.
    pub name: &'static str,
    /// The service.
    pub host: Box<dyn Host>,
    /// What is asked of it.
    pub waiting: VecDeque<Asked>,
    /// Messages that were handed over in memory.
    pub handed: VecDeque<Message>,
    /// What was acknowledged, with the connection.
    acknowledged: Vec<(Mark, u64)>,
    /// Messages that sit in the client and go out with the next connection.
    pub stuck: Vec<Message>,
    /// The connection that outbox and stream were compared on.
    verified: Option<u64>,
    in_doubt: bool,
    /// When each of its tasks comes next.
    pub next: Next,
    /// Until when it does not move.
    pub paused_until: Timestamp,
    /// Until when the broker cannot be reached.
    pub cut_until: Timestamp,
}

/// When a task comes next.
#[derive(Debug, Clone, Copy)]
pub struct Next {
    /// Marks are written.
    pub mark: Timestamp,
    /// What has no mark is looked for.
    pub sweep: Timestamp,
    /// Parked events are tried.
    pub retry: Timestamp,
    /// Outbox and stream are compared.
    pub verify: Timestamp,
    /// Timers look.
    pub timer: Timestamp,
}

impl Node {
    /// A service that has just been started.
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

    /// The process dies: what is in its memory is gone. It is started again at once.
    pub fn die(&mut self) {
        self.host.restart();
        self.waiting.clear();
        self.handed.clear();
        self.acknowledged.clear();
        self.stuck.clear();
        (self.verified, self.in_doubt) = (None, false);
    }

    /// Sends one message; `luck` says what becomes of it.
    pub fn send(&mut self, broker: &mut Broker, message: Message, luck: Luck, now: Timestamp) {
        let epoch = broker.epoch();
        match luck {
            Luck::Lost => self.in_doubt = true,
            Luck::Stuck => {
                self.in_doubt = true;
                self.stuck.push(message);
            }
            Luck::Unconsumed => {
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

    /// Whether there is reason to compare at once.
    pub fn must_verify(&self, broker: &Broker) -> bool {
        self.in_doubt || self.verified != Some(broker.epoch())
    }

    /// Whether nothing is left to be done here.
    pub fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.handed.is_empty() && self.host.unpublished() == 0
    }
}

/// What becomes of a publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Luck {
    /// It is stored, and that is heard.
    Good,
    /// It is stored, and nobody hears so.
    Unconsumed,
    /// It is not stored.
    Lost,
    /// It sits in the client, and is stored much later.
    Stuck,
}

/// An answer as a person reads it.
pub fn is_granted(answered: &Answered) -> bool {
    answered.is_granted() && !answered.body.is_empty()
}
