//! The way out for a message that can never succeed.
//!
//! It is kept in the stream `DEAD_LETTERS` under `dlq.<service>.<fact>`, with its payload
//! and headers as they were, and beside them why, where from and how often it was tried.

use async_nats::{
    HeaderMap,
    header::NATS_MESSAGE_ID,
    jetstream::{AckKind, Message},
};
use tracing::error;

use crate::Link;

/// A reason's length in a header at most.
const CAUSE_CHARS_MAX: usize = 1_000;

/// Keeps `message` with its `cause`, then ends its delivery. If it cannot be kept it is
/// delivered again: nothing is ended that is not kept.
pub(crate) async fn bury(link: &Link, message: &Message, cause: &str) {
    let cause: String =
        cause.chars().map(|c| if c.is_control() { ' ' } else { c }).take(CAUSE_CHARS_MAX).collect();
    match keep(link, message, &cause).await {
        Ok(()) => {
            if let Some(reply) = message.reply.clone() {
                // `AckKind::Term` has no room for the reason.
                let term = format!("+TERM {cause}");
                let _ = link.client().publish(reply, term.into()).await;
            }
        }
        Err(error) => {
            error!(service = link.service(), %error, "a dead letter could not be kept");
            let _ = message.ack_with(AckKind::Nak(Some(std::time::Duration::from_secs(5)))).await;
        }
    }
}

async fn keep(link: &Link, message: &Message, cause: &str) -> Result<(), String> {
    let fact = events::fact_of_subject(&message.subject).unwrap_or("unknown");
    let mut headers = headers_of(message);
    headers.insert("onsale-dead-cause", cause);
    headers.insert("onsale-dead-subject", message.subject.as_str());
    if let Ok(info) = message.info() {
        // The same message buried twice (a crash before the term) is kept once. Its place in
        // its stream tells it from another one that has no id, or the same.
        let id = headers.get("ce-id").map_or("", |id| id.as_str());
        let id = format!("dlq-{}-{}-{}-{id}", link.service(), info.stream, info.stream_sequence);
        headers.insert(NATS_MESSAGE_ID, id);
        headers.insert("onsale-dead-stream", info.stream.to_string());
        headers.insert("onsale-dead-sequence", info.stream_sequence.to_string());
        headers.insert("onsale-dead-attempts", info.delivered.to_string());
    }
    link.jetstream()
        .publish_with_headers(
            format!("dlq.{}.{fact}", link.service()),
            headers,
            message.payload.clone(),
        )
        .await
        .map_err(|error| error.to_string())?
        .await
        .map(|_| ())
        .map_err(|error| error.to_string())
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
