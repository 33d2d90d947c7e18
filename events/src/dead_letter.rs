//! Dead letters: what a service could never take in, and what waits behind it.
//!
//! Every service that hears facts answers [`Redrive`] under `cmd.<service>.redrive` and
//! [`Discard`] under `cmd.<service>.discard`.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{SagaId, Timestamp, UserId};

/// The verb under which a service answers [`Redrive`].
pub const REDRIVE: &str = "redrive";
/// The verb under which a service answers [`Discard`].
pub const DISCARD: &str = "discard";
/// Characters of a reason at most.
pub const REASON_CHARS_MAX: usize = 500;

/// Where a letter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum LetterState {
    /// It was tried and cannot succeed; an operator decides.
    Parked,
    /// It was never tried: it waits behind a parked one of its key.
    Waiting,
    /// It was taken in after all.
    Resolved,
    /// An operator gave it up.
    Discarded,
}

impl LetterState {
    /// Whether it still stands in the line of its key.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Parked | Self::Waiting)
    }
}

/// What became of a letter at one time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LetterEvent {
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// Where it stood from then on.
    pub became: LetterState,
    /// The operator who asked for it; absent when its turn had come by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<UserId>,
    /// Why it failed again, or why it was discarded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// A message that a service could not take in, or not yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeadLetter {
    /// Its number.
    pub letter: u64,
    /// The service that could not take it in.
    pub service: String,
    /// The fact, for example `payment.requested`.
    pub fact: String,
    /// What it depends on in that service: a wallet, a reservation; `-` for nothing known.
    pub key: String,
    /// Where it stands.
    pub state: LetterState,
    /// Why it cannot succeed, as of the last try.
    pub cause: String,
    /// How often it was tried.
    pub attempts: u64,
    /// The parked letter that it waits behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<u64>,
    /// The event's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<Uuid>,
    /// The event's saga.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saga_id: Option<SagaId>,
    /// The trace it was told in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// The stream it was delivered from.
    pub stream: String,
    /// Its sequence there.
    pub sequence: u64,
    /// Its subject there.
    pub subject: String,
    /// When it was told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told_at: Option<Timestamp>,
    /// When it became a letter.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_at: Option<Timestamp>,
    /// What became of it since, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<LetterEvent>,
}

/// One letter with all that is known of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OpenedLetter {
    /// The letter.
    #[serde(flatten)]
    pub letter: DeadLetter,
    /// The message as it was; what is no UTF-8 in it is replaced.
    pub payload: String,
    /// Every letter of its key in that service, in the order in which they are taken in,
    /// this one and those that have ended included.
    pub deliveries: Vec<DeadLetter>,
}

/// Some of the letters, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeadLetters {
    /// The letters.
    pub items: Vec<DeadLetter>,
    /// Give this back as `?before=` for the next ones; absent at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_before: Option<u64>,
}

/// Tries a letter again, with all that stand before and behind it in the line of its key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Redrive {
    /// The letter.
    pub letter: u64,
}

/// Gives a letter up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Discard {
    /// The letter.
    pub letter: u64,
    /// Why, 1 to 500 characters; it is kept.
    pub reason: String,
}

/// Why a letter is given up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DiscardReason {
    /// One line of 1 to 500 characters; it is kept.
    pub reason: String,
}

/// Tries every parked letter of a cause again, with the lines they stand in.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RetryAll {
    /// Only of this service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// A part of the cause, 1 to 500 characters.
    pub cause: String,
}

/// What became of the line of a key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Redriven {
    /// The letter that was asked for.
    pub letter: u64,
    /// The service.
    pub service: String,
    /// The key.
    pub key: String,
    /// The letters that were taken in, in this order.
    pub resolved: Vec<u64>,
    /// The letter that failed again; those behind it wait on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stopped>,
    /// Letters that still stand in the line. Without a parked one before them they go on by
    /// themselves.
    pub left: u64,
}

/// A letter that failed again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Stopped {
    /// The letter.
    pub letter: u64,
    /// Why.
    pub cause: String,
    /// How often it was tried by now.
    pub attempts: u64,
}

/// What became of all lines that were tried.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RetriedAll {
    /// The lines.
    pub lines: Vec<Redriven>,
    /// Letters whose service could not be asked, or refused.
    pub unasked: Vec<Unasked>,
    /// Further letters of this cause, for another request.
    pub left: u64,
}

/// A letter whose service could not be asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Unasked {
    /// The letter.
    pub letter: u64,
    /// Why not.
    pub why: String,
}
