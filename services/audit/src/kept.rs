//! All kept events in the order of their streams: what an auditor is built from.

use std::collections::BTreeMap;

use auditor::{Auditor, Observed};
use events::{EventId, audit::Violation};
use flows::Flows;
use sqlx::PgPool;
use uuid::Uuid;

use crate::event_table;

/// Events that are loaded at once.
const PIECE: i64 = 5_000;
/// Events of one stream may have ids in another order than their sequences, when several
/// instances emitted them; they differ by this much at most.
const DISORDER_MILLIS: u64 = 5_000;

/// An auditor that has taken in every kept event, and what it found.
///
/// # Errors
/// When the database cannot be read.
pub(crate) async fn auditor(pool: &PgPool) -> sqlx::Result<(Auditor, Vec<Violation>)> {
    let flows = Flows::shipped();
    let (mut auditor, mut found) = (Auditor::default(), Vec::new());
    let (mut streams, mut last) = (Streams::default(), Uuid::nil());
    loop {
        let piece = event_table::after(pool, last, PIECE).await?;
        let until = piece.last().map(|observed| {
            last = observed.event_id.0;
            millis(observed).saturating_sub(DISORDER_MILLIS)
        });
        piece.into_iter().for_each(|observed| streams.add(observed));
        for observed in streams.emitted_before(until.unwrap_or(u64::MAX)) {
            found.extend(auditor.handle(flows, &observed));
        }
        if until.is_none() {
            return Ok((auditor, found));
        }
    }
}

/// The moment an event's id was made, in milliseconds.
fn millis(observed: &Observed) -> u64 {
    (observed.event_id.0.as_u128() >> 80) as u64
}

/// Brings events from the order of their ids into the order of their streams.
#[derive(Default)]
struct Streams(BTreeMap<String, BTreeMap<(u64, EventId), Observed>>);

impl Streams {
    fn add(&mut self, observed: Observed) {
        let place = (observed.stream_seq, observed.event_id);
        self.0.entry(observed.service().to_owned()).or_default().insert(place, observed);
    }

    /// Takes out, stream after stream, what comes before the first event that is not older
    /// than `until`.
    fn emitted_before(&mut self, until: u64) -> Vec<Observed> {
        let mut emitted = Vec::new();
        for stream in self.0.values_mut() {
            while let Some(first) = stream.first_entry()
                && (until == u64::MAX || millis(first.get()) < until)
            {
                emitted.push(first.remove());
            }
        }
        emitted
    }
}

#[cfg(test)]
mod tests {
    use events::{ScheduleId, Timestamp};

    use super::*;
    use crate::rehearsal::{End, Visit};

    #[test]
    fn the_events_of_a_stream_come_in_its_order_whatever_their_ids() {
        let at = Timestamp::from_unix_millis(1_800_000_000_000).unwrap();
        let visit = Visit::new(ScheduleId(Uuid::nil()), 1, at);
        let mut events = visit.events(End::Paid);
        events.retain(|observed| observed.service() == "reservation");
        // The second was emitted by an instance whose clock was behind.
        events[0].stream_seq = 7;
        events[1].stream_seq = 6;
        let mut streams = Streams::default();
        events.iter().cloned().for_each(|observed| streams.add(observed));
        // The first in the stream is not old enough, so what follows waits for it.
        assert_eq!(streams.emitted_before(millis(&events[1])), []);
        let emitted = streams.emitted_before(millis(&events[1]) + 1);
        assert_eq!(emitted, [events[1].clone(), events[0].clone()]);
        assert_eq!(streams.emitted_before(u64::MAX), []);
    }
}
