//! The state that all HTTP handlers share: the mesh client, limits and subscriptions.

use std::{
    cell::Cell,
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use axum::{extract::Request, http::HeaderMap, response::Response};
use bytes::Bytes;
use events::{
    Command, Problem, SagaId, Timestamp, UserId, audit::SagaState, codes, payment::Pay,
    queue::Enter, reservation::Reserve,
};
use mesh::{Answered, Bundlers, Caller, Link, MeshClient, RequestHeaders, clock, trace::Here};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    http::{
        call::{Call, Head, json},
        limits::Limits,
        measured::{Measured, Shed},
        problem::{Copies, Refused, answer},
        readiness::Readiness,
    },
    live::{
        hub::Hub,
        running::{Full, Running},
        seat_hub::SeatHub,
        wait::Waiters,
    },
    settings::Settings,
};

/// Commands and queries in flight at once; more are turned away.
const REQUESTS_MAX: usize = 8_192;
/// Endpoints that a crowd uses at once, beside payments: the requests that wait for one of them are
/// sent together.
const BUNDLED: [&str; 2] = [Reserve::ENDPOINT, Enter::ENDPOINT];
/// Event streams open at once; more are turned away.
const FOLLOWERS_MAX: usize = 10_000;
/// Seat plans that are read at once; each may take some copies of 8 MiB.
const PLANS_MAX: usize = 4;
/// How long one more may wait.
const PLAN_WAIT: Duration = Duration::from_secs(10);

tokio::task_local! {
    /// What the current request has learned of its saga, for the request's span; set only where
    /// there is a span.
    pub(crate) static NOTED: Cell<Noted>;
}

/// What a request has learned of the saga that it starts.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Noted {
    /// The saga.
    pub(crate) saga_id: Option<Uuid>,
    /// How it has ended, where the request has waited for that.
    pub(crate) outcome: Option<(SagaState, Option<&'static str>)>,
}

/// Notes how the saga of the current request has ended, and why.
pub(crate) fn note_outcome(outcome: SagaState, reason: Option<&'static str>) {
    let _ = NOTED.try_with(|noted| {
        noted.set(Noted { outcome: Some((outcome, reason)), ..noted.get() });
    });
}

/// The gateway's state; cheap to clone.
#[derive(Clone)]
pub(crate) struct Edge(Arc<Inner>);

struct Inner {
    link: Link,
    client: MeshClient,
    bundlers: Bundlers,
    waiters: Arc<Waiters>,
    running: Arc<Running>,
    hub: Arc<Hub>,
    seats: Arc<SeatHub>,
    limits: Limits,
    readiness: Readiness,
    in_flight: AtomicUsize,
    followers: Arc<Semaphore>,
    measured: Measured,
    plans: Arc<Semaphore>,
    shutdown: CancellationToken,
}

impl Edge {
    pub(crate) fn new(
        link: Link,
        settings: &Settings,
        readiness: Readiness,
        shutdown: CancellationToken,
    ) -> Self {
        let (client, measured) = (MeshClient::new(link.clone()), Measured::new(&link));
        let running = Arc::new(Running::new(settings.payments_at_once));
        // Payments are begun by one service and finished by others.
        let payments = (Pay::ENDPOINT, Some(running.under_way()));
        let bundled = BUNDLED.map(|endpoint| (endpoint, None)).into_iter().chain([payments]);
        let followers = Arc::new(Semaphore::new(FOLLOWERS_MAX));
        measured.watch(&link, &followers, FOLLOWERS_MAX);
        Self(Arc::new(Inner {
            bundlers: Bundlers::start(&link, bundled),
            hub: Arc::new(Hub::new(client.clone())),
            seats: Arc::new(SeatHub::new(client.clone(), shutdown.clone())),
            waiters: Arc::default(),
            running,
            limits: Limits::new(settings),
            readiness,
            in_flight: AtomicUsize::new(0),
            followers,
            measured,
            plans: Arc::new(Semaphore::new(PLANS_MAX)),
            link,
            client,
            shutdown,
        }))
    }

