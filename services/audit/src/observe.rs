//! Reads an event of a stream as the auditor and the timeline take it in.

use auditor::Observed;
use events::EventId;
use mesh::StoredEvent;

/// The event with its attributes; `None` when one that every event has is missing.
pub fn observe(event: &StoredEvent) -> Option<Observed> {
    Some(Observed {
        event_id: EventId(event.event_id()?),
        event: event.name().to_owned(),
        stream_seq: event.position(),
        saga_id: event.saga_id()?,
        cause_id: event.cause_id(),
        about: event.about()?,
        at: event.at()?,
        deliveries: u32::try_from(event.attempt()).unwrap_or(u32::MAX),
        trace_id: event.trace_id().map(ToOwned::to_owned),
        payload: event.payload().clone(),
    })
}
