//! Tests of the engine itself, with a Lua module made for them.

mod spans;
mod staged;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use bytes::Bytes;
use events::{Envelope, SagaId};
use redis::Value;
use uuid::Uuid;

use super::{
    FunctionCall, LuaModule, Valkey,
    batch::{Called, Way},
    case::{Case, Item, NoCall, Origin},
    function_call::{Ended, of_due},
};
use crate::{
    batch::work::{Entry, Meta},
    clock,
    outbound::message::{MESSAGE_EVENTS_MAX, unpack},
    parked::{Parked, ParkedState},
    store::engine::{
        Engine, Generation, Mark, Outbox, Parking, Place, Retried, Show, Verdict, Which,
    },
    testkit::OwnValkey,
    trace::{Span, TraceParent},
};

struct Trial;

impl LuaModule for Trial {
    const NAME: &'static str = "trial";
    const LUA: &'static str = r"
        function writes.nothing() end
        function writes.put(field, value)
          redis.call('HSET', key('kept'), field, value)
        end
        function writes.early()
          redis.call('HSET', key('kept'), 'early', 1)
          return not_yet('not_found', 'not here')
        end
        function writes.emit(count, size)
          for number = 1, tonumber(count) do
            emit('trial.done', number % 2 == 0 and 'even' or 'odd', ctx.saga_id,
              { number = number, text = string.rep('x', size or 3) })
          end
        end
        function writes.prepare()
          redis.call('HSET', key('hash'), 'a', 1, 'b', 2)
          redis.call('SADD', key('set'), 'a', 'b')
          redis.call('ZADD', key('zset'), 0.1, 'a', -2, 'b', 3e15, 'c')
          redis.call('RPUSH', key('list'), 'a', 'b', 'c', 'd')
          redis.call('SET', key('text'), '7')
          for _, name in ipairs({ 'hash', 'set', 'zset', 'list', 'text' }) do
            redis.call('EXPIRE', key(name), 1000)
          end
          redis.call('HSET', key('lasting'), 'a', 1)
        end
        function writes.spoil()
          redis.call('HSET', key('hash'), 'a', 9, 'new', 1)
          redis.call('HINCRBY', key('hash'), 'count', 2)
          redis.call('HSETNX', key('hash'), 'other', 1)
          redis.call('HDEL', key('hash'), 'a', 'b', 'new', 'count', 'other', 'absent')
          redis.call('SADD', key('set'), 'b', 'c')
          redis.call('SREM', key('set'), 'a', 'b', 'c', 'absent')
          redis.call('ZADD', key('zset'), 5, 'a', 6, 'new')
          redis.call('ZINCRBY', key('zset'), 1, 'b')
          redis.call('ZREM', key('zset'), 'b', 'absent')
          redis.call('ZPOPMIN', key('zset'), 10)
          redis.call('RPUSH', key('list'), 'e', 'f')
          redis.call('LTRIM', key('list'), -3, -1)
          redis.call('INCR', key('text'))
          redis.call('SET', key('text'), 'other', 'EX', 5)
          redis.call('PEXPIRE', key('list'), 7)
          redis.call('EXPIRE', key('lasting'), 7)
          redis.call('SET', key('fresh'), 1, 'EX', 10)
          redis.call('INCR', key('counter'))
          redis.call('RPUSH', key('fresh list'), 'a')
          redis.call('EXPIRE', key('fresh list'), 7)
          redis.call('ZADD', key('fresh zset'), 1, 'a')
          redis.call('HINCRBY', key('fresh hash'), 'a', 1)
          announce('trial', 'x', '{}')
          emit('trial.done', '-', ctx.saga_id, {})
          redis.call('HINCRBY', key('hash'), 'a', 'no number')
        end
        function writes.forbidden()
          redis.call('HSET', key('kept'), 'forbidden', 1)
          redis.call('FLUSHALL')
        end
        function writes.count_on(name)
          redis.call('HINCRBY', key(name), 'a', 1)
        end
    ";
    type Config = ();
}

