//! Show cancelled: every hold ends, every payment is refunded, and the waiting room closes.

use events::{
    Page,
    concert::{MapState, Schedule, SeatMap},
    notification::{Message, MessageKind, MessageState},
    payment::PaymentState,
    queue::{PlaceEnd, PlaceState},
    reservation::{CancelReason, Reservation, ReservationState},
};
use futures::future::join_all;
use harness::mesh::{Fan, Mesh, SOON, eventually, run, shared};
use onsale::development::lag::Observer;
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
        let pass = holder.pass(schedule).await;
        waiting.enter(schedule).await;

        let path = format!("/v1/schedules/{schedule}");
        let token = &mesh.organizer.access_token;
        let answer = mesh.http.delete(&path).token(token).send().await.unwrap();
        assert_eq!(answer.status, 202);
        answer.json::<Schedule>().unwrap();

        owner.payment_becomes(&payment, PaymentState::Refunded).await;
        owner.reservation_becomes(&sold, ReservationState::Cancelled).await;
        holder.reservation_becomes(&hold, ReservationState::Cancelled).await;
        let place = waiting.place_becomes(schedule, PlaceState::Expired).await;
        assert_eq!(place.reason, Some(PlaceEnd::Cancelled), "the place names the reason");
        assert_eq!((owner.balance().await, holder.balance().await), (100, 100));
        let reasons = [&sold, &hold].map(|it| it.reservation_id);
        for id in reasons {
            let fan = if id == sold.reservation_id { &owner } else { &holder };
            let ended: Reservation =
                fan.get(&format!("/v1/reservations/{id}")).await.json().unwrap();
            assert_eq!(ended.reason, Some(CancelReason::ShowCancelled));
        }
        // Every service answers with this reason: for paying, for reserving, on the map.
        let paid = eventually("the payment service has handled the event", || async {
            holder.try_pay(&hold).await.err().filter(|code| code != "hold_gone")
        });
        assert_eq!(paid.await, "schedule_cancelled");
        let pass = json!({ "schedule_id": schedule, "seats": ["A-1-2"], "pass": pass });
        let reserve = holder.post("/v1/reservations", &pass).await;
        assert_eq!(reserve.code().as_deref(), Some("schedule_cancelled"));
        let map = eventually("the map shows it", || async {
            let path = format!("/v1/schedules/{schedule}/seats");
            let map: SeatMap = holder.get(&path).await.json().unwrap();
            (map.state == MapState::Cancelled && map.seats.is_empty()).then_some(map)
        });
        assert!(map.await.sections.iter().all(|count| count.free == 0), "nothing is free");
        let late = mesh.fan(0).await;
        let refused = late.post(&format!("/v1/schedules/{schedule}/queue"), &json!({})).await;
        assert_eq!(refused.code().as_deref(), Some("schedule_cancelled"));
        mesh.receipt_is_clean(schedule).await;
    });
}

/// How many fans have paid when the show is cancelled.
const OWNERS: usize = 4;

#[test]
fn every_fan_with_a_seat_of_a_cancelled_show_is_refunded_and_notified_once() {
    run(async {
        let mesh = Mesh::own().await;
        let schedule = mesh.open(OWNERS + 1, |_| {}).await.schedule_id;
        let owners = join_all((0..OWNERS).map(|_| mesh.fan(100))).await;
        let (holder, bystander) = (mesh.fan(100).await, mesh.fan(100).await);
        let mut sold = Vec::new();
        for (at, owner) in owners.iter().enumerate() {
            let hold = owner.hold(schedule, &[&format!("A-1-{}", at + 1)]).await;
            let payment = owner.pay(&hold).await;
            assert_eq!(payment.state, PaymentState::Completed);
            sold.push((hold, payment));
        }
        let held = holder.hold(schedule, &[&format!("A-1-{}", OWNERS + 1)]).await;
        bystander.enter(schedule).await;

        let token = &mesh.organizer.access_token;
        // Cancelling twice has the effect of once.
        for _ in 0..2 {
            let path = format!("/v1/schedules/{schedule}");
            mesh.http.delete(path).token(token).send().await.expect("sent");
        }
        for (owner, (_, payment)) in owners.iter().zip(&sold) {
            owner.payment_becomes(payment, PaymentState::Refunded).await;
        }
        holder.reservation_becomes(&held, ReservationState::Cancelled).await;
        let receipt = mesh.receipt_is_clean(schedule).await;
        assert_eq!(receipt.payments.get("REFUNDED"), Some(&(OWNERS as i64)));
        all_have_consumed(&mesh).await;

        for (owner, (hold, payment)) in owners.iter().zip(&sold) {
            assert_eq!(owner.balance().await, 100);
            let (hold, payment) = (hold.reservation_id.0, payment.payment_id.0);
            let expected = [
                (MessageKind::ReservationMade, hold),
                (MessageKind::PaymentCompleted, payment),
                (MessageKind::ShowCancelled, hold),
                (MessageKind::MoneyReturned, payment),
            ];
            assert_eq!(notified(owner).await, expected);
        }
        let hold = held.reservation_id.0;
        let expected = [(MessageKind::ReservationMade, hold), (MessageKind::ShowCancelled, hold)];
        assert_eq!(notified(&holder).await, expected);
        assert!(notified(&bystander).await.is_empty());
        mesh.stop().await;
    });
}

/// Waits until the notification service has handled everything of the sale.
async fn all_have_consumed(mesh: &Mesh) {
    let observer = Observer::open(&mesh.env.config, &["notification"]).await.expect("an observer");
    observer.wait_until_caught_up(SOON).await.expect("caught up");
    observer.close().await;
}

/// The messages of a fan by kind and subject, in the order of kinds, once all of them were sent.
async fn notified(fan: &Fan<'_>) -> Vec<(MessageKind, uuid::Uuid)> {
    let sent = eventually("every message was sent", || async {
        let page: Page<Message> = fan.get("/v1/me/messages").await.json().expect("messages");
        let are_sent = page.items.iter().all(|message| message.state == MessageState::Sent);
        are_sent.then_some(page.items)
    })
    .await;
    let mut notified: Vec<_> =
        sent.iter().map(|message| (message.kind, message.subject_id)).collect();
    notified.sort_unstable();
    notified
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
