//! A broker that forgets what it has acknowledged, while a service goes on emitting: afterwards
//! every row of the outbox is in the stream, where its mark says, and whoever consumes has
//! learned each event once.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    process::Command as Process,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::jetstream::{self, stream::Stream};
use events::{
    Command,
    point::{PointRefunded, RefundReason},
};
use mesh::{
    Allow, Answer, Asker, Book, Caller, Hear, Link, LinkSettings, Miss, Refusal, Running, Service,
    Turn, failpoint::Failpoint, postgres::Postgres, topology::Topology, trace::Tracer,
};
use serde::{Deserialize, Serialize};
use servers::{Options, Servers};
use sqlx::{Executor, PgConnection, PgPool, migrate::Migrator};
use uuid::Uuid;

/// How long it may take until everything is there again.
const RESTORED_WITHIN: Duration = Duration::from_secs(180);
/// Between two looks.
const PROBE: Duration = Duration::from_millis(200);
/// Messages read of a stream at a time.
const PAGE: usize = 1_000;
/// The service that emits, and the one that consumes.
const EMITTER: &str = "point";
const LISTENER: &str = "payment";
const STREAM: &str = "POINT";

/// What is emitted, and what of it was learned.
#[derive(Default)]
struct Page(Vec<Uuid>);

/// `point.emit`: emits so many events, each in a message of its own.
#[derive(Debug, Serialize, Deserialize)]
struct Emit {
    count: u32,
}

impl Command for Emit {
    const ENDPOINT: &'static str = "point.emit";
    type Reply = ();
}

impl Book for Page {
    type Keys = ();
    /// How many messages are emitted each time.
    type Rules = Arc<AtomicU32>;

    async fn load((): (), _: &mut PgConnection) -> sqlx::Result<Self> {
        Ok(Self::default())
    }

    async fn save(self, tx: &mut PgConnection) -> sqlx::Result<()> {
        let learned = sqlx::query("insert into learned select unnest($1::uuid[])").bind(self.0);
        learned.execute(tx).await.map(drop)
    }
}

impl Answer<Emit> for Page {
    fn keys(_: &Emit, _: &Caller, (): &mut ()) {}

    fn answer(&mut self, emit: &Emit, turn: &mut Turn<'_, Arc<AtomicU32>>) -> Result<(), Refusal> {
        for _ in 0..emit.count {
            turn.tell(refunded(Uuid::now_v7()));
        }
        Ok(())
    }
}

impl Hear<PointRefunded> for Page {
    fn keys(_: &PointRefunded, (): &mut ()) {}

    fn hear(
        &mut self,
        event: &PointRefunded,
        _: &mut Turn<'_, Arc<AtomicU32>>,
    ) -> Result<(), Miss> {
        self.0.push(event.payment_id.0);
        Ok(())
    }
}

fn emitter() -> Service<Postgres<Page>> {
    Service::<Postgres<Page>>::new(EMITTER)
        .answers::<Emit>(Allow::Inside, &["point.refunded"])
        .every_with("emitting", Duration::from_millis(5), |engine, _| async move {
            let count = engine.rules().load(Ordering::SeqCst);
            Ok((count > 0).then_some(Emit { count }).into_iter().collect())
        })
}

fn listener() -> Service<Postgres<Page>> {
    Service::<Postgres<Page>>::new(LISTENER).hears::<PointRefunded>(&[])
}

/// Servers, a service that emits and one that consumes.
struct Stage {
    servers: Servers,
    pools: [PgPool; 2],
    asker: Asker,
    pace: Arc<AtomicU32>,
    emitter: Option<Running>,
    listener: Option<Running>,
}

