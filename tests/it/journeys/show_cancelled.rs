//! Show cancelled: every hold ends, every payment is returned, the room closes.

use events::{
    concert::Schedule, payment::PaymentState, queue::PlaceState, reservation::ReservationState,
};
use harness::mesh::{run, shared};
use serde_json::json;

#[test]
fn a_cancelled_show_returns_all_money_and_closes_the_room() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(3, |_| {}).await.schedule_id;
        let (owner, holder, waiting) =
            (mesh.fan(100).await, mesh.fan(100).await, mesh.fan(0).await);
        let sold = owner.hold(schedule, &["A-1-1"]).await;
        let payment = owner.pay(&sold).await;
        let hold = holder.hold(schedule, &["A-1-2"]).await;
        waiting.enter(schedule).await;

        let path = format!("/v1/schedules/{schedule}");
        let token = &mesh.organizer.access_token;
        let answer = mesh.http.delete(&path).token(token).send().await.unwrap();
        assert_eq!(answer.status, 202);
        answer.json::<Schedule>().unwrap();

        owner.payment_becomes(&payment, PaymentState::Refunded).await;
        owner.reservation_becomes(&sold, ReservationState::Cancelled).await;
        holder.reservation_becomes(&hold, ReservationState::Cancelled).await;
        waiting.place_becomes(schedule, PlaceState::Expired).await;
        assert_eq!((owner.balance().await, holder.balance().await), (100, 100));
        let late = mesh.fan(0).await;
        let refused = late.post(&format!("/v1/schedules/{schedule}/queue"), &json!({})).await;
        assert_eq!(refused.code().as_deref(), Some("schedule_closed"));
        mesh.receipt_is_clean(schedule).await;
    });
}

#[test]
fn only_the_organizer_of_a_show_cancels_it() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(1, |_| {}).await.schedule_id;
        let fan = mesh.fan(0).await;
        let refused = fan.delete(&format!("/v1/schedules/{schedule}")).await;
        assert_eq!(refused.code().as_deref(), Some("forbidden"));
    });
}
