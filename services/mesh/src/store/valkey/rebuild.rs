//! Rebuilds a read model from its owners' statements and from whole streams: read, take in,
//! compare, swap.

use std::{collections::BTreeMap, future::Future, time::Duration};

use events::{EventId, Problem, Timestamp, producer_of};
use futures::{StreamExt, stream::BoxStream};
use tokio::time::Instant;
use tracing::warn;

use super::{
    engine::Valkey,
    function_call::{At, FunctionCall, LuaModule, ValkeyHandler},
    replay::{Difference, Fed, Replay, ReplayedEvent},
};
use crate::{
    Caller, MeshClient, Service, StoredEvent, clock, kept::stopped,
    nats::stored::STORED_MESSAGES_MAX, store::engine::Failure,
};

/// How long the live generation may take to consume what the shadow has read.
const SETTLE_WITHIN: Duration = Duration::from_secs(10);
/// The pause between two comparisons.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// How far a rebuild has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress<'a> {
    /// A stream has been read this far of `last_seq`.
    Read {
        /// The service whose stream it is.
        stream: &'a str,
        /// The sequence read so far.
        seq: u64,
        /// The sequence to read to.
        last_seq: u64,
    },
    /// Everything is taken in; the two generations are compared.
    Comparing,
}

/// The result of a rebuild.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Rebuilt {
    /// The counts of each kind of event.
    pub events: BTreeMap<&'static str, Fed>,
    /// Events that could not be decoded.
    pub unreadable: u64,
    /// The counts of the owners' statements.
    pub stated: Fed,
    /// The difference from the previous generation; `None` when there was none.
    pub difference: Option<Difference>,
}

impl Rebuilt {
    /// All kinds of events together.
    pub fn total(&self) -> Fed {
        self.events.values().fold(Fed::default(), |sum, fed| sum.and(*fed))
    }
}

/// What owners state of their entities, page by page, as function calls.
pub type Statements<'a> = BoxStream<'a, Result<Vec<FunctionCall>, Failure>>;

/// The sources of a read model.
pub struct Sources<'a> {
    /// Statements of the entities that events are about; taken in before the events.
    pub before: Statements<'a>,
    /// The services whose streams are read, those first that others depend on.
    pub streams: &'a [&'a str],
    /// All other statements; taken in after the events, since an event of the same entity has more
    /// information.
    pub after: Statements<'a>,
}

/// Rebuilds the read model from its sources and the events that `table` consumes, next to the
/// live one, and puts it in its place. Streams keep a week; the owners state what is older.
///
/// Live traffic goes on meanwhile. A failure leaves the live generation as it is, and so does
/// `stop`: another instance may then rebuild it at once.
///
/// # Errors
/// `Contended` when another rebuild is running; also when it is stopped, a stream cannot be read,
/// an owner does not answer, or the store cannot be reached.
pub async fn rebuild<L: LuaModule>(
    valkey: &Valkey<L>,
    table: &Service<Valkey<L>>,
    sources: Sources<'_>,
    client: &MeshClient,
    stop: impl Future<Output = ()> + Send,
    mut progress: impl FnMut(Progress<'_>) + Send,
) -> Result<Rebuilt, Failure> {
    valkey.sweep_generations().await?;
    let Some(replay) = valkey.begin_replay().await? else {
        return Err(Failure::Contended("it is being rebuilt already".into()));
    };
    let building = Building { valkey, table, replay: &replay, done: Rebuilt::default() };
    let ran = tokio::select! {
        ran = building.run(sources, client, &mut progress) => ran,
        () = stop => Err(stopped()),
    };
    let swapped = match ran {
        Ok(rebuilt) => replay.swap().await.map(|()| rebuilt),
        Err(failure) => Err(failure),
    };
    match swapped {
        Ok(rebuilt) => {
            valkey.sweep_generations().await?;
            Ok(rebuilt)
        }
        Err(failure) => {
            // If that fails, the shadow's lease runs out by itself.
            let _ = replay.give_up().await;
            Err(failure)
        }
    }
}

/// Why a stored event is left out of a rebuild.
#[derive(Debug, thiserror::Error)]
enum NotReplayed {
    #[error("it has no id")]
    NoId,
    #[error("{0}")]
    Data(#[from] serde_json::Error),
    /// Its handler refuses without the store.
    #[error("{0}")]
    Refused(Box<Problem>),
}

struct Building<'a, L: LuaModule> {
    valkey: &'a Valkey<L>,
    table: &'a Service<Valkey<L>>,
    replay: &'a Replay,
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
            self.table.declared.consumed.keys().all(|event| streams.contains(&producer_of(event)))
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

    /// Takes in the owners' statements.
    async fn state(&mut self, mut statements: Statements<'_>) -> Result<(), Failure> {
        while let Some(calls) = statements.next().await {
            let fed = self.replay.state(&calls?, clock::now()).await?;
            self.done.stated = self.done.stated.and(fed);
        }
        Ok(())
    }

    /// Reads a stream to its current end. What is stored after that, the live generation consumes
    /// after the shadow has begun, and so does the shadow.
    async fn read(
        &mut self,
        stream: &str,
        client: &MeshClient,
        progress: &mut (impl FnMut(Progress<'_>) + Send),
    ) -> Result<(), Failure> {
        let last_seq = client.last_sequence(stream).await?;
        let (mut position, mut seq) = (0, 0);
        while seq <= last_seq {
            let events = client.stored_since(stream, position, STORED_MESSAGES_MAX).await?;
            let Some(last) = events.last() else { break };
            (position, seq) = (last.position(), last.sequence());
            self.take_in(&events).await?;
            progress(Progress::Read { stream, seq: seq.min(last_seq), last_seq });
        }
        Ok(())
    }

    async fn take_in(&mut self, events: &[StoredEvent]) -> Result<(), Failure> {
        let now = clock::now();
        let (mut names, mut fed) = (Vec::new(), Vec::new());
        for event in events {
            match self.stored(event, now) {
                None => {}
                Some(Err(cause)) => {
                    warn!(
                        event = event.name(),
                        %cause,
                        "an event cannot be decoded; going on without it"
                    );
                    self.done.unreadable += 1;
                }
                Some(Ok((name, stored))) => {
                    names.push(name);
                    fed.push(stored);
                }
            }
        }
        for (name, one) in names.into_iter().zip(self.replay.feed_each(&fed, now).await?) {
            let sum = self.done.events.entry(name).or_default();
            *sum = sum.and(one);
        }
        Ok(())
    }

    /// The event as a function call, if the service consumes it.
    fn stored(
        &self,
        event: &StoredEvent,
        now: Timestamp,
    ) -> Option<Result<(&'static str, ReplayedEvent), NotReplayed>> {
        let consumed = self.table.declared.consumed.get(event.name())?;
        let subject = format!("onsale.{}.v{}.", consumed.event, consumed.version);
        if !event.subject().starts_with(&subject) {
            return None;
        }
        let read = || {
            let event_id = EventId(event.event_id().ok_or(NotReplayed::NoId)?);
            let handler = (consumed.decode)(event.payload())?;
            let config = self.valkey.config();
            let at = At { now, config, caller: &Caller::Mesh, id: clock::new_id() };
            let call = handler.of::<ValkeyHandler<L>>().0.call(&at);
            let call = call.map_err(|problem| NotReplayed::Refused(Box::new(problem)))?;
            Ok((consumed.event, ReplayedEvent { event_id, call }))
        };
        Some(read())
    }

    /// Compares until there is no difference, or the time is over. The live generation may lag
    /// behind; once it has caught up, both take in the same, and a difference is permanent.
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
