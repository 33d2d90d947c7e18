//! Every emitted event is published once, whatever process dies and whatever the broker loses.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use events::{queue::PlaceState, reservation::Reservation};
use harness::mesh::{Mesh, eventually, eventually_within, run};
use mesh::failpoint::Failpoint;
use onsale::{
    config::PROVISIONER,
    development::environment::Environment,
    fleet::{self, Fleet, ServiceConfigs},
};
use serde_json::json;
use sqlx::{Connection, PgConnection, PgPool};
use uuid::Uuid;

use crate::{
    broker::Broker,
    handlers::{receipt_is_clean, scenario},
    messages::{Message, message_id},
    rest::{Stores, assert_same},
};

/// The subject of messages that are not consumed here.
const SUBJECT: &str = "onsale.point.charged.v1.-";
/// How many messages are emitted at a time: fewer than a sweep takes, as many, one more, and
/// several times as many.
const BURSTS: [usize; 5] = [3, 128, 1, 129, 700];
/// More than anything in the mesh takes at a time, and enough for sequences of five digits.
const MANY: usize = 10_001;
/// How long `MANY` may take; the broker syncs each of them.
const PATIENCE: Duration = Duration::from_secs(60);
/// The lease on the rows that the publisher of a killed process had.
const LEASE: &str = "2 seconds";

/// Servers on which one service runs alone.
async fn alone(service: &str) -> (Environment, Fleet) {
    let env = Environment::start(None, std::sync::Arc::new(|_: &str| {})).await.expect("servers");
    let fleet = start(&env, service).await;
    (env, fleet)
}

async fn start(env: &Environment, service: &str) -> Fleet {
    Fleet::start(&env.config, &[service], &ServiceConfigs::default()).await.expect("a service")
}

async fn connect(env: &Environment) -> PgConnection {
    let url = env.config.database_url("point").expect("an address");
    PgConnection::connect(url).await.expect("a connection")
}

/// Emits `count` messages as a transaction of a point service whose process dies right after it:
/// no publisher has them in memory, and they are leased to the dead process for `lease`.
async fn emit(tx: &mut PgConnection, count: usize, lease: &str) -> BTreeSet<Uuid> {
    let emitted: Vec<Message> = (0..count).map(|_| Message::of(SUBJECT, &[event()])).collect();
    sqlx::query(
        "insert into mesh.outbox (id, subject, events, body, leased_until)
         select id, $1, 1, body, clock_timestamp() + $4::interval
         from unnest($2::uuid[], $3::bytea[]) as m (id, body)",
    )
    .bind(SUBJECT)
    .bind(emitted.iter().map(|message| message.id).collect::<Vec<_>>())
    .bind(emitted.iter().map(|message| &message.body[..]).collect::<Vec<_>>())
    .bind(lease)
    .execute(tx)
    .await
    .expect("emitted");
    emitted.into_iter().map(|message| message.id).collect()
}

fn event() -> serde_json::Value {
    json!({
        "specversion": "1.0",
        "id": Uuid::now_v7(),
        "source": "/onsale/point",
        "type": "onsale.point.charged.v1",
        "time": mesh::clock::now(),
        "subject": Uuid::now_v7(),
        "sagaid": Uuid::now_v7(),
        "data": {},
    })
}

/// Waits until exactly these are in the stream, each once, and marked with their sequences.
async fn published(stores: &Stores, emitted: &BTreeSet<Uuid>) {
    let pool = stores.database("point");
    let all = eventually_within(PATIENCE, "everything is published and marked", || async {
        let marks = marks(pool).await;
        (marks.len() == emitted.len()).then_some(marks)
    })
    .await;
    let marked: BTreeSet<Uuid> = all.values().copied().collect();
    assert!(marked == *emitted, "something else is marked");
    let stream = stores.broker.jetstream.get_stream("POINT").await.expect("a stream");
    let count = stream.cached_info().state.messages;
    assert_eq!(count, emitted.len() as u64, "each is published once");
    for (sequence, id) in all.iter().filter(|(sequence, _)| is_worth_a_look(**sequence)) {
        let message = stream.get_raw_message(*sequence).await.expect("a message");
        assert_eq!(message_id(&message), *id, "{sequence}");
    }
}

