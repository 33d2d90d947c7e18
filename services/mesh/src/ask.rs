//! The edge's side of the mesh: commands asked of services, facts followed as they are
//! told, and told facts read again.
//!
//! Only the gateway works with this. It can ask and listen; it cannot tell a fact.

use std::time::Duration;

use async_nats::{Client, HeaderMap, HeaderName, Message, Request, RequestErrorKind, Subscriber};
use bytes::Bytes;
use events::{Problem, SagaId, Timestamp, codes, fact_of_subject, producer_of};
use futures::{StreamExt, stream::SelectAll};
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    Answered, Link, clock,
    link::{headers, stream_of},
    trace::TRACEPARENT,
};

/// How long a service may take to answer a command.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a service may take to say that it is there.
const PING_TIMEOUT: Duration = Duration::from_secs(2);
/// How long JetStream may take to hand out stored facts.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// Stored facts read at once at most.
pub const STORED_FACTS_MAX: usize = 1_000;
/// Every fact is republished under this prefix once it is stored.
const LIVE: &str = "live.";
/// What JetStream adds to a stored fact: its sequence, its subject, and when it was stored.
const STREAM_SEQ: &str = "Nats-Sequence";
const SUBJECT: &str = "Nats-Subject";
const STORED_AT: &str = "Nats-Time-Stamp";

/// What travels with a command, beside its body.
#[derive(Debug, Clone, Copy, Default)]
pub struct AskHeaders<'a> {
    /// `Bearer <access token>`, verified by the service.
    pub authorization: Option<&'a str>,
    /// The caller's key for a command that may be repeated.
    pub idempotency_key: Option<&'a str>,
    /// The id proposed for what the command makes; also the id of its saga.
    pub id: Option<Uuid>,
    /// The span the command follows from.
    pub traceparent: Option<&'a str>,
}

/// Asks services and follows their facts; cheap to clone.
#[derive(Clone)]
pub struct Asker(Link);

impl Asker {
    /// Asks over this connection.
    pub fn new(link: Link) -> Self {
        Self(link)
    }

