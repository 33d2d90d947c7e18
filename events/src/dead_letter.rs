//! Dead letters: what a service could never take in, and what waits behind it.
//!
//! Each service keeps its own. Every service that consumes events answers [`FindLetters`]
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
/// Characters of a reason at most.
pub const REASON_CHARS_MAX: usize = 500;

/// The verb under which a service answers [`FindLetters`].
pub const DEAD_LETTERS: &str = "letters";

/// Which letter: its service, and its number there. `payment-17`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DeadLetterId {
    service: String,
    number: u64,
}

impl DeadLetterId {
    /// Letter `number` of `service`.
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

impl FromStr for DeadLetterId {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("must be a letter like `payment-17`, not `{text:.80}`");
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
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
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
            .description(Some("Which letter: its service, and its number there."))
            .examples(["payment-17"])
            .into()
    }
}

/// Where a letter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum DeadLetterState {
    /// It was tried and cannot succeed; an operator decides.
    Parked,
    /// It was never tried: it waits behind another of its key.
    Waiting,
    /// What it depends on is not here yet; it is tried again by itself.
    Early,
    /// It was taken in after all.
    Resolved,
    /// An operator gave it up.
    Discarded,
}

impl DeadLetterState {
    /// Whether it has not ended.
    pub fn is_open(self) -> bool {
        matches!(self, Self::Parked | Self::Waiting | Self::Early)
    }
}

/// What became of a letter at one time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DeadLetterEvent {
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
    /// Where it stood from then on.
    pub became: DeadLetterState,
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
    /// Which one.
    pub letter: DeadLetterId,
    /// The service that could not take it in.
    pub service: String,
    /// The fact, for example `payment.requested`.
    #[serde(rename = "fact")]
    pub event: String,
    /// What it depends on in that service: a wallet, a reservation; `-` for nothing known.
    pub key: String,
    /// Where it stands.
    pub state: DeadLetterState,
    /// Why it cannot succeed, as of the last try.
    pub cause: String,
    /// How often it was tried.
    pub attempts: u64,
    /// The parked letter that it waits behind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub behind: Option<DeadLetterId>,
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
    pub history: Vec<DeadLetterEvent>,
}

/// One letter with all that is known of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OpenedDeadLetter {
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
    pub next_before: Option<String>,
    /// Services that could not be asked, or refused: their letters are missing here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unasked: Vec<UnaskedService>,
}

/// A service that could not be asked for its letters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UnaskedService {
    /// The service.
    pub service: String,
    /// Why not.
    pub why: String,
}

/// Asks a service for its letters.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FindDeadLetters {
    /// Only this one, opened.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub letter: Option<DeadLetterId>,
    /// Also those that have ended, and those that are tried again by themselves.
    #[serde(default)]
    pub ended: bool,
}

/// What a service answers to [`FindLetters`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct FoundDeadLetters {
    /// Its letters, in the order in which they were parked.
    pub letters: Vec<DeadLetter>,
    /// The one that was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opened: Option<OpenedDeadLetter>,
}

/// Tries a letter again, with all that stand before and behind it in the line of its key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Redrive {
    /// The letter.
    pub letter: DeadLetterId,
}

/// Gives a letter up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Discard {
    /// The letter.
    pub letter: DeadLetterId,
    /// Why, 1 to 500 characters; it is kept.
    pub reason: String,
    /// Also when the service decides by the event, and what waits for it stays open.
    #[serde(default)]
    pub leave_open: bool,
}

/// Why a letter is given up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct DiscardReason {
    /// One line of 1 to 500 characters; it is kept.
    pub reason: String,
    /// Also when the service decides by the event, and what waits for it stays open.
    #[serde(default)]
    pub leave_open: bool,
}

/// What a letter that is given up leaves open.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LeftOpen {
    /// The event that is not taken in.
    pub event: String,
    /// What the service might have emitted upon it. Nothing, when it only learns by it.
    pub would_follow: Vec<String>,
    /// The saga that waits for it; `onsale saga show` has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saga_id: Option<SagaId>,
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
    pub letter: DeadLetterId,
    /// The service.
    pub service: String,
    /// The key.
    pub key: String,
    /// The letters that were taken in, in this order.
    pub resolved: Vec<DeadLetterId>,
    /// The letter that failed again; those behind it wait on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped: Option<Stopped>,
    /// Letters that still stand in the line. Without a parked one before them they go on by
    /// themselves.
    pub left: u64,
    /// What the letter, given up, has left open.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub left_open: Option<LeftOpen>,
}

/// A letter that failed again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Stopped {
    /// The letter.
    pub letter: DeadLetterId,
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
    /// Services that could not be asked which letters of this cause they have.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unasked_services: Vec<UnaskedService>,
    /// Further letters of this cause, for another request.
    pub left: u64,
}

/// A letter whose service could not be asked.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Unasked {
    /// The letter.
    pub letter: DeadLetterId,
    /// Why not.
    pub why: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_is_named_by_its_service_and_number() {
        let id: DeadLetterId = "data-platform-18446744073709551615".parse().unwrap();
        assert_eq!((id.service(), id.number()), ("data-platform", u64::MAX));
        assert_eq!(id.to_string(), "data-platform-18446744073709551615");
        for bad in ["", "7", "payment", "payment-", "-7", "payment-+7", "Payment-7", "a b-7"] {
            assert!(bad.parse::<DeadLetterId>().is_err(), "{bad}");
        }
    }
}
