//! A service of any kind: its process on its store.

use std::{collections::BTreeSet, rc::Rc};

use events::{EventId, Timestamp, UserId};
use mesh::{
    Service,
    engine::Mark,
    memory::{Database, DecodedCommand, InMemory, Incoming, Process, Taken, When},
    message::Message,
    parked::Parked,
    postgres::Postgres,
};
use uuid::Uuid;

use crate::{broker::Broker, people::Wish};

/// At most this many messages are swept at a time.
const SWEEP_MAX: usize = 64;
/// The operator who retries dead letters.
const OPERATOR: UserId = UserId(Uuid::from_u128(0x0b));

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

/// Which events this version of the services cannot handle.
pub type Poison = Rc<dyn Fn(EventId) -> bool>;

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
    fn take(&self, incoming: &[Incoming], asked: &[EndpointSpec]) -> Taken;
    /// The commands of its timers that are due.
    fn due(&self, now: Timestamp) -> Vec<Wish>;
    /// Retries parked events that are due.
    fn retry(&self) -> Taken;
    /// Retries dead letters, as an operator does.
    fn retry_dead(&self) -> Taken;
    /// Leases messages that have no mark and no lease.
    fn sweep(&self) -> Vec<Message>;
    /// Marks messages as published.
    fn mark(&self, marks: &[Mark]);
    /// How many events are not published.
    fn unpublished(&self) -> u64;
    /// Compares outbox and stream; whether that came to an end.
    fn verify(&self, broker: &Broker) -> bool;
    /// Compares a stream with what was taken in from it, and sets the consumer back when it is
    /// another stream; whether that came to an end.
    fn agree(&self, broker: &mut Broker, stream: &'static str, when: When) -> bool;
    /// Records the highest message that was taken in.
    fn note_reached(&self, stream: &str, mark: Mark);
    /// Events that are parked.
    fn parked(&self) -> Vec<Parked>;
    /// The order keys that parked events hold.
    fn held_keys(&self) -> BTreeSet<String>;
    /// The events of a message, each with its order key.
    fn keys_of(&self, incoming: &Incoming) -> Vec<(EventId, String)>;
    /// Lets the process die before the effect after so many more.
    fn die_after(&self, effects: u32);
    /// One effect of the process outside its store; `false` when it is dead.
    fn spend(&self) -> bool;
    /// Whether the process is dead.
    fn is_dead(&self) -> bool;
    /// Replaces the process by a new one.
    fn restart(&mut self);
}

/// A service on its store.
pub struct On<B: InMemory> {
    name: &'static str,
    plan: Plan<B>,
    store: Database<B>,
    process: Process<B>,
    poison: Poison,
}

impl<B: InMemory> On<B> {
    /// A service that was just started on a store.
    pub fn new(name: &'static str, plan: Plan<B>, store: Database<B>, poison: Poison) -> Self {
        let process = start(&plan, &store, &poison);
        Self { name, plan, store, process, poison }
    }
}

fn start<B: InMemory>(plan: &Plan<B>, store: &Database<B>, poison: &Poison) -> Process<B> {
    let mut process = Process::start((plan.service)(), store.clone(), (plan.config)());
    let poison = poison.clone();
    process.poison(move |event| poison(event));
    process
}

impl<B: InMemory> Host for On<B> {
    fn take(&self, incoming: &[Incoming], asked: &[EndpointSpec]) -> Taken {
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

    fn retry(&self) -> Taken {
        self.process.retry_due()
    }

    fn retry_dead(&self) -> Taken {
        self.process.retry_dead(OPERATOR)
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

    fn agree(&self, broker: &mut Broker, stream: &'static str, when: When) -> bool {
        let agreed =
            broker.with_consumer(stream, self.name, |own| self.process.agree(stream, own, when));
        match agreed {
            None => true,
            Some(Ok(None)) => true,
            Some(Ok(Some(from))) => {
                broker.reset(stream, self.name, from);
                true
            }
            Some(Err(_)) => false,
        }
    }

    fn note_reached(&self, stream: &str, mark: Mark) {
        // A process that has died here records nothing.
        let _ = self.process.note_reached(stream, mark);
    }

    fn parked(&self) -> Vec<Parked> {
        self.process.parked()
    }

    fn held_keys(&self) -> BTreeSet<String> {
        self.process.held_keys()
    }

    fn keys_of(&self, incoming: &Incoming) -> Vec<(EventId, String)> {
        self.process.keys_of(incoming)
    }

    fn die_after(&self, effects: u32) {
        self.store.die_after(effects);
    }

    fn spend(&self) -> bool {
        self.store.spend().is_ok()
    }

    fn is_dead(&self) -> bool {
        self.store.is_dead()
    }

    fn restart(&mut self) {
        self.store.revive();
        self.process = start(&self.plan, &self.store, &self.poison);
    }
}
