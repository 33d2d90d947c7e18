//! How spans leave the process: a bounded queue, and a thread that sends them by OTLP.
//!
//! Nothing ever waits for a collector. A span that finds the queue full, and one that the
//! collector did not take, is dropped and counted; the log says so once a minute at most.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{BatchConfigBuilder, BatchSpanProcessor, SpanData, SpanExporter, SpanProcessor as _},
};
use tracing::warn;

/// Minimum time between two warnings of this process that spans are lost.
const WARN_EVERY: Duration = Duration::from_secs(60);

/// Spans that this process has dropped.
static DROPPED: AtomicU64 = AtomicU64::new(0);
/// When that was last logged.
static WARNED_AT: Mutex<Option<Instant>> = Mutex::new(None);

/// Spans that this process has dropped since it began: the queue was full, or the collector did
/// not take them.
pub fn dropped_spans() -> u64 {
    DROPPED.load(Relaxed)
}

/// The spans of one service that wait to be sent.
pub(super) struct Queue {
    processor: BatchSpanProcessor,
    scope: InstrumentationScope,
    spans_max: usize,
    is_closed: AtomicBool,
    state: Arc<State>,
}

/// What the queue and its thread share.
#[derive(Debug)]
struct State {
    service: String,
    /// Spans that are in the queue.
    waiting: AtomicUsize,
    dropped: AtomicU64,
}

impl State {
    /// Counts spans as dropped.
    fn drop_spans(&self, count: usize, cause: &str) {
        self.dropped.fetch_add(count as u64, Relaxed);
        DROPPED.fetch_add(count as u64, Relaxed);
        let mut warned_at = WARNED_AT.lock().unwrap_or_else(PoisonError::into_inner);
        if is_time_to_warn(&mut warned_at, Instant::now()) {
            let (service, dropped) = (&self.service, dropped_spans());
            warn!(service, dropped, cause, "spans are lost; the mesh itself goes on");
        }
    }
}

/// Whether a warning is due, which it then was the last time.
fn is_time_to_warn(warned_at: &mut Option<Instant>, now: Instant) -> bool {
    let is_due = warned_at.is_none_or(|at| now.duration_since(at) >= WARN_EVERY);
    if is_due {
        *warned_at = Some(now);
    }
    is_due
}

/// How a queue is made.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Maximum number of spans that wait.
    pub(super) spans_max: usize,
    /// How long a span waits.
    pub(super) send_every: Duration,
}

impl Queue {
    /// A queue of the spans of `service`, which are given to `exporter`.
    pub(super) fn new(
        service: &str,
        bounds: Bounds,
        exporter: impl SpanExporter + 'static,
    ) -> Self {
        let state = Arc::new(State {
            service: service.to_owned(),
            waiting: AtomicUsize::new(0),
            dropped: AtomicU64::new(0),
        });
        let exporter = Counted { exporter, state: state.clone() };
        let config = BatchConfigBuilder::default()
            .with_max_queue_size(bounds.spans_max)
            .with_scheduled_delay(bounds.send_every)
            .build();
        let mut processor = BatchSpanProcessor::new(exporter, config);
        processor.set_resource(&resource(service));
        let scope = InstrumentationScope::builder("onsale-mesh")
            .with_version(env!("CARGO_PKG_VERSION"))
            .build();
        let is_closed = AtomicBool::new(false);
        Self { processor, scope, spans_max: bounds.spans_max, is_closed, state }
    }

    /// The library that makes the spans, as each of them names it.
    pub(super) fn scope(&self) -> InstrumentationScope {
        self.scope.clone()
    }

    /// Adds a span that has ended, unless the queue is full.
    pub(super) fn give(&self, span: SpanData) {
        if self.is_closed.load(Relaxed) {
            return self.state.drop_spans(1, "the process is stopping");
        }
        // The thread takes a span off this number after taking it out of its own queue, so that
        // one is never full.
        if self.state.waiting.fetch_add(1, Relaxed) >= self.spans_max {
            self.state.waiting.fetch_sub(1, Relaxed);
            return self.state.drop_spans(1, "more spans wait to be sent than the queue holds");
        }
        self.processor.on_end(span);
    }

    /// How many spans of this service were dropped.
    pub(super) fn dropped(&self) -> u64 {
        self.state.dropped.load(Relaxed)
    }

    /// Sends what waits and takes no more; gives up after `timeout`. It blocks.
    pub(super) fn close(&self, timeout: Duration) {
        if self.is_closed.swap(true, Relaxed) {
            return;
        }
        if self.processor.shutdown_with_timeout(timeout).is_err() {
            let left = self.state.waiting.swap(0, Relaxed);
            if left > 0 {
                self.state.drop_spans(left, "the collector was too slow for the shutdown");
            }
        }
    }
}

/// What the collector learns of the process.
fn resource(service: &str) -> Resource {
    let instance = crate::clock::new_id().to_string();
    Resource::builder()
        .with_service_name(format!("onsale-{service}"))
        .with_attribute(KeyValue::new("service.namespace", "onsale"))
        // The name that the metrics of this service have in their label.
        .with_attribute(KeyValue::new("onsale.service", service.to_owned()))
        .with_attribute(KeyValue::new("service.instance.id", instance))
        .with_attribute(KeyValue::new("service.version", env!("CARGO_PKG_VERSION")))
        .build()
}

/// An exporter that counts what it was given and what it lost.
#[derive(Debug)]
struct Counted<E> {
    exporter: E,
    state: Arc<State>,
}

impl<E: SpanExporter> SpanExporter for Counted<E> {
    async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
        let count = batch.len();
        let waiting = &self.state.waiting;
        let _ =
            waiting.fetch_update(Relaxed, Relaxed, |waiting| Some(waiting.saturating_sub(count)));
        let exported = self.exporter.export(batch).await;
        if let Err(error) = &exported {
            self.state.drop_spans(count, &error.to_string());
        }
        exported
    }

    fn shutdown_with_timeout(&self, timeout: Duration) -> OTelSdkResult {
        self.exporter.shutdown_with_timeout(timeout)
    }

    fn force_flush(&self) -> OTelSdkResult {
        self.exporter.force_flush()
    }

    fn set_resource(&mut self, resource: &Resource) {
        self.exporter.set_resource(resource);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lost_spans_are_logged_once_a_minute_at_most() {
        let (mut warned_at, began) = (None, Instant::now());
        let tenths = 0..3_000;
        let warned = tenths.filter(|tenth| {
            is_time_to_warn(&mut warned_at, began + Duration::from_millis(tenth * 100))
        });
        assert_eq!(warned.collect::<Vec<_>>(), [0, 600, 1_200, 1_800, 2_400]);
    }
}
