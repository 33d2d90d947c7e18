//! Every kind of refusal: RFC 9457 problems with a stable `code`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A refusal, as `application/problem+json`.
///
/// Match on [`Problem::code`]; the texts may be reworded at any time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Problem {
    /// `urn:onsale:problem:<code>`.
    pub r#type: String,
    /// What the code means, the same for every occurrence.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// The stable name to match on.
    pub code: String,
    /// What is wrong this time, and how to correct it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub detail: String,
    /// Further members, depending on the code: `field`, `seats`, `line`, `column`,
    /// `retry_after_secs`, …
    #[serde(flatten)]
    #[cfg_attr(feature = "openapi", schema(value_type = Object))]
    pub extra: serde_json::Map<String, serde_json::Value>,
}

/// A kind of refusal: code, HTTP status, title.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// The stable name.
    pub code: &'static str,
    /// The HTTP status.
    pub status: u16,
    /// What it means.
    pub title: &'static str,
}

impl Problem {
    /// A refusal of this kind, with what is wrong this time.
    pub fn new(kind: Code, detail: impl Into<String>) -> Self {
        Self {
            r#type: format!("urn:onsale:problem:{}", kind.code),
            title: kind.title.to_owned(),
            status: kind.status,
            code: kind.code.to_owned(),
            detail: detail.into(),
            extra: serde_json::Map::new(),
        }
    }

    /// A refusal because of one field of a body, a parameter or a header. `what` continues the
    /// sentence after its name, as in "must be 1 to 100, not 0".
    pub fn about(kind: Code, field: &str, what: impl fmt::Display) -> Self {
        Self::new(kind, format!("`{field}` {what}.")).with("field", field)
    }

    /// The same refusal with one more member.
    pub fn with(mut self, name: &str, value: impl Into<serde_json::Value>) -> Self {
        self.extra.insert(name.to_owned(), value.into());
        self
    }

    /// Whether this is a refusal of the given kind.
    pub fn is(&self, kind: Code) -> bool {
        self.code == kind.code
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}", self.code, self.status, self.detail)
    }
}

impl std::error::Error for Problem {}

macro_rules! codes {
    ($($name:ident = $status:literal $code:literal, $title:literal;)+) => {
        /// All kinds of refusal.
        pub mod codes {
            use super::Code;
            $(#[doc = $title]
            pub const $name: Code = Code { code: $code, status: $status, title: $title };)+
            /// Every code, in the order of the documentation.
            pub const ALL: &[Code] = &[$($name),+];
        }
    };
}

codes! {
    BAD_REQUEST = 400 "bad_request", "The request could not be read.";
    INVALID = 422 "invalid", "The request was read, but a value in it is not allowed.";
    SEAT_PLAN_INVALID = 422 "seat_plan_invalid", "The seat plan has an error; nothing was stored.";
    UNAUTHENTICATED = 401 "unauthenticated", "A valid access token is needed.";
    TOKEN_EXPIRED = 401 "token_expired", "The token has run out; log in again or refresh it.";
    BAD_CREDENTIALS = 401 "bad_credentials", "E-mail and password do not match an account.";
    FORBIDDEN = 403 "forbidden", "The account may not do this.";
    NOT_FOUND = 404 "not_found", "There is no such thing, or it is not yours.";
    METHOD_NOT_ALLOWED = 405 "method_not_allowed", "This address does not take this method.";
    REQUEST_TOO_SLOW = 408 "request_too_slow", "The request did not arrive in time.";
    BODY_TOO_LARGE = 413 "body_too_large", "The request body is too large.";
    ADDRESS_TOO_LONG = 414 "address_too_long", "The address, with its query, is too long.";
    UNSUPPORTED_MEDIA_TYPE = 415 "unsupported_media_type", "This content type is not supported here.";
    HEADERS_TOO_LARGE = 431 "headers_too_large", "The headers of the request are too large.";
    EMAIL_TAKEN = 409 "email_taken", "There is an account with this e-mail already.";
    NOT_ACTIVE = 403 "not_active", "Only an admitted fan may do this; enter the waiting room first.";
    SEAT_TAKEN = 409 "seat_taken", "At least one of the seats has an owner.";
    UNKNOWN_SEAT = 422 "unknown_seat", "The schedule has no such seat.";
    LIMIT_EXCEEDED = 409 "limit_exceeded", "More seats than one fan may hold for this schedule.";
    NOT_OPEN_YET = 409 "not_open_yet", "Sales have not begun yet.";
    SOLD_OUT = 409 "sold_out", "Every seat of the schedule is sold.";
    SCHEDULE_CLOSED = 409 "schedule_closed", "The show has begun, and sales have ended.";
    SCHEDULE_CANCELLED = 409 "schedule_cancelled", "The show was called off.";
    NOT_CANCELLABLE = 409 "not_cancellable", "The reservation has ended already, or can no longer be given back.";
    LAST_ORGANIZER = 409 "last_organizer", "A concert keeps its last organizer; add another one first.";
    SAGA_OPEN = 409 "saga_open", "A saga waits for this event and would stay open; set `leave_open` to discard it anyway.";
    HOLD_GONE = 409 "hold_gone", "The hold has ended; reserve again.";
    HOLDING_SEATS = 409 "holding_seats", "The fan holds seats; give them back or pay for them first.";
    PAYMENT_RUNNING = 409 "payment_running", "A payment is running; wait for its end.";
    ACCOUNT_CLOSING = 409 "account_closing", "The account is closed, or is being closed.";
    WITHDRAWAL_RUNNING = 409 "withdrawal_running", "The account is being closed on other terms; wait for the outcome.";
    ALREADY_PAID = 409 "already_paid", "The reservation is paid already.";
    WALLET_CLOSED = 409 "wallet_closed", "The wallet is closed.";
    BALANCE_LIMIT = 409 "balance_limit", "The wallet would hold more points than is allowed.";
    ALREADY_CANCELLED = 409 "already_cancelled", "The schedule is cancelled already.";
    IDEMPOTENCY_KEY_REUSED = 422 "idempotency_key_reused", "This Idempotency-Key was used with another request.";
    RATE_LIMITED = 429 "rate_limited", "Too many requests; wait as long as Retry-After says.";
    OVERLOADED = 503 "overloaded", "The service has too much to do; try again as Retry-After says.";
    UNAVAILABLE = 503 "unavailable", "Something that this request needs is unavailable right now; try again as Retry-After says.";
    TIMED_OUT = 504 "timed_out", "No answer in time; the request may or may not have taken effect. Repeat it with the same Idempotency-Key.";
    INTERNAL = 500 "internal", "Something went wrong here; the log has the details.";
}

impl From<Code> for Problem {
    fn from(kind: Code) -> Self {
        Self::new(kind, "")
    }
}
