//! Reads what lies in the store and the broker, every few seconds and not for each text.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use events::Timestamp;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::{
    gauges::{Points, Sample},
    metric::Metric,
};
use crate::{
    Link, MeshClient, Unread,
    deadline::within,
    health::Health,
    nats::link::{BROKER, stream_of},
    store::engine::{Engine, Failure},
};

/// How often everything is read.
const EVERY: Duration = Duration::from_secs(5);
/// How long it may take: then it counts as unreadable.
const WITHIN: Duration = Duration::from_secs(4);

static UNPUBLISHED: Metric = Metric::gauge(
    "onsale_outbox_unpublished",
    "Events in the outbox that are not published yet; counted up to some thousands",
    &[],
);
static OLDEST: Metric = Metric::gauge(
    "onsale_outbox_oldest_seconds",
    "Age of the oldest message that is not published yet, 0 when there is none",
    &[],
);
static PARKED: Metric = Metric::gauge(
    "onsale_parked_events",
    "Parked events that are retried or wait behind another; counted up to some thousands",
    &[],
);
static DEAD: Metric =
    Metric::gauge("onsale_dead_letters", "Dead letters that an operator has to decide about", &[]);
static PENDING: Metric = Metric::gauge(
    "onsale_consumer_pending",
    "Messages of the stream of `producer` that were not delivered to the service yet",
    &["producer"],
);
static ACK_PENDING: Metric = Metric::gauge(
    "onsale_consumer_ack_pending",
    "Messages that were delivered to the service and are not acknowledged yet",
    &["producer"],
);
static REDELIVERED: Metric = Metric::gauge(
    "onsale_consumer_redelivered",
    "Unacknowledged messages that were delivered more than once",
    &["producer"],
);
/// How many messages a reader by position has before it.
pub static READER_UNREAD: Metric = Metric::gauge(
    "onsale_reader_unread",
    "Messages of the stream of `producer` that the service, which reads it by position, has not \
     taken in yet",
    &["producer"],
);
/// How long the first of them has waited.
pub static READER_OLDEST: Metric = Metric::gauge(
    "onsale_reader_oldest_seconds",
    "Age of the oldest of these messages, 0 when there is none",
    &["producer"],
);
static CONNECTIONS: Metric = Metric::gauge(
    "onsale_pool_connections",
    "Connections to the service's database, idle or in use",
    &["state"],
);
static STORE_UP: Metric =
    Metric::state("onsale_store_up", "Whether the store of the service can be used");
/// Whether a service is connected to the broker.
pub static CONNECTED: Metric =
    Metric::state("onsale_broker_connected", "Whether the service is connected to the broker");
/// Whether a service can do its work.
pub static READY: Metric =
    Metric::state("onsale_ready", "Whether the service can do its work, as /readyz says");

/// What a service reads itself.
pub(crate) type SampleFn = dyn Fn(Arc<dyn Engine>) -> Pin<Box<dyn Future<Output = Result<Vec<Sample>, Failure>> + Send>>
    + Send
    + Sync;

/// The sampler of one service.
pub(crate) struct Sampler {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) link: Link,
    pub(crate) health: Health,
    /// Whether it has an outbox.
    pub(crate) emits: bool,
    /// The services whose streams it consumes.
    pub(crate) producers: Vec<&'static str>,
    /// The services whose streams it reads by position.
    pub(crate) reads: Vec<&'static str>,
    /// What it reads itself.
    pub(crate) own: Option<Arc<SampleFn>>,
    /// By it the halves of a service differ that has two.
    pub(crate) number: usize,
}

/// A number for the next sampler of this process.
pub(crate) fn next_number() -> usize {
    static LAST: AtomicUsize = AtomicUsize::new(0);
    LAST.fetch_add(1, Relaxed) + 1
}

