//! Many fans, one seat: each round has exactly one owner, and late events of a former owner do not
//! affect the next one.

use events::{
    ScheduleId,
    concert::SeatState,
    payment::PaymentState,
    reservation::{Reservation, ReservationState},
};
use futures::{StreamExt, future::join_all, stream};
use harness::mesh::{Fan, Mesh, eventually, run};
use onsale::http::Answer;
use serde_json::json;

use crate::{
    messages::{StoredEvent, emit_again},
    rest::{Stores, assert_same, but_audit},
};

/// How many fans want the same seat.
const FANS: usize = 200;
/// How many seats they compete for, one after the other.
const ROUNDS: usize = 50;
/// How many fans sign up at a time.
const SIGN_UPS: usize = 8;

#[test]
fn of_two_hundred_fans_exactly_one_gets_the_seat_fifty_times_over() {
    run(async {
        let mesh = Mesh::own().await;
        let schedule = mesh
            .open(ROUNDS, |opening| opening.seats_per_fan_max = Some(ROUNDS as u32))
            .await
            .schedule_id;
        let fans: Vec<(Fan<'_>, String)> = stream::iter(0..FANS)
            .map(|_| async {
                let fan = mesh.fan(0).await;
                let pass = fan.admitted(schedule).await;
                (fan, pass)
            })
            .buffer_unordered(SIGN_UPS)
            .collect()
            .await;
        is_known(schedule, &fans[0]).await;
        let mut owners = 0;
        for round in 1..=ROUNDS {
            let seat = format!("A-1-{round}");
            let seats = [seat.as_str()];
            let asked = fans.iter().map(|(fan, pass)| ask(fan, schedule, &seats, pass));
            let answers: Vec<Answer> = join_all(asked).await;
            let (granted, refused): (Vec<_>, Vec<_>) =
                answers.iter().partition(|answer| answer.status == 201);
            assert_eq!(granted.len(), 1, "{seat}");
            for answer in refused {
                assert_eq!(answer.code().as_deref(), Some("seat_taken"), "{seat}: {answer:?}");
            }
            owners += granted.len();
        }
        assert_eq!(owners, ROUNDS);
        // The reservation service's own rows agree: as many claims as seats, and no seat twice.
        let stores = Stores::of(&mesh.env).await;
        let (claims, seats): (i64, i64) = sqlx::query_as(
            "select count(*), count(distinct s->>'seat')
             from reservations, jsonb_array_elements(seats) s where schedule_id = $1",
        )
        .bind(schedule.0)
        .fetch_one(stores.database("reservation"))
        .await
        .expect("claims");
        assert_eq!((claims, seats), (ROUNDS as i64, ROUNDS as i64));
        mesh.stop().await;
    });
}

/// Waits until the reservation service knows the schedule, which it consumes a moment later: then
/// it refuses an unknown seat. It learns from the pass that a fan is ACTIVE.
async fn is_known(schedule: ScheduleId, (fan, pass): &(Fan<'_>, String)) {
    eventually("the reservation service knows the schedule", || async {
        let answer = ask(fan, schedule, &["A-0-0"], pass).await;
        (answer.code().as_deref() == Some("unknown_seat")).then_some(())
    })
    .await;
}

async fn ask(fan: &Fan<'_>, schedule: ScheduleId, seats: &[&str], pass: &str) -> Answer {
    let body = json!({ "schedule_id": schedule, "seats": seats, "pass": pass });
    fan.post("/v1/reservations", &body).await
}

#[test]
fn late_events_of_a_former_owner_do_not_affect_the_next_one() {
    run(async {
        let mesh = Mesh::own().await;
        let stores = Stores::of(&mesh.env).await;
        let schedule = mesh.open(1, |_| {}).await.schedule_id;
        let (former, next) = (mesh.fan(100).await, mesh.fan(100).await);

        // One hold that was cancelled, and one that was paid and cancelled.
        let first = former.hold(schedule, &["A-1-1"]).await;
        cancel(&former, &first).await;
        let pass = former.pass(schedule).await;
        let second: Reservation =
            former.ask_for(schedule, &["A-1-1"], &pass).await.json().expect("a hold");
        let payment = former.pay(&second).await;
        cancel(&former, &second).await;
        former.payment_becomes(&payment, PaymentState::Refunded).await;
        let theirs = next.hold(schedule, &["A-1-1"]).await;
        stores.at_rest().await;

        // Every event about the former owner is emitted again.
        let mut events = stores.broker.events_after(&Default::default()).await;
        let of = former.session.user_id.to_string();
        events.retain(|event: &StoredEvent| {
            event.data().to_string().contains(&of) && !event.name().starts_with("user.")
        });
        for name in ["point.debited", "reservation.cancelled", "reservation.confirmed"] {
            assert!(events.iter().any(|event| event.name() == name), "{name}");
        }
        let before = but_audit(stores.at_rest().await);
        emit_again(&mesh.env, &events).await;
        assert_same(&before, &but_audit(stores.at_rest().await), "emitted again");
        for hold in [&first, &second] {
            let path = format!("/v1/reservations/{}", hold.reservation_id);
            let again = former.delete(&path).await;
            assert_eq!(again.code().as_deref(), Some("not_cancellable"));
        }

        next.reservation_becomes(&theirs, ReservationState::Pending).await;
        next.seat_becomes(schedule, "A-1-1", SeatState::Held).await;
        next.pay(&theirs).await;
        next.seat_becomes(schedule, "A-1-1", SeatState::Sold).await;
        assert_eq!((former.balance().await, next.balance().await), (100, 0));
        let receipt = mesh.receipt_is_clean(schedule).await;
        assert_eq!((receipt.seats_sold, receipt.points_taken), (1, 100));
        mesh.stop().await;
    });
}

async fn cancel(fan: &Fan<'_>, hold: &Reservation) {
    let answer = fan.delete(&format!("/v1/reservations/{}", hold.reservation_id)).await;
    assert_eq!(answer.status, 202);
}
