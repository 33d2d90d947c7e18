//! Where a follower of its own facts stands: `Last-Event-ID`.

use std::{fmt, str::FromStr};

use mesh::EVENTS_A_SEQUENCE;

/// The services whose facts a user can follow, in the order of a cursor.
pub(crate) const FOLLOWED: [&str; 4] = ["payment", "point", "queue", "reservation"];
/// Changes when the order or number of streams does.
const VERSION: &str = "1";

/// The last position handled of each stream; opaque to clients.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Cursor(pub(crate) [u64; FOLLOWED.len()]);

impl Cursor {
    /// How many messages lie between this place and a later one.
    pub(crate) fn behind(&self, later: &Self) -> u64 {
        let message = |position: u64| position / EVENTS_A_SEQUENCE;
        let pairs = self.0.iter().zip(later.0);
        pairs.map(|(seq, later)| message(later).saturating_sub(message(*seq))).sum()
    }

    /// Whether nothing lies between this place and another: every stream has come as far, or
    /// has read the other's message to its end.
    pub(crate) fn has_reached(&self, end: &Self) -> bool {
        let is_end = |end: u64| end % EVENTS_A_SEQUENCE == EVENTS_A_SEQUENCE - 1;
        self.0.iter().zip(end.0).all(|(seq, end)| {
            *seq >= end || (is_end(end) && seq / EVENTS_A_SEQUENCE == end / EVENTS_A_SEQUENCE)
        })
    }

    /// The further of two places, stream by stream.
    pub(crate) fn max(mut self, other: &Self) -> Self {
        for (seq, other) in self.0.iter_mut().zip(other.0) {
            *seq = (*seq).max(other);
        }
        self
    }

    /// The nearer of two places, stream by stream.
    pub(crate) fn min(mut self, other: &Self) -> Self {
        for (seq, other) in self.0.iter_mut().zip(other.0) {
            *seq = (*seq).min(other);
        }
        self
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(VERSION)?;
        self.0.iter().try_for_each(|seq| write!(f, ".{seq:x}"))
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
        let mut cursor = Self::default();
        for seq in &mut cursor.0 {
            let digits = parts.next().ok_or(NoCursor)?;
            *seq = u64::from_str_radix(digits, 16).map_err(|_| NoCursor)?;
        }
        parts.next().is_none().then_some(cursor).ok_or(NoCursor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cursor_round_trips() {
        for cursor in [Cursor::default(), Cursor([1, 255, 4_000_000_000, u64::MAX])] {
            assert_eq!(cursor.to_string().parse(), Ok(cursor));
        }
        assert_eq!(Cursor([1, 16, 0, 255]).to_string(), "1.1.10.0.ff");
    }

    #[test]
    fn what_is_no_cursor_is_refused() {
        for bad in ["", "1", "1.1.2.3", "1.1.2.3.4.5", "2.1.2.3.4", "1.1.2.3.x", "1.1.2.3.-1"] {
            assert_eq!(bad.parse::<Cursor>(), Err(NoCursor), "{bad}");
        }
    }

    #[test]
    fn a_cursor_knows_how_far_behind_it_is() {
        const N: u64 = EVENTS_A_SEQUENCE;
        let (old, new) = (Cursor([N, 5, 9, 0]), Cursor([2 * N, 5, 4, 10 * N]));
        assert_eq!(old.behind(&new), 11);
        assert_eq!(old.max(&new), Cursor([2 * N, 5, 9, 10 * N]));
        assert_eq!(old.min(&new), Cursor([N, 5, 4, 0]));
    }

    #[test]
    fn a_place_in_the_last_message_has_reached_its_end_but_no_later_event() {
        const N: u64 = EVENTS_A_SEQUENCE;
        let at = |position| Cursor([position, 0, 0, 0]);
        assert!(at(7 * N + 2).has_reached(&at(7 * N + N - 1)));
        assert!(!at(7 * N + 2).has_reached(&at(7 * N + 3)));
        assert!(!at(6 * N + 2).has_reached(&at(7 * N + N - 1)));
    }
}
