//! Tests of `stage.lua`: what functions of one call see of each other, and what they leave.

use uuid::Uuid;

use super::{Harness, KEY, call, everything, put};
use crate::{
    clock,
    parked::ParkedState,
    store::valkey::{
        LuaModule,
        batch::Way,
        case::{Case, Item},
    },
    testkit::OwnValkey,
};

/// Commands drawn by a seed, run both on the stage and directly on the store: both must give the
/// same answers.
struct Twins;

impl LuaModule for Twins {
    const NAME: &'static str = "twins";
    const LUA: &'static str = r"
        local function any(most) return math.random(most) end
        local function one(of) return of[any(#of)] end
        local function member() return one({ 'a', 'b', 'c' }) end
        local DRAWN = {
          hash = function() return one({
            { 'HSET', member(), any(9) }, { 'HSET', member(), any(9), member(), any(9) },
            { 'HSETNX', member(), any(9) }, { 'HINCRBY', member(), any(9) - 5 }, { 'HGETALL' },
            { 'HDEL', member() }, { 'HDEL', 'a', 'b', 'c' }, { 'HGET', member() }, { 'HVALS' },
            { 'HMGET', 'a', 'b', 'c' }, { 'HINCRBY', member(), 'x' } }) end,
          set = function() return one({ { 'SADD', member() }, { 'SADD', member(), member() },
            { 'SREM', member() }, { 'SREM', 'a', 'b', 'c' }, { 'SISMEMBER', member() },
            { 'SMEMBERS' } }) end,
          zset = function() return one({ { 'ZADD', any(9), member() }, { 'ZREM', member() },
            { 'ZADD', any(9) / 8, member(), '-2', 'd' }, { 'ZINCRBY', any(9) - 5, member() },
            { 'ZREM', 'a', 'b', 'c', 'd' }, { 'ZPOPMIN', any(2) }, { 'ZSCORE', member() },
            { 'ZCARD' }, { 'ZRANK', member() }, { 'ZRANGE', 0, 1, 'WITHSCORES' },
            { 'ZRANGEBYSCORE', '-inf', any(9), 'LIMIT', 0, 2 }, { 'ZADD', 'x', 'a' } }) end,
          list = function() return one({ { 'RPUSH', any(99) }, { 'RPUSH', any(99), any(99) },
            { 'LTRIM', -any(3), -1 } }) end,
          text = function() return one({ { 'SET', any(9) }, { 'SET', 'x', 'EX', any(9) * 1000 },
            { 'INCR' }, { 'GET' } }) end,
        }
        local function draw()
          local kind = one({ 'hash', 'set', 'zset', 'list', 'text' })
          local command = any(4) > 1 and DRAWN[kind]() or { 'EXPIRE', any(9) * 1000 }
          return kind, command
        end
        local function shown(answer)
          if type(answer) ~= 'table' then
            return answer and tostring(answer)
          elseif answer.ok or answer.err then
            return answer.ok and 'done' or 'refused'
          end
          local all = {}
          for at = 1, #answer do
            all[at] = tostring(answer[at])
          end
          table.sort(all)
          return table.concat(all, ' ')
        end
        local function compare(kind, command, ...)
          local is_ok, answer = pcall(redis.call, command, key('staged:' .. kind), ...)
          local is_well, truth = pcall(call, command, key('direct:' .. kind), ...)
          if command == 'EXPIRE' and not is_ok then
            error(answer)
          end
          answer, truth = is_ok and shown(answer), is_well and shown(truth)
          local is_quiet = command == 'SET' or command == 'LTRIM'
          if is_ok ~= is_well or not is_quiet and answer ~= truth then
            error(string.format('%s of %s: %s, not %s', command, kind, tostring(answer),
              tostring(truth)))
          end
        end
        function writes.agree(seed)
          math.randomseed(seed)
          for _ = 1, 20 do
            local kind, command = draw()
            compare(kind, command[1], unpack(command, 2))
          end
        end
        function writes.fail(seed)
          math.randomseed(seed)
          for _ = 1, 20 do
            local kind, command = draw()
            pcall(redis.call, command[1], key('staged:' .. kind), unpack(command, 2))
          end
          error('on purpose')
        end
    ";
    type Config = ();
}

#[tokio::test]
async fn staged_writes_are_seen_and_left_as_if_each_was_made_at_once() {
    let store = OwnValkey::open().await;
    let valkey = store.engine::<Twins>(());
    valkey.seal().await.unwrap();
    for round in 0..60_u64 {
        let calls = (0..8).map(|call| (round * 8 + call, call % 3 == 2));
        let name = |fails: bool| if fails { "fail" } else { "agree" };
        let cases: Vec<_> = calls
            .clone()
            .map(|(seed, fails)| Case::of(Item::quiet(call(name(fails)).arg(seed))))
            .collect();
        let called = valkey.call(Way::Live, &cases, clock::now()).await.unwrap();
        for ((seed, fails), ended) in calls.zip(called.ended) {
            let cause = ended.failure().unwrap_or_default();
            assert_eq!(cause.contains("on purpose"), fails, "seed {seed}: {cause}");
            assert!(fails || cause.is_empty(), "seed {seed}: {cause}");
        }
        let all = everything(&store).await;
        let of = |twin: &str| -> Vec<_> {
            let name = |key: &str| Some(key.split_once(twin)?.1.to_owned());
            let round = |at: i64| if at > 0 { (at + 500_000) / 1_000_000 } else { at };
            let rows = all.iter().filter_map(|(key, (value, at))| {
                Some((name(key)?, String::from_utf8_lossy(value).into_owned(), round(*at)))
            });
            rows.collect()
        };
        assert_eq!(of("staged:"), of("direct:"), "round {round}");
    }
}

#[tokio::test]
async fn a_write_to_a_key_of_another_kind_fails_only_its_own_function() {
    let harness = Harness::open().await;
    let prepare = [(1, Ok(call("prepare")))];
    harness.message(Uuid::now_v7(), &prepare).await;
    let before = harness.all().await;
    let events = [
        (1, Ok(call("count_on").arg("text"))),
        (2, Ok(call("count_on").arg("set"))),
        (3, Ok(put("x"))),
    ];
    let called = harness.message(Uuid::now_v7(), &events).await;
    assert_eq!(called.parked.len(), 2);
    assert!(called.parked.iter().all(|row| row.cause.contains("WRONGTYPE")));
    assert_eq!(harness.kept().await, ["x"]);
    let mut after = harness.all().await;
    after.retain(|key, _| before.contains_key(key));
    assert_eq!(after, before);
}

#[tokio::test]
async fn a_call_is_refused_before_it_begins_when_memory_is_full() {
    let harness = Harness::alone().await;
    let _: () = harness.redis(&[b"CONFIG", b"SET", b"maxmemory", b"1"]).await;
    let refused = harness.valkey.perform(&[put("a"), put("b")], clock::now()).await.unwrap_err();
    assert!(refused.to_string().contains("OOM"), "{refused}");
    let _: () = harness.redis(&[b"CONFIG", b"SET", b"maxmemory", b"0"]).await;
    assert!(harness.kept().await.is_empty());
}

#[tokio::test]
async fn a_function_that_fails_after_its_writes_leaves_nothing_and_the_others_take_effect() {
    let harness = Harness::open().await;
    harness.valkey.perform(&[call("prepare")], clock::now()).await.unwrap();
    let before = harness.all().await;
    let failed = harness.valkey.perform(&[call("spoil")], clock::now()).await.unwrap_err();
    assert!(failed.to_string().contains("not an integer"), "{failed}");
    assert_eq!(harness.all().await, before);

    let events = [(1, Ok(put("before"))), (2, Ok(call("spoil"))), (3, Ok(put("behind")))];
    let called = harness.message(Uuid::now_v7(), &events).await;
    assert_eq!((called.emitted.len(), called.announced.len()), (0, 0));
    assert_eq!(called.parked.len(), 1);
    assert_eq!(
        (&*called.parked[0].key, called.parked[0].state),
        (&*format!("{KEY}02"), ParkedState::Dead)
    );
    assert!(called.parked[0].cause.contains("not an integer"), "{}", called.parked[0].cause);
    assert_eq!(harness.kept().await, ["before", "behind"]);
    let mut after = harness.all().await;
    after.retain(|key, _| before.contains_key(key));
    assert_eq!(after, before);
}

#[tokio::test]
async fn a_command_that_cannot_be_staged_is_not_run() {
    let harness = Harness::open().await;
    let failed = harness.valkey.perform(&[call("forbidden")], clock::now()).await.unwrap_err();
    assert!(failed.to_string().contains("FLUSHALL cannot be staged"), "{failed}");
    assert!(harness.kept().await.is_empty());
    assert!(harness.valkey.is_whole().await.unwrap());
}
