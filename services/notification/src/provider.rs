//! The provider port that messages are sent by, and its three implementations.
//!
//! All of them keep three promises. A try ends in bounded time. A message that may have arrived
//! is retried under the same id, so that the other side can drop it. A message that is not sent
//! says whether a later try is of use.

mod alimtalk;
mod folder;
mod http;
mod parcel;
mod unusable;
mod webhook;

#[cfg(test)]
pub(crate) mod tests;

pub use alimtalk::{Alimtalk, Relay};
pub use folder::Folder;
pub(crate) use parcel::{Parcel, Round, Sent};
pub use unusable::Unusable;
pub use webhook::Webhook;

/// A provider that sends messages.
#[derive(Debug, Clone)]
pub enum Provider {
    /// Kakao AlimTalk, through a relay; text messages when that is refused.
    Alimtalk(Alimtalk),
    /// A signed webhook.
    Webhook(Webhook),
    /// Lines of files in a folder, for development.
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
