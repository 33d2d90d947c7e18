//! Access over NATS: which client may read what, and what a caller can make a service publish.
//! Answers go to reply inboxes only, and only its owner can read an inbox.

use std::collections::{BTreeMap, BTreeSet};

use async_nats::{Client, HeaderMap};
use events::{Problem, codes, user::Session};
use harness::{
    mesh::{Fan, Mesh, SOON, eventually, run, shared},
    wiring,
};
use onsale::config::PROVISIONER;
use serde_json::{Value, json};

use crate::broker::Broker;

/// Subjects that a service may publish to, but must not send an answer to: its own events above
/// all.
const NO_INBOXES: [&str; 5] = [
    "onsale.{service}.forged.v1.-",
    "dlq.{service}.forged.event.-",
    "live.{service}.forged.-",
    "cmd.payment.pay",
    "$JS.API.STREAM.INFO.PAYMENT",
];
/// The endpoints with public answers. Only these are answered where other clients can read.
const PUBLIC: [&str; 9] = [
    "concert.find",
    "concert.get",
    "concert.schedules",
    "concert.plan",
    "concert.seats",
    "concert.seat_changes",
    "ranking.concerts",
    "user.jwks",
    "queue.jwks",
];

/// Every endpoint for commands and queries, with its service.
async fn endpoints(mesh: &Mesh) -> Vec<(String, String)> {
    let operator = mesh.nats("operator").await;
    let inbox = operator.new_inbox();
    let mut replies = operator.subscribe(inbox.clone()).await.expect("an inbox");
    operator.publish_with_reply("$SRV.INFO", inbox, "".into()).await.expect("sent");
    let mut endpoints = Vec::new();
    for _ in wiring::all() {
        let reply = tokio::time::timeout(SOON, futures::StreamExt::next(&mut replies)).await;
        let info: Value = serde_json::from_slice(&reply.expect("in time").expect("one").payload)
            .expect("the description of a service");
        let all = info["endpoints"].as_array().cloned().unwrap_or_default();
        let subjects = all.iter().filter_map(|endpoint| endpoint["subject"].as_str());
        // No client may use the endpoints under `state.`, which services use among themselves.
        let commands = subjects.filter_map(|subject| subject.strip_prefix("cmd."));
        let of_service = |endpoint: &str| {
            let service = endpoint.split('.').next().unwrap_or_default();
            (service.to_owned(), endpoint.to_owned())
        };
        endpoints.extend(commands.map(of_service));
    }
    endpoints
}

/// Sends requests with `reply` as the reply subject: alone and in a bundle, with a token and
/// without.
async fn ask_into(client: &Client, endpoint: &str, reply: &str, token: &str) {
    let subject = format!("cmd.{endpoint}");
    let bearer = format!("Bearer {token}");
    let bundle = json!([{ "deadline": i64::MAX, "body": {} }]).to_string();
    for (name, value, body) in [
        ("authorization", bearer.as_str(), "{}"),
        ("nothing", "-", "{}"),
        ("onsale-bundle", "1", bundle.as_str()),
    ] {
        let mut map = HeaderMap::new();
        map.insert(name, value);
        let (subject, reply, body) = (subject.clone(), reply.to_owned(), body.to_owned().into());
        let sent = client.publish_with_reply_and_headers(subject, reply, map, body).await;
        sent.expect("sent");
    }
}

/// How many requests were left unanswered, by service.
fn unanswered(mesh: &Mesh) -> BTreeMap<&'static str, u64> {
    let mut counts = BTreeMap::new();
    for running in mesh.fleet.running() {
        *counts.entry(running.name()).or_default() += running.health().counts().unanswered;
    }
    counts
}

