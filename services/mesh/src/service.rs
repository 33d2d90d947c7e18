//! A service as a table: the events it consumes, the endpoints it answers, its timers.

pub(crate) mod caller;
pub(crate) mod context;
mod on_postgres;
pub mod page;
pub(crate) mod query_context;
pub(crate) mod unit_of_work;

use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use events::{Command, Event, Problem, Timestamp};

use crate::{
    Allow, Idempotency, QueryContext, Read, batch::work::Meta, inbound::input::parse,
    inbound::repeat::Key, store::engine::Engine, store::engine::Failure,
};

pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A service: its name, and the tables of its events, endpoints and timers.
///
/// Each entry declares the events that may follow from it. Proofs and diagrams are made
/// from these declarations, and a handler that emits any other event fails.
pub struct Service<E: Engine> {
    pub(crate) name: &'static str,
    pub(crate) consumed: BTreeMap<&'static str, Consumed<E>>,
    pub(crate) asked: BTreeMap<&'static str, EndpointSpec<E>>,
    pub(crate) timers: Vec<Timer<E>>,
    pub(crate) followed: Option<Followed<E>>,
    pub(crate) haste: Pace,
}

/// How soon a service takes in what it consumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    /// Each message as it comes, because a fan waits for what follows.
    AtOnce,
    /// The first message as it comes, and then what has gathered in a moment, because fans
    /// watch the result but do not wait for it.
    Soon,
    /// In the background: what has gathered in a while, and less of it while the machine is
    /// busy.
    Later,
}

/// How one event is consumed.
pub(crate) struct Consumed<E: Engine> {
    pub(crate) event: &'static str,
    pub(crate) version: u32,
    /// The field that holds its order key.
    pub(crate) key: &'static str,
    pub(crate) emits: &'static [&'static str],
    pub(crate) decode: fn(&[u8]) -> Result<E::Handler, String>,
}

/// How one endpoint is answered.
pub(crate) struct EndpointSpec<E: Engine> {
    pub(crate) endpoint: &'static str,
    pub(crate) allow: Allow,
    pub(crate) status: u16,
    pub(crate) emits: &'static [&'static str],
    pub(crate) how: How<E>,
}

/// Where an endpoint is answered.
pub(crate) enum How<E: Engine> {
    /// In a batch, on the unit of work.
    Decided(DecodeFn<E>),
    /// Outside any batch, at once, by a function of its own.
    Read(Arc<ReadFn<E>>),
}

/// A decoded command with its handler, and its idempotency key.
pub(crate) struct DecodedCommand<H> {
    pub(crate) handler: H,
    pub(crate) idempotency: Option<Idempotency>,
}

impl<H> DecodedCommand<H> {
    /// Decodes a command's body; `handler` makes its handler.
    pub(crate) fn read<C: Command>(
        body: &[u8],
        key: Option<&Key>,
        handler: fn(C) -> H,
    ) -> Result<Self, Problem> {
        let command: C = parse(body)?;
        let idempotency = key.map(|key| key.of(&command));
        Ok(Self { handler: handler(command), idempotency })
    }
}

pub(crate) type DecodeFn<E> =
    fn(&[u8], Option<&Key>) -> Result<DecodedCommand<<E as Engine>::Handler>, Problem>;

/// The reply as JSON, or a problem.
type Answer = BoxFuture<Result<Bytes, Problem>>;

pub(crate) type ReadFn<E> =
    dyn Fn(QueryContext<E>, Bytes, Option<Key>, Meta) -> Answer + Send + Sync;

/// A timer: finds work that has come due, at an interval.
pub(crate) struct Timer<E: Engine> {
    pub(crate) name: &'static str,
    pub(crate) every: Duration,
    pub(crate) emits: &'static [&'static str],
    pub(crate) due: Arc<DueFn<E>>,
}

/// The work that has come due.
type DueWork<E> = BoxFuture<Result<Vec<<E as Engine>::Handler>, Failure>>;

pub(crate) type DueFn<E> = dyn Fn(Arc<E>, Timestamp) -> DueWork<E> + Send + Sync;

/// Events that are read as whole streams, and what is done with them.
pub(crate) struct Followed<E: Engine> {
    pub(crate) events: &'static [&'static str],
    /// About how many events of one stream are read before they are taken in.
    pub(crate) piece: usize,
    pub(crate) take: Arc<TakeFn<E>>,
}

pub(crate) type TakeFn<E> =
    dyn Fn(QueryContext<E>, Arc<Read>) -> BoxFuture<Result<(), Failure>> + Send + Sync;

