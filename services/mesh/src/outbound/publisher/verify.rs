//! Compares outbox and stream, so that messages the broker has lost are published again.
//!
//! A counter proves nothing. A publish that timed out stays in the client and is flushed on
//! reconnect, so a stream that was rolled back may be as long as before, with other messages;
//! an old and a new row may even claim the same sequence. So ids are compared: a marked row is
//! in the stream if the message at its sequence has its id.
//!
//! `verified` is a position up to which outbox and stream agreed. Streams lose their tails, or
//! everything. So while that position agrees, everything below it does, and only what is above is
//! compared. The position agrees if the message there has the same id and was stored at the same
//! time. A lost message that was published again may have its old sequence once more, with others
//! below it than before.
//!
//! When the position does not agree, everything is compared. No other row proves anything of those
//! below it: what was published since the loss agrees too. A stream that is lost once more before a
//! walk has ended has rows of the stream between, however many agree in a row above them.
//!
//! When everything is compared, the newest messages are compared and published first: sagas under
//! way wait for them. The history follows page by page. While consumers are far behind, each page
//! waits for up to a second, so that new events do not wait behind the whole history.
//!
//! The position moves after the walk, in the database, so a walk that dies is repeated. It moves
//! only if the stream stayed the same one throughout. One instance at a time compares; a lease says
//! which. The lease only saves work, and nothing depends on it.

use std::{collections::HashMap, future::Future, time::Duration};

use uuid::Uuid;

use crate::{
    nats::{error::BrokerError, link::StreamState},
    store::engine::{Failure, Generation, Mark, Outbox, Place},
    store::postgres::partitions::time_of,
};

/// How long an instance has the comparison to itself; it prolongs its lease with each full page. An
/// instance that dies delays the next comparison by so long, and the pause before a retry.
pub(super) const LEASE: Duration = Duration::from_secs(3);
/// Rows compared at a time.
const PAGE: usize = 500;
/// Rows that claim one sequence and are checked together.
const TIES: usize = 32;
/// The newest messages, which are compared before the history is.
const LATEST: usize = 2_000;
/// Sequences between two of them up to which both are read at once.
const APART: u64 = 16;

/// The stream that an outbox is compared with and that lost messages are published to.
pub(crate) trait Stream: Sync {
    /// The number of the current connection to the broker.
    fn epoch(&self) -> u64;

    /// Its extent.
    fn state(&self) -> impl Future<Output = Result<StreamState, BrokerError>> + Send;

    /// Its messages from one sequence to another, by sequence.
    fn places(
        &self,
        from: u64,
        to: u64,
    ) -> impl Future<Output = Result<HashMap<u64, Place>, BrokerError>> + Send;

