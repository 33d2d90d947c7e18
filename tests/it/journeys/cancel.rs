//! Cancel: a hold frees its seats; a paid reservation is refunded as well.

use events::{
    concert::SeatState,
    payment::PaymentState,
    reservation::{Reservation, ReservationState},
};
use harness::mesh::{run, shared};

#[test]
fn a_cancelled_hold_frees_its_seats() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(1, |_| {}).await.schedule_id;
        let fan = mesh.fan(0).await;
        let hold = fan.hold(schedule, &["A-1-1"]).await;
        let path = format!("/v1/reservations/{}", hold.reservation_id);
        let answer = fan.delete(&path).await;
        assert_eq!(answer.json::<Reservation>().unwrap().state, ReservationState::Cancelled);
        fan.seat_becomes(schedule, "A-1-1", SeatState::Free).await;
        let again = fan.delete(&path).await;
        assert_eq!(again.code().as_deref(), Some("not_cancellable"));
    });
}

#[test]
fn a_cancelled_ticket_is_refunded() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(1, |_| {}).await.schedule_id;
        let fan = mesh.fan(100).await;
        let hold = fan.hold(schedule, &["A-1-1"]).await;
        let payment = fan.pay(&hold).await;
        assert_eq!(fan.balance().await, 0);
        let answer = fan.delete(&format!("/v1/reservations/{}", hold.reservation_id)).await;
        assert_eq!(answer.status, 202);
        fan.payment_becomes(&payment, PaymentState::Refunded).await;
        assert_eq!(fan.balance().await, 100);
        fan.seat_becomes(schedule, "A-1-1", SeatState::Free).await;
        let receipt = mesh.receipt_is_clean(schedule).await;
        assert_eq!((receipt.seats_sold, receipt.points_taken), (0, 0));
    });
}
