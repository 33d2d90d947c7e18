//! A sale with every outcome, and what is then exported and pushed.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use events::{payment::PaymentState, producer_of};
use harness::{
    mesh::{Mesh, eventually, run},
    openmetrics::Exposition,
    otlp::Sink,
    pushed::{Collector, values},
};
use mesh::{metrics::Push, trace::Protocol};
use onsale::registry::SERVICES;
use sqlx::PgPool;

use super::{
    Scraper,
    documented::{differences, looks_like_an_id},
};

/// How often the mesh pushes.
const PUSHED_EVERY: Duration = Duration::from_millis(200);

/// Everything that a fan can experience with a payment.
async fn sell(mesh: &Mesh) {
    let schedule = mesh.open(3, |_| {}).await.schedule_id;
    let happy = mesh.fan(200).await;
    let hold = happy.hold(schedule, &["A-1-2"]).await;
    assert_eq!(happy.pay(&hold).await.state, PaymentState::Completed);
    let poor = mesh.fan(0).await;
    let hold = poor.hold(schedule, &["A-1-3"]).await;
    assert_eq!(poor.pay(&hold).await.state, PaymentState::Failed);
    // A completed payment of a round that was too quick is refunded, with points for the next.
    let hasty = mesh.fan(500).await;
    assert_eq!(hasty.loses_a_hold_while_paying(schedule).await.state, PaymentState::Failed);
    assert_eq!(mesh.http.get("/v1/concerts?no=1").send().await.expect("sent").status, 400);
    for _ in 0..2 {
        assert_eq!(mesh.http.get("/no-such-address").send().await.expect("sent").status, 404);
    }
    mesh.receipt_is_clean(schedule).await;
}

async fn count(pool: &PgPool, statement: &'static str) -> f64 {
    let count: i64 = sqlx::query_scalar(statement).fetch_one(pool).await.expect("a count");
    count as f64
}

/// A name, its labels, and the value that it should have.
type Expected<'a> = (&'a str, Vec<(&'a str, &'a str)>, f64);

/// What the databases say of payments and holds.
async fn in_databases(mesh: &Mesh) -> Vec<Expected<'static>> {
    let of = async |service: &str| {
        let url = mesh.env.config.database_url(service).expect("an address");
        PgPool::connect(url).await.expect("a database")
    };
    let [payment, reservation, audit] =
        [of("payment").await, of("reservation").await, of("audit").await];
    let payments =
        |outcome, reason| vec![("outcome", outcome), ("reason", reason), ("service", "payment")];
    let holds = |state| vec![("service", "reservation"), ("state", state)];
    let completed = "select count(*) from payments where state in ('COMPLETED', 'REFUNDED')";
    let completed = count(&payment, completed).await;
    let gone = "select count(*) from payments where state = 'FAILED' and reason = 'hold_gone'";
    let all = "select count(*) from reservations";
    let paid = "select count(*) from reservations where payment_id is not null";
    let cancelled = "select count(*) from reservations where state = 'CANCELLED'";
    let expired = "select count(*) from reservations where state = 'EXPIRED'";
    let admitted = r#"select count(*) from facts where "fact" = 'queue.activated'"#;
    let duration = "onsale_payment_duration_seconds_count";
    vec![
        ("onsale_payments_total", payments("completed", ""), completed),
        ("onsale_payments_total", payments("failed", "insufficient_balance"), 1.0),
        ("onsale_payments_total", payments("failed", "no_wallet"), 0.0),
        (
            "onsale_payments_total",
            payments("compensated", "hold_gone"),
            count(&payment, gone).await,
        ),
        (duration, vec![("outcome", "completed"), ("service", "payment")], completed),
        ("onsale_holds_total", holds("created"), count(&reservation, all).await),
        ("onsale_holds_total", holds("confirmed"), count(&reservation, paid).await),
        ("onsale_holds_total", holds("cancelled"), count(&reservation, cancelled).await),
        ("onsale_holds_total", holds("expired"), count(&reservation, expired).await),
        ("onsale_admitted_fans_total", vec![("service", "queue")], count(&audit, admitted).await),
    ]
}

