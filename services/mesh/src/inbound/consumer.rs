//! Consumes events: from a durable pull consumer into the intake.

use std::{
    collections::HashMap,
    future::pending,
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::{
    header::NATS_MESSAGE_ID,
    jetstream::{self, AckKind, Message, consumer::PullConsumer},
};
use bytes::Bytes;
use events::{Envelope, EventId, SagaId};
use futures::{FutureExt, StreamExt};
use sha2::{Digest, Sha256};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use uuid::Uuid;

use crate::{
    Caller, Link,
    batch::unreadable::Unreadable,
    batch::work::{Delivery, Entry, Handler, Meta, Settle, Underway, Work},
    clock,
    deadline::{Late, within},
    health::{Health, Part},
    inbound::intake::Intake,
    nats::link::BROKER,
    outbound::message::unpack,
    service::{Consumed, Pace},
    supervise::TaskError,
    throttle::Throttle,
    trace::TraceParent,
};

/// How long one pull stays open.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
/// How often the broker sends a heartbeat while there are no messages.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long the broker may take to deliver the available messages of a fetch.
const FETCH_EXPIRES: Duration = Duration::from_secs(2);
/// How long the broker may be silent during a fetch, until the request counts as lost.
const FETCH_TIMEOUT: Duration = Duration::from_secs(3);
/// The same once a shutdown has begun: the messages already delivered are on their way.
const LAST_TIMEOUT: Duration = Duration::from_millis(300);
/// How long it may take to look up a consumer, or to send a pull request.
const BROKER_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause before a consumer that the broker does not have is looked up again.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// How soon after a connection it is known which server it is to.
const KNOWN_AFTER: Duration = Duration::from_millis(100);
/// Maximum number of messages in one pull.
const PULL_MESSAGES_MAX: usize = 200;
/// How long messages gather for a service whose results fans watch.
const MOMENT: Duration = Duration::from_millis(50);
/// How long messages gather for a background service …
const PAUSE: Duration = Duration::from_millis(500);
/// … and how long while there are more than one fetch takes.
const SHORT_PAUSE: Duration = Duration::from_millis(10);
/// Maximum number of messages in one fetch of such a service.
const FETCH_MESSAGES_MAX: usize = 128;

/// The header of a message that JetStream has read out of a stream for a client.
const COPIED_FROM: &str = "Nats-Stream";

/// How each event of a service is decoded.
pub(crate) type Table = HashMap<&'static str, Consumed>;

/// Why a consumer task ended before the shutdown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConsumerError {
    /// The broker does not have the consumer.
    #[error("consumer {service} of stream {stream}: {source}; `onsale topology apply` makes it")]
    NotFound { service: String, stream: String, source: jetstream::stream::ConsumerError },
    /// The broker does not deliver messages.
    #[error("stream {stream}: {source}")]
    NotDelivered { stream: String, source: async_nats::Error },
    /// The broker has not answered in time.
    #[error("stream {stream}: {source}")]
    Late { stream: String, source: Late },
}

impl TaskError for ConsumerError {
    fn is_reported(&self) -> bool {
        matches!(self, Self::Late { .. })
    }
}

/// What one consumer task works with.
pub(crate) struct Consumer {
    pub(crate) link: Link,
    /// The stream it reads.
    pub(crate) stream: String,
    pub(crate) consumed: Arc<Table>,
    /// How soon messages are taken in.
    pub(crate) pace: Pace,
    pub(crate) intake: Intake,
    pub(crate) health: Health,
}

