//! The Valkey engine: inbox, state, outbox and parked events in one atomic function call for
//! a batch.
//!
//! | file | what it is |
//! |---|---|
//! | `function_call` | what a service implements: a Lua module, and the calls of its functions |
//! | `batch` + `batch.lua` | a batch as one call: claims, decisions in order, emitted events |
//! | `mesh.lua` | what a service's functions can use, and how one of them is run |
//! | `stage.lua`, `commands.lua` | staged reads and writes by key: a function that fails leaves nothing |
//! | `outbox` + `outbox.lua` | unpublished messages, and the marks of published ones |
//! | `parked` + `parked.lua` | events that could not be taken in |
//! | `replay` + `replay.lua`, `rebuild` | a read model rebuilt next to the live one |
//! | `read_model` | a read model: its store and what it is made of |
//! | `restore` | a store rebuilt in place, which answers no call meanwhile |
//! | `call`, `pack` | the functions' names, how a call is sent, how an answer is read |
//!
//! When the connection is lost during a call, messages are redelivered and the inbox drops those
//! that were taken in; commands are written to be harmless when run twice.

mod batch;
mod call;
mod function_call;
mod outbox;
mod pack;
mod parked;
mod read_model;
mod rebuild;
mod replay;
mod restore;
#[cfg(test)]
mod tests;