#[test]
fn a_service_answers_to_inboxes_and_publishes_nothing_for_its_callers() {
    run(async {
        let mesh = Mesh::own().await;
        let provisioner = Broker::of(&mesh.env, PROVISIONER).await;
        let fan = mesh.fan(0).await;
        let clients = [mesh.nats("client").await, fan.nats().await];
        let endpoints = endpoints(&mesh).await;
        let mut forged: BTreeMap<&str, u64> = BTreeMap::new();
        let services: BTreeSet<_> = endpoints.iter().map(|(service, _)| service.as_str()).collect();
        for client in &clients {
            for (service, endpoint) in &endpoints {
                for reply in NO_INBOXES {
                    let reply = reply.replace("{service}", service);
                    ask_into(client, endpoint, &reply, fan.token()).await;
                    *forged.entry(service).or_default() += 3;
                }
            }
        }
        eventually("each request is counted as unanswered", || async {
            let left = unanswered(&mesh);
            forged.iter().all(|(service, count)| left[service] == *count).then_some(())
        })
        .await;
        // Anything that those requests had published would be stored before these answers.
        for client in &clients {
            client
                .request("cmd.concert.find", "{}".into())
                .await
                .expect("the caller gets an answer");
        }
        let stored = provisioner.ends().await;
        let forged_events = Broker::of(&mesh.env, "operator").await;
        for (stream, end) in stored {
            for message in forged_events.stored(&stream, 0).await {
                assert!(!message.subject.contains("forged"), "{stream} of {end}: {message:?}");
            }
        }
        assert_eq!(forged_events.stored("DEAD_LETTERS", 0).await.len(), 0);
        assert!(services.len() > 8, "{services:?}");
        mesh.stop().await;
    });
}

#[test]
fn the_description_of_a_service_is_sent_to_inboxes_only() {
    run(async {
        let mesh = Mesh::own().await;
        let operator = Broker::of(&mesh.env, "operator").await;
        let before = operator.ends().await;
        for wiring in wiring::all() {
            for verb in ["PING", "INFO", "STATS"] {
                let asked = format!("$SRV.{verb}.onsale-{}", wiring.service);
                let reply = format!("onsale.{}.forged.v1.-", wiring.service);
                let sent = operator.client.publish_with_reply(asked, reply, "".into()).await;
                sent.expect("sent");
            }
        }
        // The services answer these requests after the ones above.
        assert!(!endpoints(&mesh).await.is_empty());
        assert_eq!(operator.ends().await, before);
        mesh.stop().await;
    });
}

#[test]
fn a_message_that_the_broker_was_made_to_copy_is_not_handled_as_an_event() {
    run(async {
        let mesh = Mesh::own().await;
        let fan = mesh.fan(30).await;
        let gateway = Broker::of(&mesh.env, "gateway").await;
        let operator = Broker::of(&mesh.env, "operator").await;
        eventually("the points are charged in the stream", || async {
            (operator.ends().await["POINT"] > 0).then_some(())
        })
        .await;
        // A reader of a stream chooses the reply subject, and the broker sends the message there.
        let query = r#"{"last_by_subj":"onsale.point.charged.>"}"#;
        let (asked, reply) = ("$JS.API.DIRECT.GET.POINT", "onsale.payment.requested.v1.-");
        let sent = gateway.client.publish_with_reply(asked, reply, query.into()).await;
        sent.expect("sent");
        eventually("the copy is stored", || async {
            (operator.ends().await["PAYMENT"] > 0).then_some(())
        })
        .await;
        eventually("everything is handled", || async {
            operator.behind().await.is_empty().then_some(())
        })
        .await;
        assert_eq!(operator.stored("DEAD_LETTERS", 0).await.len(), 0);
        assert_eq!(fan.balance().await, 30);
        mesh.stop().await;
    });
}

