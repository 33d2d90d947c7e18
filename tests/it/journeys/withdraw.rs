//! Withdraw: the place is left, holds end, the wallet closes; refused while a payment runs.

use events::{concert::SeatState, payment::PaymentState, reservation::ReservationState};
use harness::mesh::{eventually, run, shared};
use serde_json::json;

#[test]
fn a_withdrawn_fan_leaves_nothing_behind() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(1, |_| {}).await.schedule_id;
        let fan = mesh.fan(100).await;
        let hold = fan.hold(schedule, &["A-1-1"]).await;
        assert_eq!(fan.delete("/v1/users/me").await.status, 200);
        fan.reservation_becomes(&hold, ReservationState::Cancelled).await;
        fan.seat_becomes(schedule, "A-1-1", SeatState::Free).await;
        eventually("the wallet is closed", || async {
            let refused = fan.post("/v1/points/charges", &json!({ "amount": 1 })).await;
            (refused.code().as_deref() == Some("wallet_closed")).then_some(())
        })
        .await;
        let refresh = json!({ "refresh_token": fan.session.refresh_token });
        let refused = mesh.http.post("/v1/sessions/refresh").json(&refresh).send().await.unwrap();
        assert_eq!(refused.status, 401);
    });
}

#[test]
fn a_withdrawal_beside_a_payment_never_loses_money() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(1, |_| {}).await.schedule_id;
        let fan = mesh.fan(100).await;
        let hold = fan.hold(schedule, &["A-1-1"]).await;
        let (paid, withdrawn) = tokio::join!(fan.try_pay(&hold), fan.delete("/v1/users/me"));
        let refused = withdrawn.code();
        assert!(matches!(refused.as_deref(), None | Some("payment_running")), "{refused:?}");
        // The payment is heard of before the withdrawal, which waits for its end then; or
        // after it, and then there is no hold any more, or no wallet.
        let end = match paid {
            Ok(payment) => payment.state,
            Err(code) => {
                assert!(matches!(code.as_str(), "hold_gone" | "not_active"), "{code}");
                assert_eq!(withdrawn.status, 200, "what else ended the hold?");
                PaymentState::Failed
            }
        };
        assert_ne!(end, PaymentState::Requested);
        let receipt = mesh.receipt_is_clean(schedule).await;
        let seats_sold = i64::from(end == PaymentState::Completed);
        assert_eq!((receipt.seats_sold, receipt.points_taken), (seats_sold, 100 * seats_sold));
    });
}