use std::{
    future::Future,
    marker::PhantomData,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use async_trait::async_trait;
use events::{Command, Event, Problem, Timestamp, UserId, codes};
use redis::{
    Client, IntoConnectionInfo, ToRedisArgs,
    aio::{ConnectionManager, ConnectionManagerConfig},
    io::tcp::TcpSettings,
};
use tracing::error;
use uuid::Uuid;

use crate::{
    Allow, Caller, QueryContext, Service,
    batch::work::{Answered, Entry, Meta, Outcome, Work},
    failpoint::{Failpoint, Failpoints},
    parked::Parked,
    service::{DecodedCommand, EndpointSpec, How, Timer, query_context::own},
    store::engine::POSITIONS_MAX,
    store::engine::{Care, Engine, Failure, Mark, Ran, Retried, Store},
};

use batch::{Case, Item, Way};
use call::{Names, Parts, command, send};
pub use function_call::{At, CallFor, CallOn, FunctionCall, LuaModule, Reply};
use function_call::{
    Calling, CommandHandler, Ended, EventHandler, ValkeyHandler, of_command, of_due, of_event,
};
pub use read_model::ReadModel;
pub use rebuild::{Progress, Rebuilt, Sources, Statements, rebuild};
pub use replay::{Difference, Fed, Replay, ReplayedEvent};
pub use restore::Restoring;

/// How long a call may take before its connection counts as lost; it runs for some 50 ms.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(1);
/// Calls queued for the one connection at most, including reads.
const PIPELINE_CALLS_MAX: usize = 1_024;
/// No arguments.
const NOTHING: &[&str] = &[];

/// A service's own keys in a Valkey, as an engine.
pub struct Valkey<L: LuaModule> {
    connection: ConnectionManager,
    names: Arc<Names>,
    config: Arc<L::Config>,
    failpoints: Arc<Failpoints>,
    /// Whether an event was parked when this instance last ran a batch: a hint that saves a second
    /// call.
    has_parked: Arc<AtomicBool>,
    module: PhantomData<fn() -> L>,
}

impl<L: LuaModule> Clone for Valkey<L> {
    fn clone(&self) -> Self {
        Self {
            connection: self.connection.clone(),
            names: self.names.clone(),
            config: self.config.clone(),
            failpoints: self.failpoints.clone(),
            has_parked: self.has_parked.clone(),
            module: PhantomData,
        }
    }
}

impl<L: LuaModule> Valkey<L> {
    /// An engine on the Valkey at `url`; it connects when first needed. Call this within a tokio
    /// runtime.
    ///
    /// # Errors
    /// When the address is malformed.
    pub fn new(url: &str, config: L::Config) -> Result<Self, Failure> {
        let info =
            url.into_connection_info()?.set_tcp_settings(TcpSettings::default().set_nodelay(true));
        let settings = ConnectionManagerConfig::new()
            .set_response_timeout(Some(RESPONSE_TIMEOUT))
            .set_connection_timeout(Some(CONNECTION_TIMEOUT))
            .set_number_of_retries(1)
            .set_pipeline_buffer_size(PIPELINE_CALLS_MAX);
        let connection = ConnectionManager::new_lazy_with_config(Client::open(info)?, settings)?;
        Ok(Self {
            connection,
            names: Arc::new(Names::of::<L>()),
            config: Arc::new(config),
            failpoints: Arc::new(Failpoints::default()),
            has_parked: Arc::default(),
            module: PhantomData,
        })
    }

    /// The service's configuration.
    pub fn config(&self) -> &L::Config {
        &self.config
    }

    /// The points where tests can make this service fail.
    pub fn failpoints(&self) -> &Arc<Failpoints> {
        &self.failpoints
    }

    /// Calls `reads.<name>` immediately, outside any batch.
    ///
    /// # Errors
    /// The function's refusal, or `unavailable` when the store does not answer or is being
    /// rebuilt.
    pub async fn read(&self, call: FunctionCall, now: Timestamp) -> Result<Reply, Problem> {
        let mut cmd = self.names.read(call.name, now);
        cmd.arg(&call.args);
        let answer = send(&mut self.connection.clone(), &self.names, &cmd).await;
        match answer.and_then(Parts::of).and_then(Ended::read) {
            Ok(Ended::Done(value)) => Ok(value),
            Ok(Ended::No(problem) | Ended::NotYet(problem)) => Err(problem),
            Ok(Ended::Lost) => Err(Problem::new(codes::UNAVAILABLE, "It is being rebuilt.")
                .with("retry_after_secs", 1)),
            Ok(ended) => {
                error!(service = L::NAME, call = call.name, ?ended, "a read ended unexpectedly");
                Err(codes::INTERNAL.into())
            }
            Err(Failure::Refused(cause)) => {
                error!(service = L::NAME, call = call.name, %cause, "a read failed");
                Err(codes::INTERNAL.into())
            }
            Err(failure) => Err(Problem::new(codes::UNAVAILABLE, failure.to_string())),
        }
    }

    /// Handles `event` as at `now`, outside any batch.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn handle<E: Event>(
        &self,
        event: E,
        meta: &Meta,
        now: Timestamp,
    ) -> Result<Outcome, Failure>
    where
        L: CallOn<E>,
    {
        self.one(&EventHandler(event), meta, now).await
    }

    /// Runs `command` as at `now`, outside any batch.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn answer<C: Command>(
        &self,
        command: C,
        meta: &Meta,
        now: Timestamp,
    ) -> Result<Outcome, Failure>
    where
        L: CallFor<C>,
    {
        self.one(&CommandHandler(command), meta, now).await
    }

    /// Runs functions that no message asks for: what is due.
    ///
    /// # Errors
    /// When the store cannot be reached, or a function fails.
    pub async fn perform(&self, calls: &[FunctionCall], now: Timestamp) -> Result<(), Failure> {
        self.perform_as(Way::Live, calls, now).await
    }

    async fn perform_as(
        &self,
        way: Way<'_>,
        calls: &[FunctionCall],
        now: Timestamp,
    ) -> Result<(), Failure> {
        let cases: Vec<_> = calls.iter().map(|call| Case::of(Item::quiet(call.clone()))).collect();
        let called = self.call(way, &cases, now).await?;
        match called.ended.into_iter().find_map(Ended::failure) {
            Some(cause) => Err(Failure::Refused(cause)),
            None => Ok(()),
        }
    }

    /// The function call that handles `event`, for a store that is being rebuilt.
    pub fn replaying<E: Event>(&self, event: &E, now: Timestamp) -> FunctionCall
    where
        L: CallOn<E>,
    {
        let at = At { now, config: self.config(), caller: &Caller::Mesh, id: Uuid::now_v7() };
        L::call(event, &at)
    }

    /// Whether the store is complete; a new or emptied one is not.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn is_whole(&self) -> Result<bool, Failure> {
        let mut exists = redis::cmd("EXISTS");
        exists.arg(self.key("whole"));
        let found: i64 = command(&self.connection, &exists).await?;
        Ok(found == 1)
    }

    /// Declares the store complete; until then it takes nothing in.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn seal(&self) -> Result<(), Failure> {
        assert!(!L::IS_REPLAYABLE, "{} becomes whole by a replay", L::NAME);
        self.serve("seal", NOTHING).await.map(drop)
    }

    /// A value kept beside the service's state; empty when there is none.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn load(&self, name: &str) -> Result<String, Failure> {
        let mut get = redis::cmd("GET");
        get.arg(self.key(name));
        let found: Option<String> = command(&self.connection, &get).await?;
        Ok(found.unwrap_or_default())
    }

    /// Writes such a value if it still is `seen`; returns whether it was.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn swap(&self, name: &str, seen: &str, new: &str) -> Result<bool, Failure> {
        Ok(self.serve("swap", (name, seen, new)).await?.take::<u8>()? == 1)
    }

    /// The name of one of the mesh's own keys.
    fn key(&self, name: &str) -> String {
        format!("{}:{name}", self.names.root)
    }

    /// Calls one of the mesh's own functions.
    async fn serve(&self, name: &str, args: impl ToRedisArgs) -> Result<Parts, Failure> {
        self.serve_at(name, args, crate::clock::now()).await
    }

    async fn serve_at(
        &self,
        name: &str,
        args: impl ToRedisArgs,
        now: Timestamp,
    ) -> Result<Parts, Failure> {
        let mut cmd = self.names.serve(name, now);
        cmd.arg(args);
        let answer = send(&mut self.connection.clone(), &self.names, &cmd).await;
        answer.and_then(Parts::of).map_err(|failure| match failure {
            // All of these functions may be repeated.
            Failure::Uncertain(cause) => Failure::Unavailable(cause),
            other => other,
        })
    }

    async fn one(
        &self,
        handler: &dyn Calling<L>,
        meta: &Meta,
        now: Timestamp,
    ) -> Result<Outcome, Failure> {
        let call = match handler.call(&self.at(meta, now)) {
            Ok(call) => call,
            Err(problem) => return Ok(Outcome::Done(Answered::refused(&problem))),
        };
        let case = Case::once(Item::of(call, meta), meta);
        let mut called = self.call(Way::Live, &[case], now).await?;
        let ended = called.ended.pop().ok_or_else(|| Failure::Refused("no outcome".into()))?;
        Ok(self.settle_handler(handler, meta, ended, now))
    }
}

