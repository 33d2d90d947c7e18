//! One service's connection to the mesh. Every operation over it has a timeout, set here.

#![expect(clippy::disallowed_methods, reason = "this is where they get their timeouts")]

mod sending;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_nats::{
    Client, ClientError, ConnectOptions, Event,
    jetstream::{self, response::Response},
};
use serde::de::DeserializeOwned;
use serde_json::json;
use tokio::sync::watch;
use tracing::{debug, info, warn};

use super::{
    error::{BrokerError, ConnectError},
    problem::away,
};
use crate::{auth::Verifier, deadline::within, metrics::Metrics, trace::Tracer};

/// Timeout of one of our own requests over NATS.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long JetStream may take to acknowledge a single publish before its outcome is unknown.
const ACK_TIMEOUT: Duration = Duration::from_secs(2);
/// Maximum number of messages queued in this process for the connection.
const CLIENT_CAPACITY: usize = 16_384;
/// How long the connection may take to accept a message. Its queue is full when the broker has
/// not read for a while.
pub(crate) const SEND_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the broker is pinged; after two pings without an answer the client reconnects.
const PING_EVERY: Duration = Duration::from_secs(5);
/// How long one attempt to connect may take …
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// … and the only attempt of a client that does not wait for the broker.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the last messages may take to go out at a shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// The broker, as a timeout names it.
pub(crate) const BROKER: &str = "the broker";

/// Our own header names, for commands and for copies of dead letters.
pub(crate) mod headers {
    /// The id a caller proposes for what its command creates; see `own_id`.
    pub(crate) const ID: &str = "onsale-id";
    /// The HTTP status of an answer.
    pub(crate) const STATUS: &str = "onsale-status";
    /// The caller's deadline for the answer, in Unix milliseconds.
    pub(crate) const DEADLINE: &str = "onsale-deadline";
    /// `Bearer <access token>`.
    pub(crate) const AUTHORIZATION: &str = "authorization";
    /// The caller's idempotency key.
    pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";
    /// The number of commands in the body, when it is a bundle.
    pub(crate) const BUNDLE: &str = "onsale-bundle";
    /// Why the event could not be handled.
    pub(crate) const DEAD_CAUSE: &str = "onsale-dead-cause";
    /// The subject of its message.
    pub(crate) const DEAD_SUBJECT: &str = "onsale-dead-subject";
    /// The stream of its message.
    pub(crate) const DEAD_STREAM: &str = "onsale-dead-stream";
    /// The sequence of its message there.
    pub(crate) const DEAD_SEQUENCE: &str = "onsale-dead-sequence";
    /// The id of the dead letter.
    pub(crate) const DEAD_LETTER: &str = "onsale-dead-letter";
}

/// How to connect to the mesh, and as which user.
#[derive(Debug, Clone)]
pub struct LinkSettings {
    /// The service: its NATS user, its stream, its span names.
    pub service: &'static str,
    /// `nats://host:port`, several separated by commas.
    pub nats_url: String,
    /// The seed of the service's NATS user; `None` where the broker asks for none.
    pub nkey_seed: Option<String>,
}

/// A service's connection to the mesh; cheap to clone.
#[derive(Clone)]
pub struct Link(Arc<Inner>);

struct Inner {
    service: &'static str,
    client: Client,
    /// The connection for answers. Its user may publish only to inboxes, because the caller names
    /// the reply subject; the user of `client` may publish events, but to no inbox. `None` where
    /// the broker has no such user.
    answers: Option<Client>,
    jetstream: jetstream::Context,
    verifier: Verifier,
    tracer: Tracer,
    /// Where it counts: the metrics of its process, or nowhere else.
    metrics: OnceLock<Metrics>,
    reconnects: watch::Receiver<u64>,
    /// How often in a row the broker has not reported its health, although it answers.
    unanswered: AtomicU32,
}

