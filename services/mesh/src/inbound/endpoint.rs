//! Receives commands and queries: from NATS service endpoints into the intake, or to a query.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::{HeaderMap, Message, Subscriber};
use bytes::Bytes;
use events::{Problem, SagaId, codes};
use futures::{
    FutureExt, StreamExt,
    stream::{BoxStream, FuturesUnordered, SelectAll},
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    COMMAND_TIMEOUT, Caller, Link,
    batch::spans::answered_with,
    batch::work::{Answered, Meta, Settle, Work},
    batch::worker::unavailable,
    clock,
    deadline::{Late, within},
    health::Health,
    inbound::bundle::{self, Packed},
    inbound::counts::{Asked, Counts},
    inbound::intake::Intake,
    inbound::micro::Micro,
    inbound::own_id::own_id,
    inbound::repeat::Key,
    inbound::reply::{Inbox, ReplyTo, inbox, reply},
    nats::error::BrokerError,
    nats::link::{BROKER, headers},
    service::{DecodedCommand, EndpointSpec, How, query_context::AnyQueryContext},
    supervise::{TaskError, Tasks},
    trace::{TRACEPARENT, TraceParent},
};

/// Maximum number of queries that one service runs at once; more are refused.
const QUERIES_MAX: usize = 256;
/// Maximum number of requests whose tokens are being verified; more wait in the connection.
const ADMITTING_MAX: usize = 1_024;
/// What a query waits for, as a timeout names it.
const STORE: &str = "the store";
/// How long it may take to join the queue group.
const JOIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of a request in bytes; the broker's own limit is as large.
const BODY_BYTES_MAX: usize = 8 * 1024 * 1024;

/// What the endpoints of one service work with.
pub(crate) struct Endpoints {
    pub(crate) link: Link,
    pub(crate) endpoints: Arc<BTreeMap<&'static str, EndpointSpec>>,
    pub(crate) intake: Intake,
    pub(crate) ctx: AnyQueryContext,
    pub(crate) health: Health,
    pub(crate) queries: Tasks,
    pub(crate) micro: Micro,
}

