//! Whether a stream is still the one that was followed.
//!
//! A broker may lose a stream and get another one of the same name, or be restored from an
//! older state of its disk; outboxes then publish the missing messages again, in another order.
//! A position in the old stream says nothing about the new one. A recreated stream is recognised
//! by its creation time, a stream that was rolled back by the ids of its messages.

use std::collections::VecDeque;

use events::Timestamp;
use mesh::{Extent, MeshClient, StoredEvent, StreamError};
use uuid::Uuid;

use crate::live::cursor::Place;

/// Messages of each stream whose ids are kept: within them, the point up to which a stream that
/// was rolled back agrees is found exactly.
const RECENT_MAX: usize = 256;
/// Messages at the end of a stream whose ids are read with each look at it.
const TAIL: u64 = 64;

/// How far a stream has been passed on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Track {
    /// The last place passed on.
    pub(crate) seen: Place,
    /// When the stream was created; `None` until the first look at it.
    pub(crate) made_at: Option<Timestamp>,
    /// The last messages, oldest first.
    recent: VecDeque<Seen>,
}

/// A message of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    sequence: u64,
    id: Uuid,
    /// As in [`Place::mark_of`].
    mark: u64,
}

impl Seen {
    /// Whether it is the same message at the same sequence. It may have been stored again.
    fn agrees(&self, other: &Self) -> bool {
        (self.sequence, self.id) == (other.sequence, other.id)
    }

    fn place(&self) -> Place {
        Place::after(self.sequence, self.mark)
    }
}

/// What a look at a stream has found.
#[derive(Debug)]
pub(crate) struct Look {
    /// Up to where it agrees with what was passed on.
    pub(crate) agreed: Place,
    /// Where it ends.
    pub(crate) end: Place,
    /// Whether it differs after that place.
    pub(crate) differs: bool,
    made_at: Timestamp,
    tail: Vec<Seen>,
}

/// The place of an event in its stream.
pub(crate) fn place_of(event: &StoredEvent) -> Place {
    let mark = Place::mark_of(event.message_id(), event.stored_at());
    Place { position: event.position(), mark }
}

impl Track {
    /// Notes that an event was passed on.
    pub(crate) fn passed(&mut self, place: Place, id: Uuid) {
        self.seen = place;
        let seen = Seen { sequence: place.sequence(), id, mark: place.mark };
        if self.recent.back() != Some(&seen) {
            self.recent.push_back(seen);
        }
        self.forget();
    }

    /// Whether the event's message was passed on, or read with a look at the stream.
    pub(crate) fn has_passed(&self, event: &StoredEvent) -> bool {
        let message = (event.sequence(), event.message_id());
        event.position() <= self.seen.position
            && self.recent.iter().any(|seen| (seen.sequence, seen.id) == message)
    }

    /// Goes back to the place up to which a stream that differs agrees.
    pub(crate) fn go_back(&mut self, look: &Look) {
        self.seen = look.agreed;
        self.made_at = Some(look.made_at);
    }

    /// Goes on from the end of the stream that the look has found.
    pub(crate) fn go_to(&mut self, look: Look) {
        let (agreed, end) = (look.agreed.sequence(), look.end.sequence());
        self.seen = look.end;
        self.made_at = Some(look.made_at);
        let first = look.tail.first().map_or(end + 1, |seen| seen.sequence);
        self.recent.retain(|seen| seen.sequence <= agreed && seen.sequence < first);
        self.recent.extend(look.tail);
        self.forget();
    }

    fn forget(&mut self) {
        let surplus = self.recent.len().saturating_sub(RECENT_MAX);
        self.recent.drain(..surplus);
    }

