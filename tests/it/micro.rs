//! The endpoints as NATS services, by the raw protocol: their description and their statistics.

use std::collections::BTreeSet;

use async_nats::{Client, HeaderMap};
use events::codes;
use futures::StreamExt;
use harness::{
    mesh::{Mesh, SOON, run},
    wiring,
};
use serde_json::{Value, json};

/// The members of each answer that the protocol requires.
const COMMON: [&str; 5] = ["type", "name", "id", "version", "metadata"];

/// The answers of so many instances to `subject`.
async fn asked(operator: &Client, subject: String, instances: usize) -> Vec<Value> {
    let inbox = operator.new_inbox();
    let mut replies = operator.subscribe(inbox.clone()).await.expect("an inbox");
    operator.publish_with_reply(subject, inbox, "".into()).await.expect("sent");
    let mut answers = Vec::new();
    while answers.len() < instances {
        let reply = tokio::time::timeout(SOON, replies.next()).await;
        let reply = reply.unwrap_or_else(|_| panic!("only {answers:?}")).expect("a reply");
        answers.push(serde_json::from_slice(&reply.payload).expect("JSON"));
    }
    answers
}

/// The statistics of one endpoint.
async fn stats(operator: &Client, endpoint: &str) -> Value {
    let service = endpoint.split('.').next().expect("a service");
    let answers = asked(operator, format!("$SRV.STATS.onsale-{service}"), 1).await;
    let all = answers[0]["endpoints"].clone();
    let subject = format!("cmd.{endpoint}");
    let of = |one: &&Value| one["subject"] == subject.as_str();
    all.as_array().expect("endpoints").iter().find(of).cloned().expect(endpoint)
}

fn count(stats: &Value, member: &str) -> u64 {
    stats[member].as_u64().unwrap_or_else(|| panic!("{member} of {stats}"))
}

#[test]
fn every_service_is_described_as_the_protocol_says() {
    run(async {
        let mesh = Mesh::own().await;
        let operator = mesh.nats("operator").await;
        // `concert` is two: its second half draws the seat map.
        let instances = wiring::all().len();
        let mut ids = BTreeSet::new();
        for (verb, members) in [
            ("PING", &[][..]),
            ("INFO", &["description", "endpoints"]),
            ("STATS", &["started", "endpoints"]),
        ] {
            for answer in asked(&operator, format!("$SRV.{verb}"), instances).await {
                let kind = format!("io.nats.micro.v1.{}_response", verb.to_lowercase());
                assert_eq!(answer["type"], kind.as_str(), "{answer}");
                let mut expected: Vec<&str> = COMMON.iter().chain(members).copied().collect();
                let mut found: Vec<&str> =
                    answer.as_object().expect("an object").keys().map(String::as_str).collect();
                expected.sort_unstable();
                found.sort_unstable();
                assert_eq!(found, expected, "{answer}");
                let member = |name: &str| answer[name].as_str().expect(name).to_owned();
                let (name, id) = (member("name"), member("id"));
                let alone = asked(&operator, format!("$SRV.{verb}.{name}.{id}"), 1).await;
                assert_eq!((&alone[0]["id"], &alone[0]["type"]), (&json!(id), &json!(kind)));
                ids.insert(id);
            }
        }
        // An instance keeps its id, by which it can be asked alone.
        assert_eq!(ids.len(), instances, "{ids:?}");
        let answers = asked(&operator, "$SRV.STATS".to_owned(), instances).await;
        for answer in &answers {
            let started = answer["started"].as_str().expect("a time").parse::<events::Timestamp>();
            assert!(started.expect("RFC 3339") <= mesh::clock::now(), "{answer}");
            for endpoint in answer["endpoints"].as_array().expect("endpoints") {
                for member in ["num_requests", "num_errors", "processing_time"] {
                    count(endpoint, member);
                }
                let texts = ["name", "subject", "queue_group", "last_error"];
                assert!(texts.iter().all(|text| endpoint[*text].is_string()), "{endpoint}");
            }
        }
        mesh.stop().await;
    });
}