/// Services of which every event in the databases was emitted by this process.
const OF_THE_SALE: [&str; 4] = ["payment", "point", "queue", "reservation"];
/// Which service handles which event, each once.
const HANDLED: [(&str, &str); 4] = [
    ("point", "payment.requested"),
    ("reservation", "point.debited"),
    ("payment", "reservation.confirmed"),
    ("ranking", "payment.completed"),
];

/// What audit has read, of events that were emitted and handled.
async fn as_audit_has_read(mesh: &Mesh) -> Vec<Expected<'static>> {
    let url = mesh.env.config.database_url("audit").expect("an address");
    let audit = PgPool::connect(url).await.expect("a database");
    let mut counts: BTreeMap<&str, f64> = events::all_events().map(|event| (event, 0.0)).collect();
    let rows: Vec<(String, i64)> =
        sqlx::query_as(r#"select "fact", count(*) from facts group by 1"#)
            .fetch_all(&audit)
            .await
            .expect("counts");
    for (event, count) in rows {
        *counts.get_mut(event.as_str()).expect("a known event") = count as f64;
    }
    let emitted = counts.iter().filter_map(|(event, count)| {
        let service = OF_THE_SALE.into_iter().find(|of| *of == producer_of(event))?;
        Some(("onsale_emitted_events_total", vec![("event", *event), ("service", service)], *count))
    });
    let read = counts.iter().filter(|(event, _)| producer_of(event) == "payment");
    let read = read.map(|(event, _)| ("audit", *event));
    let handled = HANDLED.into_iter().chain(read).map(|(service, event)| {
        let labels = vec![("event", event), ("result", "handled"), ("service", service)];
        ("onsale_handled_events_total", labels, counts[event])
    });
    emitted.chain(handled).collect()
}

/// What follows from what was done.
fn at_the_end() -> Vec<Expected<'static>> {
    let requests = |status, route| {
        vec![
            ("http_request_method", "GET"),
            ("http_response_status_code", status),
            ("http_route", route),
            ("service", "gateway"),
        ]
    };
    let seats = |state| vec![("service", "concert"), ("state", state)];
    let of_payment = || vec![("service", "payment")];
    vec![
        ("http_server_request_duration_seconds_count", requests("404", "unmatched"), 2.0),
        ("http_server_request_duration_seconds_count", requests("400", "/v1/concerts"), 1.0),
        ("onsale_seats", seats("sold"), 1.0),
        ("onsale_seats", seats("held"), 1.0),
        ("onsale_seats", seats("free"), 1.0),
        ("onsale_payments_open", of_payment(), 0.0),
        ("onsale_outbox_unpublished", of_payment(), 0.0),
        ("onsale_dead_letters", of_payment(), 0.0),
        ("onsale_consumer_pending", vec![("producer", "payment"), ("service", "point")], 0.0),
        ("onsale_waiting_fans", vec![("service", "queue")], 0.0),
        ("onsale_sagas_stalled", vec![("service", "audit")], 0.0),
        ("onsale_violations", vec![("service", "audit")], 0.0),
    ]
}

/// What is not as the databases say.
async fn wrong(mesh: &Mesh, scraped: &Exposition) -> Vec<String> {
    let mut wrong = Vec::new();
    let expected = [in_databases(mesh).await, as_audit_has_read(mesh).await, at_the_end()];
    for (name, labels, expected) in expected.into_iter().flatten() {
        let found = scraped.value(name, &labels);
        if found != Some(expected) {
            wrong.push(format!("{name} {labels:?} is {found:?}, not {expected}"));
        }
    }
    for service in SERVICES {
        for name in ["onsale_ready", "onsale_broker_connected"] {
            if scraped.value(name, &[("service", service)]) != Some(1.0) {
                wrong.push(format!("{name} of {service}"));
            }
        }
    }
    wrong
}

/// The traces that the exemplars of a metric lead to.
fn traces(scraped: &Exposition, name: &str) -> BTreeSet<String> {
    let samples = scraped.samples().filter(|sample| sample.name == name);
    let exemplars = samples.filter_map(|sample| sample.exemplar.as_ref());
    exemplars.map(|(labels, _)| labels["trace_id"].clone()).collect()
}

fn no_label_is_an_id(scraped: &Exposition) {
    for sample in scraped.samples() {
        let labels = sample.labels.iter().filter(|(name, _)| *name != "le");
        for (name, value) in labels {
            assert!(!looks_like_an_id(value), "{name}={value} of {}", sample.name);
        }
    }
}

