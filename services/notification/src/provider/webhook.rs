//! A signed webhook, as Standard Webhooks describes it.
//!
//! `webhook-id` is the message's id at every try, so that the receiver can drop repeats;
//! `webhook-timestamp` is the time of the try; `webhook-signature` is `v1,` and the base64 of
//! HMAC-SHA256 over `<id>.<timestamp>.<body>`. `410 Gone` closes the endpoint.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use events::notification::Channel;
use futures::{StreamExt, stream};
use reqwest::{Client, StatusCode, Url, header::CONTENT_TYPE};
use ring::hmac;
use serde_json::json;

use super::{
    http,
    parcel::{AT_ONCE, Parcel, Round, Sent},
    unusable::{SECRET_BYTES_MIN, Unusable},
};
use crate::domain::Delivery;

/// A signed webhook.
#[derive(Clone)]
pub struct Webhook {
    client: Client,
    pub(super) url: Url,
    key: Arc<hmac::Key>,
    fingerprint: String,
}

// The address may have a key in it.
impl std::fmt::Debug for Webhook {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Webhook").field("host", &self.url.host_str()).finish_non_exhaustive()
    }
}

impl Webhook {
    pub(crate) fn new(url: &str, secret: &str) -> Result<Self, Unusable> {
        let url = http::address(url)?;
        let secret = match secret.strip_prefix("whsec_") {
            Some(encoded) => STANDARD.decode(encoded).map_err(|_| Unusable::SecretEncoding)?,
            None => secret.as_bytes().to_vec(),
        };
        if secret.len() < SECRET_BYTES_MIN {
            return Err(Unusable::ShortSecret);
        }
        let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
        // Another secret makes another endpoint, and the fingerprint reveals neither address nor
        // secret.
        let fingerprint = STANDARD.encode(hmac::sign(&key, url.as_str().as_bytes()));
        Ok(Self { client: http::client()?, url, key: Arc::new(key), fingerprint })
    }

    pub(super) fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    pub(super) async fn send(&self, parcels: Vec<Parcel>, round: Round) -> Sent {
        let tries = stream::iter(parcels).map(|parcel| self.try_one(parcel, round));
        let tries: Vec<_> = tries.buffer_unordered(AT_ONCE).collect().await;
        let gone = tries.iter().any(|(_, _, status)| *status == Some(StatusCode::GONE));
        let deliveries = tries.into_iter().map(|(id, delivery, _)| (id, delivery)).collect();
        Sent { deliveries, gone }
    }

    async fn try_one(
        &self,
        parcel: Parcel,
        round: Round,
    ) -> (uuid::Uuid, Delivery, Option<StatusCode>) {
        if !round.is_open() {
            return (parcel.id, Delivery::Untried, None);
        }
        let (id, body) = (parcel.id.to_string(), body(&parcel));
        let timestamp = round.now.0.unix_timestamp().to_string();
        let signed = [id.as_bytes(), b".", timestamp.as_bytes(), b".", &body].concat();
        let signature = STANDARD.encode(hmac::sign(&self.key, &signed));
        let request = self
            .client
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", id)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", format!("v1,{signature}"))
            .body(body);
        match http::ask(request, round.within, round.now).await {
            Ok(answer) => (parcel.id, understood(&answer), Some(answer.status)),
            Err(delivery) => (parcel.id, delivery, None),
        }
    }
}

fn understood(answer: &http::Answer) -> Delivery {
    match answer.status {
        status if status.is_success() => Delivery::Taken(Channel::Webhook),
        // An operator may replace the endpoint while the message is fresh.
        StatusCode::GONE => Delivery::later("the endpoint is gone (410)"),
        StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT => answer.later(),
        status if status.is_client_error() => {
            Delivery::Refused(format!("answered {}", status.as_u16()))
        }
        _ => answer.later(),
    }
}

fn body(parcel: &Parcel) -> Vec<u8> {
    let body = json!({
        "type": format!("message.{}", parcel.kind.as_str()),
        "timestamp": parcel.created_at,
        "data": {
            "message_id": parcel.id,
            "user_id": parcel.user_id,
            "subject_id": parcel.subject_id,
            "kind": parcel.kind,
            "schedule_id": parcel.schedule_id,
            "locale": parcel.locale,
            "title": parcel.words.title,
            "text": parcel.words.text,
            "values": parcel.words.values,
        },
    });
    body.to_string().into_bytes()
}
