//! The way out for a message that can never succeed, and the line behind it.
//!
//! The stream `DEAD_LETTERS` is a log. A letter is kept there under
//! `dlq.<service>.<fact>.<key>`, with its payload and headers as they were, and beside them
//! why, where from and how often it was tried. What becomes of it later (failed again,
//! resolved, discarded) is a further message under the same subject that names it. So the
//! letters of a key without an end are a line, in order, and nothing is ever rewritten.
//!
//! A key is what a message depends on in its service: a wallet, a reservation
//! ([`crate::Book::KEY`]). While a line stands, later messages of its key join it instead of
//! being run, and all others flow on. A line moves by one rule: its letters are taken in, in
//! order, until one stands in front that was tried and failed. That one waits for an
//! operator, who has it tried again or discards it; the rest follows by itself.
//!
//! | file | what it is |
//! |---|---|
//! | `key` | what a message depends on, read even from what cannot be read |
//! | `lot` | the keys that are parked right now, in memory |
//! | `line` | what the log says of letters |
//! | `log` | the log read |
//! | `redrive` | lines moved on: by operators, and by themselves |
//!
//! **What is exact and what is not.** A letter is taken in under its own event id, so the
//! inbox makes its effect exact, whoever is killed and whoever runs it at the same time.
//! The order of a key holds from the moment its first letter is kept. Messages of that key
//! which another lane or instance had taken in by then may have overtaken it, as any
//! redelivery may be overtaken; handlers decide by state and version.

pub(crate) mod key;
pub(crate) mod line;
pub(crate) mod log;
pub(crate) mod lot;
pub(crate) mod redrive;

use async_nats::{
    HeaderMap,
    header::NATS_MESSAGE_ID,
    jetstream::{AckKind, Message},
};
use futures::future::join_all;
use tracing::{error, info};

use crate::{
    Link,
    link::headers,
    work::{Delivery, Work},
};
use lot::Lot;

/// A reason's length in a header at most.
const CAUSE_CHARS_MAX: usize = 1_000;

/// Keeps a message with its `cause`, then ends its delivery. If it cannot be kept it is
/// delivered again: nothing is ended that is not kept.
pub(crate) async fn bury(link: &Link, lot: &Lot, delivery: &Delivery, cause: &str) {
    let (message, key) = (&delivery.message, delivery.key());
    let cause = one_line(cause);
    // Its key is parked before it is kept: what comes now already waits.
    lot.arrive(&key);
    let kept = keep(link, lot, message, &key, Some(&cause)).await;
    lot.arrived(&key);
    match kept {
        Ok(()) => {
            if let Some(reply) = message.reply.clone() {
                // `AckKind::Term` has no room for the reason.
                let term = format!("+TERM {cause}");
                let _ = link.client().publish(reply, term.into()).await;
            }
        }
        Err(error) => come_again(link, message, &error).await,
    }
}

/// Keeps messages whose keys are parked behind the lines of their keys, in this order, then
/// acknowledges them. Each has been announced to the lot.
pub(crate) async fn wait<D>(link: &Link, lot: &Lot, waiting: Vec<Work<D>>) {
    let each = waiting.iter().filter_map(Work::delivery).map(|delivery| async move {
        let (message, key) = (&delivery.message, delivery.key());
        let kept = keep(link, lot, message, &key, None).await;
        lot.arrived(&key);
        match kept {
            Ok(()) => {
                info!(service = link.service(), key, subject = %message.subject,
                    "a message waits behind a dead letter of its key");
                let _ = message.ack().await;
            }
            Err(error) => come_again(link, message, &error).await,
        }
    });
    // They are sent in this order; their acknowledgements may come in any.
    join_all(each).await;
}

async fn come_again(link: &Link, message: &Message, error: &str) {
    error!(service = link.service(), %error, "a dead letter could not be kept");
    let _ = message.ack_with(AckKind::Nak(Some(std::time::Duration::from_secs(5)))).await;
}

/// Without a cause it was not tried: it waits.
async fn keep(
    link: &Link,
    lot: &Lot,
    message: &Message,
    key: &str,
    cause: Option<&str>,
) -> Result<(), String> {
    let fact = events::fact_of_subject(&message.subject).unwrap_or("unknown.fact");
    let mut kept = headers_of(message);
    kept.insert(headers::DEAD_CAUSE, cause.unwrap_or("it waits for what is before it"));
    kept.insert(headers::DEAD_SUBJECT, message.subject.as_str());
    kept.insert(headers::DEAD_BY, lot.instance.as_str());
    if cause.is_none() {
        kept.insert(headers::DEAD_WAITS, "1");
    }
    if let Ok(info) = message.info() {
        // The same message kept twice (a crash before its delivery was ended) is kept once.
        // Its place in its stream tells it from another one that has no id, or the same.
        let id = kept.get("ce-id").map_or("", |id| id.as_str());
        let id = format!("dlq-{}-{}-{}-{id}", link.service(), info.stream, info.stream_sequence);
        kept.insert(NATS_MESSAGE_ID, id);
        kept.insert(headers::DEAD_STREAM, info.stream.to_string());
        kept.insert(headers::DEAD_SEQUENCE, info.stream_sequence.to_string());
        let tries = info.delivered - i64::from(cause.is_none());
        kept.insert(headers::DEAD_ATTEMPTS, tries.to_string());
    }
    let subject = format!("dlq.{}.{fact}.{key}", link.service());
    let sent = link.jetstream().publish_with_headers(subject, kept, message.payload.clone());
    let stored = sent.await.map_err(|error| error.to_string())?;
    stored.await.map(drop).map_err(|error| error.to_string())
}

/// The message's headers but those to the broker: it keeps the ones of an atomic batch, and
/// would take a letter that has them for a part of another batch.
fn headers_of(message: &Message) -> HeaderMap {
    let mut kept = HeaderMap::new();
    for (name, values) in message.headers.iter().flat_map(HeaderMap::iter) {
        if !name.to_string().starts_with("Nats-") {
            values.iter().for_each(|value| kept.append(name.clone(), value.clone()));
        }
    }
    kept
}

/// A text as a header can carry it.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(CAUSE_CHARS_MAX).collect()
}
