//! `jetstream/` on a real broker: it can be applied, drift is detected, and each user may do
//! what it needs and nothing else.

#![expect(clippy::disallowed_methods, reason = "a test that waits too long fails by itself")]

use std::{fs, path::Path, time::Duration};

use async_nats::{Client, HeaderMap, jetstream};
use futures::StreamExt;
use mesh::{Link, LinkSettings, topology::Topology, trace::Tracer};
use servers::{Options, Servers};

/// How long the test waits for anything.
const LIMIT: Duration = Duration::from_secs(10);
/// The services that have a stream of their own.
const PRODUCERS: [&str; 8] =
    ["user", "concert", "queue", "reservation", "payment", "point", "notification", "audit"];
/// Their streams, and those of the dead letters and of the broker's reports.
const STREAMS: usize = PRODUCERS.len() + 2;

fn files(folder: &str) -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../jetstream").join(folder);
    let read = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        (name, fs::read(path).unwrap())
    };
    fs::read_dir(folder).unwrap().map(read).collect()
}

fn topology() -> Topology {
    Topology::parse(&files("streams"), &files("consumers")).unwrap()
}

/// Each consumer's stream and service.
fn consumers() -> Vec<(String, String)> {
    let names = files("consumers").into_iter().map(|(name, _)| name);
    names.map(|name| name.split_once('.').map(|(a, b)| (a.into(), b.into())).unwrap()).collect()
}

async fn link(servers: &Servers, service: &'static str) -> Link {
    let settings = LinkSettings {
        service,
        nats_url: servers.nats.url().to_owned(),
        nkey_seed: Some(servers.nkey_seed(service).to_owned()),
    };
    Link::connect(settings, Tracer::off()).await.unwrap()
}

/// A connection as that user, and the broker's refusals of what it does.
async fn user(
    servers: &Servers,
    identity: &str,
) -> (Client, tokio::sync::mpsc::UnboundedReceiver<String>) {
    let (refusals, refused) = tokio::sync::mpsc::unbounded_channel();
    let client = async_nats::ConnectOptions::with_nkey(servers.nkey_seed(identity).to_owned())
        .custom_inbox_prefix(format!("_INBOX_{identity}"))
        .event_callback(move |event| {
            let refusals = refusals.clone();
            async move {
                if let async_nats::Event::ServerError(error) = event {
                    // At the end of a test there is no receiver any more.
                    let _ = refusals.send(error.to_string());
                }
            }
        })
        .connect(servers.nats.url())
        .await
        .unwrap();
    (client, refused)
}

/// The servers with the whole topology applied.
async fn applied() -> Servers {
    let servers = Servers::start(Options::temporary()).await.unwrap();
    topology().apply(&link(&servers, "provisioner").await).await.unwrap();
    servers
}

