//! A read model rebuilt next to the live one, and put in its place in one step.
//!
//! The state of a replayable module lies in a *generation*: its keys contain the generation's
//! name. All traffic reads and writes the live one. A [`Replay`] builds another, the *shadow*,
//! from stored events. From its first moment on, the shadow takes in whatever the live
//! generation takes in, in the same step, so nothing that happens meanwhile is missing; each has
//! an inbox of its own, so nothing counts twice. When the shadow has come to the end of the
//! streams it becomes the live one between two calls, so a reader never sees half of it.
//!
//! There is at most one shadow. Its builder holds it by a lease that each step renews; a builder
//! that was killed loses it, and [`Keyspace::sweep_generations`] removes what it left.

use std::time::Duration;

use events::{EventId, Timestamp};
use redis::Value;
use tokio::time::Instant;
use tracing::warn;
use uuid::Uuid;

use super::{
    batch::{Way, gone},
    call::{LEASE, Parts, command},
    case::{Case, Item},
    function_call::{Ended, FunctionCall},
    keyspace::Keyspace,
};
use crate::store::engine::Failure;

/// How often a store that is away is asked to give a lease up.
const GIVE_UP_EVERY: Duration = Duration::from_millis(200);
/// Keys scanned by one step of a sweep.
const SWEEP_KEYS: usize = 1_000;
/// Parts in which generations are compared, by the last two hex digits of the entities' ids, so
/// that no call takes long.
const PARTS: u16 = 256;

/// A stored event as a shadow takes it in.
pub struct ReplayedEvent {
    /// The id it was emitted with: its id in the inbox.
    pub event_id: EventId,
    /// The function call that handles it; see [`super::Valkey::replaying`].
    pub call: FunctionCall,
}

/// What became of stored events.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fed {
    /// Taken in.
    pub taken: u64,
    /// Repeats: live traffic had brought them already.
    pub repeats: u64,
    /// Refused, as live traffic would have been.
    pub left_out: u64,
}

impl Fed {
    /// The sum of both.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            taken: self.taken + other.taken,
            repeats: self.repeats + other.repeats,
            left_out: self.left_out + other.left_out,
        }
    }
}

fn sum(fed: Vec<Fed>) -> Fed {
    fed.into_iter().fold(Fed::default(), Fed::and)
}

/// Lines of the digest in which two generations differ.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Difference {
    /// Lines that only the live generation has.
    pub only_live: Vec<String>,
    /// Lines that only the shadow has.
    pub only_shadow: Vec<String>,
}

impl Difference {
    /// Whether there is none.
    pub fn is_none(&self) -> bool {
        self.only_live.is_empty() && self.only_shadow.is_empty()
    }
}

/// A shadow that is being built. When dropped, its lease runs out by itself.
pub struct Replay {
    keyspace: Keyspace,
    generation: String,
}

impl Keyspace {
    /// Begins a shadow, next to the live generation or as the first one; `None` when another one
    /// is being built.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn begin_replay(&self) -> Result<Option<Replay>, Failure> {
        self.names.assert_replayable(true);
        // The random half of an id: a name that is never used again.
        let generation = Uuid::now_v7().simple().to_string()[16..].to_owned();
        let mut begun = self.begin_lease("begin_shadow", &generation).await?;
        let replay = Replay { keyspace: self.clone(), generation };
        Ok((begun.take::<u8>()? == 1).then_some(replay))
    }

    /// Takes the lease of a rebuild. When the answer is lost, the lease may have been taken, and
    /// nobody would hold it: then it is given up.
    pub(super) async fn begin_lease(&self, how: &str, holder: &str) -> Result<Parts, Failure> {
        let begun = self.serve(how, holder).await;
        if begun.is_err() {
            let _ = self.give_up_lease(holder).await;
        }
        begun
    }

    /// Renews the lease of a rebuild: a step that has nothing to write is a step as well.
    pub(super) async fn renew_lease(&self, holder: &str) -> Result<(), Failure> {
        let mut renewed = self.serve("renew_shadow", holder).await?;
        if renewed.take::<u8>()? == 1 { Ok(()) } else { Err(gone()) }
    }

    /// Gives up the lease of a rebuild, so that the next one need not wait until it has run out.
    pub(super) async fn give_up_lease(&self, holder: &str) -> Result<(), Failure> {
        let until = Instant::now() + LEASE;
        loop {
            match self.serve("give_up_shadow", holder).await {
                Err(Failure::Unavailable(_) | Failure::Uncertain(_)) if Instant::now() < until => {
                    tokio::time::sleep(GIVE_UP_EVERY).await;
                }
                given => return given.map(drop),
            }
        }
    }

    /// Removes, in small steps, what is left of generations that are neither live nor being
    /// built. Other instances may do so at the same time.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn sweep_generations(&self) -> Result<(), Failure> {
        let root = &self.names.root;
        let connection = &self.connection;
        let mut begun = redis::cmd("SMEMBERS");
        begun.arg(format!("{root}:generations"));
        let begun: Vec<String> = command(connection, &begun).await?;
        // Read after that, and both at once: a generation that is neither will never be either.
        let mut wanted = redis::cmd("MGET");
        wanted.arg(format!("{root}:whole")).arg(format!("{root}:shadow"));
        let wanted: Vec<Option<String>> = command(connection, &wanted).await?;
        for generation in begun {
            if wanted.iter().flatten().any(|wanted| *wanted == generation) {
                continue;
            }
            self.sweep_one(&generation).await?;
            let mut forget = redis::cmd("SREM");
            forget.arg(format!("{root}:generations")).arg(generation);
            command::<Value>(connection, &forget).await?;
        }
        Ok(())
    }

    async fn sweep_one(&self, generation: &str) -> Result<(), Failure> {
        let connection = &self.connection;
        let mut cursor = "0".to_owned();
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(format!("{}:g{generation}:*", self.names.root));
            scan.arg("COUNT").arg(SWEEP_KEYS);
            let (next, keys): (String, Vec<Vec<u8>>) = command(connection, &scan).await?;
            if !keys.is_empty() {
                let mut unlink = redis::cmd("UNLINK");
                unlink.arg(keys);
                command::<Value>(connection, &unlink).await?;
            }
            if next == "0" {
                return Ok(());
            }
            cursor = next;
        }
    }
}

