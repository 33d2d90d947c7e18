//! Parked events: events that could not be handled, kept in the service's own store. They are
//! retried automatically, and at last become dead letters that wait for an operator.
//!
//! An event is *early* when what it depends on is not here yet; it is retried soon, then less
//! and less often, for an hour. What it waits for may have the same order key, so it does not
//! hold that key: later events are handled meanwhile, and handlers decide by state and version,
//! as they do when an event is redelivered.
//!
//! An event is *dead* when it can never be handled (it cannot be read, its handler panicked,
//! the store refuses it), or when that hour is over. It holds its order key: a later event with
//! the same key is parked *behind* it, untried, and holds the key as well. Of those that hold a
//! key only the first is ever retried, so their order is the order of parking. An early event
//! is retried when it is due, unless one before it holds the key.
//!
//! The row is authoritative, and it changes in one transaction with what a retry changes. A copy
//! of each dead letter goes to the stream `DEAD_LETTERS`, for operators who look with `nats`;
//! nothing depends on it.
//!
//! | file | what it is |
//! |---|---|
//! | `key` | the order key of an event, even of one that cannot be read |
//! | `retry` | the loop that retries what is due |
//! | `endpoints` | the endpoints for operators: list, retry, discard |

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

use crate::trace::{Here, TraceParent};

/// The first pause before an early event is retried; it doubles …
const RETRY_MIN: Duration = Duration::from_millis(20);
/// … up to this.
const RETRY_MAX: Duration = Duration::from_secs(30);
/// How long an event may be early.
pub(crate) const EARLY_SECS_MAX: i64 = 3_600;
/// Maximum length of a stored cause, in characters.
pub(crate) const CAUSE_CHARS_MAX: usize = 1_000;

/// A parked event as the store keeps it.
#[derive(Debug, Clone)]
pub struct Parked {
    /// Its number in this service; numbers grow in the order of parking.
    pub number: u64,
    /// Its order key; `-` when none is known, and then it waits behind no other event.
    pub key: String,
    /// Its state.
    pub state: ParkedState,
    /// The cause, as of the last attempt.
    pub cause: String,
    /// Number of attempts, the current one included.
    pub attempts: u64,
    /// Attempts in a row whose outcome was never written: they may have killed the process.
    pub unsettled: u32,
    /// The event, as it came.
    pub envelope: Bytes,
    /// The subject of its message.
    pub subject: String,
    /// The stream of its message.
    pub stream: String,
    /// The sequence of its message there.
    pub sequence: u64,
    /// When it was parked.
    pub kept_at: Timestamp,
    /// What has happened to it since.
    pub history: Vec<DeadLetterEvent>,
}

/// The state of a parked event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ParkedState {
    /// It waits for what it depends on and is retried; no other event waits for it.
    Early,
    /// No attempt at it was completed: it waits behind an event that holds its key.
    Behind,
    /// A dead letter: it cannot be handled, and an operator decides.
    Dead,
    /// It was handled after all.
    Resolved,
    /// An operator discarded it.
    Discarded,
}

impl ParkedState {
    /// The state as it is stored.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Early => "early",
            Self::Behind => "behind",
            Self::Dead => "dead",
            Self::Resolved => "resolved",
            Self::Discarded => "discarded",
        }
    }

    /// Reads a stored state. An unknown one counts as dead, so that an operator sees it.
    pub fn read(text: &str) -> Self {
        let all = [Self::Early, Self::Behind, Self::Resolved, Self::Discarded];
        all.into_iter().find(|state| state.as_str() == text).unwrap_or(Self::Dead)
    }

    /// Whether it has not ended.
    pub fn is_open(self) -> bool {
        !matches!(self, Self::Resolved | Self::Discarded)
    }

    /// Whether later events with its order key wait for it.
    pub fn holds_key(self) -> bool {
        matches!(self, Self::Behind | Self::Dead)
    }
}

/// The pause of an early event before its next attempt, after so many.
pub(crate) fn pause_after(attempts: u64) -> Duration {
    let doubled = RETRY_MIN.saturating_mul(1 << attempts.saturating_sub(1).min(16));
    doubled.min(RETRY_MAX)
}

/// A cause as it is stored: one line of a bounded length.
pub(crate) fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(CAUSE_CHARS_MAX).collect()
}

impl Parked {
    /// The event's name, by the subject of its message.
    pub(crate) fn event(&self) -> &str {
        event_of_subject(&self.subject).unwrap_or("unknown")
    }

    /// What log lines about it carry.
    pub(crate) fn here(&self) -> Here {
        match Envelope::decode(&self.envelope) {
            Ok(event) => Here {
                span: TraceParent::from_header(event.traceparent.as_deref()),
                saga_id: Some(event.sagaid),
            },
            Err(_) => Here::default(),
        }
    }

    /// The dead letter as operators see it; `behind` is the number of the event that holds its
    /// key.
    pub(crate) fn to_dead_letter(&self, service: &str, behind: Option<u64>) -> DeadLetter {
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
    fn an_early_event_is_retried_soon_and_then_less_and_less_often() {
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
