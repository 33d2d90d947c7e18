//! Metrics that are pushed to a collector, which may be away.

use std::time::{Duration, Instant};

use harness::{
    mesh::{eventually, run},
    openmetrics::Exposition,
    pushed::{Collector, values},
};
use mesh::metrics::{Format, Metric, Metrics, Push};
use opentelemetry_proto::tonic::metrics::v1::metric::Data;

const EVERY: Duration = Duration::from_millis(50);

static SEEN: Metric = Metric::counter("test_seen", "Seen", &["what"]);
static TOOK: Metric = Metric::histogram("test_took_seconds", "Time", &[], &[0.1, 1.0]);

fn dropped(metrics: &Metrics) -> f64 {
    let text = Exposition::read(&metrics.text(Format::OpenMetrics)).expect("valid");
    text.value("onsale_metrics_dropped_total", &[]).expect("a counter")
}

#[test]
fn a_push_has_the_names_units_buckets_labels_and_exemplars_of_the_text() {
    run(async {
        let http = Collector::start().await.unwrap();
        check(&http, Push::to_collector(&http.endpoint(), EVERY).unwrap()).await;
        let grpc = Collector::start_grpc().await.unwrap();
        check(&grpc, Push::to_collector_by_grpc(&grpc.endpoint(), EVERY).unwrap()).await;
    });
}

async fn check(collector: &Collector, push: Push) {
    let metrics = Metrics::default();
    metrics.counter(&SEEN, "queue", &["a \"b\"\n"]).add(3);
    let took = metrics.histogram(&TOOK, "queue", &[]);
    took.observe(0.05, None);
    took.observe(0.5, Some("0af7651916cd43dd8448eb211c80319c".into()));
    took.observe(7.0, None);
    let pushing = push.start(metrics.clone()).unwrap();
    let pushed = eventually("a push", || async {
        Some(collector.pushed()).filter(|pushed| pushed.contains_key("test_took_seconds"))
    })
    .await;
    let labels = [("service", "queue"), ("what", "a \"b\"\n")];
    let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    assert_eq!(values(&pushed["test_seen"]), [(labels, 3.0)].into());
    let took = &pushed["test_took_seconds"];
    let Some(Data::Histogram(histogram)) = &took.data else { panic!("{took:?}") };
    let point = &histogram.data_points[0];
    assert_eq!((took.unit.as_str(), point.count, point.sum), ("s", 3, Some(7.55)));
    assert_eq!(
        (&point.bucket_counts[..], &point.explicit_bounds[..]),
        (&[1, 1, 1][..], &[0.1, 1.0][..])
    );
    assert_eq!(point.exemplars[0].trace_id[..2], [0x0a, 0xf7]);
    assert!(point.start_time_unix_nano > 0 && point.start_time_unix_nano <= point.time_unix_nano);
    assert_eq!(dropped(&metrics), 0.0);
    metrics.counter(&SEEN, "queue", &["last"]).add(1);
    pushing.end(Duration::from_secs(5)).await;
    assert_eq!(values(&collector.pushed()["test_seen"]).len(), 2, "the last push is complete");
}

#[test]
fn a_collector_that_is_away_costs_a_count_and_no_time() {
    run(async {
        let (metrics, collector) = (Metrics::default(), Collector::start().await.unwrap());
        let endpoint = collector.endpoint();
        drop(collector);
        let pushing = Push::to_collector(&endpoint, EVERY).unwrap().start(metrics.clone()).unwrap();
        eventually("pushes have failed", || async { (dropped(&metrics) >= 3.0).then_some(()) })
            .await;
        let began = Instant::now();
        pushing.end(Duration::from_secs(2)).await;
        assert!(began.elapsed() < Duration::from_secs(4));
    });
}
