//! Sold out: the ranking shows it, and each buyer is notified once and finds the payment's saga.

use std::collections::BTreeSet;

use events::{
    Page, ScheduleId,
    audit::{Saga, SagaLine, SagaState},
    notification::{Message, MessageKind, MessageState},
    payment::{Payment, PaymentState},
    ranking::{ConcertRanking, RankedConcert},
    reservation::Reservation,
};
use futures::future::join_all;
use harness::mesh::{Fan, Mesh, SOON, eventually, run};
use hyper::StatusCode;
use onsale::{development::lag::Observer, operator::Operator};

/// The listeners that handle the events of a sale. Nothing is exported without a target.
const LISTENERS: [&str; 3] = ["ranking", "notification", "audit"];
/// How many fans buy seats.
const BUYERS: usize = 4;
/// The seats of the club, two for each fan.
const SEATS: usize = 2 * BUYERS;

#[test]
fn a_sold_out_club_is_ranked_and_each_buyer_is_notified_once_and_finds_the_saga() {
    run(async {
        let mesh = Mesh::own().await;
        let club = mesh.open(SEATS, |_| {}).await;
        let schedule = club.schedule_id;
        let fans = join_all((0..BUYERS).map(|_| mesh.fan(200))).await;
        let stranger = mesh.fan(0).await;
        let buying = fans.iter().enumerate().map(|(at, fan)| buy(fan, schedule, at));
        let sales = join_all(buying).await;
        assert_eq!(mesh.receipt_is_clean(schedule).await.seats_sold, SEATS as i64);
        all_have_consumed(&mesh).await;

        let places = ranking(&mesh, "sold").await;
        assert_eq!(places.len(), 1, "{places:?}");
        assert_eq!(places[0].concert_id, club.concert_id);
        assert_eq!((places[0].place, places[0].seats_sold), (1, Some(SEATS as i64)));
        let fastest = ranking(&mesh, "sell_out").await;
        assert_eq!(fastest.len(), 1, "{fastest:?}");
        assert_eq!((fastest[0].place, fastest[0].schedule_id), (1, Some(schedule)));
        assert!(fastest[0].sell_out_ms.is_some_and(|millis| millis > 0), "{fastest:?}");

        let operator = Operator::at(mesh.http.clone(), &mesh.env.operator).await;
        let operator = operator.expect("the operator");
        let mut sagas = BTreeSet::new();
        for (at, (fan, (reservation, payment))) in fans.iter().zip(&sales).enumerate() {
            notified_of_the_sale(fan, reservation, payment).await;
            let found = saga_with_its_message(fan, payment).await;
            assert_eq!((found.line.flow.as_str(), found.line.state), ("pay", SagaState::Completed));
            assert!(found.to_come.is_empty() && found.line.awaited.is_empty(), "{found:?}");
            assert_eq!(found.line.user_id, Some(fan.session.user_id));
            // A seat is not an id: it is named with its schedule.
            let seat = format!("{schedule}%2F{}", seats_of(at)[1]);
            assert_eq!(saga(fan, seat).await, found);
            let path = format!("/v1/sagas/{}", payment.payment_id);
            assert_eq!(stranger.get(&path).await.status, StatusCode::NOT_FOUND);
            // The id of a hold gives the hold's own saga first; the payment's is listed with it.
            let hold = saga(fan, reservation.reservation_id).await;
            assert_eq!(
                (hold.line.flow.as_str(), hold.line.state),
                ("reserve", SagaState::Completed)
            );
            let about = sagas_about(&operator, reservation.reservation_id).await;
            assert_eq!(about, [found.line.clone(), hold.line]);
            assert_eq!(saga(fan, fan.session.user_id).await, found, "the latest saga of the fan");
            let of_fan = sagas_about(&operator, fan.session.user_id).await;
            assert_eq!(of_fan.first(), Some(&found.line), "the latest of them");
            sagas.insert(found.line.saga_id);
        }
        assert_eq!(sagas.len(), BUYERS);
        assert!(messages(&stranger).await.is_empty());
        mesh.stop().await;
    });
}

fn seats_of(at: usize) -> [String; 2] {
    [2 * at + 1, 2 * at + 2].map(|seat| format!("A-1-{seat}"))
}

async fn buy(fan: &Fan<'_>, schedule: ScheduleId, at: usize) -> (Reservation, Payment) {
    let [first, second] = &seats_of(at);
    let reservation = fan.hold(schedule, &[first, second]).await;
    let payment = fan.pay(&reservation).await;
    assert_eq!(payment.state, PaymentState::Completed);
    (reservation, payment)
}

/// Waits until the listeners have handled everything of the sale.
async fn all_have_consumed(mesh: &Mesh) {
    let observer = Observer::open(&mesh.env.config, &LISTENERS).await.expect("an observer");
    observer.wait_until_caught_up(SOON).await.expect("caught up");
    observer.close().await;
}

async fn ranking(mesh: &Mesh, by: &str) -> Vec<RankedConcert> {
    let path = format!("/v1/rankings/concerts?by={by}&window=1h");
    let answer = mesh.http.get(path).send().await.expect("sent");
    answer.json::<ConcertRanking>().expect("a ranking").places
}

async fn messages(fan: &Fan<'_>) -> Vec<Message> {
    fan.get("/v1/me/messages").await.json::<Page<Message>>().expect("messages").items
}

/// The fan got one message about the hold and one about the payment, and no other.
async fn notified_of_the_sale(fan: &Fan<'_>, reservation: &Reservation, payment: &Payment) {
    let sent = eventually("every message was sent", || async {
        let messages = messages(fan).await;
        let are_sent = messages.iter().all(|message| message.state == MessageState::Sent);
        (are_sent && messages.len() >= 2).then_some(messages)
    })
    .await;
    // Two streams are consumed side by side, so the order of the two messages is undefined.
    let notified: BTreeSet<_> =
        sent.iter().map(|message| (message.kind, message.subject_id)).collect();
    let paid = (MessageKind::PaymentCompleted, payment.payment_id.0);
    let held = (MessageKind::ReservationMade, reservation.reservation_id.0);
    assert_eq!(notified, BTreeSet::from([paid, held]));
    assert_eq!(sent.len(), 2, "{sent:?}");
    assert!(sent.iter().all(|message| message.attempts == 1), "{sent:?}");
}

/// The saga of a payment with the event of its message: `audit` reads that event a moment after
/// the fan sees the message as sent.
async fn saga_with_its_message(fan: &Fan<'_>, payment: &Payment) -> Saga {
    eventually("the saga shows the message of its payment", || async {
        let found = saga(fan, payment.payment_id).await;
        found.steps.iter().any(|step| step.event == "notification.sent").then_some(found)
    })
    .await
}

async fn saga(fan: &Fan<'_>, key: impl std::fmt::Display) -> Saga {
    fan.get(&format!("/v1/sagas/{key}")).await.json().expect("a saga")
}

/// Every saga that this hold or fan takes part in, the latest first.
async fn sagas_about(operator: &Operator, id: impl std::fmt::Display) -> Vec<SagaLine> {
    let path = format!("/v1/sagas?about={id}");
    let answer = operator.get(path).send().await.expect("sent");
    answer.json::<Page<SagaLine>>().expect("sagas").items
}