impl Sampler {
    /// Exports what is at hand for each text, from now on.
    pub(crate) fn declare(&self, own: &[&'static Metric], stop: &CancellationToken) {
        let metrics = self.link.metrics();
        metrics.declare(&[&STORE_UP, &CONNECTED, &READY, &CONNECTIONS]);
        metrics.declare(own);
        if self.emits {
            metrics.declare(&[&UNPUBLISHED, &OLDEST]);
        }
        if !self.producers.is_empty() {
            metrics.declare(&[&PENDING, &ACK_PENDING, &REDELIVERED, &PARKED, &DEAD]);
        }
        if !self.reads.is_empty() {
            metrics.declare(&[&READER_UNREAD, &READER_OLDEST]);
        }
        let (engine, link, health) = (self.engine.clone(), self.link.clone(), self.health.clone());
        let stop = stop.clone();
        metrics.at_each_text(move |points| {
            let is = |metric: &'static Metric, yes: bool| metric.is(u8::from(yes));
            let (service, is_whole) = (link.service(), link.is_whole());
            points.add(service, &is(&STORE_UP, health.is_checked() && health.is_store_up()));
            points.add(service, &is(&CONNECTED, is_whole));
            points.add(service, &is(&READY, is_whole && health.is_ready()));
            add_pool(points, service, &*engine);
            !stop.is_cancelled()
        });
    }

    /// Reads until shutdown.
    pub(crate) async fn run(&self, stop: CancellationToken) -> Result<(), Failure> {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                _ = ticks.tick() => {}
            }
            let read = async {
                tokio::join!(
                    self.read("store", self.of_store()),
                    self.read("broker", self.of_broker()),
                    self.read("streams", self.of_streams()),
                    self.read("service", self.of_service()),
                );
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = read => {}
            }
        }
    }

    /// Keeps what is read from a source, or that it could not be read. Others report why.
    async fn read(
        &self,
        source: &'static str,
        samples: impl Future<Output = Result<Vec<Sample>, Failure>> + Send,
    ) {
        let (metrics, of) = (self.link.metrics(), (self.link.service(), source, self.number));
        match within(WITHIN, source, samples).await {
            Ok(Ok(samples)) if samples.is_empty() => {}
            Ok(Ok(samples)) => metrics.sampled(of, Some(samples)),
            Ok(Err(_)) | Err(_) => metrics.sampled(of, None),
        }
    }

    async fn of_store(&self) -> Result<Vec<Sample>, Failure> {
        let (store, mut samples) = (self.engine.store(), Vec::new());
        if self.emits {
            let backlog = store.backlog().await?;
            samples.extend([UNPUBLISHED.is(backlog.events as f64), OLDEST.is(age(backlog.since))]);
        }
        if !self.producers.is_empty() {
            let open = store.parked_open().await?;
            samples.extend([PARKED.is(open.waiting as f64), DEAD.is(open.dead as f64)]);
        }
        Ok(samples)
    }

    async fn of_broker(&self) -> Result<Vec<Sample>, Failure> {
        let mut samples = Vec::new();
        if !self.link.is_connected() && !self.producers.is_empty() {
            return Err(Failure::Unavailable(format!("{BROKER} is away")));
        }
        for producer in &self.producers {
            let lag = self.link.consumer_lag(&stream_of(producer)).await?;
            samples.extend([
                PENDING.is_for([producer], lag.pending as f64),
                ACK_PENDING.is_for([producer], lag.ack_pending as f64),
                REDELIVERED.is_for([producer], lag.redelivered as f64),
            ]);
        }
        Ok(samples)
    }

    /// How far it is behind where it reads by position. The position is in its store: every
    /// instance knows it, whichever of them reads.
    async fn of_streams(&self) -> Result<Vec<Sample>, Failure> {
        if self.reads.is_empty() {
            return Ok(Vec::new());
        }
        let positions = self.engine.store().positions().await?;
        // It has never read anything: an export without a target reads nothing.
        if positions.0.is_empty() {
            return Ok(Vec::new());
        }
        let client = MeshClient::new(self.link.clone());
        let unread = self.reads.iter().map(async |producer| {
            let unread = client.unread(producer, positions.of(producer)).await?;
            Ok::<_, Failure>(unread_samples(producer, unread))
        });
        Ok(futures::future::try_join_all(unread).await?.concat())
    }

    async fn of_service(&self) -> Result<Vec<Sample>, Failure> {
        match &self.own {
            Some(read) => read(self.engine.clone()).await,
            None => Ok(Vec::new()),
        }
    }
}

/// What a reader by position has before it in the stream of `producer`.
pub fn unread_samples(producer: &'static str, unread: Unread) -> [Sample; 2] {
    [
        READER_UNREAD.is_for([producer], unread.messages as f64),
        READER_OLDEST.is_for([producer], age(unread.since)),
    ]
}

/// Seconds since something happened; 0 when it has not.
fn age(since: Option<Timestamp>) -> f64 {
    let now = crate::clock::now().unix_millis();
    since.map_or(0, |since| (now - since.unix_millis()).max(0)) as f64 / 1_000.0
}

fn add_pool(points: &mut Points, service: &'static str, engine: &dyn Engine) {
    if let Some(pool) = engine.store().pool() {
        points.add(service, &CONNECTIONS.is_for(["idle"], pool.idle));
        points.add(service, &CONNECTIONS.is_for(["used"], pool.used));
    }
}