impl Consumer {
    /// Consumes until shutdown. A consumer that is gone from the broker is looked for until it is
    /// there again; any other failure ends the task, and the supervisor restarts it.
    pub(crate) async fn run(&self, shutdown: CancellationToken) -> Result<(), ConsumerError> {
        let mut is_said = false;
        loop {
            let ended = match self.pace {
                Pace::Later => self.fetch_at_intervals(&shutdown).await,
                Pace::Soon | Pace::AtOnce => self.pull_continuously(&shutdown).await,
            };
            let Err(cause) = ended else { return Ok(()) };
            self.health.set_fault(Part::Consumer(self.stream.clone()), &cause);
            if !matches!(cause, ConsumerError::NotFound { .. }) {
                return Err(cause);
            }
            if !std::mem::replace(&mut is_said, true) {
                error!(service = self.link.service(), %cause, "events cannot be consumed");
            }
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                () = tokio::time::sleep(LOOK_AGAIN) => {}
            }
        }
    }

    fn begun(&self) {
        self.health.clear_fault(&Part::Consumer(self.stream.clone()));
        info!(service = self.link.service(), stream = self.stream, "consuming events");
    }

    /// Fetches what is there, pauses, and fetches what has come meanwhile. During the pause,
    /// messages wait in the stream.
    async fn fetch_at_intervals(&self, shutdown: &CancellationToken) -> Result<(), ConsumerError> {
        let consumer = tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            consumer = self.look_up() => consumer?,
        };
        self.begun();
        let mut throttle = Throttle::default();
        loop {
            self.until_store_is_usable(shutdown).await;
            if shutdown.is_cancelled() {
                return Ok(());
            }
            let began = Instant::now();
            let taken = self.take_fetched(&consumer, shutdown).await?;
            let pause = if taken < FETCH_MESSAGES_MAX { PAUSE } else { SHORT_PAUSE };
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = throttle.pause(pause, began.elapsed()) => {}
            }
        }
    }

    /// Waits until the store can be used. Messages pulled before that would be kept from other
    /// instances.
    async fn until_store_is_usable(&self, shutdown: &CancellationToken) {
        let mut serving = self.health.serving();
        tokio::select! {
            () = shutdown.cancelled() => {}
            _ = serving.wait_for(|serving| *serving == Some(true)) => {}
        }
    }

    /// Takes in the messages of one fetch and waits until all are done; returns their number.
    /// Messages that were already delivered are taken in although a shutdown has begun:
    /// otherwise another instance would get them only when `ack_wait` is over.
    async fn take_fetched(
        &self,
        consumer: &PullConsumer,
        shutdown: &CancellationToken,
    ) -> Result<usize, ConsumerError> {
        let (fetched, ended) = self.fetch(consumer, shutdown).await;
        let (underway, done) = Underway::begin();
        let taken = fetched.len();
        for message in fetched {
            self.take(message, Some(underway.clone())).await;
        }
        drop(underway);
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = done.wait() => {}
        }
        ended.map(|()| taken)
    }

    /// The messages that the broker delivers now, and whether it completed the fetch. A request
    /// that was lost with its connection is never answered.
    async fn fetch(
        &self,
        consumer: &PullConsumer,
        shutdown: &CancellationToken,
    ) -> (Vec<Message>, Result<(), ConsumerError>) {
        let fetch = consumer.fetch().max_messages(FETCH_MESSAGES_MAX).expires(FETCH_EXPIRES);
        let mut taken = Vec::new();
        let mut fetched = match within(BROKER_TIMEOUT, BROKER, fetch.messages()).await {
            Ok(Ok(fetched)) => fetched,
            Ok(Err(error)) => return (taken, Err(self.not_delivered(error))),
            Err(late) => return (taken, Err(self.late(late))),
        };
        loop {
            let is_stopping = shutdown.is_cancelled();
            let limit = if is_stopping { LAST_TIMEOUT } else { FETCH_TIMEOUT };
            let next = tokio::select! {
                biased;
                next = within(limit, BROKER, fetched.next()) => next,
                () = shutdown.cancelled(), if !is_stopping => continue,
            };
            match next {
                Ok(Some(Ok(message))) => taken.push(message),
                Ok(Some(Err(error))) => return (taken, Err(self.not_delivered(error))),
                Ok(None) => return (taken, Ok(())),
                Err(_) if is_stopping => return (taken, Ok(())),
                Err(late) => return (taken, Err(self.late(late))),
            }
        }
    }

    /// Takes in each message as it comes. A pull that failed is replaced: its request may have
    /// been lost with a connection. Servers keep such requests in memory, so one is replaced at once
    /// when the connection is to another server: its silence would be noticed only after two
    /// heartbeats. With a broker of several nodes it may live on. What is sent to it in that
    /// moment comes again after `ack_wait`.
    async fn pull_continuously(&self, shutdown: &CancellationToken) -> Result<(), ConsumerError> {
        loop {
            self.until_store_is_usable(shutdown).await;
            let lost = self.until_lost();
            let mut messages = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Ok(()),
                messages = self.pull() => messages?,
            };
            self.begun();
            self.take_all(&mut messages, lost, shutdown).await;
            // Messages that were already delivered are finished here: otherwise another
            // instance would get them only when `ack_wait` is over.
            while let Some(Some(Ok(message))) = messages.next().now_or_never() {
                self.take(message, None).await;
            }
        }
    }

    /// Waits until a pull that is sent now may be lost: the connection is to another server.
    fn until_lost(&self) -> impl Future<Output = ()> + use<> {
        let link = self.link.clone();
        // Before the pull, so that no connection after it is missed.
        let (server, mut reconnects) = (link.server(), link.reconnects());
        async move {
            while reconnects.changed().await.is_ok() {
                tokio::time::sleep(KNOWN_AFTER).await;
                if link.server() != server {
                    return;
                }
            }
            pending().await
        }
    }

    /// Takes in messages until shutdown, until the store cannot be used, or until the pull
    /// fails or is `lost`. The broker sends a heartbeat every [`HEARTBEAT`], so its silence is
    /// noticed.
    async fn take_all(
        &self,
        messages: &mut jetstream::consumer::pull::Stream,
        lost: impl Future<Output = ()>,
        shutdown: &CancellationToken,
    ) {
        let mut lost = std::pin::pin!(lost);
        let mut serving = self.health.serving();
        loop {
            let message = tokio::select! {
                () = shutdown.cancelled() => return,
                () = &mut lost => return,
                _ = serving.wait_for(|serving| *serving == Some(false)) => return,
                message = messages.next() => message,
            };
            match message {
                Some(Ok(message)) => {
                    tokio::select! {
                        () = shutdown.cancelled() => return,
                        () = self.take(message, None) => {}
                    }
                }
                ended => {
                    let cause = ended.and_then(Result::err).map(|error| error.to_string());
                    let service = self.link.service();
                    warn!(service, stream = self.stream, cause, "the pull has ended");
                    return;
                }
            }
            if self.pace == Pace::Soon {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    () = tokio::time::sleep(MOMENT) => {}
                }
                while let Some(Some(Ok(message))) = messages.next().now_or_never() {
                    self.take(message, None).await;
                }
            }
        }
    }

    /// Looks up the durable consumer; an error when the broker does not have it.
    #[expect(clippy::disallowed_methods, reason = "it has a limit")]
    async fn look_up(&self) -> Result<PullConsumer, ConsumerError> {
        let service = self.link.service();
        let request = self.link.jetstream().get_consumer_from_stream(service, &self.stream);
        let found = within(BROKER_TIMEOUT, BROKER, request).await;
        found.map_err(|late| self.late(late))?.map_err(|source| {
            let (service, stream) = (service.to_owned(), self.stream.clone());
            ConsumerError::NotFound { service, stream, source }
        })
    }

    async fn pull(&self) -> Result<jetstream::consumer::pull::Stream, ConsumerError> {
        let consumer = self.look_up().await?;
        let pull = consumer.stream().max_messages_per_batch(PULL_MESSAGES_MAX);
        let pull = pull.expires(PULL_EXPIRES).heartbeat(HEARTBEAT).messages();
        let pull = within(BROKER_TIMEOUT, BROKER, pull).await;
        pull.map_err(|late| self.late(late))?.map_err(|error| self.not_delivered(error))
    }

    fn late(&self, source: Late) -> ConsumerError {
        ConsumerError::Late { stream: self.stream.clone(), source }
    }

    fn not_delivered(&self, source: impl Into<async_nats::Error>) -> ConsumerError {
        ConsumerError::NotDelivered { stream: self.stream.clone(), source: source.into() }
    }

    /// Splits a message into its events and puts it into the intake. A full intake holds the
    /// consumer back; a closed one means shutdown, and the message is redelivered.
    async fn take(&self, message: Message, underway: Option<Underway>) {
        // The acknowledgement goes to the message's reply subject. A message that JetStream did
        // not deliver is not from the stream, and could make this service publish anywhere.
        if message.info().is_err() {
            let (service, subject) = (self.link.service(), &message.subject);
            warn!(service, %subject, "dropped a message that JetStream did not deliver");
            return;
        }
        // JetStream also answers to whatever reply subject a request names: a client that may
        // read a stream can have a message copied into another one. The header names the
        // stream that the copy is from.
        if message.headers.as_ref().is_some_and(|map| map.get(COPIED_FROM).is_some()) {
            let (service, subject) = (self.link.service(), &message.subject);
            error!(service, %subject, "dropped a copy of a message of another stream");
            return delivery_of(message).ack_with(AckKind::Ack).await;
        }
        let entries = entries_of(&self.consumed, &message.subject, &message.payload);
        let settle = Settle::Ack(Box::new(delivery_of(message)));
        let _ = self.intake.send(Work { entries, settle, underway }).await;
    }
}