/// Each message that has a mark, by its sequence in the stream.
async fn marks(pool: &PgPool) -> BTreeMap<u64, Uuid> {
    let marked: Vec<(i64, Uuid)> =
        sqlx::query_as("select stream_seq, id from mesh.outbox where stream_seq is not null")
            .fetch_all(pool)
            .await
            .expect("marks");
    marked.into_iter().map(|(sequence, id)| (sequence.unsigned_abs(), id)).collect()
}

/// Selects the sequences around each change in the number of digits, and some others.
fn is_worth_a_look(sequence: u64) -> bool {
    let is_edge = |at: u64| at.checked_ilog10() != (at - 1).checked_ilog10();
    is_edge(sequence) || is_edge(sequence + 1) || sequence.is_multiple_of(97)
}

#[test]
fn a_transaction_that_begins_first_and_commits_last_is_published() {
    run(async {
        let (env, fleet) = alone("point").await;
        let stores = Stores::of(&env).await;
        let (mut slow, mut fast) = (connect(&env).await, connect(&env).await);
        let mut first = slow.begin().await.expect("begun");
        let early = emit(&mut first, 2, "0").await;
        let late = emit(&mut fast, 2, "0").await;
        published(&stores, &late).await;
        first.commit().await.expect("committed");
        published(&stores, &early.into_iter().chain(late).collect()).await;
        fleet.stop().await;
        env.stop().await;
    });
}

#[test]
fn a_transaction_that_is_rolled_back_publishes_nothing() {
    run(async {
        let (env, fleet) = alone("point").await;
        let stores = Stores::of(&env).await;
        let (mut slow, mut fast) = (connect(&env).await, connect(&env).await);
        let mut doomed = slow.begin().await.expect("begun");
        emit(&mut doomed, 1, "0").await;
        let before = emit(&mut fast, 1, "0").await;
        published(&stores, &before).await;
        doomed.rollback().await.expect("rolled back");
        let after = emit(&mut fast, 1, "0").await;
        published(&stores, &before.into_iter().chain(after).collect()).await;
        fleet.stop().await;
        env.stop().await;
    });
}

#[test]
fn a_publisher_killed_between_publishing_and_marking_publishes_nothing_twice() {
    run(async {
        let (env, mut fleet) = alone("point").await;
        let stores = Stores::of(&env).await;
        let mut connection = connect(&env).await;
        let mut emitted = BTreeSet::new();
        for (round, count) in BURSTS.into_iter().enumerate() {
            let hits = || fleet.running()[0].failpoints().hits(Failpoint::BeforeMark);
            let before = hits();
            fleet.running()[0].failpoints().arm(Failpoint::BeforeMark, 1);
            emitted.extend(emit(&mut connection, count, "0").await);
            eventually("the publisher has died", || async { (hits() > before).then_some(()) })
                .await;
            // In every second round the publisher recovers by itself, else another instance starts.
            if round % 2 == 0 {
                fleet.abandon();
                fleet = start(&env, "point").await;
            }
            published(&stores, &emitted).await;
        }
        fleet.stop().await;
        env.stop().await;
    });
}

#[test]
fn the_backlog_of_a_killed_process_is_published_once_by_the_other_instances() {
    run(async {
        let (env, first) = alone("point").await;
        let second = start(&env, "point").await;
        let stores = Stores::of(&env).await;
        let mut connection = connect(&env).await;
        // Half of it is still leased to a process that has died.
        let mut emitted = emit(&mut connection, 300, LEASE).await;
        emitted.extend(emit(&mut connection, 300, "0").await);
        published(&stores, &emitted).await;
        first.abandon();
        emitted.extend(emit(&mut connection, 300, LEASE).await);
        published(&stores, &emitted).await;
        second.stop().await;
        env.stop().await;
    });
}

#[test]
fn a_backlog_of_any_size_is_published_whole() {
    run(async {
        let (env, fleet) = alone("point").await;
        let stores = Stores::of(&env).await;
        fleet.stop().await;
        let mut connection = connect(&env).await;
        let emitted = emit(&mut connection, MANY, "0").await;
        let fleet = start(&env, "point").await;
        published(&stores, &emitted).await;
        fleet.stop().await;
        // The next instance compares all of it with the stream, and finds nothing to do.
        let fleet = start(&env, "point").await;
        eventually("outbox and stream were compared", || async {
            let verified: Option<i64> = sqlx::query_scalar("select stream_seq from mesh.verified")
                .fetch_optional(stores.database("point"))
                .await
                .expect("a place");
            (verified == Some(MANY as i64)).then_some(())
        })
        .await;
        published(&stores, &emitted).await;
        fleet.stop().await;
        env.stop().await;
    });
}