impl Stage {
    /// Both services run, and nothing is emitted yet.
    async fn set() -> Self {
        let servers = Servers::start(Options::temporary()).await.unwrap();
        let mut pools = Vec::new();
        for service in [EMITTER, LISTENER] {
            let pool = PgPool::connect(&servers.database_url(service)).await.unwrap();
            mesh::postgres::migrate(&pool, &Migrator::DEFAULT).await.unwrap();
            pool.execute("create table learned (id uuid not null)").await.unwrap();
            pools.push(pool);
        }
        let pools = pools.try_into().unwrap();
        let asker = Asker::new(link(&servers, "operator").await);
        let pace = Arc::default();
        let mut stage = Self { servers, pools, asker, pace, emitter: None, listener: None };
        stage.make_stream().await;
        stage.start().await;
        let url = stage.servers.database_url(LISTENER);
        let engine = Arc::new(Postgres::new(&url, Arc::default()).unwrap());
        stage.listener = Some(mesh::start(listener(), engine, stage.link(LISTENER).await));
        stage
    }

    /// Starts the service that emits.
    async fn start(&mut self) {
        let url = self.servers.database_url(EMITTER);
        let engine = Arc::new(Postgres::new(&url, self.pace.clone()).unwrap());
        self.emitter = Some(mesh::start(emitter(), engine, self.link(EMITTER).await));
    }

    /// Kills the service that emits.
    fn kill(&mut self) {
        self.emitter.take().expect("it runs").abandon();
    }

    async fn link(&self, service: &'static str) -> Link {
        link(&self.servers, service).await
    }

    async fn make_stream(&self) {
        let stream = [(STREAM, include_bytes!("../../jetstream/streams/POINT.json").as_slice())];
        let consumer = [(
            "POINT.payment",
            include_bytes!("../../jetstream/consumers/POINT.payment.json").as_slice(),
        )];
        let link = self.link("provisioner").await;
        Topology::parse(&stream, &consumer).unwrap().apply(&link).await.unwrap();
    }

    /// The stream, as somebody who may change it.
    async fn stream(&self) -> (jetstream::Context, Stream) {
        let seed = self.servers.nkey_seed("provisioner").to_owned();
        let client = async_nats::ConnectOptions::with_nkey(seed)
            .custom_inbox_prefix("_INBOX_provisioner")
            .connect(self.servers.nats.url())
            .await
            .unwrap();
        let jetstream = jetstream::new(client);
        let stream = jetstream.get_stream(STREAM).await.unwrap();
        (jetstream, stream)
    }

    fn emit(&self, pace: u32) {
        self.pace.store(pace, Ordering::SeqCst);
    }

    /// Goes on until so many more rows were emitted.
    async fn emitted(&self, more: usize) {
        let before = self.rows().await.len();
        eventually("more is emitted", async || self.rows().await.len() >= before + more).await;
    }

    /// Emits nothing more; all rows, once they are published and it is quiet.
    async fn quiet(&self) -> Vec<Uuid> {
        self.emit(0);
        let before = AtomicUsize::new(0);
        eventually("all is published", async || {
            let rows = self.rows().await;
            rows.iter().all(|(_, mark)| mark.is_some())
                && before.swap(rows.len(), Ordering::SeqCst) == rows.len()
        })
        .await;
        self.ids().await
    }

    /// All rows of the outbox with their marks, in the order of emission.
    async fn rows(&self) -> Vec<(Uuid, Option<i64>)> {
        let rows = sqlx::query_as("select id, stream_seq from mesh.outbox order by id");
        rows.fetch_all(&self.pools[0]).await.unwrap()
    }

    /// The ids of the stream's messages by their sequences; nothing while the broker is away.
    async fn stored(&self) -> Option<HashMap<i64, Uuid>> {
        let (mut ids, mut from) = (HashMap::new(), 1);
        loop {
            let page = self.asker.stored_messages(EMITTER, from, PAGE).await.ok()?;
            let Some(last) = page.last() else { return Some(ids) };
            from = last.sequence + 1;
            ids.extend(page.iter().map(|message| (message.sequence as i64, message.id)));
        }
    }

    /// Whether these rows are in the stream where their marks say.
    async fn are_stored(&self, rows: &[Uuid]) -> bool {
        let marks: HashMap<_, _> = self.rows().await.into_iter().collect();
        let Some(stored) = self.stored().await else { return false };
        let is_there = |id: &Uuid| marks[id].is_some_and(|mark| stored.get(&mark) == Some(id));
        rows.iter().all(is_there)
    }