    /// Asks an endpoint and waits for its answer, be it granted or refused.
    ///
    /// # Errors
    /// `unavailable` when nobody is there to answer, and nothing has happened then;
    /// `timed_out` when it is unknown what has happened; `body_too_large`.
    pub async fn ask(
        &self,
        endpoint: &str,
        body: Bytes,
        about: AskHeaders<'_>,
    ) -> Result<Answered, Problem> {
        // A request would wait in the client for the connection to come back, and be sent
        // when its caller may have given up long ago.
        if !self.0.is_connected() {
            return Err(unavailable("The connection to the mesh is down."));
        }
        let request =
            Request::new().headers(command_headers(about)).payload(body).timeout(Some(ASK_TIMEOUT));
        let asked = self.0.client().send_request(format!("cmd.{endpoint}"), request).await;
        let reply = asked.map_err(|error| match error.kind() {
            RequestErrorKind::NoResponders => {
                unavailable(&format!("The service of `{endpoint}` is not running."))
            }
            RequestErrorKind::MaxPayloadExceeded => {
                Problem::new(codes::BODY_TOO_LARGE, "The mesh carries no message of this size.")
            }
            RequestErrorKind::TimedOut => codes::TIMED_OUT.into(),
            RequestErrorKind::InvalidSubject | RequestErrorKind::Other => {
                unavailable("The connection to the mesh was lost.")
            }
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

    /// Asks whether any instance of a service is there; its version.
    ///
    /// # Errors
    /// `unavailable` when nobody answers.
    pub async fn ping(&self, service: &str) -> Result<String, Problem> {
        #[derive(serde::Deserialize)]
        struct Pong {
            version: String,
        }
        let request = Request::new().timeout(Some(PING_TIMEOUT));
        let subject = format!("$SRV.PING.onsale-{service}");
        let pong = self.0.client().send_request(subject, request).await;
        let pong = pong.map_err(|error| unavailable(&error.to_string()))?;
        let pong: Pong = serde_json::from_slice(&pong.payload)
            .map_err(|error| Problem::new(codes::INTERNAL, error.to_string()))?;
        Ok(pong.version)
    }

    /// Follows facts from now on: all of a service (`payment`) or one (`payment.completed`).
    ///
    /// Whoever asks or reads anything after this misses nothing that follows from it: the
    /// broker sees the subscription first, being on the same connection.
    ///
    /// # Errors
    /// `unavailable` when the connection is closed for good.
    pub async fn follow(&self, what: &[&str]) -> Result<Following, Problem> {
        let mut all = SelectAll::new();
        for what in what {
            let subject = format!("{LIVE}onsale.{what}.>");
            let subscriber = self.0.client().subscribe(subject).await;
            all.push(subscriber.map_err(|error| unavailable(&error.to_string()))?);
        }
        Ok(Following(all))
    }

    /// Listens to what a service announces about one thing from now on: what it says of
    /// `name` and `key`. It misses nothing that follows from what is asked after this.
    ///
    /// # Errors
    /// `unavailable` when the connection is closed for good.
    pub async fn listen(&self, name: &str, key: Uuid) -> Result<Announcements, Problem> {
        let subscriber = self.0.client().subscribe(format!("{LIVE}{name}.{key}")).await;
        subscriber.map(Announcements).map_err(|error| unavailable(&error.to_string()))
    }

    /// Changes with each new connection to the broker: what was told in between has passed
    /// unseen by whoever follows.
    pub fn reconnects(&self) -> watch::Receiver<u64> {
        self.0.reconnects()
    }

    /// Facts of a service stored after a sequence, in order, at most `limit` of them; none
    /// at all mean that there are no more.
    ///
    /// # Errors
    /// `unavailable` when JetStream does not answer.
    pub async fn stored_since(
        &self,
        service: &str,
        after_seq: u64,
        limit: usize,
    ) -> Result<Vec<Fact>, Problem> {
        self.read(&stream_of(service), ">", after_seq, limit, Fact::of).await
    }

    /// Messages of a stream under `filter` stored after a sequence, in order, with all of their
    /// headers.
    pub(crate) async fn stored_in(
        &self,
        stream: &str,
        filter: &str,
        after_seq: u64,
        limit: usize,
    ) -> Result<Vec<Fact>, Problem> {
        self.read(stream, filter, after_seq, limit, Fact::with_headers).await
    }

    async fn read(
        &self,
        stream: &str,
        filter: &str,
        after_seq: u64,
        limit: usize,
        fact: fn(Message) -> Fact,
    ) -> Result<Vec<Fact>, Problem> {
        let limit = limit.min(STORED_FACTS_MAX);
        let from_seq = after_seq.saturating_add(1);
        let query = format!(r#"{{"seq":{from_seq},"batch":{limit},"next_by_subj":"{filter}"}}"#);
        let mut replies = self.direct_get(stream, query).await?;
        let mut facts = Vec::new();
        while facts.len() < limit {
            match next_stored(&mut replies).await? {
                Some(message) => facts.push(fact(message)),
                None => break,
            }
        }
        Ok(facts)
    }

    /// The sequence of the last fact a service has stored; 0 before the first.
    ///
    /// # Errors
    /// `unavailable` when JetStream does not answer.
    pub async fn last_seq(&self, service: &str) -> Result<u64, Problem> {
        let query = r#"{"last_by_subj":">"}"#.into();
        let mut replies = self.direct_get(&stream_of(service), query).await?;
        Ok(next_stored(&mut replies).await?.map_or(0, |last| Fact::of(last).stream_seq))
    }

    /// Facts of `teller` that the consumer of `hearer` has not finished yet.
    ///
    /// # Errors
    /// `unavailable` when JetStream does not answer, or has no such consumer.
    pub async fn behind(&self, teller: &str, hearer: &str) -> Result<u64, Problem> {
        #[derive(serde::Deserialize)]
        struct Info {
            num_pending: u64,
            num_ack_pending: u64,
        }
        let subject = format!("$JS.API.CONSUMER.INFO.{}.{hearer}", stream_of(teller));
        let info = self.0.client().request(subject, Bytes::new()).await;
        let info = info.map_err(|error| unavailable(&error.to_string()))?;
        let info: Info = serde_json::from_slice(&info.payload)
            .map_err(|error| unavailable(&format!("{teller}.{hearer}: {error}")))?;
        Ok(info.num_pending + info.num_ack_pending)
    }

    /// The message of a stream with this sequence.
    pub(crate) async fn stored_at(&self, stream: &str, seq: u64) -> Result<Option<Fact>, Problem> {
        let mut replies = self.direct_get(stream, format!(r#"{{"seq":{seq}}}"#)).await?;
        Ok(next_stored(&mut replies).await?.map(Fact::with_headers))
    }

    /// Asks JetStream for stored messages; any replica answers, message by message.
    async fn direct_get(&self, stream: &str, query: String) -> Result<Subscriber, Problem> {
        let lost = |error: &dyn std::fmt::Display| unavailable(&error.to_string());
        if !self.0.is_connected() {
            return Err(unavailable("The connection to the mesh is down."));
        }
        let client: &Client = self.0.client();
        let inbox = client.new_inbox();
        let replies = client.subscribe(inbox.clone()).await.map_err(|error| lost(&error))?;
        let subject = format!("$JS.API.DIRECT.GET.{stream}");
        client
            .publish_with_reply(subject, inbox, query.into())
            .await
            .map_err(|error| lost(&error))?;
        Ok(replies)
    }
}

fn command_headers(about: AskHeaders<'_>) -> HeaderMap {
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
    let deadline = clock::now().unix_millis() + ASK_TIMEOUT.as_millis() as i64;
    map.insert(headers::DEADLINE, deadline.to_string());
    map
}

/// The next stored message; `None` at the end of the batch, or when there is none at all.
async fn next_stored(replies: &mut Subscriber) -> Result<Option<Message>, Problem> {
    let reply = tokio::time::timeout(READ_TIMEOUT, replies.next())
        .await
        .map_err(|_| unavailable("The event store does not answer."))?
        .ok_or_else(|| unavailable("The connection to the mesh was lost."))?;
    match reply.status.map(|status| status.as_u16()) {
        None => Ok(Some(reply)),
        Some(204 | 404) => Ok(None),
        Some(status) => Err(unavailable(&format!("The event store answers {status}."))),
    }
}

fn unavailable(detail: &str) -> Problem {
    Problem::new(codes::UNAVAILABLE, detail).with("retry_after_secs", 1)
}

/// Facts as they are told. Ends when the connection is closed for good.
pub struct Following(SelectAll<Subscriber>);

impl Following {
    /// The next fact. One that this process was too slow for, or that passed while the
    /// connection was down, is missing; its stream's sequence tells.
    pub async fn next(&mut self) -> Option<Fact> {
        self.0.next().await.map(Fact::of)
    }
}

/// What a service says to whoever listens; kept nowhere, and perhaps out of order. Ends when
/// the connection is closed for good.
pub struct Announcements(Subscriber);

impl Announcements {
    /// The next one, as JSON.
    pub async fn next(&mut self) -> Option<Bytes> {
        self.0.next().await.map(|message| message.payload)
    }
}

/// A told fact passing by: what its headers say is read when it comes, and what it says only by
/// who wants it.
#[derive(Debug, Clone)]
pub struct Fact {
    subject: String,
    stream_seq: u64,
    about: Option<Uuid>,
    event_id: Option<Uuid>,
    saga_id: Option<SagaId>,
    cause_id: Option<Uuid>,
    deliveries: u64,
    trace_id: Option<String>,
    at: Option<Timestamp>,
    payload: Bytes,
    /// All of them, in the log of dead letters.
    headers: Option<HeaderMap>,
}

impl Fact {
    /// The fact of a message. Its headers are let go at once: a thousand facts that wait
    /// with them are tens of thousands of small pieces of memory.
    fn of(message: Message) -> Self {
        Self { headers: None, ..Self::with_headers(message) }
    }

    /// The fact of a message, with all of its headers.
    fn with_headers(message: Message) -> Self {
        let map = message.headers.as_ref();
        let header = |name| Some(map?.get(HeaderName::from_static(name))?.as_str());
        let id = |name| header(name)?.parse().ok();
        // A live fact comes on its own subject, a stored one on the reader's inbox.
        let stored = || header(SUBJECT).unwrap_or_default();
        let trace_id = header(TRACEPARENT).and_then(|parent| parent.split('-').nth(1));
        Self {
            subject: message.subject.strip_prefix(LIVE).unwrap_or_else(stored).to_owned(),
            stream_seq: header(STREAM_SEQ).and_then(|seq| seq.parse().ok()).unwrap_or_default(),
            about: id("ce-subject"),
            event_id: id("ce-id"),
            saga_id: id(headers::SAGA_ID).map(SagaId),
            cause_id: id(headers::CAUSE_ID),
            deliveries: header(headers::DELIVERIES).and_then(|n| n.parse().ok()).unwrap_or(1),
            trace_id: trace_id.filter(|id| id.len() == 32).map(str::to_owned),
            at: header("ce-time").and_then(|at| at.parse().ok()),
            payload: message.payload,
            headers: message.headers,
        }
    }

    /// `<service>.<fact>`, for example `payment.completed`; empty for anything else.
    pub fn name(&self) -> &str {
        fact_of_subject(self.subject()).unwrap_or_default()
    }

    /// The service that told it.
    pub fn service(&self) -> &str {
        producer_of(self.name())
    }

    /// Its sequence in its service's stream.
    pub fn stream_seq(&self) -> u64 {
        self.stream_seq
    }

    /// `ce-subject`: the thing it is about.
    pub fn about(&self) -> Option<Uuid> {
        self.about
    }

    /// `ce-id`.
    pub fn event_id(&self) -> Option<Uuid> {
        self.event_id
    }

    /// The saga it belongs to.
    pub fn saga_id(&self) -> Option<SagaId> {
        self.saga_id
    }

    /// The event or command it follows from.
    pub fn cause_id(&self) -> Option<Uuid> {
        self.cause_id
    }

    /// How often the message it follows from was delivered to who told this; 1 at first.
    pub fn deliveries(&self) -> u64 {
        self.deliveries
    }

    /// The trace it was told in: 32 hex digits.
    pub fn trace_id(&self) -> Option<&str> {
        self.trace_id.as_deref()
    }

    /// When it was told.
    pub fn at(&self) -> Option<Timestamp> {
        self.at
    }

    /// The fact as JSON.
    pub fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Its subject: `onsale.payment.completed.v1.<schedule>`.
    pub fn subject(&self) -> &str {
        &self.subject
    }

    /// A message as a reader of a stream is given it.
    #[cfg(test)]
    pub(crate) fn kept(
        seq: u64,
        subject: &str,
        about: Vec<(&'static str, String)>,
        payload: &str,
    ) -> Self {
        let mut map = HeaderMap::new();
        map.insert(STREAM_SEQ, seq.to_string());
        map.insert(SUBJECT, subject);
        about.into_iter().for_each(|(name, value)| map.insert(name, value));
        let payload = Bytes::copy_from_slice(payload.as_bytes());
        Self::with_headers(Message {
            subject: "_INBOX.abc".into(),
            reply: None,
            payload,
            headers: Some(map),
            status: None,
            description: None,
            length: 0,
        })
    }

    /// When it was stored; known of a dead letter.
    pub(crate) fn stored_at(&self) -> Option<Timestamp> {
        self.header(STORED_AT)?.parse().ok()
    }

    /// All of its headers; known of a dead letter.
    pub(crate) fn headers(&self) -> Option<&HeaderMap> {
        self.headers.as_ref()
    }

    pub(crate) fn header(&self, name: &'static str) -> Option<&str> {
        Some(self.headers()?.get(HeaderName::from_static(name))?.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "018f0000-0000-7000-8000-000000000001";

    fn message(subject: &str) -> Fact {
        let mut map = HeaderMap::new();
        map.insert("Nats-Sequence", "42");
        map.insert("Nats-Subject", "onsale.payment.completed.v1.-");
        map.insert("ce-subject", ID);
        Fact::of(Message {
            subject: subject.to_owned().into(),
            reply: None,
            payload: Bytes::from_static(b"{}"),
            headers: Some(map),
            status: None,
            description: None,
            length: 0,
        })
    }

    #[test]
    fn a_fact_is_known_by_its_headers_live_and_stored() {
        for subject in ["live.onsale.payment.completed.v1.-", "_INBOX.abc"] {
            let fact = message(subject);
            assert_eq!((fact.name(), fact.service()), ("payment.completed", "payment"));
            assert_eq!(fact.stream_seq(), 42);
            assert_eq!(fact.about(), ID.parse().ok());
            assert_eq!(fact.event_id(), None);
        }
    }

    #[test]
    fn a_command_carries_only_the_headers_it_has() {
        let id = ID.parse().ok();
        let map = command_headers(AskHeaders { id, ..AskHeaders::default() });
        assert_eq!(map.get(headers::ID).map(|id| id.as_str()), Some(ID));
        assert!(map.get(headers::AUTHORIZATION).is_none());
        assert!(map.get(headers::DEADLINE).is_some());
    }
}
