//! Dead letters: an event that can never be handled is kept with its cause, and all other events
//! are handled.

pub mod client;
mod left_open;
pub mod lines;
mod lists;
mod survivors;

use std::collections::BTreeSet;

use async_nats::{HeaderMap, header::NATS_MESSAGE_ID, jetstream::message::StreamMessage};
use events::{
    CONTENT_TYPE, Event, PaymentId, ReservationId, ScheduleId, UserId,
    dead_letter::{DeadLetter, DeadLetterState},
    payment::PaymentRequested,
    subject,
};
use harness::mesh::{Mesh, eventually, run};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    broker::{Broker, header},
    rest::Stores,
};
use client::{DeadLetterClient, event_of};

/// The events of one message, of which none can be handled.
const BATCH_EVENTS: usize = 40;

/// One message that cannot be handled.
struct Poison {
    version: u32,
    /// Whether its message has an id.
    has_id: bool,
    body: String,
    /// The payload that is kept.
    kept: String,
    /// The key that it depends on, as far as that can be read.
    key: String,
    /// A part of the cause that is recorded.
    cause: &'static str,
}

impl Poison {
    /// A body that is no batch of events.
    fn body(body: &str, key: &str) -> Self {
        let (body, key) = (body.to_owned(), key.to_owned());
        let kept = body.clone();
        Self { version: 1, has_id: true, body, kept, key, cause: "not a batch of events" }
    }

    /// A batch of one event.
    fn event(event: &Value, key: &str, cause: &'static str) -> Self {
        let (kept, key) = (event.to_string(), key.to_owned());
        Self { version: 1, has_id: true, body: format!("[{kept}]"), kept, key, cause }
    }
}

fn poisons(good: &PaymentRequested) -> Vec<Poison> {
    let event = event_of(good);
    let (wallet, payment) = (good.user_id.to_string(), good.payment_id.to_string());
    let without = |of: &[&str], member: &str| {
        let mut event = event_of(good);
        let object = of.iter().fold(&mut event, |value, name| &mut value[*name]);
        object.as_object_mut().expect("an object").remove(member);
        event
    };
    let with = |member: &str, value: &str| {
        let mut event = event_of(good);
        event[member] = json!(value);
        event
    };
    let nameless =
        || Poison { has_id: false, ..Poison::event(&without(&[], "id"), &wallet, "field `id`") };
    vec![
        Poison::body("{\"payment_id\": not json", "-"),
        // Truncated. Its subject can still be read.
        Poison::body(&format!("[{event},"), &payment),
        Poison::body(&event.to_string(), &payment),
        Poison::event(&without(&["data"], "amount"), &wallet, "missing field `amount`"),
        nameless(),
        // A second one in a message without an id is another message, not a repeat of the first.
        nameless(),
        Poison::event(&with("id", "rubbish"), &wallet, "not an event"),
        Poison::event(&with("specversion", "2.0"), &wallet, "not an event"),
        Poison::event(&json!(7), "-", "not an event"),
        Poison {
            version: 2,
            ..Poison::event(
                &with("type", "onsale.payment.requested.v2"),
                &wallet,
                "only version 1 of payment.requested is consumed here",
            )
        },
    ]
}

pub fn requested(user_id: UserId, schedule_id: ScheduleId, amount: i64) -> PaymentRequested {
    PaymentRequested {
        payment_id: PaymentId(Uuid::now_v7()),
        reservation_id: ReservationId(Uuid::now_v7()),
        schedule_id,
        user_id,
        amount,
        hold_version: 1,
        requested_at: mesh::clock::now(),
    }
}

#[test]
fn a_message_that_cannot_be_read_is_kept_with_its_cause_and_the_next_one_is_handled() {
    run(async {
        let mesh = Mesh::with(&["user", "point", "gateway"]).await;
        let provisioner = Broker::of(&mesh.env, onsale::config::PROVISIONER).await;
        let payment = Broker::of(&mesh.env, "payment").await;
        let client = DeadLetterClient::of(&mesh).await;
        take_every_version(&provisioner).await;
        let (fan, unlucky) = (mesh.fan(100).await, mesh.fan(100).await);
        let schedule = ScheduleId(Uuid::now_v7());
        let good = requested(fan.session.user_id, schedule, 30);
        // They belong to another wallet, and only the events of that wallet are parked.
        let poisons = poisons(&requested(unlucky.session.user_id, schedule, 30));
        for poison in &poisons {
            let subject = subject(PaymentRequested::NAME, poison.version, Some(schedule));
            emit(&payment, subject, poison.has_id, &poison.body).await;
        }
        let subject = subject(PaymentRequested::NAME, 1, Some(schedule));
        emit(&payment, subject, true, &json!([event_of(&good)]).to_string()).await;

        eventually("the good event behind them is handled", || async {
            (fan.balance().await == 70).then_some(())
        })
        .await;
        let dead_letters =
            client.open_becomes("point", &vec![DeadLetterState::Parked; poisons.len()]).await;
        let copies = copies(&provisioner, "point.payment.requested", poisons.len()).await;
        for (number, poison) in poisons.iter().enumerate() {
            // Dead letters are matched by sequence; the stream was empty before.
            let sequence = number as u64 + 1;
            let dead_letter =
                dead_letters.iter().find(|dead_letter| dead_letter.sequence == sequence);
            let dead_letter =
                dead_letter.unwrap_or_else(|| panic!("no dead letter of {}", poison.body));
            is_kept(&client, dead_letter, poison).await;
            let id = dead_letter.letter.to_string();
            let copy = copies.iter().find(|copy| header(copy, "onsale-dead-letter") == Some(&id));
            is_copied(copy.unwrap_or_else(|| panic!("no copy of {id}")), dead_letter, poison);
        }
        assert_eq!(point_dead(&mesh), poisons.len() as u64);
        mesh.stop().await;
    });
}

