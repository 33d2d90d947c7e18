//! Whole streams in: read by sequence, for a service that learns and decides nothing.
//!
//! The position lies in the service's own database and moves in the transaction of what was
//! learned. So there is nothing to acknowledge and nothing to remember of each fact, and a
//! reader that was killed goes on exactly where its last transaction ended. It may lag: it
//! reads at a calm pace in large pieces and leaves the machine to those who sell.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use events::{Timestamp, producer_of};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    Asker, Desk, Fact, Link, STORED_FACTS_MAX,
    courtesy::Courtesy,
    engine::{Engine, Failure},
    failpoint::{Failpoint, Failpoints},
    health::Health,
    postgres::{Lead, Place, Positions},
    service::Followed,
};

/// How long a reader rests between two looks at the streams' ends.
pub const READ_EVERY: Duration = Duration::from_millis(200);
/// The same when it is behind.
const SHORT_REST: Duration = Duration::from_millis(10);
/// How long it waits when its store or the broker does not answer.
const PAUSE: Duration = Duration::from_millis(500);

/// Facts in the order of their streams, and where that leaves the reader. While it catches up,
/// the streams advance together in time, so that what belongs together comes together.
pub struct Read {
    /// The facts: each stream's in its order, streams one after the other.
    pub facts: Vec<Fact>,
    /// Whether there was nothing more in any stream when this was read: who has taken this
    /// in knows all that was told a moment ago.
    pub is_all: bool,
    /// When the reading began: everything stored before is in, if [`Read::is_all`].
    pub began_at: Timestamp,
    positions: Positions,
    failpoints: Arc<Failpoints>,
}

impl Read {
    /// Notes, in the transaction of what was learned, that it was learned.
    ///
    /// # Errors
    /// When the database does not take it.
    pub async fn settle(&self, tx: &mut sqlx::PgConnection) -> Result<(), Failure> {
        self.positions.save(tx).await?;
        let facts = self.facts.iter().map(Fact::name);
        if self.failpoints.strikes(Failpoint::BeforeCommit, facts) {
            return Err(Failure::Unavailable("failpoint: before commit".into()));
        }
        Ok(())
    }
}

/// What a reader works with.
pub(crate) struct Follower<E: Engine> {
    pub(crate) link: Link,
    pub(crate) desk: Desk<E>,
    pub(crate) followed: Followed<E>,
    pub(crate) health: Health,
}

impl<E: Engine> Follower<E> {
    /// Reads until shutdown; any failure ends it, and the supervisor starts it anew from
    /// its stored positions.
    pub(crate) async fn run(&self, shutdown: CancellationToken) -> Result<(), Failure> {
        let mut lead = tokio::select! {
            lead = self.desk.engine.lead() => lead?,
            () = shutdown.cancelled() => return Ok(()),
        };
        let asker = Asker::new(self.link.clone());
        let of = |fact: &&'static str| (producer_of(fact), Ahead::default());
        let mut streams: Streams = self.followed.facts.iter().map(of).collect();
        let mut positions = self.desk.engine.positions().await?;
        info!(service = self.link.service(), streams = streams.len(), "reading whole streams");
        let mut courtesy = Courtesy::default();
        while !shutdown.is_cancelled() {
            // Whoever takes the facts in may be stuck with them for hours. What it has not
            // settled comes again.
            let round = self.round(&asker, &mut streams, &mut positions, &mut lead);
            let (facts, is_behind) = tokio::select! {
                taken = round => taken?,
                () = shutdown.cancelled() => return Ok(()),
            };
            let rest = if is_behind { SHORT_REST } else { READ_EVERY };
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = courtesy.rest(rest, facts) => {}
            }
        }
        Ok(())
    }

    /// Reads ahead in every stream and has taken in what was told by a time that all have
    /// been read to: how many facts were wanted, and whether there is more.
    async fn round(
        &self,
        asker: &Asker,
        streams: &mut Streams,
        positions: &mut Positions,
        lead: &mut Lead,
    ) -> Result<(usize, bool), Failure> {
        let began_at = crate::clock::now();
        let reads = streams
            .iter_mut()
            .map(|(stream, ahead)| self.read_on(asker, stream, positions.0.get(*stream), ahead));
        futures::future::try_join_all(reads).await?;
        let is_all = !streams.values().any(|ahead| ahead.has_more);
        let told_by = streams.values().filter_map(Ahead::told_by).min();
        let mut read = Read {
            facts: Vec::new(),
            is_all,
            began_at,
            positions: positions.clone(),
            failpoints: self.desk.engine.failpoints(),
        };
        for (stream, ahead) in streams {
            let before = read.facts.len();
            read.facts.extend(ahead.take(told_by));
            if let Some(last) = read.facts[before..].last() {
                read.positions.0.insert((*stream).to_owned(), place_of(last));
            }
        }
        let wanted = |fact: &Fact| self.followed.facts.contains(&fact.name());
        read.facts.retain(wanted);
        let (count, moved) = (read.facts.len(), read.positions.clone());
        let read = Arc::new(read);
        while let Err(failure) = (self.followed.take)(self.desk.clone(), read.clone()).await {
            warn!(service = self.link.service(), cause = %failure, facts = count,
                "facts could not be taken in; trying again");
            tokio::time::sleep(PAUSE).await;
            lead.check().await?;
        }
        *positions = moved;
        self.health.add_handled(count as u64);
        Ok((count, !is_all))
    }

    /// Reads on in one stream until a piece of it is at hand, or all.
    async fn read_on(
        &self,
        asker: &Asker,
        stream: &str,
        position: Option<&Place>,
        ahead: &mut Ahead,
    ) -> Result<(), Failure> {
        ahead.has_more = true;
        while ahead.has_more && ahead.facts.len() < self.followed.piece {
            self.read_more(asker, stream, position, ahead).await?;
        }
        Ok(())
    }

    /// Reads the facts behind those that are at hand. The last one before them is read again:
    /// when it is not the one that was there, the broker has forgotten, and the stream is read
    /// from its beginning; whoever takes it in finds the repeats.
    async fn read_more(
        &self,
        asker: &Asker,
        stream: &str,
        position: Option<&Place>,
        ahead: &mut Ahead,
    ) -> Result<(), Failure> {
        let unread = |problem: events::Problem| Failure::Unavailable(problem.to_string());
        let place = ahead.facts.back().map(place_of).or(position.copied());
        let before = place.map_or(0, |(seq, _)| seq - 1);
        let mut facts =
            asker.stored_since(stream, before, STORED_FACTS_MAX).await.map_err(unread)?;
        ahead.has_more = facts.len() >= STORED_FACTS_MAX;
        if let Some((seq, id)) = place {
            let at_place = facts.first().filter(|fact| fact.stream_seq() == seq);
            match at_place.map(|fact| fact.event_id() == Some(id)) {
                Some(true) => drop(facts.remove(0)),
                // Its age was over; nothing after it is missing.
                None if !facts.is_empty() => {}
                None if !ends_before(asker, stream, seq).await? => {}
                _ => {
                    warn!(service = self.link.service(), stream, seq, event_id = %id,
                        "the stream is another than the one that was read; reading it anew");
                    facts =
                        asker.stored_since(stream, 0, STORED_FACTS_MAX).await.map_err(unread)?;
                    ahead.has_more = facts.len() >= STORED_FACTS_MAX;
                }
            }
        }
        ahead.facts.extend(facts);
        Ok(())
    }
}

