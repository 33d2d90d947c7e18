//! A service as the simulation runs it: handlers, an engine in memory, and no broker.
//!
//! Nothing in memory ever waits, so asynchronous functions are plain calls here.

use std::{
    collections::{BTreeMap, HashMap},
    future::Future,
};

use bytes::Bytes;
use events::{Command, SagaId, Timestamp};
use futures::FutureExt as _;
use uuid::Uuid;

use super::{Database, InMemory, Memory};
use crate::{
    Answered, Caller, Execute, Idempotency, Meta, Outcome, Service, Work,
    batch::handler::of_command,
    batch::work::{Delivery, Settle},
    batch::worker::DELIVERIES_ALONE,
    failpoint::Failpoint,
    inbound::consumer::{Table, decode, entries_of},
    nats::{error::BrokerError, link::StreamState},
    outbound::message::Message,
    outbound::publisher::verify,
    parked::{
        Parked,
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
}

/// A running service.
pub struct Process<B: InMemory> {
    engine: Memory<B>,
    consumed: Table,
    endpoints: BTreeMap<&'static str, EndpointSpec>,
}

impl<B: InMemory> Process<B> {
    /// Starts the service on its database.
    pub fn start(service: Service<Postgres<B>>, database: Database<B>, config: B::Config) -> Self {
        let service = service.in_memory().declared;
        let consumed = service.consumed.into_iter().collect();
        Self { engine: Memory::new(database, config), consumed, endpoints: service.endpoints }
    }

    /// Reads the tables as last committed.
    pub fn look<T>(&self, look: impl FnOnce(&B::Tables) -> T) -> T {
        now(self.engine.database().look(look))
    }

    /// Makes the next batch die before its commit.
    pub fn die_before_commit(&self) {
        self.engine.failpoints().arm(Failpoint::BeforeCommit, 1);
    }

    /// The work of a message.
    pub fn message(&self, incoming: &Incoming) -> Work {
        let Incoming { message, stream, sequence, times } = incoming;
        let entries = entries_of(&self.consumed, &message.subject, &message.body);
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
    ///
    /// # Errors
    /// When the store was lost: what ran then, and what has not run yet, took no effect.
    pub fn take(&self, batch: Vec<Work>) -> Result<Taken, Failure> {
        let is_often = |work: &Work| {
            work.delivery().is_some_and(|delivery| delivery.delivered >= DELIVERIES_ALONE)
        };
        let (alone, mut together): (Vec<_>, Vec<_>) = batch.into_iter().partition(is_often);
        let mut taken = Taken::default();
        for work in alone {
            taken.add(self.take_alone(work)?);
        }
        match now(self.engine.run(&mut together, Care::Together)) {
            Ok(ran) => taken.add(ran),
            Err(lost @ (Failure::Unavailable(_) | Failure::Uncertain(_))) => return Err(lost),
            Err(_) => {
                for work in together {
                    taken.add(self.take_alone(work)?);
                }
            }
        }
        Ok(taken)
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
    ///
    /// # Errors
    /// When the store was lost.
    pub fn retry_due(&self) -> Result<Vec<Message>, Failure> {
        let mut emitted = Vec::new();
        for which in [Which::Missed(DUE_MAX), Which::Due(DUE_MAX)] {
            for parked in now(self.engine.lease(which, LEASE))? {
                emitted.extend(self.retry(&parked)?);
            }
        }
        Ok(emitted)
    }

    fn retry(&self, parked: &Parked) -> Result<Vec<Message>, Failure> {
        let event: Bytes = parked.envelope.clone();
        let mut entry = decode(&self.consumed, &parked.subject, event, parked.attempts);
        let verdict = match now(self.engine.retry(parked, &mut entry, None))? {
            Retried::Gone => return Ok(Vec::new()),
            Retried::Done(ran) => return Ok(ran.emitted),
            Retried::Early(cause) => verdict_on_early(parked, &cause, None),
            Retried::Failed(cause) => Verdict::Dead { cause, by: None },
        };
        now(self.engine.settle(parked.number, verdict))?;
        Ok(Vec::new())
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
            verify::run(&self.engine, &Read(stream), of).await
        })
    }
}

impl Taken {
    fn add(&mut self, ran: Ran) {
        self.emitted.extend(ran.emitted);
        self.answers.extend(ran.outcomes.into_iter().map(|outcome| match outcome {
            Outcome::Done(answered) => Some(answered),
            Outcome::Repeat | Outcome::Never(_) => Some(Answered::default()),
            Outcome::NotYet(_) => None,
        }));
    }
}

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
    /// The id of the message at a sequence, if there is one.
    fn id_at(&self, sequence: u64) -> Option<Uuid>;
}

/// A simulated stream, as the publisher reads one.
struct Read<'a, S>(&'a S);

impl<S: Shelf> verify::Stream for Read<'_, S> {
    fn epoch(&self) -> u64 {
        self.0.epoch()
    }

    async fn state(&self) -> Result<StreamState, BrokerError> {
        Ok(StreamState {
            first_sequence: self.0.first_sequence(),
            last_sequence: self.0.last_sequence(),
            max_age_secs: self.0.max_age_secs(),
            made_at: self.0.made_at().0,
            leader: None,
        })
    }

    async fn id_at(&self, sequence: u64) -> Result<Option<Uuid>, BrokerError> {
        Ok(self.0.id_at(sequence))
    }

    async fn ids(&self, from: u64, to: u64) -> Result<HashMap<u64, Uuid>, BrokerError> {
        Ok((from..=to).filter_map(|at| Some((at, self.0.id_at(at)?))).collect())
    }
}

/// The result of a future that never waits.
fn now<T>(future: impl Future<Output = T>) -> T {
    future.now_or_never().expect("nothing in memory waits")
}
