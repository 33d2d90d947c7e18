//! The metrics of the HTTP edge.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use axum::http::{Method, StatusCode};
use mesh::{
    Link, Unread,
    metrics::{
        CONNECTED, Counter, Histogram, Metric, Metrics, READER_OLDEST, READER_UNREAD, READY,
        unread_samples,
    },
};
use tokio::sync::Semaphore;

/// By the conventions of OpenTelemetry. A stream counts until its first byte.
static DURATION: Metric = Metric::histogram(
    "http_server_request_duration_seconds",
    "Time from the head of a request until the head of its answer",
    &["http_request_method", "http_route", "http_response_status_code"],
    &[0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0],
);
static SHED: Metric = Metric::counter(
    "onsale_http_shed",
    "Requests that were turned away: too many at once, too many payments running, too many \
     streams, too many log-ins",
    &["reason"],
);
static STREAMS: Metric =
    Metric::gauge("onsale_sse_connections", "Event streams that are open", &[]);

/// The methods by their names; any other one is one label.
const METHODS: [&str; 7] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
const OTHER_METHOD: &str = "_OTHER";
/// The route of an address that there is not.
const UNMATCHED: &str = "unmatched";
/// The statuses, as labels.
const STATUSES: [&str; 34] = [
    "200", "201", "202", "204", "304", "400", "401", "403", "404", "405", "406", "408", "409",
    "410", "412", "413", "414", "415", "422", "426", "428", "429", "431", "500", "501", "502",
    "503", "504", "505", "100", "101", "301", "302", "307",
];
const OTHER_STATUS: &str = "other";

/// Why a request was turned away.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Shed {
    /// Too many requests are being answered.
    Requests,
    /// Too many payments run.
    Payments,
    /// Too many event streams are open.
    Streams,
    /// Its address has signed up or logged in too often.
    LoginRate,
}

/// A method, a route and a status.
type Key = (&'static str, &'static str, &'static str);

/// What the edge measures; cheap to clone.
#[derive(Clone)]
pub(crate) struct Measured(Arc<Inner>);

struct Inner {
    service: &'static str,
    metrics: Metrics,
    /// The histograms that were looked up before.
    durations: RwLock<HashMap<Key, Histogram>>,
    shed: [Counter; 4],
}

impl Measured {
    /// Measures in the metrics of this connection's process.
    pub(crate) fn new(link: &Link) -> Self {
        let (service, metrics) = (link.service(), link.metrics().clone());
        let shed = |reason| metrics.counter(&SHED, service, &[reason]);
        let shed = [shed("requests"), shed("payments"), shed("streams"), shed("login_rate")];
        Self(Arc::new(Inner { service, metrics, durations: RwLock::default(), shed }))
    }

    /// Exports how many of `most` streams are open, and whether the broker is there.
    pub(crate) fn watch(&self, link: &Link, streams: &Arc<Semaphore>, most: usize) {
        let (link, streams) = (link.clone(), Arc::downgrade(streams));
        self.0.metrics.declare(&[&STREAMS, &READY, &CONNECTED, &READER_UNREAD, &READER_OLDEST]);
        self.0.metrics.at_each_text(move |points| {
            let Some(streams) = streams.upgrade() else { return false };
            let open = most.saturating_sub(streams.available_permits());
            points.add(link.service(), &STREAMS.is(open as f64));
            points.add(link.service(), &CONNECTED.is(u8::from(link.is_whole())));
            true
        });
    }

    /// Exports whether the gateway is ready, until this is called again.
    pub(crate) fn ready(&self, is_ready: bool) {
        self.0
            .metrics
            .sampled((self.0.service, "service", 0), Some(vec![READY.is(u8::from(is_ready))]));
    }

    /// Exports how far the live events are behind, until this is called again; `None` when that
    /// could not be read.
    pub(crate) fn unread(&self, unread: Option<Vec<(&'static str, Unread)>>) {
        let samples = |(producer, unread)| unread_samples(producer, unread);
        let samples = unread.map(|unread| unread.into_iter().flat_map(samples).collect());
        self.0.metrics.sampled((self.0.service, "streams", 0), samples);
    }

    pub(crate) fn shed(&self, why: Shed) {
        self.0.shed[why as usize].add(1);
    }

    /// A request was answered.
    pub(crate) fn answered(
        &self,
        method: &Method,
        route: Option<&'static str>,
        status: StatusCode,
        took: Duration,
        trace_id: Option<String>,
    ) {
        let method = METHODS.into_iter().find(|known| *known == method.as_str());
        let status = STATUSES.into_iter().find(|known| *known == status.as_str());
        let key = (
            method.unwrap_or(OTHER_METHOD),
            route.unwrap_or(UNMATCHED),
            status.unwrap_or(OTHER_STATUS),
        );
        let known = {
            let durations = self.0.durations.read().unwrap_or_else(PoisonError::into_inner);
            durations.get(&key).cloned()
        };
        let histogram = known.unwrap_or_else(|| {
            let (method, route, status) = key;
            let new = self.0.metrics.histogram(&DURATION, self.0.service, &[method, route, status]);
            let mut durations = self.0.durations.write().unwrap_or_else(PoisonError::into_inner);
            durations.insert(key, new.clone());
            new
        });
        histogram.took(took, trace_id);
    }
}
