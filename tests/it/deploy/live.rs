//! The real Prometheus scrapes a mesh: every query of every alert and panel is answered, and an
//! alert fires when what it is for has happened.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddr, SocketAddrV4},
};

use events::{
    ScheduleId,
    audit::{Saga, SagaState},
    payment::{Payment, PaymentState},
};
use harness::{
    mesh::{Fan, Mesh, eventually, run},
    otlp::Sink,
    prometheus::{Prometheus, Sample},
};
use mesh::trace::Protocol;
use onsale::{
    fleet::{Fleet, ServiceConfigs},
    health::Listener,
    registry::SERVICES,
};
use serde_json::json;
use tokio::runtime::{Builder, Runtime};

use super::queries::{alerts, filled_in, of_dashboards, of_rules, of_spans};
use crate::{
    dead_letters::{client::emit, lines::poison},
    unwell::doctor::confirmed,
};

/// The service that runs in a process of its own, and is stopped.
const GONE: &str = "point";
/// A free port of this machine.
const FREE: SocketAddr = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0));
/// What a sale shows, once two seats of a schedule with four are paid.
const IN_A_SALE: [(&str, f64); 9] = [
    ("count(count by (service) (onsale_ready))", SERVICES.len() as f64),
    ("min(onsale_ready)", 1.0),
    ("count(up{job=\"onsale\"} == 1)", 2.0),
    ("sum(onsale_payments_total{outcome=\"completed\"})", 2.0),
    ("sum(onsale_holds_total{state=\"confirmed\"})", 2.0),
    ("max(onsale_seats{state=\"sold\"})", 2.0),
    ("max(onsale_seats{state=\"free\"})", 2.0),
    ("max(onsale_dead_letters)", 0.0),
    ("max(onsale_outbox_unpublished)", 0.0),
];

/// The panels that are empty as long as nothing goes wrong; `Alerts` are marks on all panels.
const MAY_BE_EMPTY: [&str; 6] = [
    "Alerts that fire",
    "Alerts",
    "Work that stands still",
    "Payments that failed, by reason",
    "Events parked and given up, a second",
    "Commands refused, by code",
];

/// A mesh whose services are scraped.
struct Watched {
    mesh: Mesh,
    sink: Sink,
    prometheus: Prometheus,
    /// Serves the metrics of all services but one, until dropped.
    _others: Served,
    schedule: ScheduleId,
}

#[test]
fn prometheus_answers_every_query_in_a_sale_and_sees_a_stalled_saga_and_a_dead_letter() {
    if !Prometheus::is_installed() {
        println!("skipped: the package `prometheus` is not installed");
        return;
    }
    run(async {
        let sink = Sink::start(Protocol::Http).await.expect("a collector");
        let others: Vec<&str> = SERVICES.into_iter().filter(|service| *service != GONE).collect();
        let traced = |configs: &mut ServiceConfigs| configs.collector = Some(sink.collector());
        let mesh = Mesh::with_configs(&others, traced).await;
        let served = Served::of(&mesh.fleet, FREE).await;
        let (point, of_point) = start(&mesh, FREE).await;
        let addr = of_point.addr;
        let prometheus = Prometheus::start(&[served.addr, addr]).await;
        let schedule = mesh.open(4, |_| {}).await.schedule_id;
        let watched = Watched { mesh, sink, prometheus, _others: served, schedule };

        let fan = watched.mesh.fan(1_000).await;
        watched.sells(&fan).await;
        watched.answers_every_query().await;
        watched.draws_every_panel().await;
        watched.leads_to_traces().await;
        watched.fires_nothing().await;

        let hold = fan.hold(schedule, &["A-1-3"]).await;
        drop(of_point);
        point.stop().await;
        let body = json!({ "reservation_id": hold.reservation_id });
        let payment: Payment = fan.post("/v1/payments", &body).await.json().expect("accepted");
        watched.misses_a_service().await;
        watched.sees_the_stall(&fan, &payment).await;

        let (point, of_point) = start(&watched.mesh, addr).await;
        fan.payment_becomes(&payment, PaymentState::Completed).await;
        watched.forgets("OnsaleSagaStalled").await;

        poison(&watched.mesh, &watched.mesh.fan(100).await).await;
        let dead = watched.fires("OnsaleDeadLetter").await;
        assert_eq!((dead.metric["service"].as_str(), dead.number()), (GONE, 1.0));
        emit(&watched.mesh.env, &confirmed(&fan, schedule)).await;
        watched.fires("OnsaleViolation").await;
        watched.says_what_to_do().await;

        drop(of_point);
        point.stop().await;
        watched.mesh.stop().await;
    });
}