struct Harness {
    valkey: Valkey<Trial>,
    store: OwnValkey,
}

const KEY: &str = "018f0000-0000-7000-8000-0000000000";

/// An event about one of a hundred entities.
fn event(thing: u8) -> Bytes {
    let id = Uuid::now_v7();
    format!(
        r#"{{"specversion":"1.0","id":"{id}","source":"/x","type":"onsale.x.y.v1","time":"2026-05-01T11:00:00Z","subject":"{KEY}{thing:02}","sagaid":"{id}","data":{{}}}}"#
    )
    .into()
}

fn entry(call: FunctionCall, raw: &Bytes) -> Entry {
    Entry {
        handler: Ok(of_due::<Trial>(call)),
        meta: Meta::inside(SagaId(Uuid::now_v7())),
        raw: raw.clone(),
        key_field: "",
        span: Span::default(),
        tracer: Default::default(),
    }
}

fn call(name: &'static str) -> FunctionCall {
    FunctionCall::new(name)
}

fn put(field: &str) -> FunctionCall {
    call("put").arg(field).arg(1)
}

/// Every key with its content and its expiry.
async fn everything(store: &OwnValkey) -> BTreeMap<String, (Vec<u8>, i64)> {
    let keys: Vec<String> = store.redis(&["KEYS", "*"]).await;
    let mut all = BTreeMap::new();
    for key in keys.iter().filter(|key| !key.contains("inbox")) {
        let name = key.as_bytes();
        let command: &[u8] = match store.redis::<String>(&[b"TYPE".as_slice(), name]).await.as_str()
        {
            "hash" => b"HGETALL",
            "set" => b"SMEMBERS",
            "zset" => b"ZRANGE 0 -1 WITHSCORES",
            "list" => b"LRANGE 0 -1",
            _ => b"GET",
        };
        let mut words: Vec<&[u8]> = command.split(|byte| *byte == b' ').collect();
        words.insert(1, name);
        let mut value: Value = store.redis(&words).await;
        let many = if words[0] == b"HGETALL" { 2 } else { 1 };
        if let (Value::Array(parts), b"SMEMBERS" | b"HGETALL") = (&mut value, words[0]) {
            let mut sorted: Vec<_> = parts.chunks(many).map(<[Value]>::to_vec).collect();
            sorted.sort_by_key(|part| format!("{part:?}"));
            *parts = sorted.concat();
        }
        let expires: i64 = store.redis(&[b"PEXPIRETIME".as_slice(), name]).await;
        all.insert(key.clone(), (format!("{value:?}").into_bytes(), expires));
    }
    all
}

impl Harness {
    async fn open() -> Self {
        Self::on(OwnValkey::open().await).await
    }

    /// On a server without other tests.
    async fn alone() -> Self {
        Self::on(OwnValkey::alone().await).await
    }

    async fn on(store: OwnValkey) -> Self {
        let valkey = store.engine::<Trial>(());
        valkey.seal().await.unwrap();
        Self { valkey, store }
    }

    async fn redis<T: redis::FromRedisValue>(&self, command: &[&[u8]]) -> T {
        self.store.redis(command).await
    }

    /// Takes in a message of events about entities; `Err` is an event that is not run, because
    /// it was delivered so often.
    async fn message(&self, id: Uuid, events: &[(u8, Result<FunctionCall, u64>)]) -> Called {
        let raw: Vec<Bytes> = events.iter().map(|(thing, _)| event(*thing)).collect();
        let entries: Vec<_> = raw.iter().map(|raw| entry(call("nothing"), raw)).collect();
        let items = entries.iter().zip(events).map(|(entry, (_, call))| {
            let call = call.clone().map_err(NoCall::NeverEnded);
            Item::of_entry(call, entry)
        });
        let origin = Origin { subject: "onsale.x.y.v1.-", stream: "X", sequence: 7 };
        let case = Case::message(id, origin, items.collect());
        self.valkey.call(Way::Live, &[case], clock::now()).await.unwrap()
    }

