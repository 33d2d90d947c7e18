//! The metrics of a text as OTLP: the same names, units, buckets, and labels as attributes.

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value},
    metrics::v1::{
        AggregationTemporality, Exemplar as ProtoExemplar, Gauge, Histogram, HistogramDataPoint,
        Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, exemplar, metric::Data,
        number_data_point,
    },
    resource::v1::Resource,
};

use super::text::{Distribution, Exemplar, Family, FamilyKind, Labels, Number};

/// The span of time that a request is about, in nanoseconds since 1970.
#[derive(Debug, Clone, Copy)]
pub(super) struct Times {
    /// The start of the process: counters began at 0 then.
    pub(super) start: u64,
    pub(super) now: u64,
}

/// A request with all families, for a process with these attributes.
pub(super) fn request(
    families: Vec<Family>,
    resource: &Labels,
    times: Times,
) -> ExportMetricsServiceRequest {
    let metrics = families.into_iter().map(|family| metric(family, times));
    let scope = InstrumentationScope {
        name: "onsale".into(),
        version: env!("CARGO_PKG_VERSION").into(),
        ..InstrumentationScope::default()
    };
    let resource_metrics = vec![ResourceMetrics {
        resource: Some(Resource { attributes: attributes(resource), ..Resource::default() }),
        scope_metrics: vec![ScopeMetrics {
            scope: Some(scope),
            metrics: metrics.filter(|metric| metric.data.is_some()).collect(),
            schema_url: String::new(),
        }],
        schema_url: String::new(),
    }];
    ExportMetricsServiceRequest { resource_metrics }
}

fn metric(family: Family, times: Times) -> Metric {
    let Family { mut name, help: description, kind, numbers, histograms } = family;
    let unit = match () {
        () if name.ends_with("_seconds") => "s",
        () if name.ends_with("_bytes") => "By",
        () => "",
    };
    let aggregation_temporality = AggregationTemporality::Cumulative as i32;
    let points = |since| numbers.iter().map(|number| number_point(number, since, times)).collect();
    let data = match kind {
        FamilyKind::Counter => Data::Sum(Sum {
            data_points: points(times.start),
            aggregation_temporality,
            is_monotonic: true,
        }),
        FamilyKind::Gauge | FamilyKind::Info => Data::Gauge(Gauge { data_points: points(0) }),
        FamilyKind::Histogram => {
            let points = histograms.into_iter().map(|one| distribution_point(one, times));
            Data::Histogram(Histogram { data_points: points.collect(), aggregation_temporality })
        }
    };
    if kind == FamilyKind::Info {
        name.push_str("_info");
    }
    let is_empty = match &data {
        Data::Sum(Sum { data_points, .. }) | Data::Gauge(Gauge { data_points }) => {
            data_points.is_empty()
        }
        Data::Histogram(histogram) => histogram.data_points.is_empty(),
        _ => true,
    };
    let data = (!is_empty).then_some(data);
    Metric { name, description, unit: unit.into(), metadata: Vec::new(), data }
}

fn number_point(number: &Number, since: u64, times: Times) -> NumberDataPoint {
    NumberDataPoint {
        attributes: attributes(&number.labels),
        start_time_unix_nano: since,
        time_unix_nano: times.now,
        value: Some(number_data_point::Value::AsDouble(number.value)),
        ..NumberDataPoint::default()
    }
}

fn distribution_point(histogram: Distribution, times: Times) -> HistogramDataPoint {
    let Distribution { labels, sum, count, buckets, exemplars } = histogram;
    // In the text a bucket contains those below it.
    let below = std::iter::once(0).chain(buckets.iter().map(|(_, count)| *count));
    let counts = buckets.iter().zip(below).map(|((_, count), below)| count.saturating_sub(below));
    HistogramDataPoint {
        attributes: attributes(&labels),
        start_time_unix_nano: times.start,
        time_unix_nano: times.now,
        count,
        sum: Some(sum),
        bucket_counts: counts.collect(),
        explicit_bounds: buckets.iter().map(|(le, _)| *le).filter(|le| le.is_finite()).collect(),
        exemplars: exemplars.into_iter().map(|one| exemplar_of(one, times)).collect(),
        ..HistogramDataPoint::default()
    }
}

fn exemplar_of(one: Exemplar, times: Times) -> ProtoExemplar {
    let trace = one.labels.iter().find(|(name, _)| name == "trace_id");
    ProtoExemplar {
        time_unix_nano: one.at.map_or(times.now, |secs| (secs * 1e9) as u64),
        trace_id: trace.map(|(_, id)| bytes(id)).unwrap_or_default(),
        value: Some(exemplar::Value::AsDouble(one.value)),
        ..ProtoExemplar::default()
    }
}

/// The bytes of hexadecimal digits.
fn bytes(hex: &str) -> Vec<u8> {
    let pairs = hex.as_bytes().chunks(2).filter_map(|pair| std::str::from_utf8(pair).ok());
    pairs.filter_map(|pair| u8::from_str_radix(pair, 16).ok()).collect()
}

fn attributes(labels: &Labels) -> Vec<KeyValue> {
    let attribute = |(key, value): &(String, String)| KeyValue {
        key: key.clone(),
        value: Some(AnyValue { value: Some(any_value::Value::StringValue(value.clone())) }),
        ..KeyValue::default()
    };
    labels.iter().map(attribute).collect()
}

#[cfg(test)]
mod tests {
    use super::super::text::families;
    use super::*;

    #[test]
    fn buckets_are_counted_apart_and_a_trace_is_bytes() {
        let text = "# TYPE a_seconds histogram\na_seconds_sum 3.5\na_seconds_count 4\n\
             a_seconds_bucket{le=\"1.0\"} 1\na_seconds_bucket{le=\"2.0\"} 3 # {trace_id=\"0aff\"} 1.5\n\
             a_seconds_bucket{le=\"+Inf\"} 4\n# TYPE b gauge\n# EOF\n";
        let made = request(families(text), &vec![], Times { start: 1, now: 2 });
        let metrics = &made.resource_metrics[0].scope_metrics[0].metrics;
        let [Metric { unit, data: Some(Data::Histogram(histogram)), .. }] = &metrics[..] else {
            panic!("a family without a value is left out: {metrics:?}");
        };
        let point = &histogram.data_points[0];
        assert_eq!((unit.as_str(), point.count, point.sum), ("s", 4, Some(3.5)));
        assert_eq!(
            (&point.bucket_counts[..], &point.explicit_bounds[..]),
            (&[1, 2, 1][..], &[1.0, 2.0][..])
        );
        assert_eq!(point.exemplars[0].trace_id, [0x0a, 0xff]);
    }
}
