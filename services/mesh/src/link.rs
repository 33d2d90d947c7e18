//! One service's connection to the mesh. Whatever goes over it has a limit, set here.

#![expect(clippy::disallowed_methods, reason = "this is where they get their limits")]

mod sending;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, ConnectOptions, Event, jetstream};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::{auth::Verifier, client::away, deadline::within, trace::Tracer};

/// How long one of our own requests over NATS may take.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long JetStream may take to acknowledge a single publish before it counts as unknown.
const ACK_TIMEOUT: Duration = Duration::from_secs(2);
/// Messages queued in this process for the connection at most.
const CLIENT_CAPACITY: usize = 16_384;
/// How long the connection may take to accept what is to be sent. It is full when the broker
/// has read nothing for a while.
pub(crate) const SEND_TIMEOUT: Duration = Duration::from_secs(1);
/// How often the broker is asked for a sign of life; after two that it does not give the
/// connection is made anew.
const PING_EVERY: Duration = Duration::from_secs(5);
/// How long one attempt to connect may take …
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
/// … and the only one of who does not wait for the broker.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// How long the last messages may take to go out at a shutdown.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(2);
/// Who is waited for, in words.
pub(crate) const BROKER: &str = "the broker";

/// Header names of our own, of commands and of copies of dead letters.
pub(crate) mod headers {
    /// The id a caller proposes for what its command makes; see `own_id`.
    pub(crate) const ID: &str = "onsale-id";
    /// The HTTP status of an answer.
    pub(crate) const STATUS: &str = "onsale-status";
    /// Unix milliseconds after which nobody waits for the answer any more.
    pub(crate) const DEADLINE: &str = "onsale-deadline";
    /// `Bearer <access token>`.
    pub(crate) const AUTHORIZATION: &str = "authorization";
    /// The caller's key for a command that may be repeated.
    pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";
    /// How many commands the body holds, when it is a bundle of them.
    pub(crate) const BUNDLE: &str = "onsale-bundle";
    /// Why a message could not be taken in.
    pub(crate) const DEAD_CAUSE: &str = "onsale-dead-cause";
    /// Its subject.
    pub(crate) const DEAD_SUBJECT: &str = "onsale-dead-subject";
    /// Its stream.
    pub(crate) const DEAD_STREAM: &str = "onsale-dead-stream";
    /// Its place there.
    pub(crate) const DEAD_SEQUENCE: &str = "onsale-dead-sequence";
    /// Its letter.
    pub(crate) const DEAD_LETTER: &str = "onsale-dead-letter";
}

/// How to reach the mesh, and as whom.
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
    /// What answers are sent on. Its user may publish to inboxes alone, because whoever asks
    /// says where the answer goes; the one above may publish events, and to no inbox. `None`
    /// where the broker has no such user.
    answers: Option<Client>,
    jetstream: jetstream::Context,
    verifier: Verifier,
    tracer: Tracer,
    reconnects: watch::Receiver<u64>,
    /// How often in a row the broker has not said how it is, though it answers.
    unanswered: AtomicU32,
}

impl Link {
    /// Connects, waiting for the broker as long as it takes: for who asks and answers nobody.
    ///
    /// # Errors
    /// When the address or the seed is malformed, or the broker turns the user away.
    pub async fn connect(settings: LinkSettings, tracer: Tracer) -> Result<Self, String> {
        Self::open(settings, None, tracer, None).await
    }

    /// The same with a second connection, as the user that answers, by its seed. A broker that
    /// asks nobody for a key is answered on the first.
    ///
    /// # Errors
    /// As [`Link::connect`].
    pub async fn connect_to_answer(
        settings: LinkSettings,
        answers_seed: Option<String>,
        tracer: Tracer,
    ) -> Result<Self, String> {
        Self::open(settings, answers_seed, tracer, None).await
    }

    /// Connects to a broker that should be there.
    ///
    /// # Errors
    /// As [`Link::connect`], and when it is not there.
    pub async fn connect_now(settings: LinkSettings, tracer: Tracer) -> Result<Self, String> {
        Self::open(settings, None, tracer, Some(CONNECT_TIMEOUT)).await
    }

    async fn open(
        settings: LinkSettings,
        answers_seed: Option<String>,
        tracer: Tracer,
        patience: Option<Duration>,
    ) -> Result<Self, String> {
        let service = settings.service;
        let addresses = addresses(&settings.nats_url)?;
        let (counter, reconnects) = watch::channel(0);
        let count = move || counter.send_modify(|count| *count += 1);
        let own = options(service, service, settings.nkey_seed, count);
        let client = connect(service, addresses.clone(), own, patience).await?;
        let answers = match answers_seed {
            None => None,
            Some(seed) => {
                let other = options(service, &format!("{service}-answers"), Some(seed), || {});
                Some(connect(service, addresses, other, patience).await?)
            }
        };
        Ok(Self::of(service, client, answers, tracer, reconnects))
    }

