//! Expire: a hold ends within a second of its time, and the next fan gets the seat.

use events::{
    concert::SeatState,
    payment::PaymentFailure,
    reservation::{Reservation, ReservationState},
};
use harness::mesh::{eventually, run, shared};

#[test]
fn a_hold_that_runs_out_frees_the_seat_for_the_next_fan() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(1, |opening| opening.hold_secs = Some(1)).await.schedule_id;
        let (slow, next) = (mesh.fan(100).await, mesh.fan(100).await);
        let pass = next.admitted(schedule).await;
        let hold = slow.hold(schedule, &["A-1-1"]).await;
        let theirs: Reservation = eventually("the seat is free again", || async {
            next.ask_for(schedule, &["A-1-1"], &pass).await.json().ok()
        })
        .await;
        let late = mesh::clock::now().0 - hold.expires_at.0;
        assert!(late < time::Duration::seconds(3), "freed {late} after its time");
        slow.reservation_becomes(&hold, ReservationState::Expired).await;
        assert_ne!(theirs.reservation_id, hold.reservation_id);

        // A fan who is too late pays nothing, whether the payment service refuses at once or the
        // reservation service refuses later, and the next owner keeps the seat.
        match slow.try_pay(&hold).await {
            Ok(payment) => assert_eq!(payment.reason, Some(PaymentFailure::HoldGone)),
            Err(code) => assert_eq!(code, "hold_gone"),
        }
        assert_eq!(slow.balance().await, 100);
        next.pay(&theirs).await;
        next.seat_becomes(schedule, "A-1-1", SeatState::Sold).await;
        let receipt = mesh.receipt_is_clean(schedule).await;
        assert_eq!((receipt.seats_sold, receipt.holds_expired), (1, 1));
    });
}
