//! What a stream has dropped before somebody took it in, published again.
//!
//! A stream keeps messages for a week, whoever has seen them. A consumer that was away for longer
//! finds the stream beginning behind the place where it stopped, and JetStream says nothing of
//! it. But the service that has emitted the messages has them in its outbox for a day longer than
//! the stream. So it looks where each consumer of its stream has come to. What the consumer wants,
//! what was emitted since the consumer was made, and what lies between its place and the stream's
//! first message loses its mark; the sweep publishes it again, and the inboxes of all who had it
//! drop the repeat.
//!
//! A reader by position has no consumer. It finds such a gap by itself and asks for what it has
//! missed (`missed.<service>`): [`serve`].

use std::{collections::BTreeMap, sync::Arc};

use async_nats::HeaderMap;
use futures::StreamExt;
use serde::{Deserialize, Serialize};
use tracing::{error, warn};
use uuid::Uuid;

use crate::{
    Link,
    engine::{Engine, Failure, Gap},
    health::Health,
    link::stream_of,
    reply::inbox,
};

/// How each consumer was seen the last time.
pub(super) type Floors = BTreeMap<String, Seen>;

/// How a consumer was seen.
#[derive(Clone, Copy, Default)]
pub(super) struct Seen {
    /// The sequence up to which it had taken everything in.
    floor: u64,
    /// Whether it was behind, and at the same place the time before. JetStream moves a consumer
    /// over what it was handed out and the stream has dropped, as if it had been taken in; but
    /// one that stands still takes nothing in.
    stands_still: bool,
    /// The first sequence of the stream then.
    first: u64,
    /// What the stream had dropped below this sequence has been looked through: its first one
    /// the time before, so that what had been published by then is marked.
    looked_to: u64,
}

/// Looks for gaps of consumers and has them published again. How each consumer was seen.
pub(super) async fn run<E: Engine>(
    engine: &E,
    link: &Link,
    health: &Health,
    before: Floors,
) -> Result<Floors, Failure> {
    let stream = stream_of(link.service());
    let consumers = link.consumers(&stream).await.map_err(Failure::Unavailable)?;
    // Afterwards: whatever the stream drops from now on is found the next time.
    let first = link.stream_state().await.map_err(Failure::Unavailable)?.first_sequence;
    let mut floors = Floors::new();
    for consumer in consumers {
        let seen = before.get(&consumer.name).copied().unwrap_or_default();
        // A stream that was made anew begins anew.
        let seen = if seen.first > first { Seen::default() } else { seen };
        let above = seen.above(consumer.floor);
        if above + 1 < first {
            let (subjects, since) = (consumer.subjects(), consumer.made_since());
            let gap = Gap { above, below: first, subjects, since };
            let count = engine.publish_again(&gap).await?;
            if count > 0 {
                emit(link, health, &consumer.name, &gap, count);
            }
        }
        let stands_still = consumer.behind > 0 && consumer.floor == seen.floor;
        let now = Seen { floor: consumer.floor, stands_still, first, looked_to: seen.first };
        floors.insert(consumer.name, now);
    }
    Ok(floors)
}

impl Seen {
    /// The sequence above which a consumer that stands at `floor` now may have missed something.
    fn above(self, floor: u64) -> u64 {
        let stood = if self.stands_still { self.floor.min(floor) } else { floor };
        stood.max(self.looked_to.saturating_sub(1))
    }
}

fn emit(link: &Link, health: &Health, by: &str, gap: &Gap, count: usize) {
    health.add_missed(count as u64);
    error!(
        service = link.service(),
        by,
        above = gap.above,
        below = gap.below,
        messages = count,
        "the stream has dropped messages before this one took them in; they are published again"
    );
}

/// What a reader by position asks for: the messages between two sequences, for these facts.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Missed {
    /// Who reads.
    pub(crate) by: String,
    /// Above this sequence …
    pub(crate) above: u64,
    /// … and below that one.
    pub(crate) below: u64,
    /// What each subject begins with.
    pub(crate) subjects: Vec<String>,
}

/// Publishes again what readers of this service's stream say that they have missed; answers how
/// many messages that are.
pub(crate) async fn serve<E: Engine>(
    engine: Arc<E>,
    link: Link,
    health: Health,
) -> Result<(), Failure> {
    let service = link.service();
    let asked = link.join_to_answer(format!("missed.{service}"), service.to_owned()).await;
    let mut asked = asked.map_err(Failure::Unavailable)?;
    while let Some(message) = asked.next().await {
        let reply = message.reply.filter(|reply| inbox(reply).is_some());
        let (Some(reply), Ok(missed)) = (reply, serde_json::from_slice(&message.payload)) else {
            warn!(service, "what a reader has missed cannot be read");
            continue;
        };
        let Missed { by, above, below, subjects } = missed;
        let gap = Gap { above, below, subjects, since: Uuid::nil() };
        let count = engine.publish_again(&gap).await?;
        if count > 0 {
            emit(&link, &health, &by, &gap, count);
        }
        let sent = link.answer(reply, HeaderMap::new(), count.to_string().into()).await;
        sent.map_err(Failure::Unavailable)?;
    }
    Err(Failure::Unavailable("the connection is closed".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_that_was_moved_over_a_gap_has_missed_it_and_one_that_moved_has_not() {
        let seen = |stands_still| Seen { floor: 5, stands_still, first: 1, looked_to: 1 };
        assert_eq!((seen(true).above(90), seen(false).above(90)), (5, 90));
        // Made anew, it begins at the beginning.
        assert_eq!(seen(true).above(0), 0);
    }

    #[test]
    fn what_was_looked_through_is_not_looked_through_again() {
        let seen = Seen { floor: 0, stands_still: true, first: 80, looked_to: 70 };
        assert_eq!((seen.above(0), seen.above(90)), (69, 69));
    }
}