/// The streams that are read, and what is at hand of each.
type Streams = BTreeMap<&'static str, Ahead>;

/// What was read of a stream and not taken in yet.
#[derive(Default)]
struct Ahead {
    facts: VecDeque<Fact>,
    /// Whether there may be more behind these.
    has_more: bool,
}

impl Ahead {
    /// When the last fact at hand was told, if more may come; `None` at the stream's end.
    fn told_by(&self) -> Option<Timestamp> {
        self.facts.back().filter(|_| self.has_more)?.at()
    }

    /// Takes out the facts up to the last one that was told by then; all when no stream has
    /// more.
    fn take(&mut self, told_by: Option<Timestamp>) -> impl Iterator<Item = Fact> {
        let is_late = |fact: &Fact| told_by.is_some_and(|told_by| fact.at() > Some(told_by));
        let last = self.facts.iter().rposition(|fact| !is_late(fact));
        self.facts.drain(..last.map_or(0, |last| last + 1))
    }
}

fn place_of(fact: &Fact) -> Place {
    (fact.stream_seq(), fact.event_id().unwrap_or_default())
}

/// Whether a stream has facts, but none as far as `seq`. An empty one has only forgotten what
/// was too old, or will be told its facts again.
async fn ends_before(asker: &Asker, stream: &str, seq: u64) -> Result<bool, Failure> {
    let last = asker.last_seq(stream).await;
    let last = last.map_err(|problem| Failure::Unavailable(problem.to_string()))?;
    Ok(last != 0 && last < seq)
}

impl std::fmt::Debug for Read {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids: Vec<Option<Uuid>> = self.facts.iter().map(Fact::event_id).collect();
        f.debug_struct("Read").field("facts", &ids).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A stream of which facts were read that were told in these seconds.
    fn ahead(secs: &[i64], has_more: bool) -> Ahead {
        let told = |(index, secs): (usize, &i64)| {
            let at = Timestamp::from_unix_millis(secs * 1_000).unwrap().to_string();
            Fact::kept(index as u64 + 1, "onsale.point.charged.v1.-", vec![("ce-time", at)], "{}")
        };
        Ahead { facts: secs.iter().enumerate().map(told).collect(), has_more }
    }

    fn taken(ahead: &mut Ahead, by: Option<i64>) -> usize {
        let by = by.and_then(|secs| Timestamp::from_unix_millis(secs * 1_000));
        ahead.take(by).count()
    }

    #[test]
    fn a_stream_waits_for_those_that_have_not_been_read_as_far() {
        let (mut slow, mut quick) = (ahead(&[1, 2, 3], true), ahead(&[1, 3, 5, 9], true));
        let told_by = [&slow, &quick].into_iter().filter_map(Ahead::told_by).min();
        assert_eq!(told_by, Timestamp::from_unix_millis(3_000));
        assert_eq!((taken(&mut slow, Some(3)), taken(&mut quick, Some(3))), (3, 2));
        assert_eq!(quick.facts.front().map(Fact::stream_seq), Some(3));
        assert_eq!((taken(&mut slow, None), taken(&mut quick, None)), (0, 2));
    }

    #[test]
    fn nobody_waits_for_a_stream_that_was_read_to_its_end() {
        let (quiet, empty) = (ahead(&[1], false), ahead(&[], true));
        assert_eq!((quiet.told_by(), empty.told_by()), (None, None));
    }

    #[test]
    fn the_stream_that_others_wait_for_hands_on_all_it_has_in_whatever_order_it_was_told() {
        let mut stream = ahead(&[7, 3, 5], true);
        assert_eq!(taken(&mut stream, Some(5)), 3);
        let mut other = ahead(&[7, 3, 6], true);
        assert_eq!(taken(&mut other, Some(5)), 2);
    }
}
