//! The counters in Lua; each store is a Valkey of its own.

use std::sync::Arc;

use events::{Problem, codes};
use mesh::{
    Allow, Service,
    testkit::OwnValkey,
    valkey::{At, CallFor, CallOn, FunctionCall, LuaModule, Reply, Valkey},
};
use uuid::Uuid;

use crate::{
    counter::{Add, Added, Bumped, EMITS, How, NAME, Opened},
    store::{Store, eventually},
};

pub struct OnValkey {
    alone: OwnValkey,
    engine: Arc<Valkey<Counters>>,
}

/// The counters.
pub struct Counters;

impl LuaModule for Counters {
    const NAME: &'static str = NAME;
    const KEY: &'static str = "counter";
    const LUA: &'static str = r"
        function writes.open(id)
          redis.call('HSETNX', key('counter:' .. id), 'value', 0)
          redis.call('HSETNX', key('counter:' .. id), 'version', 0)
        end

        function writes.bump(id, amount, how)
          local counter = key('counter:' .. id)
          if how == 'late' and redis.call('EXISTS', counter) == 0 then
            return not_yet('not_found', 'the counter')
          end
          local value = redis.call('HINCRBY', counter, 'value', amount)
          local version = redis.call('HINCRBY', counter, 'version', 1)
          if how == 'breaks' then
            redis.call('HINCRBY', counter, 'value', 'no number')
          end
          local moved = { counter = id, value = value, version = version }
          for number = 1, tonumber(how) or 0 do
            moved.apart = string.format('%s%012x', string.sub(id, 1, 24), number)
            emit('counter.moved', moved.apart, id, moved)
          end
          if not tonumber(how) then
            emit('counter.moved', '-', id, moved)
          end
          return { whole(value), whole(version) }
        end

        function reads.counter(id)
          local found = redis.call('HMGET', key('counter:' .. id), 'value', 'version')
          return { found[1] or '', found[2] or '' }
        end
    ";
    type Config = ();
}

fn bump(counter: Uuid, amount: i64, how: How) -> FunctionCall {
    assert!(how != How::Panics, "panics on purpose");
    FunctionCall::new("bump").arg(counter).arg(amount).arg(how.word())
}

impl CallOn<Bumped> for Counters {
    fn call(event: &Bumped, _at: &At<'_, ()>) -> FunctionCall {
        bump(event.counter, event.amount, event.how)
    }
}

impl CallOn<Opened> for Counters {
    const KEY: &'static str = "by";

    fn call(event: &Opened, _at: &At<'_, ()>) -> FunctionCall {
        FunctionCall::new("open").arg(event.counter)
    }
}

impl CallFor<Add> for Counters {
    fn call(command: &Add, _at: &At<'_, ()>) -> Result<FunctionCall, Problem> {
        if command.amount == 0 {
            return Err(Problem::new(codes::INVALID, "Nothing is nothing."));
        }
        Ok(bump(command.counter, command.amount, command.how))
    }

    fn reply(_command: &Add, value: &Reply, _at: &At<'_, ()>) -> Result<Added, Problem> {
        Ok(Added { value: value.get(0)?, version: value.get(1)? })
    }
}

impl Store for OnValkey {
    type Engine = Valkey<Counters>;

    async fn open() -> Self {
        let alone = OwnValkey::alone().await;
        let engine = Arc::new(alone.engine(()));
        engine.seal().await.unwrap();
        Self { alone, engine }
    }

    fn service() -> Service<Self::Engine> {
        Service::<Self::Engine>::new(NAME)
            .consumes::<Bumped>(EMITS)
            .consumes::<Opened>(&[])
            .executes::<Add>(Allow::Anyone, EMITS)
    }

    fn engine(&self) -> Arc<Self::Engine> {
        Arc::new(self.alone.engine(()))
    }

    async fn lose(&self) {
        self.alone.server().kill();
        self.alone.server().restart().await.unwrap();
    }

    async fn counter(&self, id: Uuid) -> Option<(i64, i64)> {
        let read = FunctionCall::new("counter").arg(id);
        // Its connection may be to a server that is gone.
        let found = eventually("a counter is read", || async {
            self.engine.read(read.clone(), mesh::clock::now()).await.ok()
        })
        .await;
        Some((found.get(0).ok()?, found.get(1).ok()?))
    }
}