/// What a service declares of itself, for proofs, topology and diagrams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wiring {
    /// The service.
    pub service: &'static str,
    /// Each event it consumes, with the events that may follow.
    pub consumes: Vec<(&'static str, &'static [&'static str])>,
    /// Each endpoint it answers, with the events that may follow.
    pub answers: Vec<(&'static str, &'static [&'static str])>,
    /// Each timer, with the events that may follow.
    pub timers: Vec<(&'static str, &'static [&'static str])>,
    /// Each event it reads in whole streams.
    pub follows: Vec<&'static str>,
}

impl<E: Engine> Service<E> {
    /// A service that does nothing yet.
    pub fn new(name: &'static str) -> Self {
        Self {
            name,
            consumed: BTreeMap::new(),
            asked: BTreeMap::new(),
            timers: Vec::new(),
            followed: None,
            haste: Pace::AtOnce,
        }
    }

    /// Lets messages gather for a moment: for a service whose results fans watch without
    /// waiting for them.
    pub fn soon(mut self) -> Self {
        self.haste = Pace::Soon;
        self
    }

    /// Runs in the background: messages gather for a while, and for longer while the machine
    /// is busy. What the service costs the others falls with the number of its batches.
    pub fn later(mut self) -> Self {
        self.haste = Pace::Later;
        self
    }

    /// What this service declares of itself.
    pub fn wiring(&self) -> Wiring {
        Wiring {
            service: self.name,
            consumes: self
                .consumed
                .values()
                .map(|consumed| (consumed.event, consumed.emits))
                .collect(),
            answers: self.asked.values().map(|asked| (asked.endpoint, asked.emits)).collect(),
            timers: self.timers.iter().map(|timer| (timer.name, timer.emits)).collect(),
            follows: self.followed.iter().flat_map(|followed| followed.events).copied().collect(),
        }
    }

    /// Answers `C` outside any batch: queries, and work that must not hold a transaction
    /// (hashing a password). To change anything it submits a command with
    /// [`QueryContext::decide`].
    pub fn queries<C, F, R>(mut self, allow: Allow, read: F) -> Self
    where
        C: Command,
        F: Fn(QueryContext<E>, C, Meta) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Result<C::Reply, Problem>> + Send + 'static,
    {
        let how = How::Read(Arc::new(move |ctx, body: Bytes, key: Option<Key>, mut meta: Meta| {
            let read = read.clone();
            Box::pin(async move {
                let command = parse::<C>(&body)?;
                meta.idempotency = key.map(|key| key.of(&command));
                let reply = read(ctx, command, meta).await?;
                Ok(serde_json::to_vec(&reply).expect("replies are plain data").into())
            })
        }));
        self.add(EndpointSpec { endpoint: C::ENDPOINT, allow, status: C::STATUS, emits: &[], how });
        self
    }

    /// Takes over the events and commands of another service, for an engine with the same
    /// handlers.
    #[cfg(feature = "sim")]
    pub(crate) fn take_over<F: Engine<Handler = E::Handler>>(&mut self, other: Service<F>) {
        self.consumed.extend(other.consumed.into_iter().map(|(event, consumed)| {
            let Consumed { event: name, version, key, emits, decode } = consumed;
            (event, Consumed { event: name, version, key, emits, decode })
        }));
        self.asked.extend(other.asked.into_iter().filter_map(|(endpoint, asked)| {
            let EndpointSpec { endpoint: name, allow, status, emits, how } = asked;
            let How::Decided(decode) = how else { return None };
            Some((
                endpoint,
                EndpointSpec { endpoint: name, allow, status, emits, how: How::Decided(decode) },
            ))
        }));
    }

    /// Whether it emits any event.
    pub(crate) fn emits(&self) -> bool {
        let consumed = self.consumed.values().map(|consumed| consumed.emits);
        let asked = self.asked.values().map(|asked| asked.emits);
        let timers = self.timers.iter().map(|timer| timer.emits);
        consumed.chain(asked).chain(timers).any(|emits| !emits.is_empty())
    }

    /// Whether it is a listener: no other service or fan waits for what it does with events.
    pub(crate) fn only_listens(&self) -> bool {
        self.haste == Pace::Later || !self.emits()
    }

    pub(crate) fn add(&mut self, asked: EndpointSpec<E>) {
        let before = self.asked.insert(asked.endpoint, asked);
        assert!(before.is_none(), "an endpoint is answered once");
    }

    pub(crate) fn listen<F: Event>(
        &mut self,
        key: &'static str,
        emits: &'static [&'static str],
        decode: fn(&[u8]) -> Result<E::Handler, String>,
    ) {
        let consumed = Consumed { event: F::NAME, version: F::VERSION, key, emits, decode };
        let before = self.consumed.insert(F::NAME, consumed);
        assert!(before.is_none(), "an event is consumed once");
    }
}
