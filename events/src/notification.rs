//! Messages to fans: one for each subject and kind, and how each was sent.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Page, ScheduleId, Timestamp, UserId};

/// The kind of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum MessageKind {
    /// Seats are held, and until when they can be paid. About the reservation.
    ReservationMade,
    /// The payment completed, and the seats are the fan's. About the payment.
    PaymentCompleted,
    /// The payment failed, and why. About the payment.
    PaymentFailed,
    /// The hold ran out. About the reservation.
    HoldExpired,
    /// The show is called off, and what is refunded. About the reservation.
    ShowCancelled,
    /// The points of a payment are back. About the payment.
    MoneyReturned,
}

impl MessageKind {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::ReservationMade,
        Self::PaymentCompleted,
        Self::PaymentFailed,
        Self::HoldExpired,
        Self::ShowCancelled,
        Self::MoneyReturned,
    ];

    /// Its name on the wire, for example `payment_failed`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReservationMade => "reservation_made",
            Self::PaymentCompleted => "payment_completed",
            Self::PaymentFailed => "payment_failed",
            Self::HoldExpired => "hold_expired",
            Self::ShowCancelled => "show_cancelled",
            Self::MoneyReturned => "money_returned",
        }
    }
}

/// How a message was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Channel {
    /// A Kakao AlimTalk message.
    Alimtalk,
    /// A text message, after AlimTalk was refused.
    Sms,
    /// A signed webhook.
    Webhook,
    /// A file in a folder, for development.
    Folder,
}

impl Channel {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Alimtalk, Self::Sms, Self::Webhook, Self::Folder];

    /// Its name on the wire, for example `alimtalk`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alimtalk => "alimtalk",
            Self::Sms => "sms",
            Self::Webhook => "webhook",
            Self::Folder => "folder",
        }
    }
}

/// The most bytes of a language tag (RFC 5646, section 4.4.1).
const LANGUAGE_TAG_BYTES_MAX: usize = 35;

/// The language of a message. Read in any case and with a region: `ko`, `ko-KR`, `KO`.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case", try_from = "String")]
pub enum Locale {
    /// English.
    #[default]
    En,
    /// Korean.
    Ko,
}

impl Locale {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::En, Self::Ko];

    /// Its name on the wire, for example `ko`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::Ko => "ko",
        }
    }
}

impl TryFrom<String> for Locale {
    type Error = String;

    fn try_from(tag: String) -> Result<Self, Self::Error> {
        let language = tag.split(['-', '_']).next().unwrap_or_default();
        let known = Self::ALL.into_iter().find(|it| language.eq_ignore_ascii_case(it.as_str()));
        let is_tag = tag.len() <= LANGUAGE_TAG_BYTES_MAX
            && tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
        known
            .filter(|_| is_tag)
            .ok_or_else(|| format!("must be `en` or `ko`, not `{tag:.LANGUAGE_TAG_BYTES_MAX$}`"))
    }
}

/// `notification.sent`: the provider has accepted a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NotificationSent {
    /// The message; also the provider's idempotency key.
    pub message_id: Uuid,
    /// The fan it is for.
    pub user_id: UserId,
    /// The reservation or payment it is about.
    pub subject_id: Uuid,
    /// Its kind.
    pub kind: MessageKind,
    /// The schedule it belongs to.
    pub schedule_id: ScheduleId,
    /// How it was sent.
    pub channel: Channel,
    /// How many attempts it took.
    pub attempts: u32,
    /// When the provider accepted it.
    pub at: Timestamp,
}

/// `notification.failed`: a message will not be sent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NotificationFailed {
    /// The message.
    pub message_id: Uuid,
    /// The fan it was for.
    pub user_id: UserId,
    /// The reservation or payment it is about.
    pub subject_id: Uuid,
    /// Its kind.
    pub kind: MessageKind,
    /// The schedule it belongs to.
    pub schedule_id: ScheduleId,
    /// Why, in words: the provider's answer, or what is missing.
    pub reason: String,
    /// How many attempts were made.
    pub attempts: u32,
    /// When it was given up.
    pub at: Timestamp,
}

crate::events! {
    NotificationSent = "notification.sent", schedule: |e| Some(e.schedule_id), about: |e| e.subject_id;
    NotificationFailed = "notification.failed", schedule: |e| Some(e.schedule_id), about: |e| e.subject_id;
}

/// Set where the caller's messages go.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SetContact {
    /// A telephone number with its country, for example `+82 10-1234-5678`; with the locale
    /// `ko` a Korean number needs no country. Stored in E.164 form, as `+821012345678`. No
    /// number when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone: Option<String>,
    /// The language of the messages.
    pub locale: Locale,
}

/// Read where the caller's messages go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GetContact {}

/// Where a fan's messages go.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Contact {
    /// The fan.
    pub user_id: UserId,
    /// A telephone number in E.164 form; no number when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone: Option<String>,
    /// The language of the messages.
    pub locale: Locale,
}

// A telephone number is private, so it must not appear in the log.
impl std::fmt::Debug for SetContact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SetContact").field("locale", &self.locale).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Contact {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Contact").field("user_id", &self.user_id).finish_non_exhaustive()
    }
}

/// List the caller's messages, newest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct FindMessages {
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// The number of entries wanted, 1 to 100; 20 when absent.
    pub limit: Option<u32>,
}

/// The state of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MessageState {
    /// It waits to be sent or retried.
    Pending,
    /// The provider has accepted it.
    Sent,
    /// It will not be sent.
    Failed,
}

/// A message to a fan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Message {
    /// Its id.
    pub message_id: Uuid,
    /// The reservation or payment it is about.
    pub subject_id: Uuid,
    /// Its kind.
    pub kind: MessageKind,
    /// Its state.
    pub state: MessageState,
    /// How it was sent; absent until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<Channel>,
    /// Its text.
    pub text: String,
    /// How many attempts were made so far.
    pub attempts: u32,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was sent; absent until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<Timestamp>,
}

crate::commands! {
    SetContact = "notification.set_contact", 200 => Contact;
    GetContact = "notification.contact", 200 => Contact;
    FindMessages = "notification.messages", 200 => Page<Message>;
}
