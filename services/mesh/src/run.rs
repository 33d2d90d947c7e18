//! Starting and stopping one service.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use events::user::Role;
use tokio::sync::{Mutex, Notify, mpsc::UnboundedReceiver, watch};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    Allow, Kept, Link, MeshClient, Meta, Service, Wiring,
    batch::worker::Worker,
    failpoint::Failpoints,
    health::Health,
    housekeeping::Housekeeping,
    inbound::agreement::{Agreement, Reached},
    inbound::consumer::{Consumer, Table},
    inbound::endpoint::Endpoints,
    inbound::follower::Follower,
    inbound::intake::{Intake, Taken},
    inbound::micro::Micro,
    inbound::timer::TimerTask,
    kept,
    metrics::{DeclaredMetrics, OfService, Sampler, next_number},
    nats::link::stream_of,
    outbound::publisher::{HandOff, Handed, Publisher, SweepRequests, missed},
    parked::{endpoints::DeadLetterEndpoints, retry::Retrier},
    service::{
        Declared, EndpointSpec, Followed, How, Measured, Pace, query_context::AnyQueryContext,
    },
    store::engine::{Engine, Failure},
    supervise::Tasks,
};

/// Batch workers of a service: one loads while another commits.
const WORKERS: usize = 2;
/// How long a shutdown waits for the inputs to stop, …
const INPUTS_WITHIN: Duration = Duration::from_secs(6);
/// … for the running batches, …
const WORKERS_WITHIN: Duration = Duration::from_secs(4);
/// … and for the publisher. All of it takes a moment unless a server is silent; then the effect
/// is that of a kill, and the messages are redelivered.
const OUTPUTS_WITHIN: Duration = Duration::from_secs(6);

/// The endpoints of operators that every service has that consumes events.
const DEAD_LETTER_ENDPOINTS: [&str; 3] = ["mesh.letters", "mesh.redrive", "mesh.discard"];

/// A running service.
pub struct Running {
    wiring: Wiring,
    link: Link,
    health: Health,
    failpoints: Arc<Failpoints>,
    /// Stops the inputs.
    intake_stop: CancellationToken,
    /// Stops the publisher, once no batch can emit any more.
    publisher_stop: CancellationToken,
    inputs: Tasks,
    workers: Tasks,
    outputs: Tasks,
}

impl Running {
    /// The service.
    pub fn name(&self) -> &'static str {
        self.wiring.service
    }

    /// What it declares of itself.
    pub fn wiring(&self) -> &Wiring {
        &self.wiring
    }

    /// Whether it can do its work, and what it has done.
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Its failpoints.
    pub fn failpoints(&self) -> &Failpoints {
        &self.failpoints
    }

    /// Its connection.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Waits for the first check of its store: it takes nothing in before that.
    pub async fn store_checked(&self) {
        // Fails only when the health is gone.
        let mut serving = self.health.serving();
        let _ = serving.wait_for(Option::is_some).await.map(drop);
    }

    /// Rebuilds a store of this service whenever it has lost its data, for as long as the service
    /// runs.
    pub fn keep_rebuilt<K: Kept>(self, store: K) -> Self {
        let (kept, client) = (Arc::new(store), MeshClient::new(self.link.clone()));
        let stop = self.intake_stop.clone();
        self.inputs.keep(self.name(), "rebuilding", stop.clone(), move || {
            let (kept, client, stop) = (kept.clone(), client.clone(), stop.clone());
            async move {
                kept::keep(&*kept, &client, stop).await;
                Ok::<(), Failure>(())
            }
        });
        self
    }

    /// Stops in order: takes nothing more in, finishes the running batches, publishes what they
    /// emitted, and disconnects. A server that is silent does not delay it for long.
    pub async fn stop(self) {
        self.intake_stop.cancel();
        let mut is_orderly = self.inputs.end(INPUTS_WITHIN).await;
        is_orderly &= self.workers.end(WORKERS_WITHIN).await;
        self.publisher_stop.cancel();
        is_orderly &= self.outputs.end(OUTPUTS_WITHIN).await;
        self.link.drain().await;
        match is_orderly {
            true => info!(service = self.name(), "stopped"),
            false => warn!(service = self.name(), "stopped; unfinished messages are redelivered"),
        }
    }

    /// Stops like a killed process: at once, with unfinished work.
    pub fn abandon(self) {
        self.intake_stop.cancel();
        self.publisher_stop.cancel();
    }
}

