//! Every journey of a fan is one tree for each trace, with the expected services in their order.

use std::collections::BTreeMap;

use events::{
    payment::PaymentState,
    reservation::{Reservation, ReservationState},
};
use harness::{
    mesh::{Fan, Mesh, run},
    otlp::{Sink, Tree},
};
use mesh::trace::Protocol;
use onsale::registry::SERVICES;
use serde_json::json;
use uuid::Uuid;

use super::{found_by, traced, trees};

/// Everything about one reservation is found by its id.
const RESERVATION: &str = "onsale.reservation.id";

/// A path that must be in exactly one tree, and an attribute by which that is found.
struct Journey {
    name: &'static str,
    value: String,
    path: Vec<String>,
}

impl Journey {
    /// A journey that is found by its saga.
    fn new(saga_id: impl ToString, path: &[&str]) -> Self {
        Self::by("onsale.saga.id", saga_id, path)
    }

    fn by(name: &'static str, value: impl ToString, path: &[&str]) -> Self {
        let path = path.iter().map(|step| (*step).to_owned()).collect();
        Self { name, value: value.to_string(), path }
    }

    fn is_in(&self, tree: &Tree) -> bool {
        tree.has_path(&self.path.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Exactly one trace has it.
    fn check(&self, trees: &BTreeMap<String, Tree>) {
        let found = found_by(trees, self.name, &self.value);
        let having = found.iter().filter(|tree| self.is_in(tree)).count();
        let drawn: String = found.iter().map(|tree| tree.to_string()).collect();
        assert_eq!(having, 1, "{:#?}\nin {drawn}", self.path);
    }
}

#[test]
fn every_journey_is_one_tree_for_each_trace() {
    run(async {
        let sink = Sink::start(Protocol::Grpc).await.expect("a collector");
        let mesh = Mesh::with_configs(&SERVICES, traced(&sink)).await;
        let mut journeys = vec![charges(&mesh).await];
        journeys.extend(enters_and_reserves(&mesh).await);
        journeys.extend(gives_a_hold_back(&mesh).await);
        journeys.extend(returns_a_ticket(&mesh).await);
        journeys.extend(loses_a_hold_to_time(&mesh).await);
        journeys.extend(sees_the_show_called_off(&mesh).await);
        journeys.extend(closes_the_account(&mesh).await);
        mesh.stop().await;
        let trees = trees(&sink);
        journeys.iter().for_each(|journey| journey.check(&trees));
    });
}

async fn charges(mesh: &Mesh) -> Journey {
    let (fan, request_id) = (mesh.fan(0).await, Uuid::now_v7().to_string());
    let charge = mesh.http.post("/v1/points/charges").token(fan.token());
    let charge = charge.json(&json!({ "amount": 100 })).header("x-request-id", &request_id);
    assert_eq!(charge.send().await.expect("sent").status, 201);
    let path = [
        "gateway: POST /v1/points/charges",
        "point: command point.charge",
        "point: publish point.charged",
    ];
    Journey::by("onsale.request_id", request_id, &path)
}

async fn enters_and_reserves(mesh: &Mesh) -> Vec<Journey> {
    let schedule = mesh.open(1, |_| {}).await.schedule_id;
    let fan = mesh.fan(0).await;
    let hold = fan.hold(schedule, &["A-1-1"]).await;
    let asked = [
        "gateway: POST /v1/reservations",
        "reservation: command reservation.reserve",
        "reservation: command reservation.hold",
        "reservation: publish reservation.created",
    ];
    let taken = |service: &str| {
        let taken = format!("{service}: process reservation.created");
        Journey::new(hold.reservation_id, &[&asked[..], &[&taken]].concat())
    };
    // The events of the waiting room are consumed by nobody who sells.
    let entered = [
        "gateway: POST /v1/schedules/{id}/queue",
        "queue: command queue.enter",
        "queue: publish queue.waiting",
    ];
    let mut journeys: Vec<_> = ["payment", "queue", "notification", "concert"].map(taken).into();
    let path = format!("/v1/schedules/{schedule}/queue");
    journeys.push(Journey::by("url.path", path, &entered));
    journeys
}

async fn gives_a_hold_back(mesh: &Mesh) -> Vec<Journey> {
    let schedule = mesh.open(1, |_| {}).await.schedule_id;
    let fan = mesh.fan(0).await;
    let hold = fan.hold(schedule, &["A-1-1"]).await;
    cancel(&fan, &hold).await;
    let path = [
        "gateway: DELETE /v1/reservations/{id}",
        "reservation: command reservation.cancel",
        "reservation: publish reservation.cancelled",
        "payment: process reservation.cancelled",
    ];
    vec![Journey::by(RESERVATION, hold.reservation_id, &path)]
}

/// Cancels a reservation, in a saga of its own.
async fn cancel(fan: &Fan<'_>, hold: &Reservation) {
    fan.delete(&format!("/v1/reservations/{}", hold.reservation_id)).await;
    fan.reservation_becomes(hold, ReservationState::Cancelled).await;
}

async fn returns_a_ticket(mesh: &Mesh) -> Vec<Journey> {
    let schedule = mesh.open(1, |_| {}).await.schedule_id;
    let fan = mesh.fan(100).await;
    let hold = fan.hold(schedule, &["A-1-1"]).await;
    let payment = fan.pay(&hold).await;
    cancel(&fan, &hold).await;
    fan.payment_becomes(&payment, PaymentState::Refunded).await;
    let path = [
        "gateway: DELETE /v1/reservations/{id}",
        "reservation: command reservation.cancel",
        "reservation: publish reservation.cancelled",
        "point: process reservation.cancelled",
        "point: publish point.refunded",
        "payment: process point.refunded",
        "payment: publish payment.refunded",
    ];
    let taken = |service: &str| {
        let taken = format!("{service}: process payment.refunded");
        Journey::by(RESERVATION, hold.reservation_id, &[&path[..], &[&taken]].concat())
    };
    ["reservation", "ranking", "notification"].map(taken).into()
}

async fn loses_a_hold_to_time(mesh: &Mesh) -> Vec<Journey> {
    let schedule = mesh.open(1, |opening| opening.hold_secs = Some(1)).await.schedule_id;
    let fan = mesh.fan(0).await;
    let hold = fan.hold(schedule, &["A-1-1"]).await;
    fan.reservation_becomes(&hold, ReservationState::Expired).await;
    let expired = [
        "reservation: timer expire",
        "reservation: publish reservation.expired",
        "queue: process reservation.expired",
    ];
    let expired = Journey::new(hold.reservation_id, &expired);
    let led = ["reservation: command reservation.hold", "reservation: leads to expire"];
    let reserve = ["gateway: POST /v1/reservations", "reservation: command reservation.reserve"];
    vec![expired, Journey::new(hold.reservation_id, &[&reserve[..], &led].concat())]
}

async fn sees_the_show_called_off(mesh: &Mesh) -> Vec<Journey> {
    let schedule = mesh.open(2, |_| {}).await.schedule_id;
    let (owner, holder) = (mesh.fan(100).await, mesh.fan(0).await);
    let payment = owner.pay(&owner.hold(schedule, &["A-1-1"]).await).await;
    let hold = holder.hold(schedule, &["A-1-2"]).await;
    let path = format!("/v1/schedules/{schedule}");
    let token = &mesh.organizer.access_token;
    mesh.http.delete(&path).token(token).send().await.expect("sent");
    owner.payment_becomes(&payment, PaymentState::Refunded).await;
    holder.reservation_becomes(&hold, ReservationState::Cancelled).await;
    let refunded = [
        "reservation: timer empty",
        "reservation: publish reservation.cancelled",
        "point: process reservation.cancelled",
        "point: publish point.refunded",
        "payment: process point.refunded",
        "payment: publish payment.refunded",
    ];
    let off = [
        "gateway: DELETE /v1/schedules/{id}",
        "concert: command concert.cancel_schedule",
        "concert: publish concert.schedule_cancelled",
        "reservation: process concert.schedule_cancelled",
    ];
    let by_schedule = |path: &[&str]| Journey::by("onsale.schedule.id", schedule, path);
    vec![Journey::new(payment.payment_id, &refunded), by_schedule(&off)]
}

async fn closes_the_account(mesh: &Mesh) -> Vec<Journey> {
    let fan = mesh.fan(0).await;
    let ask = mesh.http.delete("/v1/users/me").token(fan.token()).header("prefer", "wait=20");
    let ended: events::user::Withdrawal = ask.send().await.expect("sent").json().expect("ended");
    let asked = [
        "gateway: DELETE /v1/users/me",
        "user: command user.withdraw",
        "user: publish user.withdrawal_requested",
    ];
    let cleared = |service: &str| {
        let steps = [
            format!("{service}: process user.withdrawal_requested"),
            format!("{service}: publish {service}.withdrawal_cleared"),
            format!("user: process {service}.withdrawal_cleared"),
        ];
        let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
        Journey::new(ended.attempt, &[&asked[..], &steps].concat())
    };
    ["payment", "reservation", "point"].map(cleared).into()
}