/// What was pushed has the names, labels and values of the text.
async fn was_pushed(scraper: &Scraper, collector: &Collector) {
    eventually("the collector has what is served", || async {
        let scraped = scraper.scrape().await;
        let pushed = collector.pushed();
        let names = scraped.families.iter().filter(|(_, family)| !family.samples.is_empty());
        let names: BTreeSet<String> = names
            .map(|(name, family)| match family.kind.as_str() {
                "info" => family.query_name(name),
                _ => name.clone(),
            })
            .collect();
        let is_all = names == pushed.keys().cloned().collect();
        let payments = values(pushed.get("onsale_payments")?);
        let served = &scraped.families["onsale_payments"].samples;
        let same = served.iter().all(|one| payments.get(&one.labels) == Some(&one.value));
        let durations = values(pushed.get("http_server_request_duration_seconds")?);
        (is_all && same && !durations.is_empty()).then_some(())
    })
    .await;
}

#[test]
fn a_sale_is_exported_as_it_was_under_the_documented_names_with_its_traces_and_without_ids() {
    run(async {
        let (sink, collector) =
            (Sink::start(Protocol::Http).await.unwrap(), Collector::start().await.unwrap());
        let push = Push::to_collector(&collector.endpoint(), PUSHED_EVERY).expect("an address");
        let mesh = Mesh::with_configs(&SERVICES, |configs| {
            configs.collector = Some(sink.collector());
            configs.push_metrics = Some(push);
        })
        .await;
        let scraper = Scraper::of(&mesh).await;
        sell(&mesh).await;
        let last = std::sync::Mutex::new(Vec::new());
        let settled = eventually_or("the counts are right", &last, || async {
            let scraped = scraper.scrape().await;
            let mut wrong = wrong(&mesh, &scraped).await;
            wrong.extend(differences(&scraped));
            let is_right = wrong.is_empty();
            *last.lock().unwrap() = wrong;
            is_right.then_some(scraped)
        })
        .await;
        no_label_is_an_id(&settled);
        for name in [
            "onsale_payment_duration_seconds_bucket",
            "http_server_request_duration_seconds_bucket",
        ] {
            let traces = traces(&settled, name);
            assert!(!traces.is_empty(), "{name} has no exemplar");
            sink.wait_for(harness::mesh::SOON, |received| {
                traces.iter().all(|id| received.contains_key(id)).then_some(())
            })
            .await;
        }
        was_pushed(&scraper, &collector).await;
        mesh.stop().await;
    });
}

/// As [`eventually`], and says what was wrong in the end.
async fn eventually_or<T, F: Future<Output = Option<T>>>(
    what: &str,
    last: &std::sync::Mutex<Vec<String>>,
    look: impl Fn() -> F,
) -> T {
    let until = tokio::time::Instant::now() + 2 * harness::mesh::SOON;
    loop {
        if let Some(seen) = look().await {
            return seen;
        }
        let wrong = last.lock().unwrap().clone();
        assert!(tokio::time::Instant::now() < until, "not in time: {what}: {wrong:#?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[test]
fn what_serves_health_also_answers_head_and_the_older_format_and_nothing_else() {
    run(async {
        let mesh = harness::mesh::shared().await;
        let scraper = Scraper::of(mesh).await;
        scraper.scrape().await;
        let get = || scraper.http.get("/metrics");
        let older = get().header("accept", "text/plain;version=0.0.4").send().await.unwrap();
        let kind = older.headers["content-type"].to_str().unwrap();
        assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
        let text = String::from_utf8_lossy(&older.body).into_owned();
        assert!(text.contains("# TYPE onsale_payments_total counter\n"), "{text}");
        assert!(!text.contains("# EOF") && !text.contains(" # {"), "{text}");
        let head = scraper.http.ask("HEAD".parse().unwrap(), "/metrics").send().await.unwrap();
        assert!(head.status == 200 && head.body.is_empty());
        let post = scraper.http.post("/metrics").send().await.unwrap();
        assert_eq!(post.status, 405);
        assert_eq!(scraper.http.get("/metric").send().await.unwrap().status, 404);
    });
}