    pub(crate) fn link(&self) -> &Link {
        &self.0.link
    }

    pub(crate) fn client(&self) -> &MeshClient {
        &self.0.client
    }

    pub(crate) fn waiters(&self) -> &Arc<Waiters> {
        &self.0.waiters
    }

    pub(crate) fn running(&self) -> &Arc<Running> {
        &self.0.running
    }

    /// Counts a payment that is about to be requested.
    ///
    /// # Errors
    /// `overloaded` when too many run.
    pub(crate) fn begin_payment(&self, payment: Uuid) -> Result<(), Problem> {
        let begun = self.0.running.begin(payment, Instant::now());
        begun.map_err(|Full| {
            self.0.measured.shed(Shed::Payments);
            overloaded()
        })
    }

    pub(crate) fn hub(&self) -> &Arc<Hub> {
        &self.0.hub
    }

    pub(crate) fn seats(&self) -> &Arc<SeatHub> {
        &self.0.seats
    }

    /// Counts a sign-up or log-in against the budget of its address.
    ///
    /// # Errors
    /// `rate_limited` with `retry_after_secs`.
    pub(crate) fn may_log_in(&self, peer: IpAddr, headers: &HeaderMap) -> Result<(), Problem> {
        let checked = self.0.limits.check(peer, headers);
        checked.inspect_err(|_| self.0.measured.shed(Shed::LoginRate))
    }

    pub(crate) fn measured(&self) -> &Measured {
        &self.0.measured
    }

    pub(crate) fn readiness(&self) -> &Readiness {
        &self.0.readiness
    }

    pub(crate) fn shutdown(&self) -> &CancellationToken {
        &self.0.shutdown
    }

    /// The user of a request's access token, and when it expires.
    ///
    /// # Errors
    /// `unauthenticated` or `token_expired`; `unavailable` when the keys cannot be read.
    pub(crate) async fn user_of(&self, head: &Head) -> Result<(UserId, Timestamp), Problem> {
        match self.0.link.verifier().access(head.token()?, clock::now()).await? {
            Caller::User { user_id, expires_at, .. } => Ok((user_id, expires_at)),
            Caller::Anonymous | Caller::Mesh => Err(codes::UNAUTHENTICATED.into()),
        }
    }

    /// The caller of a request whose body has not been read yet.
    ///
    /// # Errors
    /// As [`Edge::user_of`].
    pub(crate) async fn caller_of(
        &self,
        mut request: Request,
    ) -> Result<(Caller, Request), Problem> {
        let head = Head(std::mem::take(request.headers_mut()));
        let caller = self.0.link.verifier().access(head.token()?, clock::now()).await?;
        *request.headers_mut() = head.0;
        Ok((caller, request))
    }

    /// A permit for one more event stream.
    pub(crate) fn place_to_follow(&self) -> Result<OwnedSemaphorePermit, Problem> {
        self.0.followers.clone().try_acquire_owned().map_err(|_| {
            self.0.measured.shed(Shed::Streams);
            overloaded()
        })
    }

    /// A permit to read one more seat plan, once there is one.
    pub(crate) async fn place_for_plan(&self) -> Result<OwnedSemaphorePermit, Problem> {
        let place = self.0.plans.clone().acquire_owned();
        match tokio::time::timeout(PLAN_WAIT, place).await {
            Ok(Ok(place)) => Ok(place),
            Ok(Err(_)) | Err(_) => Err(overloaded()),
        }
    }

    /// Gives a command an id and sends it to its service.
    pub(crate) async fn send_command<C: Command>(
        &self,
        head: &Head,
        body: Bytes,
    ) -> Result<Answered, Refused> {
        self.send_command_as::<C>(head, body, Proposal::new(head)).await
    }