#[test]
fn no_client_reads_the_answers_to_another() {
    run(async {
        let mesh = Mesh::own().await;
        let (fan, other) = (mesh.fan(0).await, mesh.fan(0).await);
        let inbox = |of: &Fan<'_>| format!("_INBOX_account.{}.>", of.session.user_id);
        let (own, others) = (inbox(&fan), inbox(&other));
        let by_token = Broker::by_token(&mesh.env, fan.token()).await;
        let by_key = Broker::of(&mesh.env, "client").await;
        for mut broker in [by_token, by_key] {
            for subject in [&others, "_INBOX_account.>", "_INBOX_*.>", "_INBOX_gateway.>", ">"] {
                drop(broker.client.subscribe(subject.to_owned()).await.expect("sent"));
                broker.is_refused("subscribe to", subject).await;
            }
        }
        let mut by_token = Broker::by_token(&mesh.env, fan.token()).await;
        let mut subscriptions = Vec::new();
        for subject in [own.as_str(), "live.concert.seats.>", "live.onsale.concert.>"] {
            subscriptions.push(by_token.client.subscribe(subject.to_owned()).await.expect("sent"));
        }
        assert_eq!(by_token.refusals().await, Vec::<String>::new());
        // An account can neither read the events of others nor publish anything.
        for subject in ["live.>", "live.onsale.payment.>", "onsale.>", "_INBOX_client.>"] {
            drop(by_token.client.subscribe(subject).await.expect("sent"));
            by_token.is_refused("subscribe to", subject).await;
        }
        for subject in ["onsale.payment.completed.v1.-", "dlq.x", "$JS.API.INFO", "$SRV.PING"] {
            by_token.client.publish(subject, "{}".into()).await.expect("sent");
            by_token.is_refused("publish to", subject).await;
        }
        mesh.stop().await;
    });
}

#[test]
fn where_others_can_read_only_public_endpoints_are_answered() {
    run(async {
        let mesh = shared().await;
        let client = mesh.nats("client").await;
        let fan = mesh.fan(0).await;
        let mut public = BTreeSet::new();
        for (_, endpoint) in endpoints(mesh).await {
            let mut map = HeaderMap::new();
            map.insert("authorization", format!("Bearer {}", fan.token()));
            let asked = client.request_with_headers(format!("cmd.{endpoint}"), map, "{}".into());
            let answer = asked.await.unwrap_or_else(|error| panic!("{endpoint}: {error}"));
            let problem: Option<Problem> = serde_json::from_slice(&answer.payload).ok();
            match problem.filter(|problem| problem.is(codes::FORBIDDEN)) {
                Some(problem) => assert!(problem.detail.contains("_INBOX_account"), "{problem}"),
                None => drop(public.insert(endpoint)),
            }
        }
        assert_eq!(public, BTreeSet::from(PUBLIC.map(str::to_owned)));
        // A bundle does not get around this.
        let mut map = HeaderMap::new();
        map.insert("onsale-bundle", "1");
        let login = json!({ "email": fan.email, "password": "a long pass phrase" });
        let bundle = json!([{ "deadline": i64::MAX, "body": login }]).to_string();
        let asked = client.request_with_headers("cmd.user.log_in", map, bundle.into());
        let answers: Value = serde_json::from_slice(&asked.await.expect("answered").payload)
            .expect("the answers of a bundle");
        assert_eq!(answers[0]["body"]["code"], codes::FORBIDDEN.code, "{answers}");
    });
}

#[test]
fn an_account_sends_requests_over_a_connection_of_its_own() {
    run(async {
        let mesh = shared().await;
        let fan = mesh.fan(30).await;
        let nats = fan.nats().await;
        let mut map = HeaderMap::new();
        map.insert("authorization", format!("Bearer {}", fan.token()));
        let asked = nats.request_with_headers("cmd.point.balance", map, "{}".into()).await;
        let balance: Value =
            serde_json::from_slice(&asked.expect("answered").payload).expect("one");
        assert_eq!(balance["balance"], 30);
        // A log-in is answered there as well.
        let login = json!({ "email": fan.email, "password": "a long pass phrase" }).to_string();
        let asked = nats.request("cmd.user.log_in", login.into()).await.expect("answered");
        let session: Session = serde_json::from_slice(&asked.payload).expect("a session");
        let prefix = format!("_INBOX_account.{}", session.user_id);
        let again = mesh.nats_by(&session.access_token, &prefix).await.expect("let in");
        again.request("cmd.concert.find", "{}".into()).await.expect("answered");
        // A connection with anything but an access token is refused.
        for bad in [&session.refresh_token, &fan.token().replace('.', ".e30"), "", "x"] {
            assert!(mesh.nats_by(bad, &prefix).await.is_err(), "{bad} is let in");
        }
    });
}