impl<L: LuaModule> Service<Valkey<L>> {
    /// Consumes the event `E`; `emits` are the events that handling it may emit.
    pub fn consumes<E: Event>(mut self, emits: &'static [&'static str]) -> Self
    where
        L: CallOn<E>,
    {
        self.tables.listen::<E>(<L as CallOn<E>>::KEY, emits, |payload| {
            let event: E = serde_json::from_slice(payload)?;
            Ok(of_event::<L, E>(event))
        });
        self
    }

    /// Answers the command `C`; `emits` are the events that it may emit.
    pub fn executes<C: Command>(mut self, allow: Allow, emits: &'static [&'static str]) -> Self
    where
        L: CallFor<C>,
    {
        let how =
            How::Decided(|body, key| DecodedCommand::read::<C>(body, key, of_command::<L, C>));
        let (endpoint, status) = (C::ENDPOINT, C::STATUS);
        self.tables.add(EndpointSpec { endpoint, allow, status, emits, how });
        self
    }

    /// Looks every `interval` for what is due and runs it in batches; `emits` are the events that
    /// it may emit.
    pub fn every<F, R>(
        mut self,
        name: &'static str,
        interval: Duration,
        emits: &'static [&'static str],
        due: F,
    ) -> Self
    where
        F: Fn(Valkey<L>, Timestamp) -> R + Clone + Send + Sync + 'static,
        R: Future<Output = Result<Vec<FunctionCall>, Failure>> + Send + 'static,
    {
        let due = Arc::new(move |engine: Arc<dyn Engine>, now| {
            let due = due(Valkey::clone(&own(engine)), now);
            Box::pin(async move { Ok(due.await?.into_iter().map(of_due::<L>).collect()) }) as _
        });
        self.tables.timers.push(Timer { name, every: interval, emits, due });
        self
    }
}

