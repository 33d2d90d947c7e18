//! Whole streams read by position, on real servers: each event has its effect once, whatever
//! happens to the reader, and a stream that was replaced is read from its beginning.

#![expect(clippy::disallowed_methods, reason = "a test that waits too long fails by itself")]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_nats::{Client, HeaderMap, jetstream};
use mesh::{
    Link, LinkSettings, Read, Running, Service, UnitOfWork, engine::Failure, failpoint::Failpoint,
    postgres::Postgres, topology::Topology, trace::Tracer,
};
use serde_json::{Value, json};
use servers::{Options, Servers};
use sqlx::{Executor, PgConnection, PgPool, migrate::Migrator};
use uuid::Uuid;

/// How long the test waits for anything.
const LIMIT: Duration = Duration::from_secs(20);
/// The reader of these tests runs as the one service that may read these streams.
const READER: &str = "audit";
/// Events of one stream that it takes in at once.
const PIECE: usize = 1_000;
/// Events of one message.
const MESSAGE_EVENTS: usize = 3;
const EVENTS: [&str; 2] = ["point.charged", "payment.requested"];

/// The streams of these tests, and their configurations.
const STREAMS: [(&str, &[u8]); 2] = [
    ("POINT", include_bytes!("../../../jetstream/streams/POINT.json")),
    ("PAYMENT", include_bytes!("../../../jetstream/streams/PAYMENT.json")),
];

struct NoState;

impl UnitOfWork for NoState {
    type Keys = ();
    type Config = Arc<AtomicBool>;

    async fn load(_keys: (), _tx: &mut PgConnection) -> sqlx::Result<Self> {
        Ok(Self)
    }

    async fn save(self, _tx: &mut PgConnection) -> sqlx::Result<()> {
        Ok(())
    }
}

/// Stores each event that it gets, as often as it gets it.
async fn keep(ctx: mesh::QueryContext<Postgres<NoState>>, read: Arc<Read>) -> Result<(), Failure> {
    if ctx.config().load(Ordering::SeqCst) {
        return Err(Failure::Unavailable("fails on purpose".into()));
    }
    let ids: Vec<Uuid> = read.events.iter().filter_map(mesh::StoredEvent::event_id).collect();
    let mut tx = ctx.pool().begin().await?;
    sqlx::query("insert into learned select unnest($1::uuid[])")
        .bind(ids)
        .execute(&mut *tx)
        .await?;
    read.settle(&mut tx).await?;
    tx.commit().await?;
    Ok(())
}

fn service() -> Service<Postgres<NoState>> {
    Service::new(READER).follows(&EVENTS, PIECE, keep)
}

fn event(name: &str, at: events::Timestamp) -> Value {
    json!({
        "specversion": "1.0",
        "id": Uuid::now_v7(),
        "source": format!("/onsale/{}", events::producer_of(name)),
        "type": format!("onsale.{name}.v1"),
        "time": at,
        "subject": Uuid::now_v7(),
        "sagaid": Uuid::now_v7(),
        "data": {},
    })
}

/// Servers with two streams, and a database for the reader.
struct Harness {
    servers: Servers,
    pool: PgPool,
    fails: Arc<AtomicBool>,
}

impl Harness {
    async fn open() -> Self {
        let servers = Servers::start(Options::temporary().databases([READER])).await.unwrap();
        let harness = Self {
            pool: PgPool::connect(&servers.database_url(READER)).await.unwrap(),
            fails: Arc::default(),
            servers,
        };
        harness.make_streams().await;
        mesh::postgres::migrate(&harness.pool, &Migrator::DEFAULT).await.unwrap();
        harness.pool.execute("create table learned (event_id uuid not null)").await.unwrap();
        harness
    }

    async fn make_streams(&self) {
        let none: &[(&str, &[u8])] = &[];
        let topology = Topology::parse(&STREAMS, none).unwrap();
        topology.apply(&self.link("provisioner").await).await.unwrap();
    }

    async fn link(&self, service: &'static str) -> Link {
        let settings = LinkSettings {
            service,
            nats_url: self.servers.nats.url().to_owned(),
            nkey_seed: Some(self.servers.nkey_seed(service).to_owned()),
        };
        let answers = format!("{service}-answers");
        let answers = (service == READER).then(|| self.servers.nkey_seed(&answers).to_owned());
        Link::connect_to_answer(settings, answers, Tracer::off()).await.unwrap()
    }

    async fn start(&self) -> Running {
        let url = self.servers.database_url(READER);
        let engine = Arc::new(Postgres::new(&url, self.fails.clone()).unwrap());
        mesh::start(service(), engine, self.link(READER).await)
    }

    async fn client(&self, service: &str) -> Client {
        async_nats::ConnectOptions::with_nkey(self.servers.nkey_seed(service).to_owned())
            .custom_inbox_prefix(format!("_INBOX_{service}"))
            .connect(self.servers.nats.url())
            .await
            .unwrap()
    }

    /// Emits events. Returns their ids, sorted.
    async fn emit(&self, count: usize) -> Vec<Uuid> {
        self.emit_every(EVENTS[0], count, 1).await
    }

    /// Emits events of this name, several in a message, at times that are so many seconds apart.
    /// Returns their ids, sorted.
    async fn emit_every(&self, name: &str, count: usize, secs: i64) -> Vec<Uuid> {
        let began_at = events::Timestamp::from_unix_millis(1_800_000_000_000).unwrap();
        let at = |index| began_at.plus_secs(secs * index as i64);
        self.publish(name, (0..count).map(|index| event(name, at(index))).collect()).await
    }

