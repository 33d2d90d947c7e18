//! Facts in: from a durable pull consumer into the intake.

use std::{collections::HashMap, sync::Arc, time::Duration, time::Instant};

use async_nats::{
    HeaderMap,
    jetstream::{self, Message, consumer::PullConsumer},
};
use events::{EventId, SagaId};
use futures::{FutureExt, StreamExt};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    Caller, Link, clock,
    courtesy::Courtesy,
    dead_letter::{self, lot::Lot},
    engine::Engine,
    health::Health,
    lane::BATCH_MESSAGES_MAX,
    link::headers,
    service::Heard,
    trace::{TRACEPARENT, TraceParent},
    work::{Delivery, Meta, Settle, Work},
};

/// How long one pull stays open.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
/// How long a service that is in no hurry rests between two pieces …
const REST: Duration = Duration::from_millis(200);
/// … and when it is behind.
const SHORT_REST: Duration = Duration::from_millis(10);
/// How often the broker says that it is there while nothing comes.
const HEARTBEAT: Duration = Duration::from_secs(5);

/// What one consumer works with.
pub(crate) struct Consumer<E: Engine> {
    pub(crate) link: Link,
    /// The stream it reads.
    pub(crate) stream: String,
    /// How each fact of the service is decoded.
    pub(crate) heard: Arc<HashMap<&'static str, Heard<E>>>,
    /// Whether facts are taken piece by piece instead of each at once.
    pub(crate) is_unhurried: bool,
    pub(crate) intake: mpsc::Sender<Work<E::Deed>>,
    pub(crate) lot: Arc<Lot>,
    pub(crate) health: Health,
}

/// A fact as it came: delivered, or kept as a dead letter.
#[derive(Clone, Copy)]
pub(crate) struct Received<'a> {
    pub(crate) subject: &'a str,
    pub(crate) headers: Option<&'a HeaderMap>,
    pub(crate) payload: &'a [u8],
    /// How often it has been delivered.
    pub(crate) delivered: u64,
}

impl<E: Engine> Consumer<E> {
    /// Takes facts in until shutdown.
    pub(crate) async fn run(&self, shutdown: CancellationToken) -> Result<(), String> {
        let service = self.link.service();
        let consumer: PullConsumer = self
            .link
            .jetstream()
            .get_consumer_from_stream(service, &self.stream)
            .await
            .map_err(|error| {
                format!(
                    "consumer {service} of stream {}: {error}; `onsale topology apply` makes it",
                    self.stream
                )
            })?;
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            // What depends on a dead letter must be known before anything is taken in.
            () = self.lot.ready() => {}
        }
        info!(service, stream = self.stream, "hearing facts");
        if self.is_unhurried {
            return self.take_pieces(&consumer, &shutdown).await;
        }
        let mut messages = self.pull(&consumer).await?;
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                message = messages.next() => match message {
                    Some(Ok(message)) => self.take(message).await,
                    // The stream goes on by itself; the broker may be away for a while.
                    Some(Err(error)) => warn!(service, stream = self.stream, %error, "pull"),
                    None => return Err(format!("the pull from {} ended", self.stream)),
                },
            }
        }
        // What was handed out already is finished here: left lying, it would come to another
        // instance only when its time to be acknowledged is over.
        while let Some(Some(Ok(message))) = messages.next().now_or_never() {
            self.take(message).await;
        }
        Ok(())
    }

    /// Takes what is there, rests, and takes what has come meanwhile.
    async fn take_pieces(
        &self,
        consumer: &PullConsumer,
        shutdown: &CancellationToken,
    ) -> Result<(), String> {
        let mut courtesy = Courtesy::default();
        while !shutdown.is_cancelled() {
            let fetch = consumer.fetch().max_messages(BATCH_MESSAGES_MAX).messages().await;
            let mut piece = fetch.map_err(|error| format!("stream {}: {error}", self.stream))?;
            let mut taken = 0;
            while let Some(message) = piece.next().await {
                self.take(message.map_err(|error| error.to_string())?).await;
                taken += 1;
            }
            // A full piece has more behind it.
            let rest = if taken < BATCH_MESSAGES_MAX { REST } else { SHORT_REST };
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = courtesy.rest(rest, taken) => {}
            }
        }
        Ok(())
    }

    async fn pull(
        &self,
        consumer: &PullConsumer,
    ) -> Result<jetstream::consumer::pull::Stream, String> {
        consumer
            .stream()
            .max_messages_per_batch(BATCH_MESSAGES_MAX)
            .expires(PULL_EXPIRES)
            .heartbeat(HEARTBEAT)
            .messages()
            .await
            .map_err(|error| format!("stream {}: {error}", self.stream))
    }

    /// Decodes one message; what cannot be read is a dead letter.
    async fn take(&self, message: Message) {
        let received = Received {
            subject: &message.subject,
            headers: message.headers.as_ref(),
            payload: &message.payload,
            delivered: message.info().map_or(1, |info| info.delivered.max(1) as u64),
        };
        let decoded = decode(&self.heard, received);
        let field = events::fact_of_subject(&message.subject).and_then(|fact| self.heard.get(fact));
        let delivery = Delivery { field: field.map_or("", |heard| heard.key), message };
        match decoded {
            Ok((deed, meta)) => {
                let settle = Settle::Ack(Box::new(delivery));
                let work = Work { deed, meta, settle, span: Default::default() };
                // A full intake holds the consumer back; a closed one means shutdown, and
                // the message comes again.
                let _ = self.intake.send(work).await;
            }
            Err(cause) => {
                warn!(service = self.link.service(), subject = %delivery.message.subject, %cause,
                    "message cannot be read");
                self.health.add_dead();
                dead_letter::bury(&self.link, &self.lot, &delivery, &cause).await;
            }
        }
    }
}

/// Reads a fact by the table of what is heard.
pub(crate) fn decode<E: Engine>(
    table: &HashMap<&'static str, Heard<E>>,
    received: Received<'_>,
) -> Result<(E::Deed, Meta), String> {
    let fact = events::fact_of_subject(received.subject).ok_or("the subject names no fact")?;
    let known = table.get(fact).ok_or_else(|| format!("{fact} is not heard here"))?;
    let expected = format!("onsale.{fact}.v{}.", known.version);
    if !received.subject.starts_with(&expected) {
        return Err(format!("only version {} of {fact} is heard here", known.version));
    }
    let header =
        |name: &str| received.headers.and_then(|map| map.get(name)).map(|value| value.as_str());
    let event_id: Uuid = header("ce-id")
        .ok_or("there is no ce-id header")?
        .parse()
        .map_err(|_| "the ce-id header is no UUID")?;
    let saga_id = header(headers::SAGA_ID).and_then(|id| id.parse().ok()).unwrap_or(event_id);
    let deed = (known.decode)(received.payload)?;
    let meta = Meta {
        name: known.fact,
        may_tell: known.tells,
        event_id: Some(EventId(event_id)),
        id: Uuid::now_v7(),
        saga_id: SagaId(saga_id),
        caller: Caller::Mesh,
        idempotency: None,
        trace: TraceParent::from_header(header(TRACEPARENT)),
        received: Instant::now(),
        received_at: clock::now(),
        delivered: received.delivered,
    };
    Ok((deed, meta))
}
