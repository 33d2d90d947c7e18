//! Hold extension: a payment that begins in the last minute of its hold extends the hold once,
//! and never beyond the hard cap.

use events::{
    payment::{PaymentFailure, PaymentState},
    reservation::{Reservation, ReservationState},
};
use harness::mesh::{Fan, eventually, run, shared};

/// The most by which a hold is extended.
const GRACE_SECS: i64 = 60;

#[test]
fn a_hold_with_less_than_a_minute_left_is_extended_once_when_its_payment_begins() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(1, |opening| opening.hold_secs = Some(50)).await.schedule_id;
        let fan = mesh.fan(99).await;
        let hold = fan.hold(schedule, &["A-1-1"]).await;
        let refused = fan.pay(&hold).await;
        assert_eq!(refused.reason, Some(PaymentFailure::InsufficientBalance));
        let extended = extended(&fan, &hold).await;
        assert!(extended.expires_at <= hold.expires_at.plus_secs(GRACE_SECS), "{extended:?}");

        // Further payments do not move the end again.
        let refused = fan.pay(&hold).await;
        assert_eq!(refused.reason, Some(PaymentFailure::InsufficientBalance));
        fan.charge(1).await;
        assert_eq!(fan.pay(&hold).await.state, PaymentState::Completed);
        let confirmed = fan.reservation_becomes(&hold, ReservationState::Confirmed).await;
        assert_eq!(confirmed.expires_at, extended.expires_at);
        mesh.receipt_is_clean(schedule).await;
    });
}

#[test]
fn a_hold_with_more_than_a_minute_left_keeps_its_end() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(1, |_| {}).await.schedule_id;
        let fan = mesh.fan(100).await;
        let hold = fan.hold(schedule, &["A-1-1"]).await;
        fan.pay(&hold).await;
        let confirmed = fan.reservation_becomes(&hold, ReservationState::Confirmed).await;
        assert_eq!(confirmed.expires_at, hold.expires_at);
    });
}

#[test]
fn no_payment_begins_after_the_original_end_of_an_extended_hold() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(1, |opening| opening.hold_secs = Some(5)).await.schedule_id;
        let fan = mesh.fan(99).await;
        let hold = fan.hold(schedule, &["A-1-1"]).await;
        fan.pay(&hold).await;
        extended(&fan, &hold).await;
        let refusal = eventually("a payment is refused", || async {
            let refusal = fan.try_pay(&hold).await.err()?;
            (mesh::clock::now() >= hold.expires_at).then_some(refusal)
        })
        .await;
        assert_eq!(refusal, "hold_gone");
        fan.reservation_becomes(&hold, ReservationState::Pending).await;
    });
}

/// Waits until the end of the hold was moved, and returns the hold.
async fn extended(fan: &Fan<'_>, hold: &Reservation) -> Reservation {
    let path = format!("/v1/reservations/{}", hold.reservation_id);
    eventually("the end of the hold is moved", || async {
        let now: Reservation = fan.get(&path).await.json().ok()?;
        (now.expires_at > hold.expires_at).then_some(now)
    })
    .await
}