/// The metrics of services, served like those of a process of their own: when this is dropped, the
/// connections of a scraper end as well.
struct Served {
    addr: SocketAddr,
    _listener: Listener,
    runtime: Option<Runtime>,
}

impl Served {
    async fn of(fleet: &Fleet, addr: SocketAddr) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let listener = runtime.spawn(Listener::open(addr)).await.expect("it runs");
        let listener = listener.expect("an address");
        listener.watch(fleet);
        Self { addr: listener.addr(), _listener: listener, runtime: Some(runtime) }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.runtime.take().into_iter().for_each(Runtime::shutdown_background);
    }
}

/// The service that is alone, and its metrics.
async fn start(mesh: &Mesh, addr: SocketAddr) -> (Fleet, Served) {
    let configs = ServiceConfigs::default();
    let fleet = Fleet::start(&mesh.env.config, &[GONE], &configs).await.expect("a service");
    let served = Served::of(&fleet, addr).await;
    (fleet, served)
}

impl Watched {
    /// Two payments, with a scrape between them: a rate needs two values.
    async fn sells(&self, fan: &Fan<'_>) {
        for (number, seat) in ["A-1-1", "A-1-2"].into_iter().enumerate() {
            let hold = fan.hold(self.schedule, &[seat]).await;
            assert_eq!(fan.pay(&hold).await.state, PaymentState::Completed);
            let paid = "sum(onsale_payments_total{outcome=\"completed\"})";
            self.prometheus.becomes(paid, |paid| paid == (number + 1) as f64).await;
        }
        for (expr, wanted) in IN_A_SALE {
            self.prometheus.becomes(expr, |value| value == wanted).await;
        }
        for expr in ["onsale:payment_duration_seconds:p99", "sum(onsale:payments:per_minute)"] {
            self.prometheus.becomes(expr, |value| value > 0.0).await;
        }
    }

    /// No query is refused, and no rule has an error.
    async fn answers_every_query(&self) {
        for query in of_rules().into_iter().chain(of_dashboards()).chain(of_spans()) {
            let answer = self.prometheus.query(&filled_in(&query.expr)).await;
            assert!(answer.is_ok(), "{}: {answer:?}", query.place);
        }
        let rules = eventually("every rule was evaluated", || async {
            let rules = self.prometheus.get("/api/v1/rules").await.ok()?;
            let groups = rules["groups"].as_array().cloned().unwrap_or_default();
            let rules: Vec<_> =
                groups.iter().filter_map(|group| group["rules"].as_array()).flatten().collect();
            let is_done = rules.iter().all(|rule| rule["health"] != "unknown");
            (is_done && !rules.is_empty()).then(|| rules.into_iter().cloned().collect::<Vec<_>>())
        })
        .await;
        assert_eq!(rules.len(), of_rules().len());
        for rule in rules {
            assert_eq!(rule["health"], "ok", "{}: {}", rule["name"], rule["lastError"]);
        }
    }

    /// Every panel has something to draw, besides those that show what went wrong.
    async fn draws_every_panel(&self) {
        for query in of_dashboards() {
            let may_be_empty = |title: &&str| query.place.ends_with(&format!(": \"{title}\""));
            if !MAY_BE_EMPTY.iter().any(may_be_empty) {
                self.prometheus.becomes(&filled_in(&query.expr), |_| true).await;
            }
        }
    }

