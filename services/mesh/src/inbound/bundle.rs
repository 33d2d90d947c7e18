//! Bundles: commands of many callers for one endpoint, sent as one request.
//!
//! The gateway sends together the commands that wait for an endpoint, and the service answers
//! together those that it decided together. So under load no command costs messages of its
//! own; a lone command is a bundle of one, and is sent at once. A bundle is only a wrapper:
//! each command in it is admitted, decided and answered by itself, and one that waits for what
//! it depends on does not delay the others.
//!
//! On the wire a bundle is a request with the header `onsale-bundle`, whose body is a JSON
//! array of commands; its answers come as JSON arrays as well, in any order and number.

use std::{collections::HashMap, time::Duration};

use async_nats::{HeaderMap, Message, StatusCode, Subject};
use bytes::Bytes;
use events::{Problem, codes};
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior, interval, sleep_until},
};
use uuid::Uuid;

use crate::{
    Answered, COMMAND_TIMEOUT, Link, RequestHeaders, clock,
    inbound::pace::{BUNDLE_COMMANDS_MAX, Pace, UnderWay},
    inbound::reply::Bundled,
    nats::link::headers,
    nats::problem::unavailable,
};

/// Maximum size of a body in a bundle, in bytes; a larger one is sent by itself.
const BODY_BYTES_MAX: usize = 4 * 1024;
/// Maximum number of commands that wait to be sent; more are refused.
const WAITING_MAX: usize = 4_096;
/// While no command of the last bundle has been answered, new commands gather for at most this
/// long.
const GATHER_MAX: Duration = Duration::from_millis(20);
/// Pause before the subscription to the answers is tried again.
const SUBSCRIBE_AGAIN: Duration = Duration::from_secs(1);
/// How often bundles are checked for timeouts.
const TICK: Duration = Duration::from_millis(10);

/// A command as it travels in a bundle. It contains a token, so it cannot be printed.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Packed {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) authorization: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) idempotency_key: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<Uuid>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) traceparent: Option<String>,
    pub(crate) deadline: i64,
    pub(crate) body: Box<RawValue>,
}

/// A command that waits to be sent, and where its answer goes.
struct Waiting {
    packed: Packed,
    answer: oneshot::Sender<Result<Answered, Problem>>,
}

/// Sends the commands for one endpoint.
pub struct Bundler {
    link: Link,
    waiting: mpsc::Sender<Waiting>,
}

impl Bundler {
    /// Sends commands for `endpoint` over this connection until the last caller is gone: at a
    /// shutdown, waiting callers still get their answers. `under_way` makes bundles larger where
    /// commands only begin what other services finish ([`Pace`]).
    pub fn start(link: Link, endpoint: &'static str, under_way: Option<UnderWay>) -> Self {
        let (sender, waiting) = mpsc::channel(WAITING_MAX);
        let dispatcher = Dispatcher {
            link: link.clone(),
            endpoint,
            gathered: Vec::new(),
            pace: Pace::new(under_way),
            bundles: HashMap::new(),
            count: 0,
        };
        tokio::spawn(dispatcher.run(waiting));
        Self { link, waiting: sender }
    }

    /// Sends a command and waits for its answer, granted or refused; `None` for a body that
    /// cannot go into a bundle, because it is too large or not JSON.
    ///
    /// # Errors
    /// As [`crate::MeshClient::request`], and `overloaded` when too many commands wait to be sent.
    pub async fn request(
        &self,
        body: &Bytes,
        about: RequestHeaders<'_>,
    ) -> Option<Result<Answered, Problem>> {
        if body.len() > BODY_BYTES_MAX {
            return None;
        }
        let body: Box<RawValue> = serde_json::from_slice(body).ok()?;
        Some(self.send(body, about).await)
    }

    async fn send(
        &self,
        body: Box<RawValue>,
        about: RequestHeaders<'_>,
    ) -> Result<Answered, Problem> {
        if !self.link.is_connected() {
            return Err(unavailable("The connection to the mesh is down."));
        }
        let packed = Packed {
            authorization: about.authorization.map(str::to_owned),
            idempotency_key: about.idempotency_key.map(str::to_owned),
            id: about.id,
            traceparent: about.traceparent.map(str::to_owned),
            deadline: clock::now().unix_millis() + COMMAND_TIMEOUT.as_millis() as i64,
            body,
        };
        let (answer, answered) = oneshot::channel();
        self.waiting
            .try_send(Waiting { packed, answer })
            .map_err(|_| Problem::from(codes::OVERLOADED).with("retry_after_secs", 1))?;
        match tokio::time::timeout(COMMAND_TIMEOUT, answered).await {
            Ok(Ok(answered)) => answered,
            Ok(Err(_)) | Err(_) => Err(codes::TIMED_OUT.into()),
        }
    }
}

/// A bundle that was sent and not yet fully answered.
struct Sent {
    callers: Vec<Option<oneshot::Sender<Result<Answered, Problem>>>>,
    sent_at: Instant,
    /// Whether the next bundle no longer waits for this one.
    is_settled: bool,
}

/// Sends the bundles of one endpoint, and passes the answers on.
struct Dispatcher {
    link: Link,
    endpoint: &'static str,
    /// The next bundle.
    gathered: Vec<Waiting>,
    /// When it is sent.
    pace: Pace,
    bundles: HashMap<u64, Sent>,
    /// Bundles sent so far: the next one's number.
    count: u64,
}

