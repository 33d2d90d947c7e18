//! The spans of a batch: one for each event and command, and one for the transaction.

use super::work::{Entry, Settle, Work};
use crate::{
    Link,
    store::engine::{Engine, Failure, Ran},
    trace::{Messaging, Span, Tracer},
};

/// Opens the spans of a message's events, or of a command, as children of the spans that sent
/// them. A redelivered message keeps its parents.
pub(crate) fn open_spans(link: &Link, work: &mut Work) {
    let delivery = match &work.settle {
        Settle::Ack(delivery) => Some(delivery),
        _ => None,
    };
    for entry in &mut work.entries {
        // A command that came too early keeps the span of its first attempt.
        if entry.span.is_on() {
            continue;
        }
        open_span(link, entry, delivery.map(|delivery| &*delivery.subject));
        if let Some(again) = delivery.filter(|delivery| delivery.delivered > 1) {
            entry.span.note("messaging.nats.delivery_count", || again.delivered as i64);
        }
    }
}

/// Opens the span of one event or command; `subject` is that of the event's message.
pub(crate) fn open_span(link: &Link, entry: &mut Entry, subject: Option<&str>) {
    let tracer = link.tracer();
    if !tracer.is_on() {
        entry.span = Span::Off(entry.meta.trace);
        return;
    }
    entry.tracer = tracer.clone();
    let meta = &entry.meta;
    entry.span = match meta.event_id {
        Some(_) => tracer.process(meta.name, &meta.trace),
        None if entry.is_of_timer() => tracer.timer(meta.name, &[]),
        None => {
            let mut span = tracer.command(meta.name, &meta.trace);
            span.saga(meta.saga_id);
            span
        }
    };
    describe(link, entry, subject);
}

/// Opens the span of a dead letter that an operator has retried.
pub(crate) fn open_span_later(link: &Link, entry: &mut Entry, subject: &str, number: u64) {
    entry.tracer = link.tracer().clone();
    entry.span = entry.tracer.process_later(entry.meta.name, &entry.meta.trace);
    entry.span.note("onsale.dead_letter", || number as i64);
    describe(link, entry, Some(subject));
}

/// Records what message an event is.
fn describe(link: &Link, entry: &mut Entry, subject: Option<&str>) {
    let (meta, span) = (&entry.meta, &mut entry.span);
    let Some(event_id) = meta.event_id else { return };
    span.message(Messaging {
        operation: "process",
        event: meta.name,
        subject: subject.unwrap_or(meta.name),
        event_id,
        saga_id: meta.saga_id,
        data: &entry.raw,
    });
    span.note("messaging.consumer.group.name", || link.service().to_owned());
    if meta.attempt > 1 {
        span.note("onsale.parked.attempt", || meta.attempt as i64);
    }
}

/// The span of the transaction of a batch: the child of its only event or command, or a trace
/// of its own that is linked to theirs.
pub(crate) fn transaction(tracer: &Tracer, engine: &dyn Engine, batch: &mut [Work]) -> Span {
    if !tracer.is_on() {
        return Span::default();
    }
    if let [Work { entries, .. }] = batch
        && let [only] = &mut entries[..]
    {
        return transaction_of(tracer, engine, only);
    }
    let messages = batch.len();
    let entries = batch.iter_mut().flat_map(|work| &mut work.entries);
    let mut spans: Vec<&mut Span> = entries.map(|entry| &mut entry.span).collect();
    let mut span = tracer.transaction(&mut spans);
    let events = spans.len() as i64;
    describe_transaction(&mut span, engine, messages as i64, events);
    span.note("db.operation.batch.size", || events);
    span
}

/// The span of the transaction of a single event or command: its child.
pub(crate) fn transaction_of(tracer: &Tracer, engine: &dyn Engine, entry: &mut Entry) -> Span {
    let mut span = tracer.transaction(&mut [&mut entry.span]);
    describe_transaction(&mut span, engine, 1, 1);
    if let Some(saga_id) = entry.here().saga_id {
        span.saga(saga_id);
    }
    span
}

fn describe_transaction(span: &mut Span, engine: &dyn Engine, messages: i64, events: i64) {
    let operation = engine.operation();
    span.note("db.system.name", || operation.system);
    span.note("db.operation.name", || operation.name);
    span.note("messaging.batch.message_count", || messages);
    span.note("onsale.batch.events", || events);
}

/// Records how a transaction ended, after so many runs.
pub(crate) fn end_transaction(mut span: Span, runs: u32, ran: &Result<Ran, Failure>) {
    if runs > 1 {
        span.note("onsale.batch.runs", || i64::from(runs));
    }
    match ran {
        Ok(ran) => span.note("onsale.batch.emitted", || {
            ran.emitted.iter().map(|message| message.events as i64).sum::<i64>()
        }),
        Err(failure) => span.fail(failure.kind(), || failure.to_string()),
    }
}

/// Records the status of an answer; 500 and above mark the span as failed.
pub(crate) fn answered_with(span: &mut Span, status: u16) {
    span.note("rpc.response.status_code", || status.to_string());
    if status >= 500 {
        let status = status.to_string();
        span.fail(&status, || status.clone());
    }
}
