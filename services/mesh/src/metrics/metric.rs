//! A metric: its name, what it means, and its labels.

use prometheus_client::registry::Unit;

/// The labels of one value.
pub(super) type Labels = Vec<(&'static str, &'static str)>;

/// A metric that a service exports, beside the label `service` that all of them have.
#[derive(Debug, PartialEq)]
pub struct Metric {
    /// Its name, without the suffix `_total` of a counter.
    pub name: &'static str,
    /// What it means, in one sentence without a full stop.
    pub help: &'static str,
    /// Its labels beside `service`. None of them is an id.
    pub labels: &'static [&'static str],
    /// What kind of value it has.
    pub(crate) kind: Kind,
}

/// What kind of value a metric has.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Kind {
    /// A number that only grows.
    Counter,
    /// A distribution, with the upper bounds of its buckets.
    Histogram(&'static [f64]),
    /// A value that goes up and down. Two halves of one service are added up.
    Gauge,
    /// A value of which the least counts, where a service has two halves.
    Least,
    /// A value of which the greatest counts, where a service has two halves.
    Most,
}

impl Metric {
    /// A number that only grows.
    pub const fn counter(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Self {
        Self { name, help, labels, kind: Kind::Counter }
    }

    /// A distribution; `buckets` are the upper bounds of its buckets.
    pub const fn histogram(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
        buckets: &'static [f64],
    ) -> Self {
        Self { name, help, labels, kind: Kind::Histogram(buckets) }
    }

    /// A value that goes up and down.
    pub const fn gauge(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Self {
        Self { name, help, labels, kind: Kind::Gauge }
    }

    /// A value that is 1 while something is as it should be, and 0 otherwise.
    pub const fn state(name: &'static str, help: &'static str) -> Self {
        Self { name, help, labels: &[], kind: Kind::Least }
    }
}

/// Upper bounds in seconds for what takes from a millisecond to a minute.
pub(crate) const SECONDS: &[f64] =
    &[0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];
/// Upper bounds for numbers of events or messages.
pub(crate) const SIZES: &[f64] =
    &[1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0];

/// The labels of a metric of a service with their values.
pub(super) fn labels_of(metric: &Metric, service: &'static str, values: &[&'static str]) -> Labels {
    assert_eq!(metric.labels.len(), values.len(), "the labels of {}", metric.name);
    let named = metric.labels.iter().copied().zip(values.iter().copied());
    std::iter::once(("service", service)).chain(named).collect()
}

/// A name without its unit, and the unit, which the text adds again.
pub(super) fn unit_of(name: &'static str) -> (&'static str, Option<Unit>) {
    if let Some(name) = name.strip_suffix("_seconds") {
        return (name, Some(Unit::Seconds));
    }
    match name.strip_suffix("_bytes") {
        Some(name) => (name, Some(Unit::Bytes)),
        None => (name, None),
    }
}
