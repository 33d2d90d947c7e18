//! What was told comes out: once, in order, whatever dies or is forgotten on the way.

use std::{collections::BTreeMap, time::Duration};

use async_nats::jetstream::message::StreamMessage;
use events::{queue::PlaceState, reservation::Reservation};
use futures::StreamExt;
use harness::mesh::{Mesh, eventually, run};
use mesh::failpoint::Failpoint;
use onsale::{
    config::PROVISIONER,
    fleet::{self, Fleet, Rules},
    stage::Stage,
};
use sqlx::{Connection, PgConnection};
use uuid::Uuid;

use crate::{
    broker::{Broker, header},
    handlers::{receipt_is_clean, scenario},
    rest::{Stores, assert_same},
};

/// Far longer than a fact is on its way that nothing holds back.
const HELD_BACK: Duration = Duration::from_millis(500);
/// Facts told at a time: some go out one by one, others as an atomic batch.
const BURSTS: [i32; 5] = [3, 40, 1, 700, 60];

/// Servers on which one service runs alone.
async fn alone(service: &str) -> (Stage, Fleet) {
    let stage = Stage::set(None, std::sync::Arc::new(|_: &str| {})).await.expect("servers");
    let fleet = start(&stage, service).await;
    (stage, fleet)
}

async fn start(stage: &Stage, service: &str) -> Fleet {
    Fleet::start(&stage.config, &[service], &Rules::default()).await.expect("a service")
}

/// Tells `count` facts that nobody hears, as a batch of the point service does.
async fn tell(tx: &mut PgConnection, count: i32) -> Vec<Uuid> {
    sqlx::query_scalar(
        "insert into mesh.outbox (event_id, saga_id, about, told_at, subject, payload)
         select gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), now(),
                'onsale.point.charged.v1.-', '{}'
         from generate_series(1, $1) returning event_id",
    )
    .bind(count)
    .fetch_all(tx)
    .await
    .expect("told")
}

/// The ids in a stream, once there are so many.
async fn published(broker: &Broker, stream: &str, count: usize) -> Vec<Uuid> {
    let stored = eventually(&format!("{count} facts in {stream}"), || async {
        let stored = broker.stored(stream, 0).await;
        (stored.len() >= count).then_some(stored)
    })
    .await;
    stored.iter().map(id_of).collect()
}

fn id_of(fact: &StreamMessage) -> Uuid {
    header(fact, "ce-id").and_then(|id| id.parse().ok()).expect("an id")
}

#[test]
fn a_transaction_that_begins_first_and_commits_last_is_not_skipped() {
    run(async {
        let (stage, fleet) = alone("point").await;
        let stores = Stores::of(&stage).await;
        let url = stage.config.database_url("point").expect("an address");
        let mut slow = PgConnection::connect(url).await.expect("a connection");
        let mut fast = PgConnection::connect(url).await.expect("another one");
        let operator = Broker::of(&stage, "operator").await;
        let mut live = operator.client.subscribe("live.onsale.point.>").await.expect("following");
        operator.client.flush().await.expect("the broker answers");

        let mut first = slow.begin().await.expect("begun");
        let early = tell(&mut first, 2).await;
        let late = tell(&mut fast, 2).await;
        let seen = tokio::time::timeout(HELD_BACK, live.next()).await;
        assert!(seen.is_err(), "what was committed comes before what may still come: {seen:?}");
        first.commit().await.expect("committed");
        assert_eq!(published(&stores.broker, "POINT", 4).await, [early, late].concat());
        fleet.stop().await;
        stage.strike().await;
    });
}

#[test]
fn a_transaction_of_another_database_holds_nothing_back() {
    run(async {
        let (stage, fleet) = alone("point").await;
        let operator = Broker::of(&stage, "operator").await;
        let [point, audit] =
            ["point", "audit"].map(|name| stage.config.database_url(name).expect("an address"));
        let mut elsewhere = PgConnection::connect(audit).await.expect("a connection");
        let mut open = elsewhere.begin().await.expect("begun");
        sqlx::query("select pg_current_xact_id()").execute(&mut *open).await.expect("a number");
        let mut here = PgConnection::connect(point).await.expect("a connection");
        let told = tell(&mut here, 3).await;
        assert_eq!(published(&operator, "POINT", 3).await, told);
        open.rollback().await.expect("rolled back");
        fleet.stop().await;
        stage.strike().await;
    });
}

