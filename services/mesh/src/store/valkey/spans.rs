//! The spans of events that a Valkey function has emitted.
//!
//! An event carries the context of the span that publishes it, so that span has its id before the
//! call: Lua makes it from the id of the event (`mesh.lua`), and it is recorded here when the call
//! has ended. Where nothing is recorded, an event carries the context of what was handled, as its
//! service was given it.

use std::{collections::HashMap, time::SystemTime};

use bytes::Bytes;
use events::Envelope;
use uuid::Uuid;

use crate::{
    batch::work::Entry,
    outbound::message::{self, Message},
    trace::{Messaging, Span, TraceParent},
};

/// Whether events that this emits get spans. Those of a timer do not: it may admit thousands at
/// once.
fn has_spans(entry: &Entry) -> bool {
    entry.span.is_on() && !entry.is_of_timer()
}

/// The context that Lua gets for an event or command: where its events get spans, only the trace.
pub(super) fn context_of(entry: &Entry) -> Option<String> {
    let context = entry.span.parent();
    if has_spans(entry) { context.to_trace_header() } else { context.to_header() }
}

/// Records the spans of what these have emitted in a call that began at `began`.
pub(super) fn record<'a>(
    entries: impl Iterator<Item = &'a mut Entry>,
    emitted: &[Message],
    began: SystemTime,
) {
    if emitted.is_empty() {
        return;
    }
    let mut spans: HashMap<Uuid, &mut Span> = entries
        .filter(|entry| has_spans(entry))
        .map(|entry| (entry.meta.cause(), &mut entry.span))
        .collect();
    if spans.is_empty() {
        return;
    }
    for message in emitted {
        let (name, _) = message.name_and_count();
        for event in message::unpack(&message.body).unwrap_or_default() {
            record_one(&mut spans, name, message, &event, began);
        }
    }
}

/// An event that cannot be read has no span: its consumers say so.
fn record_one(
    spans: &mut HashMap<Uuid, &mut Span>,
    name: &str,
    message: &Message,
    event: &Bytes,
    began: SystemTime,
) {
    let Ok(envelope) = Envelope::decode(event) else { return };
    let span = envelope.causationid.and_then(|cause| spans.get_mut(&cause));
    let Some(span) = span else { return };
    let about = Messaging {
        operation: "publish",
        event: name,
        subject: &message.subject,
        event_id: envelope.id,
        saga_id: envelope.sagaid,
        data: envelope.data.get().as_bytes(),
    };
    let context = TraceParent::from_header(envelope.traceparent.as_deref());
    span.published(name, context, began, about);
}
