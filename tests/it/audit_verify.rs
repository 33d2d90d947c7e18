//! `onsale audit verify` finds nothing after a sale, and finds every false event.

use events::{
    Event, EventId, ReservationId,
    audit::Rule,
    payment::{Payment, PaymentCompleted, PaymentState},
    reservation::{Reservation, ReservationConfirmed},
};
use harness::mesh::{Mesh, run};
use onsale::verify::{self, Report};
use serde_json::json;
use uuid::Uuid;

use crate::messages::{Message, Producers};

#[test]
fn a_sale_is_clean_and_each_false_event_is_found_and_named() {
    run(async {
        let mesh = Mesh::own().await;
        let (reservation, payment) = small_sale(&mesh).await;
        let report = verify(&mesh).await;
        assert!(report.is_clean(), "{report:#?}");
        assert!(report.rules.iter().all(|line| line.checked > 0), "{:?}", report.rules);
        let compared = report.compared.expect("at rest");
        assert!(compared.payments >= 4 && compared.reservations >= 4, "{compared:?}");
        assert!(compared.seats >= 3 && compared.wallets >= 3, "{compared:?}");

        let stolen = emit(&mesh, &confirmed(&reservation, &payment)).await;
        let report = verify(&mesh).await;
        let found = report.violations.iter().find(|one| {
            one.violation.rule == Rule::OneOwner && one.violation.events.contains(&stolen)
        });
        let found = found.unwrap_or_else(|| panic!("{report:#?}"));
        assert!(found.events.contains(&(stolen, ReservationConfirmed::NAME)), "{found:?}");
        let owner = found.events.iter().any(|(_, name)| *name == "reservation.created");
        assert!(owner, "the owner's event is not named: {found:?}");
        let before = report.violations.len();

        let again = emit(&mesh, &completed(&payment)).await;
        let report = verify(&mesh).await;
        let found = report.violations.iter().find(|one| {
            one.violation.rule == Rule::PaidIsOwned && one.violation.events.contains(&again)
        });
        let found = found.unwrap_or_else(|| panic!("{report:#?}"));
        assert_eq!(found.events.len(), 2, "{found:?}");
        assert!(report.violations.len() > before && !report.is_clean());
        mesh.stop().await;
    });
}

#[test]
fn a_database_that_differs_from_the_events_is_found() {
    run(async {
        let mesh = Mesh::own().await;
        let (reservation, payment) = small_sale(&mesh).await;
        let stores = crate::rest::Stores::of(&mesh.env).await;
        for (service, sql, id) in [
            (
                "payment",
                "update payments set state = 'REFUNDED' where id = $1",
                payment.payment_id.0,
            ),
            (
                "reservation",
                "update seats set reservation_id = null where reservation_id = $1",
                reservation.reservation_id.0,
            ),
            (
                "point",
                "update wallets set balance = balance + 1 where user_id = $1",
                payment.user_id.0,
            ),
        ] {
            let changed = sqlx::query(sql).bind(id).execute(stores.database(service)).await;
            assert_eq!(changed.expect("changed").rows_affected(), 1, "{service}");
        }
        let report = verify(&mesh).await;
        assert!(report.violations.is_empty(), "{report:#?}");
        let mut found: Vec<&str> = report
            .differences
            .iter()
            .map(|one| one.what.split_once(' ').map_or("", |(what, _)| what))
            .collect();
        found.sort_unstable();
        assert_eq!(found, ["payment", "seat", "wallet"], "{report:#?}");
        mesh.stop().await;
    });
}

/// One fan pays, one has too few points, and one cancels a paid seat and loses a hold while paying.
/// Returns the reservation and the payment that stay.
async fn small_sale(mesh: &Mesh) -> (Reservation, Payment) {
    let schedule = mesh.open(3, |_| {}).await.schedule_id;
    let (payer, poor, fickle) = (mesh.fan(150).await, mesh.fan(50).await, mesh.fan(100).await);
    let paid = payer.hold(schedule, &["A-1-1"]).await;
    let payment = payer.pay(&paid).await;
    assert_eq!(payment.state, PaymentState::Completed);
    let unpaid = poor.hold(schedule, &["A-1-2"]).await;
    assert_eq!(poor.pay(&unpaid).await.state, PaymentState::Failed);
    poor.delete(&format!("/v1/reservations/{}", unpaid.reservation_id)).await;
    let given_up = fickle.hold(schedule, &["A-1-3"]).await;
    let refunded = fickle.pay(&given_up).await;
    fickle.delete(&format!("/v1/reservations/{}", given_up.reservation_id)).await;
    fickle.payment_becomes(&refunded, PaymentState::Refunded).await;
    fickle.loses_a_hold_while_paying(mesh.open(1, |_| {}).await.schedule_id).await;
    (paid, payment)
}

async fn verify(mesh: &Mesh) -> Report {
    verify::run_over(&mesh.env.config).await.expect("a report")
}

/// An event as if the seats had also been confirmed for another reservation.
fn confirmed(reservation: &Reservation, payment: &Payment) -> ReservationConfirmed {
    ReservationConfirmed {
        reservation_id: ReservationId(Uuid::now_v7()),
        schedule_id: reservation.schedule_id,
        user_id: payment.user_id,
        payment_id: Uuid::now_v7().into(),
        seats: reservation.seats.iter().map(|priced| priced.seat.clone()).collect(),
        amount: payment.amount,
        hold_version: 1,
    }
}

/// An event as if the payment had completed another reservation as well.
fn completed(payment: &Payment) -> PaymentCompleted {
    PaymentCompleted {
        payment_id: payment.payment_id,
        reservation_id: ReservationId(Uuid::now_v7()),
        schedule_id: payment.schedule_id,
        user_id: payment.user_id,
        seats: 1,
        amount: payment.amount,
        requested_at: payment.requested_at,
        ended_at: mesh::clock::now(),
    }
}

/// Emits an event as its service would, though nothing has happened, and returns its id.
async fn emit<E: Event>(mesh: &Mesh, event: &E) -> EventId {
    let subject = events::subject(E::NAME, E::VERSION, event.schedule());
    let id = Uuid::now_v7();
    let envelope = json!({
        "specversion": "1.0",
        "id": id,
        "source": format!("/onsale/{}", events::producer_of(E::NAME)),
        "type": format!("onsale.{}.v{}", E::NAME, E::VERSION),
        "time": mesh::clock::now(),
        "subject": event.about(),
        "sagaid": Uuid::now_v7(),
        "causationid": Uuid::now_v7(),
        "data": event,
    });
    Producers::of(&mesh.env).publish(&Message::of(&subject, &[envelope])).await;
    EventId(id)
}