    async fn ids(&self) -> Vec<Uuid> {
        self.rows().await.into_iter().map(|(id, _)| id).collect()
    }

    /// Everything emitted so far gets into the stream, though the service goes on emitting.
    async fn is_restored_meanwhile(&self) {
        let rows = self.ids().await;
        eventually("what was lost is there again", async || self.are_stored(&rows).await).await;
    }

    /// The end: nothing more is emitted, everything is in the stream and was learned once.
    async fn ends_whole(mut self) {
        self.emit(0);
        self.is_restored_meanwhile().await;
        let rows = self.ids().await;
        assert!(self.are_stored(&rows).await);
        eventually("everything was learned", async || {
            let learned: (i64, i64) =
                sqlx::query_as("select count(*), count(distinct id) from learned")
                    .fetch_one(&self.pools[1])
                    .await
                    .unwrap();
            assert_eq!(learned.0, learned.1, "something was learned twice");
            assert!(learned.0 <= rows.len() as i64);
            learned.0 == rows.len() as i64
        })
        .await;
        let began = Instant::now();
        for running in [self.emitter.take(), self.listener.take()].into_iter().flatten() {
            assert!(running.health().is_ready(), "{:?}", running.health().ails());
            running.stop().await;
        }
        assert!(began.elapsed() < Duration::from_secs(20), "they stop in time");
        self.servers.stop().await;
    }

    fn store(&self) -> PathBuf {
        self.servers.folder().join("nats/jetstream")
    }

