//! Due messages are sent, whatever the provider and the sender go through.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use mesh::postgres::Postgres;
use serde_json::Value;

use super::*;
use crate::{
    Relay,
    handlers::RecordDelivery,
    provider::tests::alimtalk,
    sending::{LEASED_MAX, lease, send_due},
};

const SECRET: &str = "a secret of the receiver";

/// A receiver of webhooks.
#[derive(Default)]
struct Receiver {
    /// The status it answers; it never answers when `None`.
    status: Option<u16>,
    /// How often each message came, and its body.
    came: BTreeMap<String, (usize, Value)>,
}

type Shared = Arc<Mutex<Receiver>>;

async fn receive(
    State(shared): State<Shared>,
    headers: HeaderMap,
    body: axum::body::Bytes,
) -> StatusCode {
    let status = shared.lock().unwrap().status;
    let Some(status) = status else { std::future::pending().await };
    if status < 300 {
        let id = headers["webhook-id"].to_str().unwrap().to_owned();
        let body: Value = serde_json::from_slice(&body).unwrap();
        let mut receiver = shared.lock().unwrap();
        let (times, _) = receiver.came.entry(id).or_insert((0, body));
        *times += 1;
    }
    StatusCode::from_u16(status).unwrap()
}

/// A sender on a database of its own.
struct Sender {
    engine: Arc<Postgres<UnitOfWork>>,
    shared: Shared,
    url: String,
    database: String,
}

impl Sender {
    async fn new(status: Option<u16>) -> Self {
        let shared = Arc::new(Mutex::new(Receiver { status, ..Receiver::default() }));
        let router = Router::new().route("/", post(receive)).with_state(shared.clone());
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await });
        let config = hurried(Config::webhook(&url, SECRET).unwrap());
        let database = database().await;
        let engine = Arc::new(Postgres::new(&database, config).unwrap());
        Self { engine, shared, url, database }
    }

    fn pool(&self) -> &PgPool {
        self.engine.pool()
    }

    fn answers(&self, status: Option<u16>) {
        self.shared.lock().unwrap().status = status;
    }

    /// Sends messages due `secs` from now, and records nothing.
    async fn send(&self, secs: i64) -> Vec<RecordDelivery> {
        send_due(self.engine.clone(), now().plus_secs(secs)).await.unwrap()
    }

    /// Sends messages due `secs` from now and records them; returns the names of the events
    /// emitted.
    async fn work(&self, secs: i64) -> Vec<String> {
        let mut emitted = Vec::new();
        for command in self.send(secs).await {
            let config = self.engine.config();
            emitted.extend(execute(self.pool(), &Caller::Mesh, config, &command).await);
        }
        emitted
    }

    /// Writes messages to new fans of a known show.
    async fn write(&self, count: usize) {
        let show = ScheduleId(Uuid::now_v7());
        handle(self.pool(), &opened(show)).await;
        for _ in 0..count {
            handle(self.pool(), &created(fan(), show)).await;
        }
    }

    async fn states(&self) -> Vec<(String, Option<String>)> {
        sqlx::query_as("select state, last_error from messages order by id")
            .fetch_all(self.pool())
            .await
            .unwrap()
    }

    /// How often each message came to the receiver.
    fn came(&self) -> Vec<usize> {
        self.shared.lock().unwrap().came.values().map(|(times, _)| *times).collect()
    }

    /// The texts of the messages that came.
    fn texts(&self) -> Vec<String> {
        let receiver = self.shared.lock().unwrap();
        let text = |(_, body): &(usize, Value)| body["data"]["text"].as_str().unwrap().to_owned();
        receiver.came.values().map(text).collect()
    }
}

fn hurried(mut config: Config) -> Config {
    config.try_within = Duration::from_secs(1);
    config.pace.first = Duration::from_millis(10);
    config.pace.longest = Duration::from_millis(20);
    config
}

