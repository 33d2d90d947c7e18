//! Permissions: what each identity may do on the broker and in the databases.

use std::{
    str::FromStr,
    sync::{Arc, Weak},
};

use async_nats::jetstream;
use events::dead_letter::{DEAD_LETTERS, DISCARD, REDRIVE};
use harness::{event_types, mesh::run, wiring};
use mesh::Wiring;
use onsale::{
    config::{PROVISIONER, answers},
    development::environment::Environment,
    registry::WITH_DATABASE,
};
use servers::IDENTITIES;
use sqlx::{ConnectOptions, postgres::PgConnectOptions};
use tokio::sync::Mutex;

use crate::broker::Broker;

/// The queries that all services send to each other: for the keys that verify tokens and passes.
const KEYS: [&str; 2] = ["user.jwks", "queue.jwks"];

/// The queries for state that a service has lost, each with the services that send it.
const STATED: [(&str, &[&str]); 3] = [
    ("concert.all_schedules", &["concert", "queue", "ranking"]),
    ("reservation.all_seats", &["concert", "queue"]),
    ("payment.all_sales", &["ranking"]),
];

/// Something that only these identities may do.
struct Right {
    does: Does,
    subject: String,
    who: Vec<&'static str>,
}

#[derive(Clone, Copy, PartialEq)]
enum Does {
    Publish,
    Subscribe,
}

impl Right {
    fn publish(subject: impl Into<String>, who: &[&'static str]) -> Self {
        Self { does: Does::Publish, subject: subject.into(), who: who.to_vec() }
    }

    fn subscribe(subject: impl Into<String>, who: &[&'static str]) -> Self {
        Self { does: Does::Subscribe, subject: subject.into(), who: who.to_vec() }
    }
}

/// The identity of this name.
fn known(name: &str) -> &'static str {
    IDENTITIES.iter().find(|identity| **identity == name).expect("an identity")
}

/// The identity that answers for a service.
fn answering(service: &str) -> &'static str {
    known(&answers(service))
}

/// The identities that may read streams, and so may query the health of the broker.
fn readers() -> Vec<&'static str> {
    let looks = |one: &&str| !one.ends_with("-answers") && !["client", "callout"].contains(one);
    IDENTITIES.iter().copied().filter(looks).collect()
}

/// Every right that matters, derived from what the services declare.
fn rights() -> Vec<Right> {
    let wirings = wiring::all();
    let mut rights = vec![
        Right::subscribe(">", &[]),
        Right::subscribe("cmd.>", &[]),
        Right::subscribe("_INBOX.>", &[]),
        Right::subscribe("onsale.>", &["operator"]),
        Right::subscribe("dlq.>", &["operator"]),
        Right::subscribe("$JS.EVENT.>", &["operator"]),
        Right::subscribe("live.>", &["gateway", "client", "operator"]),
        Right::publish("$JS.API.STREAM.CREATE.MINE", &[PROVISIONER]),
        Right::publish("$JS.API.STREAM.UPDATE.MINE", &[PROVISIONER]),
        Right::publish("$JS.API.STREAM.DELETE.MINE", &[PROVISIONER]),
        Right::publish("$JS.API.STREAM.PURGE.MINE", &[PROVISIONER]),
        Right::publish("$JS.API.STREAM.MSG.DELETE.MINE", &[PROVISIONER]),
        Right::publish("probe.x", &[PROVISIONER]),
        // The health of the broker and the state of its servers, and nothing else of its system
        // account.
        Right::publish("broker.health", &readers()),
        Right::publish("broker.jetstream", &["operator"]),
        Right::publish("$SYS.REQ.SERVER.PING.JSZ", &[]),
        Right::publish("$SYS.REQ.SERVER.PING.HEALTHZ", &[]),
        Right::publish("$SYS.REQ.SERVER.PING.CONNZ", &[]),
    ];
    for event in &event_types::ALL {
        let producer = known(events::producer_of(event.name));
        rights.push(Right::publish(events::subject(event.name, event.version, None), &[producer]));
    }
    for (stream, service) in Broker::consumers() {
        let (owner, place) = (known(&service), format!("{stream}.{service}"));
        rights.extend([
            Right::publish(format!("$JS.API.CONSUMER.MSG.NEXT.{place}"), &[owner]),
            Right::publish(format!("$JS.ACK.{place}.1.1.1.1.0"), &[owner]),
            Right::publish(format!("$JS.API.CONSUMER.RESET.{place}"), &[owner, PROVISIONER]),
            Right::publish(format!("$JS.API.CONSUMER.CREATE.{stream}.mine.x"), &[PROVISIONER]),
            Right::publish(format!("$JS.API.CONSUMER.DELETE.{stream}.mine"), &[PROVISIONER]),
            Right::publish(format!("$JS.API.CONSUMER.RESET.{stream}.mine"), &[PROVISIONER]),
        ]);
    }
    for (endpoint, clients) in STATED {
        let owner = known(events::producer_of(endpoint));
        rights.push(Right::publish(format!("state.{endpoint}"), clients));
        rights.push(Right::subscribe(format!("state.{owner}.>"), &[answering(owner)]));
    }
    wirings.iter().for_each(|wiring| rights.extend(rights_around(wiring)));
    // Copies of dead letters are for operators with the `nats` command; the services themselves
    // have the dead letters.
    for (_, service) in Broker::consumers() {
        rights.push(Right::subscribe(format!("dlq.{service}.>"), &["operator"]));
    }
    rights.push(Right::publish("$JS.API.DIRECT.GET.DEAD_LETTERS", &["operator"]));
    rights.extend(rights_to_inboxes());
    rights
}

