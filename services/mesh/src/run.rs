//! Starting and stopping one service.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use events::user::Role;
use tokio::sync::{Mutex, Notify, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{
    Allow, Desk, Link, Service, Wiring,
    consumer::Consumer,
    dead_letter::{lot::Lot, redrive::Redriver},
    endpoint::Endpoints,
    engine::{Engine, Failure},
    failpoint::Failpoints,
    follower::Follower,
    health::Health,
    lane::Lane,
    link::stream_of,
    relay::Relay,
    service::{Asked, Followed, Heard, How},
    supervise::keep,
    timer::Ticking,
};

/// Batches at work at once: one loads while another commits.
const LANES: usize = 2;
/// Messages waiting for a lane at most; then commands are turned away and consumers wait.
const INTAKE_MESSAGES_MAX: usize = 2_000;
/// How often a service does its housekeeping.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// How often a store that went away is looked for.
const CHECK_EVERY: Duration = Duration::from_millis(500);

/// A running service.
pub struct Running {
    wiring: Wiring,
    link: Link,
    health: Health,
    failpoints: Arc<Failpoints>,
    /// Stops what takes messages in.
    intake_stop: CancellationToken,
    /// Stops what sends facts out, once nothing can be told any more.
    relay_stop: CancellationToken,
    inward: TaskTracker,
    lanes: TaskTracker,
    outward: TaskTracker,
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

    /// The places where it can be made to fail.
    pub fn failpoints(&self) -> &Failpoints {
        &self.failpoints
    }

    /// Its connection.
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Stops in order: takes nothing more in, finishes what was taken, publishes what was
    /// told, and leaves.
    pub async fn stop(self) {
        self.intake_stop.cancel();
        self.inward.close();
        self.inward.wait().await;
        self.lanes.close();
        self.lanes.wait().await;
        self.relay_stop.cancel();
        self.outward.close();
        self.outward.wait().await;
        self.link.drain().await;
        info!(service = self.name(), "stopped");
    }

    /// Stops as a killed process does: at once, with everything half done.
    pub fn abandon(self) {
        self.intake_stop.cancel();
        self.relay_stop.cancel();
    }
}

/// Starts `service` on its store and its connection.
pub fn start<E: Engine>(service: Service<E>, engine: Arc<E>, link: Link) -> Running {
    let (sender, receiver) = mpsc::channel(INTAKE_MESSAGES_MAX);
    let running = Running {
        wiring: service.wiring(),
        link: link.clone(),
        health: Health::default(),
        failpoints: engine.failpoints(),
        intake_stop: CancellationToken::new(),
        relay_stop: CancellationToken::new(),
        inward: TaskTracker::new(),
        lanes: TaskTracker::new(),
        outward: TaskTracker::new(),
    };
    let (wake, lot) = (Arc::new(Notify::new()), Arc::new(Lot::default()));
    start_lanes(&running, &engine, &wake, &lot, receiver, sender.downgrade());
    if service.tells() {
        start_relay(&running, &engine, &wake);
    }
    let mut asked = service.asked;
    if !service.heard.is_empty() {
        let heard: Arc<HashMap<_, _>> = Arc::new(service.heard.into_iter().collect());
        start_consumers(&running, &heard, service.is_unhurried, &lot, &sender);
        asked.extend(start_redriver(&running, heard, lot, &sender));
    }
    let asked = Arc::new(asked);
    let desk = desk(&running, &asked, &engine, &sender);
    start_endpoints(&running, asked, desk.clone(), &sender);
    if let Some(followed) = service.followed {
        start_follower(&running, followed, desk);
    }
    for timer in service.timers {
        let ticking = Arc::new(Ticking {
            name: timer.name,
            every: timer.every,
            tells: timer.tells,
            due: timer.due,
            engine: engine.clone(),
            intake: sender.clone(),
            is_unhurried: service.is_unhurried,
        });
        let stop = running.intake_stop.clone();
        keep(&running.inward, running.name(), timer.name, stop.clone(), move || {
            let (ticking, stop) = (ticking.clone(), stop.clone());
            async move { ticking.run(stop).await }
        });
    }
    start_housekeeping(&running, &engine);
    running
}

fn start_lanes<E: Engine>(
    running: &Running,
    engine: &Arc<E>,
    wake: &Arc<Notify>,
    lot: &Arc<Lot>,
    receiver: mpsc::Receiver<crate::Work<E::Deed>>,
    again: mpsc::WeakSender<crate::Work<E::Deed>>,
) {
    let intake = Arc::new(Mutex::new(receiver));
    for _ in 0..LANES {
        let lane = Arc::new(Lane {
            engine: engine.clone(),
            link: running.link.clone(),
            intake: intake.clone(),
            again: again.clone(),
            wake_relay: wake.clone(),
            lot: lot.clone(),
            health: running.health.clone(),
            failpoints: engine.failpoints(),
        });
        let stop = running.intake_stop.clone();
        keep(&running.lanes, running.name(), "lane", stop, move || {
            let lane = lane.clone();
            async move { lane.run().await }
        });
    }
}

fn start_relay<E: Engine>(running: &Running, engine: &Arc<E>, wake: &Arc<Notify>) {
    let relay = Arc::new(Relay {
        engine: engine.clone(),
        link: running.link.clone(),
        wake: wake.clone(),
        health: running.health.clone(),
        failpoints: engine.failpoints(),
    });
    let stop = running.relay_stop.clone();
    keep(&running.outward, running.name(), "relay", stop.clone(), move || {
        let (relay, stop) = (relay.clone(), stop.clone());
        async move { relay.run(stop).await }
    });
}

/// One durable consumer for each stream that has a fact the service hears.
fn start_consumers<E: Engine>(
    running: &Running,
    heard: &Arc<HashMap<&'static str, Heard<E>>>,
    is_unhurried: bool,
    lot: &Arc<Lot>,
    sender: &mpsc::Sender<crate::Work<E::Deed>>,
) {
    let streams: BTreeSet<String> =
        heard.keys().map(|fact| stream_of(events::producer_of(fact))).collect();
    for stream in streams {
        let consumer = Arc::new(Consumer {
            link: running.link.clone(),
            stream,
            heard: heard.clone(),
            is_unhurried,
            intake: sender.clone(),
            lot: lot.clone(),
            health: running.health.clone(),
        });
        let stop = running.intake_stop.clone();
        keep(&running.inward, running.name(), "consumer", stop.clone(), move || {
            let (consumer, stop) = (consumer.clone(), stop.clone());
            async move { consumer.run(stop).await }
        });
    }
}

/// Moves the lines behind dead letters on, and answers operators for them: endpoints that
/// every service has which hears anything.
fn start_redriver<E: Engine>(
    running: &Running,
    heard: Arc<HashMap<&'static str, Heard<E>>>,
    lot: Arc<Lot>,
    sender: &mpsc::Sender<crate::Work<E::Deed>>,
) -> [(&'static str, Asked<E>); 2] {
    let redriver = Arc::new(Redriver {
        link: running.link.clone(),
        lot,
        heard,
        intake: sender.clone(),
        shutdown: running.intake_stop.clone(),
    });
    let (stop, running_on) = (running.intake_stop.clone(), redriver.clone());
    keep(&running.inward, running.name(), "dead letters", stop, move || {
        let redriver = running_on.clone();
        async move { redriver.run().await }
    });
    let endpoint = |endpoint, how| {
        let allow = Allow::Role(Role::Operator);
        (endpoint, Asked { endpoint, allow, status: 200, tells: &[], how: How::Read(how) })
    };
    let discarding = redriver.clone();
    [
        endpoint(
            "mesh.redrive",
            Arc::new(move |_, body, meta| {
                let redriver = redriver.clone();
                Box::pin(async move { redriver.redrive(&body, &meta).await })
            }),
        ),
        endpoint(
            "mesh.discard",
            Arc::new(move |_, body, meta| {
                let redriver = discarding.clone();
                Box::pin(async move { redriver.discard(&body, &meta).await })
            }),
        ),
    ]
}

/// The endpoints of a service by name.
type Table<E> = BTreeMap<&'static str, crate::service::Asked<E>>;

fn desk<E: Engine>(
    running: &Running,
    asked: &Arc<Table<E>>,
    engine: &Arc<E>,
    sender: &mpsc::Sender<crate::Work<E::Deed>>,
) -> Desk<E> {
    let table = asked.clone();
    let tells = Arc::new(move |endpoint: &'static str| {
        table.get(endpoint).map_or(&[][..], |asked| asked.tells)
    });
    Desk { engine: engine.clone(), intake: sender.clone(), link: running.link.clone(), tells }
}

fn start_follower<E: Engine>(running: &Running, followed: Followed<E>, desk: Desk<E>) {
    let follower = Arc::new(Follower {
        link: running.link.clone(),
        desk,
        followed,
        health: running.health.clone(),
    });
    let stop = running.intake_stop.clone();
    keep(&running.inward, running.name(), "follower", stop.clone(), move || {
        let (follower, stop) = (follower.clone(), stop.clone());
        async move { follower.run(stop).await }
    });
}

fn start_endpoints<E: Engine>(
    running: &Running,
    asked: Arc<Table<E>>,
    desk: Desk<E>,
    sender: &mpsc::Sender<crate::Work<E::Deed>>,
) {
    let endpoints = Arc::new(Endpoints {
        link: running.link.clone(),
        asked,
        intake: sender.clone(),
        desk,
        health: running.health.clone(),
        reads: running.inward.clone(),
    });
    let stop = running.intake_stop.clone();
    keep(&running.inward, running.name(), "endpoints", stop.clone(), move || {
        let (endpoints, stop) = (endpoints.clone(), stop.clone());
        async move { endpoints.run(stop).await }
    });
}

/// Looks after the store: finds it again when it was away, tidies it once a minute.
fn start_housekeeping<E: Engine>(running: &Running, engine: &Arc<E>) {
    let (engine, health, name) = (engine.clone(), running.health.clone(), running.name());
    let stop = running.intake_stop.clone();
    keep(&running.inward, running.name(), "housekeeping", stop.clone(), move || {
        let (engine, health, stop) = (engine.clone(), health.clone(), stop.clone());
        async move {
            if let Err(error) = engine.check().await {
                warn!(service = name, %error, "the store does not answer yet");
                health.store(false);
            }
            let mut tidy_at = tokio::time::Instant::now() + TIDY_EVERY;
            loop {
                tokio::select! {
                    () = stop.cancelled() => return Ok::<(), Failure>(()),
                    () = tokio::time::sleep(CHECK_EVERY) => {}
                }
                if !health.store_is_up() && engine.check().await.is_ok() {
                    info!(service = name, "the store answers again");
                    health.store(true);
                }
                if tokio::time::Instant::now() >= tidy_at {
                    tidy_at = tokio::time::Instant::now() + TIDY_EVERY;
                    if let Err(error) = engine.tidy().await {
                        warn!(service = name, %error, "housekeeping failed");
                    }
                }
            }
        }
    });
}
