//! Enter: a place in the queue, admission by rate and cap, the pass and its end.

use events::{
    concert::Admission,
    queue::{Place, PlaceEnd, PlaceState},
};
use harness::mesh::{eventually, run, shared};
use serde_json::json;

#[test]
fn a_fan_who_enters_is_admitted_and_gets_a_pass() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(1, |_| {}).await.schedule_id;
        let fan = mesh.fan(0).await;
        let place = fan.enter(schedule).await;
        assert!(place.ticket.is_some(), "a ticket proves the place: {place:?}");
        let pass = fan.pass(schedule).await;
        assert_eq!(pass.split('.').count(), 3, "a pass is a JWT");
    });
}

#[test]
fn entering_twice_gives_the_same_place() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(1, |opening| opening.opens_at = None).await.schedule_id;
        let fan = mesh.fan(0).await;
        fan.enter(schedule).await;
        let pass = fan.pass(schedule).await;
        let again = fan.enter(schedule).await;
        assert_eq!(again.state, PlaceState::Active);
        assert_eq!(again.pass, Some(pass));
    });
}

#[test]
fn fans_beyond_the_cap_wait_in_the_order_in_which_they_came() {
    run(async {
        let mesh = shared().await;
        let admission = Admission { per_second: 1_000, active_max: 1, pass_secs: 300 };
        let schedule = mesh.open(5, |opening| opening.admission = admission).await.schedule_id;
        let (first, second, third) = (mesh.fan(0).await, mesh.fan(0).await, mesh.fan(0).await);
        first.admitted(schedule).await;
        second.enter(schedule).await;
        third.enter(schedule).await;
        let positions =
            [second.place(schedule).await.position, third.place(schedule).await.position];
        assert_eq!(positions, [Some(0), Some(1)]);

        // One leaves, the next one is admitted, and the last one moves up.
        first.delete(&format!("/v1/schedules/{schedule}/queue/me")).await;
        second.pass(schedule).await;
        let place = third.place(schedule).await;
        assert_eq!((place.state, place.position), (PlaceState::Waiting, Some(0)));
    });
}

#[test]
fn no_fan_is_admitted_before_the_sale_opens() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh
            .open(1, |opening| opening.opens_at = Some(mesh::clock::now().plus_secs(3_600)))
            .await
            .schedule_id;
        let early = mesh.fan(0).await;
        early.enter(schedule).await;
        // Another waiting room admits meanwhile, so the queue service was at work.
        let other = mesh.open(1, |_| {}).await.schedule_id;
        mesh.fan(0).await.admitted(other).await;
        assert_eq!(early.place(schedule).await.state, PlaceState::Waiting);
    });
}

#[test]
fn a_pass_that_runs_out_ends_the_place_and_the_next_fan_is_admitted() {
    run(async {
        let mesh = shared().await;
        let admission = Admission { per_second: 1_000, active_max: 1, pass_secs: 5 };
        let schedule = mesh.open(1, |opening| opening.admission = admission).await.schedule_id;
        let (idle, next) = (mesh.fan(0).await, mesh.fan(0).await);
        idle.admitted(schedule).await;
        next.enter(schedule).await;
        next.pass(schedule).await;
        let ended = idle.place(schedule).await;
        assert_eq!((ended.state, ended.reason), (PlaceState::Expired, Some(PlaceEnd::Timeout)));
    });
}

#[test]
fn when_the_last_seat_is_sold_the_waiting_places_end() {
    run(async {
        let mesh = shared().await;
        let admission = Admission { per_second: 1_000, active_max: 1, pass_secs: 300 };
        let schedule = mesh.open(1, |opening| opening.admission = admission).await.schedule_id;
        let (buyer, waiting) = (mesh.fan(100).await, mesh.fan(0).await);
        let hold = buyer.hold(schedule, &["A-1-1"]).await;
        waiting.enter(schedule).await;
        buyer.pay(&hold).await;
        let ended = waiting.place_becomes(schedule, PlaceState::Expired).await;
        assert_eq!(ended.reason, Some(PlaceEnd::SoldOut));
        let late = mesh.fan(0).await;
        let refused = late.post(&format!("/v1/schedules/{schedule}/queue"), &json!({})).await;
        assert_eq!(refused.code().as_deref(), Some("sold_out"));
    });
}

#[test]
fn the_place_can_be_followed_as_a_stream_of_events() {
    run(async {
        let mesh = shared().await;
        let admission = Admission { per_second: 1_000, active_max: 1, pass_secs: 300 };
        let schedule = mesh.open(1, |opening| opening.admission = admission).await.schedule_id;
        let (first, second) = (mesh.fan(0).await, mesh.fan(0).await);
        first.admitted(schedule).await;
        second.enter(schedule).await;
        let path = format!("/v1/schedules/{schedule}/queue/me/events");
        let mut events = harness::sse::open(mesh.http.base(), &path, second.token(), None).await;
        let snapshot: Place = events.next().await.json();
        assert_eq!(snapshot.state, PlaceState::Waiting);
        first.delete(&format!("/v1/schedules/{schedule}/queue/me")).await;
        loop {
            let place: Place = events.next().await.json();
            if place.state == PlaceState::Active {
                assert!(place.pass.is_some());
                break;
            }
        }
        eventually("the fan is ACTIVE in every answer", || async {
            (second.place(schedule).await.state == PlaceState::Active).then_some(())
        })
        .await;
    });
}