#[test]
fn an_endpoint_counts_each_request_and_each_refusal_once() {
    run(async {
        let mesh = Mesh::own().await;
        let operator = mesh.nats("operator").await;
        let schedule = mesh.open(3, |_| {}).await.schedule_id;
        let fan = mesh.fan(200).await;
        let before = stats(&operator, "payment.pay").await;
        assert_eq!((count(&before, "num_requests"), count(&before, "num_errors")), (0, 0));
        assert_eq!(
            (&before["last_error"], count(&before, "average_processing_time")),
            (&json!(""), 0)
        );

        // Paying goes in bundles; each command in one counts.
        for seat in ["A-1-1", "A-1-2"] {
            fan.pay(&fan.hold(schedule, &[seat]).await).await;
        }
        let unknown = json!({ "reservation_id": uuid::Uuid::now_v7() });
        assert_eq!(fan.post("/v1/payments", &unknown).await.code().as_deref(), Some("not_found"));
        let pay = stats(&operator, "payment.pay").await;
        assert_eq!((count(&pay, "num_requests"), count(&pay, "num_errors")), (3, 1), "{pay}");
        assert_eq!(pay["last_error"], format!("404:{}", codes::NOT_FOUND.code));
        let (total, average) =
            (count(&pay, "processing_time"), count(&pay, "average_processing_time"));
        assert!(average > 0 && average == total / 3, "{pay}");
        // No request takes longer than the callers have waited.
        assert!(std::time::Duration::from_nanos(total) < 3 * SOON, "{pay}");

        // A query, with a token and without.
        let client = fan.nats().await;
        let earlier = count(&stats(&operator, "point.balance").await, "num_requests");
        let mut map = HeaderMap::new();
        map.insert("authorization", format!("Bearer {}", fan.token()));
        let granted = client.request_with_headers("cmd.point.balance", map, "{}".into());
        granted.await.expect("answered");
        client.request("cmd.point.balance", "{}".into()).await.expect("answered");
        let balance = stats(&operator, "point.balance").await;
        assert_eq!(count(&balance, "num_requests"), earlier + 2, "{balance}");
        assert_eq!(count(&balance, "num_errors"), 1, "{balance}");
        mesh.stop().await;
    });
}

#[test]
fn a_bundle_that_cannot_be_read_and_a_request_that_came_too_late_count_as_refused() {
    run(async {
        let mesh = Mesh::own().await;
        let operator = mesh.nats("operator").await;
        let fan = mesh.fan(0).await;
        let client = fan.nats().await;
        let asking = |name: &'static str, value: &str, body: &'static str| {
            let mut map = HeaderMap::new();
            map.insert(name, value);
            client.request_with_headers("cmd.payment.pay", map, body.into())
        };
        asking("onsale-bundle", "1", "no bundle").await.expect("answered");
        let pay = stats(&operator, "payment.pay").await;
        assert_eq!((count(&pay, "num_requests"), count(&pay, "num_errors")), (1, 1), "{pay}");
        // Nobody waits for the answer to this one any longer, so none is sent.
        let inbox = client.new_inbox();
        let mut map = HeaderMap::new();
        map.insert("onsale-deadline", "1");
        let late = ("cmd.payment.pay", inbox, map, "{}".into());
        client.publish_with_reply_and_headers(late.0, late.1, late.2, late.3).await.expect("sent");
        client.flush().await.expect("the broker answers");
        harness::mesh::eventually("the late request is counted", || async {
            let pay = stats(&operator, "payment.pay").await;
            let counts = (count(&pay, "num_requests"), count(&pay, "num_errors"));
            (counts == (2, 2) && pay["last_error"] == "504:timed_out").then_some(())
        })
        .await;
        mesh.stop().await;
    });
}