    /// Sends the broker a signal.
    fn signal(&self, signal: &str) {
        let pid = self.servers.nats.pid().expect("the broker runs").to_string();
        assert!(Process::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// A copy of what the broker has on its disk.
    fn copy(&self) -> PathBuf {
        let to = self.servers.folder().join("copy");
        let _ = fs::remove_dir_all(&to);
        self.signal("-STOP");
        copy_folder(&self.store(), &to).unwrap();
        self.signal("-CONT");
        to
    }

    /// The broker crashes and comes back with what was copied.
    async fn roll_back(&self, copy: &Path) {
        self.servers.nats.kill();
        fs::remove_dir_all(self.store()).unwrap();
        copy_folder(copy, &self.store()).unwrap();
        self.servers.nats.restart().await.unwrap();
    }

    /// The stream is deleted and made anew, with its consumer.
    async fn wipe(&self) {
        let (jetstream, _) = self.stream().await;
        jetstream.delete_stream(STREAM).await.unwrap();
        self.make_stream().await;
    }
}

async fn link(servers: &Servers, service: &'static str) -> Link {
    let settings = LinkSettings {
        service,
        nats_url: servers.nats.url().to_owned(),
        nkey_seed: Some(servers.nkey_seed(service).to_owned()),
    };
    Link::connect(settings, Tracer::off()).await.unwrap()
}

fn copy_folder(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let to = to.join(entry.file_name());
        match entry.file_type()?.is_dir() {
            true => copy_folder(&entry.path(), &to)?,
            false => drop(fs::copy(entry.path(), to)?),
        }
    }
    Ok(())
}

async fn eventually(what: &str, look: impl AsyncFn() -> bool) {
    let until = Instant::now() + RESTORED_WITHIN;
    while !look().await {
        assert!(Instant::now() < until, "not within {RESTORED_WITHIN:?}: {what}");
        tokio::time::sleep(PROBE).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_rolled_back_under_load_gets_everything_again() {
    let stage = Stage::set().await;
    stage.emit(3);
    stage.emitted(300).await;
    for traffic in [Duration::from_millis(200), Duration::from_secs(10)] {
        let copy = stage.copy();
        tokio::time::sleep(traffic).await;
        stage.roll_back(&copy).await;
        stage.is_restored_meanwhile().await;
    }
    stage.ends_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_rolled_back_while_the_service_was_down_gets_everything_again() {
    let mut stage = Stage::set().await;
    stage.emit(3);
    stage.emitted(300).await;
    let copy = stage.copy();
    stage.emitted(1_200).await;
    stage.kill();
    stage.roll_back(&copy).await;
    // Another instance goes on from where the stream ends now; it dies again and again.
    for _ in 0..5 {
        stage.start().await;
        let emitter = stage.emitter.as_ref().expect("it runs");
        emitter.failpoints().arm(Failpoint::BeforeMark, 1);
        stage.emitted(50).await;
        stage.kill();
    }
    stage.start().await;
    stage.is_restored_meanwhile().await;
    stage.ends_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publishes_that_timed_out_and_are_flushed_later_hide_nothing() {
    let stage = Stage::set().await;
    stage.emit(2);
    stage.emitted(200).await;
    let copy = stage.copy();
    stage.emitted(400).await;
    // For longer than an acknowledgement may take: first it goes on, then it is another.
    for is_another in [false, true] {
        stage.signal("-STOP");
        tokio::time::sleep(Duration::from_secs(5)).await;
        match is_another {
            false => stage.signal("-CONT"),
            true => stage.roll_back(&copy).await,
        }
        stage.is_restored_meanwhile().await;
    }
    stage.ends_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_deleted_and_made_anew_under_load_is_filled_again() {
    let stage = Stage::set().await;
    stage.emit(3);
    for _ in 0..2 {
        stage.emitted(600).await;
        // The connection stays: nothing but the messages themselves shows what happened.
        stage.wipe().await;
        stage.is_restored_meanwhile().await;
    }
    stage.ends_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_wiped_and_has_grown_past_its_old_end_is_filled_again() {
    let mut stage = Stage::set().await;
    stage.emit(3);
    stage.emitted(700).await;
    let old = stage.quiet().await;
    eventually("outbox and stream were compared", async || {
        let verified: Option<i64> = sqlx::query_scalar("select stream_seq from mesh.verified")
            .fetch_optional(&stage.pools[0])
            .await
            .unwrap();
        verified == Some(old.len() as i64)
    })
    .await;
    stage.kill();
    stage.wipe().await;
    // An instance that has not compared yet publishes as much as there was, and more.
    let new = stage.leave(old.len() + 300).await;
    stage.publish(&new).await;
    assert!(!stage.are_stored(&old).await, "they were lost");
    stage.start().await;
    stage.emit(3);
    stage.is_restored_meanwhile().await;
    stage.ends_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_walk_that_died_half_way_is_done_again() {
    let mut stage = Stage::set().await;
    stage.emit(10);
    stage.emitted(2_500).await;
    let old = stage.quiet().await;
    stage.kill();
    stage.wipe().await;
    // A walk that died behind its second page has left this; what it cleared was published
    // again, in front of what it has not come to.
    let cleared: Vec<Uuid> = sqlx::query_scalar(
        "update mesh.outbox set stream_seq = null where stream_seq <= 1000 returning id",
    )
    .fetch_all(&stage.pools[0])
    .await
    .unwrap();
    stage.publish(&cleared).await;
    // And so have some that died wherever they were.
    for _ in 0..3 {
        let unmarked = stage.unmarked().await;
        stage.start().await;
        eventually("the walk has begun", async || stage.unmarked().await != unmarked).await;
        stage.kill();
    }
    stage.start().await;
    stage.ends_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_more_than_ten_thousand_rows_is_published() {
    let mut stage = Stage::set().await;
    stage.kill();
    stage.leave(10_500).await;
    stage.start().await;
    stage.emit(1);
    stage.is_restored_meanwhile().await;
    stage.ends_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_aged_out_stays_away_and_what_was_lost_comes_back() {
    let mut stage = Stage::set().await;
    stage.emit(3);
    stage.emitted(600).await;
    let old = stage.quiet().await;
    eventually("it was learned", async || stage.learned().await == old.len() as i64).await;
    let (_, stream) = stage.stream().await;
    stream.purge().sequence(301).await.unwrap();
    let copy = stage.copy();
    stage.emit(3);
    stage.emitted(300).await;
    stage.roll_back(&copy).await;
    stage.emitted(100).await;
    let rows = stage.quiet().await;
    let new = &rows[old.len()..];
    eventually("what was lost is there", async || stage.are_stored(new).await).await;
    let stored = stage.stored().await.unwrap();
    let marks = stage.rows().await;
    let aged: Vec<_> = marks.iter().filter(|(_, mark)| *mark <= Some(300)).collect();
    assert_eq!(aged.len(), 300, "they keep their marks");
    assert!(aged.iter().all(|(id, _)| !stored.values().any(|there| there == id)));
    assert_eq!(stored.len() + 300, rows.len(), "nothing is there twice");
    // All of it, by an operator: nothing comes back, and what follows is published.
    stage.stream().await.1.purge().await.unwrap();
    stage.emit(3);
    stage.emitted(100).await;
    let all = stage.quiet().await;
    assert!(stage.are_stored(&all[rows.len()..]).await);
    assert_eq!(stage.stored().await.unwrap().len(), all.len() - rows.len());
    stage.emitter.take().expect("it runs").stop().await;
}

impl Stage {
    /// Leaves rows as a service does that was killed before it could publish them; their ids.
    async fn leave(&self, count: usize) -> Vec<Uuid> {
        let ids: Vec<Uuid> = (0..count).map(|_| Uuid::now_v7()).collect();
        let subject = || events::subject("point.refunded", 1, Some(Uuid::now_v7().into()));
        sqlx::query(
            "insert into mesh.outbox (id, subject, events, body, leased_until)
             select *, now() from unnest($1::uuid[], $2::text[], $3::integer[], $4::bytea[])",
        )
        .bind(&ids)
        .bind((0..count).map(|_| subject()).collect::<Vec<_>>())
        .bind(vec![1; count])
        .bind((0..count).map(|_| body()).collect::<Vec<_>>())
        .execute(&self.pools[0])
        .await
        .unwrap();
        ids
    }

    /// Publishes rows and marks them, and does nothing else that a publisher does.
    async fn publish(&self, rows: &[Uuid]) {
        let seed = self.servers.nkey_seed(EMITTER).to_owned();
        let client = async_nats::ConnectOptions::with_nkey(seed)
            .custom_inbox_prefix(format!("_INBOX_{EMITTER}"))
            .connect(self.servers.nats.url())
            .await
            .unwrap();
        let jetstream = jetstream::new(client);
        let rows: Vec<(Uuid, String, Vec<u8>)> =
            sqlx::query_as("select id, subject, body from mesh.outbox where id = any($1)")
                .bind(rows)
                .fetch_all(&self.pools[0])
                .await
                .unwrap();
        for (id, subject, body) in rows {
            let mut headers = async_nats::HeaderMap::new();
            headers.insert("Nats-Msg-Id", id.to_string());
            let sent = jetstream.publish_with_headers(subject, headers, body.into()).await.unwrap();
            sqlx::query("update mesh.outbox set stream_seq = $2 where id = $1")
                .bind(id)
                .bind(sent.await.unwrap().sequence as i64)
                .execute(&self.pools[0])
                .await
                .unwrap();
        }
    }

    async fn unmarked(&self) -> usize {
        self.rows().await.iter().filter(|(_, mark)| mark.is_none()).count()
    }

    async fn learned(&self) -> i64 {
        let count = sqlx::query_scalar("select count(*) from learned");
        count.fetch_one(&self.pools[1]).await.unwrap()
    }
}

/// A message with one event that the listener reads.
fn body() -> Vec<u8> {
    let [id, about] = [(); 2].map(|()| Uuid::now_v7());
    let data = serde_json::to_string(&refunded(about)).unwrap();
    let now = mesh::clock::now();
    format!(
        r#"[{{"specversion":"1.0","id":"{id}","source":"/onsale/point","type":"onsale.point.refunded.v1","time":"{now}","subject":"{about}","sagaid":"{id}","data":{data}}}]"#
    )
    .into_bytes()
}

fn refunded(payment: Uuid) -> PointRefunded {
    PointRefunded {
        user_id: Uuid::now_v7().into(),
        payment_id: payment.into(),
        schedule_id: Uuid::now_v7().into(),
        amount: 1,
        balance: 1,
        reason: RefundReason::HoldGone,
    }
}
