//! Why an event of a message has no handler. The texts are causes of dead letters.

use crate::outbound::message::NotABatch;

/// Why an event of a message cannot be given to a handler.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unreadable {
    /// The body of its message is not an array of events.
    #[error(transparent)]
    Message(#[from] NotABatch),
    /// It is not an envelope of this mesh.
    #[error("not an event: {0}")]
    Envelope(#[source] serde_json::Error),
    /// The service does not consume events under this subject.
    #[error("{subject} is not consumed here")]
    NotConsumed {
        /// The subject of its message.
        subject: String,
    },
    /// The service consumes the event in another version.
    #[error("only version {version} of {event} is consumed here")]
    OtherVersion {
        /// The event.
        event: &'static str,
        /// The version that is consumed.
        version: u32,
    },
    /// Its data is not that of the event.
    #[error("{0}")]
    Data(#[source] serde_json::Error),
}