/// The rights for requests and answers: only its owner reads an inbox, and only the identities for
/// answering, which do nothing else, write to it.
fn rights_to_inboxes() -> Vec<Right> {
    let services: Vec<_> = wiring::all().into_iter().map(|wiring| known(wiring.service)).collect();
    let answering: Vec<_> = services.iter().map(|service| answering(service)).collect();
    let mut rights = vec![
        Right::subscribe("$SRV.>", &answering),
        Right::publish("$SRV.PING", &["operator"]),
        Right::publish("_INBOX_account.018f.x", &answering),
        Right::subscribe("_INBOX_account.>", &[]),
        Right::subscribe("_INBOX_account.018f.>", &[]),
        Right::subscribe("$SYS.REQ.USER.AUTH", &["callout"]),
        Right::publish("$SYS.REQ.USER.AUTH", &[]),
        Right::publish("$SYS._INBOX.x.y", &["callout"]),
    ];
    let takes_answers =
        |identity: &&&str| **identity != "callout" && !identity.ends_with("-answers");
    for identity in IDENTITIES.iter().filter(takes_answers) {
        rights.push(Right::subscribe(format!("_INBOX_{identity}.>"), &[identity]));
        let mut who = answering.clone();
        match *identity {
            // No service answers the provisioner: it sends requests to JetStream only.
            PROVISIONER => who.clear(),
            // The `nats` command has the broker send what it traced there, and pings itself.
            "operator" => who.push("operator"),
            _ => {}
        }
        rights.push(Right::publish(format!("_INBOX_{identity}.x"), &who));
    }
    rights
}

/// The rights of one service: its commands, its dead letters, its announcements.
fn rights_around(wiring: &Wiring) -> Vec<Right> {
    let service = known(wiring.service);
    let mut rights = vec![Right::subscribe(format!("cmd.{service}.>"), &[answering(service)])];
    // A service that reads whole streams has no dead letters and no announcements.
    if !wiring.consumes.is_empty() {
        rights.push(Right::publish(format!("dlq.{service}.x"), &[service]));
        for verb in [DEAD_LETTERS, REDRIVE, DISCARD] {
            let asked = format!("cmd.{service}.{verb}");
            rights.push(Right::publish(asked, &["gateway", "client"]));
        }
        rights.push(Right::publish(format!("live.{service}.x.y"), &[service]));
    }
    for (endpoint, _) in &wiring.answers {
        let mut who = vec!["gateway", "client"];
        if KEYS.contains(endpoint) {
            who.extend(wiring::all().into_iter().map(|wiring| wiring.service));
        }
        rights.push(Right::publish(format!("cmd.{endpoint}"), &who));
    }
    rights
}