#[test]
fn every_event_of_a_poison_message_becomes_a_dead_letter_of_its_own() {
    run(async {
        let mesh =
            Mesh::with(&["user", "concert", "queue", "reservation", "point", "gateway"]).await;
        let stores = Stores::of(&mesh.env).await;
        let client = DeadLetterClient::of(&mesh).await;
        let events: Vec<Value> = (0..BATCH_EVENTS).map(|n| json!({ "poison": n })).collect();
        sqlx::query(
            "insert into mesh.outbox (id, subject, events, body, leased_until)
             values ($1, 'onsale.reservation.cancelled.v1.-', $2, $3, '-infinity')",
        )
        .bind(Uuid::now_v7())
        .bind(BATCH_EVENTS as i32)
        .bind(serde_json::to_vec(&events).expect("JSON"))
        .execute(stores.database("reservation"))
        .await
        .expect("emitted");
        // Each service that consumes the event keeps dead letters in its own store.
        for service in ["point", "queue"] {
            let dead_letters =
                client.open_becomes(service, &[DeadLetterState::Parked; BATCH_EVENTS]).await;
            assert!(
                dead_letters
                    .iter()
                    .all(|dead_letter| dead_letter.key == "-" && dead_letter.behind.is_none())
            );
            let copies =
                copies(&stores.broker, &format!("{service}.reservation.cancelled"), BATCH_EVENTS)
                    .await;
            let payloads: BTreeSet<&[u8]> = copies.iter().map(|copy| &copy.payload[..]).collect();
            assert_eq!(payloads.len(), BATCH_EVENTS, "{service}");
        }
        mesh.stop().await;
    });
}

/// Makes the consumer of point match every version, as a careless operator might.
async fn take_every_version(provisioner: &Broker) {
    let file = harness::project::read_json("jetstream/consumers/PAYMENT.point.json");
    let mut config: async_nats::jetstream::consumer::pull::Config =
        serde_json::from_value(file).expect("a consumer");
    config.filter_subjects = vec!["onsale.payment.requested.>".into()];
    let stream = provisioner.jetstream.get_stream_no_info("PAYMENT").await.expect("a stream");
    stream.update_consumer(config).await.expect("updated");
}

async fn emit(broker: &Broker, subject: String, has_id: bool, body: &str) {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", CONTENT_TYPE);
    if has_id {
        headers.insert(NATS_MESSAGE_ID, Uuid::now_v7().to_string());
    }
    let body = body.to_owned().into();
    let sent = broker.jetstream.publish_with_headers(subject, headers, body).await;
    sent.expect("sent").await.expect("stored");
}

/// The copies in the stream of dead letters, for operators with the `nats` command.
async fn copies(broker: &Broker, of: &str, count: usize) -> Vec<StreamMessage> {
    eventually(&format!("{count} copies of dead letters"), || async {
        let mut copies = broker.stored("DEAD_LETTERS", 0).await;
        let subject = format!("dlq.{of}.");
        copies.retain(|copy| copy.subject.starts_with(&subject));
        (copies.len() >= count).then_some(copies)
    })
    .await
}

/// The dead letter has the payload as it was, its cause, its origin and the number of attempts.
async fn is_kept(client: &DeadLetterClient, dead_letter: &DeadLetter, poison: &Poison) {
    let opened = client.dead_letter(&dead_letter.letter).await;
    assert_eq!(&opened.letter, dead_letter);
    assert_eq!(opened.payload, poison.kept);
    assert_eq!((dead_letter.key.as_str(), dead_letter.attempts), (poison.key.as_str(), 1));
    assert_eq!(
        (dead_letter.event.as_str(), dead_letter.stream.as_str()),
        ("payment.requested", "PAYMENT")
    );
    assert!(
        dead_letter.cause.contains(poison.cause),
        "{} does not say {}",
        dead_letter.cause,
        poison.cause
    );
    let subject = format!("onsale.payment.requested.v{}.", poison.version);
    assert!(dead_letter.subject.starts_with(&subject), "{}", dead_letter.subject);
}

/// The copy says the same as the dead letter.
fn is_copied(copy: &StreamMessage, dead_letter: &DeadLetter, poison: &Poison) {
    assert_eq!(copy.subject.as_str(), format!("dlq.point.payment.requested.{}", poison.key));
    assert_eq!(&copy.payload[..], poison.kept.as_bytes());
    assert_eq!(header(copy, "onsale-dead-cause"), Some(dead_letter.cause.as_str()));
    assert_eq!(header(copy, "onsale-dead-subject"), Some(dead_letter.subject.as_str()));
    assert_eq!(header(copy, "onsale-dead-stream"), Some("PAYMENT"));
    let sequence = dead_letter.sequence.to_string();
    assert_eq!(header(copy, "onsale-dead-sequence"), Some(sequence.as_str()));
}

fn point_dead(mesh: &Mesh) -> u64 {
    let point = mesh.fleet.running().iter().find(|running| running.name() == "point");
    point.expect("a running service").health().counts().dead
}
