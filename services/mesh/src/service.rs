//! A service as a table: the events it consumes, the endpoints it answers, its timers.

pub(crate) mod caller;
pub(crate) mod context;
mod measured;
mod on_postgres;
mod on_valkey;
pub mod page;
pub(crate) mod query_context;
pub(crate) mod unit_of_work;

use std::{
    collections::{BTreeMap, BTreeSet},
    future::Future,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use events::{Command, Event, Problem, Timestamp};

pub(crate) use measured::Measured;

use crate::{
    Allow, Idempotency, QueryContext, Read,
    batch::work::{Handler, Meta},
    inbound::input::parse,
    inbound::repeat::Key,
    service::query_context::AnyQueryContext,
    store::engine::{Engine, Failure},
};

pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A service: its name, and what it declares of its events, endpoints and timers.
///
/// Each entry declares the events that may follow from it. Proofs and diagrams are made
/// from these declarations, and a handler that emits any other event fails.
pub struct Service<E: Engine> {
    pub(crate) declared: Declared,
    /// The engine that its handlers and queries are written for.
    engine: PhantomData<fn() -> E>,
}

/// What a service has declared, for the runtime: the same type for every service.
pub(crate) struct Declared {
    pub(crate) name: &'static str,
    pub(crate) consumed: BTreeMap<&'static str, Consumed>,
    pub(crate) endpoints: BTreeMap<&'static str, EndpointSpec>,
    pub(crate) timers: Vec<Timer>,
    pub(crate) followed: Option<Followed>,
    pub(crate) pace: Pace,
    pub(crate) measured: Measured,
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
pub(crate) struct Consumed {
    pub(crate) event: &'static str,
    pub(crate) version: u32,
    /// The field that holds its order key.
    pub(crate) key: &'static str,
    pub(crate) emits: &'static [&'static str],
    pub(crate) decode: fn(&[u8]) -> Result<Handler, serde_json::Error>,
}

/// How one endpoint is answered.
pub(crate) struct EndpointSpec {
    pub(crate) endpoint: &'static str,
    pub(crate) allow: Allow,
    pub(crate) status: u16,
    pub(crate) emits: &'static [&'static str],
    pub(crate) how: How,
}

/// Where an endpoint is answered.
pub(crate) enum How {
    /// In a batch, on the unit of work.
    Decided(DecodeFn),
    /// Outside any batch, at once, by a function of its own.
    Read(Arc<ReadFn>),
}

/// A decoded command with its handler, and its idempotency key.
pub(crate) struct DecodedCommand {
    pub(crate) handler: Handler,
    pub(crate) idempotency: Option<Idempotency>,
}

impl DecodedCommand {
    /// Decodes a command's body; `handler` makes its handler.
    pub(crate) fn read<C: Command>(
        body: &[u8],
        key: Option<&Key>,
        handler: fn(C) -> Handler,
    ) -> Result<Self, Problem> {
        let command: C = parse(body)?;
        let idempotency = key.map(|key| key.of(&command));
        Ok(Self { handler: handler(command), idempotency })
    }
}

pub(crate) type DecodeFn = fn(&[u8], Option<&Key>) -> Result<DecodedCommand, Problem>;

/// The reply as JSON, or a problem.
type Answer = BoxFuture<Result<Bytes, Problem>>;

pub(crate) type ReadFn = dyn Fn(AnyQueryContext, Bytes, Option<Key>, Meta) -> Answer + Send + Sync;

/// A timer: finds work that has come due, at an interval.
pub(crate) struct Timer {
    pub(crate) name: &'static str,
    pub(crate) every: Duration,
    pub(crate) emits: &'static [&'static str],
    pub(crate) due: Arc<DueFn>,
}

/// The work that has come due.
type DueWork = BoxFuture<Result<Vec<Handler>, Failure>>;

pub(crate) type DueFn = dyn Fn(Arc<dyn Engine>, Timestamp) -> DueWork + Send + Sync;

/// Events that are read as whole streams, and what is done with them.
pub(crate) struct Followed {
    pub(crate) events: &'static [&'static str],
    /// About how many events of one stream are read before they are taken in.
    pub(crate) piece: usize,
    pub(crate) take: Arc<TakeFn>,
}

pub(crate) type TakeFn =
    dyn Fn(AnyQueryContext, Arc<Read>) -> BoxFuture<Result<(), Failure>> + Send + Sync;

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