/// Starts `service` on its engine and its connection.
pub fn start<E: Engine>(service: Service<E>, engine: Arc<E>, link: Link) -> Running {
    start_declared(service.declared, engine, link)
}

fn start_declared(service: Declared, engine: Arc<dyn Engine>, link: Link) -> Running {
    let (intake, taken) = Intake::new();
    let health = Health::new(metrics_of(&service, &link));
    let running = Running {
        wiring: service.wiring(),
        link: link.clone(),
        health,
        failpoints: engine.store().failpoints(),
        intake_stop: CancellationToken::new(),
        publisher_stop: CancellationToken::new(),
        inputs: Tasks::default(),
        workers: Tasks::default(),
        outputs: Tasks::default(),
    };
    let (hand_off, handed) = HandOff::new();
    let (parked, reached) = (Arc::new(Notify::new()), Reached::default());
    start_workers(&running, &engine, (&intake, taken), &hand_off, &parked, &reached);
    if service.emits() {
        start_publisher(&running, &engine, handed);
    }
    let only_listens = service.only_listens();
    let mut endpoints = service.endpoints;
    if !service.consumed.is_empty() {
        let consumed: Arc<Table> = Arc::new(service.consumed.into_iter().collect());
        start_consumers(&running, &consumed, service.pace, &intake);
        start_agreement(&running, &engine, &consumed, reached);
        endpoints.extend(start_retrier(
            &running,
            &engine,
            consumed,
            hand_off,
            parked,
            only_listens,
        ));
    }
    let endpoints = Arc::new(endpoints);
    let ctx = query_context(&running, &endpoints, &engine, &intake);
    start_endpoints(&running, endpoints, ctx.clone(), &intake);
    if let Some(followed) = service.followed {
        start_follower(&running, followed, ctx);
    }
    for timer in service.timers {
        let task = Arc::new(TimerTask {
            name: timer.name,
            every: timer.every,
            pace: service.pace,
            emits: timer.emits,
            due: timer.due,
            engine: engine.clone(),
            intake: intake.clone(),
        });
        let stop = running.intake_stop.clone();
        running.inputs.keep(running.name(), timer.name, stop.clone(), move || {
            let (task, stop) = (task.clone(), stop.clone());
            async move { task.run(stop).await }
        });
    }
    start_housekeeping(&running, &engine);
    start_sampler(&running, &engine, service.measured);
    running
}

/// The counters of a service.
fn metrics_of(service: &Declared, link: &Link) -> OfService {
    let wiring = service.wiring();
    let outside = service.endpoints.values().filter(|spec| spec.allow != Allow::Inside);
    let mut endpoints: Vec<&str> = outside.map(|spec| spec.endpoint).collect();
    if !service.consumed.is_empty() {
        endpoints.extend(DEAD_LETTER_ENDPOINTS);
    }
    let consumed = wiring.consumes.iter().map(|(event, _)| *event);
    let declared = DeclaredMetrics {
        taken_in: consumed.chain(wiring.follows.iter().copied()).collect(),
        emits: wiring.emits().collect(),
        endpoints,
        ..service.measured.declared()
    };
    OfService::new(link.metrics(), link.service(), &declared)
}

/// Reads what lies in the store and the broker, for the gauges.
fn start_sampler(running: &Running, engine: &Arc<dyn Engine>, measured: Measured) {
    let sampler = Arc::new(Sampler {
        engine: engine.clone(),
        link: running.link.clone(),
        health: running.health.clone(),
        emits: running.wiring.emits().next().is_some(),
        producers: running.wiring.consumed_streams().into_iter().collect(),
        reads: running.wiring.read_streams().into_iter().collect(),
        own: measured.read,
        number: next_number(),
    });
    let stop = running.intake_stop.clone();
    sampler.declare(measured.gauges, &stop);
    running.inputs.keep(running.name(), "metrics", stop.clone(), move || {
        let (sampler, stop) = (sampler.clone(), stop.clone());
        async move { sampler.run(stop).await }
    });
}

