//! Forgotten: Valkey is emptied when the streams no longer have the events of a sale, and is rebuilt
//! from the services that own the state.

use std::future::pending;

use events::{
    ScheduleId,
    concert::{SeatMap, SeatState},
    payment::PaymentState,
    queue::{Place, PlaceState},
    ranking::{ConcertRanking, RankedConcert},
};
use harness::mesh::{Fan, Mesh, eventually, run};
use mesh::valkey::Valkey;
use onsale::{
    config::PROVISIONER,
    fleet::{Fleet, ServiceConfigs},
    registry::SERVICES,
    replay,
};
use serde_json::{Value, json};

use crate::{broker::Broker, rest::Stores};

/// The streams drop everything, as after a week, and Valkey loses everything.
async fn forget(mesh: &Mesh, stores: &Stores) {
    stores.at_rest().await;
    let provisioner = Broker::of(&mesh.env, PROVISIONER).await;
    for stream in Broker::event_streams() {
        let stream = provisioner.jetstream.get_stream(&stream).await.expect("a stream");
        stream.purge().await.expect("purged");
    }
    redis::cmd("FLUSHALL").query_async::<()>(&mut stores.valkey()).await.expect("emptied");
}

/// Waits until the map is as expected; a wrong map must never be shown meanwhile.
async fn map_is(mesh: &Mesh, schedule: ScheduleId, wanted: &[(&str, SeatState)]) {
    let path = format!("/v1/schedules/{schedule}/seats");
    eventually("the map is there", || async {
        let answer = mesh.http.get(&path).send().await.expect("an answer");
        if !answer.status.is_success() {
            assert_eq!(answer.status, 503);
            return None;
        }
        let map: SeatMap = answer.json().expect("a map");
        let shown: Vec<_> = map.seats.iter().map(|it| (it.seat.0.as_str(), it.state)).collect();
        assert_eq!(shown, wanted);
        Some(())
    })
    .await;
}

async fn ranked(mesh: &Mesh, query: &str) -> Vec<RankedConcert> {
    let path = format!("/v1/rankings/concerts?{query}&limit=100");
    eventually("the ranking answers", || async {
        let answer = mesh.http.get(&path).send().await.expect("an answer");
        let ranking = answer.status.is_success().then(|| answer.json::<ConcertRanking>());
        Some(ranking?.expect("a ranking").places)
    })
    .await
}

#[test]
fn state_that_the_streams_no_longer_have_is_rebuilt_from_its_owners() {
    run(async {
        let mesh = Mesh::own().await;
        let stores = Stores::of(&mesh.env).await;
        let on_sale = mesh.open(6, |_| {}).await.schedule_id;
        let small = mesh.open(1, |_| {}).await.schedule_id;
        let cancelled = mesh.open(3, |_| {}).await.schedule_id;
        let announced = mesh
            .open(4, |opening| {
                opening.opens_at = Some(mesh::clock::now().plus_secs(10 * 86_400));
                opening.starts_at = mesh::clock::now().plus_secs(20 * 86_400);
            })
            .await;
        let announced = announced.schedule_id;
        let (buyer, holder, early) =
            (mesh.fan(1_000).await, mesh.fan(1_000).await, mesh.fan(0).await);
        let bought = buyer.hold(on_sale, &["A-1-1", "A-1-2"]).await;
        buyer.pay(&bought).await;
        let given_back = buyer.hold(on_sale, &["A-1-3"]).await;
        let payment = buyer.pay(&given_back).await;
        buyer.delete(&format!("/v1/reservations/{}", given_back.reservation_id)).await;
        buyer.payment_becomes(&payment, PaymentState::Refunded).await;
        let hold = holder.hold(on_sale, &["A-1-4"]).await;
        let last = buyer.hold(small, &["A-1-1"]).await;
        buyer.pay(&last).await;
        cancel(&mesh, cancelled).await;
        let ticket = early.enter(announced).await.ticket;
        let taken =
            [("A-1-1", SeatState::Sold), ("A-1-2", SeatState::Sold), ("A-1-4", SeatState::Held)];
        map_is_soon(&mesh, on_sale, &taken).await;
        stores.at_rest().await;
        let (sold, fastest) =
            (ranked(&mesh, "window=1h").await, ranked(&mesh, "by=sell_out").await);
        assert_eq!((sold.len(), fastest.len()), (2, 1));

        for round in 0..2 {
            forget(&mesh, &stores).await;
            for fan in [&holder, &early] {
                let place = enter(fan, announced, &json!({})).await;
                assert_eq!(place.state, PlaceState::Waiting, "{round}");
            }
            map_is(&mesh, on_sale, &taken).await;
            map_is(&mesh, small, &[("A-1-1", SeatState::Sold)]).await;
            rankings_are_whole(&mesh).await;
            assert_eq!(ranked(&mesh, "window=1h").await, sold);
            assert_eq!(ranked(&mesh, "by=sell_out").await, fastest);
            // A sold-out show stays so, and a cancelled one has a code of its own.
            for (schedule, code) in [(small, "sold_out"), (cancelled, "schedule_cancelled")] {
                let path = format!("/v1/schedules/{schedule}/queue");
                let refused = holder.post(&path, &json!({})).await;
                assert_eq!(refused.code().as_deref(), Some(code));
            }
        }
        // A fan whose ticket proves the place gets it back.
        forget(&mesh, &stores).await;
        enter(&holder, announced, &json!({})).await;
        let place = enter(&early, announced, &json!({ "ticket": ticket })).await;
        assert_eq!(place.position, Some(0));

        // And the sale goes on: a hold is paid, and the cancelled seat is sold again.
        holder.pay(&hold).await;
        let again = holder.hold(on_sale, &["A-1-3"]).await;
        holder.pay(&again).await;
        let receipt = mesh.receipt_is_clean(on_sale).await;
        assert_eq!(receipt.seats_sold, 4);
        mesh.stop().await;
    });
}