    async fn kept(&self) -> Vec<String> {
        let mut kept: Vec<String> = self.redis(&[b"HKEYS", b"{trial}:kept"]).await;
        kept.sort();
        kept
    }

    async fn all(&self) -> BTreeMap<String, (Vec<u8>, i64)> {
        everything(&self.store).await
    }

    async fn lease(&self, which: Which) -> Vec<Parked> {
        self.valkey.lease(which, Duration::from_secs(60)).await.unwrap()
    }

    /// Waits for a row to come due.
    async fn due(&self) -> Parked {
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        loop {
            if let Some(parked) = self.lease(Which::Due(1)).await.pop() {
                return parked;
            }
            assert!(std::time::Instant::now() < deadline, "no row has come due");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    async fn retry(&self, parked: &Parked, call: FunctionCall) -> Retried {
        self.valkey.retry(parked, &mut entry(call, &parked.envelope), None).await.unwrap()
    }

    async fn states(&self) -> Vec<(u64, ParkedState)> {
        let rows = self.valkey.parked(Show::All(true, 100)).await.unwrap();
        rows.into_iter().map(|row| (row.number, row.state)).collect()
    }
}

#[tokio::test]
async fn the_lua_side_encodes_an_event_byte_for_byte_as_rust_does() {
    const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let harness = Harness::open().await;
    let mut meta = Meta::inside(SagaId(Uuid::now_v7()));
    let at = crate::clock::now();
    for (attempt, parent) in [(1, None), (3, Some(PARENT))] {
        (meta.attempt, meta.trace) = (attempt, TraceParent::from_header(parent));
        let item = Item::of(call("emit").arg(3), &meta);
        let called = harness.valkey.call(Way::Live, &[Case::of(item)], at).await.unwrap();
        let subjects: Vec<_> = called.emitted.iter().map(|m| (&*m.subject, m.events)).collect();
        assert_eq!(subjects, [("onsale.trial.done.v1.odd", 2), ("onsale.trial.done.v1.even", 1)]);
        for event in called.emitted.iter().flat_map(|message| unpack(&message.body).unwrap()) {
            let envelope = Envelope::decode(&event).unwrap();
            assert_eq!((envelope.time, envelope.sagaid), (at, meta.saga_id));
            assert_eq!(envelope.causationid, Some(meta.cause()));
            assert_eq!(envelope.traceparent.as_deref(), parent);
            assert_eq!(envelope.attempt, (attempt > 1).then_some(attempt));
            assert_eq!((&*envelope.source, envelope.name()), ("/onsale/trial", "trial.done"));
            assert_eq!(envelope.id.0.get_version_num(), 7);
            let mut again = Vec::new();
            envelope.encode(&mut again);
            assert_eq!(Bytes::from(again), event);
        }
    }
}

#[tokio::test]
async fn a_call_packs_its_events_within_the_bounds_of_a_message() {
    let harness = Harness::open().await;
    let count = 2 * MESSAGE_EVENTS_MAX + 2;
    harness.valkey.perform(&[call("emit").arg(count)], clock::now()).await.unwrap();
    let sizes = harness.valkey.unpublished(10).await.unwrap();
    assert_eq!(sizes.iter().map(|m| m.events).collect::<Vec<_>>(), [256, 256, 1, 1]);
    let ids: BTreeSet<_> = sizes.iter().map(|m| m.id).collect();
    assert_eq!(ids.len(), 4);
    let failed = harness.valkey.perform(&[call("emit").arg(1).arg(8_000_000)], clock::now()).await;
    assert!(failed.unwrap_err().to_string().contains("fits in no message"));
}

#[tokio::test]
async fn each_event_of_a_call_has_an_id_of_its_own_however_many_there_are() {
    let harness = Harness::open().await;
    let count = 9_000;
    harness.valkey.perform(&[call("emit").arg(count)], clock::now()).await.unwrap();
    let messages = harness.valkey.unpublished(100).await.unwrap();
    let events = messages.iter().flat_map(|message| unpack(&message.body).unwrap());
    let ids: BTreeSet<_> = events.map(|event| Envelope::decode(&event).unwrap().id.0).collect();
    assert_eq!(ids.len(), count);
}

#[tokio::test]
async fn an_undeclared_event_is_not_emitted() {
    let harness = Harness::open().await;
    let mut meta = Meta::inside(SagaId(Uuid::now_v7()));
    for (may_emit, is_allowed) in
        [(&["trial.other", "trial.done"][..], true), (&["trial.other"], false)]
    {
        meta.may_emit = Vec::leak(may_emit.to_vec());
        let case = Case::of(Item::of(call("emit").arg(1), &meta));
        let called = harness.valkey.call(Way::Live, &[case], clock::now()).await.unwrap();
        assert_eq!(called.emitted.len(), usize::from(is_allowed));
        assert_eq!(matches!(called.ended[0], Ended::Done(_)), is_allowed, "{:?}", called.ended);
    }
}

#[tokio::test]
async fn a_message_is_taken_in_once_and_its_other_events_are_parked_in_the_same_step() {
    let harness = Harness::open().await;
    let id = Uuid::now_v7();
    let events = [
        (1, Ok(put("one"))),
        (1, Err(20)),
        (1, Ok(put("behind"))),
        (2, Ok(call("early"))),
        (2, Ok(put("two"))),
    ];
    let called = harness.message(id, &events).await;
    assert_eq!(called.ended.len(), 1);
    assert!(matches!(called.ended[0], Ended::Done(_)));
    let parked: Vec<_> = called
        .parked
        .iter()
        .map(|row| (row.number, row.state, &*row.cause, row.attempts))
        .collect();
    let unrun = "it was delivered 20 times and never came to an end";
    let (early, behind) = ("not here", "it waits for what is before it");
    assert_eq!(
        parked,
        [
            (1, ParkedState::Dead, unrun, 1),
            (2, ParkedState::Behind, behind, 0),
            (3, ParkedState::Early, early, 1)
        ]
    );
    assert_eq!(harness.kept().await, ["one", "two"]);
    let again = harness.message(id, &events).await;
    assert!(matches!(again.ended[0], Ended::Repeat) && again.parked.is_empty());
    // A message of valid events also waits behind parked ones.
    let called =
        harness.message(Uuid::now_v7(), &[(1, Ok(put("last"))), (9, Ok(put("nine")))]).await;
    assert_eq!((called.parked.len(), called.parked[0].state), (1, ParkedState::Behind));
    let rows = harness.valkey.parked(Show::Key(format!("{KEY}01"))).await.unwrap();
    assert_eq!(rows.iter().map(|row| row.number).collect::<Vec<_>>(), [1, 2, 4]);
    assert_eq!(
        (&*rows[0].stream, rows[0].sequence, &*rows[0].subject),
        ("X", 7, "onsale.x.y.v1.-")
    );
    assert_eq!(Envelope::decode(&rows[0].envelope).unwrap().subject, format!("{KEY}01"));
    assert_eq!(harness.kept().await, ["nine", "one", "two"]);
}

#[tokio::test]
async fn a_key_is_drained_in_the_order_of_parking() {
    let harness = Harness::open().await;
    let events = [(1, Err(20)), (1, Ok(put("a"))), (1, Err(21)), (1, Ok(put("b")))];
    harness.message(Uuid::now_v7(), &events).await;
    let of_key = || harness.lease(Which::First(format!("{KEY}01")));
    let first = of_key().await.remove(0);
    assert_eq!((first.number, first.attempts, first.unsettled), (1, 2, 1));
    assert!(of_key().await.is_empty(), "it is leased");
    assert!(
        matches!(harness.retry(&first, call("early")).await, Retried::Early(why) if why == "not here")
    );
    let again = Verdict::Again { after: Duration::ZERO, cause: "away".into(), counts: false };
    harness.valkey.settle(1, again).await.unwrap();
    let first = of_key().await.remove(0);
    assert_eq!((first.attempts, first.unsettled, &*first.cause), (2, 1, "away"));
    assert!(matches!(harness.retry(&first, put("first")).await, Retried::Done(_)));
    assert!(matches!(harness.retry(&first, put("twice")).await, Retried::Gone));
    let second = harness.due().await;
    assert_eq!((second.number, second.attempts), (2, 1));
    assert!(matches!(harness.retry(&second, call("spoil")).await, Retried::Failed(_)));
    harness.valkey.settle(2, Verdict::Dead { cause: "bad".into(), by: None }).await.unwrap();
    let leased = of_key().await;
    assert_eq!(
        leased.iter().map(|row| (row.number, row.state)).collect::<Vec<_>>(),
        [(2, ParkedState::Dead)]
    );
    assert!(matches!(harness.retry(&leased[0], put("second")).await, Retried::Done(_)));
    // The third is a dead letter itself: nothing comes due until an operator discards it.
    assert!(harness.lease(Which::Due(9)).await.is_empty());
    let operator = events::UserId(Uuid::now_v7());
    assert!(harness.valkey.discard(3, operator, "why not").await.unwrap());
    assert!(!harness.valkey.discard(3, operator, "again").await.unwrap());
    let last = harness.due().await;
    assert!(matches!(harness.retry(&last, put("last")).await, Retried::Done(_)));
    use ParkedState::{Discarded, Resolved};
    assert_eq!(
        harness.states().await,
        [(1, Resolved), (2, Resolved), (3, Discarded), (4, Resolved)]
    );
    let row = harness.valkey.parked(Show::Number(3)).await.unwrap().pop().unwrap();
    assert_eq!((row.history.len(), row.history[0].by), (1, Some(operator)));
    assert!(harness.valkey.parked(Show::All(false, 9)).await.unwrap().is_empty());
    assert_eq!(harness.kept().await, ["first", "last", "second"]);
}

#[tokio::test]
async fn an_event_without_an_order_key_never_waits_behind_another() {
    let harness = Harness::open().await;
    let raw = Bytes::from_static(b"rubbish");
    let entries = [entry(call("nothing"), &raw), entry(call("nothing"), &raw)];
    let calls = [Err(NoCall::NeverEnded(20)), Ok(put("second"))];
    let items = entries.iter().zip(calls);
    let items = items.map(|(entry, call)| Item::of_entry(call, entry));
    let origin = Origin { subject: "s", stream: "X", sequence: 7 };
    let case = Case::message(Uuid::now_v7(), origin, items.collect());
    let called = harness.valkey.call(Way::Live, &[case], clock::now()).await.unwrap();
    assert_eq!((called.parked.len(), &*called.parked[0].key), (1, "-"));
    assert_eq!(harness.kept().await, ["second"]);
    assert!(harness.lease(Which::First("-".into())).await.is_empty());
    let leased = harness.lease(Which::Number(1)).await;
    assert_eq!(leased.len(), 1);
    assert!(matches!(harness.retry(&leased[0], put("first")).await, Retried::Done(_)));
    assert!(harness.lease(Which::Number(1)).await.is_empty());
}

#[tokio::test]
async fn a_new_message_is_swept_only_when_its_lease_has_run_out_without_a_mark() {
    let harness = Harness::open().await;
    for _ in 0..3 {
        harness.valkey.perform(&[call("emit").arg(1)], clock::now()).await.unwrap();
    }
    let all = harness.valkey.unpublished(9).await.unwrap();
    assert_eq!(all.len(), 3);
    assert!(harness.valkey.sweep(9).await.unwrap().is_empty(), "they are fresh");
    let backlog = harness.valkey.backlog().await.unwrap();
    assert_eq!(backlog.events, 3);
    assert!(backlog.since.unwrap() <= clock::now());
    let first = Mark { id: all[0].id, sequence: 10 };
    harness
        .valkey
        .mark(&[first, Mark { id: Uuid::now_v7(), sequence: 11 }], Generation::default())
        .await
        .unwrap();
    harness.valkey.mark(&[Mark { sequence: 12, ..first }], Generation::default()).await.unwrap();
    assert_eq!(harness.valkey.marks_above(9, 9).await.unwrap(), [first], "it keeps its mark");
    assert!(harness.valkey.marks_above(10, 9).await.unwrap().is_empty());
    harness.valkey.back_off(all[1].id).await.unwrap();
    harness.valkey.unmark(&[Mark { sequence: 12, ..first }]).await.unwrap();
    assert_eq!(harness.valkey.unpublished(9).await.unwrap(), all[1..]);
    harness.valkey.unmark(&[first]).await.unwrap();
    assert_eq!(harness.valkey.unpublished(9).await.unwrap(), all);
    assert_eq!(harness.valkey.sweep(9).await.unwrap(), all[..1], "what lost its mark is due");
    assert!(harness.valkey.sweep(9).await.unwrap().is_empty(), "it is leased");
    for message in &all {
        let now = b"0";
        let id = message.id.to_string();
        let _: i64 = harness.redis(&[b"ZADD", b"{trial}:outbox:waiting", now, id.as_bytes()]).await;
    }
    assert_eq!(harness.valkey.sweep(2).await.unwrap().len(), 2);
    assert_eq!(harness.valkey.verified().await.unwrap(), None);
    let place = Place { mark: first, stored_at: crate::clock::now() };
    harness.valkey.set_verified(Some(place), Generation::default()).await.unwrap();
    assert_eq!(harness.valkey.verified().await.unwrap(), Some(place));
    harness.valkey.set_verified(None, Generation::default()).await.unwrap();
    assert_eq!(harness.valkey.verified().await.unwrap(), None);
}

#[tokio::test]
async fn old_messages_are_deleted_once_published_and_unpublished_ones_never() {
    let harness = Harness::open().await;
    for _ in 0..3 {
        harness.valkey.perform(&[call("emit").arg(1)], clock::now()).await.unwrap();
    }
    let all = harness.valkey.unpublished(9).await.unwrap();
    let marks = [1, 2].map(|n| Mark { id: all[n - 1].id, sequence: n as u64 });
    harness.valkey.mark(&marks, Generation::default()).await.unwrap();
    let old = all[0].id.to_string();
    let unsent = all[2].id.to_string();
    for (set, id) in [("sent", &old), ("unsent", &unsent)] {
        let key = format!("{{trial}}:outbox:{set}");
        let _: i64 = harness.redis(&[b"ZADD", key.as_bytes(), b"1", id.as_bytes()]).await;
    }
    harness.valkey.store().tidy().await.unwrap();
    assert_eq!(harness.valkey.marks_above(0, 9).await.unwrap(), marks[1..]);
    assert_eq!(harness.valkey.unpublished(9).await.unwrap(), all[2..]);
    let left: i64 = harness.redis(&[b"EXISTS", format!("{{trial}}:outbox:{old}").as_bytes()]).await;
    assert_eq!(left, 0);
}

#[tokio::test]
async fn a_large_batch_is_split_into_several_calls_and_each_part_runs_once() {
    let harness = Harness::open().await;
    let calls: Vec<FunctionCall> = (0..3_000).map(|n| put(&n.to_string())).collect();
    harness.valkey.perform(&calls, clock::now()).await.unwrap();
    assert_eq!(harness.kept().await.len(), 3_000);
}
