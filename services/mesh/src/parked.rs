//! Events that could not be taken in: parked in the service's own store, tried again by
//! themselves, and at last dead letters that wait for an operator.
//!
//! An event is *early* when what it depends on is not here yet; it is tried again soon, then
//! ever more seldom, for an hour. What it waits for may come under the same order key, so it
//! does not hold that key: later events are taken in meanwhile, and handlers decide by state
//! and version, as they do when an event is delivered again.
//!
//! An event is *dead* when it can never succeed (it cannot be read, its handler panicked, the
//! store refuses it), or when that hour is over. It holds its key: a later event of the same
//! key is parked *behind* it, untried, and holds the key as well. Of those that hold a key
//! only the first is ever tried, so order among them is the order of parking. An early event
//! is tried by its own time, unless one before it holds the key.
//!
//! The row is the truth, and it changes in one transaction with what a retry changes. A copy
//! of each dead letter goes to the stream `DEAD_LETTERS` for whoever looks with `nats`;
//! nothing depends on it.
//!
//! | file | what it is |
//! |---|---|
//! | `key` | what an event depends on, read even from what cannot be read |
//! | `retry` | the loop that tries what has come due |
//! | `desk` | what operators ask: list, retry, discard |

pub(crate) mod endpoints;
pub(crate) mod key;
pub(crate) mod retry;

use std::time::Duration;

use bytes::Bytes;
use events::{
    Envelope, Timestamp,
    dead_letter::{DeadLetter, DeadLetterEvent, DeadLetterId, DeadLetterState},
    event_of_subject,
};

/// The first pause before an early event is tried again; it doubles …
const RETRY_MIN: Duration = Duration::from_millis(20);
/// … up to this.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// How long an event may be early.
pub(crate) const EARLY_SECS_MAX: i64 = 3_600;
/// Characters of a cause that are kept.
pub(crate) const CAUSE_CHARS_MAX: usize = 1_000;

/// A parked event as its store keeps it.
#[derive(Debug, Clone)]
pub struct Parked {
    /// Its number in this service; numbers grow in the order of parking.
    pub number: u64,
    /// What it depends on; `-` for nothing known, and then it waits for nobody.
    pub key: String,
    /// Where it stands.
    pub state: ParkedState,
    /// Why, as of the last attempt.
    pub cause: String,
    /// Attempts that were made, the one at hand included.
    pub attempts: u64,
    /// Attempts in a row whose end was never written: they may have killed the process.
    pub unsettled: u32,
    /// The event, as it came.
    pub envelope: Bytes,
    /// The subject it came under.
    pub subject: String,
    /// The stream it came from.
    pub stream: String,
    /// The sequence of its message there.
    pub sequence: u64,
    /// When it was parked.
    pub kept_at: Timestamp,
    /// What became of it since.
    pub history: Vec<DeadLetterEvent>,
}

/// Where a parked event stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParkedState {
    /// It waits for what it depends on and is tried again; it holds nobody up.
    Early,
    /// It was never tried to an end: it waits behind one that holds its key.
    Behind,
    /// It cannot succeed: an operator decides.
    Dead,
    /// It was taken in after all.
    Resolved,
    /// An operator gave it up.
    Discarded,
}

impl ParkedState {
    /// As it is written in a store.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Early => "early",
            Self::Behind => "behind",
            Self::Dead => "dead",
            Self::Resolved => "resolved",
            Self::Discarded => "discarded",
        }
    }

    /// As it was written; what nobody has written counts as dead, which an operator sees.
    pub fn read(text: &str) -> Self {
        let all = [Self::Early, Self::Behind, Self::Resolved, Self::Discarded];
        all.into_iter().find(|state| state.as_str() == text).unwrap_or(Self::Dead)
    }

    /// Whether it has not ended.
    pub fn is_open(self) -> bool {
        !matches!(self, Self::Resolved | Self::Discarded)
    }

    /// Whether later events of its key wait for its end.
    pub fn holds_key(self) -> bool {
        matches!(self, Self::Behind | Self::Dead)
    }
}

/// How long an early event waits before its next attempt, after so many.
pub(crate) fn pause_after(attempts: u64) -> Duration {
    let doubled = RETRY_MIN.saturating_mul(1 << attempts.saturating_sub(1).min(16));
    doubled.min(RETRY_MAX)
}

/// A cause as it is kept: one line of a bounded length.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(CAUSE_CHARS_MAX).collect()
}

impl Parked {
    /// As operators are shown it; `behind` is the number of what holds its key.
    pub(crate) fn letter(&self, service: &str, behind: Option<u64>) -> DeadLetter {
        let envelope = Envelope::decode(&self.envelope).ok();
        let trace = envelope.as_ref().and_then(|envelope| envelope.traceparent.as_deref());
        DeadLetter {
            letter: DeadLetterId::new(service, self.number),
            service: service.to_owned(),
            event: event_of_subject(&self.subject).unwrap_or("unknown").to_owned(),
            key: self.key.clone(),
            state: match self.state {
                ParkedState::Dead => DeadLetterState::Parked,
                ParkedState::Early => DeadLetterState::Early,
                ParkedState::Behind => DeadLetterState::Waiting,
                ParkedState::Resolved => DeadLetterState::Resolved,
                ParkedState::Discarded => DeadLetterState::Discarded,
            },
            cause: self.cause.clone(),
            attempts: self.attempts,
            behind: behind.map(|number| DeadLetterId::new(service, number)),
            event_id: envelope.as_ref().map(|envelope| envelope.id.0),
            saga_id: envelope.as_ref().map(|envelope| envelope.sagaid),
            trace_id: trace.and_then(|parent| parent.split('-').nth(1)).map(str::to_owned),
            stream: self.stream.clone(),
            sequence: self.sequence,
            subject: self.subject.clone(),
            told_at: envelope.as_ref().map(|envelope| envelope.time),
            kept_at: Some(self.kept_at),
            history: self.history.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_early_event_is_tried_soon_and_then_ever_more_seldom() {
        assert_eq!(pause_after(0), RETRY_MIN);
        assert_eq!(pause_after(1), RETRY_MIN);
        assert_eq!(pause_after(2), RETRY_MIN * 2);
        assert_eq!(pause_after(u64::MAX), RETRY_MAX);
    }

    #[test]
    fn a_state_is_read_as_it_was_written() {
        use ParkedState::{Behind, Dead, Discarded, Early, Resolved};
        for state in [Early, Behind, Dead, Resolved, Discarded] {
            assert_eq!(ParkedState::read(state.as_str()), state);
        }
        assert_eq!(ParkedState::read("?"), Dead);
    }

    #[test]
    fn a_cause_is_one_line() {
        assert_eq!(one_line("a\nb"), "a b");
        assert_eq!(one_line(&"x".repeat(2 * CAUSE_CHARS_MAX)).len(), CAUSE_CHARS_MAX);
    }
}