/// Enters a waiting room, once it is whole.
async fn enter(fan: &Fan<'_>, schedule: ScheduleId, body: &Value) -> Place {
    let path = format!("/v1/schedules/{schedule}/queue");
    eventually("the room is whole", || async {
        let answer = fan.post(&path, body).await;
        assert!([200, 503].contains(&answer.status.as_u16()), "{answer:?}");
        (answer.status == 200).then(|| answer.json().expect("a place"))
    })
    .await
}

async fn map_is_soon(mesh: &Mesh, schedule: ScheduleId, wanted: &[(&str, SeatState)]) {
    let path = format!("/v1/schedules/{schedule}/seats");
    eventually("the map shows it", || async {
        let map: SeatMap = mesh.http.get(&path).send().await.expect("sent").json().expect("a map");
        map.seats
            .iter()
            .map(|it| (it.seat.0.as_str(), it.state))
            .eq(wanted.iter().copied())
            .then_some(())
    })
    .await;
}

async fn rankings_are_whole(mesh: &Mesh) {
    let store: Valkey<ranking::Charts> =
        Valkey::new(&mesh.env.config.valkey_url, Default::default()).expect("an address");
    eventually("the ranking is whole again", || async {
        store.is_whole().await.is_ok_and(|whole| whole).then_some(())
    })
    .await;
}

async fn cancel(mesh: &Mesh, schedule: ScheduleId) {
    let path = format!("/v1/schedules/{schedule}");
    let asked = mesh.http.delete(&path).token(&mesh.organizer.access_token);
    let answer = asked.send().await.expect("sent");
    assert_eq!(answer.status, 202);
}

#[test]
fn a_waiting_room_that_cannot_reach_an_owner_answers_that_it_is_being_rebuilt() {
    run(async {
        let others: Vec<&str> =
            SERVICES.into_iter().filter(|service| *service != reservation::NAME).collect();
        // The reservation service has a fleet of its own, so that it can be stopped.
        let mesh = Mesh::with(&others).await;
        let reservations = start_reservations(&mesh).await;
        let schedule = mesh.open(2, |_| {}).await.schedule_id;
        let fan = mesh.fan(1_000).await;
        let hold = fan.hold(schedule, &["A-1-1"]).await;
        fan.pay(&hold).await;
        let stores = Stores::of(&mesh.env).await;
        reservations.stop().await;
        redis::cmd("FLUSHALL").query_async::<()>(&mut stores.valkey()).await.expect("emptied");
        let path = format!("/v1/schedules/{schedule}/queue");
        for _ in 0..20 {
            let refused = fan.post(&path, &json!({})).await;
            assert_eq!(refused.status, 503);
            assert!(refused.headers.contains_key("retry-after"));
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        let reservations = start_reservations(&mesh).await;
        eventually("the waiting room is whole again", || async {
            (fan.post(&path, &json!({})).await.status == 200).then_some(())
        })
        .await;
        reservations.stop().await;
        mesh.stop().await;
    });
}

async fn start_reservations(mesh: &Mesh) -> Fleet {
    let configs = ServiceConfigs::default();
    let fleet = Fleet::start(&mesh.env.config, &[reservation::NAME], &configs).await;
    fleet.expect("a service")
}

#[test]
fn waiting_rooms_are_replayed_in_place_and_the_sale_goes_on() {
    run(async {
        let mesh = Mesh::own().await;
        let stores = Stores::of(&mesh.env).await;
        let schedule = mesh.open(2, |opening| opening.admission.active_max = 1).await.schedule_id;
        let (first, second) = (mesh.fan(1_000).await, mesh.fan(1_000).await);
        let hold = first.hold(schedule, &["A-1-1"]).await;
        let before = second.enter(schedule).await;
        stores.at_rest().await;
        let room = format!("{{queue}}:room:{schedule}");
        let mut valkey = stores.valkey();
        redis::cmd("HSET")
            .arg(&room)
            .arg("sold")
            .arg(-3)
            .query_async::<()>(&mut valkey)
            .await
            .expect("spoilt");
        replay::replay_rooms(&mesh.env.config, pending()).await.expect("replayed");
        let after = second.place(schedule).await;
        assert_eq!((after.state, after.position), (before.state, before.position));
        let sold: i64 =
            redis::cmd("HGET").arg(&room).arg("sold").query_async(&mut valkey).await.unwrap_or(0);
        assert_eq!(sold, 0, "it is corrected");
        first.pay(&hold).await;
        second.pass(schedule).await;
        let last = second.hold(schedule, &["A-1-2"]).await;
        second.pay(&last).await;
        mesh.receipt_is_clean(schedule).await;
        // The read models are rebuilt from the same state.
        let maps = Valkey::new(&mesh.env.config.valkey_url, concert::MapConfig::default());
        let model = concert::read_model(maps.expect("a store").into());
        let rebuilt = replay::replay(&mesh.env.config, concert::NAME, model, pending()).await;
        assert!(rebuilt.expect("replayed").difference.expect("compared").is_none());
        mesh.stop().await;
    });
}
