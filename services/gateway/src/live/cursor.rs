//! The position of a client in its own events: `Last-Event-ID`.

use std::{fmt, str::FromStr};

use events::Timestamp;
use mesh::EVENTS_A_SEQUENCE;
use uuid::Uuid;

/// The services whose events a user can follow, in the order of a cursor.
pub(crate) const FOLLOWED: [&str; 4] = ["payment", "point", "queue", "reservation"];
/// Changes with the order or number of the streams, and with the format of a place.
const VERSION: &str = "3";

/// A place in a stream. A position alone could belong to another stream of the same name, so it
/// comes with a mark of the message at that position.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// The last position handled.
    pub(crate) position: u64,
    /// What distinguishes this stream from another; see [`Place::mark_of`].
    pub(crate) mark: u64,
}

impl Place {
    /// Before the first event of a stream. All that a stream has comes after it, also when the
    /// stream was created again.
    pub(crate) fn start() -> Self {
        Self::default()
    }

    /// After the last event of a message.
    pub(crate) fn after(sequence: u64, mark: u64) -> Self {
        match sequence {
            0 => Self::start(),
            _ => Self { position: sequence * EVENTS_A_SEQUENCE + EVENTS_A_SEQUENCE - 1, mark },
        }
    }

    /// The sequence of the message.
    pub(crate) fn sequence(&self) -> u64 {
        self.position / EVENTS_A_SEQUENCE
    }

    /// A message in a stream, as a number. A stream that was created again, or restored to an
    /// older state, may get the same message at the same sequence, but it stores it at another
    /// time. The mark is no secret and only needs to differ.
    pub(crate) fn mark_of(message_id: Uuid, stored_at: Option<Timestamp>) -> u64 {
        let (high, low) = message_id.as_u64_pair();
        let stored = stored_at.map_or(0, |at| at.0.unix_timestamp_nanos() as u64);
        high.rotate_left(17) ^ low ^ stored.rotate_left(31)
    }
}

/// The last place handled of each stream; opaque to clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cursor(pub(crate) [Place; FOLLOWED.len()]);

impl Cursor {
    /// How many messages lie between this cursor and a later one.
    pub(crate) fn behind(&self, later: &Self) -> u64 {
        let pairs = self.0.iter().zip(later.0);
        pairs.map(|(here, later)| later.sequence().saturating_sub(here.sequence())).sum()
    }

    /// Whether nothing lies between this cursor and another: in every stream it is as far, or
    /// in the message at whose end the other one is.
    pub(crate) fn has_reached(&self, end: &Self) -> bool {
        let is_end = |end: u64| end % EVENTS_A_SEQUENCE == EVENTS_A_SEQUENCE - 1;
        self.0.iter().zip(end.0).all(|(here, end)| {
            here.position >= end.position
                || (is_end(end.position) && here.sequence() == end.sequence())
        })
    }

    /// The later of two places, stream by stream.
    pub(crate) fn max(mut self, other: &Self) -> Self {
        for (here, other) in self.0.iter_mut().zip(other.0) {
            if other.position > here.position {
                *here = other;
            }
        }
        self
    }

    /// The earlier of two places, stream by stream.
    pub(crate) fn min(mut self, other: &Self) -> Self {
        for (here, other) in self.0.iter_mut().zip(other.0) {
            if other.position < here.position {
                *here = other;
            }
        }
        self
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(VERSION)?;
        self.0.iter().try_for_each(|at| write!(f, ".{:x}-{:x}", at.position, at.mark))
    }
}

/// Not a cursor of ours.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct NoCursor;

impl FromStr for Cursor {
    type Err = NoCursor;

    fn from_str(text: &str) -> Result<Self, NoCursor> {
        let mut parts = text.split('.');
        if parts.next() != Some(VERSION) {
            return Err(NoCursor);
        }
        let number = |digits| u64::from_str_radix(digits, 16).map_err(|_| NoCursor);
        let mut cursor = Self::default();
        for place in &mut cursor.0 {
            let (position, mark) =
                parts.next().and_then(|part| part.split_once('-')).ok_or(NoCursor)?;
            *place = Place { position: number(position)?, mark: number(mark)? };
        }
        parts.next().is_none().then_some(cursor).ok_or(NoCursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: u64 = EVENTS_A_SEQUENCE;

    fn at(positions: [u64; FOLLOWED.len()]) -> Cursor {
        Cursor(positions.map(|position| Place { position, mark: position + 7 }))
    }

    #[test]
    fn a_cursor_round_trips() {
        for cursor in [Cursor::default(), at([1, 255, 4_000_000_000, u64::MAX - 7])] {
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        assert_eq!(at([1, 16, 0, 255]).to_string(), "3.1-8.10-17.0-7.ff-106");
    }

    #[test]
    fn text_that_is_no_cursor_is_refused() {
        let bad = [
            "",
            "1",
            "2",
            "1.1.2.3.4",
            "3.1.2.3.4",
            "3.1-1.2-1.3-1",
            "3.1-1.2-1.3-1.4-1.5-1",
            "3.1-1.2-1.3-1.x-1",
            "3.1-1.2-1.3-1.4-",
            "3.1-1.2-1.3-1.--1",
        ];
        for bad in bad {
            assert_eq!(bad.parse::<Cursor>(), Err(NoCursor), "{bad}");
        }
    }

    #[test]
    fn a_cursor_knows_how_far_behind_it_is() {
        let (old, new) = (at([N, 5, 9, 0]), at([2 * N, 5, 4, 10 * N]));
        assert_eq!(old.behind(&new), 11);
        assert_eq!(old.max(&new), at([2 * N, 5, 9, 10 * N]));
        assert_eq!(old.min(&new), at([N, 5, 4, 0]));
    }

    #[test]
    fn a_place_in_a_message_has_reached_the_end_of_that_message_only() {
        let at = |position| at([position, 0, 0, 0]);
        assert!(at(7 * N + 2).has_reached(&at(7 * N + N - 1)));
        assert!(!at(7 * N + 2).has_reached(&at(7 * N + 3)));
        assert!(!at(6 * N + 2).has_reached(&at(7 * N + N - 1)));
    }

    #[test]
    fn the_same_message_in_a_recreated_stream_has_another_mark() {
        let (one, other) = (Uuid::now_v7(), Uuid::now_v7());
        let mark = |id, secs: i64| Place::mark_of(id, Timestamp::from_unix_millis(secs * 1_000));
        assert_eq!(mark(one, 1), mark(one, 1));
        assert_ne!(mark(one, 1), mark(one, 2));
        assert_ne!(mark(one, 1), mark(other, 1));
    }
}
