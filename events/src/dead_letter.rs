//! Dead letters: events that a service cannot handle, and the events parked behind them.
//!
//! Each service keeps its own. Every service that consumes events answers [`FindDeadLetters`]
//! under `cmd.<service>.letters`, [`Redrive`] under `cmd.<service>.redrive` and [`Discard`]
//! under `cmd.<service>.discard`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{SagaId, Timestamp, UserId};

/// The verb under which a service answers [`Redrive`].
pub const REDRIVE: &str = "redrive";
/// The verb under which a service answers [`Discard`].
pub const DISCARD: &str = "discard";
/// The most characters of a reason.
pub const REASON_CHARS_MAX: usize = 500;

/// The verb under which a service answers [`FindDeadLetters`].
pub const DEAD_LETTERS: &str = "letters";

/// The id of a dead letter: its service and its number there, as in `payment-17`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeadLetterId {
    service: String,
    number: u64,
}

impl DeadLetterId {
    /// Dead letter `number` of `service`.
    pub fn new(service: &str, number: u64) -> Self {
        Self { service: service.to_owned(), number }
    }

    /// The service that keeps it.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// Its number there.
    pub fn number(&self) -> u64 {
        self.number
    }
}

impl fmt::Display for DeadLetterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.service, self.number)
    }
}

/// A text is not the id of a dead letter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be a letter like `payment-17`, not `{0:.80}`")]
pub struct NotADeadLetterId(String);

impl FromStr for DeadLetterId {
    type Err = NotADeadLetterId;

    fn from_str(text: &str) -> Result<Self, NotADeadLetterId> {
        let wrong = || NotADeadLetterId(text.to_owned());
        let (service, number) = text.rsplit_once('-').ok_or_else(wrong)?;
        let is_name = |name: &str| {
            (1..=32).contains(&name.len())
                && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'-')
        };
        let number = number.bytes().all(|b| b.is_ascii_digit()).then(|| number.parse().ok());
        match number.flatten() {
            Some(number) if is_name(service) => Ok(Self::new(service, number)),
            _ => Err(wrong()),
        }
    }
}

impl TryFrom<String> for DeadLetterId {
    type Error = NotADeadLetterId;

    fn try_from(text: String) -> Result<Self, NotADeadLetterId> {
        text.parse()
    }
}

impl From<DeadLetterId> for String {
    fn from(id: DeadLetterId) -> Self {
        id.to_string()
    }
}

#[cfg(feature = "openapi")]
impl utoipa::ToSchema for DeadLetterId {}

#[cfg(feature = "openapi")]
impl utoipa::PartialSchema for DeadLetterId {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        use utoipa::openapi::schema::{ObjectBuilder, Type};
        ObjectBuilder::new()
            .schema_type(Type::String)
            .description(Some("The id of a dead letter: its service and its number there."))
            .examples(["payment-17"])
            .into()
    }
}

/// The state of a dead letter or parked event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum DeadLetterState {
    /// It was tried and cannot succeed; an operator decides.
    Parked,
    /// It was never tried: it waits behind another event of its order key.
    Waiting,
    /// What it depends on has not arrived yet; it is retried automatically.
    Early,
    /// It was handled after all.
    Resolved,
    /// An operator discarded it.
    Discarded,
}

impl DeadLetterState {
    /// Whether it has not ended.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Parked | Self::Waiting | Self::Early)
    }
}

/// One change in the history of a dead letter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeadLetterEvent {
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// Its state from then on.
    pub became: DeadLetterState,
    /// The operator who asked for it; absent when it happened automatically.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<UserId>,
    /// Why it failed again, or why it was discarded.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
}

/// An event that a service could not handle, or not yet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeadLetter {
    /// Its id.
    pub letter: DeadLetterId,
    /// The service that could not handle it.
    pub service: String,
    /// The event, for example `payment.requested`.
    #[serde(rename = "fact")]
    pub event: String,
    /// Its order key, the thing it depends on in that service: a wallet, a reservation; `-`
    /// when none is known.
    pub key: String,
    /// Its state.
    pub state: DeadLetterState,
    /// Why the last attempt failed.
    pub cause: String,
    /// How often it was tried.
    pub attempts: u64,
    /// The dead letter that it waits behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<DeadLetterId>,
    /// The event's id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<Uuid>,
    /// The event's saga.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saga_id: Option<SagaId>,
    /// The trace in which it was emitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
    /// The stream it was delivered from.
    pub stream: String,
    /// Its sequence there.
    pub sequence: u64,
    /// Its subject there.
    pub subject: String,
    /// When it was emitted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub told_at: Option<Timestamp>,
    /// When it was parked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_at: Option<Timestamp>,
    /// What became of it since, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<DeadLetterEvent>,
}

