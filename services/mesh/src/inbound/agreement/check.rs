//! Compares what a service has taken in with the streams that it took it from.

use std::{collections::HashMap, future::Future};

use uuid::Uuid;

use crate::{
    nats::{error::BrokerError, link::StreamState},
    store::engine::{Failure, Mark, Store},
};

/// The streams that a service consumes, and its consumers of them.
pub(crate) trait Consumed: Sync {
    /// The extent of a stream.
    fn state(&self, stream: &str) -> impl Future<Output = Result<StreamState, BrokerError>> + Send;

    /// The ids of a stream's messages from one sequence to another.
    fn ids(
        &self,
        stream: &str,
        from: u64,
        to: u64,
    ) -> impl Future<Output = Result<HashMap<u64, Uuid>, BrokerError>> + Send;

    /// The sequence up to which the service's consumer has everything acknowledged.
    fn floor(&self, stream: &str) -> impl Future<Output = Result<u64, BrokerError>> + Send;

    /// Whether the consumer wants any of the messages from one sequence to another. It skips
    /// subjects that it does not filter for.
    fn is_any_wanted(
        &self,
        stream: &str,
        from: u64,
        to: u64,
    ) -> impl Future<Output = Result<bool, BrokerError>> + Send;

    /// Sets the consumer to go on from a sequence.
    fn reset(
        &self,
        stream: &str,
        from: u64,
    ) -> impl Future<Output = Result<(), BrokerError>> + Send;
}

/// Checks one stream, and resets its consumer when the stream is another one. The first check
/// also resets a consumer that is ahead of this store, because the store may be an older copy.
/// The messages between may also be only those that were not recorded when a process died.
pub(crate) async fn run<S: Consumed>(
    streams: &S,
    store: &dyn Store,
    stream: &str,
    is_first: bool,
) -> Result<(), Failure> {
    let recorded = store.reached(stream).await?;
    let Some(highest) = recorded.last() else { return Ok(()) };
    let state = streams.state(stream).await?;
    let has_aged_out =
        |at: &Mark| at.sequence < state.first_sequence && at.sequence <= state.last_sequence;
    let agrees = |at: &Mark, there: &HashMap<u64, Uuid>| {
        has_aged_out(at) || there.get(&at.sequence) == Some(&at.id)
    };
    let there = streams.ids(stream, highest.sequence, highest.sequence).await;
    if agrees(highest, &there?) {
        return match is_first {
            true => check_ahead(streams, stream, highest.sequence).await,
            false => Ok(()),
        };
    }
    // A message that agrees after one that does not proves nothing.
    let mut upto = 0;
    for mark in &recorded {
        let there = streams.ids(stream, mark.sequence, mark.sequence).await;
        if !agrees(mark, &there?) {
            break;
        }
        upto = mark.sequence;
    }
    if streams.floor(stream).await? > upto {
        streams.reset(stream, upto + 1).await?;
    }
    store.forget_reached(stream, upto).await
}

/// Resets the consumer when it has passed messages that this store knows nothing of.
async fn check_ahead<S: Consumed>(streams: &S, stream: &str, highest: u64) -> Result<(), Failure> {
    let floor = streams.floor(stream).await?;
    if floor > highest && streams.is_any_wanted(stream, highest + 1, floor).await? {
        streams.reset(stream, highest + 1).await?;
    }
    Ok(())
}
