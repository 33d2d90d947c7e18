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
    /// The last messages, oldest first, with their sequences.
    recent: VecDeque<(u64, Uuid)>,
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
    tail: Vec<(u64, Uuid)>,
}

impl Track {
    /// The place of an event of this stream.
    pub(crate) fn place_of(&self, event: &StoredEvent) -> Place {
        let mark = self.made_at.map_or(0, |made_at| Place::mark_of(event.message_id(), made_at));
        Place { position: event.position(), mark }
    }

    /// Notes that an event was passed on.
    pub(crate) fn passed(&mut self, place: Place, sequence: u64, message_id: Uuid) {
        self.seen = place;
        if self.recent.back() != Some(&(sequence, message_id)) {
            self.recent.push_back((sequence, message_id));
        }
        self.forget();
    }

    /// Whether the event's message was passed on, or read with a look at the stream.
    pub(crate) fn has_passed(&self, event: &StoredEvent) -> bool {
        let message = (event.sequence(), event.message_id());
        event.position() <= self.seen.position && self.recent.contains(&message)
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
        let first = look.tail.first().map_or(end + 1, |(sequence, _)| *sequence);
        self.recent.retain(|(sequence, _)| *sequence <= agreed && *sequence < first);
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
        let tail = ids(client, service, from, extent.last).await?;
        let last = tail.last().filter(|(sequence, _)| *sequence == extent.last);
        let end = Place::after(extent.last, last.map_or(Uuid::nil(), |(_, id)| *id), made_at);
        let (agreed, differs) = match self.made_at {
            // The first look: the stream has no earlier followers.
            None => (end, false),
            Some(before) if before != made_at => (Place::start(made_at), true),
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
        let (Some((first, _)), Some((last, _))) = (self.recent.front(), self.recent.back()) else {
            let is_shorter = extent.last < self.seen.sequence();
            let agreed = if is_shorter { Place::start(extent.made_at) } else { self.seen };
            return Ok((agreed, is_shorter));
        };
        let there = ids(client, service, *first, *last).await?;
        let agrees = |message: &&(u64, Uuid)| {
            // What has aged out of the stream was there.
            (message.0 < extent.first && message.0 <= extent.last) || there.contains(message)
        };
        let agreed = self.recent.iter().take_while(agrees).last();
        Ok(match agreed {
            Some(newest) if Some(newest) == self.recent.back() => (self.seen, false),
            Some((sequence, id)) => (Place::after(*sequence, *id, extent.made_at), true),
            None => (Place::start(extent.made_at), true),
        })
    }
}

/// Whether everything after a place can still be read from a stream. `made_at` is the known
/// creation time of the stream; it is read again before a client is refused.
///
/// # Errors
/// When the stream cannot be read.
pub(crate) async fn can_resume(
    client: &MeshClient,
    service: &str,
    place: Place,
    made_at: Option<Timestamp>,
) -> Result<bool, StreamError> {
    let sequence = place.sequence();
    let is_same = |there: Option<Uuid>, made_at| {
        there.is_some_and(|id| Place::mark_of(id, made_at) == place.mark)
    };
    if let Some(made_at) = made_at
        && is_same(message_at(client, service, sequence).await?, made_at)
    {
        return Ok(true);
    }
    // The extent is read first. A recreated stream grows while it is published again: in the
    // other order a message that came between the two looks would count as aged out.
    let extent = client.extent(service).await?;
    let there = message_at(client, service, sequence).await?;
    Ok(match there {
        Some(_) => is_same(there, extent.made_at),
        // The stream has lost nothing between the place and its first message.
        None => sequence + 1 == extent.first.max(1),
    })
}

/// The id of the message at a sequence.
async fn message_at(
    client: &MeshClient,
    service: &str,
    sequence: u64,
) -> Result<Option<Uuid>, StreamError> {
    if sequence == 0 {
        return Ok(None);
    }
    Ok(ids(client, service, sequence, sequence).await?.first().map(|(_, id)| *id))
}

/// The ids of the messages from one sequence to another.
async fn ids(
    client: &MeshClient,
    service: &str,
    from: u64,
    to: u64,
) -> Result<Vec<(u64, Uuid)>, StreamError> {
    let (mut ids, mut from) = (Vec::new(), from.max(1));
    while from <= to {
        let limit = usize::try_from(to - from + 1).unwrap_or(usize::MAX);
        let messages = client.stored_messages(service, from, limit).await?;
        let Some(last) = messages.last() else { break };
        from = last.sequence + 1;
        ids.extend(messages.iter().map(|message| (message.sequence, message.id)));
    }
    ids.retain(|(sequence, _)| *sequence <= to);
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(secs: i64) -> Timestamp {
        Timestamp::from_unix_millis(secs * 1_000).unwrap()
    }

    fn looked(last: u64, tail: std::ops::RangeInclusive<u64>) -> Look {
        let tail: Vec<_> =
            tail.map(|sequence| (sequence, Uuid::from_u128(sequence.into()))).collect();
        let end = Place::after(last, Uuid::from_u128(last.into()), made(1));
        Look { agreed: end, end, differs: false, made_at: made(1), tail }
    }

    #[test]
    fn a_track_keeps_the_newest_messages_and_each_once() {
        let mut track = Track::default();
        track.go_to(looked(64, 1..=64));
        for sequence in 65..=400 {
            let id = Uuid::from_u128(sequence.into());
            for _ in 0..2 {
                track.passed(Place::after(sequence, id, made(1)), sequence, id);
            }
        }
        assert_eq!(track.recent.len(), RECENT_MAX);
        assert_eq!(track.recent.front().map(|(sequence, _)| *sequence), Some(145));
        track.go_to(looked(420, 357..=420));
        let sequences: Vec<u64> = track.recent.iter().map(|(sequence, _)| *sequence).collect();
        assert!(sequences.is_sorted_by(|one, other| one < other), "{sequences:?}");
        assert_eq!(sequences.last(), Some(&420));
    }

    #[test]
    fn a_track_keeps_no_message_after_the_agreed_place() {
        let mut track = Track::default();
        track.go_to(looked(64, 1..=64));
        let agreed = Place::after(10, Uuid::from_u128(10), made(1));
        track.go_to(Look { agreed, differs: true, ..looked(30, 25..=30) });
        let sequences: Vec<u64> = track.recent.iter().map(|(sequence, _)| *sequence).collect();
        assert_eq!(sequences, (1..=10).chain(25..=30).collect::<Vec<_>>());
    }
}