/// The events of a message; a body that is not a batch counts as one event that cannot be read.
pub(crate) fn entries_of(consumed: &Table, subject: &str, body: &Bytes) -> Vec<Entry> {
    match unpack(body) {
        Ok(events) => events.into_iter().map(|event| decode(consumed, subject, event, 1)).collect(),
        Err(cause) => vec![entry(Err(cause.into()), body.clone())],
    }
}

fn delivery_of(message: Message) -> Delivery {
    let (stream, sequence, delivered) = message.info().map_or_else(
        |_| (String::new(), 0, 1),
        |info| (info.stream.to_owned(), info.stream_sequence, info.delivered.max(1) as u64),
    );
    let id = message.headers.as_ref().and_then(|map| map.get(NATS_MESSAGE_ID));
    let id = id.and_then(|id| id.as_str().parse().ok());
    let id = id.unwrap_or_else(|| id_of_position(&stream, sequence));
    let subject = message.subject.clone();
    Delivery { message: Some(message), subject, id, stream, sequence, delivered }
}

/// An id for a message that came without one, derived from its position in its stream.
fn id_of_position(stream: &str, sequence: u64) -> Uuid {
    let digest = Sha256::digest(format!("{stream} {sequence}"));
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

/// Decodes an event by the table of events that the service consumes.
pub(crate) fn decode(consumed: &Table, subject: &str, event: Bytes, attempt: u64) -> Entry {
    let known = events::event_of_subject(subject).and_then(|name| consumed.get(name));
    let mut entry = match Envelope::decode(&event) {
        Err(error) => entry(Err(Unreadable::Envelope(error)), event.clone()),
        Ok(envelope) => {
            let mut entry = entry(handler_of(known, subject, &envelope), event.clone());
            entry.meta.event_id = Some(envelope.id);
            entry.meta.saga_id = envelope.sagaid;
            entry.meta.trace = TraceParent::from_header(envelope.traceparent.as_deref());
            entry
        }
    };
    entry.meta.attempt = attempt;
    if let Some(known) = known {
        entry.key_field = known.key;
        entry.meta.name = known.event;
        entry.meta.may_emit = known.emits;
    }
    entry
}

/// The handler of an event with its data, if the service consumes it.
fn handler_of(
    known: Option<&Consumed>,
    subject: &str,
    envelope: &Envelope<'_>,
) -> Result<Handler, Unreadable> {
    match known {
        None => Err(Unreadable::NotConsumed { subject: subject.to_owned() }),
        Some(&Consumed { event, version, .. }) if !is_version(subject, event, version) => {
            Err(Unreadable::OtherVersion { event, version })
        }
        Some(known) => (known.decode)(envelope.data.get().as_bytes()).map_err(Unreadable::Data),
    }
}

fn is_version(subject: &str, event: &str, version: u32) -> bool {
    let rest = subject.strip_prefix("onsale.").and_then(|rest| rest.strip_prefix(event));
    let found = rest.and_then(|rest| rest.strip_prefix(".v")?.split('.').next());
    found.and_then(|found| found.parse().ok()) == Some(version)
}

/// An event whose envelope was not read.
fn entry(handler: Result<Handler, Unreadable>, event: Bytes) -> Entry {
    let id = crate::clock::new_id();
    Entry {
        handler,
        meta: Meta {
            name: "unknown",
            may_emit: &[],
            event_id: Some(EventId(id)),
            id,
            saga_id: SagaId(id),
            caller: Caller::Mesh,
            idempotency: None,
            trace: TraceParent::default(),
            received: Instant::now(),
            received_at: clock::now(),
            attempt: 1,
        },
        raw: event,
        key_field: "",
        span: Default::default(),
        tracer: Default::default(),
    }
}
