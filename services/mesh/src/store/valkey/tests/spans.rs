//! Tests of `spans.rs`: each event carries the context of a span of its own.

use std::collections::BTreeSet;

use bytes::Bytes;
use events::{Envelope, EventId};
use uuid::Uuid;

use super::{Harness, call, entry};
use crate::{
    batch::work::Entry,
    clock,
    outbound::message::{MESSAGE_EVENTS_MAX, unpack},
    store::valkey::{
        batch::Way,
        case::{Case, Item},
    },
    trace::{Collector, Protocol, Span, TraceParent, Tracer},
};

/// The contexts of `count` events that this event or command emits.
async fn contexts(harness: &Harness, entry: &Entry, count: usize) -> Vec<TraceParent> {
    let item = Item::of_entry(Ok(call("emit").arg(count)), entry);
    let called = harness.valkey.call(Way::Live, &[Case::of(item)], clock::now()).await.unwrap();
    let events = called.emitted.iter().flat_map(|message| unpack(&message.body).unwrap());
    let context = |event: Bytes| {
        TraceParent::from_header(Envelope::decode(&event).unwrap().traceparent.as_deref())
    };
    events.map(context).collect()
}

#[tokio::test]
async fn each_event_of_a_recorded_handler_has_a_span_of_its_own_and_those_of_a_timer_have_its() {
    const COUNT: usize = 2 * MESSAGE_EVENTS_MAX;
    let harness = Harness::open().await;
    let collector = Collector::at("http://127.0.0.1:1", Protocol::Http);
    let tracer = Tracer::to_collector("trial", &collector).unwrap();
    let raw = Bytes::new();
    let mut handled = entry(call("nothing"), &raw);
    handled.meta.event_id = Some(EventId(Uuid::now_v7()));
    handled.span = tracer.process("trial.asked", &TraceParent::default());
    let own = handled.span.parent();
    let found = contexts(&harness, &handled, COUNT).await;
    let ids: BTreeSet<String> = found.iter().filter_map(TraceParent::span_id).collect();
    assert_eq!(ids.len(), COUNT, "each has another one");
    assert!(!ids.contains(&own.span_id().unwrap()), "and none that of the handler");
    let is_of_trace = |one: &TraceParent| one.is_sampled() && one.trace_id() == own.trace_id();
    assert!(found.iter().all(is_of_trace));

    let mut timer = entry(call("nothing"), &raw);
    timer.span = tracer.timer("tick", &[]);
    assert_eq!(contexts(&harness, &timer, 2).await, [timer.span.parent(); 2]);

    handled.span = Span::Off(own);
    assert_eq!(contexts(&harness, &handled, 2).await, [own; 2], "it is recorded elsewhere");
}
