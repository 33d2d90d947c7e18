//! Messages to fans: one per subject and kind, and how each went out.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{Page, ScheduleId, Timestamp, UserId};

/// What a message says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum MessageKind {
    /// Seats are held; pay until then. About the reservation.
    ReservationMade,
    /// Paid; the seats are the fan's. About the payment.
    PaymentCompleted,
    /// Not paid, and why. About the payment.
    PaymentFailed,
    /// The hold ran out. About the reservation.
    HoldExpired,
    /// The show is called off, and what comes back. About the reservation.
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

/// The way a message went out.
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

/// Bytes of a language tag at most (RFC 5646, section 4.4.1).
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

/// `notification.sent`: the provider has taken a message.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NotificationSent {
    /// The message; also the provider's key against sending it twice.
    pub message_id: Uuid,
    /// Whom it is for.
    pub user_id: UserId,
    /// The reservation or payment it is about.
    pub subject_id: Uuid,
    /// What it says.
    pub kind: MessageKind,
    /// Whose sale.
    pub schedule_id: ScheduleId,
    /// How it went out.
    pub channel: Channel,
    /// Tries it took.
    pub attempts: u32,
    /// When the provider took it.
    pub at: Timestamp,
}

/// `notification.failed`: a message will not go out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct NotificationFailed {
    /// The message.
    pub message_id: Uuid,
    /// Whom it was for.
    pub user_id: UserId,
    /// The reservation or payment it is about.
    pub subject_id: Uuid,
    /// What it says.
    pub kind: MessageKind,
    /// Whose sale.
    pub schedule_id: ScheduleId,
    /// Why, in words: what the provider said, or what is missing.
    pub reason: String,
    /// Tries it took.
    pub attempts: u32,
    /// When it was given up.
    pub at: Timestamp,
}

crate::events! {
    NotificationSent = "notification.sent", schedule: |e| Some(e.schedule_id), about: |e| e.subject_id;
    NotificationFailed = "notification.failed", schedule: |e| Some(e.schedule_id), about: |e| e.subject_id;
}

/// Say where the caller's messages go.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SetContact {
    /// A telephone number with its country, for example `+82 10-1234-5678`; with the locale
    /// `ko` a Korean one goes without. Kept in E.164 form, as `+821012345678`. None when absent.
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
    /// Whose.
    pub user_id: UserId,
    /// A telephone number in E.164 form; none when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone: Option<String>,
    /// The language of the messages.
    pub locale: Locale,
}

// A telephone number is nobody's business, least of all the log's.
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
    /// Entries wanted, 1 to 100; 20 when absent.
    pub limit: Option<u32>,
}

/// Where a message stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MessageState {
    /// Waits to be sent, or to be tried again.
    Pending,
    /// The provider has taken it.
    Sent,
    /// It will not go out.
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
    /// What it says.
    pub kind: MessageKind,
    /// Where it stands.
    pub state: MessageState,
    /// How it went out; absent until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub channel: Option<Channel>,
    /// The words.
    pub text: String,
    /// Tries so far.
    pub attempts: u32,
    /// When it was written.
    pub created_at: Timestamp,
    /// When it went out; absent until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent_at: Option<Timestamp>,
}

crate::commands! {
    SetContact = "notification.set_contact", 200 => Contact;
    GetContact = "notification.contact", 200 => Contact;
    FindMessages = "notification.messages", 200 => Page<Message>;
}
