//! A read model built anew from what owners state and from whole streams: read, take in,
//! compare, swap.

use std::{collections::BTreeMap, time::Duration};

use events::{EventId, Problem, Timestamp, producer_of};
use futures::{StreamExt, stream::BoxStream};
use tokio::time::Instant;
use tracing::warn;
use uuid::Uuid;

use super::{At, Difference, Fed, FunctionCall, LuaModule, Replay, ReplayedEvent, Valkey};
use crate::{
    Caller, MeshClient, Service, StoredEvent, clock, engine::Failure, stored::STORED_MESSAGES_MAX,
};

/// How long the live generation may take to hear what the shadow has read.
const SETTLE_WITHIN: Duration = Duration::from_secs(10);
/// Between two comparisons.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How far it has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    /// A stream has been read this far of `last_seq`.
    Read {
        /// Whose.
        stream: &'a str,
        /// So far.
        seq: u64,
        /// To where.
        last_seq: u64,
    },
    /// Everything is in; the two are compared.
    Comparing,
}

/// What a rebuilding did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// Of each kind of fact, how many came of it.
    pub events: BTreeMap<&'static str, Fed>,
    /// Facts that could not be read.
    pub unreadable: u64,
    /// What became of what the owners state.
    pub stated: Fed,
    /// How it differed from the generation before; `None` when there was none.
    pub difference: Option<Difference>,
}

impl Rebuilt {
    /// All kinds of facts together.
    pub fn total(&self) -> Fed {
        self.events.values().fold(Fed::default(), |sum, fed| sum.and(*fed))
    }
}

/// What owners state, page by page, as acts.
pub type Statements<'a> = BoxStream<'a, Result<Vec<FunctionCall>, Failure>>;

/// What a read model is made of.
pub struct Sources<'a> {
    /// What is stated of the things that events are about; it is taken in before them.
    pub before: Statements<'a>,
    /// Whose streams, those first that others depend on.
    pub streams: &'a [&'a str],
    /// What else is stated, taken in behind the events: of the same thing, an event knows more.
    pub after: Statements<'a>,
}

/// Builds the read model anew from its sources and the events that `table` hears, next to the
/// live one, and puts it in its place. Streams keep a week; what is older the owners state.
///
/// Live traffic goes on meanwhile. Whatever fails leaves the live generation as it is.
///
/// # Errors
/// `Contended` when another rebuilding is on its way; when a stream cannot be read, an owner
/// does not answer, or the store cannot be reached.
pub async fn rebuild<L: LuaModule>(
    valkey: &Valkey<L>,
    table: &Service<Valkey<L>>,
    sources: Sources<'_>,
    client: &MeshClient,
    mut progress: impl FnMut(Progress<'_>) + Send,
) -> Result<Rebuilt, Failure> {
    valkey.sweep_generations().await?;
    let Some(replay) = valkey.begin_replay().await? else {
        return Err(Failure::Contended("it is being rebuilt already".into()));
    };
    let building = Building { valkey, table, replay: &replay, done: Rebuilt::default() };
    match building.run(sources, client, &mut progress).await {
        Ok(rebuilt) => {
            replay.swap().await?;
            valkey.sweep_generations().await?;
            Ok(rebuilt)
        }
        Err(failure) => {
            // Away as it may be, the store lets the shadow lapse by itself.
            let _ = replay.give_up().await;
            Err(failure)
        }
    }
}

struct Building<'a, L: LuaModule> {
    valkey: &'a Valkey<L>,
    table: &'a Service<Valkey<L>>,
    replay: &'a Replay<L>,
    done: Rebuilt,
}

