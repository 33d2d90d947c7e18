//! Nobody is waited for without an end.
//!
//! A server that is paused, or that a route was lost to, does not refuse: it says nothing, and
//! its connections stay open. So whatever waits for a server waits through here, or through
//! [`crate::Link`] and the engines, which do; `services/clippy.toml` forbids the calls that
//! would wait for ever. What only ends with the process (a subscription, a queue in memory)
//! has a shutdown beside it instead.

use std::{future::IntoFuture, time::Duration};

/// A server has not answered in time. It is not known what it has done.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("{who} has not answered within {} s", .limit.as_secs_f32())]
pub struct Late {
    /// Who was waited for.
    pub who: &'static str,
    /// For how long.
    pub limit: Duration,
}

/// Waits for an answer, for so long at most. The work is dropped where it stands after that.
///
/// # Errors
/// [`Late`] when the time is over.
pub async fn within<T>(
    limit: Duration,
    who: &'static str,
    answer: impl IntoFuture<Output = T>,
) -> Result<T, Late> {
    tokio::time::timeout(limit, answer.into_future()).await.map_err(|_| Late { who, limit })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_never_answers_is_named() {
        let limit = Duration::from_millis(20);
        let late = within(limit, "the broker", std::future::pending::<()>()).await.unwrap_err();
        assert_eq!(late.to_string(), "the broker has not answered within 0.02 s");
        assert_eq!(within(limit, "the broker", async { 7 }).await, Ok(7));
    }
}
