//! What a caller is answered when the broker or a service cannot be reached.

use events::{Problem, codes};
use tracing::warn;

/// Why streams are not read or followed. The cause is in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The broker does not deliver stored messages, or there is no such stream.
    #[error("Stored events cannot be read right now.")]
    Unread,
    /// There is no subscription without a connection.
    #[error("Events cannot be followed: the connection to the mesh is closed.")]
    NotFollowed,
}

impl StreamError {
    /// Stored messages cannot be read.
    pub(crate) fn unread(cause: impl std::fmt::Display) -> Self {
        Self::Unread.because(cause)
    }

    /// There is no subscription.
    pub(crate) fn not_followed(cause: impl std::fmt::Display) -> Self {
        Self::NotFollowed.because(cause)
    }

    fn because(self, cause: impl std::fmt::Display) -> Self {
        warn!(%cause, "{self}");
        self
    }
}

impl From<StreamError> for Problem {
    fn from(error: StreamError) -> Self {
        unavailable(&error.to_string())
    }
}

pub(crate) fn unavailable(detail: &str) -> Problem {
    Problem::new(codes::UNAVAILABLE, detail).with("retry_after_secs", 1)
}

/// The problem that something this process needs is not available. The cause goes to the log
/// and not to the caller.
pub fn away(detail: &str, cause: impl std::fmt::Display) -> Problem {
    warn!(%cause, "{detail}");
    unavailable(detail)
}
