//! One payment is one tree of spans, whatever its outcome.

mod batches;
mod defaults;
mod journeys;
mod later;
mod lines;

use std::collections::BTreeMap;

use events::{
    payment::{Payment, PaymentFailure, PaymentState},
    queue::PlaceState,
};
use harness::{
    mesh::{Mesh, SOON, run},
    otlp::{Sink, Span, Tree},
};
use mesh::{failpoint::Failpoint, trace::Protocol};
use onsale::{
    fleet::{Fleet, ServiceConfigs},
    registry::SERVICES,
};
use serde_json::json;

/// The spans with which every payment begins.
const ASKED: [&str; 3] = [
    "gateway: POST /v1/payments",
    "payment: command payment.pay",
    "payment: publish payment.requested",
];

/// One service's step in a saga: its name, the event it handles and the event it emits, for example
/// `point: payment.requested -> point.debited`.
type Step = (&'static str, &'static str, &'static str);

const DEBITED: Step = ("point", "payment.requested", "point.debited");
const CONFIRMED: Step = ("reservation", "point.debited", "reservation.confirmed");
const COMPLETED: Step = ("payment", "reservation.confirmed", "payment.completed");

/// The spans from the request through these steps.
fn path(steps: &[Step]) -> Vec<String> {
    let mut path: Vec<String> = ASKED.map(str::to_owned).into();
    for (service, handled, emitted) in steps {
        path.push(format!("{service}: process {handled}"));
        if !emitted.is_empty() {
            path.push(format!("{service}: publish {emitted}"));
        }
    }
    path
}

/// The paths that must be in the tree of a payment with this outcome.
fn paths_of(payment: &Payment) -> Vec<Vec<String>> {
    match (payment.state, payment.reason) {
        (PaymentState::Completed, None) => vec![
            path(&[
                DEBITED,
                CONFIRMED,
                COMPLETED,
                ("queue", "payment.completed", "queue.completed"),
            ]),
            path(&[DEBITED, CONFIRMED, COMPLETED, ("ranking", "payment.completed", "")]),
            path(&[DEBITED, CONFIRMED, COMPLETED, ("notification", "payment.completed", "")]),
            path(&[DEBITED, CONFIRMED, ("concert", "reservation.confirmed", "")]),
        ],
        (PaymentState::Failed, Some(PaymentFailure::InsufficientBalance)) => {
            let failed = [
                ("point", "payment.requested", "point.debit_refused"),
                ("payment", "point.debit_refused", "payment.failed"),
            ];
            let after = |service| path(&[failed[0], failed[1], (service, "payment.failed", "")]);
            vec![after("queue"), after("notification")]
        }
        (PaymentState::Failed, Some(PaymentFailure::HoldGone)) => vec![path(&[
            DEBITED,
            ("reservation", "point.debited", "reservation.confirm_refused"),
            ("point", "reservation.confirm_refused", "point.refunded"),
            ("payment", "point.refunded", "payment.failed"),
            ("queue", "payment.failed", "queue.returned"),
        ])],
        other => panic!("no test makes a payment {other:?}"),
    }
}

/// Has the spans of every service sent to a sink.
fn traced(sink: &Sink) -> impl Fn(&mut ServiceConfigs) {
    let collector = sink.collector();
    move |configs| configs.collector = Some(collector.clone())
}

/// The trees of all traces: nothing but requests, timers, batches and retries of dead letters
/// begins one, and no trace has lost its root.
fn trees(sink: &Sink) -> BTreeMap<String, Tree> {
    let traces = sink.traces().into_iter();
    let tree = |spans: &Vec<Span>| Tree::of(spans).unwrap_or_else(|why| panic!("{why}"));
    let trees: BTreeMap<_, _> = traces.map(|(id, spans)| (id, tree(&spans))).collect();
    for tree in trees.values() {
        let root = tree.root();
        let may_begin = match root.name.split_once(' ') {
            Some(("timer", _)) => true,
            Some(("process", _)) => root.attributes.contains_key("onsale.dead_letter"),
            // A batch of many is linked to them, and they to it.
            None if root.name == "transaction" => {
                let is_there = |(trace, span): &(String, String)| {
                    let back = (root.trace_id.clone(), root.span_id.clone());
                    let linked = trees.get(trace).and_then(|tree| tree.span(span));
                    linked.is_some_and(|linked| linked.links.contains(&back))
                };
                tree.spans() == 1 && !root.links.is_empty() && root.links.iter().all(is_there)
            }
            _ => root.service == "gateway" || is_of_start(root),
        };
        assert!(may_begin, "{tree}");
    }
    trees
}

/// The traces in which a span has this attribute: what Jaeger finds by it.
fn found_by<'a>(trees: &'a BTreeMap<String, Tree>, name: &str, value: &str) -> Vec<&'a Tree> {
    let has = |tree: &&Tree| {
        tree.all().any(|span| span.attributes.get(name).is_some_and(|known| known == value))
    };
    trees.values().filter(has).collect()
}

