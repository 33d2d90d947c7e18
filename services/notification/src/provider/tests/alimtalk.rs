//! AlimTalk, against a fake relay.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use axum::{
    Json,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode},
    routing::{get, post},
};
use events::notification::Channel;
use serde_json::{Value, json};

use super::*;
use crate::{Config, Relay};

const APP: &str = "app-key";
const SECRET: &str = "relay-secret";

/// A fake relay: what it has, and how it behaves.
#[derive(Default)]
pub(crate) struct Vendor {
    /// Each request for AlimTalk messages, as it came.
    requests: Vec<Value>,
    /// Messages that Kakao has, by their key, with the status of each.
    pub(crate) messages: BTreeMap<String, String>,
    /// Text messages, by their key.
    pub(crate) texts: BTreeMap<String, Value>,
    /// Idempotency keys of requests it has seen; a repeat is dropped.
    keys: Vec<String>,
    /// How many requests were dropped.
    repeats: usize,
    /// Numbers that it refuses at once.
    refuses: Vec<String>,
    /// The status that an accepted message gets.
    pub(crate) fate: Option<&'static str>,
    /// Whether it takes a request and never answers.
    pub(crate) swallows: bool,
    /// Error statuses that it answers before it begins to work.
    down: Vec<u16>,
    /// Whether it refuses text messages.
    refuses_texts: bool,
}

pub(crate) type Shared = Arc<Mutex<Vendor>>;
type Reply = Result<Json<Value>, StatusCode>;

fn header(successful: bool) -> Value {
    let code = if successful { 0 } else { -1_000 };
    json!({ "isSuccessful": successful, "resultCode": code, "resultMessage": "as it is" })
}

/// Checks the credentials of a request, and refuses it while the relay is down.
fn enter(vendor: &mut Vendor, app: &str, headers: &HeaderMap) -> Result<(), StatusCode> {
    assert_eq!((app, headers["x-secret-key"].to_str().unwrap()), (APP, SECRET));
    if vendor.down.is_empty() {
        return Ok(());
    }
    Err(StatusCode::from_u16(vendor.down.remove(0)).unwrap())
}

/// Drops a request whose idempotency key was seen before.
fn admit(vendor: &mut Vendor, headers: &HeaderMap) -> Result<(), StatusCode> {
    let key = headers["x-nc-api-idempotency-key"].to_str().unwrap().to_owned();
    if vendor.keys.contains(&key) {
        vendor.repeats += 1;
        return Err(StatusCode::CONFLICT);
    }
    vendor.keys.push(key);
    Ok(())
}

async fn take(
    State(shared): State<Shared>,
    Path(app): Path<String>,
    headers: HeaderMap,
    Json(request): Json<Value>,
) -> Reply {
    let answer = {
        let mut vendor = shared.lock().unwrap();
        enter(&mut vendor, &app, &headers)?;
        admit(&mut vendor, &headers)?;
        vendor.requests.push(request.clone());
        assert_eq!(request["senderKey"], "the-channel");
        let mut results = Vec::new();
        for (seq, recipient) in request["recipientList"].as_array().unwrap().iter().enumerate() {
            let number = recipient["recipientNo"].as_str().unwrap().to_owned();
            let key = recipient["recipientGroupingKey"].as_str().unwrap().to_owned();
            assert_eq!(recipient["resendParameter"]["isResend"], false);
            assert!(recipient["templateParameter"]["show"].is_string());
            let refused = vendor.refuses.contains(&number);
            if !refused {
                let repeated = vendor.messages.insert(key.clone(), "SENT".into()).is_some();
                assert!(!repeated, "Kakao got {key} twice");
            }
            results.push(json!({
                "recipientSeq": seq + 1, "recipientNo": number,
                "resultCode": if refused { 3_016 } else { 0 },
                "resultMessage": if refused { "not a friend of Kakao" } else { "SUCCESS" },
                "recipientGroupingKey": key,
            }));
        }
        json!({ "header": header(true), "message": { "requestId": "r1", "sendResults": results } })
    };
    let swallows = shared.lock().unwrap().swallows;
    if swallows {
        std::future::pending::<()>().await;
    }
    Ok(Json(answer))
}