#[tokio::test]
async fn each_message_arrives_once_when_the_provider_was_down_and_came_back() {
    let sender = Sender::new(Some(500)).await;
    sender.write(30).await;
    assert!(sender.work(1).await.is_empty());
    // Now it hangs, and then it is there again.
    sender.answers(None);
    assert!(sender.work(2).await.is_empty());
    sender.answers(Some(204));
    let mut emitted = Vec::new();
    for secs in 3..8 {
        emitted.extend(sender.work(secs).await);
    }
    assert_eq!(emitted, vec!["notification.sent"; 30]);
    assert_eq!(sender.came(), vec![1; 30]);
    assert!(sender.work(1_000).await.is_empty());
}

#[tokio::test]
async fn messages_of_a_sender_that_dies_before_it_records_are_sent_again_under_the_same_id() {
    let sender = Sender::new(Some(204)).await;
    sender.write(3).await;
    assert_eq!(sender.send(0).await.len(), 3);
    // Its lease still runs: no other sender takes them.
    assert!(sender.send(25).await.is_empty());
    let emitted = sender.work(31).await;
    assert_eq!(emitted, ["notification.sent"; 3]);
    assert_eq!(sender.came(), [2, 2, 2], "the same three, to be dropped by their ids");
}

#[tokio::test]
async fn several_senders_share_the_messages_and_none_leases_more_than_its_limit() {
    let sender = Sender::new(Some(204)).await;
    sender.write(1_200).await;
    let pace = &sender.engine.config().pace;
    let at = now();
    let leases = (0..4).map(|_| lease(sender.pool(), at, pace, false));
    let leases = futures::future::try_join_all(leases).await.unwrap();
    assert!(leases.iter().all(|lease| lease.len() <= LEASED_MAX as usize));
    let ids: Vec<Uuid> = leases.iter().flatten().map(|leased| leased.id).collect();
    assert_eq!(ids.iter().collect::<BTreeSet<_>>().len(), ids.len(), "none was leased twice");
    assert_eq!(ids.len(), 1_200);
}

#[tokio::test]
async fn a_provider_that_hangs_holds_no_transaction_and_no_more_than_a_round() {
    let sender = Sender::new(None).await;
    sender.write(60).await;
    let began = Instant::now();
    let sending = tokio::spawn(send_due(sender.engine.clone(), now()));
    // Meanwhile messages are written as usual.
    sender.write(10).await;
    let recorded = sending.await.unwrap().unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(!recorded.is_empty());
}

#[tokio::test]
async fn a_message_that_is_too_old_is_given_up_with_the_last_answer_of_the_provider() {
    let sender = Sender::new(Some(503)).await;
    sender.write(1).await;
    assert!(sender.work(0).await.is_empty());
    sender.answers(Some(204));
    assert_eq!(sender.work(25 * 3_600).await, ["notification.failed"]);
    assert!(sender.came().is_empty());
    assert_eq!(sender.states().await, [("FAILED".into(), Some("answered 503".into()))]);
}

#[tokio::test]
async fn a_fan_who_withdraws_while_a_message_is_pending_does_not_get_it() {
    let sender = Sender::new(Some(204)).await;
    let (show, leaver) = (ScheduleId(Uuid::now_v7()), fan());
    handle(sender.pool(), &opened(show)).await;
    handle(sender.pool(), &created(leaver, show)).await;
    // As if another batch had written it just when the fan withdrew.
    sqlx::query("insert into contacts values ($1, null, 'en', true)")
        .bind(leaver.0)
        .execute(sender.pool())
        .await
        .unwrap();
    assert_eq!(sender.work(0).await, ["notification.failed"]);
    handle(sender.pool(), &withdrawn(leaver)).await;
    assert!(sender.came().is_empty());
}

#[tokio::test]
async fn without_a_number_a_message_by_alimtalk_has_failed() {
    let relay = Relay {
        url: "http://127.0.0.1:9".into(),
        app_key: "app".into(),
        secret: "secret".into(),
        sender: "sender".into(),
        sms_from: None,
    };
    let sender = Sender::new(Some(204)).await;
    let config = hurried(Config::alimtalk(relay).unwrap());
    let engine = Arc::new(Postgres::new(&database().await, config).unwrap());
    let sender = Sender { engine, ..sender };
    sender.write(1).await;
    assert_eq!(sender.work(0).await, ["notification.failed"]);
}

