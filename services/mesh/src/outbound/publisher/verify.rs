//! Compares outbox and stream, so that messages the broker has lost are published again.
//!
//! A counter proves nothing. A publish that timed out stays in the client and is flushed on
//! reconnect, so a stream that was rolled back may be as long as before, with other messages;
//! an old and a new row may even claim the same sequence. So ids are compared: a marked row is
//! in the stream if the message at its sequence has its id.
//!
//! `verified` is a position up to which outbox and stream agreed. Streams lose their tails, or
//! everything, so while that position agrees, everything below it does, and only what is above
//! is compared. It agrees if the message there has the same id and was stored at the same time: a
//! lost message that was published again may have its old sequence once more, with others below it
//! than before. Otherwise everything is compared: no other row proves anything of those below it. What was
//! published since the loss agrees, and a stream that was lost once more before a walk had ended
//! has rows of the stream between below it, however many agree in a row. It moves after the walk,
//! in the database, so a walk that dies is repeated; and it moves only if the stream stayed the
//! same one throughout.

use std::{collections::HashMap, future::Future};

use uuid::Uuid;

use crate::{
    Link,
    nats::{error::BrokerError, link::StreamState},
    store::engine::{Failure, Generation, Mark, Outbox, Place},
    store::postgres::partitions::time_of,
};

/// Rows compared at a time.
const PAGE: usize = 500;
/// Rows that claim one sequence and are checked together.
const TIES: usize = 32;

/// The stream that an outbox is compared with.
pub(crate) trait Stream: Sync {
    /// The number of the current connection to the broker.
    fn epoch(&self) -> u64;

    /// Its extent.
    fn state(&self) -> impl Future<Output = Result<StreamState, BrokerError>> + Send;

    /// The message at a sequence, if there is one.
    fn at(&self, sequence: u64) -> impl Future<Output = Result<Option<Place>, BrokerError>> + Send;

    /// The ids of its messages from one sequence to another.
    fn ids(
        &self,
        from: u64,
        to: u64,
    ) -> impl Future<Output = Result<HashMap<u64, Uuid>, BrokerError>> + Send;
}

impl Stream for Link {
    fn epoch(&self) -> u64 {
        self.epoch()
    }

    async fn state(&self) -> Result<StreamState, BrokerError> {
        self.stream_state().await
    }

    async fn at(&self, sequence: u64) -> Result<Option<Place>, BrokerError> {
        self.place_at(sequence).await
    }

    async fn ids(&self, from: u64, to: u64) -> Result<HashMap<u64, Uuid>, BrokerError> {
        self.message_ids(from, to).await
    }
}

/// Compares outbox and stream, clears the marks of lost messages, and moves `verified`. Returns
/// how many messages were lost. `of` is the generation of marks on this connection.
pub(crate) async fn run<S: Stream>(
    outbox: &dyn Outbox,
    link: &S,
    of: Generation,
) -> Result<usize, Failure> {
    let epoch = link.epoch();
    let stream = link.state().await?;
    let verified = outbox.verified().await?;
    let walk = Walk { outbox, link, stream };
    let is_another = walk.is_another().await?;
    let base = match verified {
        _ if is_another => None,
        None => None,
        Some(place) if walk.agrees(place).await? => Some(place),
        Some(_) => None,
    };
    let (last, lost) = walk.up(base.map(|place| place.mark), is_another).await?;
    let place = match last {
        Some(last) if base.is_none_or(|base| base.mark != last) => Some(walk.place_of(last).await?),
        _ => base,
    };
    // A stream that was rolled back or created again during the walk was compared in two states.
    let now = link.state().await?;
    if link.epoch() != epoch || !now.continues(&walk.stream) {
        return Err(has_changed());
    }
    if place != verified && !outbox.set_verified(place, of).await? {
        return Err(Failure::Unavailable("another instance has begun a comparison".into()));
    }
    Ok(lost)
}

fn has_changed() -> Failure {
    Failure::Unavailable("the stream changed during the comparison".into())
}

struct Walk<'a, S> {
    outbox: &'a dyn Outbox,
    link: &'a S,
    stream: StreamState,
}

impl<S: Stream> Walk<'_, S> {
    /// Whether the stream is not the one that was published to: the row marked with its first
    /// sequence is not there. Then nothing has aged out of it.
    async fn is_another(&self) -> Result<bool, Failure> {
        if self.stream.first_sequence <= 1 {
            return Ok(false);
        }
        let rows = self.outbox.marks_above(self.stream.first_sequence - 1, TIES).await?;
        let Some(first) = rows.first() else { return Ok(false) };
        let there = self.ids(first.sequence, first.sequence).await?;
        let mut ties = rows.iter().filter(|row| row.sequence == first.sequence);
        Ok(ties.any(|row| there.get(&row.sequence) != Some(&row.id) && !self.is_too_old(row)))
    }

    /// Whether the message is still where it was stored. One that has aged out counts as there.
    async fn agrees(&self, place: Place) -> Result<bool, Failure> {
        if self.has_aged_out(&place.mark) {
            return Ok(true);
        }
        Ok(self.link.at(place.mark.sequence).await? == Some(place))
    }

    /// Where the stream has a message that has just agreed.
    async fn place_of(&self, mark: Mark) -> Result<Place, Failure> {
        let there = self.link.at(mark.sequence).await?.filter(|place| place.mark == mark);
        there.ok_or_else(has_changed)
    }

    /// Compares every marked row above a position. Returns the last that agrees, and how many were
    /// lost.
    async fn up(
        &self,
        base: Option<Mark>,
        is_another: bool,
    ) -> Result<(Option<Mark>, usize), Failure> {
        let (mut place, mut count) = (base, 0);
        // There may be another row with the same sequence as the one that agrees.
        let mut from = base.map_or(0, |base| base.sequence.saturating_sub(1));
        loop {
            let page = self.outbox.marks_above(from, PAGE).await?;
            let (Some(first), Some(last)) = (page.first(), page.last()) else { break };
            let there = self.ids(first.sequence, last.sequence).await?;
            let mut lost = Vec::new();
            for mark in &page {
                if there.get(&mark.sequence) == Some(&mark.id) {
                    place = Some(*mark);
                } else if !self.is_too_old(mark) && (is_another || !self.has_aged_out(mark)) {
                    lost.push(*mark);
                }
            }
            if !lost.is_empty() {
                self.outbox.unmark(&lost).await?;
                count += lost.len();
            }
            // A page never ends between rows that claim the same sequence.
            let is_full = page.len() == PAGE && first.sequence < last.sequence;
            from = if is_full { last.sequence - 1 } else { last.sequence };
        }
        Ok((place, count))
    }

    /// Whether the stream had the message and dropped it by age.
    fn has_aged_out(&self, mark: &Mark) -> bool {
        mark.sequence < self.stream.first_sequence && mark.sequence <= self.stream.last_sequence
    }

    /// Whether the stream would have dropped the message by now.
    fn is_too_old(&self, mark: &Mark) -> bool {
        let emitted_at = time_of(mark.id).map(events::Timestamp);
        emitted_at.is_some_and(|at| {
            self.stream.max_age_secs > 0
                && at.plus_secs(self.stream.max_age_secs) < crate::clock::now()
        })
    }

    /// The ids of the stream's messages from one sequence to another.
    async fn ids(&self, from: u64, to: u64) -> Result<HashMap<u64, Uuid>, Failure> {
        Ok(self.link.ids(from, to).await?)
    }
}
