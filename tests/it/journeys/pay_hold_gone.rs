//! Pay, hold gone: the money is refunded, and the fan returns to the front of the queue.

use events::{concert::SeatState, payment::PaymentFailure, queue::PlaceState};
use harness::mesh::{eventually, run, shared};

#[test]
fn a_fan_whose_hold_is_lost_while_paying_gets_the_money_back_and_the_front_of_the_queue() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(2, |_| {}).await.schedule_id;
        let fan = mesh.fan(100).await;
        let payment = fan.loses_a_hold_while_paying(schedule).await;
        assert_eq!(payment.reason, Some(PaymentFailure::HoldGone));
        assert_eq!(fan.balance().await, 100);
        fan.seat_becomes(schedule, "A-1-1", SeatState::Free).await;

        // Returned to the front and, the room being empty, admitted again.
        let pass = eventually("the fan is admitted again", || async {
            let place = fan.place(schedule).await;
            (place.state == PlaceState::Active).then_some(place.pass).flatten()
        })
        .await;
        eventually("the new pass allows another try", || async {
            let held = fan.ask_for(schedule, &["A-1-1"], &pass).await;
            (held.status == 201).then_some(())
        })
        .await;
    });
}
