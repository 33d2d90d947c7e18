//! Reserve: all seats or none, and a refusal that says why.

use events::{
    concert::SeatState,
    reservation::{Reservation, ReservationState},
};
use harness::mesh::{run, shared};
use serde_json::json;

#[test]
fn a_fan_with_a_pass_holds_seats_and_the_map_shows_it() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(3, |_| {}).await.schedule_id;
        let fan = mesh.fan(0).await;
        let hold = fan.hold(schedule, &["A-1-1", "A-1-2"]).await;
        assert_eq!((hold.state, hold.amount), (ReservationState::Pending, 200));
        fan.seat_becomes(schedule, "A-1-2", SeatState::Held).await;
        let read: Reservation =
            fan.get(&format!("/v1/reservations/{}", hold.reservation_id)).await.json().unwrap();
        assert_eq!(read, hold);
    });
}

#[test]
fn one_taken_seat_refuses_all_and_is_named() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(2, |_| {}).await.schedule_id;
        let (owner, other) = (mesh.fan(0).await, mesh.fan(0).await);
        owner.hold(schedule, &["A-1-1"]).await;
        let pass = other.admitted(schedule).await;
        let refused = other.ask_for(schedule, &["A-1-2", "A-1-1"], &pass).await;
        let problem: events::Problem = serde_json::from_slice(&refused.body).unwrap();
        assert_eq!((problem.status, problem.code.as_str()), (409, "seat_taken"));
        assert_eq!(problem.extra["seats"], json!(["A-1-1"]));
        // None of them: the free one is still free.
        let held = other.ask_for(schedule, &["A-1-2"], &pass).await;
        assert_eq!(held.status, 201);
    });
}

#[test]
fn only_an_active_fan_may_reserve() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(1, |_| {}).await.schedule_id;
        let (active, other) = (mesh.fan(0).await, mesh.fan(0).await);
        let pass = active.admitted(schedule).await;
        for (who, pass) in [(&other, pass.as_str()), (&active, "forged")] {
            let refused = who.ask_for(schedule, &["A-1-1"], pass).await;
            assert_eq!(refused.code().as_deref(), Some("not_active"));
        }
    });
}

#[test]
fn more_seats_than_allowed_are_refused_also_one_by_one() {
    run(async {
        let mesh = shared().await;
        let schedule =
            mesh.open(4, |opening| opening.seats_per_fan_max = Some(2)).await.schedule_id;
        let fan = mesh.fan(0).await;
        let pass = fan.admitted(schedule).await;
        let at_once = fan.ask_for(schedule, &["A-1-1", "A-1-2", "A-1-3"], &pass).await;
        assert_eq!(at_once.code().as_deref(), Some("limit_exceeded"));
        fan.ask_for(schedule, &["A-1-1", "A-1-2"], &pass).await.json::<Reservation>().unwrap();
        let third = fan.ask_for(schedule, &["A-1-3"], &pass).await;
        assert_eq!(third.code().as_deref(), Some("limit_exceeded"));
    });
}

#[test]
fn the_same_key_gives_the_stored_answer_and_another_body_is_refused() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(2, |_| {}).await.schedule_id;
        let fan = mesh.fan(0).await;
        let pass = fan.admitted(schedule).await;
        let reserve = |seat: &str| {
            let body = json!({ "schedule_id": schedule, "seats": [seat], "pass": pass });
            let ask = mesh.http.post("/v1/reservations").token(fan.token()).json(&body);
            async move { ask.header("idempotency-key", "one-key").send().await.unwrap() }
        };
        let first: Reservation = harness::mesh::eventually("the schedule is known", || async {
            reserve("A-1-1").await.json().ok()
        })
        .await;
        let again: Reservation = reserve("A-1-1").await.json().unwrap();
        assert_eq!(first, again);
        let other = reserve("A-1-2").await;
        assert_eq!(other.code().as_deref(), Some("idempotency_key_reused"));
    });
}

#[test]
fn a_fan_lists_reservations_page_by_page_newest_first() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(3, |_| {}).await.schedule_id;
        let fan = mesh.fan(0).await;
        let pass = fan.admitted(schedule).await;
        let mut made = Vec::new();
        for seat in ["A-1-1", "A-1-2", "A-1-3"] {
            let hold: Reservation = fan.ask_for(schedule, &[seat], &pass).await.json().unwrap();
            made.push(hold.reservation_id);
        }
        let mut seen = Vec::new();
        let mut path = "/v1/reservations?limit=2".to_owned();
        loop {
            let page: events::Page<Reservation> = fan.get(&path).await.json().unwrap();
            seen.extend(page.items.iter().map(|reservation| reservation.reservation_id));
            let Some(cursor) = page.next_cursor else { break };
            path = format!("/v1/reservations?limit=2&cursor={cursor}");
        }
        made.reverse();
        assert_eq!(seen, made);
    });
}