#[tokio::test(flavor = "multi_thread")]
async fn the_topology_is_applied_once_and_its_drift_is_detected_and_repaired() {
    let servers = Servers::start(Options::temporary()).await.unwrap();
    let link = link(&servers, "provisioner").await;
    let topology = topology();
    let missing = topology.check(&link).await.unwrap();
    assert_eq!(missing.len(), STREAMS + consumers().len(), "{missing:?}");
    let done = topology.apply(&link).await.unwrap();
    assert_eq!(done.len(), missing.len(), "{done:?}");
    assert_eq!(topology.check(&link).await.unwrap(), []);
    assert_eq!(topology.apply(&link).await.unwrap(), Vec::<String>::new(), "nothing is left to do");

    let (client, _) = user(&servers, "provisioner").await;
    let context = jetstream::new(client);
    let mut stream = context.get_stream("POINT").await.unwrap();
    let mut config = stream.info().await.unwrap().config.clone();
    config.max_age = Duration::from_secs(3_600);
    context.update_stream(config).await.unwrap();
    context.get_stream("USER").await.unwrap().delete_consumer("point").await.unwrap();
    let stray = jetstream::stream::Config {
        name: "STRAY".into(),
        subjects: vec!["stray".into()],
        ..Default::default()
    };
    context.create_stream(stray).await.unwrap();
    let drifts = topology.check(&link).await.unwrap();
    let found: Vec<String> = drifts.iter().map(ToString::to_string).collect();
    let expected = [
        "stream POINT: max_age should be 604800000000000, but is 3600000000000",
        "consumer USER.point is missing",
        "stream STRAY is on the broker, but in no file",
    ];
    assert_eq!(found, expected);
    let done = topology.apply(&link).await.unwrap();
    assert_eq!(done, ["stream POINT updated", "consumer USER.point created"]);
    assert_eq!(topology.check(&link).await.unwrap().len(), 1, "nothing is ever deleted");
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_are_republished_live_with_their_sequence_and_a_repeat_is_not() {
    let servers = applied().await;
    let (gateway, _) = user(&servers, "gateway").await;
    let mut live = gateway.subscribe("live.>").await.unwrap();
    gateway.flush().await.unwrap();
    let (payment, _) = user(&servers, "payment").await;
    let context = jetstream::new(payment);
    let subject = "onsale.payment.requested.v1.-";
    for id in ["1", "2", "2", "3"] {
        let mut headers = HeaderMap::new();
        headers.insert("Nats-Msg-Id", id);
        headers.insert("content-type", events::CONTENT_TYPE);
        let sent = context.publish_with_headers(subject, headers, "[]".into()).await.unwrap();
        assert_eq!(sent.await.unwrap().sequence.to_string(), id);
    }
    for sequence in 1..=3 {
        let message = tokio::time::timeout(LIMIT, live.next()).await.unwrap().unwrap();
        let headers = message.headers.unwrap();
        let header = |name: &str| headers.get(name).unwrap().to_string();
        assert_eq!(message.subject.as_str(), format!("live.{subject}"));
        assert_eq!(header("Nats-Sequence"), sequence.to_string());
        assert_eq!(header("Nats-Stream"), "PAYMENT");
        assert_eq!(header("Nats-Msg-Id"), sequence.to_string());
        assert_eq!(header("content-type"), events::CONTENT_TYPE);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_stream_refuses_messages_and_drops_none() {
    let servers = applied().await;
    let (provisioner, _) = user(&servers, "provisioner").await;
    let provisioner = jetstream::new(provisioner);
    for name in PRODUCERS.map(str::to_uppercase) {
        let mut config = provisioner.get_stream(&name).await.unwrap().cached_info().config.clone();
        config.max_bytes = 1_024;
        provisioner.update_stream(config).await.unwrap();
        let (producer, _) = user(&servers, &name.to_lowercase()).await;
        let producer = jetstream::new(producer);
        let subject = format!("onsale.{}.emitted.v1.-", name.to_lowercase());
        let publish = async |bytes: usize| {
            let sent = producer.publish(subject.clone(), vec![b' '; bytes].into()).await.unwrap();
            sent.await
        };
        publish(500).await.unwrap();
        assert!(publish(600).await.is_err(), "{name} has no room");
        let state = provisioner.get_stream(&name).await.unwrap().cached_info().state.clone();
        assert_eq!((state.first_sequence, state.messages), (1, 1), "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_service_publishes_its_own_events_and_uses_its_own_consumers() {
    let servers = applied().await;
    for service in PRODUCERS {
        let (client, mut refused) = user(&servers, service).await;
        let context = jetstream::new(client.clone());
        let subject = format!("onsale.{service}.emitted.v1.-");
        let emitted = context.publish(subject, "{}".into()).await.unwrap();
        assert_eq!(emitted.await.unwrap().stream, service.to_uppercase());
        // A service that only reads whole streams has no dead letters and no live messages.
        if consumers().iter().any(|(_, consumer)| consumer == service) {
            let subject = format!("dlq.{service}.emitted");
            let dead = context.publish(subject, "{}".into()).await.unwrap();
            assert_eq!(dead.await.unwrap().stream, "DEAD_LETTERS");
            client.publish(format!("live.{service}.refused.-"), "{}".into()).await.unwrap();
        }
        let (answering, mut refused_answers) = user(&servers, &format!("{service}-answers")).await;
        answering.subscribe(format!("cmd.{service}.some")).await.unwrap();
        answering.publish("_INBOX_gateway.some", "{}".into()).await.unwrap();
        answering.flush().await.unwrap();
        assert!(refused_answers.try_recv().is_err(), "{service} may answer");
        for (stream, consumer) in consumers() {
            if consumer == service {
                let consumer: jetstream::consumer::PullConsumer =
                    context.get_consumer_from_stream(&consumer, &stream).await.unwrap();
                let batch = consumer.fetch().max_messages(1).messages().await.unwrap();
                assert_eq!(batch.count().await, 0);
            }
        }
        client.flush().await.unwrap();
        assert!(refused.try_recv().is_err(), "{service} may do all this");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_broker_refuses_a_service_what_belongs_to_another() {
    let servers = applied().await;
    for service in PRODUCERS {
        let (client, mut refused) = user(&servers, service).await;
        let mut forbidden = vec![
            "cmd.payment.pay".to_owned(),
            "$JS.API.STREAM.CREATE.MINE".to_owned(),
            format!("$JS.API.STREAM.DELETE.{}", service.to_uppercase()),
            format!("$JS.API.CONSUMER.CREATE.{}.{service}", service.to_uppercase()),
        ];
        for other in PRODUCERS.into_iter().filter(|other| *other != service) {
            forbidden.push(format!("onsale.{other}.emitted.v1.-"));
            forbidden.push(format!("live.onsale.{other}.emitted.v1.-"));
            forbidden.push(format!("live.{other}.refused.-"));
            forbidden.push(format!("dlq.{other}.emitted"));
        }
        for (stream, consumer) in
            consumers().into_iter().filter(|(_, consumer)| *consumer != service)
        {
            forbidden.push(format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"));
            forbidden.push(format!("$JS.ACK.{stream}.{consumer}.1.1.1.1.0"));
        }
        for subject in forbidden {
            client.publish(subject.clone(), "".into()).await.unwrap();
            let error = tokio::time::timeout(LIMIT, refused.recv()).await;
            let error =
                error.unwrap_or_else(|_| panic!("{service} may publish {subject}")).unwrap();
            assert!(error.to_lowercase().contains(&subject.to_lowercase()), "{subject}: {error}");
        }
        for subject in ["onsale.>", "live.>", "_INBOX_gateway.>", "cmd.gateway.>", ">"] {
            client.subscribe(subject).await.unwrap();
            let error = tokio::time::timeout(LIMIT, refused.recv()).await;
            error.unwrap_or_else(|_| panic!("{service} may subscribe to {subject}")).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn users_that_only_read_or_send_commands_can_change_nothing() {
    let servers = applied().await;
    let changing = [
        "onsale.payment.completed.v1.-",
        "live.onsale.payment.completed.v1.-",
        "dlq.payment.completed",
        "$JS.API.STREAM.CREATE.MINE",
        "$JS.API.STREAM.UPDATE.PAYMENT",
        "$JS.API.STREAM.PURGE.PAYMENT",
        "$JS.API.CONSUMER.CREATE.PAYMENT.mine",
        "$JS.API.CONSUMER.DELETE.PAYMENT.point",
        "$JS.API.CONSUMER.MSG.NEXT.PAYMENT.point",
        "$JS.ACK.PAYMENT.point.1.1.1.1.0",
    ];
    for identity in ["gateway", "client", "operator"] {
        let (client, mut refused) = user(&servers, identity).await;
        for subject in changing {
            client.publish(subject, "".into()).await.unwrap();
            let error = tokio::time::timeout(LIMIT, refused.recv()).await;
            error.unwrap_or_else(|_| panic!("{identity} may publish {subject}")).unwrap();
        }
    }
    let (operator, mut refused) = user(&servers, "operator").await;
    let context = jetstream::new(operator.clone());
    let names: Vec<_> = context.stream_names().collect().await;
    assert_eq!(names.len(), STREAMS, "an operator sees every stream");
    context.get_stream("PAYMENT").await.unwrap();
    operator.subscribe("onsale.>").await.unwrap();
    operator.flush().await.unwrap();
    assert!(refused.try_recv().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_reaches_its_caller() {
    let servers = applied().await;
    let (user_service, _) = user(&servers, "user-answers").await;
    let mut requests = user_service.queue_subscribe("cmd.user.jwks", "user".into()).await.unwrap();
    user_service.flush().await.unwrap();
    let answering = tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            user_service.publish(request.reply.unwrap(), "{}".into()).await.unwrap();
        }
    });
    let others = ["ranking", "data-platform", "gateway", "client"];
    for identity in PRODUCERS.into_iter().chain(others) {
        let (client, _) = user(&servers, identity).await;
        let answer = client.request("cmd.user.jwks", "{}".into()).await;
        assert!(answer.is_ok(), "{identity}: {answer:?}");
    }
    answering.abort();
}
