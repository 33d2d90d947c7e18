//! Two holds of one fan: once a payment has completed, the place ends with the last hold.

use events::{
    queue::{Place, PlaceEnd, PlaceState},
    reservation::{Reservation, ReservationState},
};
use harness::mesh::{Fan, Mesh, eventually, run, shared};

#[test]
fn a_fan_with_two_holds_who_pays_one_keeps_the_place_until_the_other_ends() {
    run(async {
        let mesh = shared().await;
        let (fan, [first, second]) = with_two_holds(mesh).await;
        let schedule = first.schedule_id;
        fan.pay(&first).await;
        holds_left(mesh, &fan, &first, 1).await;
        assert_eq!(fan.place(schedule).await.state, PlaceState::Active);

        let path = format!("/v1/reservations/{}", second.reservation_id);
        assert_eq!(fan.delete(&path).await.status, 202);
        fan.place_becomes(schedule, PlaceState::Completed).await;
        fan.reservation_becomes(&first, ReservationState::Confirmed).await;
        let receipt = mesh.receipt_is_clean(schedule).await;
        assert_eq!((receipt.seats_sold, receipt.points_taken), (1, 100));
    });
}

#[test]
fn a_fan_with_two_holds_pays_both_before_the_place_ends() {
    run(async {
        let mesh = shared().await;
        let (fan, [first, second]) = with_two_holds(mesh).await;
        fan.pay(&first).await;
        fan.pay(&second).await;
        fan.place_becomes(first.schedule_id, PlaceState::Completed).await;
        let receipt = mesh.receipt_is_clean(first.schedule_id).await;
        assert_eq!((receipt.seats_sold, receipt.points_taken), (2, 200));
    });
}

#[test]
fn a_fan_who_holds_seats_cannot_leave_before_they_are_cancelled() {
    run(async {
        let mesh = shared().await;
        let (fan, holds) = with_two_holds(mesh).await;
        let path = format!("/v1/schedules/{}/queue/me", holds[0].schedule_id);
        for hold in &holds {
            let refused = fan.delete(&path).await;
            assert_eq!(refused.status, 409);
            assert_eq!(refused.code().as_deref(), Some("holding_seats"));
            fan.delete(&format!("/v1/reservations/{}", hold.reservation_id)).await;
        }
        let left: Place = eventually("the fan may leave", || async {
            let answer = fan.delete(&path).await;
            (answer.status == 200).then(|| answer.json().expect("a place"))
        })
        .await;
        assert_eq!((left.state, left.reason), (PlaceState::Expired, Some(PlaceEnd::Left)));
    });
}

#[test]
fn a_hold_stays_payable_when_its_fan_left_before_the_waiting_room_knew_of_it() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(8, |_| {}).await.schedule_id;
        let path = format!("/v1/schedules/{schedule}/queue/me");
        for n in 1..=8 {
            let fan = mesh.fan(100).await;
            let pass = fan.admitted(schedule).await;
            let seat = format!("A-1-{n}");
            let seats = [seat.as_str()];
            // Either of the two may be first.
            let (held, left) =
                tokio::join!(fan.ask_for(schedule, &seats, &pass), fan.delete(&path));
            let Ok(hold) = held.json::<Reservation>() else {
                assert_eq!(held.code().as_deref(), Some("not_active"));
                continue;
            };
            assert!(matches!(left.status.as_u16(), 200 | 409), "{left:?}");
            fan.pay(&hold).await;
            fan.reservation_becomes(&hold, ReservationState::Confirmed).await;
        }
        mesh.receipt_is_clean(schedule).await;
    });
}

#[test]
fn the_pass_of_a_place_that_is_used_up_reserves_nothing_more() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(2, |_| {}).await.schedule_id;
        let fan = mesh.fan(200).await;
        let pass = fan.admitted(schedule).await;
        let hold = fan.ask_for(schedule, &["A-1-1"], &pass).await.json().expect("a hold");
        fan.pay(&hold).await;
        let refused = fan.ask_for(schedule, &["A-1-2"], &pass).await;
        assert_eq!(refused.code().as_deref(), Some("not_active"), "at once");
        fan.place_becomes(schedule, PlaceState::Completed).await;
        // The fan enters the queue again, like every other fan.
        let more = fan.hold(schedule, &["A-1-2"]).await;
        fan.pay(&more).await;
        mesh.receipt_is_clean(schedule).await;
    });
}

/// A fan with two holds, both of which the waiting room knows of.
async fn with_two_holds(mesh: &Mesh) -> (Fan<'_>, [Reservation; 2]) {
    let schedule = mesh.open(3, |_| {}).await.schedule_id;
    let fan = mesh.fan(200).await;
    let first = fan.hold(schedule, &["A-1-1"]).await;
    let pass = fan.pass(schedule).await;
    let second = fan.ask_for(schedule, &["A-1-2"], &pass).await.json().expect("a hold");
    holds_left(mesh, &fan, &first, 2).await;
    (fan, [first, second])
}

/// Waits until the waiting room knows of these many live holds of the fan.
async fn holds_left(mesh: &Mesh, fan: &Fan<'_>, hold: &Reservation, count: usize) {
    let client = redis::Client::open(mesh.env.config.valkey_url.as_str()).expect("an address");
    let valkey = client.get_multiplexed_async_connection().await.expect("a connection");
    let key = format!("{{queue}}:holds:{}:{}", hold.schedule_id, fan.session.user_id);
    eventually(&format!("the room knows of {count} holds"), || async {
        let mut valkey = valkey.clone();
        // Among the hard caps is the latest payment, which is no number.
        let values: Vec<String> =
            redis::cmd("HVALS").arg(&key).query_async(&mut valkey).await.expect("holds");
        let caps = values.iter().filter_map(|value| value.parse::<i64>().ok());
        (caps.filter(|cap| *cap > 0).count() == count).then_some(())
    })
    .await;
}
