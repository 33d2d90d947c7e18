//! A run of told facts onto the service's stream.

use std::future::IntoFuture;

use async_nats::{HeaderMap, header::NATS_MESSAGE_ID, jetstream::context::PublishErrorKind};
use bytes::Bytes;
use serde::Deserialize;
use tracing::info;
use uuid::Uuid;

use super::{Position, Row};
use crate::{
    Link,
    link::headers,
    trace::{Messaging, Span, TRACEPARENT},
};

/// Fewer facts than this go out one by one. With every commit synced to disk an atomic batch
/// costs the broker files and syncs of its own, and then almost nothing per fact; measured,
/// it pays from about ten facts on.
const ATOMIC_FROM_FACTS: usize = 10;
/// Single publishes on their way at once.
const SINGLES_IN_FLIGHT_MAX: usize = 64;
/// How long JetStream has to acknowledge a batch.
const ACK_SECS: u64 = 2;

/// The server's answer to a publish: an acknowledgement or an error.
#[derive(Debug, Deserialize)]
struct Ack {
    #[serde(default)]
    seq: u64,
    error: Option<AckError>,
}

#[derive(Debug, Deserialize)]
struct AckError {
    err_code: u64,
    description: String,
}

/// Publishes `rows` in order. Either all of them are stored when this returns, or it is
/// unknown which, and the same call may be repeated.
pub(super) async fn publish(link: &Link, rows: Vec<Row>) -> Result<Position, String> {
    let Some(last) = rows.last() else {
        return Err("nothing to publish".into());
    };
    let cursor = last.cursor;
    let mut spans: Vec<Span> = rows.iter().map(|row| span(link, row)).collect();
    let messages: Vec<Message> =
        rows.iter().zip(&spans).map(|(row, span)| Message::new(link, row, span)).collect();
    let stored = if messages.len() < ATOMIC_FROM_FACTS {
        one_by_one(link, &messages).await
    } else {
        match atomically(link, &messages).await {
            Ok(seq) => Ok(seq),
            // A duplicate id rejects the whole batch, and a lost acknowledgement looks like
            // one on the next try: the same ids one by one, where a duplicate is a success.
            Err(cause) => {
                info!(service = link.service(), %cause, facts = messages.len(),
                    "a batch was not stored as a whole; publishing its facts one by one");
                one_by_one(link, &messages).await
            }
        }
    };
    if let Err(cause) = &stored {
        for span in &mut spans {
            span.fail(|| cause.clone());
        }
    }
    let stream_seq = stored?;
    Ok(Position { cursor, stream_seq })
}

fn span(link: &Link, row: &Row) -> Span {
    let fact = events::fact_of_subject(&row.subject).unwrap_or("unknown");
    let mut span = link.tracer().publish(fact, &row.trace);
    span.message(Messaging {
        operation: "publish",
        fact,
        subject: &row.subject,
        event_id: row.event_id,
        saga_id: row.saga_id,
    });
    span
}

struct Message<'a> {
    subject: &'a str,
    headers: HeaderMap,
    payload: Bytes,
}

impl<'a> Message<'a> {
    /// The fact as a CloudEvent in binary mode.
    fn new(link: &Link, row: &'a Row, span: &Span) -> Self {
        let id = row.event_id.to_string();
        let mut map = HeaderMap::new();
        map.insert(NATS_MESSAGE_ID, id.as_str());
        map.insert("ce-specversion", "1.0");
        map.insert("ce-id", id.as_str());
        map.insert("ce-source", link.source());
        map.insert("ce-type", row.subject.rsplit_once('.').map_or("", |(kind, _)| kind));
        map.insert("ce-time", row.at.to_string());
        map.insert("ce-subject", row.about.to_string());
        map.insert("ce-datacontenttype", "application/json");
        map.insert(headers::SAGA_ID, row.saga_id.to_string());
        if let Some(cause) = row.cause_id {
            map.insert(headers::CAUSE_ID, cause.to_string());
        }
        if row.deliveries > 1 {
            map.insert(headers::DELIVERIES, row.deliveries.to_string());
        }
        if let Some(parent) = span.parent().to_header() {
            map.insert(TRACEPARENT, parent);
        }
        Self { subject: &row.subject, headers: map, payload: row.payload.clone() }
    }
}

/// One atomic batch (ADR-50): the first message is a request that is answered empty, the
/// last one a request that commits and is acknowledged for all.
async fn atomically(link: &Link, messages: &[Message<'_>]) -> Result<u64, String> {
    let client = link.client();
    let batch = Uuid::now_v7().simple().to_string();
    let (last, body) = messages.split_last().ok_or("an empty batch")?;
    for (index, message) in body.iter().enumerate() {
        let mut headers = message.headers.clone();
        headers.insert("Nats-Batch-Id", batch.as_str());
        headers.insert("Nats-Batch-Sequence", (index + 1).to_string());
        let subject = message.subject.to_owned();
        client
            .publish_with_headers(subject, headers, message.payload.clone())
            .await
            .map_err(|error| error.to_string())?;
    }
    let mut headers = last.headers.clone();
    headers.insert("Nats-Batch-Id", batch.as_str());
    headers.insert("Nats-Batch-Sequence", messages.len().to_string());
    headers.insert("Nats-Batch-Commit", "1");
    let request =
        client.request_with_headers(last.subject.to_owned(), headers, last.payload.clone());
    let reply = tokio::time::timeout(std::time::Duration::from_secs(ACK_SECS), request)
        .await
        .map_err(|_| "no acknowledgement in time".to_owned())?
        .map_err(|error| error.to_string())?;
    let ack: Ack = serde_json::from_slice(&reply.payload).map_err(|error| error.to_string())?;
    match ack.error {
        None => Ok(ack.seq),
        Some(error) => Err(format!("{} ({})", error.description, error.err_code)),
    }
}

/// Each message with an acknowledgement of its own; a duplicate counts as stored.
async fn one_by_one(link: &Link, messages: &[Message<'_>]) -> Result<u64, String> {
    // Sent in order, awaited together: a stream keeps the order of one connection.
    let mut last = 0;
    for some in messages.chunks(SINGLES_IN_FLIGHT_MAX) {
        let mut acks = Vec::with_capacity(some.len());
        for message in some {
            let (subject, headers) = (message.subject.to_owned(), message.headers.clone());
            let sent = link
                .jetstream()
                .publish_with_headers(subject, headers, message.payload.clone())
                .await
                .map_err(|error| describe(error.kind(), &error))?;
            acks.push(sent.into_future());
        }
        for ack in futures::future::join_all(acks).await {
            let ack = ack.map_err(|error| describe(error.kind(), &error))?;
            last = last.max(ack.sequence);
        }
    }
    Ok(last)
}

fn describe(kind: PublishErrorKind, error: &dyn std::fmt::Display) -> String {
    format!("{kind:?}: {error}")
}