impl Replay {
    /// Takes stored events into the shadow, one after the other, in one round trip.
    ///
    /// # Errors
    /// When the store cannot be reached, or this builder has lost the shadow.
    pub async fn feed(&self, events: &[ReplayedEvent], now: Timestamp) -> Result<Fed, Failure> {
        Ok(sum(self.feed_each(events, now).await?))
    }

    /// The same; returns what became of each.
    pub(super) async fn feed_each(
        &self,
        events: &[ReplayedEvent],
        now: Timestamp,
    ) -> Result<Vec<Fed>, Failure> {
        let case =
            |event: &ReplayedEvent| Case::of(Item::stored(event.call.clone(), event.event_id));
        let cases: Vec<_> = events.iter().map(case).collect();
        self.feed_cases(&cases, now).await
    }

    async fn feed_cases(&self, cases: &[Case<'_>], now: Timestamp) -> Result<Vec<Fed>, Failure> {
        if cases.is_empty() {
            self.keyspace.renew_lease(&self.generation).await?;
        }
        let called = self.keyspace.call(Way::Feed(&self.generation), cases, now).await?;
        Ok(called.ended.into_iter().map(|ended| self.became(ended)).collect())
    }

    fn became(&self, ended: Ended) -> Fed {
        match ended {
            Ended::Done(_) => Fed { taken: 1, ..Fed::default() },
            Ended::Repeat => Fed { repeats: 1, ..Fed::default() },
            ended => {
                if let Some(cause) = ended.failure() {
                    let service = self.keyspace.names.service;
                    warn!(service, cause, "an event fails; going on without it");
                }
                Fed { left_out: 1, ..Fed::default() }
            }
        }
    }

    /// Takes owners' statements into the shadow, one after the other.
    ///
    /// # Errors
    /// As [`Replay::feed`].
    pub async fn state(&self, calls: &[FunctionCall], now: Timestamp) -> Result<Fed, Failure> {
        let cases: Vec<_> = calls.iter().map(|call| Case::of(Item::quiet(call.clone()))).collect();
        Ok(sum(self.feed_cases(&cases, now).await?))
    }

    /// The difference between the shadow and the live generation, as at `now`. What the live one
    /// has not consumed yet is a difference too.
    ///
    /// # Errors
    /// As [`Replay::feed`]; also when there is no live generation.
    pub async fn compare(&self, now: Timestamp) -> Result<Difference, Failure> {
        let mut difference = Difference::default();
        for part in (0..PARTS).map(|part| format!("{part:02x}")) {
            let args = vec![self.generation.clone(), part];
            let mut lines = self.held("compare_shadow", args, now).await?;
            difference.only_live.extend(lines.take::<Vec<String>>()?);
            difference.only_shadow.extend(lines.take::<Vec<String>>()?);
        }
        Ok(difference)
    }

    /// Makes the shadow the live generation: the next call of any instance uses it.
    ///
    /// # Errors
    /// As [`Replay::feed`]; then the live generation stays as it was.
    pub async fn swap(&self) -> Result<(), Failure> {
        let mut swapped = self.keyspace.serve("swap_in_shadow", &self.generation).await?;
        if swapped.take::<u8>()? == 1 { Ok(()) } else { Err(gone()) }
    }

    /// Gives the shadow up; the live generation stays as it was. While the store is away, it is
    /// tried again for as long as the lease lasts.
    ///
    /// # Errors
    /// When the store does not come back; then the shadow's lease runs out.
    pub async fn give_up(self) -> Result<(), Failure> {
        self.keyspace.give_up_lease(&self.generation).await
    }

    /// Calls a function of the mesh as the shadow's builder; returns what follows `held` in the
    /// answer.
    async fn held(&self, name: &str, args: Vec<String>, now: Timestamp) -> Result<Parts, Failure> {
        let mut parts = self.keyspace.serve_at(name, args, now).await?;
        if parts.take::<String>()? == "held" { Ok(parts) } else { Err(gone()) }
    }
}
