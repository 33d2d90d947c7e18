//! The operator's client for dead letters, and events that cannot be handled.

use events::{
    Envelope, Event, EventId, PaymentId, ReservationId, SagaId, ScheduleId, SpecVersion, UserId,
    dead_letter::{
        DeadLetter, DeadLetterDetails, DeadLetterId, DeadLetterState, DeadLetters, Retried,
    },
    reservation::{ConfirmRefusal, ReservationConfirmRefused},
};
use harness::mesh::{Fan, Mesh, eventually};
use onsale::{development::environment::Environment, http::Answer, operator::Operator};
use serde_json::{Value, json, value::to_raw_value};
use uuid::Uuid;

use crate::{
    messages::{Message, Producers},
    rest::Stores,
};

/// The operator's client for the dead letters of a mesh.
pub struct DeadLetterClient(Operator);

impl DeadLetterClient {
    pub async fn of(mesh: &Mesh) -> Self {
        let operator = Operator::at(mesh.http.clone(), &mesh.env.operator).await;
        Self(operator.expect("logged in"))
    }

    /// The answer of the list to a query.
    pub async fn list(&self, query: &str) -> Answer {
        self.0.get(format!("/v1/dead-letters?{query}")).send().await.expect("sent")
    }

    /// The dead letters of a service that a query finds, in the order in which they were parked;
    /// `None` while the service does not answer.
    pub async fn dead_letters(&self, service: &str, query: &str) -> Option<Vec<DeadLetter>> {
        let query = format!("limit=100&service={service}{query}");
        let page: DeadLetters = self.list(&query).await.json().ok()?;
        let mut dead_letters = page.items;
        dead_letters.sort_by_key(|dead_letter| dead_letter.letter.number());
        Some(dead_letters)
    }

    /// The dead letters of a service that are still open, and the events that wait behind them.
    pub async fn open(&self, service: &str) -> Vec<DeadLetter> {
        self.dead_letters(service, "").await.expect("dead letters")
    }

    /// Waits until the open dead letters of a service are in these states.
    pub async fn open_becomes(&self, service: &str, states: &[DeadLetterState]) -> Vec<DeadLetter> {
        eventually(&format!("dead letters of {service}: {states:?}"), || async {
            // The service may have been started a moment ago.
            let open = self.dead_letters(service, "").await?;
            let now: Vec<_> = open.iter().map(|dead_letter| dead_letter.state).collect();
            (now == states).then_some(open)
        })
        .await
    }

    pub async fn dead_letter(&self, id: &DeadLetterId) -> DeadLetterDetails {
        self.try_dead_letter(&id.to_string()).await.json().expect("a dead letter")
    }

    pub async fn try_dead_letter(&self, id: &str) -> Answer {
        self.0.get(format!("/v1/dead-letters/{id}")).send().await.expect("sent")
    }

    pub async fn retry(&self, id: &DeadLetterId) -> Retried {
        self.try_retry(id).await.json().expect("the outcome of a retry")
    }

    pub async fn try_retry(&self, id: &DeadLetterId) -> Answer {
        let path = format!("/v1/dead-letters/{id}/retry");
        self.0.post(path).send().await.expect("sent")
    }

    /// Discards a dead letter, whatever is left open.
    pub async fn discard(&self, id: &DeadLetterId, reason: &str) -> Answer {
        self.discard_as(id, &json!({ "reason": reason, "leave_open": true })).await
    }

    pub async fn discard_as(&self, id: &DeadLetterId, body: &Value) -> Answer {
        let path = format!("/v1/dead-letters/{id}/discard");
        self.0.post(path).json(body).send().await.expect("sent")
    }
}

/// An event as its producer would write it; a test may then spoil it.
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

/// Emits an event as its producer would, in a message of its own, and returns its id.
pub async fn emit<E: Event>(env: &Environment, event: &E) -> Uuid {
    let envelope = event_of(event);
    let id = envelope["id"].as_str().and_then(|id| id.parse().ok()).expect("an id");
    emit_all::<E>(env, event.schedule(), &[envelope]).await;
    id
}

/// Emits these as events of one type, in one message.
pub async fn emit_all<E: Event>(env: &Environment, schedule: Option<ScheduleId>, events: &[Value]) {
    let subject = events::subject(E::NAME, E::VERSION, schedule);
    let message = Message::of(&subject, events);
    assert!(Producers::of(env).publish(&message).await, "it is new");
}

/// A refused confirmation that asks for the refund of a debit that point never made.
pub struct Due {
    pub event: ReservationConfirmRefused,
}

impl Due {
    /// Poison: the ledger says that nothing was debited for this payment.
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

    /// Corrects the ledger: `amount` was debited after all.
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