fn has(tree: &Tree, path: &[String]) -> bool {
    tree.has_path(&path.iter().map(String::as_str).collect::<Vec<_>>())
}

/// Whether there are spans of this payment's saga among these.
fn is_of(payment: &Payment, spans: &[Span]) -> bool {
    let saga_id = payment.payment_id.to_string();
    spans.iter().any(|span| span.attributes.get("onsale.saga.id") == Some(&saga_id))
}

/// Whether this is the trace of the payment's request. What a timer does for the saga later, such
/// as sending a message, is a trace of its own.
fn asks(payment: &Payment, spans: &[Span]) -> bool {
    is_of(payment, spans) && spans.iter().any(|span| span.name == "command payment.pay")
}

/// The one trace of a payment's saga, once all its spans were received.
async fn tree_of(sink: &Sink, payment: &Payment) -> Tree {
    let asked = |(id, spans): (&String, &Vec<Span>)| asks(payment, spans).then(|| id.clone());
    let trace_id = sink.wait_for(SOON, |traces| traces.iter().find_map(asked)).await;
    let paths = paths_of(payment);
    sink.wait_for_tree(&trace_id, SOON, |tree| paths.iter().all(|path| has(tree, path))).await
}

/// Checks the whole trace, when no span can be added any more.
fn check(sink: &Sink, payment: &Payment) {
    let traces = sink.traces().into_values().filter(|spans| is_of(payment, spans));
    let (of_saga, later): (Vec<_>, Vec<_>) = traces.partition(|spans| asks(payment, spans));
    assert_eq!(of_saga.len(), 1, "one saga is one trace");
    for spans in later {
        let tree = Tree::of(&spans).unwrap_or_else(|why| panic!("{why}"));
        let root = tree.root();
        let begun = (root.service.as_str(), root.name.as_str());
        assert_eq!(begun, ("notification", "timer send"), "{tree}");
    }
    let tree = Tree::of(&of_saga[0]).unwrap_or_else(|why| panic!("{why}"));
    for path in paths_of(payment) {
        assert!(has(&tree, &path), "not there: {path:#?}\nin {tree}");
    }
    assert_eq!(tree.root().service, "gateway");
    assert_eq!(tree.services()[..2], ["gateway", "payment"]);
    for span in tree.all() {
        check_span(span, payment, &tree);
    }
    check_outcome(payment, &tree);
}

/// Checks what is recorded of a span, by the conventions.
fn check_span(span: &Span, payment: &Payment, tree: &Tree) {
    // It is about another trace, to which it is linked.
    if span.name.starts_with("leads to ") {
        assert_eq!((span.links.len(), tree.children(span).count()), (1, 0), "{tree}");
        return;
    }
    let saga_id = payment.payment_id.to_string();
    let is = |name: &str, value: &str| {
        let known = span.attributes.get(name).map(String::as_str);
        assert_eq!(known, Some(value), "{name} of {}\n{tree}", span.name);
    };
    is("onsale.saga.id", &saga_id);
    if span.name == "transaction" {
        let is_valkey = ["queue", "ranking", "concert"].contains(&span.service.as_str());
        is("db.system.name", if is_valkey { "redis" } else { "postgresql" });
        is("db.operation.name", if is_valkey { "FCALL" } else { "TRANSACTION" });
        is("messaging.batch.message_count", "1");
        assert_eq!(tree.children(span).count(), 0, "{tree}");
    }
    if let Some(endpoint) = span.name.strip_prefix("command ") {
        is("rpc.system.name", "nats");
        is("rpc.method", endpoint);
    }
    let Some((operation @ ("publish" | "process"), event)) = span.name.split_once(' ') else {
        return;
    };
    let schedule_id = payment.schedule_id.to_string();
    is("onsale.event", event);
    is("messaging.system", "nats");
    is("messaging.operation.name", operation);
    is("messaging.operation.type", if operation == "publish" { "send" } else { "process" });
    is("messaging.destination.name", &format!("onsale.{event}.v1.{schedule_id}"));
    is("messaging.destination.template", &format!("onsale.{event}.v1.{{schedule}}"));
    is("messaging.message.conversation_id", &saga_id);
    assert!(span.attributes.contains_key("messaging.message.id"));
    is("onsale.schedule.id", &schedule_id);
    // What is about a place in the waiting room names no reservation, and a payment only when it
    // was paid.
    if event != "queue.returned" {
        is("onsale.payment.id", &saga_id);
    }
    if !["point.refunded", "queue.completed", "queue.returned"].contains(&event) {
        is("onsale.reservation.id", &payment.reservation_id.to_string());
    }
    if operation == "process" {
        is("messaging.consumer.group.name", &span.service);
    }
}

