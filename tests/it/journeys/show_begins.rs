//! Show begins: fans can no longer enter, reserve, pay or cancel, and each refusal has its own
//! code.

use events::{
    Page, ScheduleId, Timestamp,
    concert::{Schedule, ScheduleState},
    payment::PaymentState,
    queue::{PlaceEnd, PlaceState},
    reservation::{CancelReason, ReservationState},
};
use harness::mesh::{Mesh, eventually, run, shared};
use serde_json::{Value, json};

/// How long a sale of these tests lasts.
const SALE_SECS: i64 = 15;

async fn is_past(moment: Timestamp) {
    eventually("the moment is past", || async { (mesh::clock::now() >= moment).then_some(()) })
        .await;
}

async fn begins_soon(mesh: &Mesh, seats: usize) -> Schedule {
    mesh.open(seats, |opening| opening.starts_at = mesh::clock::now().plus_secs(SALE_SECS)).await
}

async fn listed(mesh: &Mesh, schedule: &Schedule) -> Schedule {
    let path = format!("/v1/concerts/{}/schedules", schedule.concert_id);
    let page: Page<Schedule> =
        mesh.http.get(path).send().await.expect("sent").json().expect("a page");
    page.items.into_iter().find(|it| it.schedule_id == schedule.schedule_id).expect("listed")
}

fn room(schedule: ScheduleId) -> String {
    format!("/v1/schedules/{schedule}/queue")
}

#[test]
fn a_ticket_cannot_be_cancelled_once_the_show_has_begun() {
    run(async {
        let mesh = shared().await;
        let show = begins_soon(mesh, 1).await;
        assert_eq!(show.refund_until, show.starts_at, "the default is the start of the show");
        let fan = mesh.fan(100).await;
        let ticket = fan.hold(show.schedule_id, &["A-1-1"]).await;
        assert!(ticket.expires_at <= show.starts_at, "no hold outlives the sale");
        let payment = fan.pay(&ticket).await;
        is_past(show.starts_at).await;
        let path = format!("/v1/reservations/{}", ticket.reservation_id);
        let refused = fan.delete(&path).await;
        assert_eq!(refused.code().as_deref(), Some("not_cancellable"));
        let problem: Value = serde_json::from_slice(&refused.body).expect("a problem");
        assert_eq!(problem["reason"], "refund_deadline");
        assert_eq!(problem["refund_until"], show.refund_until.to_string());
        fan.reservation_becomes(&ticket, ReservationState::Confirmed).await;
        assert_eq!(
            (fan.balance().await, fan.payment(&payment).await.state),
            (0, PaymentState::Completed)
        );

        // A cancelled show is refunded, however late.
        let path = format!("/v1/schedules/{}", show.schedule_id);
        let off = mesh.http.delete(&path).token(&mesh.organizer.access_token).send().await;
        assert_eq!(off.expect("sent").status, 202);
        fan.payment_becomes(&payment, PaymentState::Refunded).await;
        let ended = fan.reservation_becomes(&ticket, ReservationState::Cancelled).await;
        assert_eq!(ended.reason, Some(CancelReason::ShowCancelled));
        mesh.receipt_is_clean(show.schedule_id).await;
    });
}

#[test]
fn the_organizer_sets_until_when_tickets_can_be_cancelled() {
    run(async {
        let mesh = shared().await;
        let until = mesh::clock::now().plus_secs(SALE_SECS);
        let show = mesh.open(2, |opening| opening.refund_until = Some(until)).await;
        assert_eq!(listed(mesh, &show).await.refund_until, show.refund_until);
        let fan = mesh.fan(200).await;
        let early = fan.hold(show.schedule_id, &["A-1-1"]).await;
        let pass = fan.pass(show.schedule_id).await;
        let late = fan.ask_for(show.schedule_id, &["A-1-2"], &pass).await.json().expect("a hold");
        let returned = fan.pay(&early).await;
        fan.pay(&late).await;
        let of = |hold: &events::reservation::Reservation| {
            format!("/v1/reservations/{}", hold.reservation_id)
        };
        assert_eq!(fan.delete(&of(&early)).await.status, 202);
        fan.payment_becomes(&returned, PaymentState::Refunded).await;
        is_past(until).await;
        assert_eq!(fan.delete(&of(&late)).await.code().as_deref(), Some("not_cancellable"));
        // A hold is not a ticket, and can still be cancelled.
        let other = mesh.fan(0).await;
        let held = other.hold(show.schedule_id, &["A-1-1"]).await;
        assert_eq!(other.delete(&of(&held)).await.status, 202);
        mesh.receipt_is_clean(show.schedule_id).await;
    });
}

#[test]
fn sales_end_when_the_show_begins_and_each_request_is_refused() {
    run(async {
        let mesh = shared().await;
        let show = begins_soon(mesh, 2).await;
        let schedule = show.schedule_id;
        assert_eq!(listed(mesh, &show).await.state, ScheduleState::Open);
        let (holder, idle) = (mesh.fan(100).await, mesh.fan(0).await);
        let pass = idle.admitted(schedule).await;
        let hold = holder.hold(schedule, &["A-1-1"]).await;
        assert!(idle.place(schedule).await.reserve_until.is_some_and(|at| at <= show.starts_at));
        is_past(show.starts_at).await;

        assert_eq!(listed(mesh, &show).await.state, ScheduleState::Closed);
        let late = mesh.fan(0).await.post(&room(schedule), &json!({})).await;
        assert_eq!(late.code().as_deref(), Some("schedule_closed"));
        let reserve = idle.ask_for(schedule, &["A-1-2"], &pass).await;
        assert_eq!(reserve.code().as_deref(), Some("schedule_closed"));
        assert_eq!(holder.try_pay(&hold).await.err().as_deref(), Some("hold_gone"));
        holder.reservation_becomes(&hold, ReservationState::Expired).await;
        let ended = idle.place_becomes(schedule, PlaceState::Expired).await;
        assert_eq!(ended.reason, Some(PlaceEnd::Closed));
        let receipt = mesh.receipt_is_clean(schedule).await;
        assert_eq!((receipt.seats_sold, receipt.points_taken), (0, 0));
    });
}
