//! The metrics of one process: counters and histograms by their labels, and the text of all.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use prometheus_client::{
    encoding::{prometheus_text, text},
    metrics::{
        counter,
        exemplar::HistogramWithExemplars,
        family::{Family, MetricConstructor},
        info::Info,
    },
    registry::Registry,
};

use super::{
    gauges::{Gauges, Points, Sample, Source},
    metric::{Kind, Labels, Metric, labels_of, unit_of},
    process::ProcessMetrics,
};

type Counters = Family<Labels, counter::Counter>;
type Distribution = HistogramWithExemplars<[(&'static str, String); 1]>;
type Histograms = Family<Labels, Distribution, Buckets>;

/// The label of an exemplar: it leads from a value to the trace that it was measured in.
const TRACE_ID: &str = "trace_id";

/// All metrics of one process; cheap to clone.
#[derive(Clone)]
pub struct Metrics(Arc<Inner>);

struct Inner {
    families: Mutex<Families>,
    gauges: Arc<Gauges>,
    /// Pushes to a collector that have failed.
    dropped: counter::Counter,
}

struct Families {
    registry: Registry,
    counters: BTreeMap<&'static str, Counters>,
    histograms: BTreeMap<&'static str, Histograms>,
}

/// The upper bounds of the buckets of a histogram.
#[derive(Debug, Clone, Copy)]
struct Buckets(&'static [f64]);

impl MetricConstructor<Distribution> for Buckets {
    fn new_metric(&self) -> Distribution {
        HistogramWithExemplars::new(self.0.iter().copied())
    }
}

/// One number that only grows; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Counter(counter::Counter);

impl Counter {
    /// Adds to it.
    pub fn add(&self, count: u64) {
        self.0.inc_by(count);
    }
}

/// One distribution; cheap to clone.
#[derive(Debug, Clone)]
pub struct Histogram(Distribution);

impl Histogram {
    /// Adds a value, with the trace that it was measured in if that is exported.
    pub fn observe(&self, value: f64, trace_id: Option<String>) {
        let at = trace_id.is_some().then(|| SystemTime::from(crate::clock::now().0));
        self.0.observe(value, trace_id.map(|id| [(TRACE_ID, id)]), at);
    }

    /// Adds a time.
    pub fn took(&self, time: Duration, trace_id: Option<String>) {
        self.observe(time.as_secs_f64(), trace_id);
    }
}

/// The format of a text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// The older format of Prometheus, which has no exemplars.
    Prometheus,
}

impl Format {
    /// The format that a scraper accepts; OpenMetrics unless it names only the other.
    pub fn accepted(accept: &str) -> Self {
        let is_older = accept.contains("text/plain") && !accept.contains("openmetrics-text");
        if is_older { Self::Prometheus } else { Self::OpenMetrics }
    }

    /// The content type of a text in this format.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Prometheus => prometheus_text::CONTENT_TYPE,
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let (gauges, dropped) = (Arc::new(Gauges::default()), counter::Counter::default());
        let mut registry = Registry::default();
        let build = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("onsale_build", "The version of the program", build);
        let help = "Pushes of metrics to the collector that have failed";
        registry.register("onsale_metrics_dropped", help, dropped.clone());
        registry.register_collector(Box::new(gauges.clone()));
        registry.register_collector(Box::new(ProcessMetrics::default()));
        let (counters, histograms) = (BTreeMap::new(), BTreeMap::new());
        let families = Mutex::new(Families { registry, counters, histograms });
        Self(Arc::new(Inner { families, gauges, dropped }))
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    /// The counter of `service` with these labels, in the order in which the metric names them.
    ///
    /// # Panics
    /// When the metric is no counter.
    pub fn counter(
        &self,
        metric: &'static Metric,
        service: &'static str,
        labels: &[&'static str],
    ) -> Counter {
        assert_eq!(metric.kind, Kind::Counter, "{}", metric.name);
        let family = {
            let Families { registry, counters, .. } = &mut *self.lock();
            let new = || {
                let family = Counters::default();
                registry.register(metric.name, metric.help, family.clone());
                family
            };
            counters.entry(metric.name).or_insert_with(new).clone()
        };
        Counter(family.get_or_create_owned(&labels_of(metric, service, labels)))
    }

    /// The histogram of `service` with these labels, in the order in which the metric names them.
    ///
    /// # Panics
    /// When the metric is no histogram.
    pub fn histogram(
        &self,
        metric: &'static Metric,
        service: &'static str,
        labels: &[&'static str],
    ) -> Histogram {
        let Kind::Histogram(buckets) = metric.kind else {
            panic!("{} is no histogram", metric.name);
        };
        let family = {
            let Families { registry, histograms, .. } = &mut *self.lock();
            let new = || {
                let family = Histograms::new_with_constructor(Buckets(buckets));
                let (name, unit) = unit_of(metric.name);
                match unit {
                    Some(unit) => {
                        registry.register_with_unit(name, metric.help, unit, family.clone())
                    }
                    None => registry.register(name, metric.help, family.clone()),
                }
                family
            };
            histograms.entry(metric.name).or_insert_with(new).clone()
        };
        Histogram(family.get_or_create_owned(&labels_of(metric, service, labels)))
    }

    /// Exports a counter or a histogram from now on, with nothing counted yet.
    pub(super) fn at_zero(
        &self,
        metric: &'static Metric,
        service: &'static str,
        labels: &[&'static str],
    ) {
        match metric.kind {
            Kind::Counter => drop(self.counter(metric, service, labels)),
            Kind::Histogram(_) => drop(self.histogram(metric, service, labels)),
            Kind::Gauge | Kind::Least | Kind::Most => self.declare(&[metric]),
        }
    }

    /// Exports a gauge from now on, also while it has no value.
    pub fn declare(&self, metrics: &[&'static Metric]) {
        self.0.gauges.declare(metrics);
    }

    /// Calls `read` for each text: for values that are at hand. It says whether it is still to be
    /// called.
    pub fn at_each_text(&self, read: impl Fn(&mut Points) -> bool + Send + Sync + 'static) {
        self.0.gauges.at_each_text(Box::new(read));
    }

    /// Replaces what was read from a source; `None` when it could not be read.
    pub fn sampled(&self, source: Source, samples: Option<Vec<Sample>>) {
        self.0.gauges.sampled(source, samples);
    }

    /// Everything, as text.
    pub fn text(&self, format: Format) -> String {
        let mut written = String::new();
        let families = self.lock();
        let encoded = match format {
            Format::OpenMetrics => text::encode(&mut written, &families.registry),
            Format::Prometheus => prometheus_text::encode(&mut written, &families.registry),
        };
        encoded.expect("a String takes everything");
        written
    }

    pub(super) fn add_dropped(&self) {
        self.0.dropped.inc();
    }

    fn lock(&self) -> MutexGuard<'_, Families> {
        self.0.families.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