/// Why the task of the endpoints ended before the shutdown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EndpointError {
    /// The broker has not answered in time.
    #[error(transparent)]
    Late(#[from] Late),
    /// The queue group could not be joined.
    #[error(transparent)]
    NotJoined(#[from] BrokerError),
    /// The connection ended.
    #[error("the endpoints were closed")]
    Closed,
}

impl TaskError for EndpointError {
    fn is_reported(&self) -> bool {
        matches!(self, Self::Late(_))
    }
}

/// Incoming requests, each with its endpoint.
type Requests<'a> = SelectAll<BoxStream<'a, (&'a EndpointSpec, &'a Arc<Counts>, Message)>>;

impl Endpoints {
    /// Answers requests until shutdown. An instance that cannot use its store leaves the queue
    /// group meanwhile, so that the others get the requests that it could only refuse.
    pub(crate) async fn run(&self, shutdown: CancellationToken) -> Result<(), EndpointError> {
        if self.endpoints.is_empty() {
            shutdown.cancelled().await;
            return Ok(());
        }
        let mut serving = self.health.serving();
        let service = self.link.service();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                _ = serving.wait_for(|serving| *serving == Some(true)) => {}
            }
            let left = async {
                // Fails only when the health is gone.
                let _ = serving.wait_for(|serving| *serving != Some(true)).await;
            };
            self.serve(&shutdown, left).await?;
            if shutdown.is_cancelled() {
                return Ok(());
            }
            info!(service, "commands are left to other instances while the store cannot be used");
        }
    }

    /// Answers requests until a shutdown, or until this instance has to leave.
    async fn serve(
        &self,
        shutdown: &CancellationToken,
        left: impl Future<Output = ()>,
    ) -> Result<(), EndpointError> {
        let joined = within(JOIN_TIMEOUT, BROKER, self.join()).await?;
        let (mut requests, mut about) = joined?;
        let queries = Arc::new(Semaphore::new(QUERIES_MAX));
        // A token with a new key waits for that key to be fetched. Other requests do not wait
        // with it, least of all the request for the key, which the user service sends itself.
        let mut admitting = FuturesUnordered::new();
        let mut left = pin!(left);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = &mut left => break,
                Some(()) = admitting.next() => {}
                next = requests.next(), if admitting.len() < ADMITTING_MAX => match next {
                    Some((spec, counts, message)) => for request in self.requests(message, counts) {
                        match request {
                            Ok(request) => admitting.push(self.take(spec, request, &queries)),
                            Err((to, problem)) => {
                                reply(&self.link, to, Answered::refused(&problem)).await;
                            }
                        }
                    }
                    None => return Err(EndpointError::Closed),
                },
                Some(request) = about.next() => self.micro.answer(&self.link, &request).await,
            }
        }
        drop(about);
        // Requests that have already arrived are answered.
        while let Some(Some((spec, counts, message))) = requests.next().now_or_never() {
            for request in self.requests(message, counts).into_iter().flatten() {
                admitting.push(self.take(spec, request, &queries));
            }
        }
        drop(requests);
        while admitting.next().await.is_some() {}
        Ok(())
    }

    /// Joins the queue group of the service with all of its endpoints, and then describes them:
    /// who is described is also answered.
    async fn join(&self) -> Result<(Requests<'_>, SelectAll<Subscriber>), BrokerError> {
        let mut requests: Requests<'_> = SelectAll::new();
        for endpoint in &self.micro.endpoints {
            let Some(spec) = self.endpoints.get(endpoint.endpoint) else { continue };
            let group = self.link.service().to_owned();
            let messages = self.link.join_to_answer(endpoint.subject.clone(), group).await?;
            let counts = &endpoint.counts;
            requests.push(messages.map(move |message| (spec, counts, message)).boxed());
        }
        let about = self.micro.listen(&self.link).await?;
        Ok((requests, about))
    }

    /// The requests in a message. None when its answer would go to no inbox: that is not a
    /// request, but an attempt to make this service publish something.
    fn requests(
        &self,
        message: Message,
        counts: &Arc<Counts>,
    ) -> Vec<Result<Request, (ReplyTo, Problem)>> {
        let reply = message.reply.as_ref();
        match reply.map(|subject| inbox(subject)) {
            None => Vec::new(),
            Some(Some(inbox)) => Request::of(message, inbox, &Asked::now(counts)),
            Some(None) => {
                let count = self.health.add_unanswered();
                // The more there are, the fewer are logged: a client that sends them must not
                // be able to fill the log.
                if count.is_power_of_two() {
                    let (service, subject) = (self.link.service(), &message.subject);
                    let reply = reply.map_or("", |subject| subject.as_str());
                    warn!(service, %subject, reply, count,
                        "requests whose answers would go to no inbox are left unanswered");
                }
                Vec::new()
            }
        }
    }

    /// Admits one request, or answers why not.
    async fn take(&self, spec: &EndpointSpec, request: Request, queries: &Arc<Semaphore>) {
        let began = Instant::now();
        let refused = match self.admit(spec, &request).await {
            Err(problem) => problem,
            Ok(None) => return request.to.count(&Answered::refused(&codes::TIMED_OUT.into())),
            Ok(Some((mut meta, key))) => match &spec.how {
                How::Decided(decode) => match decode(&request.body, key.as_ref()) {
                    Err(problem) => problem,
                    Ok(DecodedCommand { handler, idempotency }) => {
                        meta.idempotency = idempotency;
                        let work = Work::command(handler, meta, Settle::Reply(request.to.clone()));
                        match self.intake.try_send(work) {
                            Ok(()) => return,
                            Err(_) => overloaded(),
                        }
                    }
                },
                How::Read(read) => match queries.clone().try_acquire_owned() {
                    Err(_) => overloaded(),
                    Ok(permit) => {
                        let mut span = self.link.tracer().command(meta.name, &meta.trace);
                        span.saga(meta.saga_id);
                        let saga_id = meta.saga_id;
                        meta.trace = span.parent();
                        let answer = read(self.ctx.clone(), request.body, key, meta);
                        let (link, status, to) = (self.link.clone(), spec.status, request.to);
                        let (engine, health) = (self.ctx.engine.clone(), self.health.clone());
                        let endpoint = spec.endpoint;
                        let here = span.here(Some(saga_id));
                        self.queries.spawn(here.within(async move {
                            // No caller waits for the answer any longer.
                            let answered = match within(COMMAND_TIMEOUT, STORE, answer).await {
                                Ok(Ok(body)) => Answered { status, body },
                                Ok(Err(problem)) => Answered::refused(&problem),
                                Err(_) => {
                                    engine.store().given_up();
                                    Answered::refused(&codes::TIMED_OUT.into())
                                }
                            };
                            answered_with(&mut span, answered.status);
                            count(&health, endpoint, began, &answered);
                            reply(&link, to, answered).await;
                            drop(permit);
                        }));
                        return;
                    }
                },
            },
        };
        let refused = Answered::refused(&refused);
        count(&self.health, spec.endpoint, began, &refused);
        reply(&self.link, request.to, refused).await;
    }

    /// Checks the caller and the headers; `None` when the deadline of the request is over.
    async fn admit(
        &self,
        spec: &EndpointSpec,
        request: &Request,
    ) -> Result<Option<(Meta, Option<Key>)>, Problem> {
        if request.body.len() > BODY_BYTES_MAX {
            return Err(codes::BODY_TOO_LARGE.into());
        }
        if request.inbox == Inbox::Shared && !spec.allow.is_public() {
            return Err(shared_inbox());
        }
        let now = clock::now();
        if request.deadline.is_some_and(|millis| millis < now.unix_millis()) {
            return Ok(None);
        }
        let caller = match &request.authorization {
            None => Caller::Anonymous,
            // A client that asks for a new token may well send an expired one.
            Some(_) if spec.allow.needs_no_token() => Caller::Anonymous,
            Some(value) => {
                let token = value
                    .strip_prefix("Bearer ")
                    .or_else(|| value.strip_prefix("bearer "))
                    .ok_or_else(|| {
                        Problem::new(codes::UNAUTHENTICATED, "Only `Bearer` tokens are read.")
                            .with("field", "Authorization")
                    })?;
                self.link.verifier().access(token.trim(), now).await?
            }
        };
        spec.allow.check(&caller)?;
        if !self.health.is_store_up() && matches!(spec.how, How::Decided(_)) {
            // Commands must not pile up while the store is unavailable.
            return Err(unavailable(&self.link));
        }
        let key = request.idempotency_key.clone();
        let key = key.map(|key| Key::new(spec.endpoint, &caller, key)).transpose()?;
        let id = match (proposed_id(request.id.as_deref())?, caller.user_id()) {
            (Some(proposed), Ok(user)) => own_id(user, proposed),
            _ => clock::new_id(),
        };
        let meta = Meta {
            name: spec.endpoint,
            may_emit: spec.emits,
            event_id: None,
            id,
            saga_id: SagaId(id),
            caller,
            idempotency: None,
            trace: TraceParent::from_header(request.traceparent.as_deref()),
            received: Instant::now(),
            received_at: now,
            attempt: 1,
        };
        Ok(Some((meta, key)))
    }
}