impl<L: LuaModule> Building<'_, L> {
    async fn run(
        mut self,
        sources: Sources<'_>,
        client: &MeshClient,
        progress: &mut (impl FnMut(Progress<'_>) + Send),
    ) -> Result<Rebuilt, Failure> {
        let streams = sources.streams;
        debug_assert!(
            self.table.consumed.keys().all(|event| streams.contains(&producer_of(event)))
        );
        let was_whole = self.valkey.is_whole().await?;
        self.state(sources.before).await?;
        for stream in streams {
            self.read(stream, client, progress).await?;
        }
        self.state(sources.after).await?;
        if was_whole {
            progress(Progress::Comparing);
            self.done.difference = Some(self.compare().await?);
        }
        Ok(self.done)
    }

    /// Takes in what is stated.
    async fn state(&mut self, mut statements: Statements<'_>) -> Result<(), Failure> {
        while let Some(calls) = statements.next().await {
            let fed = self.replay.state(&calls?, clock::now()).await?;
            self.done.stated = self.done.stated.and(fed);
        }
        Ok(())
    }

    /// Reads a stream to where it ends now. What is stored after that is heard by the live
    /// generation later than the shadow began, and so by the shadow too.
    async fn read(
        &mut self,
        stream: &str,
        client: &MeshClient,
        progress: &mut (impl FnMut(Progress<'_>) + Send),
    ) -> Result<(), Failure> {
        let last_seq = client.last_sequence(stream).await.map_err(unread)?;
        let (mut position, mut seq) = (0, 0);
        while seq <= last_seq {
            let read = client.stored_since(stream, position, STORED_MESSAGES_MAX).await;
            let events = read.map_err(unread)?;
            let Some(last) = events.last() else { break };
            (position, seq) = (last.position(), last.sequence());
            self.take_in(&events).await?;
            progress(Progress::Read { stream, seq: seq.min(last_seq), last_seq });
        }
        Ok(())
    }

    async fn take_in(&mut self, events: &[StoredEvent]) -> Result<(), Failure> {
        let now = clock::now();
        // Facts of one kind at a time would change their order; each run of them does not.
        let mut runs: Vec<(&'static str, Vec<ReplayedEvent>)> = Vec::new();
        for event in events {
            match self.stored(event, now) {
                None => {}
                Some(Err(cause)) => {
                    warn!(
                        event = event.name(),
                        cause, "a fact cannot be read; going on without it"
                    );
                    self.done.unreadable += 1;
                }
                Some(Ok((name, stored))) => match runs.last_mut() {
                    Some((kind, run)) if *kind == name => run.push(stored),
                    _ => runs.push((name, vec![stored])),
                },
            }
        }
        for (name, run) in runs {
            let fed = self.replay.feed(&run, now).await?;
            let sum = self.done.events.entry(name).or_default();
            *sum = sum.and(fed);
        }
        Ok(())
    }

    /// The fact as a call, if the service hears it.
    fn stored(
        &self,
        event: &StoredEvent,
        now: Timestamp,
    ) -> Option<Result<(&'static str, ReplayedEvent), String>> {
        let consumed = self.table.consumed.get(event.name())?;
        let subject = format!("onsale.{}.v{}.", consumed.event, consumed.version);
        if !event.subject().starts_with(&subject) {
            return None;
        }
        let read = || {
            let event_id = EventId(event.event_id().ok_or("it has no id")?);
            let handler = (consumed.decode)(event.payload())?;
            let config = self.valkey.config();
            let at = At { now, config, caller: &Caller::Mesh, id: Uuid::now_v7() };
            let call = handler.0.call(&at).map_err(|problem| problem.to_string())?;
            Ok((consumed.event, ReplayedEvent { event_id, call }))
        };
        Some(read())
    }

    /// The live generation may be some facts behind; once it has heard them, both hear the
    /// same, and what differs then differs for good.
    async fn compare(&self) -> Result<Difference, Failure> {
        let until = Instant::now() + SETTLE_WITHIN;
        loop {
            let difference = self.replay.compare(clock::now()).await?;
            if difference.is_none() || Instant::now() >= until {
                return Ok(difference);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn unread(problem: Problem) -> Failure {
    Failure::Unavailable(problem.to_string())
}