impl Dispatcher {
    async fn run(mut self, mut waiting: mpsc::Receiver<Waiting>) {
        let inbox = self.link.client().new_inbox();
        let mut answers = loop {
            match self.link.subscribe(format!("{inbox}.*")).await {
                Ok(answers) => break answers,
                // Commands that come meanwhile time out.
                Err(_) if !waiting.is_closed() => tokio::time::sleep(SUBSCRIBE_AGAIN).await,
                Err(_) => return,
            }
        };
        let mut ticks = interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let now = Instant::now();
            if self.is_due(now) {
                self.send(&inbox).await;
            }
            let (may_send, until) = (self.may_send(), self.pace.until(now));
            tokio::select! {
                Some(message) = answers.next() => self.answered(&message),
                next = waiting.recv(), if self.gathered.len() < BUNDLE_COMMANDS_MAX => {
                    let Some(next) = next else { return };
                    self.gather(next, &mut waiting).await;
                }
                () = sleep_until(until), if may_send => {}
                () = self.pace.changed(), if may_send => {}
                _ = ticks.tick(), if !self.bundles.is_empty() => self.expire(),
            }
        }
    }

    /// Whether there are commands to send and no earlier bundle to wait for.
    fn may_send(&self) -> bool {
        !self.gathered.is_empty() && self.bundles.values().all(|sent| sent.is_settled)
    }

    /// Whether the next bundle is sent at this moment.
    fn is_due(&self, now: Instant) -> bool {
        self.may_send() && self.pace.is_time(self.gathered.len(), now)
    }

    /// Moves waiting commands into the next bundle, as far as there is room.
    async fn gather(&mut self, next: Waiting, waiting: &mut mpsc::Receiver<Waiting>) {
        if self.gathered.is_empty() {
            self.pace.begin();
        }
        self.gathered.push(next);
        // Callers that are about to send a command get to run first.
        tokio::task::yield_now().await;
        while self.gathered.len() < BUNDLE_COMMANDS_MAX {
            let Ok(next) = waiting.try_recv() else { break };
            self.gathered.push(next);
        }
    }

    /// Sends the gathered commands as a bundle.
    async fn send(&mut self, inbox: &str) {
        let gathered = std::mem::take(&mut self.gathered);
        self.pace.sent(gathered.len());
        let (commands, callers): (Vec<Packed>, Vec<_>) =
            gathered.into_iter().map(|waiting| (waiting.packed, Some(waiting.answer))).unzip();
        let (number, subject) = (self.count, format!("cmd.{}", self.endpoint));
        self.count += 1;
        let mut map = HeaderMap::new();
        map.insert(headers::BUNDLE, commands.len().to_string());
        let body = serde_json::to_vec(&commands).expect("plain data").into();
        let reply = format!("{inbox}.{number}");
        let sent = self.link.publish(subject, Some(reply), map, body).await;
        let mut sent_now = Sent { callers, sent_at: Instant::now(), is_settled: false };
        if sent.is_err() {
            return sent_now.refuse(&unavailable("The connection to the mesh was lost."));
        }
        self.bundles.insert(number, sent_now);
    }

    /// Passes answers on to their callers.
    fn answered(&mut self, message: &Message) {
        let Some(number) = number_of(&message.subject) else { return };
        let Some(sent) = self.bundles.get_mut(&number) else { return };
        sent.is_settled = true;
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            let detail = format!("The service of `{}` is not running.", self.endpoint);
            sent.refuse(&unavailable(&detail));
        }
        let answers: Vec<Bundled<'_>> =
            serde_json::from_slice(&message.payload).unwrap_or_default();
        for Bundled { at, status, body } in answers {
            let caller = sent.callers.get_mut(at).and_then(Option::take);
            let body = message.payload.slice_ref(body.get().as_bytes());
            if let Some(caller) = caller {
                // A caller that is gone needs no answer.
                let _ = caller.send(Ok(Answered { status, body }));
            }
        }
        if sent.callers.iter().all(Option::is_none) {
            self.bundles.remove(&number);
        }
    }

    /// Stops waiting for slow bundles, and drops those whose callers have timed out.
    fn expire(&mut self) {
        self.bundles.retain(|_, sent| {
            sent.is_settled |= sent.sent_at.elapsed() >= GATHER_MAX;
            sent.sent_at.elapsed() < COMMAND_TIMEOUT
        });
    }
}

impl Sent {
    fn refuse(&mut self, problem: &Problem) {
        for caller in self.callers.iter_mut().filter_map(Option::take) {
            let _ = caller.send(Err(problem.clone()));
        }
    }
}

fn number_of(subject: &Subject) -> Option<u64> {
    subject.rsplit_once('.')?.1.parse().ok()
}

/// The commands of a bundle.
///
/// # Errors
/// `bad_request` when it cannot be read.
pub(crate) fn unpack(payload: &[u8]) -> Result<Vec<Packed>, Problem> {
    serde_json::from_slice(payload).map_err(|error| {
        let (line, column) = (error.line(), error.column());
        let detail = format!("Line {line}, column {column}: the body is not a bundle of commands.");
        Problem::new(codes::BAD_REQUEST, detail).with("line", line).with("column", column)
    })
}

/// The bundlers, by endpoint.
pub struct Bundlers(HashMap<&'static str, Bundler>);

impl Bundlers {
    /// Starts one for each endpoint.
    pub fn start(
        link: &Link,
        endpoints: impl IntoIterator<Item = (&'static str, Option<UnderWay>)>,
    ) -> Self {
        let start =
            |(endpoint, under_way)| (endpoint, Bundler::start(link.clone(), endpoint, under_way));
        Self(endpoints.into_iter().map(start).collect())
    }

    /// The bundler of an endpoint, if it has one.
    pub fn of(&self, endpoint: &str) -> Option<&Bundler> {
        self.0.get(endpoint)
    }
}
