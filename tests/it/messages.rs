//! Messages and their events, unpacked and packed again as their producers publish them.

use std::{collections::BTreeMap, time::Instant};

use async_nats::{HeaderMap, header::NATS_MESSAGE_ID, jetstream::message::StreamMessage};
use bytes::Bytes;
use events::{CONTENT_TYPE, Envelope};
use harness::mesh::SOON;
use onsale::development::environment::Environment;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    broker::{Broker, WINDOW_MIN, header},
    contracts::cloudevent::complaints,
};

/// An event as it is stored.
#[derive(Debug, Clone)]
pub struct StoredEvent {
    /// The subject of its message.
    pub subject: String,
    /// The envelope.
    pub json: Value,
}

impl StoredEvent {
    /// `<service>.<event>`.
    pub fn name(&self) -> &str {
        name_of(&self.subject)
    }

    /// Its id.
    pub fn id(&self) -> Uuid {
        id_of(&self.json)
    }

    /// The data of the event.
    pub fn data(&self) -> &Value {
        &self.json["data"]
    }

    /// The same data in a new event, as if the producer's handler had run once more.
    pub fn anew(&self) -> Value {
        let mut json = self.json.clone();
        json["id"] = json!(Uuid::now_v7());
        json
    }

    /// Another event of this type, about an entity of its own, that no consumer can read.
    pub fn poison(&self) -> Value {
        let mut json = self.anew();
        json["subject"] = json!(Uuid::now_v7());
        json["sagaid"] = json!(Uuid::now_v7());
        json["data"] = json!({ "garbage": [1, "two", null] });
        json
    }
}

/// The name of the event that a subject belongs to.
pub fn name_of(subject: &str) -> &str {
    events::event_of_subject(subject).expect("a subject of an event")
}

/// The id of an event.
pub fn id_of(json: &Value) -> Uuid {
    let id = json["id"].as_str().and_then(|id| id.parse().ok());
    id.unwrap_or_else(|| panic!("no id in {json}"))
}

/// The id of a message.
pub fn message_id(message: &StreamMessage) -> Uuid {
    let id = header(message, "Nats-Msg-Id").and_then(|id| id.parse().ok());
    id.unwrap_or_else(|| panic!("not a message of the mesh: {message:?}"))
}

/// Unpacks a message, which must be a batch of CloudEvents and have no further headers.
pub fn events_of(message: &StreamMessage) -> Vec<StoredEvent> {
    let is_batch = header(message, "content-type") == Some(CONTENT_TYPE);
    assert!(is_batch && message.headers.len() == 2, "not a message of the mesh: {message:?}");
    let events: Vec<Value> = serde_json::from_slice(&message.payload).expect("an array");
    let stored = |json: Value| {
        assert_eq!(complaints(&json), [""; 0], "{json}");
        let envelope = json.to_string();
        let envelope = Envelope::decode(envelope.as_bytes()).expect("an envelope");
        let kind = message.subject.rsplit_once(&*envelope.kind);
        assert!(kind.is_some_and(|(before, _)| before.is_empty()), "{json} in {message:?}");
        StoredEvent { subject: message.subject.to_string(), json }
    };
    events.into_iter().map(stored).collect()
}

/// A message to be published.
#[derive(Debug, Clone)]
pub struct Message {
    /// Its subject.
    pub subject: String,
    /// Its id, by which a repeat is recognised.
    pub id: Uuid,
    /// The events.
    pub body: Bytes,
}

impl Message {
    /// A new message of these events.
    pub fn of(subject: &str, events: &[Value]) -> Self {
        let body = serde_json::to_vec(events).expect("JSON").into();
        Self { subject: subject.to_owned(), id: Uuid::now_v7(), body }
    }

    /// The same message once more, with the same id.
    pub fn again(stored: &StreamMessage) -> Self {
        let (id, body) = (message_id(stored), stored.payload.clone());
        Self { subject: stored.subject.to_string(), id, body }
    }
}

/// The producers, each under its own identity.
pub struct Producers<'a> {
    env: &'a Environment,
    known: BTreeMap<String, Broker>,
}

impl<'a> Producers<'a> {
    pub fn of(env: &'a Environment) -> Self {
        Self { env, known: BTreeMap::new() }
    }

    /// Publishes a message as the service that its subject belongs to. Returns whether it was
    /// stored, and not recognised as a duplicate.
    pub async fn publish(&mut self, message: &Message) -> bool {
        let producer = events::producer_of(name_of(&message.subject));
        if !self.known.contains_key(producer) {
            let broker = Broker::of(self.env, producer).await;
            self.known.insert(producer.to_owned(), broker);
        }
        let mut headers = HeaderMap::new();
        headers.insert(NATS_MESSAGE_ID, message.id.to_string());
        headers.insert("content-type", CONTENT_TYPE);
        let jetstream = &self.known[producer].jetstream;
        let until = Instant::now() + SOON;
        let mut is_again = false;
        loop {
            let (subject, body) = (message.subject.clone(), message.body.clone());
            let sent = jetstream.publish_with_headers(subject, headers.clone(), body).await;
            match sent.expect("sent").await {
                // After an attempt whose acknowledgement was lost, the duplicate is our own.
                Ok(ack) => return is_again || !ack.duplicate,
                Err(error) => assert!(Instant::now() < until, "{error}: {}", message.subject),
            }
            is_again = true;
        }
    }
}

/// Publishes the same message once more, as soon as the broker no longer remembers its id; see
/// [`Broker::forget_ids`].
pub async fn repeat(producers: &mut Producers<'_>, stored: &StreamMessage) {
    let again = Message::again(stored);
    let until = Instant::now() + SOON;
    while !producers.publish(&again).await {
        assert!(Instant::now() < until, "the broker remembers {stored:?}");
        tokio::time::sleep(WINDOW_MIN).await;
    }
}

/// Publishes stored events again, in this order, each in a message of its own and under a new
/// id, as if the producer's handler had run once more. Returns the new ids.
pub async fn emit_again(env: &Environment, events: &[StoredEvent]) -> Vec<Uuid> {
    let mut producers = Producers::of(env);
    let mut ids = Vec::new();
    for event in events {
        let anew = event.anew();
        ids.push(id_of(&anew));
        assert!(producers.publish(&Message::of(&event.subject, &[anew])).await, "it is new");
    }
    ids
}
