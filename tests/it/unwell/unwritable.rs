//! A broker that answers everything but cannot write, as with a full disk.

use harness::mesh::{Mesh, eventually, run};
use onsale::doctor;

use super::{faults, servers};

/// Fewer bytes than any stream with an event needs.
const NO_ROOM: u64 = 16;

#[test]
fn a_broker_that_cannot_write_is_reported_and_nothing_is_lost_after_a_restart() {
    run(async {
        let mesh = Mesh::own().await;
        let schedule = mesh.open(1, |_| {}).await.schedule_id;
        let fan = mesh.fan(100).await;
        let hold = fan.hold(schedule, &["A-1-1"]).await;
        eventually("it is ready", || async { faults(&mesh).await.is_empty().then_some(()) }).await;

        let nats = servers(&mesh).nats.clone();
        nats.limit_files(NO_ROOM).expect("limited");
        let payment = pay_without_waiting(&fan, &hold).await;
        eventually("/readyz reports it", || async {
            let faults = faults(&mesh).await;
            let says = |part: &str| faults.iter().any(|ail| ail.contains(part));
            (says("the broker cannot work") && says("payment: ")).then_some(())
        })
        .await;
        let problems = doctor::problems(&mesh.env.config).await;
        let broker = problems.iter().find(|ill| ill.starts_with("broker: it cannot write: "));
        assert!(broker.is_some_and(|ill| ill.ends_with("restart it")), "{problems:?}");

        nats.restart().await.expect("the broker again, without the limit");
        fan.payment_becomes(&payment, events::payment::PaymentState::Completed).await;
        mesh.receipt_is_clean(schedule).await;
        let problems = || async { doctor::problems(&mesh.env.config).await };
        eventually("doctor finds nothing wrong", || async {
            problems().await.is_empty().then_some(())
        })
        .await;
        mesh.stop().await;
    });
}

async fn pay_without_waiting(
    fan: &harness::mesh::Fan<'_>,
    hold: &events::reservation::Reservation,
) -> events::payment::Payment {
    let body = serde_json::json!({ "reservation_id": hold.reservation_id });
    fan.post("/v1/payments", &body).await.json().expect("accepted")
}