/// Counts an answer to a request that arrived at `began`.
fn count(health: &Health, endpoint: &'static str, began: Instant, answered: &Answered) {
    health.metrics().command(endpoint, began.elapsed(), answered.status, &answered.body);
}

/// A command or a query that came by itself or in a bundle.
struct Request {
    authorization: Option<String>,
    idempotency_key: Option<String>,
    id: Option<String>,
    traceparent: Option<String>,
    /// Unix milliseconds.
    deadline: Option<i64>,
    body: Bytes,
    to: ReplyTo,
    inbox: Inbox,
}

impl Request {
    /// The requests in a message: one, or those of a bundle. None when the message has no reply
    /// subject.
    fn of(message: Message, inbox: Inbox, asked: &Asked) -> Vec<Result<Self, (ReplyTo, Problem)>> {
        let Some(subject) = message.reply.clone() else { return Vec::new() };
        let to = |at| ReplyTo { subject: subject.clone(), at, asked: asked.clone() };
        let is_bundle = match header(message.headers.as_ref(), headers::BUNDLE) {
            Ok(bundle) => bundle.is_some(),
            Err(problem) => return vec![Err((to(None), problem))],
        };
        if !is_bundle {
            let alone = Self::alone(message, to(None), inbox);
            return vec![alone.map_err(|problem| (to(None), problem))];
        }
        match bundle::unpack(&message.payload) {
            Ok(commands) => {
                let of = |(at, packed)| Ok(Self::packed(packed, to(Some(at)), inbox));
                commands.into_iter().enumerate().map(of).collect()
            }
            Err(problem) => vec![Err((to(None), problem))],
        }
    }

