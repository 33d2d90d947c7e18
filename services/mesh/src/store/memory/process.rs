//! A service as the simulation runs it: handlers, an engine in memory, and no broker.
//!
//! Nothing in memory ever waits, so asynchronous functions are plain calls here.

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
};

use bytes::Bytes;
use events::{Command, EventId, SagaId, UserId};
use futures::FutureExt as _;
use uuid::Uuid;

use super::{
    Database, InMemory, Memory,
    shelf::{Own, OwnConsumer, Read, Shelf},
};
use crate::{
    Answered, Caller, Execute, Idempotency, Meta, Outcome, Service, Work,
    batch::handler::{of_command, panicking},
    batch::work::{Delivery, Entry, Settle},
    batch::worker::DELIVERIES_ALONE,
    inbound::agreement::check::{self, When},
    inbound::consumer::{Table, decode, entries_of},
    outbound::message::Message,
    outbound::publisher::verify,
    parked::{
        Parked, ParkedState,
        key::NONE,
        retry::{DUE_MAX, LEASE, verdict_on_early},
    },
    service::EndpointSpec,
    store::engine::{
        Backlog, Care, Engine as _, Failure, Mark, Outbox as _, Parking as _, Ran, Retried, Show,
        Store as _, Verdict, Which,
    },
    store::postgres::Postgres,
};

/// A message as a stream delivers it.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// The message.
    pub message: Message,
    /// The stream it comes from.
    pub stream: &'static str,
    /// Its sequence there.
    pub sequence: u64,
    /// How often it has been delivered, this time included.
    pub times: u64,
}

/// The caller of a command, and how it is called.
#[derive(Debug, Clone)]
pub struct DecodedCommand {
    /// The caller.
    pub caller: Caller,
    /// Its idempotency key.
    pub idempotency: Option<Idempotency>,
    /// The id offered for what the command creates.
    pub id: Uuid,
}

/// The result of a batch.
#[derive(Debug, Default)]
pub struct Taken {
    /// Messages to be published.
    pub emitted: Vec<Message>,
    /// The answers to commands, in order; `None` where what a command depends on is not here yet.
    pub answers: Vec<Option<Answered>>,
    /// The store was lost: what is not in here took no effect, as far as the process knows.
    pub lost: Option<Failure>,
}

/// A running service.
pub struct Process<B: InMemory> {
    engine: Memory<B>,
    consumed: Table,
    endpoints: BTreeMap<&'static str, EndpointSpec>,
    poison: Option<Poison>,
}

/// Which events the handlers cannot handle.
type Poison = Box<dyn Fn(EventId) -> bool>;

impl<B: InMemory> Process<B> {
    /// Starts the service on its database.
    pub fn start(service: Service<Postgres<B>>, database: Database<B>, config: B::Config) -> Self {
        let service = service.in_memory().declared;
        let consumed = service.consumed.into_iter().collect();
        let engine = Memory::new(database, config);
        Self { engine, consumed, endpoints: service.endpoints, poison: None }
    }

    /// Lets the handlers panic on some events, after they have changed the unit of work, as a
    /// version with a mistake would.
    pub fn poison(&mut self, is_poison: impl Fn(EventId) -> bool + 'static) {
        self.poison = Some(Box::new(is_poison));
    }

    /// The order keys that parked events hold.
    pub fn held_keys(&self) -> BTreeSet<String> {
        let holding = self.parked().into_iter().filter(|parked| parked.state.holds_key());
        holding.map(|parked| parked.key).filter(|key| key != NONE).collect()
    }

    /// The events of a message, each with its order key.
    pub fn keys_of(&self, incoming: &Incoming) -> Vec<(EventId, String)> {
        let Incoming { message, .. } = incoming;
        let entries = entries_of(&self.consumed, &message.subject, &message.body);
        let key = |entry: Entry| Some((entry.meta.event_id?, entry.key()));
        entries.into_iter().filter_map(key).collect()
    }

    fn poisoned(&self, mut entry: Entry) -> Entry {
        let is_poison = self.poison.as_ref().zip(entry.meta.event_id);
        if is_poison.is_some_and(|(is_poison, id)| is_poison(id)) {
            entry.handler = entry.handler.map(panicking::<B>);
        }
        entry
    }

    /// Reads the tables as last committed.
    pub fn look<T>(&self, look: impl FnOnce(&B::Tables) -> T) -> T {
        now(self.engine.database().look(look))
    }

    /// The work of a message.
    pub fn message(&self, incoming: &Incoming) -> Work {
        let Incoming { message, stream, sequence, times } = incoming;
        let entries = entries_of(&self.consumed, &message.subject, &message.body);
        let entries = entries.into_iter().map(|entry| self.poisoned(entry)).collect();
        let delivery = Delivery {
            message: None,
            subject: message.subject.as_str().into(),
            id: message.id,
            stream: (*stream).into(),
            sequence: *sequence,
            delivered: *times,
        };
        Work { entries, settle: Settle::Ack(Box::new(delivery)), underway: None }
    }

    /// The work of a command, from a client or from the service itself.
    pub fn command<C: Command>(&self, command: C, asking: DecodedCommand) -> Work
    where
        B: Execute<C>,
    {
        let spec = self.endpoints.get(C::ENDPOINT);
        let DecodedCommand { caller, idempotency, id } = asking;
        let mut meta = Meta::inside(SagaId(id));
        (meta.id, meta.caller, meta.idempotency) = (id, caller, idempotency);
        if let Some(spec) = spec {
            (meta.name, meta.may_emit) = (spec.endpoint, spec.emits);
        }
        Work::command(of_command::<B, C>(command), meta, Settle::Nobody)
    }

