//! Commands that come in one bundle: each is decided and answered by itself.

use std::collections::BTreeMap;

use async_nats::{Client, HeaderMap};
use events::{codes, queue::Place};
use futures::{StreamExt, future::join_all};
use harness::mesh::{Fan, Mesh, SOON, run, shared};
use serde_json::{Value, json};
use uuid::Uuid;

/// How many requests come at once: more than one bundle holds.
const CROWD: usize = 300;

/// A command of a bundle, as the gateway would write it.
fn packed(fan: &Fan<'_>, key: &str, body: Value) -> Value {
    json!({
        "authorization": format!("Bearer {}", fan.token()),
        "idempotency_key": key,
        "id": Uuid::now_v7(),
        "deadline": i64::MAX,
        "body": body,
    })
}

/// Sends a bundle to `point.charge`. Returns status and body by the command's place, once this
/// many are answered.
async fn charge(client: &Client, bundle: &str, answers: usize) -> BTreeMap<u64, (u64, Value)> {
    let inbox = client.new_inbox();
    let mut replies = client.subscribe(inbox.clone()).await.expect("an inbox");
    let mut map = HeaderMap::new();
    map.insert("onsale-bundle", "1");
    let body = bundle.to_owned().into();
    let sent = client.publish_with_reply_and_headers("cmd.point.charge", inbox, map, body).await;
    sent.expect("sent");
    let mut answered = BTreeMap::new();
    while answered.len() < answers {
        let reply = tokio::time::timeout(SOON, replies.next()).await;
        let reply = reply.unwrap_or_else(|_| panic!("only {answered:?}")).expect("a reply");
        let some: Vec<Value> = serde_json::from_slice(&reply.payload).expect("answers");
        for one in some {
            let at = one["at"].as_u64().expect("a place");
            let status = one["status"].as_u64().expect("a status");
            let again = answered.insert(at, (status, one["body"].clone()));
            assert_eq!(again, None, "{at} is answered once");
        }
    }
    answered
}

#[test]
fn each_command_of_a_bundle_is_answered_by_itself() {
    run(async {
        let mesh = shared().await;
        let (fan, other) = (mesh.fan(0).await, mesh.fan(0).await);
        let client = fan.nats().await;
        let mut forged = packed(&fan, "forged", json!({ "amount": 7 }));
        forged["authorization"] = json!("Bearer of.bad.news");
        let mut late = packed(&fan, "late", json!({ "amount": 7 }));
        late["deadline"] = json!(1);
        let bundle = json!([
            packed(&fan, "first", json!({ "amount": 50 })),
            forged,
            packed(&other, "first", json!({ "amount": 20 })),
            packed(&fan, "wrong", json!({ "amount": -1 })),
            packed(&fan, "first", json!({ "amount": 50 })),
            late,
            packed(&fan, "first", json!({ "amount": 51 })),
        ]);
        let answered = charge(&client, &bundle.to_string(), 6).await;
        let status = |at: u64| answered[&at].0;
        assert_eq!([0, 2, 4].map(status), [201, 201, 201], "{answered:?}");
        assert_eq!(answered[&0].1, answered[&4].1, "the same key gives the same answer");
        assert_eq!(answered[&1].1["code"], codes::UNAUTHENTICATED.code);
        assert_eq!(answered[&3].1["code"], codes::INVALID.code);
        assert_eq!(answered[&6].1["code"], codes::IDEMPOTENCY_KEY_REUSED.code);
        assert!(!answered.contains_key(&5), "its deadline has passed, so no caller waits for it");
        assert_eq!((fan.balance().await, other.balance().await), (50, 20));
    });
}

#[test]
fn a_malformed_bundle_is_refused_as_a_whole() {
    run(async {
        let mesh = shared().await;
        let client = mesh.nats("client").await;
        let mut map = HeaderMap::new();
        map.insert("onsale-bundle", "1");
        for body in ["", "{}", "[{\"body\":{}}]", "[1"] {
            let subject = "cmd.point.charge";
            let asked = client.request_with_headers(subject, map.clone(), body.into()).await;
            let problem: Value =
                serde_json::from_slice(&asked.expect("an answer").payload).expect("a problem");
            assert_eq!(problem["code"], codes::BAD_REQUEST.code, "{body}");
        }
    });
}

#[test]
fn each_of_many_requests_at_once_gets_its_own_answer() {
    run(async {
        let mesh = shared().await;
        let schedule = mesh.open(1, |opening| opening.opens_at = None).await.schedule_id;
        let fan = mesh.fan(0).await;
        fan.enter(schedule).await;
        // One fan sends requests, half of them with an invalid ticket; each answer has to come back
        // to the request that it belongs to.
        let path = format!("/v1/schedules/{schedule}/queue");
        let asked = (0..CROWD).map(|number| {
            let (fan, path) = (&fan, &path);
            async move {
                let body = match number % 2 {
                    0 => json!({}),
                    _ => json!({ "ticket": number }),
                };
                (number, fan.post(path, &body).await)
            }
        });
        for (number, answer) in join_all(asked).await {
            match number % 2 {
                0 => drop(answer.json::<Place>().expect("a place")),
                _ => assert_eq!(answer.status.as_u16(), codes::INVALID.status, "{answer:?}"),
            }
        }
    });
}

#[test]
fn a_request_to_a_service_that_does_not_run_is_refused_at_once() {
    run(async {
        let mesh = Mesh::with(&["user", "gateway"]).await;
        let fan = mesh.fan(0).await;
        let body = json!({ "reservation_id": Uuid::now_v7() });
        let answer = fan.post("/v1/payments", &body).await;
        assert_eq!(answer.status.as_u16(), codes::UNAVAILABLE.status, "{answer:?}");
        mesh.stop().await;
    });
}