    /// Sends a command to its service, proposing an id for the entity that it creates.
    pub(crate) async fn send_command_as<C: Command>(
        &self,
        head: &Head,
        body: Bytes,
        id: Proposal,
    ) -> Result<Answered, Refused> {
        if let Some(saga_id) = id.becomes {
            Here::note_saga(SagaId(saga_id));
            let _ = NOTED.try_with(|noted| {
                noted.set(Noted { saga_id: id.becomes, ..noted.get() });
            });
        }
        self.send(C::ENDPOINT, body, head.for_command(Some(id.proposed))?).await
    }

    /// Sends a query to its service.
    pub(crate) async fn send_query<C: Command>(
        &self,
        head: &Head,
        query: &C,
    ) -> Result<Answered, Refused> {
        self.send(C::ENDPOINT, json(query), head.for_query()?).await
    }

    /// A command whose answer is the response.
    pub(crate) async fn command<C: Command>(
        &self,
        head: &Head,
        body: Bytes,
    ) -> Result<Response, Refused> {
        Ok(answer(self.send_command::<C>(head, body).await?, Copies::None))
    }

    /// A command whose body is the request's, and whose answer is the response.
    pub(crate) async fn make<C: Command>(&self, call: Call) -> Result<Response, Refused> {
        self.command::<C>(&call.head, call.body).await
    }

    /// A query whose answer is the response.
    pub(crate) async fn read<C: Command>(
        &self,
        head: &Head,
        query: &C,
        copies: Copies,
    ) -> Result<Response, Refused> {
        Ok(answer(self.send_query(head, query).await?, copies))
    }

    /// Sends a request to an endpoint that several services have: `cmd.<service>.<verb>`.
    pub(crate) async fn ask_service(
        &self,
        service: &str,
        verb: &str,
        body: Bytes,
        head: &Head,
    ) -> Result<Answered, Refused> {
        self.send(&format!("{service}.{verb}"), body, head.for_query()?).await
    }

    async fn send(
        &self,
        endpoint: &str,
        body: Bytes,
        headers: RequestHeaders<'_>,
    ) -> Result<Answered, Refused> {
        let begun = InFlight::begin(&self.0.in_flight);
        let _in_flight = begun.inspect_err(|_| self.0.measured.shed(Shed::Requests))?;
        if let Some(bundler) = self.0.bundlers.of(endpoint)
            && let Some(answered) = bundler.request(&body, headers).await
        {
            return Ok(answered?);
        }
        Ok(self.0.client.request(endpoint, body, headers).await?)
    }
}

/// The id that is proposed for the entity that a command creates.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Proposal {
    proposed: Uuid,
    /// The id that the service will derive from it; `None` for a caller without an account,
    /// whose proposal is ignored.
    pub(crate) becomes: Option<Uuid>,
}

impl Proposal {
    /// A new proposal for a request.
    pub(crate) fn new(head: &Head) -> Self {
        let proposed = clock::new_id();
        let user = head.token().ok().and_then(mesh::claimed_user);
        Self { proposed, becomes: user.map(|user| mesh::own_id(user, proposed)) }
    }
}

/// One request in flight.
struct InFlight<'a>(&'a AtomicUsize);

impl<'a> InFlight<'a> {
    fn begin(count: &'a AtomicUsize) -> Result<Self, Problem> {
        let request = Self(count);
        match count.fetch_add(1, Ordering::Relaxed) < REQUESTS_MAX {
            true => Ok(request),
            false => Err(overloaded()),
        }
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

fn overloaded() -> Problem {
    Problem::from(codes::OVERLOADED).with("retry_after_secs", 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_above_the_limit_is_turned_away_and_not_counted() {
        let count = AtomicUsize::new(0);
        let all: Vec<_> = (0..REQUESTS_MAX).map(|_| InFlight::begin(&count).unwrap()).collect();
        assert!(InFlight::begin(&count).is_err());
        assert_eq!(count.load(Ordering::Relaxed), REQUESTS_MAX);
        drop(all);
        assert_eq!(count.load(Ordering::Relaxed), 0);
    }
}
