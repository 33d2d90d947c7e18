//! One payment is one tree of spans, whatever its outcome.

use events::{
    payment::{Payment, PaymentFailure, PaymentState},
    queue::PlaceState,
};
use harness::{
    mesh::{Mesh, SOON, run},
    otlp::{Sink, Span, Tree},
};
use mesh::failpoint::Failpoint;
use onsale::{
    fleet::{Fleet, ServiceConfigs},
    registry::SERVICES,
};
use serde_json::json;

/// The spans with which every payment begins.
const ASKED: [&str; 4] = [
    "gateway: POST /v1/payments",
    "payment: command payment.pay",
    "payment: transaction",
    "payment: publish payment.requested",
];

/// One service's step in a saga: its name, the event it handles and the event it emits, for example
/// `point: payment.requested -> point.debited`. An event emitted by a Valkey function follows from
/// the transaction, without a span of its own.
type Step = (&'static str, &'static str, &'static str);

const DEBITED: Step = ("point", "payment.requested", "point.debited");
const CONFIRMED: Step = ("reservation", "point.debited", "reservation.confirmed");
const COMPLETED: Step = ("payment", "reservation.confirmed", "payment.completed");

/// The spans from the request through these steps.
fn path(steps: &[Step]) -> Vec<String> {
    let mut path: Vec<String> = ASKED.map(str::to_owned).into();
    for (service, handled, emitted) in steps {
        path.push(format!("{service}: process {handled}"));
        path.push(format!("{service}: transaction"));
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
            path(&[DEBITED, CONFIRMED, COMPLETED, ("queue", "payment.completed", "")]),
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
            ("queue", "payment.failed", ""),
        ])],
        other => panic!("no test makes a payment {other:?}"),
    }
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
    let saga_id = payment.payment_id.to_string();
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
        let attribute = |name: &str| span.attributes.get(name).map(String::as_str);
        assert_eq!(attribute("onsale.saga.id"), Some(saga_id.as_str()), "{}\n{tree}", span.name);
        let Some((operation @ ("publish" | "process"), event)) = span.name.split_once(' ') else {
            continue;
        };
        assert_eq!(attribute("onsale.fact"), Some(event));
        assert_eq!(attribute("messaging.system"), Some("nats"));
        assert_eq!(attribute("messaging.operation.name"), Some(operation));
        assert_eq!(attribute("messaging.message.conversation_id"), Some(saga_id.as_str()));
        assert!(attribute("messaging.message.id").is_some());
        let subject = attribute("messaging.destination.name").unwrap_or_default();
        assert_eq!(subject, format!("onsale.{event}.v1.{}", payment.schedule_id));
        if operation == "process" {
            assert_eq!(attribute("messaging.consumer.group.name"), Some(span.service.as_str()));
        }
    }
    let outcomes: Vec<_> = tree
        .all()
        .filter_map(|span| {
            let outcome = span.attributes.get("onsale.outcome")?;
            Some((span.service.as_str(), outcome.as_str(), span.attributes.get("onsale.reason")))
        })
        .collect();
    let reason = payment.reason.map(|reason| json!(reason).as_str().unwrap_or("").to_owned());
    let state = if reason.is_some() { "failed" } else { "completed" };
    assert_eq!(outcomes, [("payment", state, reason.as_ref())], "{tree}");
}

#[test]
fn every_outcome_of_a_payment_is_one_tree_from_the_request_to_the_last_service() {
    run(async {
        let sink = Sink::start().await.expect("a collector");
        let traced = |configs: &mut ServiceConfigs| configs.otlp_endpoint = Some(sink.endpoint());
        let mesh = Mesh::with_configs(&SERVICES, traced).await;
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
        roots_are_requests_and_timers(&sink);
    });
}

/// Every timer run and every request begins a trace of its own; nothing else begins one, and no
/// trace has lost its root.
fn roots_are_requests_and_timers(sink: &Sink) {
    let mut timers = 0;
    for spans in sink.traces().values() {
        let tree = Tree::of(spans).unwrap_or_else(|why| panic!("{why}"));
        let root = tree.root();
        match root.name.split_once(' ') {
            Some(("timer", _)) => timers += 1,
            _ => assert!(root.service == "gateway" || is_of_start(root), "{tree}"),
        }
    }
    assert!(timers > 0, "fans were admitted by a timer");
}

/// When services start, they query each other for public keys and for state that others own.
fn is_of_start(root: &Span) -> bool {
    root.name.ends_with(".jwks") || root.name.contains(".all_")
}

#[test]
fn a_payment_is_one_tree_when_a_service_dies_in_the_middle_of_it() {
    run(async {
        let sink = Sink::start().await.expect("a collector");
        let traced = |configs: &mut ServiceConfigs| configs.otlp_endpoint = Some(sink.endpoint());
        let others: Vec<&str> = SERVICES.into_iter().filter(|name| *name != "point").collect();
        let mesh = Mesh::with_configs(&others, traced).await;
        let mut configs = ServiceConfigs::default();
        traced(&mut configs);
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
    });
}
