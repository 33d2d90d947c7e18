//! Pay, too few points: nothing is debited, and the hold lives on.

use events::{
    payment::{PaymentFailure, PaymentState},
    reservation::ReservationState,
};
use harness::mesh::{run, shared};

#[test]
fn a_refused_payment_debits_nothing_and_the_fan_may_charge_and_pay_again() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(1, |_| {}).await.schedule_id;
        let fan = mesh.fan(99).await;
        let hold = fan.hold(schedule, &["A-1-1"]).await;
        let refused = fan.pay(&hold).await;
        assert_eq!(
            (refused.state, refused.reason),
            (PaymentState::Failed, Some(PaymentFailure::InsufficientBalance))
        );
        assert_eq!(fan.balance().await, 99);
        fan.reservation_becomes(&hold, ReservationState::Pending).await;

        fan.charge(1).await;
        let paid = fan.pay(&hold).await;
        assert_eq!(paid.state, PaymentState::Completed);
        assert_ne!(paid.payment_id, refused.payment_id);
        assert_eq!(fan.balance().await, 0);
        mesh.receipt_is_clean(schedule).await;
    });
}
