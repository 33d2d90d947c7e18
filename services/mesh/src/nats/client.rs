//! The mesh client: commands and queries sent to services, and events followed as they are
//! emitted.
//!
//! The gateway uses it from outside a service. It can send requests and subscribe; it cannot
//! emit an event.

use std::{collections::VecDeque, time::Duration};

use async_nats::{HeaderMap, Request, Subscriber};
use bytes::Bytes;
use events::{
    Problem, codes,
    state::{StatePage, Stated},
};
use futures::{
    Stream, StreamExt, TryStreamExt,
    stream::{self, BoxStream, SelectAll},
};
use tokio::sync::watch;
use uuid::Uuid;

use super::{
    error::{BrokerError, StreamError},
    problem::{away, unavailable},
};
use crate::{
    Answered, Link, StoredEvent, StoredMessage, clock,
    nats::link::{REQUEST_TIMEOUT, headers, stream_of},
    nats::stored_event::LIVE,
    store::engine::Failure,
    trace::TRACEPARENT,
};

/// How long a service may take to answer a command.
pub const COMMAND_TIMEOUT: Duration = Duration::from_secs(10);
/// The subject prefix under which services query each other's state.
pub(crate) const STATE: &str = "state.";
/// Of how many keys an owner states the state at a time.
const STATED_AT_ONCE: usize = 8;
/// How long a service may take to answer a ping.
const PING_TIMEOUT: Duration = Duration::from_secs(2);

/// The headers of a command or query.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestHeaders<'a> {
    /// `Bearer <access token>`, verified by the service.
    pub authorization: Option<&'a str>,
    /// The caller's idempotency key.
    pub idempotency_key: Option<&'a str>,
    /// The id proposed for what the command creates, and for its saga; see [`crate::own_id()`].
    pub id: Option<Uuid>,
    /// The span the command follows from.
    pub traceparent: Option<&'a str>,
}

/// Pages of what is stated of each key.
type PagesOfEach<'a, K, T> = BoxStream<'a, Result<(K, Vec<T>), Failure>>;

/// Sends commands and queries to services, and follows their events; cheap to clone.
#[derive(Clone)]
pub struct MeshClient(Link);

impl MeshClient {
    /// A client over this connection.
    pub fn new(link: Link) -> Self {
        Self(link)
    }

    /// Sends a request to an endpoint and waits for its answer, granted or refused.
    ///
    /// # Errors
    /// `unavailable` when no instance is there to answer, and then nothing has happened;
    /// `timed_out` when it is unknown what has happened; `body_too_large`.
    pub async fn request(
        &self,
        endpoint: &str,
        body: Bytes,
        about: RequestHeaders<'_>,
    ) -> Result<Answered, Problem> {
        self.send(format!("cmd.{endpoint}"), body, about).await
    }

    /// Queries the owner of some state, page by page. Only services may do so, each as far as
    /// the broker permits it. A page is requested when the one before it was consumed.
    pub fn query_state<C: StatePage + Clone>(
        &self,
        first: C,
    ) -> impl Stream<Item = Result<Vec<C::Item>, Failure>> + Send + use<C> {
        let client = self.clone();
        stream::try_unfold(Some(first), move |query| {
            let client = client.clone();
            async move {
                let Some(query) = query else { return Ok(None) };
                let page = client.query_state_page(&query).await?;
                Ok(Some((page.items, page.next.map(|key| query.after(key)))))
            }
        })
    }

