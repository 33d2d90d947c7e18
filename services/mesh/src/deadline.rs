//! A time limit for every wait on a server.
//!
//! A server that is paused, or cut off from the network, does not refuse: it does not answer,
//! and its connections stay open. So every wait for a server goes through here, or through
//! [`crate::Link`] and the engines, which do the same; `services/clippy.toml` forbids the calls
//! that would wait for ever. A wait that ends only with the process (a subscription, a queue in
//! memory) is combined with a shutdown instead.

use std::{future::IntoFuture, time::Duration};

/// A server has not answered in time. It is unknown what it has done.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("{who} has not answered within {} s", .limit.as_secs_f32())]
pub struct Late {
    /// The server.
    pub who: &'static str,
    /// The time limit.
    pub limit: Duration,
}

/// Waits for an answer, for at most `limit`. After that the future is dropped, however far it
/// has come.
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
    async fn a_timeout_names_the_server_that_did_not_answer() {
        let limit = Duration::from_millis(20);
        let late = within(limit, "the broker", std::future::pending::<()>()).await.unwrap_err();
        assert_eq!(late.to_string(), "the broker has not answered within 0.02 s");
        assert_eq!(within(limit, "the broker", async { 7 }).await, Ok(7));
    }
}