fn start_workers(
    running: &Running,
    engine: &Arc<dyn Engine>,
    (intake, taken): (&Intake, UnboundedReceiver<Taken>),
    hand_off: &HandOff,
    parked: &Arc<Notify>,
    reached: &Reached,
) {
    let taken = Arc::new(Mutex::new(taken));
    let (batches, last_events) = (watch::Sender::new(0), Arc::default());
    for _ in 0..WORKERS {
        let worker = Arc::new(Worker {
            engine: engine.clone(),
            link: running.link.clone(),
            taken: taken.clone(),
            running: batches.clone(),
            last_events: Arc::clone(&last_events),
            intake: intake.downgrade(),
            hand_off: hand_off.clone(),
            parked: parked.clone(),
            reached: reached.clone(),
            health: running.health.clone(),
            failpoints: engine.store().failpoints(),
            stop: running.intake_stop.clone(),
        });
        let stop = running.intake_stop.clone();
        running.workers.keep(running.name(), "worker", stop, move || {
            let worker = worker.clone();
            async move { worker.run().await }
        });
    }
}

fn start_publisher(running: &Running, engine: &Arc<dyn Engine>, handed: Handed) {
    let publisher = Arc::new(Publisher {
        engine: engine.clone(),
        link: running.link.clone(),
        handed: Arc::new(Mutex::new(handed)),
        health: running.health.clone(),
        failpoints: engine.store().failpoints(),
        sweeps: SweepRequests::default(),
        instance: Uuid::now_v7(),
    });
    let stop = running.publisher_stop.clone();
    running.outputs.keep(running.name(), "publisher", stop.clone(), move || {
        let (publisher, stop) = (publisher.clone(), stop.clone());
        async move { publisher.run(stop).await }
    });
    let (engine, link, health) = (engine.clone(), running.link.clone(), running.health.clone());
    let stop = running.intake_stop.clone();
    running.inputs.keep(running.name(), "missed", stop.clone(), move || {
        let serving = missed::serve(engine.clone(), link.clone(), health.clone());
        let stop = stop.clone();
        async move {
            tokio::select! {
                () = stop.cancelled() => Ok(()),
                served = serving => served,
            }
        }
    });
}

/// Records how far each stream was consumed, and checks that it is still the same stream.
fn start_agreement(
    running: &Running,
    engine: &Arc<dyn Engine>,
    consumed: &Arc<Table>,
    reached: Reached,
) {
    let agreement = Arc::new(Agreement {
        link: running.link.clone(),
        engine: engine.clone(),
        streams: streams_of(consumed).into_iter().collect(),
        reached,
    });
    // It runs for as long as messages are acknowledged.
    let stop = running.publisher_stop.clone();
    running.outputs.keep(running.name(), "agreement", stop.clone(), move || {
        let (agreement, stop) = (agreement.clone(), stop.clone());
        async move { agreement.run(stop).await }
    });
}

/// The streams of the events that are consumed.
fn streams_of(consumed: &Table) -> BTreeSet<String> {
    consumed.keys().map(|event| stream_of(events::producer_of(event))).collect()
}

/// One durable consumer for each stream that has an event the service consumes.
fn start_consumers(running: &Running, consumed: &Arc<Table>, pace: Pace, intake: &Intake) {
    for stream in streams_of(consumed) {
        let consumer = Arc::new(Consumer {
            link: running.link.clone(),
            stream,
            consumed: consumed.clone(),
            pace,
            intake: intake.clone(),
            health: running.health.clone(),
        });
        let stop = running.intake_stop.clone();
        running.inputs.keep(running.name(), "consumer", stop.clone(), move || {
            let (consumer, stop) = (consumer.clone(), stop.clone());
            async move { consumer.run(stop).await }
        });
    }
}

