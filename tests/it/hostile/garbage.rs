//! Messages that no service has sent, on every subject: of every event that is consumed, under the
//! identity that may publish it, and of every command and query.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use async_nats::{HeaderMap, Message, header::NATS_MESSAGE_ID};
use bytes::Bytes;
use events::{CONTENT_TYPE, Problem, codes};
use futures::StreamExt;
use harness::{
    mesh::{Mesh, SOON, eventually, run},
    wiring,
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::{
    broker::{Broker, header},
    rest::Stores,
};

/// Levels of nested JSON.
const LEVELS: usize = 10_000;
/// Entries of a large batch.
const MANY: usize = 50;
/// Bytes of a message that is nearly as large as the broker accepts.
const LARGE: usize = 7 * 1024 * 1024;
/// How long all garbage may take to become dead letters, on a busy machine.
const KEPT_WITHIN: Duration = Duration::from_secs(120);

/// One message, and how many dead letters each of its consumers makes of it.
struct Garbage {
    what: &'static str,
    body: Bytes,
    content_type: &'static str,
    has_id: bool,
    letters: usize,
}

impl Garbage {
    fn new(what: &'static str, body: impl Into<Bytes>, letters: usize) -> Self {
        let (body, content_type) = (body.into(), CONTENT_TYPE);
        Self { what, body, content_type, has_id: true, letters }
    }
}

fn deep() -> Vec<u8> {
    [b"[".repeat(LEVELS), b"]".repeat(LEVELS)].concat()
}

/// A whole envelope around this data, about an entity of its own.
fn envelope(name: &str, version: u32, data: &str) -> String {
    let (id, about, saga) = (Uuid::now_v7(), Uuid::now_v7(), Uuid::now_v7());
    let producer = events::producer_of(name);
    format!(
        "{{\"specversion\":\"1.0\",\"id\":\"{id}\",\"source\":\"/onsale/{producer}\",\
         \"type\":\"onsale.{name}.v{version}\",\"time\":\"2026-05-01T11:00:00Z\",\
         \"subject\":\"{about}\",\"sagaid\":\"{saga}\",\"data\":{data}}}"
    )
}

/// Garbage in place of one event.
fn garbage(name: &str, random: &mut StdRng) -> Vec<Garbage> {
    let bytes: Vec<u8> = (0..512).map(|_| random.random()).collect();
    let whole = |data: &str| envelope(name, 1, data);
    let batch = |events: &[String]| format!("[{}]", events.join(","));
    let many = vec!["{\"a\":1}".to_owned(); MANY];
    let large = format!("[\"{}\"]", "x".repeat(64 * 1024));
    let truncated = batch(&[whole("{\"a\":1}")]);
    let no_utf8 = [b"[".as_slice(), &whole("{\"a\":\"").into_bytes(), b"\xff\xfe\"}]"].concat();
    let deep = String::from_utf8(deep()).expect("brackets");
    vec![
        Garbage::new("nothing", Bytes::new(), 1),
        Garbage::new("random bytes", bytes, 1),
        Garbage::new("an empty batch", "[]", 0),
        Garbage::new("a text", "\"hello\"", 1),
        Garbage::new("an object", "{}", 1),
        Garbage::new("null", "null", 1),
        Garbage::new("what is no event", "[null,1,\"a\",[],{}]", 5),
        Garbage::new("many of those", batch(&many), MANY),
        Garbage::new("a large text", large, 1),
        Garbage::new("a truncated event", truncated[..truncated.len() / 2].to_owned(), 1),
        Garbage::new("an event that is no UTF-8", no_utf8, 1),
        Garbage::new("deep JSON", deep.clone(), 1),
        Garbage::new("an event of deep JSON", batch(&[whole(&deep)]), 1),
        Garbage::new("data of the wrong type", batch(&[whole("7"), whole("[]")]), 2),
        Garbage::new("data without its members", batch(&[whole("{}")]), 1),
        Garbage::new("members of the wrong type", batch(&[whole(&odd_members())]), 1),
        Garbage {
            content_type: "text/plain",
            ..Garbage::new("another content type", batch(&[whole("null")]), 1)
        },
        Garbage { has_id: false, ..Garbage::new("no message id", batch(&[whole("{}")]), 1) },
    ]
}

/// The members that events have, each of a type that none of them has.
fn odd_members() -> String {
    let names = ["user_id", "payment_id", "reservation_id", "schedule_id", "attempt", "amount"];
    let odd: serde_json::Map<String, Value> =
        names.iter().map(|name| ((*name).to_owned(), json!([{ "a": -1e300 }]))).collect();
    Value::Object(odd).to_string()
}

async fn publish(broker: &Broker, subject: &str, garbage: &Garbage) {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", garbage.content_type);
    if garbage.has_id {
        headers.insert(NATS_MESSAGE_ID, Uuid::now_v7().to_string());
    }
    let (subject, body) = (subject.to_owned(), garbage.body.clone());
    let sent = broker.jetstream.publish_with_headers(subject, headers, body).await.expect("sent");
    let stored = tokio::time::timeout(SOON, sent.into_future()).await.expect("in time");
    stored.unwrap_or_else(|error| panic!("{}: {error}", garbage.what));
}

#[test]
fn garbage_in_place_of_any_event_becomes_dead_letters_and_the_next_event_is_handled() {
    run(async {
        let mesh = Mesh::own().await;
        let operator = Broker::of(&mesh.env, "operator").await;
        let mut random = StdRng::seed_from_u64(20_260_501);
        let mut expected: BTreeMap<String, usize> = BTreeMap::new();
        for event in &harness::event_types::ALL {
            let producer = Broker::of(&mesh.env, events::producer_of(event.name)).await;
            let subject = events::subject(event.name, event.version, None);
            let all = garbage(event.name, &mut random);
            for one in &all {
                publish(&producer, &subject, one).await;
            }
            let letters: usize = all.iter().map(|one| one.letters).sum();
            for wiring in wiring::all() {
                if wiring.consumes.iter().any(|(name, _)| *name == event.name) {
                    expected.insert(format!("{}.{}", wiring.service, event.name), letters);
                }
            }
        }
        assert!(expected.len() > 30, "{expected:?}");
        every_consumer_keeps(&operator, &expected).await;
        eventually("everything is acknowledged", || async {
            operator.behind().await.is_empty().then_some(())
        })
        .await;
        // The next events, of every service, are handled as if there had been nothing.
        sells(&mesh).await;
        mesh.stop().await;
    });
}

/// Waits until each consumer has made dead letters of its garbage; each names its cause.
async fn every_consumer_keeps(operator: &Broker, expected: &BTreeMap<String, usize>) {
    let until = Instant::now() + KEPT_WITHIN;
    let (mut kept, mut after) = (BTreeMap::<String, usize>::new(), 0);
    loop {
        for copy in operator.stored("DEAD_LETTERS", after).await {
            after = after.max(copy.sequence);
            // `dlq.<service>.<producer>.<event>.<key>`
            let of: Vec<&str> = copy.subject.split('.').skip(1).take(3).collect();
            *kept.entry(of.join(".")).or_default() += 1;
            let cause = header(&copy, "onsale-dead-cause").unwrap_or_default();
            assert!(!cause.is_empty(), "a dead letter without a cause: {copy:?}");
        }
        if kept == *expected {
            return;
        }
        let missing: Vec<_> =
            expected.iter().filter(|(of, count)| kept.get(*of) != Some(*count)).collect();
        assert!(Instant::now() < until, "expected {missing:?}, but there are {kept:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// A fan enters, pays and gets a message; every store agrees.
async fn sells(mesh: &Mesh) {
    let schedule = mesh.open(3, |_| {}).await;
    let fan = mesh.fan(1_000).await;
    let hold = fan.hold(schedule.schedule_id, &["A-1-1"]).await;
    let payment = fan.pay(&hold).await;
    assert_eq!(payment.state, events::payment::PaymentState::Completed);
    eventually("the listeners have read the sale", || async {
        let messages: Value = fan.get("/v1/me/messages").await.json().ok()?;
        let is_informed = !messages["items"].as_array()?.is_empty();
        let path = format!("/v1/sagas/{}", payment.payment_id);
        let saga: Value = fan.get(&path).await.json().ok()?;
        (is_informed && saga["state"] == "completed").then_some(())
    })
    .await;
    mesh.receipt_is_clean(schedule.schedule_id).await;
}

#[test]
fn a_message_as_large_as_the_broker_takes_is_kept_or_skipped_by_every_consumer() {
    run(async {
        let mesh = Mesh::own().await;
        let operator = Broker::of(&mesh.env, "operator").await;
        let mut expected = BTreeMap::new();
        let large: Bytes = format!("[\"{}\"]", "x".repeat(LARGE)).into();
        for name in ["payment.requested", "reservation.created", "user.registered"] {
            let producer = Broker::of(&mesh.env, events::producer_of(name)).await;
            let one = Garbage::new("a message of 7 MiB", large.clone(), 1);
            publish(&producer, &events::subject(name, 1, None), &one).await;
            for wiring in wiring::all() {
                if wiring.consumes.iter().any(|(consumed, _)| *consumed == name) {
                    expected.insert(format!("{}.{name}", wiring.service), 1);
                }
            }
        }
        every_consumer_keeps(&operator, &expected).await;
        sells(&mesh).await;
        mesh.stop().await;
    });
}

/// What is sent to an endpoint: in words, its headers, its body.
type Sent = (&'static str, Vec<(&'static str, String)>, Bytes);

/// What no client of ours sends to an endpoint.
fn requests(random: &mut StdRng) -> Vec<Sent> {
    let bytes: Vec<u8> = (0..512).map(|_| random.random()).collect();
    let object = [b"{\"a\":".repeat(LEVELS), b"1".to_vec(), b"}".repeat(LEVELS)].concat();
    let bundle = |count: &str| vec![("onsale-bundle", count.to_owned())];
    let packed = json!([{ "deadline": i64::MAX, "body": [[[]]], "authorization": "x" }]);
    let with = |name, value: &str| vec![(name, value.to_owned())];
    vec![
        ("random bytes", vec![], bytes.clone().into()),
        ("deep lists", vec![], deep().into()),
        ("deep objects", vec![], object.clone().into()),
        ("a large text", vec![], format!("\"{}\"", "x".repeat(1024 * 1024)).into()),
        ("a bundle of random bytes", bundle("1"), bytes.into()),
        ("a bundle of deep lists", bundle("1"), deep().into()),
        ("a bundle that is an object", bundle("2"), "{}".into()),
        ("a bundle of odd commands", bundle("many"), packed.to_string().into()),
        ("an odd id", with("onsale-id", "☃"), "{}".into()),
        ("an odd trace", with("traceparent", "00-zz-zz-zz"), "{}".into()),
        ("a long token", with("authorization", &"A".repeat(100_000)), "{}".into()),
        ("a long key", with("idempotency-key", &"k".repeat(100_000)), "{}".into()),
    ]
}

#[test]
fn garbage_to_any_endpoint_is_refused_and_the_next_request_is_answered() {
    run(async {
        let mesh = Mesh::own().await;
        let stores = Stores::of(&mesh.env).await;
        let gateway = Broker::of(&mesh.env, "gateway").await;
        let mut random = StdRng::seed_from_u64(7);
        let before = stores.at_rest().await;
        let mut endpoints: Vec<String> = wiring::all()
            .iter()
            .flat_map(|it| it.answers.clone())
            .map(|(it, _)| it.into())
            .collect();
        endpoints.sort_unstable();
        let listed = listed(&mesh).await;
        endpoints.retain(|endpoint| listed.contains(&format!("cmd.{endpoint}")));
        assert!(endpoints.len() > 35, "{endpoints:?}");
        for endpoint in &endpoints {
            unanswered(&gateway, endpoint).await;
            for (what, headers, body) in requests(&mut random) {
                let what = format!("{endpoint}: {what}");
                let answer = asked(&gateway, endpoint, &headers, body, &what).await;
                is_refused(&what, &answer, endpoint);
            }
        }
        let after = stores.at_rest().await;
        crate::rest::assert_same(&before, &after, "garbage");
        sells(&mesh).await;
        mesh.stop().await;
    });
}

/// Requests that nobody waits for an answer to: one that asks for nothing, and one that is too late.
async fn unanswered(gateway: &Broker, endpoint: &str) {
    for body in ["[]", "[{\"deadline\":0,\"body\":{}}]"] {
        let mut map = HeaderMap::new();
        map.insert("onsale-bundle", "1");
        let (subject, reply) = (format!("cmd.{endpoint}"), gateway.client.new_inbox());
        let sent = gateway.client.publish_with_reply_and_headers(subject, reply, map, body.into());
        sent.await.expect("sent");
    }
}

async fn asked(
    gateway: &Broker,
    endpoint: &str,
    headers: &[(&'static str, String)],
    body: Bytes,
    what: &str,
) -> Message {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        map.insert(*name, value.as_str());
    }
    let asked = gateway.client.request_with_headers(format!("cmd.{endpoint}"), map, body);
    let answer = tokio::time::timeout(SOON, asked).await;
    answer.unwrap_or_else(|_| panic!("{what} has no answer")).expect(what)
}

/// The answer is a refusal that is the caller's fault; each answer of a bundle is one.
fn is_refused(what: &str, answer: &Message, endpoint: &str) {
    let text = String::from_utf8_lossy(&answer.payload);
    let value: Value = serde_json::from_slice(&answer.payload).expect(what);
    let answers = match value {
        Value::Array(answers) => answers.into_iter().map(|it| it["body"].clone()).collect(),
        one => vec![one],
    };
    for one in answers {
        let problem: Result<Problem, _> = serde_json::from_value(one.clone());
        match problem {
            Ok(problem) if problem.r#type.starts_with("urn:onsale:problem:") => {
                let is_known = codes::ALL.iter().any(|code| code.code == problem.code);
                assert!(
                    is_known && problem.status < 500 || problem.is(codes::TIMED_OUT),
                    "{what}: {text:.300}"
                );
            }
            // A query that needs no token and no member reads `{}`, whatever its headers.
            _ => assert!(is_public(endpoint), "{what}: {text:.300}"),
        }
    }
}

fn is_public(endpoint: &str) -> bool {
    ["concert.find", "ranking.concerts", "user.jwks", "queue.jwks"].contains(&endpoint)
}

/// The subjects that services listen on.
async fn listed(mesh: &Mesh) -> Vec<String> {
    let operator = mesh.nats("operator").await;
    let inbox = operator.new_inbox();
    let mut replies = operator.subscribe(inbox.clone()).await.expect("an inbox");
    operator.publish_with_reply("$SRV.INFO", inbox, "".into()).await.expect("sent");
    let mut subjects = Vec::new();
    for _ in wiring::all() {
        let reply = tokio::time::timeout(SOON, replies.next()).await.expect("in time");
        let info: Value = serde_json::from_slice(&reply.expect("one").payload).expect("JSON");
        let endpoints = info["endpoints"].as_array().cloned().unwrap_or_default();
        subjects
            .extend(endpoints.iter().filter_map(|it| it["subject"].as_str().map(str::to_owned)));
    }
    subjects
}