#[test]
fn a_transaction_that_is_rolled_back_holds_nobody_back_for_good() {
    run(async {
        let (stage, fleet) = alone("point").await;
        let stores = Stores::of(&stage).await;
        let pool = stores.database("point");
        let url = stage.config.database_url("point").expect("an address");
        let mut slow = PgConnection::connect(url).await.expect("a connection");
        let mut doomed = slow.begin().await.expect("begun");
        tell(&mut doomed, 1).await;
        let told = tell(&mut pool.acquire().await.expect("a connection"), 1).await;
        doomed.rollback().await.expect("rolled back");
        assert_eq!(published(&stores.broker, "POINT", 1).await, told);
        fleet.stop().await;
        stage.strike().await;
    });
}

#[test]
fn a_relay_killed_between_publishing_and_noting_it_publishes_nothing_twice() {
    run(async {
        let (stage, mut fleet) = alone("point").await;
        let stores = Stores::of(&stage).await;
        let mut told = Vec::new();
        for (round, count) in BURSTS.into_iter().enumerate() {
            let hits = || fleet.running()[0].failpoints().hits(Failpoint::BeforeCursor);
            let before = hits();
            fleet.running()[0].failpoints().arm(Failpoint::BeforeCursor, 1);
            let pool = stores.database("point");
            told.extend(tell(&mut pool.acquire().await.expect("a connection"), count).await);
            eventually("the relay has died", || async { (hits() > before).then_some(()) }).await;
            // Half of the time it comes back by itself, half of the time another one does.
            if round % 2 == 0 {
                fleet.abandon();
                fleet = start(&stage, "point").await;
            }
            let all = published(&stores.broker, "POINT", told.len()).await;
            assert_eq!(all.len(), told.len(), "burst {round} of {count}");
            assert!(all == told, "burst {round} of {count} came out of order");
            eventually("the relay has noted it", || async {
                (stores.facts_unpublished().await == 0).then_some(())
            })
            .await;
        }
        fleet.stop().await;
        stage.strike().await;
    });
}

#[test]
fn what_the_broker_forgot_is_told_again_and_changes_nothing() {
    run(async {
        let mesh = Mesh::own().await;
        let stores = Stores::of(&mesh.stage).await;
        let schedules = scenario::every_flow(&mesh).await;
        let before = stores.at_rest().await;
        let told = ids(&stores.broker).await;

        forget_everything(&mesh.stage).await;
        assert!(ids(&stores.broker).await.len() < told.len(), "it was forgotten");
        let servers = mesh.stage.servers.as_ref().expect("servers of our own");
        servers.nats.restart().await.expect("the broker is back");
        eventually("everything was told again", || async {
            (ids(&stores.broker).await == told).then_some(())
        })
        .await;
        assert_same(&before, &stores.at_rest().await, "told again");
        receipt_is_clean(&mesh, &schedules).await;
        let dead = stores.broker.stored("DEAD_LETTERS", 0).await;
        assert!(dead.is_empty(), "{dead:?}");

        // And the mesh goes on selling.
        let schedule = mesh.open(1, |_| {}).await.schedule_id;
        let fan = mesh.fan(100).await;
        let hold = fan.hold(schedule, &["A-1-1"]).await;
        fan.pay(&hold).await;
        mesh.receipt_is_clean(schedule).await;
        mesh.stop().await;
    });
}

/// The broker comes back with empty streams of facts and consumers that know nothing.
async fn forget_everything(stage: &Stage) {
    let provisioner = Broker::of(stage, PROVISIONER).await;
    for stream in Broker::fact_streams() {
        provisioner.jetstream.delete_stream(&stream).await.expect("deleted");
    }
    fleet::apply_topology(&stage.config).await.expect("made again");
}

/// Every id told, by stream, in no particular order: a stream is told again from where its
/// relay knows it to end.
async fn ids(broker: &Broker) -> BTreeMap<Uuid, String> {
    let facts = broker.facts_after(&BTreeMap::new()).await;
    facts.iter().map(|fact| (id_of(fact), fact.subject.to_string())).collect()
}

#[test]
fn an_emptied_valkey_is_rebuilt_and_fans_keep_their_places() {
    run(async {
        let mesh = Mesh::own().await;
        let stores = Stores::of(&mesh.stage).await;
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
        eventually("the room is whole again", || async {
            (holder.get(&path).await.status == 200).then_some(())
        })
        .await;
        for (fan, before) in [&holder, &second, &third].into_iter().zip(&before) {
            let after = fan.place(schedule).await;
            assert_eq!((after.state, after.position), (before.state, before.position));
            assert_eq!(after.reserve_until, before.reserve_until);
        }

        // The holder pays, the line moves on in its order, and passes old and new are good.
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