fn standing(vendor: &Vendor, key: &str) -> Value {
    json!({
        "requestId": "r1", "recipientSeq": 1, "recipientGroupingKey": key,
        "messageStatus": vendor.fate.unwrap_or("COMPLETED"),
        "resultCode": "MRC02", "resultCodeName": "blocked by the user",
    })
}

async fn status(
    State(shared): State<Shared>,
    Path((app, request, seq)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Reply {
    let mut vendor = shared.lock().unwrap();
    enter(&mut vendor, &app, &headers)?;
    assert_eq!((request.as_str(), seq.as_str()), ("r1", "1"));
    let key = vendor.messages.keys().next().cloned().unwrap_or_default();
    Ok(Json(json!({ "header": header(true), "message": standing(&vendor, &key) })))
}

async fn search(
    State(shared): State<Shared>,
    Path(app): Path<String>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Reply {
    let mut vendor = shared.lock().unwrap();
    enter(&mut vendor, &app, &headers)?;
    assert!(query["startCreateDate"] < query["endCreateDate"], "{query:?}");
    let key = &query["recipientGroupingKey"];
    let found: Vec<Value> = vendor
        .messages
        .keys()
        .filter(|known| *known == key)
        .map(|key| standing(&vendor, key))
        .collect();
    let answer = json!({ "messages": found, "totalCount": found.len() });
    Ok(Json(json!({ "header": header(true), "messageSearchResultResponse": answer })))
}

async fn text(
    State(shared): State<Shared>,
    Path((app, kind)): Path<(String, String)>,
    headers: HeaderMap,
    Json(request): Json<Value>,
) -> Reply {
    let mut vendor = shared.lock().unwrap();
    enter(&mut vendor, &app, &headers)?;
    admit(&mut vendor, &headers)?;
    assert_eq!(request["sendNo"], "0212345678");
    assert_eq!(request["title"].is_string(), kind == "mms", "a long text has a title");
    let key = request["recipientList"][0]["recipientGroupingKey"].as_str().unwrap().to_owned();
    let code = if vendor.refuses_texts { -2_018 } else { 0 };
    let result = json!({ "resultCode": code, "resultMessage": "number not in use" });
    if !vendor.refuses_texts {
        vendor.texts.insert(key, request);
    }
    let data = json!({ "requestId": "s1", "sendResultList": [result] });
    Ok(Json(json!({ "header": header(true), "body": { "data": data } })))
}

async fn search_texts(
    State(shared): State<Shared>,
    Path((app, _)): Path<(String, String)>,
    Query(query): Query<BTreeMap<String, String>>,
    headers: HeaderMap,
) -> Reply {
    let mut vendor = shared.lock().unwrap();
    enter(&mut vendor, &app, &headers)?;
    let key = &query["recipientGroupingKey"];
    let found = vendor.texts.keys().filter(|known| *known == key);
    let found: Vec<Value> = found
        .map(|key| json!({ "msgStatus": "3", "resultCode": "MTR1", "recipientGroupingKey": key }))
        .collect();
    Ok(Json(json!({ "header": header(true), "body": { "data": found } })))
}

fn relay(addr: SocketAddr) -> Relay {
    Relay {
        url: format!("http://{addr}"),
        app_key: APP.into(),
        secret: SECRET.into(),
        sender: "the-channel".into(),
        sms_from: Some("0212345678".into()),
    }
}

pub(crate) async fn vendor(change: impl FnOnce(&mut Vendor)) -> (Shared, Provider) {
    let mut vendor = Vendor::default();
    change(&mut vendor);
    let shared = Arc::new(Mutex::new(vendor));
    let router = Router::new()
        .route("/alimtalk/v2.3/appkeys/{app}/messages", post(take).get(search))
        .route("/alimtalk/v2.3/appkeys/{app}/messages/{request}/{seq}", get(status))
        .route("/sms/v3.0/appKeys/{app}/sender/{kind}", post(text).get(search_texts))
        .with_state(shared.clone());
    let addr = serve(router).await;
    (shared, Config::alimtalk(relay(addr)).unwrap().provider)
}

fn to(n: u128, phone: &str) -> Parcel {
    Parcel { phone: Some(phone.into()), ..parcel(n, MessageKind::PaymentCompleted) }
}

fn receipt(delivery: &Delivery) -> Option<String> {
    match delivery {
        Delivery::Accepted(receipt) => Some(receipt.clone()),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn messages_of_one_template_go_in_one_request_and_each_has_a_result_of_its_own() {
    let (shared, provider) = vendor(|vendor| vendor.refuses = vec!["01099999999".into()]).await;
    let other = parcel(4, MessageKind::HoldExpired);
    let parcels = vec![to(1, PHONE), to(2, "+821099999999"), to(3, "+12025550123"), other];
    let refused = parcels[1].id.to_string();
    let ends: Vec<Delivery> =
        send(&provider, parcels).await.deliveries.into_iter().map(|(_, end)| end).collect();
    assert_eq!(ends[0], Delivery::Accepted("r1/1".into()));
    assert_eq!(ends[1], Delivery::Taken(Channel::Sms), "refused by Kakao, sent as a text");
    assert_eq!(ends[2], Delivery::Accepted("r1/3".into()));
    let vendor = shared.lock().unwrap();
    let mut sizes: Vec<(&Value, usize)> = vendor
        .requests
        .iter()
        .map(|r| (&r["templateCode"], r["recipientList"].as_array().unwrap().len()))
        .collect();
    sizes.sort_by_key(|(_, size)| *size);
    assert_eq!(sizes, [(&json!("onsale_expired_en"), 1), (&json!("onsale_paid_en"), 3)]);
    assert_eq!(vendor.texts.len(), 1);
    let text = &vendor.texts[&refused];
    assert_eq!(text["recipientList"][0]["recipientNo"], "01099999999");
    assert!(text["body"].as_str().unwrap().contains("120,000 points"), "{text}");
}

#[tokio::test]
async fn the_status_of_an_accepted_message_is_requested_until_it_has_arrived() {
    let (shared, provider) = vendor(|vendor| vendor.fate = Some("READY")).await;
    let accepted = send_one(&provider, to(1, PHONE)).await;
    let receipt = receipt(&accepted);
    let retry = || Parcel { again: true, receipt: receipt.clone(), ..to(1, PHONE) };
    assert_eq!(send_one(&provider, retry()).await, accepted);
    shared.lock().unwrap().fate = Some("COMPLETED");
    assert_eq!(send_one(&provider, retry()).await, Delivery::Taken(Channel::Alimtalk));
    assert_eq!(shared.lock().unwrap().requests.len(), 1);
}

#[tokio::test]
async fn a_message_that_kakao_refuses_in_the_end_is_sent_as_a_text_once() {
    let (shared, provider) = vendor(|vendor| vendor.fate = Some("FAILED")).await;
    let receipt = receipt(&send_one(&provider, to(1, PHONE)).await);
    let retry = || Parcel { again: true, receipt: receipt.clone(), ..to(1, PHONE) };
    for _ in 0..2 {
        // The second time the lookup finds it at the relay.
        assert_eq!(send_one(&provider, retry()).await, Delivery::Taken(Channel::Sms));
    }
    let vendor = shared.lock().unwrap();
    assert_eq!((vendor.texts.len(), vendor.repeats), (1, 0));
}

#[tokio::test]
async fn a_text_under_a_key_that_the_relay_has_seen_is_dropped_there() {
    let refuses = vec!["01012345678".into()];
    let (shared, provider) = vendor(|vendor| vendor.refuses = refuses).await;
    for _ in 0..2 {
        shared.lock().unwrap().keys.retain(|key| key.parse::<Uuid>().is_ok());
        assert_eq!(send_one(&provider, to(1, PHONE)).await, Delivery::Taken(Channel::Sms));
    }
    let vendor = shared.lock().unwrap();
    assert_eq!((vendor.texts.len(), vendor.repeats), (1, 1));
}

#[tokio::test]
async fn a_message_that_is_refused_as_a_text_too_has_failed_with_both_reasons() {
    let (shared, provider) = vendor(|vendor| {
        vendor.refuses = vec!["01012345678".into()];
        vendor.refuses_texts = true;
    })
    .await;
    let delivery = send_one(&provider, to(1, PHONE)).await;
    assert!(matches!(delivery, Delivery::Refused(_)), "{delivery:?}");
    assert_eq!(
        reason(&delivery),
        "AlimTalk: code 3016: not a friend of Kakao; SMS: code -2018: number not in use"
    );
    drop(shared);
}

#[tokio::test]
async fn without_a_number_to_send_texts_from_a_refused_message_has_failed() {
    let addr = {
        let (_, provider) = vendor(|vendor| vendor.refuses = vec!["01012345678".into()]).await;
        let Provider::Alimtalk(alimtalk) = provider else { unreachable!() };
        alimtalk.url.socket_addrs(|| None).unwrap()[0]
    };
    let silent = Relay { sms_from: None, ..relay(addr) };
    let provider = Config::alimtalk(silent).unwrap().provider;
    let delivery = send_one(&provider, to(1, PHONE)).await;
    assert_eq!(delivery, Delivery::Refused("code 3016: not a friend of Kakao".into()));
}

#[tokio::test]
async fn a_message_that_a_relay_took_without_an_answer_is_looked_up_and_sent_once() {
    let (shared, provider) = vendor(|vendor| vendor.swallows = true).await;
    let within = Duration::from_millis(300);
    let hurried = Round { within, ..round() };
    let sent = provider.send(vec![to(1, PHONE), to(2, PHONE)], hurried).await;
    assert!(sent.deliveries.iter().all(|(_, end)| reason(end) == "no answer in time"));
    shared.lock().unwrap().swallows = false;
    // With another one that is new, so that the request is not the same.
    let again = |n| Parcel { again: true, ..to(n, PHONE) };
    let sent = send(&provider, vec![again(1), again(2), to(3, PHONE)]).await;
    assert_eq!(sent.deliveries[0].1, Delivery::Taken(Channel::Alimtalk));
    assert_eq!(sent.deliveries[1].1, Delivery::Taken(Channel::Alimtalk));
    assert_eq!(sent.deliveries[2].1, Delivery::Accepted("r1/1".into()));
    assert_eq!(shared.lock().unwrap().messages.len(), 3);
}

#[tokio::test]
async fn a_message_that_never_arrived_is_sent_when_the_relay_is_back() {
    let (shared, provider) = vendor(|vendor| vendor.down = vec![503, 401, 500]).await;
    for (again, said) in [(false, "answered 503"), (true, "answered 401"), (true, "answered 500")] {
        let delivery = send_one(&provider, Parcel { again, ..to(1, PHONE) }).await;
        assert!(matches!(delivery, Delivery::Later { .. }), "{delivery:?}");
        assert_eq!(reason(&delivery), said);
    }
    let delivery = send_one(&provider, Parcel { again: true, ..to(1, PHONE) }).await;
    assert_eq!(delivery, Delivery::Accepted("r1/1".into()));
    assert_eq!(shared.lock().unwrap().messages.len(), 1);
}

#[tokio::test]
async fn a_large_round_goes_in_requests_of_a_hundred() {
    let (shared, provider) = vendor(|_| {}).await;
    let sent = send(&provider, (0..200).map(|n| to(n, PHONE)).collect()).await;
    assert!(sent.deliveries.iter().all(|(_, end)| matches!(end, Delivery::Accepted(_))));
    assert_eq!(shared.lock().unwrap().requests.len(), 2);
}
