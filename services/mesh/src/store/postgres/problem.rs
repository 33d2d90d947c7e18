//! What a caller is answered when a query fails, and what a stored value is called that nobody
//! knows.

use events::{Problem, codes};
use tracing::{debug, error, warn};

use crate::store::engine::Failure;

/// The problem of a query that failed. The cause goes to the log and not to the caller.
///
/// A value that cannot be decoded will not be decoded the next time: that is `internal`. Anything
/// else is `unavailable`, and the caller comes again.
pub fn read_failed(cause: sqlx::Error) -> Problem {
    use sqlx::Error::{ColumnDecode, ColumnNotFound, Decode};
    match cause {
        Decode(_) | ColumnDecode { .. } | ColumnNotFound(_) => {
            error!(%cause, "what is stored cannot be read");
            codes::INTERNAL.into()
        }
        cause => {
            let failure = Failure::from(cause);
            match failure.is_lost() {
                // Housekeeping reports a store that is away, once and not for each query.
                true => debug!(cause = %failure, "a query failed"),
                false => warn!(cause = %failure, "a query failed"),
            }
            Problem::from(codes::UNAVAILABLE).with("retry_after_secs", 1)
        }
    }
}

/// The error of a stored name that stands for nothing: `what` is what it should name.
pub fn unknown(what: &str, name: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("unknown {what} `{name}`").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_caller_comes_again_only_when_that_may_help() {
        let away = read_failed(sqlx::Error::PoolTimedOut);
        assert!(away.is(codes::UNAVAILABLE) && away.extra["retry_after_secs"] == 1);
        assert!(read_failed(unknown("state", "PAUSED")).is(codes::INTERNAL));
    }
}