/// Checks that the span that ends the saga says how it ended, and the request's, if it has
/// waited for that.
fn check_outcome(payment: &Payment, tree: &Tree) {
    let outcome = match payment.reason {
        None => "completed",
        Some(PaymentFailure::HoldGone) => "compensated",
        Some(_) => "failed",
    };
    let reason = payment.reason.map(|reason| reason.as_str().to_owned());
    let mut ends = 0;
    for span in tree.all() {
        let Some(noted) = span.attributes.get("onsale.saga.outcome") else { continue };
        assert_eq!(noted, outcome, "{tree}");
        assert_eq!(span.attributes.get("onsale.reason"), reason.as_ref(), "{tree}");
        match span.service.as_str() {
            "gateway" => assert_eq!(span.error, None, "the request succeeded"),
            "payment" => {
                ends += 1;
                assert_eq!(span.error.is_some(), reason.is_some(), "{tree}");
            }
            _ => panic!("{} ended it\n{tree}", span.name),
        }
    }
    assert_eq!(ends, 1, "{tree}");
}

/// Checks the span of the request that has waited for this outcome.
fn check_request(root: &Span, outcome: &str) {
    let attributes = |names: &[&str]| -> Vec<_> {
        names.iter().map(|name| root.attributes[*name].clone()).collect()
    };
    assert_eq!(attributes(&["onsale.saga.outcome"]), [outcome]);
    let http = ["http.request.method", "http.route", "url.path", "url.scheme"];
    assert_eq!(attributes(&http), ["POST", "/v1/payments", "/v1/payments", "http"]);
    assert_eq!(attributes(&["http.response.status_code"]), ["200"]);
}

#[test]
fn every_outcome_of_a_payment_is_one_tree_from_the_request_to_the_last_service() {
    run(async {
        let sink = Sink::start(Protocol::Http).await.expect("a collector");
        let mesh = Mesh::with_configs(&SERVICES, traced(&sink)).await;
        let schedule = mesh.open(4, |_| {}).await.schedule_id;

        let rich = mesh.fan(100).await;
        let completed = rich.pay(&rich.hold(schedule, &["A-1-2"]).await).await;
        assert_eq!(completed.state, PaymentState::Completed);
        rich.place_becomes(schedule, PlaceState::Completed).await;

        let poor = mesh.fan(99).await;
        let refused = poor.pay(&poor.hold(schedule, &["A-1-3"]).await).await;
        assert_eq!(refused.reason, Some(PaymentFailure::InsufficientBalance));

        let unlucky = mesh.fan(1_000).await;
        let compensated = unlucky.loses_a_hold_while_paying(schedule).await;
        assert_eq!(compensated.reason, Some(PaymentFailure::HoldGone));

        let payments = [completed, refused, compensated];
        for payment in &payments {
            tree_of(&sink, payment).await;
        }
        // Stopping exports the spans that are left; after that, the traces are complete.
        mesh.stop().await;
        payments.iter().for_each(|payment| check(&sink, payment));
        let trees = trees(&sink);
        assert!(trees.values().any(|tree| tree.root().name.starts_with("timer ")), "admissions");
        for (payment, outcome) in payments.iter().zip(["completed", "failed", "compensated"]) {
            let found = found_by(&trees, "onsale.saga.outcome", outcome);
            let mut of_payment = found.iter().filter(|tree| {
                tree.all().any(|span| {
                    span.name == "command payment.pay" && is_of(payment, std::slice::from_ref(span))
                })
            });
            check_request(of_payment.next().expect("it is found").root(), outcome);
            linked_with_reservation(&trees, payment);
        }
    });
}

