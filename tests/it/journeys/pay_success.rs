//! Pay, success: money debited once, seats confirmed, the place ended.

use events::{
    concert::SeatState,
    payment::{Payment, PaymentState},
    queue::PlaceState,
    reservation::ReservationState,
};
use harness::mesh::{run, shared};
use serde_json::json;

#[test]
fn a_paid_hold_is_confirmed_and_the_money_is_debited_once() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(2, |_| {}).await.schedule_id;
        let fan = mesh.fan(1_000).await;
        let hold = fan.hold(schedule, &["A-1-1", "A-1-2"]).await;
        let payment = fan.pay(&hold).await;
        assert_eq!((payment.state, payment.amount), (PaymentState::Completed, 200));
        let confirmed = fan.reservation_becomes(&hold, ReservationState::Confirmed).await;
        assert_eq!(confirmed.payment_id, Some(payment.payment_id));
        assert_eq!(fan.balance().await, 800);
        fan.seat_becomes(schedule, "A-1-1", SeatState::Sold).await;
        let place = fan.place_becomes(schedule, PlaceState::Completed).await;
        assert_eq!((place.pass, place.reason), (None, None));
        let receipt = mesh.receipt_is_clean(schedule).await;
        assert_eq!((receipt.seats_sold, receipt.points_taken), (2, 200));
    });
}

#[test]
fn without_wait_a_payment_is_accepted_and_found_at_its_location() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(1, |_| {}).await.schedule_id;
        let fan = mesh.fan(100).await;
        let hold = fan.hold(schedule, &["A-1-1"]).await;
        let body = json!({ "reservation_id": hold.reservation_id });
        // A preference that cannot be read is ignored.
        let ask = mesh.http.post("/v1/payments").token(fan.token()).json(&body);
        let answer = ask.header("prefer", "wait=soon").send().await.unwrap();
        assert_eq!(answer.status, 202);
        assert!(!answer.headers.contains_key("preference-applied"));
        let payment: Payment = answer.json().unwrap();
        let location = answer.headers["location"].to_str().unwrap();
        let found: Payment = fan.get(location).await.json().unwrap();
        assert_eq!(found.payment_id, payment.payment_id);
        fan.payment_becomes(&payment, PaymentState::Completed).await;
    });
}

#[test]
fn the_same_key_pays_once() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(1, |_| {}).await.schedule_id;
        let fan = mesh.fan(500).await;
        let hold = fan.hold(schedule, &["A-1-1"]).await;
        let body = json!({ "reservation_id": hold.reservation_id });
        let pay = || {
            let ask = mesh.http.post("/v1/payments").token(fan.token()).json(&body);
            let ask = ask.header("prefer", "wait=20").header("idempotency-key", "pay-once");
            async move { ask.send().await.unwrap().json::<Payment>().unwrap() }
        };
        // Twice at the same time, and once more afterwards.
        let (one, two) = tokio::join!(pay(), pay());
        let three = pay().await;
        assert_eq!([one.payment_id, two.payment_id], [three.payment_id; 2]);
        assert_eq!(fan.balance().await, 400);
    });
}

#[test]
fn a_paid_reservation_is_not_paid_again() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(1, |_| {}).await.schedule_id;
        let fan = mesh.fan(500).await;
        let hold = fan.hold(schedule, &["A-1-1"]).await;
        fan.pay(&hold).await;
        let again =
            fan.post("/v1/payments", &json!({ "reservation_id": hold.reservation_id })).await;
        assert_eq!(again.code().as_deref(), Some("already_paid"));
        assert_eq!(fan.balance().await, 400);
    });
}

#[test]
fn a_reservation_of_another_fan_cannot_be_paid_or_seen() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(1, |_| {}).await.schedule_id;
        let (owner, other) = (mesh.fan(100).await, mesh.fan(100).await);
        let hold = owner.hold(schedule, &["A-1-1"]).await;
        let stolen =
            other.post("/v1/payments", &json!({ "reservation_id": hold.reservation_id })).await;
        assert_eq!(stolen.code().as_deref(), Some("not_found"));
        let seen = other.get(&format!("/v1/reservations/{}", hold.reservation_id)).await;
        assert_eq!(seen.code().as_deref(), Some("not_found"));
    });
}

#[test]
fn a_fan_follows_everything_that_happens_and_resumes_where_it_stopped() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(1, |_| {}).await.schedule_id;
        let fan = mesh.fan(100).await;
        let mut events =
            harness::sse::open(mesh.http.base(), "/v1/me/events", fan.token(), None).await;
        let hold = fan.hold(schedule, &["A-1-1"]).await;
        let created = events.until("reservation.created").await;
        fan.pay(&hold).await;
        // Everything after the reservation again, from a new connection.
        let last = created.id.clone();
        drop(events);
        let mut events =
            harness::sse::open(mesh.http.base(), "/v1/me/events", fan.token(), last).await;
        let mut seen = Vec::new();
        while seen.last().map(String::as_str) != Some("payment.completed") {
            seen.push(events.next().await.event());
        }
        for event in ["payment.requested", "point.debited", "reservation.confirmed"] {
            assert_eq!(seen.iter().filter(|seen| *seen == event).count(), 1, "{event} in {seen:?}");
        }
        assert!(!seen.contains(&"reservation.created".to_owned()), "{seen:?}");
    });
}
