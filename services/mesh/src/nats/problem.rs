//! What a caller is answered when the broker or a service cannot be reached.

use events::{Problem, codes};
use tracing::warn;

pub(crate) fn unavailable(detail: &str) -> Problem {
    Problem::new(codes::UNAVAILABLE, detail).with("retry_after_secs", 1)
}

/// The problem that something this process needs is not available. The cause goes to the log
/// and not to the caller.
pub fn away(detail: &str, cause: impl std::fmt::Display) -> Problem {
    warn!(%cause, "{detail}");
    unavailable(detail)
}