impl Wiring {
    /// The events that may follow from anything it does; an event may come more than once.
    pub fn emits(&self) -> impl Iterator<Item = &'static str> {
        let entries = self.consumes.iter().chain(&self.answers).chain(&self.timers);
        entries.flat_map(|(_, emits)| emits.iter().copied())
    }

    /// The services whose streams it has consumers of.
    pub fn consumed_streams(&self) -> BTreeSet<&'static str> {
        self.consumes.iter().map(|(event, _)| events::producer_of(event)).collect()
    }

    /// The services whose streams it reads by position.
    pub fn read_streams(&self) -> BTreeSet<&'static str> {
        self.follows.iter().map(|event| events::producer_of(event)).collect()
    }
}

impl<E: Engine> Service<E> {
    /// A service that does nothing yet.
    pub fn new(name: &'static str) -> Self {
        Self {
            declared: Declared {
                name,
                consumed: BTreeMap::new(),
                endpoints: BTreeMap::new(),
                timers: Vec::new(),
                followed: None,
                pace: Pace::AtOnce,
                measured: Measured::default(),
            },
            engine: PhantomData,
        }
    }

    /// Lets messages gather for a moment: for a service whose results fans watch without
    /// waiting for them.
    pub fn soon(mut self) -> Self {
        self.declared.pace = Pace::Soon;
        self
    }

    /// Runs in the background: messages gather for a while, and for longer while the machine
    /// is busy. What the service costs the others falls with the number of its batches.
    pub fn later(mut self) -> Self {
        self.declared.pace = Pace::Later;
        self
    }

    /// What this service declares of itself.
    pub fn wiring(&self) -> Wiring {
        self.declared.wiring()
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
        let how = How::Read(Arc::new(move |context, body: Bytes, key: Option<Key>, mut meta| {
            let read = read.clone();
            Box::pin(async move {
                let command = parse::<C>(&body)?;
                meta.idempotency = key.map(|key| key.of(&command));
                let reply = read(QueryContext::of(context), command, meta).await?;
                Ok(serde_json::to_vec(&reply).expect("replies are plain data").into())
            })
        }));
        let (endpoint, status) = (C::ENDPOINT, C::STATUS);
        self.declared.add(EndpointSpec { endpoint, allow, status, emits: &[], how });
        self
    }

    /// Only what is decided in batches, for an engine with the same handlers and no database to
    /// query.
    #[cfg(feature = "sim")]
    pub(crate) fn decided_only<F: Engine>(mut self) -> Service<F> {
        self.declared.endpoints.retain(|_, spec| matches!(spec.how, How::Decided(_)));
        self.declared.timers.clear();
        self.declared.followed = None;
        Service { declared: self.declared, engine: PhantomData }
    }
}

impl Declared {
    pub(crate) fn wiring(&self) -> Wiring {
        Wiring {
            service: self.name,
            consumes: self
                .consumed
                .values()
                .map(|consumed| (consumed.event, consumed.emits))
                .collect(),
            answers: self.endpoints.values().map(|spec| (spec.endpoint, spec.emits)).collect(),
            timers: self.timers.iter().map(|timer| (timer.name, timer.emits)).collect(),
            follows: self.followed.iter().flat_map(|followed| followed.events).copied().collect(),
        }
    }

    /// Whether it emits any event.
    pub(crate) fn emits(&self) -> bool {
        self.wiring().emits().next().is_some()
    }

    /// Whether it is a listener: no other service or fan waits for what it does with events.
    pub(crate) fn only_listens(&self) -> bool {
        self.pace == Pace::Later || !self.emits()
    }

    pub(crate) fn add(&mut self, spec: EndpointSpec) {
        let before = self.endpoints.insert(spec.endpoint, spec);
        assert!(before.is_none(), "an endpoint is answered once");
    }

    pub(crate) fn listen<F: Event>(
        &mut self,
        key: &'static str,
        emits: &'static [&'static str],
        decode: fn(&[u8]) -> Result<Handler, serde_json::Error>,
    ) {
        let consumed = Consumed { event: F::NAME, version: F::VERSION, key, emits, decode };
        let before = self.consumed.insert(F::NAME, consumed);
        assert!(before.is_none(), "an event is consumed once");
    }
}
