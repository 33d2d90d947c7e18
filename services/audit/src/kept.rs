//! Everything that is kept, as the streams told it: what an auditor is made of.

use std::collections::BTreeMap;

use events::{EventId, audit::Violation};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{Heard, auditor::Auditor, facts, flows::Flows};

/// Facts that are loaded at once.
const PIECE: i64 = 5_000;
/// Facts of one stream may have ids in another order than their sequences, when several
/// instances told them; by this much at most.
const DISORDER_MILLIS: u64 = 5_000;

/// An auditor that has heard every kept fact, and what it found.
///
/// # Errors
/// When the database cannot be read.
pub async fn auditor(pool: &PgPool) -> sqlx::Result<(Auditor, Vec<Violation>)> {
    let flows = Flows::shipped();
    let (mut auditor, mut found) = (Auditor::default(), Vec::new());
    let (mut streams, mut last) = (Streams::default(), Uuid::nil());
    loop {
        let piece = facts::after(pool, last, PIECE).await?;
        let until = piece.last().map(|heard| {
            last = heard.event_id.0;
            millis(heard).saturating_sub(DISORDER_MILLIS)
        });
        piece.into_iter().for_each(|heard| streams.add(heard));
        for heard in streams.told_before(until.unwrap_or(u64::MAX)) {
            found.extend(auditor.hear(flows, &heard));
        }
        if until.is_none() {
            return Ok((auditor, found));
        }
    }
}

/// The milliseconds of the moment that a fact's id was made.
fn millis(heard: &Heard) -> u64 {
    (heard.event_id.0.as_u128() >> 80) as u64
}

/// Facts on their way from the order of their ids to the order of their streams.
#[derive(Default)]
struct Streams(BTreeMap<String, BTreeMap<(u64, EventId), Heard>>);

impl Streams {
    fn add(&mut self, heard: Heard) {
        let place = (heard.stream_seq, heard.event_id);
        self.0.entry(heard.service().to_owned()).or_default().insert(place, heard);
    }

    /// Takes out, stream after stream, what comes before the first fact that is not older.
    fn told_before(&mut self, until: u64) -> Vec<Heard> {
        let mut told = Vec::new();
        for stream in self.0.values_mut() {
            while let Some(first) = stream.first_entry()
                && (until == u64::MAX || millis(first.get()) < until)
            {
                told.push(first.remove());
            }
        }
        told
    }
}

#[cfg(test)]
mod tests {
    use events::{ScheduleId, Timestamp};

    use super::*;
    use crate::rehearsal::{End, Visit};

    #[test]
    fn the_facts_of_a_stream_come_in_its_order_whatever_their_ids() {
        let at = Timestamp::from_unix_millis(1_800_000_000_000).unwrap();
        let visit = Visit::new(ScheduleId(Uuid::nil()), 1, at);
        let mut facts = visit.facts(End::Paid);
        facts.retain(|heard| heard.service() == "reservation");
        // The second was told by an instance whose clock was behind.
        facts[0].stream_seq = 7;
        facts[1].stream_seq = 6;
        let mut streams = Streams::default();
        facts.iter().cloned().for_each(|heard| streams.add(heard));
        // The first in the stream is not old enough, so what follows waits for it.
        assert_eq!(streams.told_before(millis(&facts[1])), []);
        let told = streams.told_before(millis(&facts[1]) + 1);
        assert_eq!(told, [facts[1].clone(), facts[0].clone()]);
        assert_eq!(streams.told_before(u64::MAX), []);
    }
}