    /// A connection that is never made.
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
        let asking = client.clone();
        let verifier = Verifier::new(Arc::new(move |endpoint| {
            let client = asking.clone();
            Box::pin(async move {
                let unread = "The keys that tokens are verified with cannot be read right now.";
                let asked = client.request(format!("cmd.{endpoint}"), "{}".into());
                let reply = within(REQUEST_TIMEOUT, BROKER, asked).await;
                let reply = reply.map_err(|late| away(unread, late))?;
                let reply = reply.map_err(|error| away(unread, error))?;
                serde_json::from_slice(&reply.payload).map_err(|error| away(unread, error))
            })
        }));
        let unanswered = AtomicU32::new(0);
        let inner =
            Inner { service, client, answers, jetstream, verifier, tracer, reconnects, unanswered };
        Self(Arc::new(inner))
    }

    /// The service this is the connection of.
    pub fn service(&self) -> &'static str {
        self.0.service
    }

    /// Verifies access tokens and passes.
    pub fn verifier(&self) -> &Verifier {
        &self.0.verifier
    }

    /// Makes the service's spans.
    pub fn tracer(&self) -> &Tracer {
        &self.0.tracer
    }

    /// Whether the broker answers right now.
    pub fn is_connected(&self) -> bool {
        is_connected(self.client())
    }

    /// Whether the broker answers on each connection right now.
    pub fn is_whole(&self) -> bool {
        [self.answers(), self.client()].into_iter().all(is_connected)
    }

    /// Sends what is queued and closes the connections. A broker that does not take it is
    /// waited for no longer than a moment.
    pub async fn drain(&self) {
        for client in self.0.answers.iter().chain([&self.0.client]) {
            let drained = async {
                if is_connected(client) {
                    client.flush().await.map_err(|error| error.to_string())?;
                }
                client.drain().await.map_err(|error| error.to_string())
            };
            let drained = within(DRAIN_TIMEOUT, BROKER, drained).await;
            if let Err(error) = drained.unwrap_or_else(|late| Err(late.to_string())) {
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

    /// Grows with each (re)connection: what belongs to another epoch proves nothing in this.
    /// Counted before anything can be sent on the new connection.
    pub(crate) fn epoch(&self) -> u64 {
        self.client().statistics().connects.load(Ordering::SeqCst)
    }

    /// What the service's own stream has.
    pub(crate) async fn stream_state(&self) -> Result<StreamState, String> {
        self.state_of(&stream_of(self.service())).await
    }

    /// What a stream has.
    pub(crate) async fn state_of(&self, name: &str) -> Result<StreamState, String> {
        let info = async {
            let stream = self.jetstream().get_stream_no_info(name).await;
            let stream = stream.map_err(|error| error.to_string())?;
            stream.get_info().await.map_err(|error| format!("stream {name}: {error}"))
        };
        let info =
            within(REQUEST_TIMEOUT, BROKER, info).await.map_err(|late| late.to_string())??;
        Ok(StreamState {
            first_sequence: info.state.first_sequence,
            last_sequence: info.state.last_sequence,
            max_age_secs: i64::try_from(info.config.max_age.as_secs()).unwrap_or(i64::MAX),
            made_at: info.created,
            leader: info.cluster.and_then(|cluster| cluster.leader),
        })
    }
}

/// The extent of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StreamState {
    /// Of the oldest message it has; behind the last one when it has none.
    pub(crate) first_sequence: u64,
    /// Of the newest message it has ever had.
    pub(crate) last_sequence: u64,
    /// Seconds that it keeps messages; 0 for ever.
    pub(crate) max_age_secs: i64,
    /// When it was made; survives a restore.
    pub(crate) made_at: time::OffsetDateTime,
    /// Who leads it in a cluster.
    pub(crate) leader: Option<String>,
}

impl StreamState {
    /// Whether this can be what has become of an earlier state without anything being lost.
    pub(crate) fn continues(&self, earlier: &Self) -> bool {
        self.made_at == earlier.made_at
            && self.leader == earlier.leader
            && self.last_sequence >= earlier.last_sequence
    }
}

fn is_connected(client: &Client) -> bool {
    client.connection_state() == async_nats::connection::State::Connected
}

/// The stream that a service's facts are stored in.
pub(crate) fn stream_of(service: &str) -> String {
    service.to_uppercase().replace('-', "_")
}

fn addresses(urls: &str) -> Result<Vec<async_nats::ServerAddr>, String> {
    let parsed = |url: &str| url.trim().parse().map_err(|_| format!("`{url}` is no NATS address"));
    urls.split(',').map(parsed).collect()
}

/// How a connection of a service is made: as which user, and what is done at each connect.
fn options(
    service: &'static str,
    user: &str,
    seed: Option<String>,
    at_connect: impl Fn() + Send + Sync + 'static,
) -> ConnectOptions {
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
                    info!(service, "connected to NATS");
                }
                Event::ServerError(error) => warn!(service, %error, "NATS refuses something"),
                other => warn!(service, event = %other, "NATS connection"),
            }
            async {}
        });
    match seed {
        Some(seed) => options.nkey(seed),
        None => options,
    }
}

/// A broker that is not there yet is waited for; one that turns us away is an error.
async fn connect(
    service: &str,
    addresses: Vec<async_nats::ServerAddr>,
    options: ConnectOptions,
    patience: Option<Duration>,
) -> Result<Client, String> {
    let mut emitted = false;
    loop {
        // It gives up each attempt by itself.
        let options = options.clone().connection_timeout(patience.unwrap_or(ATTEMPT_TIMEOUT));
        match options.connect(addresses.clone()).await {
            Ok(client) => return Ok(client),
            Err(error) => {
                use async_nats::ConnectErrorKind::{Authentication, AuthorizationViolation};
                if matches!(error.kind(), Authentication | AuthorizationViolation) {
                    return Err(format!("NATS turns {service} away: {error}"));
                }
                if patience.is_some() {
                    return Err(format!("NATS cannot be reached: {error}"));
                }
                if !emitted {
                    warn!(service, %error, "waiting for NATS");
                    emitted = true;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}
