//! What can never be taken in is kept with its cause, and everything else flows on.

mod desk;
mod lines;
mod survivors;

use std::collections::BTreeSet;

use async_nats::{HeaderMap, header::NATS_MESSAGE_ID, jetstream::message::StreamMessage};
use events::{
    Event, PaymentId, ReservationId, ScheduleId, UserId, payment::PaymentRequested, subject,
};
use harness::mesh::{Mesh, eventually, run};
use serde_json::Value;
use uuid::Uuid;

use crate::{
    broker::{Broker, header},
    rest::Stores,
};

/// Enough facts for the relay to publish them as one atomic batch.
const BATCH_FACTS: usize = 40;

/// One message that cannot be taken in.
struct Poison {
    version: u32,
    ce_id: Option<String>,
    payload: String,
    /// A part of what will be said of it.
    cause: &'static str,
}

fn poisons(good: &PaymentRequested) -> Vec<Poison> {
    let id = || Some(Uuid::now_v7().to_string());
    let whole = serde_json::to_string(good).expect("plain data");
    let mut incomplete = serde_json::to_value(good).expect("plain data");
    incomplete.as_object_mut().expect("an object").remove("amount");
    let incomplete = incomplete.to_string();
    let poison = |version, ce_id, payload: &String, cause| Poison {
        version,
        ce_id,
        payload: payload.clone(),
        cause,
    };
    vec![
        poison(1, id(), &"{\"payment_id\": not json".into(), "expected"),
        poison(1, id(), &incomplete, "missing field `amount`"),
        poison(1, None, &whole, "there is no ce-id header"),
        // A second one without an id is another message, not a repeat of the first.
        poison(1, None, &whole, "there is no ce-id header"),
        poison(1, Some("rubbish".into()), &whole, "the ce-id header is no UUID"),
        poison(2, id(), &whole, "only version 1 of payment.requested is heard here"),
    ]
}

