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

    /// Where the service's consumer stands.
    fn standing(&self, stream: &str) -> impl Future<Output = Result<Standing, BrokerError>> + Send;

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

/// Where a consumer stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// The sequence up to which everything is acknowledged.
    pub floor: u64,
    /// The highest sequence that was delivered.
    pub delivered: u64,
}

impl Standing {
    /// From where the consumer must go on when everything agrees up to a sequence. A reset forgets
    /// what was delivered and not acknowledged, so it begins with that.
    fn after(self, agreed: u64) -> u64 {
        agreed.min(self.floor) + 1
    }
}

/// What a check comes after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// The start of the process.
    First,
    /// A new connection to the broker. Every recorded message is looked up: the highest ones may
    /// be of the stream that there is now, and others of one that was lost.
    Connected,
    /// An earlier check on the same connection.
    Again,
}

/// Checks one stream, and resets its consumer when the stream is another one. The first check
/// also resets a consumer that is ahead of this store, because the store may be an older copy.
/// The messages between may also be only those that were not recorded when a process died.
pub(crate) async fn run<S: Consumed>(
    streams: &S,
    store: &dyn Store,
    stream: &str,
    when: When,
) -> Result<(), Failure> {
    let recorded = store.reached(stream).await?;
    // Read before the extent: in a stream that is whole, it never lies beyond that end.
    let standing = streams.standing(stream).await?;
    let state = streams.state(stream).await?;
    let Some(highest) = recorded.last() else {
        return check_ahead(streams, stream, Ahead { highest: 0, standing, when }, &state).await;
    };
    let has_aged_out =
        |at: &Mark| at.sequence < state.first_sequence && at.sequence <= state.last_sequence;
    let agrees = |at: &Mark, there: &HashMap<u64, Uuid>| {
        has_aged_out(at) || there.get(&at.sequence) == Some(&at.id)
    };
    let there = streams.ids(stream, highest.sequence, highest.sequence).await;
    if when == When::Again && agrees(highest, &there?) {
        let ahead = Ahead { highest: highest.sequence, standing, when };
        return check_ahead(streams, stream, ahead, &state).await;
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
    if upto == highest.sequence {
        let ahead = Ahead { highest: upto, standing, when };
        return check_ahead(streams, stream, ahead, &state).await;
    }
    if standing.delivered > upto {
        streams.reset(stream, standing.after(upto)).await?;
    }
    store.forget_reached(stream, upto).await
}

/// Where a consumer stands beside what its service has taken in.
struct Ahead {
    /// The highest message that was recorded as taken in; 0 before the first.
    highest: u64,
    standing: Standing,
    when: When,
}

/// Resets the consumer when it has passed messages that this store knows nothing of, or stands
/// beyond the end of the stream: it would skip what comes next.
async fn check_ahead<S: Consumed>(
    streams: &S,
    stream: &str,
    Ahead { highest, standing, when }: Ahead,
    state: &StreamState,
) -> Result<(), Failure> {
    let Standing { floor, delivered } = standing;
    let is_ahead = delivered > state.last_sequence
        || when == When::First
            && floor > highest
            && streams.is_any_wanted(stream, highest + 1, floor).await?;
    if is_ahead {
        streams.reset(stream, standing.after(highest)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_begins_with_what_was_delivered_and_not_acknowledged() {
        let standing = Standing { floor: 3, delivered: 9 };
        assert_eq!(standing.after(7), 4, "4 to 7 were recorded, and 4 was not acknowledged");
        assert_eq!(standing.after(2), 3, "3 was acknowledged, and is another message now");
    }
}
