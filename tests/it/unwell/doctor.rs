//! `onsale doctor` finds what is wrong with a mesh.

use events::{ReservationId, ScheduleId, payment::Payment, reservation::ReservationConfirmed};
use harness::mesh::{Fan, Mesh, eventually, run};
use onsale::doctor;
use serde_json::json;
use uuid::Uuid;

use crate::{
    broker::Broker,
    dead_letters::{client::emit, lines::poison},
};

/// Waits until doctor reports lines that begin with the first text and contain the second.
async fn finds(mesh: &Mesh, wanted: &[(&str, &str)]) {
    let problems = std::sync::Mutex::new(Vec::new());
    for _ in 0..4 {
        let found = doctor::problems(&mesh.env.config).await;
        let is_found = |(part, text): &(&str, &str)| {
            found.iter().any(|ill| ill.starts_with(part) && ill.contains(text))
        };
        if wanted.iter().all(is_found) {
            return;
        }
        *problems.lock().expect("a list") = found;
    }
    panic!("{wanted:?} is not in {problems:?}");
}

#[test]
fn doctor_finds_dead_letters_stalled_sagas_violations_and_paused_consumers() {
    run(async {
        let mesh = Mesh::own().await;
        let provisioner = Broker::of(&mesh.env, onsale::config::PROVISIONER).await;
        let schedule = mesh.open(2, |_| {}).await.schedule_id;
        let fan = mesh.fan(200).await;
        let hold = fan.hold(schedule, &["A-1-1"]).await;
        eventually("doctor finds nothing wrong", || async {
            doctor::problems(&mesh.env.config).await.is_empty().then_some(())
        })
        .await;

        poison(&mesh, &mesh.fan(100).await).await;
        finds(&mesh, &[("parked by point: ", "1 dead letters")]).await;

        // No consumer of this event has ever seen such a reservation.
        emit(&mesh.env, &confirmed(&fan, schedule)).await;
        finds(&mesh, &[("violations: ", "found")]).await;

        provisioner.pause("reservation").await;
        let body = json!({ "reservation_id": hold.reservation_id });
        let payment: Payment = fan.post("/v1/payments", &body).await.json().expect("accepted");
        let still = ("events consumed: ", "reservation is paused");
        finds(&mesh, &[still]).await;
        let stalled = ("sagas: ", "sagas are stalled");
        eventually("the saga is late", || async {
            let path = format!("/v1/sagas/{}", payment.payment_id);
            let saga: serde_json::Value = fan.get(&path).await.json().ok()?;
            (saga["state"] == "stalled").then_some(())
        })
        .await;
        finds(&mesh, &[still, stalled]).await;

        provisioner.resume("reservation").await;
        fan.payment_becomes(&payment, events::payment::PaymentState::Completed).await;
        let problems = doctor::problems(&mesh.env.config).await;
        assert!(!problems.iter().any(|ill| ill.starts_with(still.0)), "{problems:?}");
        mesh.stop().await;
    });
}

/// An event as if seats had been confirmed that were never held.
pub fn confirmed(fan: &Fan<'_>, schedule_id: ScheduleId) -> ReservationConfirmed {
    ReservationConfirmed {
        reservation_id: ReservationId(Uuid::now_v7()),
        schedule_id,
        user_id: fan.session.user_id,
        payment_id: Uuid::now_v7().into(),
        seats: vec![events::SeatId("A-1-2".into())],
        amount: 100,
        hold_version: 1,
    }
}