/// Starts the retrier of parked events. Returns the dead-letter endpoints for operators, which
/// every service that consumes events has.
fn start_retrier(
    running: &Running,
    engine: &Arc<dyn Engine>,
    consumed: Arc<Table>,
    hand_off: HandOff,
    parked: Arc<Notify>,
    only_listens: bool,
) -> Vec<(&'static str, EndpointSpec)> {
    let retrier = Arc::new(Retrier {
        engine: engine.clone(),
        link: running.link.clone(),
        consumed,
        hand_off,
        parked,
        health: running.health.clone(),
        shutdown: running.intake_stop.clone(),
        only_listens,
    });
    let (stop, running_on) = (running.intake_stop.clone(), retrier.clone());
    running.inputs.keep(running.name(), "parked events", stop, move || {
        let retrier = running_on.clone();
        async move { retrier.run().await }
    });
    let endpoints = Arc::new(DeadLetterEndpoints(retrier));
    DEAD_LETTER_ENDPOINTS
        .into_iter()
        .map(|endpoint| {
            let endpoints = endpoints.clone();
            let how = How::Read(Arc::new(move |_, body: Bytes, _, meta: Meta| {
                let endpoints = endpoints.clone();
                Box::pin(async move {
                    match endpoint {
                        "mesh.redrive" => endpoints.redrive(&body, &meta).await,
                        "mesh.discard" => endpoints.discard(&body, &meta).await,
                        _ => endpoints.find(&body).await,
                    }
                })
            }));
            let allow = Allow::Role(Role::Operator);
            (endpoint, EndpointSpec { endpoint, allow, status: 200, emits: &[], how })
        })
        .collect()
}

/// The endpoints of a service by name.
type EndpointTable = BTreeMap<&'static str, EndpointSpec>;

fn query_context(
    running: &Running,
    endpoints: &Arc<EndpointTable>,
    engine: &Arc<dyn Engine>,
    intake: &Intake,
) -> AnyQueryContext {
    let table = endpoints.clone();
    let emits = Arc::new(move |endpoint: &'static str| {
        table.get(endpoint).map_or(&[][..], |spec| spec.emits)
    });
    AnyQueryContext {
        engine: engine.clone(),
        intake: intake.clone(),
        link: running.link.clone(),
        emits,
    }
}

fn start_follower(running: &Running, followed: Followed, ctx: AnyQueryContext) {
    let follower = Arc::new(Follower {
        link: running.link.clone(),
        ctx,
        followed,
        health: running.health.clone(),
    });
    let stop = running.intake_stop.clone();
    running.inputs.keep(running.name(), "follower", stop.clone(), move || {
        let (follower, stop) = (follower.clone(), stop.clone());
        async move { follower.run(stop).await }
    });
}

fn start_endpoints(
    running: &Running,
    endpoints: Arc<EndpointTable>,
    ctx: AnyQueryContext,
    intake: &Intake,
) {
    let endpoints = Arc::new(Endpoints {
        micro: Micro::new(running.name(), &endpoints),
        link: running.link.clone(),
        endpoints,
        intake: intake.clone(),
        ctx,
        health: running.health.clone(),
        queries: running.inputs.clone(),
    });
    let stop = running.intake_stop.clone();
    running.inputs.keep(running.name(), "endpoints", stop.clone(), move || {
        let (endpoints, stop) = (endpoints.clone(), stop.clone());
        async move { endpoints.run(stop).await }
    });
}

/// Starts the checks of the store and the broker.
fn start_housekeeping(running: &Running, engine: &Arc<dyn Engine>) {
    let house = Arc::new(Housekeeping {
        engine: engine.clone(),
        link: running.link.clone(),
        health: running.health.clone(),
    });
    let stop = running.intake_stop.clone();
    for (name, is_store) in [("housekeeping", true), ("broker watch", false)] {
        let (house, stop) = (house.clone(), stop.clone());
        running.inputs.keep(running.name(), name, stop.clone(), move || {
            let (house, stop) = (house.clone(), stop.clone());
            async move {
                let kept = async {
                    match is_store {
                        true => house.keep_store().await,
                        false => house.watch_broker().await,
                    }
                };
                tokio::select! {
                    () = stop.cancelled() => Ok::<(), Failure>(()),
                    () = kept => Ok(()),
                }
            }
        });
    }
}
