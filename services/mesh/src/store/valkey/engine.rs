//! A service's keys with its Lua module, as an engine.

use std::{marker::PhantomData, ops::Deref, sync::Arc};

use async_trait::async_trait;
use events::{Command, Event, Problem, Timestamp, UserId};

use super::{
    batch::Handlers,
    call::Names,
    function_call::{
        At, CallFor, CallOn, FunctionCall, LuaModule, Reply, ValkeyHandler, of_command, of_event,
    },
    keyspace::Keyspace,
    spans,
};
use crate::{
    Caller,
    batch::work::{Answered, Entry, Handler, Meta, Outcome, Work},
    clock,
    parked::Parked,
    store::engine::{Care, Engine, Failure, Operation, Ran, Retried, Store},
};

/// A service's own keys in a Valkey, as an engine for its Lua module. It dereferences to the keys.
pub struct Valkey<L: LuaModule> {
    keyspace: Keyspace,
    config: Arc<L::Config>,
    module: PhantomData<fn() -> L>,
}

impl<L: LuaModule> Clone for Valkey<L> {
    fn clone(&self) -> Self {
        let (keyspace, config) = (self.keyspace.clone(), self.config.clone());
        Self { keyspace, config, module: PhantomData }
    }
}

impl<L: LuaModule> Deref for Valkey<L> {
    type Target = Keyspace;

    fn deref(&self) -> &Keyspace {
        &self.keyspace
    }
}

impl<L: LuaModule> Valkey<L> {
    /// An engine on the Valkey at `url`; it connects when first needed. Call this within a tokio
    /// runtime.
    ///
    /// # Errors
    /// When the address is malformed.
    pub fn new(url: &str, config: L::Config) -> Result<Self, Failure> {
        let keyspace = Keyspace::new(url, Names::new(L::NAME, L::LUA, L::IS_REPLAYABLE))?;
        Ok(Self { keyspace, config: Arc::new(config), module: PhantomData })
    }

    /// The service's configuration.
    pub fn config(&self) -> &L::Config {
        &self.config
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
        self.keyspace.run_one(self, &of_event::<L, E>(event), meta, now).await
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
        self.keyspace.run_one(self, &of_command::<L, C>(command), meta, now).await
    }

    /// The function call that handles `event`, for a store that is being rebuilt.
    pub fn replaying<E: Event>(&self, event: &E, now: Timestamp) -> FunctionCall
    where
        L: CallOn<E>,
    {
        let at = At { now, config: self.config(), caller: &Caller::Mesh, id: clock::new_id() };
        L::call(event, &at)
    }

    fn at<'a>(&'a self, meta: &'a Meta, now: Timestamp) -> At<'a, L::Config> {
        At { now, config: &self.config, caller: &meta.caller, id: meta.id }
    }
}

#[async_trait]
impl<L: LuaModule> Engine for Valkey<L> {
    fn store(&self) -> &dyn Store {
        &self.keyspace
    }

    fn operation(&self) -> Operation {
        Operation { system: "redis", name: "FCALL" }
    }

    async fn run(&self, batch: &mut [Work], care: Care) -> Result<Ran, Failure> {
        let began = clock::system_time();
        let ran = self.keyspace.run(self, batch, care).await?;
        let entries = batch.iter_mut().flat_map(|work| &mut work.entries);
        spans::record(entries, &ran.emitted, began);
        Ok(ran)
    }

    async fn retry(
        &self,
        parked: &Parked,
        entry: &mut Entry,
        by: Option<UserId>,
    ) -> Result<Retried, Failure> {
        let began = clock::system_time();
        let retried = self.keyspace.retry(self, parked, entry, by).await?;
        if let Retried::Done(ran) = &retried {
            spans::record(std::iter::once(entry), &ran.emitted, began);
        }
        Ok(retried)
    }
}

impl<L: LuaModule> Handlers for Valkey<L> {
    fn call_of(
        &self,
        handler: &Handler,
        meta: &Meta,
        now: Timestamp,
    ) -> Result<FunctionCall, Problem> {
        handler.of::<ValkeyHandler<L>>().0.call(&self.at(meta, now))
    }

    fn answer_of(
        &self,
        handler: &Handler,
        value: &Reply,
        meta: &Meta,
        now: Timestamp,
    ) -> Result<Answered, Problem> {
        handler.of::<ValkeyHandler<L>>().0.answer(value, &self.at(meta, now))
    }
}