/// The traces of a payment and of its reservation lead to each other.
fn linked_with_reservation(trees: &BTreeMap<String, Tree>, payment: &Payment) {
    let (payment_id, reservation_id) =
        (payment.payment_id.to_string(), payment.reservation_id.to_string());
    let of = |saga_id: &str, begins: &str| {
        let found = found_by(trees, "onsale.saga.id", saga_id);
        let tree = found.into_iter().find(|tree| !tree.named(begins).is_empty());
        tree.unwrap_or_else(|| panic!("no trace of {saga_id} has {begins}"))
    };
    let paying = of(&payment_id, "command payment.pay");
    let reserving = of(&reservation_id, "command reservation.hold");
    let pay = paying.named("command payment.pay")[0];
    let leads = |tree: &Tree, to: &Span| {
        let to = (to.trace_id.clone(), to.span_id.clone());
        tree.all().any(|span| span.name.starts_with("leads to ") && span.links.contains(&to))
    };
    assert!(leads(reserving, pay), "to the payment\n{reserving}");
    let is_back = |(trace, span): &(String, String)| {
        *trace == reserving.root().trace_id && reserving.span(span).is_some()
    };
    assert!(pay.links.iter().any(is_back), "to the reservation\n{paying}");
}

/// When services start, they query each other for public keys and for state that others own.
fn is_of_start(root: &Span) -> bool {
    root.name.ends_with(".jwks") || root.name.contains(".all_")
}

#[test]
fn a_payment_is_one_tree_when_a_service_dies_in_the_middle_of_it() {
    run(async {
        let sink = Sink::start(Protocol::Grpc).await.expect("a collector");
        let others: Vec<&str> = SERVICES.into_iter().filter(|name| *name != "point").collect();
        let mesh = Mesh::with_configs(&others, traced(&sink)).await;
        let mut configs = ServiceConfigs::default();
        traced(&sink)(&mut configs);
        let start = async || Fleet::start(&mesh.env.config, &["point"], &configs).await;
        let point = start().await.expect("point");
        let schedule = mesh.open(Failpoint::ALL.len() + 1, |_| {}).await.schedule_id;
        let fan = mesh.fan(1_000).await;
        let mut payments = Vec::new();
        // The service dies at each failpoint, and is restarted at once.
        for (index, failpoint) in Failpoint::ALL.into_iter().enumerate() {
            let hold = fan.hold(schedule, &[format!("A-1-{}", index + 1).as_str()]).await;
            point.running()[0].failpoints().arm(failpoint, 1);
            payments.push(fan.pay(&hold).await);
            assert_eq!(point.running()[0].failpoints().hits(failpoint), 1, "{failpoint:?}");
            fan.place_becomes(schedule, PlaceState::Completed).await;
        }
        // The service is down when it is needed, and another instance takes its place.
        let hold = fan.hold(schedule, &["A-1-4"]).await;
        point.stop().await;
        let body = json!({ "reservation_id": hold.reservation_id });
        let asked: Payment = fan.post("/v1/payments", &body).await.json().expect("a payment");
        let point = start().await.expect("point again");
        payments.push(fan.payment_becomes(&asked, PaymentState::Completed).await);

        for payment in &payments {
            tree_of(&sink, payment).await;
        }
        point.stop().await;
        mesh.stop().await;
        payments.iter().for_each(|payment| check(&sink, payment));
        let before_ack = Failpoint::ALL.iter().position(|at| *at == Failpoint::BeforeAck);
        redelivered(&sink, &payments[before_ack.expect("it is one of them")]);
    });
}

/// A redelivered message has the same parent and says how often it was delivered.
fn redelivered(sink: &Sink, payment: &Payment) {
    let traces = sink.traces();
    let spans = traces.values().find(|spans| asks(payment, spans)).expect("its trace");
    let tree = Tree::of(spans).unwrap_or_else(|why| panic!("{why}"));
    let handled = tree.named("process payment.requested");
    let counts: Vec<_> =
        handled.iter().map(|span| span.attributes.get("messaging.nats.delivery_count")).collect();
    assert_eq!(counts, [None, Some(&"2".to_owned())], "{tree}");
    assert_eq!(handled[0].parent_id, handled[1].parent_id);
}
