//! The real Jaeger: a failed payment is found by its attribute, and a payment is one picture.

use std::collections::{BTreeMap, BTreeSet};

use events::payment::PaymentState;
use harness::{
    mesh::{Mesh, SOON, eventually, run},
    tools,
};
use mesh::trace::{Collector, Protocol};
use onsale::{fleet::ServiceConfigs, http::Http, registry::SERVICES};
use serde_json::{Value, json};
use servers::{Program, Server};
use tempfile::TempDir;

/// The attribute that an operator searches by.
const OUTCOME: &str = "onsale.saga.outcome";
/// The services whose spans may carry it.
const MARKED: [&str; 2] = ["payment", "gateway"];
/// Jaeger's limit, in traces. More would only take memory.
const TRACES_MAX: usize = 5_000;

/// A running Jaeger. It stops when dropped.
struct Jaeger {
    api: Http,
    /// Where it takes spans over HTTP.
    otlp: String,
    _server: Server,
    // Last: Jaeger has stopped when its folder is deleted.
    _folder: TempDir,
}

/// All in one process and in memory, on these ports of 127.0.0.1: the query API, its gRPC twin,
/// and OTLP over gRPC and over HTTP.
fn configuration(ports: &[u16]) -> Value {
    let at = |index: usize| json!({ "endpoint": format!("127.0.0.1:{}", ports[index]) });
    json!({
        "service": {
            "extensions": ["jaeger_storage", "jaeger_query"],
            "pipelines": { "traces": { "receivers": ["otlp"], "exporters": ["jaeger_storage_exporter"] } },
            // Its own metrics would take a port that is not free to choose.
            "telemetry": { "metrics": { "level": "none" } },
        },
        "extensions": {
            "jaeger_storage": { "backends": { "memory": { "memory": { "max_traces": TRACES_MAX } } } },
            "jaeger_query": {
                "storage": { "traces": "memory" },
                "http": at(0),
                "grpc": at(1),
                // It would send spans of its own to a collector that is none of ours.
                "enable_tracing": false,
            },
        },
        "receivers": { "otlp": { "protocols": { "grpc": at(2), "http": at(3) } } },
        "exporters": { "jaeger_storage_exporter": { "trace_storage": "memory" } },
    })
}

impl Jaeger {
    /// A Jaeger of its own; `None` when it was not built.
    fn start() -> Option<Self> {
        let path = tools::find("jaeger")?;
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("jaeger.json");
        let args = |ports: &[u16]| {
            // YAML, of which JSON is a part.
            std::fs::write(&file, configuration(ports).to_string()).expect("written");
            vec!["--config".into(), file.clone().into()]
        };
        let log = folder.path().join("log");
        let program = Program { name: "jaeger", path, log, ports: 4, args: &args };
        let (server, ports) = program.start().unwrap_or_else(|error| panic!("{error}"));
        let api = Http::new(server.url());
        let otlp = format!("http://127.0.0.1:{}", ports[3]);
        Some(Self { api, otlp, _server: server, _folder: folder })
    }

    /// The traces in which a span of this service has this attribute.
    async fn search(&self, service: &str, attribute: &str, value: &str) -> Vec<Trace> {
        // {"attribute":"value"}, as it is written in a URL.
        let tags = format!("%7B%22{attribute}%22%3A%22{value}%22%7D");
        let path = format!("/api/traces?service=onsale-{service}&limit=20&tags={tags}");
        let found: Value = self.api.get(path).send().await.expect("sent").json().expect("traces");
        found["data"].as_array().into_iter().flatten().map(Trace::of).collect()
    }

    /// The names of all services that it has spans of.
    async fn services(&self) -> BTreeSet<String> {
        let found = self.api.get("/api/services").send().await.expect("sent");
        let found: Value = found.json().expect("services");
        let names = found["data"].as_array().into_iter().flatten().filter_map(Value::as_str);
        names.filter_map(|name| name.strip_prefix("onsale-")).map(str::to_owned).collect()
    }
}

/// One span, as Jaeger shows it.
#[derive(Debug)]
struct Span {
    service: String,
    name: String,
    parent: Option<String>,
    attributes: BTreeMap<String, String>,
}

/// One trace, by the ids of its spans.
#[derive(Debug)]
struct Trace(BTreeMap<String, Span>);

impl Trace {
    fn of(trace: &Value) -> Self {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let span = |span: &Value| {
            let process = &trace["processes"][span["processID"].as_str().unwrap_or_default()];
            let service = text(&process["serviceName"]);
            let references = span["references"].as_array().into_iter().flatten();
            // A link is a reference as well; only a parent draws a child under it.
            let parent = references
                .filter(|reference| reference["refType"] == "CHILD_OF")
                .find(|reference| reference["traceID"] == trace["traceID"]);
            let attributes = span["tags"].as_array().into_iter().flatten();
            let attributes = attributes.map(|tag| (text(&tag["key"]), text(&tag["value"])));
            let shown = Span {
                service: service.strip_prefix("onsale-").unwrap_or(&service).to_owned(),
                name: text(&span["operationName"]),
                parent: parent.map(|reference| text(&reference["spanID"])),
                attributes: attributes.collect(),
            };
            (text(&span["spanID"]), shown)
        };
        Self(trace["spans"].as_array().into_iter().flatten().map(span).collect())
    }

    fn has(&self, attribute: &str, value: &str) -> bool {
        self.0.values().any(|span| span.attributes.get(attribute).is_some_and(|is| is == value))
    }