    /// The exemplar of a payment is the id of a trace that the collector has.
    async fn leads_to_traces(&self) {
        let path = "/api/v1/query_exemplars?query=onsale_payment_duration_seconds_bucket\
                    &start=0&end=9999999999";
        let ids = eventually("an exemplar", || async {
            let found = self.prometheus.get(path).await.ok()?;
            let series = found.as_array().cloned().unwrap_or_default();
            let exemplars = series.iter().filter_map(|one| one["exemplars"].as_array()).flatten();
            let ids: BTreeSet<String> = exemplars
                .filter_map(|one| one["labels"]["trace_id"].as_str().map(str::to_owned))
                .collect();
            (!ids.is_empty()).then_some(ids)
        })
        .await;
        eventually("the trace of each exemplar", || async {
            let traces = self.sink.traces();
            ids.iter().all(|id| traces.contains_key(id)).then_some(())
        })
        .await;
    }

    async fn fires_nothing(&self) {
        let firing = self.prometheus.query("ALERTS{alertstate=\"firing\"}").await.expect("alerts");
        assert!(firing.is_empty(), "{firing:?}");
    }

    /// The query of an alert.
    fn expr(alert: &str) -> String {
        let rule = alerts().into_iter().find(|rule| rule.alert() == Some(alert));
        rule.expect("an alert").text("/expr").to_owned()
    }

    /// Waits until an alert fires, and returns what its query finds.
    async fn fires(&self, alert: &str) -> Sample {
        let firing = format!("count(ALERTS{{alertname=\"{alert}\", alertstate=\"firing\"}})");
        self.prometheus.becomes(&firing, |count| count > 0.0).await;
        let found = self.prometheus.query(&Self::expr(alert)).await.expect("an answer");
        found.first().unwrap_or_else(|| panic!("{alert} fires and finds nothing")).clone()
    }

    async fn forgets(&self, alert: &str) {
        eventually(&format!("{alert} is silent"), || async {
            let found = self.prometheus.query(&Self::expr(alert)).await.ok()?;
            found.is_empty().then_some(())
        })
        .await;
    }

    /// The alerts that wait for a minute before they fire have found the service that is down.
    async fn misses_a_service(&self) {
        for alert in ["OnsaleServiceAbsent", "OnsaleInstanceDown"] {
            let found = eventually(&format!("{alert} finds the service"), || async {
                let found = self.prometheus.query(&Self::expr(alert)).await.ok()?;
                (!found.is_empty()).then_some(found)
            })
            .await;
            assert_eq!(found.len(), 1, "{alert}: {found:?}");
        }
        let missed = self.prometheus.query(&Self::expr("OnsaleServiceAbsent")).await;
        assert_eq!(missed.expect("an answer")[0].metric["service"], GONE);
    }

    async fn sees_the_stall(&self, fan: &Fan<'_>, payment: &Payment) {
        let path = format!("/v1/sagas/{}", payment.payment_id);
        eventually("the saga is stalled", || async {
            let saga: Saga = fan.get(&path).await.json().ok()?;
            (saga.line.state == SagaState::Stalled).then_some(())
        })
        .await;
        assert_eq!(self.fires("OnsaleSagaStalled").await.number(), 1.0);
        self.prometheus.becomes("max(onsale_payments_open)", |open| open == 1.0).await;
    }

    /// What a person is sent has no hole.
    async fn says_what_to_do(&self) {
        let active = self.prometheus.get("/api/v1/alerts").await.expect("alerts");
        let active = active["alerts"].as_array().cloned().expect("alerts");
        assert!(!active.is_empty());
        for alert in active {
            let texts: BTreeMap<String, String> =
                serde_json::from_value(alert["annotations"].clone()).expect("texts");
            for (name, text) in &texts {
                let is_whole = !text.contains("error") && !text.contains("<no value>");
                assert!(is_whole && !text.contains("{{"), "{}: {name}: {text}", alert["labels"]);
            }
        }
    }
}
