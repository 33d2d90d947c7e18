//! Whole streams in: read by sequence, for a service that learns and decides nothing.
//!
//! The position lies in the service's own database and moves in the transaction of what was
//! learned. So there is nothing to acknowledge and nothing to remember of each fact, and a
//! reader that was killed goes on exactly where its last transaction ended. It may lag: it
//! reads at a calm pace in large pieces and leaves the machine to those who sell.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use events::producer_of;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use uuid::Uuid;

use crate::{
    Asker, Desk, Fact, Link, STORED_FACTS_MAX,
    engine::{Engine, Failure},
    failpoint::{Failpoint, Failpoints},
    health::Health,
    postgres::{Lead, Positions},
    service::Followed,
};

/// How long a reader rests between two looks at the streams' ends.
const REST: Duration = Duration::from_millis(200);
/// How long it waits when its store or the broker does not answer.
const PAUSE: Duration = Duration::from_millis(500);

/// Facts in the order of their streams, and where that leaves the reader.
pub struct Read {
    /// The facts: each stream's in its order, streams one after the other.
    pub facts: Vec<Fact>,
    /// Whether there was nothing more in any stream when this was read: who has taken this
    /// in knows all that was told a moment ago.
    pub is_all: bool,
    /// When the reading began: everything stored before is in, if [`Read::is_all`].
    pub began_at: events::Timestamp,
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
        let streams: BTreeSet<&str> =
            self.followed.facts.iter().map(|fact| producer_of(fact)).collect();
        let mut positions = self.desk.engine.positions().await?;
        info!(service = self.link.service(), streams = streams.len(), "reading whole streams");
        while !shutdown.is_cancelled() {
            // Whoever takes the facts in may be stuck with them for hours. What it has not
            // settled comes again.
            let round = self.round(&asker, &streams, &mut positions, &mut lead);
            let is_behind = tokio::select! {
                is_behind = round => is_behind?,
                () = shutdown.cancelled() => return Ok(()),
            };
            if !is_behind {
                tokio::select! {
                    () = shutdown.cancelled() => {}
                    () = tokio::time::sleep(REST) => {}
                }
            }
        }
        Ok(())
    }

    /// Reads one piece of every stream; whether any has more.
    async fn round(
        &self,
        asker: &Asker,
        streams: &BTreeSet<&str>,
        positions: &mut Positions,
        lead: &mut Lead,
    ) -> Result<bool, Failure> {
        let mut read = Read {
            facts: Vec::new(),
            is_all: true,
            began_at: crate::clock::now(),
            positions: positions.clone(),
            failpoints: self.desk.engine.failpoints(),
        };
        let pieces = streams.iter().map(|stream| self.read_one(asker, stream, positions));
        for (stream, piece) in streams.iter().zip(futures::future::join_all(pieces).await) {
            let Piece { facts, has_more } = piece?;
            read.is_all &= !has_more;
            if let Some(last) = facts.last() {
                let place = (last.stream_seq(), last.event_id().unwrap_or_default());
                read.positions.0.insert((*stream).to_owned(), place);
            }
            read.facts.extend(facts);
        }
        let wanted = |fact: &Fact| self.followed.facts.contains(&fact.name());
        read.facts.retain(wanted);
        let (count, is_all, moved) = (read.facts.len(), read.is_all, read.positions.clone());
        let read = Arc::new(read);
        while let Err(failure) = (self.followed.take)(self.desk.clone(), read.clone()).await {
            warn!(service = self.link.service(), cause = %failure, facts = count,
                "facts could not be taken in; trying again");
            tokio::time::sleep(PAUSE).await;
            lead.check().await?;
        }
        *positions = moved;
        self.health.add_handled(count as u64);
        Ok(!is_all)
    }

    /// The facts behind a position. The fact at the position is read again: when it is not
    /// the one that was there, the broker has forgotten, and the stream is read from its
    /// beginning; whoever takes it in finds the repeats.
    async fn read_one(
        &self,
        asker: &Asker,
        stream: &str,
        positions: &Positions,
    ) -> Result<Piece, Failure> {
        let unread = |problem: events::Problem| Failure::Unavailable(problem.to_string());
        let place = positions.0.get(stream).copied();
        let before = place.map_or(0, |(seq, _)| seq - 1);
        let mut facts =
            asker.stored_since(stream, before, STORED_FACTS_MAX).await.map_err(unread)?;
        let mut has_more = facts.len() >= STORED_FACTS_MAX;
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
                    has_more = facts.len() >= STORED_FACTS_MAX;
                }
            }
        }
        Ok(Piece { facts, has_more })
    }
}

/// Whether a stream has facts, but none as far as `seq`. An empty one has only forgotten what
/// was too old, or will be told its facts again.
async fn ends_before(asker: &Asker, stream: &str, seq: u64) -> Result<bool, Failure> {
    let last = asker.last_seq(stream).await;
    let last = last.map_err(|problem| Failure::Unavailable(problem.to_string()))?;
    Ok(last != 0 && last < seq)
}

struct Piece {
    facts: Vec<Fact>,
    has_more: bool,
}

impl std::fmt::Debug for Read {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids: Vec<Option<Uuid>> = self.facts.iter().map(Fact::event_id).collect();
        f.debug_struct("Read").field("facts", &ids).finish_non_exhaustive()
    }
}
