//! What the broker permits a user, by trying it. This is for monitoring; a service does not need
//! it.
//!
//! The broker refuses what a user may not do and says nothing about what it may. So the last thing
//! that it is sent is one that it always refuses: it works in order, and then everything before
//! that is decided. Every attempt is harmless where it is permitted: a message for a stream names another
//! stream as the expected one, so none stores it, and requests have no reply subject.

#![expect(clippy::disallowed_methods, reason = "each call has a timeout")]

use std::{collections::BTreeSet, time::Duration};

use async_nats::{ConnectOptions, Event, HeaderMap, header::NATS_EXPECTED_STREAM};
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::{
    deadline::within,
    nats::{
        error::{BrokerError, ConnectError},
        link::{BROKER, LinkSettings, SEND_TIMEOUT, addresses},
    },
};

/// How long the connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How soon the broker has decided.
const DECIDED_WITHIN: Duration = Duration::from_secs(5);
/// A subscription that the broker always refuses: as not permitted, or as no subject at all.
const NO_SUBJECT: &str = "doctor.>.nothing";
/// How it refuses the latter.
const NO_SUBJECT_REFUSED: &str = "invalid subject";
/// Refusals that are kept.
const REFUSALS_MAX: usize = 1_024;
/// A stream that does not exist, so that no stream stores an attempt.
const NO_STREAM: &str = "NOT_A_STREAM";
/// In an acknowledgement: the message is still being worked on. It acknowledges nothing.
const IN_PROGRESS: Bytes = Bytes::from_static(b"+WPI");

/// Something that a user of the broker may do, or not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Attempt {
    /// Publishing to a subject.
    Publish(String),
    /// Subscribing to a subject.
    Subscribe(String),
}

impl std::fmt::Display for Attempt {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Publish(subject) => write!(f, "publish to {subject}"),
            Self::Subscribe(subject) => write!(f, "subscribe to {subject}"),
        }
    }
}

/// Tries each of `wanted`, then each of `unwanted`; returns those of `wanted` that were refused
/// and those of `unwanted` that were not; `None` when the broker has not decided in time. `user` is
/// the name of the connection.
///
/// # Errors
/// When there is no connection.
pub async fn misgranted(
    settings: LinkSettings,
    user: &str,
    wanted: &[Attempt],
    unwanted: &[Attempt],
) -> Result<Option<(Vec<Attempt>, Vec<Attempt>)>, ConnectError> {
    let (sender, mut refusals) = mpsc::channel(REFUSALS_MAX);
    let options = ConnectOptions::new()
        .name(format!("onsale-{user}"))
        .custom_inbox_prefix(format!("_INBOX_{user}"))
        .connection_timeout(CONNECT_TIMEOUT)
        .event_callback(move |event| {
            if let Event::ServerError(error) = event {
                // One that does not fit is a fault that has been found often enough.
                let _ = sender.try_send(error.to_string().to_ascii_lowercase());
            }
            async {}
        });
    let options = match settings.nkey_seed {
        Some(seed) => options.nkey(seed),
        None => options,
    };
    let client = options.connect(addresses(&settings.nats_url)?).await.map_err(|source| {
        use async_nats::ConnectErrorKind::{Authentication, AuthorizationViolation};
        match source.kind() {
            Authentication | AuthorizationViolation => {
                ConnectError::Refused { user: user.to_owned(), source }
            }
            _ => ConnectError::Away(source),
        }
    })?;
    let mut kept = Vec::new();
    let last = Attempt::Subscribe(NO_SUBJECT.to_owned());
    for attempt in wanted.iter().chain(unwanted).chain([&last]) {
        let tried = within(SEND_TIMEOUT, BROKER, exercise(&client, attempt)).await;
        match tried.map_err(BrokerError::from).and_then(|tried| tried) {
            Ok(subscriber) => kept.extend(subscriber),
            Err(_) => break,
        }
    }
    let refused = collect(&mut refusals, &last).await;
    drop(kept);
    let _ = within(SEND_TIMEOUT, BROKER, client.drain()).await;
    Ok(refused.map(|refused| {
        let is_refused = |attempt: &&Attempt| refused.contains(&refusal(attempt));
        let permitted = unwanted.iter().filter(|attempt| !is_refused(attempt));
        (wanted.iter().filter(is_refused).cloned().collect(), permitted.cloned().collect())
    }))
}

async fn exercise(
    client: &async_nats::Client,
    attempt: &Attempt,
) -> Result<Option<async_nats::Subscriber>, BrokerError> {
    match attempt {
        Attempt::Subscribe(subject) => Ok(Some(client.subscribe(subject.clone()).await?)),
        Attempt::Publish(subject) => {
            let mut headers = HeaderMap::new();
            headers.insert(NATS_EXPECTED_STREAM, NO_STREAM);
            let body = if subject.starts_with("$JS.ACK.") { IN_PROGRESS } else { Bytes::new() };
            client.publish_with_headers(subject.clone(), headers, body).await?;
            Ok(None)
        }
    }
}

/// What is refused until `last` is; `None` when that takes too long.
async fn collect(
    refusals: &mut mpsc::Receiver<String>,
    last: &Attempt,
) -> Option<BTreeSet<String>> {
    let last = refusal(last);
    let all = async {
        let mut refused = BTreeSet::new();
        loop {
            let text = refusals.recv().await?;
            let what = quoted(&text);
            if what.as_ref() == Some(&last) || text.contains(NO_SUBJECT_REFUSED) {
                return Some(refused);
            }
            refused.extend(what);
        }
    };
    within(DECIDED_WITHIN, BROKER, all).await.ok().flatten()
}

/// How the broker names what it has refused: `publish to "onsale.x"`.
fn refusal(attempt: &Attempt) -> String {
    match attempt {
        Attempt::Publish(subject) => format!("publish to \"{}\"", subject.to_ascii_lowercase()),
        Attempt::Subscribe(subject) => {
            format!("subscription to \"{}\"", subject.to_ascii_lowercase())
        }
    }
}

/// The part of `permissions violation for publish to "onsale.x"` that names what was refused.
fn quoted(text: &str) -> Option<String> {
    let (_, what) = text.split_once("permissions violation for ")?;
    let end = what.match_indices('"').nth(1)?.0;
    Some(what[..=end].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_names_the_attempt() {
        let text = "nats: permissions violation for subscription to \"cmd.x\" using queue \"q\"";
        assert_eq!(quoted(text), Some(refusal(&Attempt::Subscribe("cmd.X".into()))));
        assert_eq!(quoted("authorization violation"), None);
    }
}