impl Link {
    /// Connects, waiting for the broker as long as it takes: for a client that sends requests
    /// and does not answer any.
    ///
    /// # Errors
    /// When the address or the seed is malformed, or the broker refuses the user.
    pub async fn connect(settings: LinkSettings, tracer: Tracer) -> Result<Self, ConnectError> {
        Self::open(settings, None, tracer, None).await
    }

    /// The same with a second connection, as the user for answers, by its seed. On a broker
    /// that requires no key, answers go over the first connection.
    ///
    /// # Errors
    /// As [`Link::connect`].
    pub async fn connect_to_answer(
        settings: LinkSettings,
        answers_seed: Option<String>,
        tracer: Tracer,
    ) -> Result<Self, ConnectError> {
        Self::open(settings, answers_seed, tracer, None).await
    }

    /// Connects to a broker that should be running.
    ///
    /// # Errors
    /// As [`Link::connect`], and when it cannot be reached.
    pub async fn connect_now(settings: LinkSettings, tracer: Tracer) -> Result<Self, ConnectError> {
        Self::open(settings, None, tracer, Some(CONNECT_TIMEOUT)).await
    }

    async fn open(
        settings: LinkSettings,
        answers_seed: Option<String>,
        tracer: Tracer,
        timeout: Option<Duration>,
    ) -> Result<Self, ConnectError> {
        let service = settings.service;
        let addresses = addresses(&settings.nats_url)?;
        let (counter, reconnects) = watch::channel(0);
        let count = move || counter.send_modify(|count| *count += 1);
        let own = options(service, service, settings.nkey_seed, count);
        let client = connect(service, addresses.clone(), own, timeout).await?;
        let answers = match answers_seed {
            None => None,
            Some(seed) => {
                let other = options(service, &format!("{service}-answers"), Some(seed), || {});
                Some(connect(service, addresses, other, timeout).await?)
            }
        };
        Ok(Self::of(service, client, answers, tracer, reconnects))
    }

    /// A link that never connects.
    #[cfg(feature = "testkit")]
    pub async fn unconnected(service: &'static str) -> Self {
        let options = ConnectOptions::new().retry_on_initial_connect();
        let nowhere = options.reconnect_delay_callback(|_| Duration::from_secs(3_600));
        let client = nowhere.connect("nats://127.0.0.1:9").await.expect("it is not even tried");
        Self::of(service, client, None, Tracer::off(), watch::channel(0).1)
    }

    fn of(
        service: &'static str,
        client: Client,
        answers: Option<Client>,
        tracer: Tracer,
        reconnects: watch::Receiver<u64>,
    ) -> Self {
        let jetstream = jetstream::ContextBuilder::new().timeout(ACK_TIMEOUT).build(client.clone());
        let requests = client.clone();
        let verifier = Verifier::new(Arc::new(move |endpoint| {
            let client = requests.clone();
            Box::pin(async move {
                let unread = "The keys that tokens are verified with cannot be read right now.";
                let request = client.request(format!("cmd.{endpoint}"), "{}".into());
                let reply = within(REQUEST_TIMEOUT, BROKER, request).await;
                let reply = reply.map_err(|late| away(unread, late))?;
                let reply = reply.map_err(|error| away(unread, error))?;
                serde_json::from_slice(&reply.payload).map_err(|error| away(unread, error))
            })
        }));
        let (metrics, unanswered) = (OnceLock::new(), AtomicU32::new(0));
        let inner = Inner {
            service,
            client,
            answers,
            jetstream,
            verifier,
            tracer,
            metrics,
            reconnects,
            unanswered,
        };
        Self(Arc::new(inner))
    }