    /// The services from the root down to a span, each once where it follows itself; `None` when a
    /// parent is missing.
    fn path_to<'a>(&'a self, span: &'a Span) -> Option<Vec<&'a str>> {
        let mut path = vec![span.service.as_str()];
        let mut at = span;
        // No path is longer than all spans.
        for _ in &self.0 {
            let Some(parent) = &at.parent else { break };
            at = self.0.get(parent)?;
            path.push(&at.service);
        }
        path.reverse();
        path.dedup();
        at.parent.is_none().then_some(path)
    }

    /// Why the trace is not one picture in which the services follow each other like this; empty
    /// when it is.
    fn wrong(&self, expected: &[&str]) -> Vec<String> {
        let roots: Vec<_> = self.0.values().filter(|span| span.parent.is_none()).collect();
        let mut wrong: Vec<String> = match roots.as_slice() {
            [root] if root.service == "gateway" => Vec::new(),
            other => vec![format!("not one root, of the gateway, but {other:?}")],
        };
        let paths: Vec<_> = self.0.values().map(|span| (span, self.path_to(span))).collect();
        let orphans = paths.iter().filter(|(_, path)| path.is_none());
        wrong.extend(orphans.map(|(span, _)| format!("an orphan: {} {}", span.service, span.name)));
        if !paths.iter().any(|(_, path)| path.as_deref() == Some(expected)) {
            wrong.push(format!("no path {expected:?}"));
        }
        wrong
    }
}

#[test]
fn jaeger_finds_a_failed_payment_by_its_outcome_and_shows_it_as_one_picture() {
    run(async {
        let Some(jaeger) = Jaeger::start() else { return };
        let collector = Collector::at(jaeger.otlp.clone(), Protocol::Http);
        let traced = |configs: &mut ServiceConfigs| configs.collector = Some(collector);
        let mesh = Mesh::with_configs(&SERVICES, traced).await;
        let schedule = mesh.open(2, |_| {}).await.schedule_id;
        let (rich, poor) = (mesh.fan(100).await, mesh.fan(99).await);
        let completed = rich.pay(&rich.hold(schedule, &["A-1-1"]).await).await;
        let failed = poor.pay(&poor.hold(schedule, &["A-1-2"]).await).await;
        assert_eq!(completed.state, PaymentState::Completed);
        assert_eq!(failed.state, PaymentState::Failed);

        for (outcome, payment, expected) in [
            ("failed", &failed, &["gateway", "payment", "point", "payment"][..]),
            (
                "completed",
                &completed,
                &["gateway", "payment", "point", "reservation", "payment", "queue"],
            ),
        ] {
            let saga = payment.payment_id.to_string();
            let what = format!("the {outcome} payment is found by {OUTCOME}");
            let look = || async {
                let mut found = Vec::new();
                for service in MARKED {
                    found.extend(jaeger.search(service, OUTCOME, outcome).await);
                }
                // The last spans of a trace may come a moment later.
                let ours = found.into_iter().find(|trace| trace.has("onsale.saga.id", &saga));
                ours.filter(|trace| trace.wrong(expected).is_empty())
            };
            let trace = eventually(&what, look).await;
            let other = if outcome == "failed" { &completed } else { &failed };
            assert!(!trace.has("onsale.saga.id", &other.payment_id.to_string()), "{trace:?}");
        }
        let all: BTreeSet<String> = SERVICES.map(str::to_owned).into();
        eventually("every service has spans in Jaeger", || async {
            // A service that does nothing in a sale has none.
            let seen = jaeger.services().await;
            let missing: Vec<_> = all.difference(&seen).collect();
            missing
                .iter()
                .all(|name| ["audit", "data-platform"].contains(&name.as_str()))
                .then_some(())
        })
        .await;
        tokio::time::timeout(SOON, mesh.stop()).await.expect("stopped");
    });
}

#[test]
fn an_orphan_or_a_second_root_is_not_one_picture() {
    let span = |id: &str, service: usize, parent: Option<&str>| {
        let parent =
            parent.map(|parent| json!({ "refType": "CHILD_OF", "traceID": "t", "spanID": parent }));
        let link = json!({ "refType": "FOLLOWS_FROM", "traceID": "t", "spanID": "a" });
        let references: Vec<Value> = parent.into_iter().chain([link]).collect();
        json!({ "spanID": id, "operationName": id, "processID": format!("p{service}"),
            "references": references, "tags": [{ "key": "k", "value": "v" }] })
    };
    let trace = |spans: Vec<Value>| {
        Trace::of(&json!({ "traceID": "t", "spans": spans, "processes": {
            "p0": { "serviceName": "onsale-gateway" }, "p1": { "serviceName": "onsale-payment" } } }))
    };
    let whole = trace(vec![span("a", 0, None), span("b", 1, Some("a")), span("c", 1, Some("b"))]);
    assert_eq!(whole.wrong(&["gateway", "payment"]), Vec::<String>::new());
    assert!(whole.has("k", "v") && !whole.has("k", "w"));
    assert_eq!(whole.wrong(&["gateway", "point"]).len(), 1);
    let orphaned =
        trace(vec![span("a", 0, None), span("b", 1, Some("a")), span("c", 1, Some("x"))]);
    assert!(orphaned.wrong(&["gateway", "payment"])[0].contains("an orphan: payment c"));
    let split = trace(vec![span("a", 0, None), span("b", 1, None)]);
    assert!(split.wrong(&["gateway"])[0].contains("not one root"));
    let circle = trace(vec![span("b", 1, Some("c")), span("c", 1, Some("b"))]);
    assert_eq!(circle.wrong(&["payment"]).len(), 4);
}
