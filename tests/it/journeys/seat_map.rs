//! Seat map: a client watches a sale, is disconnected, and resumes exactly there.

use std::future::pending;

use events::concert::{SeatMap, SeatPlan, SeatState};
use futures::{StreamExt, stream};
use harness::{
    mesh::{Mesh, SOON, eventually, run, shared},
    sse::{self, Event, Events},
};
use hyper::StatusCode;
use mesh::valkey::Valkey;
use onsale::replay;
use serde_json::{Value, json};

/// How many clients watch one sale.
const WATCHERS: usize = 1_000;

async fn watch(mesh: &Mesh, schedule: events::ScheduleId, last: Option<String>) -> Events {
    let path = format!("/v1/schedules/{schedule}/seats/events");
    sse::open(mesh.http.base(), &path, "", last).await
}

fn sequence(event: &Event) -> u64 {
    event.json::<Value>()["sequence"].as_u64().expect("a sequence")
}

/// The seats in one change.
fn changed(event: &Event) -> Value {
    event.json::<Value>()["seats"].clone()
}

async fn map(mesh: &Mesh, schedule: events::ScheduleId) -> SeatMap {
    let path = format!("/v1/schedules/{schedule}/seats");
    mesh.http.get(path).send().await.expect("sent").json().expect("a map")
}

#[test]
fn a_watcher_sees_each_change_once_and_resumes_exactly_where_it_was_disconnected() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(4, |_| {}).await.schedule_id;
        let fan = mesh.fan(200).await;
        let mut watching = watch(mesh, schedule, None).await;
        let first = watching.next().await;
        let snapshot: SeatMap = first.json();
        assert_eq!((snapshot.sequence, snapshot.sections[0].free), (0, 4));
        assert!(snapshot.seats.is_empty());

        let hold = fan.hold(schedule, &["A-1-1", "A-1-2"]).await;
        let held = watching.next().await;
        assert_eq!(
            held.json::<Value>(),
            json!({
                "sequence": 1,
                "sections": [{"section": "A", "free": 2, "held": 2, "sold": 0}],
                "seats": [{"seat": "A-1-1", "state": "held"}, {"seat": "A-1-2", "state": "held"}],
            })
        );
        drop(watching);

        // These changes happen while no client watches.
        fan.pay(&hold).await;
        fan.seat_becomes(schedule, "A-1-2", SeatState::Sold).await;
        let other = mesh.fan(0).await;
        let theirs = other.hold(schedule, &["A-1-3"]).await;
        other.seat_becomes(schedule, "A-1-3", SeatState::Held).await;

        let mut again = watch(mesh, schedule, held.id.clone()).await;
        let (sold, taken) = (again.next().await, again.next().await);
        assert_eq!((sequence(&sold), sequence(&taken)), (2, 3));
        assert_eq!(changed(&sold)[1], json!({"seat": "A-1-2", "state": "sold"}));
        other.delete(&format!("/v1/reservations/{}", theirs.reservation_id)).await;
        let freed = again.next().await;
        assert_eq!(changed(&freed), json!([{"seat": "A-1-3", "state": "free"}]));
        assert_eq!(sequence(&freed), 4);

        // Nothing is missing at the end, and a place of another epoch is unknown.
        let mut at_end = watch(mesh, schedule, freed.id.clone()).await;
        let (_, sequence_of_another) =
            held.id.as_deref().and_then(|id| id.split_once('.')).unwrap();
        let unknown = format!("0000000000000001.{sequence_of_another}");
        let anew: SeatMap = watch(mesh, schedule, Some(unknown)).await.next().await.json();
        assert_eq!((anew.sequence, anew.sections[0].sold), (4, 2));
        other.hold(schedule, &["A-1-4"]).await;
        assert_eq!(sequence(&at_end.next().await), 5);
        assert_eq!(sequence(&again.next().await), 5);
    });
}

#[test]
fn a_watcher_sees_the_seat_of_an_expired_hold_become_free() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(1, |opening| opening.hold_secs = Some(5)).await.schedule_id;
        let mut watching = watch(mesh, schedule, None).await;
        watching.next().await;
        mesh.fan(0).await.hold(schedule, &["A-1-1"]).await;
        assert_eq!(changed(&watching.next().await)[0]["state"], "held");
        let freed = watching.next().await;
        assert_eq!(changed(&freed)[0]["state"], "free");
        assert_eq!(freed.json::<Value>()["sections"][0]["free"], 1);
    });
}