    /// The service that this connection belongs to.
    pub fn service(&self) -> &'static str {
        self.0.service
    }

    /// Verifies tokens.
    pub fn verifier(&self) -> &Verifier {
        &self.0.verifier
    }

    /// The tracer of the service.
    pub fn tracer(&self) -> &Tracer {
        &self.0.tracer
    }

    /// What the service counts goes into these metrics of its process. To be called before the
    /// service is started; without it, nobody sees what it counts.
    pub fn count_in(&self, metrics: &Metrics) {
        let _ = self.0.metrics.set(metrics.clone());
    }

    /// Where the service counts.
    pub fn metrics(&self) -> &Metrics {
        self.0.metrics.get_or_init(Metrics::default)
    }

    /// Whether the service is connected to the broker right now.
    pub fn is_connected(&self) -> bool {
        is_connected(self.client())
    }

    /// Whether each of its connections is up right now.
    pub fn is_whole(&self) -> bool {
        [self.answers(), self.client()].into_iter().all(is_connected)
    }

    /// Sends what is queued and closes the connections. A broker that does not accept it delays
    /// this only for a moment.
    pub async fn drain(&self) {
        for client in self.0.answers.iter().chain([&self.0.client]) {
            let drained = async {
                if is_connected(client) {
                    client.flush().await?;
                }
                client.drain().await?;
                Ok::<(), async_nats::Error>(())
            };
            let drained = within(DRAIN_TIMEOUT, BROKER, drained).await;
            if let Err(error) = drained.unwrap_or_else(|late| Err(late.into())) {
                warn!(service = self.service(), error, "NATS connection not drained");
            }
        }
    }

    /// The connection that answers are sent on.
    pub(crate) fn answers(&self) -> &Client {
        self.0.answers.as_ref().unwrap_or(&self.0.client)
    }

    pub(crate) fn client(&self) -> &Client {
        &self.0.client
    }

    pub(crate) fn jetstream(&self) -> &jetstream::Context {
        &self.0.jetstream
    }

    /// Changes with each (re)connection.
    pub(crate) fn reconnects(&self) -> watch::Receiver<u64> {
        let mut receiver = self.0.reconnects.clone();
        receiver.mark_unchanged();
        receiver
    }

    /// The identity of the server that it is connected to; a server that is started again has
    /// another one. It is known a moment after the connection.
    pub(crate) fn server(&self) -> String {
        self.client().server_info().server_id
    }

    /// Grows with each (re)connection: an acknowledgement of another epoch proves nothing in
    /// this one. It is counted before anything can be sent on the new connection.
    pub(crate) fn epoch(&self) -> u64 {
        self.client().statistics().connects.load(Ordering::SeqCst)
    }

    /// The state of the service's own stream.
    pub(crate) async fn stream_state(&self) -> Result<StreamState, BrokerError> {
        self.state_of(&stream_of(self.service())).await
    }

    /// The state of a stream.
    pub(crate) async fn state_of(&self, name: &str) -> Result<StreamState, BrokerError> {
        let (subject, what) = (format!("STREAM.INFO.{name}"), format!("stream {name}"));
        let info: jetstream::stream::Info = self.jetstream_request(subject, what).await?;
        Ok(StreamState {
            first_sequence: info.state.first_sequence,
            last_sequence: info.state.last_sequence,
            max_age_secs: i64::try_from(info.config.max_age.as_secs()).unwrap_or(i64::MAX),
            made_at: info.created,
            leader: info.cluster.and_then(|cluster| cluster.leader),
        })
    }

    /// The answer of JetStream's API to a request without a body, about `what`.
    pub(super) async fn jetstream_request<T: DeserializeOwned>(
        &self,
        subject: String,
        what: String,
    ) -> Result<T, BrokerError> {
        self.jetstream_request_with(subject, what, &json!({})).await
    }

    /// The same with a body.
    pub(super) async fn jetstream_request_with<T: DeserializeOwned>(
        &self,
        subject: String,
        what: String,
        body: &serde_json::Value,
    ) -> Result<T, BrokerError> {
        let answer = self.jetstream().request(subject, body);
        match within(REQUEST_TIMEOUT, BROKER, answer).await? {
            Ok(Response::Ok(answer)) => Ok(answer),
            Ok(Response::Err { error: source }) => Err(BrokerError::Refused { what, source }),
            Err(source) => Err(BrokerError::JetStream { what, source }),
        }
    }
}