/// Servers without any service: these tests need only the broker and the databases. The last test
/// to end stops them.
async fn env() -> Arc<Environment> {
    static SHARED: Mutex<Weak<Environment>> = Mutex::const_new(Weak::new());
    let mut shared = SHARED.lock().await;
    if let Some(env) = shared.upgrade() {
        return env;
    }
    let env = Environment::start(None, Arc::new(|_: &str| {})).await.expect("servers");
    let env = Arc::new(env);
    *shared = Arc::downgrade(&env);
    env
}

#[test]
fn each_identity_has_its_own_rights_and_is_refused_everything_else() {
    run(async {
        let env = env().await;
        let rights = rights();
        for identity in IDENTITIES.iter() {
            let mut broker = Broker::of(&env, identity).await;
            let (theirs, others): (Vec<_>, Vec<_>) =
                rights.iter().partition(|right| right.who.contains(identity));
            for right in theirs {
                exercise(&broker, right).await;
            }
            assert_eq!(broker.refusals().await, Vec::<String>::new(), "{identity}");
            for right in others {
                exercise(&broker, right).await;
                let what = if right.does == Does::Publish { "publish to" } else { "subscribe to" };
                broker.is_refused(what, &right.subject).await;
            }
        }
    });
}

async fn exercise(broker: &Broker, right: &Right) {
    let subject = right.subject.clone();
    match right.does {
        // The answer, if there is one, does not matter here.
        Does::Publish => {
            let reply = broker.client.new_inbox();
            let sent = broker.client.publish_with_reply(subject, reply, "{}".into());
            sent.await.expect("sent");
        }
        Does::Subscribe => drop(broker.client.subscribe(subject).await.expect("sent")),
    }
    broker.client.flush().await.expect("the broker answers");
}

#[test]
fn a_service_publishes_its_events_and_uses_its_own_consumer() {
    run(async {
        let env = env().await;
        for event in &event_types::ALL {
            let producer = Broker::of(&env, events::producer_of(event.name)).await;
            let subject = events::subject(event.name, event.version, None);
            let sent = producer.jetstream.publish(subject, "{}".into()).await.expect("sent");
            sent.await.unwrap_or_else(|error| panic!("{} is not stored: {error}", event.name));
        }
        for (stream, service) in Broker::consumers() {
            let broker = Broker::of(&env, &service).await;
            let consumer: jetstream::consumer::PullConsumer = broker
                .jetstream
                .get_consumer_from_stream(&service, &stream)
                .await
                .unwrap_or_else(|error| panic!("{service} cannot see its consumer: {error}"));
            let mut messages = consumer.fetch().max_messages(1).messages().await.expect("asked");
            let message = futures::StreamExt::next(&mut messages).await;
            let message = message.expect("a message").expect("a message that was published");
            message.double_ack().await.expect("acknowledged");
        }
    });
}

#[test]
fn a_service_can_connect_to_its_own_database_and_to_no_other() {
    run(async {
        let env = env().await;
        let options = |service: &str| {
            let url = env.config.database_url(service).expect("an address");
            PgConnectOptions::from_str(url).expect("a well-formed one")
        };
        let name_of = |service: &str| options(service).get_database().expect("a name").to_owned();
        for role in WITH_DATABASE {
            let mut home = options(role).connect().await.expect("its own database");
            let is_plain: bool = sqlx::query_scalar(
                "select not (rolsuper or rolcreaterole or rolcreatedb or rolreplication
                     or rolbypassrls) from pg_roles where rolname = current_user",
            )
            .fetch_one(&mut home)
            .await
            .expect("a role");
            assert!(is_plain, "{role} has administrative rights");
            let others = WITH_DATABASE.into_iter().filter(|other| *other != role).map(name_of);
            for database in others.chain(["postgres".into(), "template1".into()]) {
                let refused = options(role).database(&database).connect().await.err();
                let code = refused.as_ref().and_then(|error| error.as_database_error()?.code());
                assert_eq!(code.as_deref(), Some("42501"), "{role} at {database}: {refused:?}");
            }
        }
    });
}