    /// Has as many messages published as have just lost their marks, and waits for a moment while its
    /// consumers are far behind.
    fn publish_lost(&self, _lost: usize) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// Compares outbox and stream, clears the marks of lost messages, and moves `verified`. Returns
/// how many messages were lost, or `None` when a later generation of marks has begun meanwhile, so
/// that it does not count. `of` is the generation that it belongs to; `instance` has the lease.
pub(crate) async fn run<S: Stream>(
    outbox: &dyn Outbox,
    link: &S,
    of: Generation,
    instance: Uuid,
) -> Result<Option<usize>, Failure> {
    let epoch = link.epoch();
    let stream = link.state().await?;
    let verified = outbox.verified().await?;
    let mut walk = Walk { outbox, link, epoch, stream, instance, is_another: false };
    walk.is_another = walk.is_another().await?;
    let base = match verified {
        Some(place) if !walk.is_another && walk.agrees(place).await? => Some(place),
        _ => None,
    };
    // What shows that the stream is another one must keep its mark until all below it is compared.
    let latest = if base.is_none() && !walk.is_another { walk.compare_latest().await? } else { 0 };
    let (place, lost) = walk.compare_above(base).await?;
    walk.is_of_one_stream().await?;
    let counts = place == verified || outbox.set_verified(place, of).await?;
    Ok(counts.then_some(latest + lost))
}

struct Walk<'a, S> {
    outbox: &'a dyn Outbox,
    link: &'a S,
    /// The connection, and the stream as it was at the beginning.
    epoch: u64,
    stream: StreamState,
    instance: Uuid,
    /// Whether the stream is not the one that was published to.
    is_another: bool,
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
        let there = self.places(first.sequence, first.sequence).await?;
        let mut ties = rows.iter().filter(|row| row.sequence == first.sequence);
        let is_there =
            |row: &Mark| there.get(&row.sequence).is_some_and(|place| place.mark == *row);
        Ok(ties.any(|row| !is_there(row) && !self.is_too_old(row)))
    }

    /// Whether the message is still where it was stored. One that has aged out counts as there.
    async fn agrees(&self, place: Place) -> Result<bool, Failure> {
        if self.has_aged_out(&place.mark) {
            return Ok(true);
        }
        let sequence = place.mark.sequence;
        Ok(self.places(sequence, sequence).await?.get(&sequence) == Some(&place))
    }

    /// Compares the newest messages, and has the lost ones published, the newest first. Returns how
    /// many they were. Sagas under way wait for them, and nobody waits for the history.
    async fn compare_latest(&self) -> Result<usize, Failure> {
        let mut latest = self.outbox.latest_marks(LATEST).await?;
        // Read after the marks, so what is marked above its end is not there.
        let end = self.link.state().await?.last_sequence;
        latest.sort_unstable_by_key(|mark| (mark.sequence, mark.id));
        let (within, above) = latest.split_at(latest.partition_point(|mark| mark.sequence <= end));
        let mut lost: Vec<Mark> = above.iter().copied().filter(|it| !self.is_too_old(it)).collect();
        for marks in within.chunk_by(|one, next| next.sequence - one.sequence <= APART) {
            lost.extend(self.compare(marks).await?.1);
        }
        lost.sort_unstable_by_key(|mark| std::cmp::Reverse(mark.id));
        for page in lost.chunks(PAGE) {
            self.publish_again(page).await?;
        }
        Ok(lost.len())
    }

    /// Compares every marked row above a position, and has the lost ones published. Returns the last
    /// row that agrees, and how many were lost.
    async fn compare_above(&self, base: Option<Place>) -> Result<(Option<Place>, usize), Failure> {
        let (mut place, mut count) = (base, 0);
        // There may be another row with the same sequence as the one that agrees.
        let mut from = base.map_or(0, |base| base.mark.sequence.saturating_sub(1));
        loop {
            let page = self.outbox.marks_above(from, PAGE).await?;
            let (Some(first), Some(last)) = (page.first(), page.last()) else { break };
            let (found, lost) = self.compare(&page).await?;
            place = found.or(place);
            count += lost.len();
            if !lost.is_empty() {
                self.publish_again(&lost).await?;
            } else if page.len() == PAGE {
                self.keep_lease().await?;
            }
            // A page never ends between rows that claim the same sequence.
            let is_full = page.len() == PAGE && first.sequence < last.sequence;
            from = if is_full { last.sequence - 1 } else { last.sequence };
        }
        Ok((place, count))
    }

    /// Compares rows, in the order of their sequences. Returns the last place that agrees, and the
    /// rows that were lost.
    async fn compare(&self, marks: &[Mark]) -> Result<(Option<Place>, Vec<Mark>), Failure> {
        let (mut place, mut lost) = (None, Vec::new());
        let (Some(first), Some(last)) = (marks.first(), marks.last()) else {
            return Ok((place, lost));
        };
        let there = self.places(first.sequence, last.sequence).await?;
        for mark in marks {
            let found = there.get(&mark.sequence).filter(|place| place.mark == *mark);
            if found.is_some() {
                place = found.copied();
            } else if !self.is_too_old(mark) && (self.is_another || !self.has_aged_out(mark)) {
                lost.push(*mark);
            }
        }
        Ok((place, lost))
    }

    /// Clears the marks of lost messages and has them published. Fails when the stream was lost once
    /// more meanwhile: the rest of this walk would be in vain, and the next one begins with what is
    /// newest.
    async fn publish_again(&self, lost: &[Mark]) -> Result<(), Failure> {
        self.outbox.unmark(lost).await?;
        self.keep_lease().await?;
        self.link.publish_lost(lost.len()).await;
        self.keep_lease().await?;
        self.is_of_one_stream().await
    }

    /// Fails when the stream was rolled back or created again during the walk: then it was compared
    /// in two states.
    async fn is_of_one_stream(&self) -> Result<(), Failure> {
        let now = self.link.state().await?;
        if self.link.epoch() != self.epoch || !now.continues(&self.stream) {
            return Err(Failure::Unavailable("the stream changed during the comparison".into()));
        }
        Ok(())
    }

    /// Prolongs the lease. One that was lost meanwhile is no reason to stop: it only saves work.
    async fn keep_lease(&self) -> Result<(), Failure> {
        self.outbox.lease_comparison(self.instance, LEASE).await.map(drop)
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

    /// The stream's messages from one sequence to another.
    async fn places(&self, from: u64, to: u64) -> Result<HashMap<u64, Place>, Failure> {
        Ok(self.link.places(from, to).await?)
    }
}