#[test]
fn a_client_that_has_the_map_gets_not_modified_until_it_changes() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(2, |_| {}).await.schedule_id;
        let path = format!("/v1/schedules/{schedule}/seats");
        let ask = |path: &str, tag: &str| {
            let ask = mesh.http.get(path).header("if-none-match", tag);
            async move { ask.send().await.expect("sent") }
        };
        let first = ask(&path, "\"none\"").await;
        let tag = first.headers["etag"].to_str().expect("a tag").to_owned();
        assert_eq!(first.headers["cache-control"], "no-cache");
        let same = ask(&path, &tag).await;
        assert_eq!((same.status, same.body.len()), (StatusCode::NOT_MODIFIED, 0));
        assert_eq!(same.headers["etag"].to_str().expect("a tag"), tag);

        mesh.fan(0).await.hold(schedule, &["A-1-2"]).await;
        let changed = eventually("another map", || async {
            let answer = ask(&path, &tag).await;
            (answer.status == StatusCode::OK).then_some(answer)
        })
        .await;
        assert_ne!(changed.headers["etag"].to_str().expect("a tag"), tag);
        let section: SeatMap = ask(&format!("{path}?section=A"), "").await.json().expect("a map");
        assert_eq!((section.seats.len(), section.sections[0].held), (1, 1));
        let nothing: SeatMap = ask(&format!("{path}?section=Z"), "").await.json().expect("a map");
        assert_eq!((nothing.seats.len(), nothing.sections.len()), (0, 0));

        let plan = ask(&format!("/v1/schedules/{schedule}/plan"), "").await;
        assert_eq!(plan.headers["cache-control"], "public, max-age=86400, immutable");
        let tag = plan.headers["etag"].to_str().expect("a tag");
        let plan: SeatPlan = plan.json().expect("a plan");
        assert_eq!((plan.seats[0].seats.len(), plan.seats[0].price), (2, 100));
        let same = ask(&format!("/v1/schedules/{schedule}/plan"), tag).await;
        assert_eq!(same.status, StatusCode::NOT_MODIFIED);
    });
}

#[test]
fn a_rebuilt_map_comes_to_watchers_as_a_new_snapshot_with_the_same_content() {
    run(async {
        let mesh = Mesh::own().await;
        let schedule = mesh.open(3, |_| {}).await.schedule_id;
        let fan = mesh.fan(100).await;
        let hold = fan.hold(schedule, &["A-1-1"]).await;
        fan.pay(&hold).await;
        fan.seat_becomes(schedule, "A-1-1", SeatState::Sold).await;
        let mut watching = watch(&mesh, schedule, None).await;
        let before: SeatMap = watching.next().await.json();

        let config = &mesh.env.config;
        let maps = Valkey::new(&config.valkey_url, concert::MapConfig::default()).expect("a store");
        let model = concert::read_model(maps.into());
        let rebuilt =
            replay::replay(config, concert::NAME, model, pending()).await.expect("rebuilt");
        assert!(rebuilt.difference.expect("compared").is_none());

        let after: SeatMap = watching.next().await.json();
        assert_ne!(after.epoch, before.epoch);
        assert_eq!((after.seats, after.sections), (before.seats, before.sections));
        fan.hold(schedule, &["A-1-2"]).await;
        assert_eq!(changed(&watching.next().await)[0]["seat"], "A-1-2");

        // The store is emptied: the map is rebuilt from the events.
        let client = redis::Client::open(mesh.env.config.valkey_url.as_str()).expect("a client");
        let mut store = client.get_multiplexed_async_connection().await.expect("a connection");
        redis::cmd("FLUSHALL").query_async::<()>(&mut store).await.expect("emptied");
        let anew: SeatMap = watching.next().await.json();
        assert_ne!(anew.epoch, after.epoch);
        assert_eq!(anew.seats.len(), 2);
        assert_eq!(map(&mesh, schedule).await.seats, anew.seats);
        drop(watching);
        mesh.stop().await;
    });
}

async fn database(mesh: &Mesh) -> sqlx::PgPool {
    let url = mesh.env.config.database_url(concert::NAME).expect("an address");
    sqlx::PgPool::connect(url).await.expect("a pool")
}

#[test]
fn a_thousand_watchers_of_one_sale_cost_the_database_nothing() {
    run(async {
        let mesh = Mesh::own().await;
        let schedule = mesh.open(20, |_| {}).await.schedule_id;
        let fan = mesh.fan(0).await;
        watch(&mesh, schedule, None).await.next().await;
        // From here on, no query to these tables gets an answer.
        let database = database(&mesh).await;
        let mut locked = database.begin().await.expect("begun");
        sqlx::query("lock table concerts, schedules, seat_plans in access exclusive mode")
            .execute(&mut *locked)
            .await
            .expect("locked");

        let opening = (0..WATCHERS).map(|_| async {
            let mut one = watch(&mesh, schedule, None).await;
            one.next().await;
            map(&mesh, schedule).await;
            one
        });
        let mut watching: Vec<Events> = stream::iter(opening).buffer_unordered(50).collect().await;
        fan.hold(schedule, &["A-1-1"]).await;
        for one in &mut watching {
            assert_eq!(sequence(&one.next().await), 1);
        }
        locked.rollback().await.expect("unlocked");

        // The streams end with the gateway, and do not delay its stop.
        let stopped = tokio::time::timeout(SOON, mesh.stop()).await;
        stopped.expect("stopped in time");
    });
}