    async fn publish(&self, name: &str, all: Vec<Value>) -> Vec<Uuid> {
        let jetstream = jetstream::new(self.client(events::producer_of(name)).await);
        let mut acks = Vec::new();
        for some in all.chunks(MESSAGE_EVENTS) {
            let mut headers = HeaderMap::new();
            headers.insert("Nats-Msg-Id", Uuid::now_v7().to_string());
            headers.insert("content-type", events::CONTENT_TYPE);
            let subject = events::subject(name, 1, None);
            let body = serde_json::to_vec(some).unwrap().into();
            let ack = jetstream.publish_with_headers(subject, headers, body).await.unwrap();
            acks.push(std::future::IntoFuture::into_future(ack));
        }
        for ack in acks {
            ack.await.unwrap();
        }
        let id = |event: &Value| event["id"].as_str().unwrap().parse().unwrap();
        let mut ids: Vec<Uuid> = all.iter().map(id).collect();
        ids.sort_unstable();
        ids
    }

    /// Waits until exactly these events are stored, each once.
    async fn learned(&self, wanted: &[Uuid]) {
        let until = tokio::time::Instant::now() + LIMIT;
        loop {
            let found: Vec<Uuid> = sqlx::query_scalar("select event_id from learned order by 1")
                .fetch_all(&self.pool)
                .await
                .unwrap();
            if found == wanted {
                return;
            }
            let (had, want) = (found.len(), wanted.len());
            assert!(had <= want, "stored {had} of {want}: some twice");
            assert!(tokio::time::Instant::now() < until, "stored {had} of {want}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_is_killed_anywhere_takes_each_event_in_once() {
    let harness = Harness::open().await;
    let mut all = harness.emit(2_500).await;
    let first = harness.start().await;
    harness.learned(&all).await;
    first.failpoints().arm(Failpoint::BeforeCommit, 1);
    all.extend(harness.emit(1_500).await);
    all.sort_unstable();
    harness.learned(&all).await;
    assert_eq!(first.failpoints().hits(Failpoint::BeforeCommit), 1);
    first.abandon();
    all.extend(harness.emit(10).await);
    all.sort_unstable();
    let second = harness.start().await;
    harness.learned(&all).await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn each_event_of_streams_that_advance_together_is_taken_in_once() {
    let harness = Harness::open().await;
    // One stream has three times as many events in the same time, and the reader has to wait for it.
    let mut all = harness.emit_every(EVENTS[0], 1_300, 3).await;
    all.extend(harness.emit_every(EVENTS[1], 3_900, 1).await);
    all.sort_unstable();
    let reader = harness.start().await;
    reader.failpoints().arm(Failpoint::BeforeCommit, 2);
    harness.learned(&all).await;
    reader.abandon();
    all.extend(harness.emit_every(EVENTS[0], 20, 1).await);
    all.extend(harness.emit_every(EVENTS[1], 20, 1).await);
    all.sort_unstable();
    let second = harness.start().await;
    harness.learned(&all).await;
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_could_not_be_taken_in_come_again_and_are_not_overtaken() {
    let harness = Harness::open().await;
    harness.fails.store(true, Ordering::SeqCst);
    let reader = harness.start().await;
    let mut all = harness.emit(3).await;
    all.extend(harness.emit(3).await);
    harness.learned(&[]).await;
    harness.fails.store(false, Ordering::SeqCst);
    harness.learned(&all).await;
    reader.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_two_instances_reads_and_the_other_takes_over() {
    let harness = Harness::open().await;
    let first = harness.start().await;
    let mut all = harness.emit(100).await;
    harness.learned(&all).await;
    let second = harness.start().await;
    all.extend(harness.emit(100).await);
    all.sort_unstable();
    harness.learned(&all).await;
    assert_eq!(second.health().counts().handled, 0, "the second stands by");
    first.stop().await;
    all.extend(harness.emit(100).await);
    all.sort_unstable();
    harness.learned(&all).await;
    // It counts them once they are committed.
    let until = tokio::time::Instant::now() + LIMIT;
    while second.health().counts().handled < 100 {
        assert!(tokio::time::Instant::now() < until, "all are counted");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(second.health().counts().handled, 100);
    second.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_fills_a_read_by_itself_does_not_stop_the_reader() {
    const BYTES: usize = 5 * 1024 * 1024;
    let harness = Harness::open().await;
    let reader = harness.start().await;
    let mut all = harness.emit(1).await;
    for _ in 0..2 {
        let mut large = event(EVENTS[0], mesh::clock::now());
        large["data"] = json!({ "plan": "x".repeat(BYTES) });
        all.extend(harness.publish(EVENTS[0], vec![large]).await);
        harness.learned(&all).await;
        all.extend(harness.emit(1).await);
        harness.learned(&all).await;
    }
    reader.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_stream_is_read_from_its_beginning_even_if_it_has_grown_past_the_position() {
    let harness = Harness::open().await;
    let reader = harness.start().await;
    let mut all = harness.emit(5).await;
    harness.learned(&all).await;
    reader.stop().await;
    harness.wipe().await;
    all.extend(harness.emit(8).await);
    let reader = harness.start().await;
    harness.learned(&all).await;
    harness.wipe().await;
    all.extend(harness.emit(2).await);
    harness.learned(&all).await;
    reader.stop().await;
}

impl Harness {
    /// Deletes the stream and creates it again, empty.
    async fn wipe(&self) {
        let provisioner = self.client("provisioner").await;
        jetstream::new(provisioner).delete_stream("POINT").await.unwrap();
        self.make_streams().await;
    }
}
