//! Pay, hold gone: the money comes back, and the fan stands at the front of the line.

use events::{
    concert::SeatState,
    payment::{Payment, PaymentFailure, PaymentState},
    queue::PlaceState,
};
use harness::mesh::{Mesh, eventually, run, shared};
use serde_json::json;

#[test]
fn a_hold_lost_while_paying_gives_the_money_back_and_the_front_of_the_line() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(2, |_| {}).await.schedule_id;
        let fan = mesh.fan(100).await;
        let payment = lose_a_hold_while_paying(mesh, schedule, &fan).await;
        assert_eq!(payment.reason, Some(PaymentFailure::HoldGone));
        assert_eq!(fan.balance().await, 100);
        fan.seat_becomes(schedule, "A-1-1", SeatState::Free).await;

        // Returned to the front and, the room being empty, admitted again.
        let pass = eventually("the fan is admitted again", || async {
            let place = fan.place(schedule).await;
            (place.state == PlaceState::Active).then_some(place.pass).flatten()
        })
        .await;
        eventually("the new pass is good for another try", || async {
            let held = fan.ask_for(schedule, &["A-1-1"], &pass).await;
            (held.status == 201).then_some(())
        })
        .await;
    });
}

/// Cancels a hold and asks to pay it at once: the cancellation reaches the judge before the
/// money does. Where the payment already knows of it, it refuses, and the next round begins.
async fn lose_a_hold_while_paying(
    mesh: &Mesh,
    schedule: events::ScheduleId,
    fan: &harness::mesh::Fan<'_>,
) -> Payment {
    for _ in 0..50 {
        let hold = fan.hold(schedule, &["A-1-1"]).await;
        let cancel = format!("/v1/reservations/{}", hold.reservation_id);
        let body = json!({ "reservation_id": hold.reservation_id });
        let pay = mesh.http.post("/v1/payments").token(fan.token()).json(&body);
        let pay = pay.header("prefer", "wait=20");
        let (paid, _) = tokio::join!(pay.send(), fan.delete(&cancel));
        let paid = paid.expect("sent");
        if paid.code().as_deref() == Some("hold_gone") {
            continue;
        }
        let payment: Payment = paid.json().expect("a payment");
        match payment.state {
            PaymentState::Failed => return payment,
            // The money was faster after all: it is refunded, as after any cancellation.
            _ => {
                fan.payment_becomes(&payment, PaymentState::Refunded).await;
            }
        }
    }
    panic!("no payment lost its hold in 50 rounds");
}