/// The state of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StreamState {
    /// The sequence of its oldest message; one above the last when it is empty.
    pub(crate) first_sequence: u64,
    /// The sequence of the newest message it has ever had.
    pub(crate) last_sequence: u64,
    /// How many seconds it keeps messages; 0 for ever.
    pub(crate) max_age_secs: i64,
    /// When it was created; this survives a restore.
    pub(crate) made_at: time::OffsetDateTime,
    /// Its leader in a cluster.
    pub(crate) leader: Option<String>,
}

impl StreamState {
    /// Whether this state can follow from an earlier one without any loss.
    pub(crate) fn continues(&self, earlier: &Self) -> bool {
        self.made_at == earlier.made_at
            && self.leader == earlier.leader
            && self.last_sequence >= earlier.last_sequence
    }
}

fn is_connected(client: &Client) -> bool {
    client.connection_state() == async_nats::connection::State::Connected
}

/// The stream that stores a service's events.
pub(crate) fn stream_of(service: &str) -> String {
    service.to_uppercase().replace('-', "_")
}

/// The addresses of the broker's servers.
pub(crate) fn addresses(urls: &str) -> Result<Vec<async_nats::ServerAddr>, ConnectError> {
    let parsed = |url: &str| {
        let address = url.trim().parse();
        address.map_err(|source| ConnectError::Address { address: url.to_owned(), source })
    };
    urls.split(',').map(parsed).collect()
}

/// The options of a service's connection: its user, and what to do at each connect.
fn options(
    service: &'static str,
    user: &str,
    seed: Option<String>,
    at_connect: impl Fn() + Send + Sync + 'static,
) -> ConnectOptions {
    let user = user.to_owned();
    let options = ConnectOptions::new()
        .name(format!("onsale-{user}"))
        .custom_inbox_prefix(format!("_INBOX_{user}"))
        .client_capacity(CLIENT_CAPACITY)
        .request_timeout(Some(REQUEST_TIMEOUT))
        .ping_interval(PING_EVERY)
        .reconnect_delay_callback(|attempt| Duration::from_millis(50 * attempt.min(20) as u64))
        .event_callback(move |event| {
            match &event {
                Event::Connected => {
                    at_connect();
                    info!(service, user, "connected to NATS");
                }
                // The end of a connection that we end ourselves.
                Event::Draining | Event::Closed => {
                    debug!(service, user, event = %event, "NATS connection");
                }
                // The first connection of a service says it for both.
                Event::Disconnected if user != service => {
                    info!(service, user, "the connection to NATS is lost");
                }
                Event::Disconnected => warn!(service, user, "the connection to NATS is lost"),
                Event::ServerError(error) => {
                    warn!(service, user, %error, "NATS refuses something");
                }
                // Each attempt to connect again that fails; the lost connection was reported.
                Event::ClientError(ClientError::Other(_)) => {
                    debug!(service, user, event = %event, "NATS connection");
                }
                other => warn!(service, user, event = %other, "NATS connection"),
            }
            async {}
        });
    match seed {
        Some(seed) => options.nkey(seed),
        None => options,
    }
}

/// Connects. Without a timeout it waits for a broker that cannot be reached yet; a broker that
/// refuses the user is an error.
async fn connect(
    service: &str,
    addresses: Vec<async_nats::ServerAddr>,
    options: ConnectOptions,
    timeout: Option<Duration>,
) -> Result<Client, ConnectError> {
    let mut is_logged = false;
    loop {
        // The client ends each attempt by itself.
        let options = options.clone().connection_timeout(timeout.unwrap_or(ATTEMPT_TIMEOUT));
        match options.connect(addresses.clone()).await {
            Ok(client) => return Ok(client),
            Err(error) => {
                use async_nats::ConnectErrorKind::{Authentication, AuthorizationViolation};
                if matches!(error.kind(), Authentication | AuthorizationViolation) {
                    return Err(ConnectError::Refused { user: service.to_owned(), source: error });
                }
                if timeout.is_some() {
                    return Err(ConnectError::Away(error));
                }
                if !is_logged {
                    warn!(service, %error, "waiting for NATS");
                    is_logged = true;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}
