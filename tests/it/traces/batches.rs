//! Many sagas in one message: each is one tree all the same, and the batch leads to all of them.

use async_nats::HeaderMap;
use events::payment::{Payment, PaymentState};
use futures::StreamExt;
use harness::{
    mesh::{Fan, Mesh, SOON, run},
    otlp::Sink,
};
use mesh::trace::{Protocol, Span, TraceParent, Tracer};
use onsale::registry::SERVICES;
use serde_json::{Value, json};
use uuid::Uuid;

use super::{COMPLETED, CONFIRMED, DEBITED, has, path, traced, trees};

/// Payments in one bundle; fewer than a span has links.
const PAYMENTS: usize = 24;

/// A payment of a bundle, as the gateway would write it.
fn packed(fan: &Fan<'_>, reservation_id: impl serde::Serialize, request: &Span) -> Value {
    json!({
        "authorization": format!("Bearer {}", fan.token()),
        "id": Uuid::now_v7(),
        "traceparent": request.parent().to_header(),
        "deadline": i64::MAX,
        "body": { "reservation_id": reservation_id },
    })
}

/// Sends a bundle to `payment.pay`, and returns the payments in their order.
async fn pay(fan: &Fan<'_>, bundle: &[Value]) -> Vec<Payment> {
    let client = fan.nats().await;
    let inbox = client.new_inbox();
    let mut replies = client.subscribe(inbox.clone()).await.expect("an inbox");
    let mut map = HeaderMap::new();
    map.insert("onsale-bundle", "1");
    let body = json!(bundle).to_string().into();
    let sent = client.publish_with_reply_and_headers("cmd.payment.pay", inbox, map, body).await;
    sent.expect("sent");
    let mut payments = Vec::new();
    while payments.len() < bundle.len() {
        let reply = tokio::time::timeout(SOON, replies.next()).await;
        let reply = reply.expect("answered in time").expect("a reply");
        let some: Vec<Value> = serde_json::from_slice(&reply.payload).expect("answers");
        payments.extend(some.into_iter().map(|one| {
            let payment: Payment = serde_json::from_value(one["body"].clone()).expect("accepted");
            (one["at"].as_u64(), payment)
        }));
    }
    payments.sort_by_key(|(at, _)| *at);
    payments.into_iter().map(|(_, payment)| payment).collect()
}

#[test]
fn many_sagas_in_one_message_are_a_tree_each_and_the_batch_is_linked_to_all() {
    run(async {
        let sink = Sink::start(Protocol::Http).await.expect("a collector");
        let mesh = Mesh::with_configs(&SERVICES, traced(&sink)).await;
        let edge = Tracer::to_collector("gateway", &sink.collector()).expect("a tracer");
        let schedule = mesh.open(PAYMENTS, |_| {}).await.schedule_id;
        let (mut fans, mut requests, mut bundle) = (Vec::new(), Vec::new(), Vec::new());
        for seat in 1..=PAYMENTS {
            let fan = mesh.fan(100).await;
            let hold = fan.hold(schedule, &[format!("A-1-{seat}").as_str()]).await;
            let path = Some("/v1/payments");
            let request = edge.server("POST", path, &TraceParent::default());
            bundle.push(packed(&fan, hold.reservation_id, &request));
            fans.push(fan);
            requests.push(request);
        }
        let payments = pay(&fans[0], &bundle).await;
        for (fan, payment) in fans.iter().zip(&payments) {
            fan.payment_becomes(payment, PaymentState::Completed).await;
        }
        let trace_ids: Vec<_> =
            requests.iter().map(|span| span.parent().trace_id().expect("an id")).collect();
        drop((requests, fans));
        edge.close(SOON).await;
        mesh.stop().await;

        let trees = trees(&sink);
        let whole = path(&[
            DEBITED,
            CONFIRMED,
            COMPLETED,
            ("queue", "payment.completed", "queue.completed"),
        ]);
        for trace_id in &trace_ids {
            assert!(has(&trees[trace_id], &whole), "{}", trees[trace_id]);
        }
        // The first command of the bundle may have been decided alone.
        let count = |span: &harness::otlp::Span, name: &str| -> usize {
            span.attributes.get(name).and_then(|count| count.parse().ok()).unwrap_or_default()
        };
        let largest = trees
            .values()
            .map(|tree| tree.root())
            .filter(|root| root.name == "transaction" && root.service == "point");
        let largest = largest.max_by_key(|root| count(root, "onsale.batch.events"));
        let largest = largest.expect("point took in many events at once");
        let (events, messages) = (
            count(largest, "onsale.batch.events"),
            count(largest, "messaging.batch.message_count"),
        );
        assert!(events > PAYMENTS / 2 && messages < events, "{events} in {messages}");
        assert_eq!(count(largest, "db.operation.batch.size"), events);
        assert_eq!(count(largest, "onsale.batch.emitted"), events);
        assert_eq!(largest.links.len(), events);
        assert!(largest.links.iter().all(|(trace_id, _)| trace_ids.contains(trace_id)));
    });
}
