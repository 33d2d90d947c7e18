//! The signed webhook.

use std::sync::{Arc, Mutex};

use axum::{
    body::Bytes,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::post,
};
use base64::{Engine, engine::general_purpose::STANDARD};
use events::notification::Channel;
use ring::hmac;
use serde_json::Value;

use super::*;
use crate::{Config, provider::Webhook};

const SECRET: &[u8] = b"a secret of the receiver";

/// What the receiver got and how it answers.
#[derive(Default)]
struct Receiver {
    /// Error statuses that it answers before it begins to take messages.
    answers: Vec<(u16, Option<&'static str>)>,
    /// How long it waits before it answers.
    slow: Duration,
    /// The messages it has, each once.
    taken: Vec<(String, Value)>,
    /// How many repeats it got.
    repeats: usize,
}

type Shared = Arc<Mutex<Receiver>>;

/// A receiver as Standard Webhooks asks for: it verifies a message, then drops a repeat.
async fn receive(State(receiver): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    let slow = receiver.lock().unwrap().slow;
    tokio::time::sleep(slow).await;
    let read = |name: &str| headers.get(name).unwrap().to_str().unwrap().to_owned();
    let (id, timestamp) = (read("webhook-id"), read("webhook-timestamp"));
    let age = now().0.unix_timestamp() - timestamp.parse::<i64>().unwrap();
    assert!(age.abs() < 60, "{age}");
    let signed = [id.as_bytes(), b".", timestamp.as_bytes(), b".", &body].concat();
    let signature = read("webhook-signature");
    let signature = STANDARD.decode(signature.strip_prefix("v1,").unwrap()).unwrap();
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    if hmac::verify(&key, &signed, &signature).is_err() {
        return StatusCode::UNAUTHORIZED.into_response();
    }
    let mut receiver = receiver.lock().unwrap();
    if !receiver.answers.is_empty() {
        let (status, retry_after) = receiver.answers.remove(0);
        let mut response = StatusCode::from_u16(status).unwrap().into_response();
        let wait = retry_after.map(HeaderValue::from_static);
        response.headers_mut().extend(wait.map(|wait| (header::RETRY_AFTER, wait)));
        return response;
    }
    if receiver.taken.iter().any(|(taken, _)| *taken == id) {
        receiver.repeats += 1;
    } else {
        receiver.taken.push((id, serde_json::from_slice(&body).unwrap()));
    }
    StatusCode::NO_CONTENT.into_response()
}

async fn receiver(change: impl FnOnce(&mut Receiver)) -> (Shared, Provider) {
    let mut receiver = Receiver::default();
    change(&mut receiver);
    let shared = Arc::new(Mutex::new(receiver));
    let router = Router::new().route("/hook", post(receive)).with_state(shared.clone());
    let addr = serve(router).await;
    let secret = format!("whsec_{}", STANDARD.encode(SECRET));
    let webhook = Webhook::new(&format!("http://{addr}/hook"), &secret).unwrap();
    (shared, Provider::Webhook(webhook))
}

#[tokio::test]
async fn a_message_arrives_signed_and_says_what_it_is_about() {
    let (shared, provider) = receiver(|_| {}).await;
    let sent = parcel(1, MessageKind::PaymentCompleted);
    let (id, text) = (sent.id, sent.words.text.clone());
    assert_eq!(send_one(&provider, sent).await, Delivery::Taken(Channel::Webhook));
    let receiver = shared.lock().unwrap();
    let (taken, body) = &receiver.taken[0];
    assert_eq!(*taken, id.to_string());
    assert_eq!(body["type"], "message.payment_completed");
    assert_eq!(body["data"]["text"], text);
    assert!(!body.to_string().contains("1234567"), "a webhook needs no telephone number");
}

#[tokio::test]
async fn another_secret_is_refused() {
    let (_, provider) = receiver(|_| {}).await;
    let Provider::Webhook(webhook) = &provider else { unreachable!() };
    let url = webhook.url.as_str();
    let other = Provider::Webhook(Webhook::new(url, "another secret altogether").unwrap());
    let delivery = send_one(&other, parcel(1, MessageKind::PaymentCompleted)).await;
    assert_eq!(delivery, Delivery::Refused("answered 401".into()));
    assert_ne!(other.fingerprint(), provider.fingerprint());
}

#[tokio::test]
async fn a_message_is_retried_after_a_server_error_and_not_after_a_client_error() {
    let answers = vec![
        (500, None),
        (429, Some("120")),
        (503, Some("7")),
        (408, None),
        (302, None),
        (422, None),
    ];
    let (shared, provider) = receiver(|receiver| receiver.answers = answers).await;
    for after in [None, Some(120), Some(7), None, None] {
        let delivery = send_one(&provider, parcel(1, MessageKind::HoldExpired)).await;
        assert!(
            matches!(&delivery, Delivery::Later { after_secs, .. } if *after_secs == after),
            "{delivery:?}"
        );
    }
    let delivery = send_one(&provider, parcel(1, MessageKind::HoldExpired)).await;
    assert_eq!(delivery, Delivery::Refused("answered 422".into()));
    assert!(shared.lock().unwrap().taken.is_empty());
    let delivery = send_one(&provider, parcel(1, MessageKind::HoldExpired)).await;
    assert_eq!(delivery, Delivery::Taken(Channel::Webhook));
}

#[tokio::test]
async fn an_endpoint_that_is_gone_is_reported() {
    let (_, provider) = receiver(|receiver| receiver.answers = vec![(410, None)]).await;
    let sent = send(&provider, vec![parcel(1, MessageKind::HoldExpired)]).await;
    assert!(sent.gone);
    assert_eq!(reason(&sent.deliveries[0].1), "the endpoint is gone (410)");
}

#[tokio::test]
async fn a_repeat_has_the_same_id_and_is_dropped() {
    let (shared, provider) = receiver(|_| {}).await;
    for again in [false, true, true] {
        let parcel = Parcel { again, ..parcel(1, MessageKind::HoldExpired) };
        assert_eq!(send_one(&provider, parcel).await, Delivery::Taken(Channel::Webhook));
    }
    let receiver = shared.lock().unwrap();
    assert_eq!((receiver.taken.len(), receiver.repeats), (1, 2));
}

#[tokio::test]
async fn a_server_that_hangs_costs_one_round_and_no_more() {
    let (_, provider) = receiver(|receiver| receiver.slow = Duration::from_secs(60)).await;
    let parcels = (0..200).map(|n| parcel(n, MessageKind::HoldExpired)).collect();
    let began = Instant::now();
    let within = Duration::from_millis(300);
    let round = Round { until: began + within, within, ..round() };
    let sent = provider.send(parcels, round).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(sent.deliveries.len(), 200);
    let untried = sent.deliveries.iter().filter(|(_, end)| *end == Delivery::Untried).count();
    assert!(untried >= 150, "{untried}");
    let tried = sent.deliveries.iter().find(|(_, end)| *end != Delivery::Untried).unwrap();
    assert_eq!(reason(&tried.1), "no answer in time");
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_retried_and_its_address_is_not_shown() {
    let addr = nowhere().await;
    let config = Config::webhook(&format!("http://{addr}/a-key"), "a secret of the receiver");
    let delivery = send_one(&config.unwrap().provider, parcel(1, MessageKind::HoldExpired)).await;
    let reason = reason(&delivery);
    assert!(reason.starts_with("cannot connect") && !reason.contains("a-key"), "{reason}");
}

#[test]
fn a_secret_that_is_short_or_garbled_is_not_used() {
    for bad in ["short", "whsec_c2hvcnQ=", "whsec_???"] {
        assert!(Webhook::new("http://localhost/", bad).is_err(), "{bad}");
    }
}
