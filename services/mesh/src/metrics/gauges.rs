//! Gauges: values that are looked up for each text, and values that were sampled.
//!
//! A sampled value that could not be read again is removed at once, and one that nobody has tried
//! to read for a while as well. How old the samples of a source are is exported in any case.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use prometheus_client::{collector::Collector, encoding::DescriptorEncoder, metrics::MetricType};

use super::metric::{Kind, Labels, Metric, labels_of, unit_of};

/// Samples are exported for this long: three times as long as they are read apart.
const SAMPLES_LIVE: Duration = Duration::from_secs(15);

/// How old the samples of a source are.
static SAMPLE_AGE: Metric = Metric {
    name: "onsale_sample_age_seconds",
    help: "Time since the gauges of this source were read; they are left out while they cannot be",
    labels: &["source"],
    kind: Kind::Most,
};

/// A value that was read from a store, the broker, or the service.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    metric: &'static Metric,
    labels: Vec<&'static str>,
    value: f64,
}

impl Metric {
    /// A sample of a metric that has no label.
    pub fn is(&'static self, value: impl Into<f64>) -> Sample {
        self.is_for([], value)
    }

    /// A sample of a metric with these labels.
    pub fn is_for<const N: usize>(
        &'static self,
        labels: [&'static str; N],
        value: impl Into<f64>,
    ) -> Sample {
        Sample { metric: self, labels: labels.into(), value: value.into() }
    }
}

/// The values of one text.
#[derive(Default)]
pub struct Points(BTreeMap<&'static str, BTreeMap<Labels, f64>>);

impl Points {
    /// Adds a value of a service. A service may have two halves: their values are added up, or the
    /// least one counts.
    pub fn add(&mut self, service: &'static str, sample: &Sample) {
        let Sample { metric, labels, value } = sample;
        let points = self.0.entry(metric.name).or_default();
        let known = points.entry(labels_of(metric, service, labels));
        let combine = |known: &mut f64| match metric.kind {
            Kind::Least => *known = known.min(*value),
            Kind::Most => *known = known.max(*value),
            _ => *known += value,
        };
        known.and_modify(combine).or_insert(*value);
    }
}

/// A service, what its samples are read from, and a number by which its halves differ.
pub type Source = (&'static str, &'static str, usize);

type ReadFn = Box<dyn Fn(&mut Points) -> bool + Send + Sync>;

/// The gauges of one process.
#[derive(Default)]
pub(super) struct Gauges(Mutex<State>);

#[derive(Default)]
struct State {
    declared: BTreeMap<&'static str, &'static Metric>,
    reads: Vec<ReadFn>,
    samples: BTreeMap<Source, Read>,
}

/// What was read from one source.
struct Read {
    /// When it was read last.
    at: Instant,
    /// None when it could not be read since.
    samples: Vec<Sample>,
}

impl fmt::Debug for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gauges")
    }
}

impl Gauges {
    pub(super) fn declare(&self, metrics: &[&'static Metric]) {
        self.lock().declared.extend(metrics.iter().map(|metric| (metric.name, *metric)));
    }

    pub(super) fn at_each_text(&self, read: ReadFn) {
        self.lock().reads.push(read);
    }

    pub(super) fn sampled(&self, source: Source, samples: Option<Vec<Sample>>) {
        let state = &mut *self.lock();
        match samples {
            Some(samples) => {
                state.samples.insert(source, Read { at: Instant::now(), samples });
            }
            // Of a source that was never read, the age begins with the first attempt.
            None => {
                let never = || Read { at: Instant::now(), samples: Vec::new() };
                state.samples.entry(source).or_insert_with(never).samples.clear();
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn points(&mut self) -> Points {
        let mut points = Points::default();
        self.reads.retain(|read| read(&mut points));
        for ((service, source, _), read) in &self.samples {
            let age = read.at.elapsed();
            points.add(service, &SAMPLE_AGE.is_for([source], age.as_secs_f64()));
            if age < SAMPLES_LIVE {
                read.samples.iter().for_each(|sample| points.add(service, sample));
            }
        }
        points
    }
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let state = &mut *self.lock();
        let Points(points) = state.points();
        for metric in state.declared.values().copied().chain([&SAMPLE_AGE]) {
            let (name, unit) = unit_of(metric.name);
            let kind = MetricType::Gauge;
            let mut family = encoder.encode_descriptor(name, metric.help, unit.as_ref(), kind)?;
            for (labels, value) in points.get(metric.name).into_iter().flatten() {
                family.encode_family(labels)?.encode_gauge(value)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::registry::{Format, Metrics};
    use super::*;

    static LINE: Metric = Metric::gauge("test_line", "A line", &["side"]);
    static UP: Metric = Metric::state("test_up", "Whether it is up");

    fn lines(metrics: &Metrics) -> Vec<String> {
        let text = metrics.text(Format::OpenMetrics);
        let ours = |line: &&str| line.starts_with("test_");
        text.lines().filter(ours).map(str::to_owned).collect()
    }

    #[test]
    fn a_value_that_cannot_be_read_any_more_is_not_exported_and_its_age_is() {
        let metrics = Metrics::default();
        metrics.declare(&[&LINE]);
        metrics.sampled(("queue", "store", 1), Some(vec![LINE.is_for(["left"], 3.0)]));
        assert_eq!(lines(&metrics), [r#"test_line{service="queue",side="left"} 3.0"#]);
        metrics.sampled(("queue", "store", 1), None);
        assert!(lines(&metrics).is_empty());
        let text = metrics.text(Format::OpenMetrics);
        assert!(text.contains(r#"onsale_sample_age_seconds{service="queue",source="store"} 0."#));
        assert!(text.contains("# TYPE test_line gauge"), "it is known without a value, too");
    }

    #[test]
    fn two_halves_of_a_service_are_added_up_and_are_up_only_together() {
        let metrics = Metrics::default();
        metrics.declare(&[&LINE, &UP]);
        for (line, up) in [(3.0, 1.0), (4.0, 0.0)] {
            metrics.at_each_text(move |points| {
                points.add("concert", &LINE.is_for(["left"], line));
                points.add("concert", &UP.is(up));
                true
            });
        }
        let expected = [
            r#"test_line{service="concert",side="left"} 7.0"#,
            r#"test_up{service="concert"} 0.0"#,
        ];
        assert_eq!(lines(&metrics), expected);
    }
}