fn requested(user_id: UserId, schedule_id: ScheduleId, amount: i64) -> PaymentRequested {
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
fn a_message_that_cannot_be_read_is_kept_with_its_cause_and_the_next_one_flows_on() {
    run(async {
        let mesh = Mesh::with(&["user", "point", "gateway"]).await;
        let provisioner = Broker::of(&mesh.stage, onsale::config::PROVISIONER).await;
        let payment = Broker::of(&mesh.stage, "payment").await;
        take_every_version(&provisioner).await;
        let (fan, unlucky) = (mesh.fan(100).await, mesh.fan(100).await);
        let schedule = ScheduleId(Uuid::now_v7());
        let good = requested(fan.session.user_id, schedule, 30);
        // Another wallet's: that one alone is parked.
        let poisons = poisons(&requested(unlucky.session.user_id, schedule, 30));
        for poison in &poisons {
            let subject = subject(PaymentRequested::FACT, poison.version, Some(schedule));
            tell(&payment, subject, poison.ce_id.as_deref(), &poison.payload).await;
        }
        let id = Uuid::now_v7().to_string();
        let payload = serde_json::to_string(&good).expect("plain data");
        tell(&payment, subject(PaymentRequested::FACT, 1, Some(schedule)), Some(&id), &payload)
            .await;

        eventually("the good one behind them is taken in", || async {
            (fan.balance().await == 70).then_some(())
        })
        .await;
        let dead = letters(&provisioner, "point", poisons.len()).await;
        for (number, poison) in poisons.iter().enumerate() {
            // They are told apart by where they came from; the stream was empty before.
            let sequence = (number + 1).to_string();
            let letter = dead
                .iter()
                .find(|letter| header(letter, "onsale-dead-sequence") == Some(&sequence))
                .unwrap_or_else(|| panic!("no letter of {sequence}, {}: {dead:?}", poison.cause));
            is_kept(letter, poison);
            was_terminated(&provisioner, number as u64 + 1, poison.cause).await;
        }
        assert_eq!(point_dead(&mesh), poisons.len() as u64);
        mesh.stop().await;
    });
}

#[test]
fn a_whole_batch_of_poison_is_kept_letter_by_letter() {
    run(async {
        let mesh = Mesh::with(&["user", "point", "payment", "gateway"]).await;
        let stores = Stores::of(&mesh.stage).await;
        sqlx::query(
            "insert into mesh.outbox (event_id, saga_id, about, told_at, subject, payload)
             select gen_random_uuid(), gen_random_uuid(), gen_random_uuid(), now(),
                    'onsale.payment.requested.v1.-', convert_to('poison ' || n, 'utf8')
             from generate_series(1, $1) n",
        )
        .bind(BATCH_FACTS as i32)
        .execute(stores.database("payment"))
        .await
        .expect("told");
        // Each service that hears the fact keeps letters of its own.
        for service in ["point", "user"] {
            let dead = letters(&stores.broker, service, BATCH_FACTS).await;
            let payloads: BTreeSet<&[u8]> = dead.iter().map(|letter| &letter.payload[..]).collect();
            assert_eq!(payloads.len(), BATCH_FACTS, "{service}");
        }
        mesh.stop().await;
    });
}

/// Lets the consumer of point have every version, as if somebody had been careless.
async fn take_every_version(provisioner: &Broker) {
    let file = harness::project::read_json("jetstream/consumers/PAYMENT.point.json");
    let mut config: async_nats::jetstream::consumer::pull::Config =
        serde_json::from_value(file).expect("a consumer");
    config.filter_subjects = vec!["onsale.payment.requested.>".into()];
    let stream = provisioner.jetstream.get_stream_no_info("PAYMENT").await.expect("a stream");
    stream.update_consumer(config).await.expect("updated");
}

async fn tell(broker: &Broker, subject: String, ce_id: Option<&str>, payload: &str) {
    let mut headers = HeaderMap::new();
    headers.insert("ce-type", "onsale.payment.requested");
    if let Some(id) = ce_id {
        headers.insert("ce-id", id);
        headers.insert(NATS_MESSAGE_ID, id);
    }
    let payload = payload.to_owned().into();
    let sent = broker.jetstream.publish_with_headers(subject, headers, payload).await;
    sent.expect("sent").await.expect("stored");
}

async fn letters(broker: &Broker, service: &str, count: usize) -> Vec<StreamMessage> {
    eventually(&format!("{count} dead letters"), || async {
        let mut dead = broker.stored("DEAD_LETTERS", 0).await;
        let subject = format!("dlq.{service}.payment.requested.");
        dead.retain(|letter| letter.subject.starts_with(&subject));
        (dead.len() >= count).then_some(dead)
    })
    .await
}

/// As it was, and beside it why, where from and how often it was tried.
fn is_kept(letter: &StreamMessage, poison: &Poison) {
    assert_eq!(&letter.payload[..], poison.payload.as_bytes());
    assert_eq!(header(letter, "ce-id"), poison.ce_id.as_deref());
    assert_eq!(header(letter, "ce-type"), Some("onsale.payment.requested"));
    assert_eq!(header(letter, "onsale-dead-stream"), Some("PAYMENT"));
    assert_eq!(header(letter, "onsale-dead-attempts"), Some("1"));
    let cause = header(letter, "onsale-dead-cause").expect("a cause");
    assert!(cause.contains(poison.cause), "{cause} does not say {}", poison.cause);
    let subject = header(letter, "onsale-dead-subject").expect("a subject");
    assert!(subject.starts_with(&format!("onsale.payment.requested.v{}.", poison.version)));
}

/// The broker reports the end of the delivery with the same cause.
async fn was_terminated(broker: &Broker, sequence: u64, cause: &str) {
    eventually(&format!("a report of the end of {sequence}"), || async {
        let reports = broker.stored("ADVISORIES", 0).await;
        let report = reports.iter().find_map(|report| {
            let is_of_point = report.subject.ends_with(".MSG_TERMINATED.PAYMENT.point");
            let said: Value = serde_json::from_slice(&report.payload).ok()?;
            (is_of_point && said["stream_seq"] == sequence).then_some(said)
        })?;
        let reason = report["reason"].as_str().expect("a reason");
        assert!(reason.contains(cause), "{reason} does not say {cause}");
        Some(())
    })
    .await;
}

fn point_dead(mesh: &Mesh) -> u64 {
    let point = mesh.fleet.running().iter().find(|running| running.name() == "point");
    point.expect("a running service").health().counts().dead
}
