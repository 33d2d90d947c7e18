//! The provider port that messages are sent by, and its three implementations.
//!
//! All of them keep three promises. A try ends in bounded time. A message that may have arrived
//! is retried under the same id, so that the other side can drop it. A message that is not sent
//! says whether a later try is of use.

mod alimtalk;
mod folder;
mod http;
mod webhook;

#[cfg(test)]
pub(crate) mod tests;

use std::time::{Duration, Instant};

use events::{
    ScheduleId, Timestamp, UserId,
    notification::{Locale, MessageKind},
};
use uuid::Uuid;

pub use alimtalk::Alimtalk;
pub use folder::Folder;
pub use webhook::Webhook;

use crate::{domain::Delivery, words::Words};

/// Concurrent requests to a provider.
const AT_ONCE: usize = 16;

/// A message to be sent. It has a telephone number and so is never logged.
pub(crate) struct Parcel {
    pub(crate) id: Uuid,
    pub(crate) subject_id: Uuid,
    pub(crate) kind: MessageKind,
    pub(crate) user_id: UserId,
    pub(crate) schedule_id: ScheduleId,
    pub(crate) phone: Option<String>,
    pub(crate) locale: Locale,
    pub(crate) words: Words,
    pub(crate) created_at: Timestamp,
    /// Whether a try before this one may have reached the provider.
    pub(crate) again: bool,
    /// The receipt by which the provider is asked for the status.
    pub(crate) receipt: Option<String>,
}

/// The time limits of one round of sending, so that a provider that hangs delays nothing else.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Round {
    /// When it began, for the signatures.
    pub(crate) now: Timestamp,
    /// No request begins after this.
    pub(crate) until: Instant,
    /// How long one request may take.
    pub(crate) within: Duration,
}

impl Round {
    /// Whether there is time for another request.
    fn is_open(&self) -> bool {
        Instant::now() < self.until
    }
}

/// The outcome of a round.
#[derive(Debug, Default)]
pub(crate) struct Sent {
    /// How each message's try ended.
    pub(crate) deliveries: Vec<(Uuid, Delivery)>,
    /// The endpoint has answered that it is gone for good.
    pub(crate) gone: bool,
}

/// A provider that sends messages.
#[derive(Debug, Clone)]
pub enum Provider {
    /// Kakao AlimTalk, through a relay; text messages when that is refused.
    Alimtalk(Alimtalk),
    /// A signed webhook.
    Webhook(Webhook),
    /// Files in a folder, for development.
    Folder(Folder),
}

impl Provider {
    /// Whether it needs a telephone number.
    pub(crate) fn needs_phone(&self) -> bool {
        matches!(self, Self::Alimtalk(_))
    }

    /// The name under which a gone endpoint is recorded.
    pub(crate) fn fingerprint(&self) -> Option<&str> {
        match self {
            Self::Webhook(webhook) => Some(webhook.fingerprint()),
            Self::Alimtalk(_) | Self::Folder(_) => None,
        }
    }

    /// Tries to send each of these messages.
    pub(crate) async fn send(&self, parcels: Vec<Parcel>, round: Round) -> Sent {
        match self {
            Self::Alimtalk(alimtalk) => alimtalk.send(parcels, round).await,
            Self::Webhook(webhook) => webhook.send(parcels, round).await,
            Self::Folder(folder) => folder.send(parcels, round).await,
        }
    }
}