#[test]
fn events_that_the_broker_lost_are_published_again_and_change_nothing() {
    run(async {
        let mesh = Mesh::own().await;
        let stores = Stores::of(&mesh.env).await;
        let schedules = scenario::every_flow(&mesh).await;
        let before = stores.at_rest().await;
        let emitted = ids(&stores.broker).await;

        forget_everything(&mesh.env).await;
        assert!(ids(&stores.broker).await.len() < emitted.len(), "they were lost");
        let servers = mesh.env.servers.as_ref().expect("servers of our own");
        servers.nats.restart().await.expect("the broker is back");
        eventually("everything is published again", || async {
            (ids(&stores.broker).await == emitted).then_some(())
        })
        .await;
        assert_same(&before, &stores.at_rest().await, "published again");
        receipt_is_clean(&mesh, &schedules).await;
        let dead = stores.broker.stored("DEAD_LETTERS", 0).await;
        assert!(dead.is_empty(), "{dead:?}");

        // And the sale goes on.
        let schedule = mesh.open(1, |_| {}).await.schedule_id;
        let fan = mesh.fan(100).await;
        let hold = fan.hold(schedule, &["A-1-1"]).await;
        fan.pay(&hold).await;
        mesh.receipt_is_clean(schedule).await;
        mesh.stop().await;
    });
}

/// Recreates all streams of events, empty, and their consumers.
async fn forget_everything(env: &Environment) {
    let provisioner = Broker::of(env, PROVISIONER).await;
    for stream in Broker::event_streams() {
        provisioner.jetstream.delete_stream(&stream).await.expect("deleted");
    }
    fleet::apply_topology(&env.config).await.expect("created again");
}

/// Every stored event, with its subject, in no particular order: lost events are published again
/// in the order of the outbox.
async fn ids(broker: &Broker) -> BTreeMap<Uuid, String> {
    let events = broker.events_after(&BTreeMap::new()).await;
    events.into_iter().map(|event| (event.id(), event.subject)).collect()
}

#[test]
fn an_emptied_valkey_is_rebuilt_and_fans_keep_their_places() {
    run(async {
        let mesh = Mesh::own().await;
        let stores = Stores::of(&mesh.env).await;
        let one_at_a_time = |opening: &mut events::concert::OpenSchedule| {
            opening.admission.active_max = 1;
        };
        let schedule = mesh.open(3, one_at_a_time).await.schedule_id;
        let (holder, second, third) =
            (mesh.fan(100).await, mesh.fan(100).await, mesh.fan(100).await);
        let hold: Reservation = holder.hold(schedule, &["A-1-1"]).await;
        second.enter(schedule).await;
        third.enter(schedule).await;
        let before = [&holder, &second, &third].map(|fan| fan.place(schedule));
        let before = futures::future::join_all(before).await;
        stores.at_rest().await;

        let mut valkey = stores.valkey();
        redis::cmd("FLUSHALL").query_async::<()>(&mut valkey).await.expect("emptied");
        let path = format!("/v1/schedules/{schedule}/queue/me");
        eventually("the waiting room is whole again", || async {
            (holder.get(&path).await.status == 200).then_some(())
        })
        .await;
        for (fan, before) in [&holder, &second, &third].into_iter().zip(&before) {
            let after = fan.place(schedule).await;
            assert_eq!((after.state, after.position), (before.state, before.position));
            assert_eq!(after.reserve_until, before.reserve_until);
        }

        // The holder pays, the queue moves on in its order, and old and new passes are valid.
        holder.pay(&hold).await;
        let pass = second.pass(schedule).await;
        assert_eq!(third.place(schedule).await.position, Some(0));
        let held = second.ask_for(schedule, &["A-1-2"], &pass).await;
        second.pay(&held.json().expect("a hold")).await;
        let pass = third.pass(schedule).await;
        let held = third.ask_for(schedule, &["A-1-3"], &pass).await;
        third.pay(&held.json().expect("a hold")).await;
        third.place_becomes(schedule, PlaceState::Completed).await;
        let receipt = mesh.receipt_is_clean(schedule).await;
        assert_eq!((receipt.seats_sold, receipt.points_taken), (3, 300));
        mesh.stop().await;
    });
}