    /// The same of many: one query for each key, a few of them at a time. Each page comes with its
    /// key.
    pub fn query_state_of_each<'a, K, C>(
        &self,
        keys: impl Stream<Item = Result<K, Failure>> + Send + 'a,
        query: fn(K) -> C,
    ) -> PagesOfEach<'a, K, C::Item>
    where
        K: Copy + Send + 'a,
        C: StatePage + Clone + Send + 'a,
    {
        let client = self.clone();
        let pages = move |key| {
            let pages = client.query_state(query(key));
            pages.map_ok(move |page| (key, page)).boxed()
        };
        keys.map_ok(pages).try_flatten_unordered(STATED_AT_ONCE).boxed()
    }

    async fn query_state_page<C: StatePage>(
        &self,
        query: &C,
    ) -> Result<Stated<C::Item, C::Key>, Failure> {
        let failed = |problem: Problem| Failure::Unavailable(format!("{}: {problem}", C::ENDPOINT));
        let body = serde_json::to_vec(query).expect("commands are plain data").into();
        let subject = format!("{STATE}{}", C::ENDPOINT);
        let answered = self.send(subject, body, RequestHeaders::default()).await.map_err(failed)?;
        let unread = |_| failed(Problem::new(codes::INTERNAL, "The answer cannot be read."));
        match answered.is_granted() {
            true => serde_json::from_slice(&answered.body).map_err(unread),
            false => Err(serde_json::from_slice(&answered.body).map_or_else(unread, failed)),
        }
    }

    async fn send(
        &self,
        subject: String,
        body: Bytes,
        about: RequestHeaders<'_>,
    ) -> Result<Answered, Problem> {
        // The request would wait in the NATS client until it reconnects, and be sent when the
        // caller may have given up long ago.
        if !self.0.is_connected() {
            return Err(unavailable("The connection to the mesh is down."));
        }
        let request = Request::new().headers(command_headers(about)).payload(body);
        let endpoint = subject.split_once('.').map_or("", |(_, endpoint)| endpoint).to_owned();
        let reply = self.0.send_request(subject, request, COMMAND_TIMEOUT).await;
        let reply = reply.map_err(|error| match error {
            BrokerError::NoResponders => {
                unavailable(&format!("The service of `{endpoint}` is not running."))
            }
            BrokerError::TooLarge => {
                Problem::new(codes::BODY_TOO_LARGE, "The mesh carries no message of this size.")
            }
            late if late.is_late() => codes::TIMED_OUT.into(),
            _ => unavailable("The connection to the mesh was lost."),
        })?;
        let status = reply
            .headers
            .as_ref()
            .and_then(|map| map.get(headers::STATUS))
            .and_then(|status| status.as_str().parse().ok());
        match status {
            Some(status) => Ok(Answered { status, body: reply.payload }),
            None => Err(Problem::new(codes::INTERNAL, "The service's answer has no status.")),
        }
    }

    /// Asks whether any instance of a service is running; returns its version.
    ///
    /// # Errors
    /// `unavailable` when no instance answers.
    pub async fn ping(&self, service: &str) -> Result<String, Problem> {
        #[derive(serde::Deserialize)]
        struct Pong {
            version: String,
        }
        let subject = format!("$SRV.PING.onsale-{service}");
        let pong = self.0.request(subject, Bytes::new(), PING_TIMEOUT).await;
        let pong = pong.map_err(|cause| away("The service does not answer.", cause))?;
        let pong: Pong = serde_json::from_slice(&pong.payload)
            .map_err(|_| Problem::new(codes::INTERNAL, "The service's answer cannot be read."))?;
        Ok(pong.version)
    }

    /// Follows events from now on: all of a service (`payment`) or one (`payment.completed`).
    ///
    /// A caller that sends a command or a query after this misses no event that follows from
    /// it: the broker sees the subscription first, because both use the same connection.
    ///
    /// # Errors
    /// When the connection is closed for good.
    pub async fn follow(&self, what: &[&str]) -> Result<Following, StreamError> {
        let mut all = SelectAll::new();
        for what in what {
            let subject = format!("{LIVE}onsale.{what}.>");
            let subscriber = self.0.subscribe(subject).await;
            all.push(subscriber.map_err(StreamError::not_followed)?);
        }
        Ok(Following { messages: all, pending: VecDeque::new() })
    }

    /// Subscribes to what a service announces under `name` and `key` from now on. Like
    /// [`MeshClient::follow`], it misses nothing that follows from a later command or query.
    ///
    /// # Errors
    /// When the connection is closed for good.
    pub async fn listen(&self, name: &str, key: Uuid) -> Result<Announcements, StreamError> {
        let subscriber = self.0.subscribe(format!("{LIVE}{name}.{key}")).await;
        subscriber.map(Announcements).map_err(StreamError::not_followed)
    }

    /// Changes with each new connection to the broker: a follower has missed the events that
    /// were emitted in between.
    pub fn reconnects(&self) -> watch::Receiver<u64> {
        self.0.reconnects()
    }

    /// The consumer's lag: messages of `producer` that the consumer of the service `consumer`
    /// has not finished yet.
    ///
    /// # Errors
    /// `unavailable` when JetStream does not answer, or has no such consumer.
    pub async fn consumer_lag(&self, producer: &str, consumer: &str) -> Result<u64, Problem> {
        #[derive(serde::Deserialize)]
        struct Info {
            num_pending: u64,
            num_ack_pending: u64,
        }
        let subject = format!("$JS.API.CONSUMER.INFO.{}.{consumer}", stream_of(producer));
        let info = self.0.request(subject, Bytes::new(), REQUEST_TIMEOUT).await;
        let info = info.map_err(|cause| away("The broker does not answer.", cause))?;
        let info: Info = serde_json::from_slice(&info.payload).map_err(|error| {
            away(&format!("There is no consumer {producer}.{consumer}."), error)
        })?;
        Ok(info.num_pending + info.num_ack_pending)
    }

    pub(crate) fn link(&self) -> &Link {
        &self.0
    }
}

fn command_headers(about: RequestHeaders<'_>) -> HeaderMap {
    let mut map = HeaderMap::new();
    if let Some(authorization) = about.authorization {
        map.insert(headers::AUTHORIZATION, authorization);
    }
    if let Some(key) = about.idempotency_key {
        map.insert(headers::IDEMPOTENCY_KEY, key);
    }
    if let Some(id) = about.id {
        let mut text = Uuid::encode_buffer();
        map.insert(headers::ID, &*id.hyphenated().encode_lower(&mut text));
    }
    if let Some(traceparent) = about.traceparent {
        map.insert(TRACEPARENT, traceparent);
    }
    let deadline = clock::now().unix_millis() + COMMAND_TIMEOUT.as_millis() as i64;
    map.insert(headers::DEADLINE, deadline.to_string());
    map
}

/// Events as they are emitted. Ends when the connection is closed for good.
pub struct Following {
    messages: SelectAll<Subscriber>,
    /// Events of a message that were received and not returned yet.
    pending: VecDeque<StoredEvent>,
}

impl Following {
    /// The next event. An event that this process was too slow for, or that was emitted while
    /// the connection was down, is missing; the stream's sequence shows the gap.
    pub async fn next(&mut self) -> Option<StoredEvent> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some(event);
            }
            self.pending.extend(StoredMessage::of(&self.messages.next().await?).events);
        }
    }
}

/// Live messages of a service; they are not stored and may come out of order. Ends when the
/// connection is closed for good.
pub struct Announcements(Subscriber);

impl Announcements {
    /// The next one, as JSON.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.0.next().await.map(|message| message.payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "018f0000-0000-7000-8000-000000000001";

    #[test]
    fn a_command_carries_only_the_headers_it_has() {
        let id = ID.parse().ok();
        let map = command_headers(RequestHeaders { id, ..RequestHeaders::default() });
        assert_eq!(map.get(headers::ID).map(|id| id.as_str()), Some(ID));
        assert!(map.get(headers::AUTHORIZATION).is_none());
        assert!(map.get(headers::DEADLINE).is_some());
    }
}