impl<L: LuaModule> QueryContext<Valkey<L>> {
    /// Runs `command` in the next batch and returns its answer.
    ///
    /// # Errors
    /// The refusal, or `overloaded`/`unavailable` when it could not be run.
    pub async fn decide<C: Command>(&self, command: C, meta: &Meta) -> Result<C::Reply, Problem>
    where
        L: CallFor<C>,
    {
        self.submit::<C>(of_command::<L, C>(command), meta).await
    }
}

#[async_trait]
impl<L: LuaModule> Engine for Valkey<L> {
    fn store(&self) -> &dyn Store {
        self
    }

    async fn run(&self, batch: &mut [Work], care: Care) -> Result<Ran, Failure> {
        self.strike(batch.iter().flat_map(Work::names))?;
        self.run_batch(batch, care).await
    }

    async fn retry(
        &self,
        parked: &Parked,
        entry: &mut Entry,
        by: Option<UserId>,
    ) -> Result<Retried, Failure> {
        self.strike([entry.meta.name].into_iter())?;
        self.retry_one(parked, entry, by).await
    }
}

#[async_trait]
impl<L: LuaModule> Store for Valkey<L> {
    async fn reached(&self, stream: &str) -> Result<Vec<Mark>, Failure> {
        let mut range = redis::cmd("ZRANGE");
        range.arg(self.key(&format!("reached:{stream}"))).arg(0).arg(-1);
        self.marks(range.arg("WITHSCORES")).await
    }

    async fn note_reached(&self, stream: &str, mark: Mark) -> Result<(), Failure> {
        let key = self.key(&format!("reached:{stream}"));
        let mut note = redis::cmd("ZADD");
        note.arg(&key).arg(mark.sequence).arg(mark.id.to_string());
        command::<redis::Value>(&self.connection, &note).await?;
        let mut forget = redis::cmd("ZREMRANGEBYRANK");
        forget.arg(&key).arg(0).arg(-(POSITIONS_MAX as isize) - 1);
        command::<redis::Value>(&self.connection, &forget).await.map(drop)
    }

    async fn forget_reached(&self, stream: &str, above: u64) -> Result<(), Failure> {
        let mut forget = redis::cmd("ZREMRANGEBYSCORE");
        forget.arg(self.key(&format!("reached:{stream}"))).arg(format!("({above}")).arg("+inf");
        command::<redis::Value>(&self.connection, &forget).await.map(drop)
    }

    /// A Valkey that refuses writes still answers reads. This command would write if the key
    /// existed, so it is refused wherever writes are, and changes nothing.
    async fn check(&self) -> Result<(), Failure> {
        let mut write = redis::cmd("SET");
        write.arg(self.key("never")).arg("1").arg("XX");
        command::<redis::Value>(&self.connection, &write).await?;
        if self.is_whole().await? { Ok(()) } else { Err(Failure::Emptied) }
    }

    async fn tidy(&self) -> Result<(), Failure> {
        let keep = (outbox::KEEP.as_secs(), outbox::MESSAGES_MAX);
        while self.serve("trim", keep).await?.take::<u64>()? > 0 {}
        let keep = parked::ENDED_KEEP.as_secs();
        while self.serve("forget", keep).await?.take::<u64>()? > 0 {}
        if L::IS_REPLAYABLE { self.sweep_generations().await } else { Ok(()) }
    }

    fn failpoints(&self) -> Arc<Failpoints> {
        self.failpoints.clone()
    }
}

impl<L: LuaModule> Valkey<L> {
    fn strike<'a>(&self, names: impl Iterator<Item = &'a str>) -> Result<(), Failure> {
        match self.failpoints.should_fail(Failpoint::BeforeCommit, names) {
            true => Err(Failure::Unavailable("failpoint: before commit".into())),
            false => Ok(()),
        }
    }
}