#[tokio::test]
async fn a_message_waits_a_moment_for_its_show_and_then_goes_without_it() {
    let sender = Sender::new(Some(204)).await;
    let (early, never) = (ScheduleId(Uuid::now_v7()), ScheduleId(Uuid::now_v7()));
    handle(sender.pool(), &created(fan(), early)).await;
    handle(sender.pool(), &created(fan(), never)).await;
    assert!(sender.send(0).await.is_empty());
    handle(sender.pool(), &opened(early)).await;
    assert_eq!(sender.work(1).await, ["notification.sent"]);
    assert!(sender.texts()[0].contains("Show: Night Train, Club Blau"), "{:?}", sender.texts());
    assert_eq!(sender.work(11).await, ["notification.sent"]);
    assert!(sender.texts().iter().any(|text| text.contains("Show: the show you chose")));
}

#[tokio::test]
async fn the_text_is_the_same_at_every_try() {
    let sender = Sender::new(Some(503)).await;
    let (show, reader) = (ScheduleId(Uuid::now_v7()), fan());
    handle(sender.pool(), &created(reader, show)).await;
    assert!(sender.work(11).await.is_empty());
    // The event about the show and another language come between the tries.
    handle(sender.pool(), &opened(show)).await;
    sqlx::query("insert into contacts values ($1, null, 'ko', false)")
        .bind(reader.0)
        .execute(sender.pool())
        .await
        .unwrap();
    sender.answers(Some(204));
    assert_eq!(sender.work(12).await, ["notification.sent"]);
    assert!(sender.texts()[0].contains("Show: the show you chose"), "{:?}", sender.texts());
}

#[tokio::test]
async fn an_endpoint_that_is_gone_gets_nothing_until_it_is_replaced() {
    let sender = Sender::new(Some(410)).await;
    sender.write(2).await;
    assert!(sender.work(0).await.is_empty());
    sender.answers(Some(204));
    for secs in [10, 1_000, 20 * 3_600] {
        assert!(sender.send(secs).await.is_empty(), "it is closed");
    }
    // Another secret makes it another endpoint; the messages are still fresh.
    let config = hurried(Config::webhook(&sender.url, "another secret of theirs").unwrap());
    let engine = Arc::new(Postgres::new(&sender.database, config).unwrap());
    let Sender { shared, url, database, .. } = &sender;
    let (shared, url, database) = (shared.clone(), url.clone(), database.clone());
    let renewed = Sender { engine, shared, url, database };
    assert_eq!(renewed.work(1).await, ["notification.sent"; 2]);
    // At the old one, a message that is too old is still given up.
    sender.write(1).await;
    assert_eq!(sender.work(25 * 3_600).await, ["notification.failed"]);
}

#[tokio::test]
async fn each_message_is_sent_once_by_a_relay_that_does_not_answer() {
    let (vendor, provider) = alimtalk::vendor(|vendor| vendor.swallows = true).await;
    let sender = Sender::new(None).await;
    let mut config = hurried(Config { provider, ..Config::default() });
    config.pace.status_every = Duration::from_millis(10);
    let engine = Arc::new(Postgres::new(&database().await, config).unwrap());
    let sender = Sender { engine, ..sender };
    let show = ScheduleId(Uuid::now_v7());
    handle(sender.pool(), &opened(show)).await;
    for n in 0..20 {
        let reader = fan();
        sqlx::query("insert into contacts values ($1, $2, 'ko', false)")
            .bind(reader.0)
            .bind(format!("+8210000000{n:02}"))
            .execute(sender.pool())
            .await
            .unwrap();
        handle(sender.pool(), &created(reader, show)).await;
    }
    assert!(sender.work(0).await.is_empty());
    assert_eq!(vendor.lock().unwrap().messages.len(), 20, "it has them, and we do not know");
    vendor.lock().unwrap().swallows = false;
    vendor.lock().unwrap().fate = Some("READY");
    assert!(sender.work(1).await.is_empty(), "found, and not there yet");
    vendor.lock().unwrap().fate = Some("FAILED");
    // One sender dies after it sent the text messages, and the next one finds them.
    sender.send(2).await;
    assert_eq!(sender.work(40).await, ["notification.sent"; 20]);
    let vendor = vendor.lock().unwrap();
    assert_eq!((vendor.messages.len(), vendor.texts.len()), (20, 20));
}
