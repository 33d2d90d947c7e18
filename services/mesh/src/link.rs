//! One service's connection to the mesh.

use std::{sync::Arc, time::Duration};

use async_nats::{Client, ConnectOptions, Event, jetstream};
use events::{Problem, codes};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::{auth::Verifier, trace::Tracer};

/// How long one of our own requests over NATS may take.
pub(crate) const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);
/// How long JetStream may take to acknowledge a single publish before it counts as unknown.
const ACK_TIMEOUT: Duration = Duration::from_secs(2);
/// Messages queued in this process for the connection at most.
const CLIENT_CAPACITY: usize = 16_384;

/// Header names of our own, beside the CloudEvents ones.
pub(crate) mod headers {
    /// The saga a message belongs to.
    pub(crate) const SAGA_ID: &str = "onsale-saga-id";
    /// The event or command a fact follows from.
    pub(crate) const CAUSE_ID: &str = "onsale-cause-id";
    /// How often the message that a fact follows from was delivered to who told the fact.
    pub(crate) const DELIVERIES: &str = "onsale-deliveries";
    /// The id a caller proposes for what its command makes.
    pub(crate) const ID: &str = "onsale-id";
    /// The HTTP status of an answer.
    pub(crate) const STATUS: &str = "onsale-status";
    /// Unix milliseconds after which nobody waits for the answer any more.
    pub(crate) const DEADLINE: &str = "onsale-deadline";
    /// `Bearer <access token>`.
    pub(crate) const AUTHORIZATION: &str = "authorization";
    /// The caller's key for a command that may be repeated.
    pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";
    /// Why a message could not be taken in.
    pub(crate) const DEAD_CAUSE: &str = "onsale-dead-cause";
    /// Its subject.
    pub(crate) const DEAD_SUBJECT: &str = "onsale-dead-subject";
    /// Its stream.
    pub(crate) const DEAD_STREAM: &str = "onsale-dead-stream";
    /// Its place there.
    pub(crate) const DEAD_SEQUENCE: &str = "onsale-dead-sequence";
    /// How often it was tried.
    pub(crate) const DEAD_ATTEMPTS: &str = "onsale-dead-attempts";
    /// It was not tried; it waits behind another of its key.
    pub(crate) const DEAD_WAITS: &str = "onsale-dead-waits";
    /// The instance that wrote it into the log.
    pub(crate) const DEAD_BY: &str = "onsale-dead-by";
    /// The letter that a record is about.
    pub(crate) const DEAD_LETTER: &str = "onsale-dead-letter";
    /// Where that letter stands from then on.
    pub(crate) const DEAD_BECAME: &str = "onsale-dead-became";
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
    source: String,
    client: Client,
    jetstream: jetstream::Context,
    verifier: Verifier,
    tracer: Tracer,
    reconnects: watch::Receiver<u64>,
}

impl Link {
    /// Connects, waiting for the broker as long as it takes.
    ///
    /// # Errors
    /// When the address or the seed is malformed, or the broker turns the user away.
    pub async fn connect(settings: LinkSettings, tracer: Tracer) -> Result<Self, String> {
        let service = settings.service;
        let (counter, reconnects) = watch::channel(0);
        let mut options = ConnectOptions::new()
            .name(format!("onsale-{service}"))
            .custom_inbox_prefix(format!("_INBOX_{service}"))
            .client_capacity(CLIENT_CAPACITY)
            .request_timeout(Some(REQUEST_TIMEOUT))
            .ping_interval(Duration::from_secs(10))
            .reconnect_delay_callback(|attempt| Duration::from_millis(50 * attempt.min(20) as u64))
            .event_callback(move |event| {
                match &event {
                    Event::Connected => {
                        counter.send_modify(|count| *count += 1);
                        info!(service, "connected to NATS");
                    }
                    Event::ServerError(error) => warn!(service, %error, "NATS refuses something"),
                    other => warn!(service, event = %other, "NATS connection"),
                }
                async {}
            });
        if let Some(seed) = settings.nkey_seed {
            options = options.nkey(seed);
        }
        let addresses: Vec<async_nats::ServerAddr> = settings
            .nats_url
            .split(',')
            .map(|url| url.trim().parse().map_err(|_| format!("`{url}` is no NATS address")))
            .collect::<Result<_, _>>()?;
        let client = connect(service, addresses, options).await?;
        let jetstream = jetstream::ContextBuilder::new().timeout(ACK_TIMEOUT).build(client.clone());
        let asking = client.clone();
        let verifier = Verifier::new(Arc::new(move |endpoint| {
            let client = asking.clone();
            Box::pin(async move {
                let reply = client
                    .request(format!("cmd.{endpoint}"), "{}".into())
                    .await
                    .map_err(|error| Problem::new(codes::UNAVAILABLE, error.to_string()))?;
                serde_json::from_slice(&reply.payload)
                    .map_err(|error| Problem::new(codes::UNAVAILABLE, error.to_string()))
            })
        }));
        let source = format!("/onsale/{service}");
        let inner = Inner { service, source, client, jetstream, verifier, tracer, reconnects };
        Ok(Self(Arc::new(inner)))
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
        self.0.client.connection_state() == async_nats::connection::State::Connected
    }

    /// Sends what is queued and closes the connection.
    pub async fn drain(&self) {
        if let Err(error) = self.0.client.drain().await {
            warn!(service = self.service(), %error, "NATS connection not drained");
        }
    }

    pub(crate) fn source(&self) -> &str {
        &self.0.source
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

    /// The last sequence of the service's own stream.
    pub(crate) async fn last_sequence(&self) -> Result<u64, String> {
        let name = stream_of(self.service());
        let stream =
            self.jetstream().get_stream_no_info(&name).await.map_err(|error| error.to_string())?;
        let info = stream.get_info().await.map_err(|error| format!("stream {name}: {error}"))?;
        Ok(info.state.last_sequence)
    }
}

/// The stream that a service's facts are stored in.
pub(crate) fn stream_of(service: &str) -> String {
    service.to_uppercase().replace('-', "_")
}

/// A broker that is not there yet is waited for; one that turns us away is an error.
async fn connect(
    service: &str,
    addresses: Vec<async_nats::ServerAddr>,
    options: ConnectOptions,
) -> Result<Client, String> {
    let mut told = false;
    loop {
        match options.clone().connect(addresses.clone()).await {
            Ok(client) => return Ok(client),
            Err(error) => {
                use async_nats::ConnectErrorKind::{Authentication, AuthorizationViolation};
                if matches!(error.kind(), Authentication | AuthorizationViolation) {
                    return Err(format!("NATS turns {service} away: {error}"));
                }
                if !told {
                    warn!(service, %error, "waiting for NATS");
                    told = true;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }
}