    /// A request that came by itself.
    fn alone(message: Message, to: ReplyTo, inbox: Inbox) -> Result<Self, Problem> {
        let header = |name: &str| header(message.headers.as_ref(), name);
        let owned = |name: &str| header(name).map(|value| value.map(str::to_owned));
        let deadline = header(headers::DEADLINE)?.map(|millis| {
            let what = "must be a whole number: milliseconds since 1970";
            millis.parse().map_err(|_| Problem::about(codes::INVALID, headers::DEADLINE, what))
        });
        Ok(Self {
            authorization: owned(headers::AUTHORIZATION)?,
            idempotency_key: owned(headers::IDEMPOTENCY_KEY)?,
            id: owned(headers::ID)?,
            traceparent: owned(TRACEPARENT)?,
            deadline: deadline.transpose()?,
            body: message.payload,
            to,
            inbox,
        })
    }

    fn packed(packed: Packed, to: ReplyTo, inbox: Inbox) -> Self {
        Self {
            authorization: packed.authorization,
            idempotency_key: packed.idempotency_key,
            id: packed.id.map(|id| id.to_string()),
            traceparent: packed.traceparent,
            deadline: Some(packed.deadline),
            body: Box::<str>::from(packed.body).into_string().into(),
            to,
            inbox,
        }
    }
}

/// A header, whatever the case of its name. It may occur twice with the same value, but not with
/// two values: it would be unclear which of them was meant.
fn header<'a>(map: Option<&'a HeaderMap>, name: &str) -> Result<Option<&'a str>, Problem> {
    let named = map.into_iter().flat_map(HeaderMap::iter).filter(|(known, _)| {
        let known: &str = known.as_ref();
        known.eq_ignore_ascii_case(name)
    });
    let mut values = named.flat_map(|(_, values)| values).map(|value| value.as_str());
    let first = values.next();
    match values.all(|other| Some(other) == first) {
        true => Ok(first),
        false => Err(Problem::about(codes::INVALID, name, "is there twice, with two values")),
    }
}

/// The id a caller proposes for what its command creates.
fn proposed_id(proposed: Option<&str>) -> Result<Option<Uuid>, Problem> {
    let read = |text: &str| {
        let id = text.parse::<Uuid>().ok().filter(|id| id.get_version_num() == 7);
        id.ok_or_else(|| Problem::about(codes::INVALID, headers::ID, "must be a UUIDv7"))
    };
    proposed.map(read).transpose()
}

fn shared_inbox() -> Problem {
    Problem::new(
        codes::FORBIDDEN,
        "All clients with the key `client` read the same inbox, so only public answers are sent \
         there. Get an access token over HTTP (POST /v1/sessions) and connect with it in place \
         of a key: the inbox prefix _INBOX_account.<user id> is yours alone.",
    )
}

fn overloaded() -> Problem {
    Problem::from(codes::OVERLOADED).with("retry_after_secs", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_name_has_any_case_and_the_header_one_value() {
        let read = |headers: &[(&str, &str)]| {
            let mut map = HeaderMap::new();
            for (name, value) in headers {
                map.append(*name, *value);
            }
            header(Some(&map), headers::IDEMPOTENCY_KEY).map(|value| value.map(str::to_owned))
        };
        let (lower, upper) = ("idempotency-key", "Idempotency-Key");
        assert_eq!(read(&[]).unwrap(), None);
        assert_eq!(read(&[(upper, "a")]).unwrap().as_deref(), Some("a"));
        assert_eq!(read(&[(lower, "a"), (lower, "a")]).unwrap().as_deref(), Some("a"));
        assert_eq!(read(&[(lower, "a"), (upper, "a")]).unwrap().as_deref(), Some("a"));
        for two in [[(lower, "a"), (lower, "b")], [(lower, "a"), (upper, "b")]] {
            let refused = read(&two).unwrap_err();
            assert!(refused.is(codes::INVALID) && refused.extra["field"] == lower, "{refused}");
        }
    }

    #[test]
    fn only_a_uuid_of_version_seven_may_be_proposed() {
        assert!(proposed_id(Some("00000000-0000-4000-8000-000000000000")).is_err());
        assert!(proposed_id(Some("rubbish")).is_err());
        assert!(proposed_id(Some(&Uuid::now_v7().to_string())).is_ok());
    }
}
