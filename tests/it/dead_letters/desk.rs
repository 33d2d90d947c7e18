//! An operator at work on dead letters, and messages that cannot be taken in.

use async_nats::{HeaderMap, header::NATS_MESSAGE_ID};
use events::{
    Event, PaymentId, ReservationId, ScheduleId, UserId,
    dead_letter::{DeadLetter, DeadLetters, LetterState, OpenedLetter, Redriven},
    reservation::{ConfirmRefusal, ReservationConfirmRefused},
};
use harness::mesh::{Fan, Mesh, eventually};
use onsale::{http::Answer, operator::Operator, stage::Stage};
use serde_json::json;
use uuid::Uuid;

use crate::{broker::Broker, rest::Stores};

/// The operator of a mesh.
pub struct Desk(Operator);

impl Desk {
    pub async fn of(mesh: &Mesh) -> Self {
        let operator = Operator::at(mesh.http.clone(), &mesh.stage.operator).await;
        Self(operator.expect("logged in"))
    }

    /// The letters of a service that stand in a line, oldest first.
    pub async fn open(&self, service: &str) -> Vec<DeadLetter> {
        let path = format!("/v1/dead-letters?limit=100&service={service}");
        let page: DeadLetters =
            self.0.get(path).send().await.expect("sent").json().expect("letters");
        page.items.into_iter().rev().collect()
    }

    /// Waits until the open letters of a service stand like this.
    pub async fn stand(&self, service: &str, states: &[LetterState]) -> Vec<DeadLetter> {
        eventually(&format!("letters of {service}: {states:?}"), || async {
            let open = self.open(service).await;
            let is: Vec<_> = open.iter().map(|letter| letter.state).collect();
            (is == states).then_some(open)
        })
        .await
    }

    pub async fn letter(&self, letter: u64) -> OpenedLetter {
        let path = format!("/v1/dead-letters/{letter}");
        self.0.get(path).send().await.expect("sent").json().expect("a letter")
    }

    pub async fn retry(&self, letter: u64) -> Redriven {
        self.try_retry(letter).await.json().expect("a line")
    }

    pub async fn try_retry(&self, letter: u64) -> Answer {
        let path = format!("/v1/dead-letters/{letter}/retry");
        self.0.post(path).send().await.expect("sent")
    }

    pub async fn discard(&self, letter: u64, reason: &str) -> Answer {
        let path = format!("/v1/dead-letters/{letter}/discard");
        self.0.post(path).json(&json!({ "reason": reason })).send().await.expect("sent")
    }
}

/// Tells a fact as its producer would.
pub async fn tell<E: Event>(stage: &Stage, fact: &E) -> Uuid {
    let payload = serde_json::to_string(fact).expect("plain data");
    tell_raw::<E>(stage, fact.schedule(), fact.about(), payload).await
}

/// Tells what claims to be this fact.
pub async fn tell_raw<E: Event>(
    stage: &Stage,
    schedule: Option<ScheduleId>,
    about: Uuid,
    payload: String,
) -> Uuid {
    let producer = Broker::of(stage, events::producer_of(E::FACT)).await;
    let id = Uuid::now_v7();
    let mut headers = HeaderMap::new();
    headers.insert("ce-id", id.to_string());
    headers.insert("ce-type", format!("onsale.{}", E::FACT));
    headers.insert("ce-subject", about.to_string());
    headers.insert(NATS_MESSAGE_ID, id.to_string());
    let subject = events::subject(E::FACT, E::VERSION, schedule);
    let sent = producer.jetstream.publish_with_headers(subject, headers, payload.into()).await;
    sent.expect("sent").await.expect("stored");
    id
}

/// A payment that point has refused, and to which somebody claims that money is due.
pub struct Due {
    pub fact: ReservationConfirmRefused,
}

impl Due {
    /// Poison: nothing was taken for this payment, says the ledger.
    pub async fn of(fan: &Fan<'_>, stores: &Stores) -> Self {
        let fact = ReservationConfirmRefused {
            reservation_id: ReservationId(Uuid::now_v7()),
            schedule_id: ScheduleId(Uuid::now_v7()),
            user_id: fan.session.user_id,
            payment_id: PaymentId(Uuid::now_v7()),
            amount: 40,
            reason: ConfirmRefusal::Expired,
        };
        sqlx::query("insert into refusals (payment_id, user_id, at) values ($1, $2, now())")
            .bind(fact.payment_id.0)
            .bind(fact.user_id.0)
            .execute(stores.database("point"))
            .await
            .expect("refused");
        Self { fact }
    }

    /// The ledger is put right: `amount` was taken after all.
    pub async fn mend(&self, stores: &Stores, amount: i64) {
        let point = stores.database("point");
        let wallet = "update wallets set balance = balance - $2 where user_id = $1
             returning balance";
        let (fan, payment): (UserId, PaymentId) = (self.fact.user_id, self.fact.payment_id);
        let balance: i64 =
            sqlx::query_scalar(wallet).bind(fan.0).bind(amount).fetch_one(point).await.expect("it");
        sqlx::query(
            "insert into entries (user_id, id, payment_id, amount, balance, at, kind, house)
             values ($1, $2, $3, $4, $5, now(), 'debit', 'sales')",
        )
        .bind(fan.0)
        .bind(Uuid::now_v7())
        .bind(payment.0)
        .bind(-amount)
        .bind(balance)
        .execute(point)
        .await
        .expect("entered");
        sqlx::query("delete from refusals where payment_id = $1")
            .bind(payment.0)
            .execute(point)
            .await
            .expect("no refusal any more");
    }
}
