//! Publishes again what a stream has dropped before a consumer took it in.
//!
//! A stream keeps messages for a week, consumed or not. A consumer that was away for longer finds
//! that the stream now begins beyond the position where it stopped, and JetStream does not report
//! it. The emitting service keeps its messages in the outbox for a day longer than the stream, so
//! it checks how far each consumer of its stream has come. An outbox row loses its mark if it
//! lies between the consumer's position and the stream's first message, matches the consumer's
//! filters, and was emitted since the consumer was created. The sweep publishes it again, and the
//! inboxes of consumers that had it drop the repeat.
//!
//! A reader by position has no consumer. It finds such a gap by itself and asks for the missed
//! messages (`missed.<service>`): [`serve`].

use std::{collections::BTreeMap, sync::Arc};

use async_nats::HeaderMap;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tracing::{error, warn};
use uuid::Uuid;

use crate::{
    Link,
    health::Health,
    inbound::reply::inbox,
    nats::link::stream_of,
    store::engine::{Engine, Failure, Gap, Store},
};

/// The state of each consumer at the last look.
pub(super) type Floors = BTreeMap<String, Seen>;

/// The state of a consumer at one look.
#[derive(Clone, Copy, Default)]
pub(super) struct Seen {
    /// The sequence up to which it had taken everything in.
    floor: u64,
    /// Whether it lagged and was at the same position at the look before. JetStream moves a
    /// consumer past messages that it was handed and the stream has dropped, as if it had taken
    /// them in; but a consumer that stands still takes nothing in.
    stands_still: bool,
    /// The first sequence of the stream then.
    first: u64,
    /// Everything that the stream had dropped below this sequence has been checked. It is the
    /// stream's first sequence at the look before, so that what was published by then is marked.
    looked_to: u64,
}

/// Finds the gaps of consumers and has them published again. Returns each consumer's state.
pub(super) async fn run(
    store: &dyn Store,
    link: &Link,
    health: &Health,
    before: Floors,
) -> Result<Floors, Failure> {
    let stream = stream_of(link.service());
    let consumers = link.consumers(&stream).await?;
    // Read after the consumers: what the stream drops from now on is found the next time.
    let first = link.stream_state().await?.first_sequence;
    let mut floors = Floors::new();
    for consumer in consumers {
        let seen = before.get(&consumer.name).copied().unwrap_or_default();
        // A stream that was created again starts again at 1.
        let seen = if seen.first > first { Seen::default() } else { seen };
        let above = seen.above(consumer.floor);
        if above + 1 < first {
            let (subjects, since) = (consumer.subjects(), consumer.made_since());
            let gap = Gap { above, below: first, subjects, since };
            let count = store.publish_again(&gap).await?;
            if count > 0 {
                report(link, health, &consumer.name, &gap, count);
            }
        }
        let stands_still = consumer.lag > 0 && consumer.floor == seen.floor;
        let now = Seen { floor: consumer.floor, stands_still, first, looked_to: seen.first };
        floors.insert(consumer.name, now);
    }
    Ok(floors)
}

impl Seen {
    /// The sequence above which a consumer whose floor is now `floor` may have missed messages.
    fn above(self, floor: u64) -> u64 {
        let stood = if self.stands_still { self.floor.min(floor) } else { floor };
        stood.max(self.looked_to.saturating_sub(1))
    }
}

fn report(link: &Link, health: &Health, by: &str, gap: &Gap, count: usize) {
    health.add_missed(count as u64);
    health.metrics().aged_out(count as u64);
    error!(
        service = link.service(),
        by,
        above = gap.above,
        below = gap.below,
        messages = count,
        "the stream has dropped messages before this consumer took them in; they are published again"
    );
}

/// What a reader by position asks for: the messages of some subjects between two sequences.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Missed {
    /// The reading service.
    pub(crate) by: String,
    /// Above this sequence …
    pub(crate) above: u64,
    /// … and below that one.
    pub(crate) below: u64,
    /// Prefixes of the subjects.
    pub(crate) subjects: Vec<String>,
}

/// Answers the requests of readers of this service's stream: publishes again what they have
/// missed, and answers the number of messages.
pub(crate) async fn serve(
    engine: Arc<dyn Engine>,
    link: Link,
    health: Health,
) -> Result<(), Failure> {
    let service = link.service();
    let requests = link.join_to_answer(format!("missed.{service}"), service.to_owned()).await;
    let mut requests = requests?;
    while let Some(message) = requests.next().await {
        let reply = message.reply.filter(|reply| inbox(reply).is_some());
        let (Some(reply), Ok(missed)) = (reply, serde_json::from_slice(&message.payload)) else {
            warn!(service, "a reader's request for missed messages cannot be read");
            continue;
        };
        let Missed { by, above, below, subjects } = missed;
        let gap = Gap { above, below, subjects, since: Uuid::nil() };
        let count = engine.store().publish_again(&gap).await?;
        if count > 0 {
            report(&link, &health, &by, &gap, count);
        }
        let sent = link.answer(reply, HeaderMap::new(), count.to_string().into()).await;
        sent?;
    }
    Err(Failure::Unavailable("the connection is closed".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_that_jetstream_moved_over_a_gap_missed_it_and_one_that_advanced_did_not() {
        let seen = |stands_still| Seen { floor: 5, stands_still, first: 1, looked_to: 1 };
        assert_eq!((seen(true).above(90), seen(false).above(90)), (5, 90));
        // A consumer that was created again starts at the beginning.
        assert_eq!(seen(true).above(0), 0);
    }

    #[test]
    fn what_was_checked_is_not_checked_again() {
        let seen = Seen { floor: 0, stands_still: true, first: 80, looked_to: 70 };
        assert_eq!((seen.above(0), seen.above(90)), (69, 69));
    }
}
