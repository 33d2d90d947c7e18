//! What handlers count and measure, once their batch is stored.

use super::{
    metric::Metric,
    registry::{Counter, Histogram, Metrics},
};

/// Labels of a metric that a handler may count or measure, at most.
const LABELS_MAX: usize = 2;

/// Something that a handler has counted or measured. A batch that is rolled back has counted
/// nothing.
#[derive(Debug, Clone, PartialEq)]
pub struct Observed {
    metric: &'static Metric,
    labels: [&'static str; LABELS_MAX],
    /// The measured value; `None` for one more.
    value: Option<f64>,
    /// The trace that it belongs to, when that is exported.
    pub(crate) trace_id: Option<String>,
}

impl Observed {
    /// One more.
    pub(crate) fn one(metric: &'static Metric, labels: &[&'static str]) -> Self {
        Self { metric, labels: padded(metric, labels), value: None, trace_id: None }
    }

    /// A measured value.
    pub(crate) fn value(metric: &'static Metric, labels: &[&'static str], value: f64) -> Self {
        Self { value: Some(value), ..Self::one(metric, labels) }
    }
}

fn padded(metric: &'static Metric, labels: &[&'static str]) -> [&'static str; LABELS_MAX] {
    assert_eq!(labels.len(), metric.labels.len(), "the labels of {}", metric.name);
    let mut padded = [""; LABELS_MAX];
    padded[..labels.len()].copy_from_slice(labels);
    padded
}

enum Handle {
    Counter(Counter, u64),
    Histogram(Histogram),
}

/// Adds what the handlers of a stored batch have observed. Each counter and histogram is looked
/// up once.
pub(super) fn add_all(metrics: &Metrics, service: &'static str, observed: Vec<Observed>) {
    type Key = (&'static str, [&'static str; LABELS_MAX]);
    // A batch has a few different ones, so a list is faster than a map.
    let mut handles: Vec<(Key, Handle)> = Vec::new();
    for one in observed {
        let key = (one.metric.name, one.labels);
        let at = handles.iter().position(|(known, _)| *known == key).unwrap_or_else(|| {
            let labels = &one.labels[..one.metric.labels.len()];
            let handle = match one.value {
                None => Handle::Counter(metrics.counter(one.metric, service, labels), 0),
                Some(_) => Handle::Histogram(metrics.histogram(one.metric, service, labels)),
            };
            handles.push((key, handle));
            handles.len() - 1
        });
        match (&mut handles[at].1, one.value) {
            (Handle::Counter(_, count), _) => *count += 1,
            (Handle::Histogram(histogram), value) => {
                histogram.observe(value.unwrap_or_default(), one.trace_id);
            }
        }
    }
    for (_, handle) in handles {
        if let Handle::Counter(counter, count) = handle {
            counter.add(count);
        }
    }
}
