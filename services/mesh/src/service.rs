//! A service as a table: what it hears, what it answers, what it does in time.

use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use events::{Command, Event, Problem, Timestamp};

use crate::{
    Allow, Idempotency, QueryContext, Read, engine::Engine, engine::Failure, input::parse,
    repeat::Key, work::Meta,
};

pub(crate) type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A service: its name and the tables of what it does.
///
/// Each entry declares the facts that may follow from it. Proofs and diagrams are made
/// from these declarations, and a handler that tells anything else fails.
pub struct Service<E: Engine> {
    pub(crate) name: &'static str,
    pub(crate) consumed: BTreeMap<&'static str, Consumed<E>>,
    pub(crate) asked: BTreeMap<&'static str, Asked<E>>,
    pub(crate) timers: Vec<Timer<E>>,
    pub(crate) followed: Option<Followed<E>>,
    pub(crate) haste: Haste,
}

/// How soon a service takes in what it consumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Haste {
    /// Each message as it comes: somebody waits for what follows.
    AtOnce,
    /// The first one as it comes, and then what has gathered in a moment: somebody watches.
    Soon,
    /// What has gathered in a while, and less of it while the machine is busy: nobody waits.
    Later,
}

/// How one fact is taken in.
pub(crate) struct Consumed<E: Engine> {
    pub(crate) event: &'static str,
    pub(crate) version: u32,
    /// The field that names what it depends on.
    pub(crate) key: &'static str,
    pub(crate) emits: &'static [&'static str],
    pub(crate) decode: fn(&[u8]) -> Result<E::Handler, String>,
}

/// How one endpoint is answered.
pub(crate) struct Asked<E: Engine> {
    pub(crate) endpoint: &'static str,
    pub(crate) allow: Allow,
    pub(crate) status: u16,
    pub(crate) emits: &'static [&'static str],
    pub(crate) how: How<E>,
}

/// By whom an endpoint is answered.
pub(crate) enum How<E: Engine> {
    /// In a batch, on the book.
    Decided(DecodeFn<E>),
    /// At once, by a function of its own.
    Read(Arc<ReadFn<E>>),
}

/// A command that was read, and what its key stands for.
pub(crate) struct Asking<D> {
    pub(crate) handler: D,
    pub(crate) idempotency: Option<Idempotency>,
}

impl<D> Asking<D> {
    /// Reads a command's body; `deed` makes of it what is decided.
    pub(crate) fn read<C: Command>(
        body: &[u8],
        key: Option<&Key>,
        handler: fn(C) -> D,
    ) -> Result<Self, Problem> {
        let command: C = parse(body)?;
        let idempotency = key.map(|key| key.of(&command));
        Ok(Self { handler: handler(command), idempotency })
    }
}

pub(crate) type DecodeFn<E> =
    fn(&[u8], Option<&Key>) -> Result<Asking<<E as Engine>::Handler>, Problem>;

pub(crate) type ReadFn<E> = dyn Fn(QueryContext<E>, Bytes, Option<Key>, Meta) -> BoxFuture<Result<Bytes, Problem>>
    + Send
    + Sync;

/// What comes due by itself.
pub(crate) struct Timer<E: Engine> {
    pub(crate) name: &'static str,
    pub(crate) every: Duration,
    pub(crate) emits: &'static [&'static str],
    pub(crate) due: Arc<DueFn<E>>,
}

pub(crate) type DueFn<E> = dyn Fn(Arc<E>, Timestamp) -> BoxFuture<Result<Vec<<E as Engine>::Handler>, Failure>>
    + Send
    + Sync;

/// Whose facts are read as whole streams, and what is done with them.
pub(crate) struct Followed<E: Engine> {
    pub(crate) events: &'static [&'static str],
    /// Facts of one stream that are read before they are taken in, about.
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
    /// Each fact it hears, with the facts that may follow.
    pub consumes: Vec<(&'static str, &'static [&'static str])>,
    /// Each endpoint it answers, with the facts that may follow.
    pub answers: Vec<(&'static str, &'static [&'static str])>,
    /// Each timer, with the facts that may follow.
    pub timers: Vec<(&'static str, &'static [&'static str])>,
    /// Each fact it reads in whole streams.
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
            haste: Haste::AtOnce,
        }
    }

    /// Lets messages gather for a moment: for a service that fans watch and do not wait for.
    pub fn soon(mut self) -> Self {
        self.haste = Haste::Soon;
        self
    }

    /// Lets messages gather for a while, and for longer while the machine is busy: for a
    /// service that nobody waits for. What it costs the others falls with the number of its
    /// batches.
    pub fn later(mut self) -> Self {
        self.haste = Haste::Later;
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

    /// Answers `C` outside any batch: reads, and work that must not hold a transaction
    /// (hashing a password). To change anything it hands a command to [`Desk::decide`].
    pub fn reads<C, F, R>(mut self, allow: Allow, read: F) -> Self
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
        self.add(Asked { endpoint: C::ENDPOINT, allow, status: C::STATUS, emits: &[], how });
        self
    }

    /// Takes over what another service handles and decides, for an engine of the same deeds.
    #[cfg(feature = "sim")]
    pub(crate) fn take_over<F: Engine<Handler = E::Handler>>(&mut self, other: Service<F>) {
        self.consumed.extend(other.consumed.into_iter().map(|(event, consumed)| {
            let Consumed { event: name, version, key, emits, decode } = consumed;
            (event, Consumed { event: name, version, key, emits, decode })
        }));
        self.asked.extend(other.asked.into_iter().filter_map(|(endpoint, asked)| {
            let Asked { endpoint: name, allow, status, emits, how } = asked;
            let How::Decided(decode) = how else { return None };
            Some((
                endpoint,
                Asked { endpoint: name, allow, status, emits, how: How::Decided(decode) },
            ))
        }));
    }

    /// Whether it tells any fact at all.
    pub(crate) fn emits(&self) -> bool {
        let consumed = self.consumed.values().map(|consumed| consumed.emits);
        let asked = self.asked.values().map(|asked| asked.emits);
        let timers = self.timers.iter().map(|timer| timer.emits);
        consumed.chain(asked).chain(timers).any(|emits| !emits.is_empty())
    }

    /// Whether nobody waits for what it makes of the events it consumes.
    pub(crate) fn only_listens(&self) -> bool {
        self.haste == Haste::Later || !self.emits()
    }

    pub(crate) fn add(&mut self, asked: Asked<E>) {
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
        assert!(before.is_none(), "a fact is heard once");
    }
}