    /// Looks at the stream: up to where it agrees with what was passed on, and its end.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) async fn look(
        &self,
        client: &MeshClient,
        service: &str,
    ) -> Result<Look, StreamError> {
        let extent = client.extent(service).await?;
        let made_at = extent.made_at;
        let from = extent.first.max(extent.last.saturating_sub(TAIL - 1));
        let tail = messages(client, service, from, extent.last).await?;
        let last = tail.last().filter(|seen| seen.sequence == extent.last);
        let end = Place::after(extent.last, last.map_or(0, |seen| seen.mark));
        let (agreed, differs) = match self.made_at {
            // The first look: the stream has no earlier followers.
            None => (end, false),
            Some(before) if before != made_at => (Place::start(), true),
            Some(_) => self.agrees(client, service, &extent).await?,
        };
        Ok(Look { agreed, end, differs, made_at, tail })
    }

    /// Up to where the ids of messages are those that were passed on. A message that agrees
    /// after one that does not proves nothing: lost messages may lie between the two.
    async fn agrees(
        &self,
        client: &MeshClient,
        service: &str,
        extent: &Extent,
    ) -> Result<(Place, bool), StreamError> {
        let (Some(first), Some(last)) = (self.recent.front(), self.recent.back()) else {
            let is_shorter = extent.last < self.seen.sequence();
            let agreed = if is_shorter { Place::start() } else { self.seen };
            return Ok((agreed, is_shorter));
        };
        let there = messages(client, service, first.sequence, last.sequence).await?;
        // The message as the stream has it now.
        let now = |seen: &Seen| {
            // What has aged out of the stream was there.
            let aged_out = seen.sequence < extent.first && seen.sequence <= extent.last;
            let found = there.iter().find(|message| message.agrees(seen));
            found.copied().or(aged_out.then_some(*seen))
        };
        let agreed = self.recent.iter().map_while(now).last();
        Ok(match agreed {
            Some(newest) if newest.agrees(last) => (self.seen, false),
            Some(newest) => (newest.place(), true),
            None => (Place::start(), true),
        })
    }
}

/// Whether everything after a place can still be read from a stream.
///
/// # Errors
/// When the stream cannot be read.
pub(crate) async fn can_resume(
    client: &MeshClient,
    service: &str,
    place: Place,
) -> Result<bool, StreamError> {
    let sequence = place.sequence();
    if sequence > 0
        && let Some(seen) = messages(client, service, sequence, sequence).await?.first()
    {
        return Ok(seen.mark == place.mark);
    }
    // The stream has lost nothing between the place and its first message.
    let extent = client.extent(service).await?;
    Ok(sequence + 1 == extent.first.max(1))
}

/// The messages from one sequence to another.
async fn messages(
    client: &MeshClient,
    service: &str,
    from: u64,
    to: u64,
) -> Result<Vec<Seen>, StreamError> {
    let (mut seen, mut from) = (Vec::new(), from.max(1));
    while from <= to {
        let limit = usize::try_from(to - from + 1).unwrap_or(usize::MAX);
        let messages = client.stored_messages(service, from, limit).await?;
        let Some(last) = messages.last() else { break };
        from = last.sequence + 1;
        seen.extend(messages.iter().map(|message| Seen {
            sequence: message.sequence,
            id: message.id,
            mark: Place::mark_of(message.id, message.stored_at),
        }));
    }
    seen.retain(|message| message.sequence <= to);
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(sequence: u64) -> Seen {
        Seen { sequence, id: Uuid::from_u128(sequence.into()), mark: sequence + 7 }
    }

    fn looked(last: u64, tail: std::ops::RangeInclusive<u64>) -> Look {
        let end = seen(last).place();
        let tail = tail.map(seen).collect();
        let made_at = Timestamp::from_unix_millis(1_000).unwrap();
        Look { agreed: end, end, differs: false, made_at, tail }
    }

    fn sequences(track: &Track) -> Vec<u64> {
        track.recent.iter().map(|seen| seen.sequence).collect()
    }

    #[test]
    fn a_track_keeps_the_newest_messages_and_each_once() {
        let mut track = Track::default();
        track.go_to(looked(64, 1..=64));
        for sequence in 65..=400 {
            for _ in 0..2 {
                track.passed(seen(sequence).place(), seen(sequence).id);
            }
        }
        assert_eq!(track.recent.len(), RECENT_MAX);
        assert_eq!(sequences(&track).first(), Some(&145));
        track.go_to(looked(420, 357..=420));
        let sequences = sequences(&track);
        assert!(sequences.is_sorted_by(|one, other| one < other), "{sequences:?}");
        assert_eq!(sequences.last(), Some(&420));
    }

    #[test]
    fn a_track_keeps_no_message_after_the_agreed_place() {
        let mut track = Track::default();
        track.go_to(looked(64, 1..=64));
        let agreed = seen(10).place();
        track.go_to(Look { agreed, differs: true, ..looked(30, 25..=30) });
        assert_eq!(sequences(&track), (1..=10).chain(25..=30).collect::<Vec<_>>());
    }
}