    /// Runs a batch as a batch worker does: as a whole and, when that fails, work by work.
    pub fn take(&self, batch: Vec<Work>) -> Taken {
        let is_often = |work: &Work| {
            work.delivery().is_some_and(|delivery| delivery.delivered >= DELIVERIES_ALONE)
        };
        let (mut alone, mut together): (Vec<_>, Vec<_>) = batch.into_iter().partition(is_often);
        let mut taken = Taken::default();
        for work in alone.drain(..) {
            taken.add(self.take_alone(work));
        }
        if taken.lost.is_some() {
            return taken;
        }
        match now(self.engine.run(&mut together, Care::Together)) {
            Err(failure) if !failure.is_lost() => {
                for work in together {
                    taken.add(self.take_alone(work));
                }
            }
            ended => taken.add(ended),
        }
        taken
    }

    fn take_alone(&self, work: Work) -> Result<Ran, Failure> {
        let mut work = [work];
        let mut last = Failure::Refused(String::new());
        for care in [Care::Alone, Care::AloneFinal, Care::ParkUnrun] {
            match now(self.engine.run(&mut work, care)) {
                Err(refused @ (Failure::Refused(_) | Failure::Duplicate(_))) => last = refused,
                ended => return ended,
            }
        }
        Err(last)
    }

    /// Retries the parked events that have come due, and those that are stranded.
    pub fn retry_due(&self) -> Taken {
        let mut taken = Taken::default();
        for which in [Which::Missed(DUE_MAX), Which::Due(DUE_MAX)] {
            self.retry_all(which, None, &mut taken);
        }
        taken
    }

    /// Retries the dead letters that hold their keys, and those without a key, as an operator
    /// does.
    pub fn retry_dead(&self, by: UserId) -> Taken {
        let mut taken = Taken::default();
        let dead = self.parked().into_iter().filter(|parked| parked.state == ParkedState::Dead);
        for parked in dead {
            let which = match parked.key.as_str() {
                NONE => Which::Number(parked.number),
                _ => Which::First(parked.key),
            };
            self.retry_all(which, Some(by), &mut taken);
        }
        taken
    }

    fn retry_all(&self, which: Which, by: Option<UserId>, taken: &mut Taken) {
        if taken.lost.is_some() {
            return;
        }
        match now(self.engine.lease(which, LEASE)) {
            Err(lost) => taken.lost = Some(lost),
            Ok(leased) => {
                for parked in leased {
                    taken.add(self.retry(&parked, by));
                }
            }
        }
    }

    fn retry(&self, parked: &Parked, by: Option<UserId>) -> Result<Ran, Failure> {
        let event: Bytes = parked.envelope.clone();
        let entry = decode(&self.consumed, &parked.subject, event, parked.attempts);
        let mut entry = self.poisoned(entry);
        let verdict = match now(self.engine.retry(parked, &mut entry, by))? {
            Retried::Gone => return Ok(Ran::default()),
            Retried::Done(ran) => return Ok(ran),
            Retried::Early(cause) => verdict_on_early(parked, &cause, by),
            Retried::Failed(cause) => Verdict::Dead { cause, by },
        };
        now(self.engine.settle(parked.number, verdict))?;
        Ok(Ran::default())
    }

    /// The parked events that are still open.
    pub fn parked(&self) -> Vec<Parked> {
        now(self.engine.parked(Show::All(false, usize::MAX))).unwrap_or_default()
    }

    /// Takes messages without a mark and without a running lease from the outbox.
    pub fn sweep(&self, most: usize) -> Vec<Message> {
        now(self.engine.sweep(most)).unwrap_or_default()
    }

    /// Marks messages as published.
    pub fn mark(&self, marks: &[Mark]) {
        let _ = now(async { self.engine.mark(marks, self.engine.generation().await?).await });
    }

    /// The messages that are not published yet.
    pub fn backlog(&self) -> Backlog {
        now(self.engine.backlog()).unwrap_or_default()
    }

    /// Compares outbox and stream, as the publisher does; returns how many messages were lost.
    ///
    /// # Errors
    /// When the stream could not be read, or changed during the comparison.
    pub fn verify(&self, stream: &impl Shelf) -> Result<usize, Failure> {
        now(async {
            let of = self.engine.begin_generation().await?;
            // A simulated service has one instance.
            let lost = verify::run(&self.engine, &Read(stream), of, Uuid::nil()).await?;
            lost.ok_or_else(|| Failure::Unavailable("a later generation has begun".into()))
        })
    }

    /// Records a message that was taken in.
    ///
    /// # Errors
    /// When the store was lost.
    pub fn note_reached(&self, stream: &str, mark: Mark) -> Result<(), Failure> {
        now(self.engine.note_reached(stream, mark))
    }

    /// Checks that a stream is the one that this service has consumed; returns the sequence that
    /// its consumer must go on from, when it stands elsewhere.
    ///
    /// # Errors
    /// When the store was lost.
    pub fn agree<S: Shelf>(
        &self,
        name: &str,
        own: &OwnConsumer<'_, S>,
        when: When,
    ) -> Result<Option<u64>, Failure> {
        let own = Own::new(own);
        now(check::run(&own, &self.engine, name, when))?;
        Ok(own.reset())
    }
}

impl Taken {
    fn add(&mut self, ran: Result<Ran, Failure>) {
        let ran = match ran {
            Ok(ran) => ran,
            Err(lost) => {
                self.lost = self.lost.take().or(Some(lost));
                return;
            }
        };
        self.emitted.extend(ran.emitted);
        self.answers.extend(ran.outcomes.into_iter().map(|outcome| match outcome {
            Outcome::Done(answered) => Some(answered),
            Outcome::Repeat | Outcome::Never(_) => Some(Answered::default()),
            Outcome::NotYet(_) => None,
        }));
    }
}

/// The result of a future that never waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("nothing in memory waits")
}
