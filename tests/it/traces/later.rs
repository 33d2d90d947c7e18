//! What happens to a saga long afterwards: the retry of a dead letter is a trace of its own.

use async_nats::{HeaderMap, header::NATS_MESSAGE_ID};
use events::{
    CONTENT_TYPE, Event, PaymentId, ReservationId, ScheduleId, dead_letter::DeadLetterState,
    payment::PaymentRequested, subject,
};
use harness::{
    mesh::{Mesh, SOON, run},
    otlp::{Sink, Span},
};
use mesh::trace::{Protocol, TraceParent, Tracer};
use serde_json::json;
use uuid::Uuid;

use super::{lines::Lines, traced};
use crate::{
    broker::Broker,
    dead_letters::client::{DeadLetterClient, event_of},
};

#[test]
fn the_retry_of_a_dead_letter_is_a_trace_of_its_own_and_its_log_lines_name_the_saga() {
    run(async {
        let lines = Lines::of_this_process();
        let sink = Sink::start(Protocol::Grpc).await.expect("a collector");
        let mesh = Mesh::with_configs(&["user", "point", "gateway"], traced(&sink)).await;
        let payment = Broker::of(&mesh.env, "payment").await;
        let edge = Tracer::to_collector("gateway", &sink.collector()).expect("a tracer");
        let request = edge.server("POST", Some("/v1/payments"), &TraceParent::default());
        let emitter = request.parent();
        let schedule = ScheduleId(Uuid::now_v7());
        // Its amount is missing, so it can never be handled.
        let mut event = event_of(&PaymentRequested {
            payment_id: PaymentId(Uuid::now_v7()),
            reservation_id: ReservationId(Uuid::now_v7()),
            schedule_id: schedule,
            user_id: mesh.fan(0).await.session.user_id,
            amount: 0,
            hold_version: 1,
            requested_at: mesh::clock::now(),
        });
        event["data"].as_object_mut().expect("an object").remove("amount");
        event["traceparent"] = json!(emitter.to_header());
        let saga_id = event["sagaid"].as_str().expect("a saga").to_owned();
        publish(&payment, subject(PaymentRequested::NAME, 1, Some(schedule)), &event).await;

        let client = DeadLetterClient::of(&mesh).await;
        let letters = client.open_becomes("point", &[DeadLetterState::Parked]).await;
        let trace_id = emitter.trace_id().expect("an id");
        lines.wait_for("an event cannot be taken in", &trace_id, &saga_id).await;
        client.retry(&letters[0].letter).await;
        drop(request);
        let link = (trace_id.clone(), emitter.span_id().expect("an id"));
        let is_retry = |spans: &Vec<Span>| {
            let retry =
                spans.iter().find(|span| span.attributes.contains_key("onsale.dead_letter"));
            retry.filter(|span| span.links.contains(&link)).cloned()
        };
        let retry = sink.wait_for(SOON, |traces| traces.values().find_map(is_retry)).await;
        assert_eq!((retry.service.as_str(), &retry.parent_id), ("point", &None));
        assert_ne!(retry.trace_id, trace_id);
        assert_eq!(retry.name, "process payment.requested");
        assert_eq!(retry.attributes["onsale.saga.id"], saga_id);
        assert_eq!(retry.attributes["error.type"], "dead_letter");
        lines.wait_for("a dead letter has failed again", &retry.trace_id, &saga_id).await;
        // The first attempt belongs to the trace of the request, and failed there.
        let has_first = |spans: &Vec<Span>| {
            spans.iter().find(|span| span.name == "process payment.requested").cloned()
        };
        let first = sink.wait_for(SOON, |traces| traces.get(&trace_id).and_then(has_first)).await;
        assert_eq!(first.parent_id, emitter.span_id());
        assert_eq!(first.attributes["error.type"], "dead_letter");
        mesh.stop().await;
    });
}

/// Publishes one event as its service would.
async fn publish(broker: &Broker, subject: String, event: &serde_json::Value) {
    let mut map = HeaderMap::new();
    map.insert(NATS_MESSAGE_ID, Uuid::now_v7().to_string());
    map.insert("content-type", CONTENT_TYPE);
    let body = json!([event]).to_string().into();
    let sent = broker.jetstream.publish_with_headers(subject, map, body).await.expect("sent");
    sent.await.expect("stored");
}
