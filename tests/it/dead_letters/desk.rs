//! An operator at work on dead letters, and events that cannot be taken in.

use events::{
    Envelope, Event, EventId, PaymentId, ReservationId, SagaId, ScheduleId, SpecVersion, UserId,
    dead_letter::{
        DeadLetter, DeadLetterId, DeadLetterState, DeadLetters, OpenedDeadLetter, Redriven,
    },
    reservation::{ConfirmRefusal, ReservationConfirmRefused},
};
use harness::mesh::{Fan, Mesh, eventually};
use onsale::{environment::Environment, http::Answer, operator::Operator};
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
        let operator = Operator::at(mesh.http.clone(), &mesh.env.operator).await;
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
    pub async fn stand(&self, service: &str, states: &[DeadLetterState]) -> Vec<DeadLetter> {
        eventually(&format!("letters of {service}: {states:?}"), || async {
            // The service may have been started a moment ago.
            let open = self.letters(service, "").await?;
            let is: Vec<_> = open.iter().map(|letter| letter.state).collect();
            (is == states).then_some(open)
        })
        .await
    }

    pub async fn letter(&self, letter: &DeadLetterId) -> OpenedDeadLetter {
        self.try_dead_letter(&letter.to_string()).await.json().expect("a letter")
    }

    pub async fn try_dead_letter(&self, letter: &str) -> Answer {
        self.0.get(format!("/v1/dead-letters/{letter}")).send().await.expect("sent")
    }

    pub async fn retry(&self, letter: &DeadLetterId) -> Redriven {
        self.try_retry(letter).await.json().expect("a line")
    }

    pub async fn try_retry(&self, letter: &DeadLetterId) -> Answer {
        let path = format!("/v1/dead-letters/{letter}/retry");
        self.0.post(path).send().await.expect("sent")
    }

    /// Gives a letter up whatever is left open.
    pub async fn discard(&self, letter: &DeadLetterId, reason: &str) -> Answer {
        self.discard_as(letter, &json!({ "reason": reason, "leave_open": true })).await
    }

    pub async fn discard_as(&self, letter: &DeadLetterId, body: &Value) -> Answer {
        let path = format!("/v1/dead-letters/{letter}/discard");
        self.0.post(path).json(body).send().await.expect("sent")
    }
}

/// An event as its producer would write it, to be spoilt perhaps.
pub fn event_of<E: Event>(event: &E) -> Value {
    let data = to_raw_value(event).expect("plain data");
    let envelope = Envelope {
        specversion: SpecVersion::V1,
        id: EventId(Uuid::now_v7()),
        source: format!("/onsale/{}", events::producer_of(E::NAME)).into(),
        kind: format!("onsale.{}.v{}", E::NAME, E::VERSION).into(),
        time: mesh::clock::now(),
        subject: event.about().to_string().into(),
        sagaid: SagaId(Uuid::now_v7()),
        causationid: None,
        traceparent: None,
        attempt: None,
        data: &data,
    };
    serde_json::to_value(&envelope).expect("plain data")
}

/// Emits an event as its producer would, in a message of its own. Its id.
pub async fn emit<E: Event>(env: &Environment, event: &E) -> Uuid {
    let envelope = event_of(event);
    let id = envelope["id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
    emit_all::<E>(env, event.schedule(), &[envelope]).await;
    id
}

/// Emits what claim to be such events, in one message.
pub async fn emit_all<E: Event>(env: &Environment, schedule: Option<ScheduleId>, events: &[Value]) {
    let subject = events::subject(E::NAME, E::VERSION, schedule);
    let message = Message::of(&subject, events);
    assert!(Producers::of(env).publish(&message).await, "it is new");
}

/// A payment that point has refused, and to which somebody claims that money is due.
pub struct Due {
    pub event: ReservationConfirmRefused,
}

impl Due {
    /// Poison: nothing was taken for this payment, says the ledger.
    pub async fn of(fan: &Fan<'_>, stores: &Stores) -> Self {
        let due = Self::early(fan);
        sqlx::query("insert into refusals (payment_id, user_id, at) values ($1, $2, now())")
            .bind(due.event.payment_id.0)
            .bind(due.event.user_id.0)
            .execute(stores.database("point"))
            .await
            .expect("refused");
        due
    }

    /// Early: the ledger does not know of this payment yet.
    pub fn early(fan: &Fan<'_>) -> Self {
        let event = ReservationConfirmRefused {
            reservation_id: ReservationId(Uuid::now_v7()),
            schedule_id: ScheduleId(Uuid::now_v7()),
            user_id: fan.session.user_id,
            payment_id: PaymentId(Uuid::now_v7()),
            amount: 40,
            reason: ConfirmRefusal::Expired,
        };
        Self { event }
    }

    /// The ledger is put right: `amount` was taken after all.
    pub async fn mend(&self, stores: &Stores, amount: i64) {
        let point = stores.database("point");
        let wallet = "update wallets set balance = balance - $2 where user_id = $1
             returning balance";
        let (fan, payment): (UserId, PaymentId) = (self.event.user_id, self.event.payment_id);
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