/// One dead letter with all its details.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeadLetterDetails {
    /// The dead letter.
    #[serde(flatten)]
    pub letter: DeadLetter,
    /// The event as it was received; bytes that are not UTF-8 are replaced.
    pub payload: String,
    /// All dead letters of its order key in that service, in the order in which they are
    /// handled, including this one and those that have ended.
    pub deliveries: Vec<DeadLetter>,
}

/// A page of dead letters, newest first.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeadLetters {
    /// The dead letters.
    pub items: Vec<DeadLetter>,
    /// Pass this as `?before=` for the next page; absent on the last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_before: Option<String>,
    /// Services that could not be asked, or refused: their dead letters are missing here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unasked: Vec<UnreachableService>,
}

/// A service that could not be asked for its dead letters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UnreachableService {
    /// The service.
    pub service: String,
    /// Why not.
    pub why: String,
}

/// Ask a service for its dead letters.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FindDeadLetters {
    /// Only this one, with its details.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub letter: Option<DeadLetterId>,
    /// Also those that have ended, and parked events that are retried automatically.
    #[serde(default)]
    pub ended: bool,
}

/// A service's answer to [`FindDeadLetters`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FoundDeadLetters {
    /// Its dead letters, in the order in which they were parked.
    pub letters: Vec<DeadLetter>,
    /// The one that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened: Option<DeadLetterDetails>,
}

/// Retry a dead letter, with all parked events of its order key, in their order.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Redrive {
    /// The dead letter.
    pub letter: DeadLetterId,
}

/// Discard a dead letter.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Discard {
    /// The dead letter.
    pub letter: DeadLetterId,
    /// Why, 1 to 500 characters; it is kept.
    pub reason: String,
    /// Discard it even when the service decides by this event and its saga stays open.
    #[serde(default)]
    pub leave_open: bool,
}

/// Why a dead letter is discarded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DiscardReason {
    /// One line of 1 to 500 characters; it is kept.
    pub reason: String,
    /// Discard it even when the service decides by this event and its saga stays open.
    #[serde(default)]
    pub leave_open: bool,
}

/// What a discarded dead letter leaves open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LeftOpen {
    /// The event that is not handled.
    pub event: String,
    /// The events that the service might have emitted because of it. Empty when it emits none.
    pub would_follow: Vec<String>,
    /// The saga that waits for it; `onsale saga show` prints it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saga_id: Option<SagaId>,
}

/// Retry all dead letters with a cause, each with the parked events of its order key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RetryAll {
    /// Only of this service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service: Option<String>,
    /// A part of the cause, 1 to 500 characters.
    pub cause: String,
}

/// The result of a retry or discard, for one order key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Retried {
    /// The dead letter that was asked for.
    pub letter: DeadLetterId,
    /// The service.
    pub service: String,
    /// The order key.
    pub key: String,
    /// The events that were handled, in this order.
    pub resolved: Vec<DeadLetterId>,
    /// The event that failed again; those behind it still wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stopped>,
    /// Events of the key that are still parked. Without a dead letter before them they are
    /// retried automatically.
    pub left: u64,
    /// What the discarded dead letter has left open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_open: Option<LeftOpen>,
}

/// A dead letter that failed again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Stopped {
    /// The dead letter.
    pub letter: DeadLetterId,
    /// Why.
    pub cause: String,
    /// How often it was tried by now.
    pub attempts: u64,
}

/// The results of a retry of all dead letters with a cause.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RetriedAll {
    /// One result for each order key.
    pub lines: Vec<Retried>,
    /// Dead letters whose service could not be asked, or refused.
    pub unasked: Vec<Unreachable>,
    /// Services that could not be asked for their dead letters with this cause.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unasked_services: Vec<UnreachableService>,
    /// How many dead letters with this cause are left for another request.
    pub left: u64,
}

/// A dead letter whose service could not be asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Unreachable {
    /// The dead letter.
    pub letter: DeadLetterId,
    /// Why not.
    pub why: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dead_letter_is_named_by_its_service_and_number() {
        let id: DeadLetterId = "data-platform-18446744073709551615".parse().unwrap();
        assert_eq!((id.service(), id.number()), ("data-platform", u64::MAX));
        assert_eq!(id.to_string(), "data-platform-18446744073709551615");
        for bad in ["", "7", "payment", "payment-", "-7", "payment-+7", "Payment-7", "a b-7"] {
            assert!(bad.parse::<DeadLetterId>().is_err(), "{bad}");
        }
    }
}
