//! An operator at work on dead letters, and events that cannot be taken in.

use events::{
    Envelope, Event, EventId, PaymentId, ReservationId, SagaId, ScheduleId, SpecVersion, UserId,
    dead_letter::{DeadLetter, DeadLetters, LetterId, LetterState, OpenedLetter, Redriven},
    reservation::{ConfirmRefusal, ReservationConfirmRefused},
};
use harness::mesh::{Fan, Mesh, eventually};
use onsale::{http::Answer, operator::Operator, stage::Stage};
use serde_json::{Value, json, value::to_raw_value};
use uuid::Uuid;

use crate::{
    messages::{Message, Producers},
    rest::Stores,
};

/// The operator of a mesh.
pub struct Desk(Operator);

impl Desk {
    pub async fn of(mesh: &Mesh) -> Self {
        let operator = Operator::at(mesh.http.clone(), &mesh.stage.operator).await;
        Self(operator.expect("logged in"))
    }

    /// What the list answers to a query.
    pub async fn list(&self, query: &str) -> Answer {
        self.0.get(format!("/v1/dead-letters?{query}")).send().await.expect("sent")
    }

    /// The letters of a service that a query finds, in the order in which they were parked;
    /// `None` while the service does not answer.
    pub async fn letters(&self, service: &str, query: &str) -> Option<Vec<DeadLetter>> {
        let query = format!("limit=100&service={service}{query}");
        let page: DeadLetters = self.list(&query).await.json().ok()?;
        let mut letters = page.items;
        letters.sort_by_key(|letter| letter.letter.number());
        Some(letters)
    }

    /// The letters of a service that stand in a line.
    pub async fn open(&self, service: &str) -> Vec<DeadLetter> {
        self.letters(service, "").await.expect("letters")
    }

    /// Waits until the open letters of a service stand like this.
    pub async fn stand(&self, service: &str, states: &[LetterState]) -> Vec<DeadLetter> {
        eventually(&format!("letters of {service}: {states:?}"), || async {
            // The service may have been started a moment ago.
            let open = self.letters(service, "").await?;
            let is: Vec<_> = open.iter().map(|letter| letter.state).collect();
            (is == states).then_some(open)
        })
        .await
    }

    pub async fn letter(&self, letter: &LetterId) -> OpenedLetter {
        self.try_letter(&letter.to_string()).await.json().expect("a letter")
    }

    pub async fn try_letter(&self, letter: &str) -> Answer {
        self.0.get(format!("/v1/dead-letters/{letter}")).send().await.expect("sent")
    }

    pub async fn retry(&self, letter: &LetterId) -> Redriven {
        self.try_retry(letter).await.json().expect("a line")
    }

    pub async fn try_retry(&self, letter: &LetterId) -> Answer {
        let path = format!("/v1/dead-letters/{letter}/retry");
        self.0.post(path).send().await.expect("sent")
    }

    /// Gives a letter up whatever is left open.
    pub async fn discard(&self, letter: &LetterId, reason: &str) -> Answer {
        self.discard_as(letter, &json!({ "reason": reason, "leave_open": true })).await
    }

    pub async fn discard_as(&self, letter: &LetterId, body: &Value) -> Answer {
        let path = format!("/v1/dead-letters/{letter}/discard");
        self.0.post(path).json(body).send().await.expect("sent")
    }
}

/// An event as its producer would write it, to be spoilt perhaps.
pub fn event_of<E: Event>(fact: &E) -> Value {
    let data = to_raw_value(fact).expect("plain data");
    let envelope = Envelope {
        specversion: SpecVersion::V1,
        id: EventId(Uuid::now_v7()),
        source: format!("/onsale/{}", events::producer_of(E::FACT)).into(),
        kind: format!("onsale.{}.v{}", E::FACT, E::VERSION).into(),
        time: mesh::clock::now(),
        subject: fact.about().to_string().into(),
        sagaid: SagaId(Uuid::now_v7()),
        causationid: None,
        traceparent: None,
        attempt: None,
        data: &data,
    };
    serde_json::to_value(&envelope).expect("plain data")
}

/// Emits an event as its producer would, in a message of its own. Its id.
pub async fn tell<E: Event>(stage: &Stage, fact: &E) -> Uuid {
    let event = event_of(fact);
    let id = event["id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
    tell_all::<E>(stage, fact.schedule(), &[event]).await;
    id
}

/// Emits what claim to be such events, in one message.
pub async fn tell_all<E: Event>(stage: &Stage, schedule: Option<ScheduleId>, events: &[Value]) {
    let subject = events::subject(E::FACT, E::VERSION, schedule);
    let message = Message::of(&subject, events);
    assert!(Producers::of(stage).publish(&message).await, "it is new");
}

/// A payment that point has refused, and to which somebody claims that money is due.
pub struct Due {
    pub fact: ReservationConfirmRefused,
}

impl Due {
    /// Poison: nothing was taken for this payment, says the ledger.
    pub async fn of(fan: &Fan<'_>, stores: &Stores) -> Self {
        let due = Self::early(fan);
        sqlx::query("insert into refusals (payment_id, user_id, at) values ($1, $2, now())")
            .bind(due.fact.payment_id.0)
            .bind(due.fact.user_id.0)
            .execute(stores.database("point"))
            .await
            .expect("refused");
        due
    }

    /// Early: the ledger does not know of this payment yet.
    pub fn early(fan: &Fan<'_>) -> Self {
        let fact = ReservationConfirmRefused {
            reservation_id: ReservationId(Uuid::now_v7()),
            schedule_id: ScheduleId(Uuid::now_v7()),
            user_id: fan.session.user_id,
            payment_id: PaymentId(Uuid::now_v7()),
            amount: 40,
            reason: ConfirmRefusal::Expired,
        };
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
