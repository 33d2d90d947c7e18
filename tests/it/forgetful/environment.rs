//! A service that emits and one that consumes, on a broker that can be made to lose messages.

use std::{
    collections::HashMap,
    fs, io,
    path::{Path, PathBuf},
    process::Command as Process,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_nats::jetstream::{self, stream::Stream};
use events::{
    Command,
    point::{PointRefunded, RefundReason},
};
use harness::mesh::eventually_within;
use mesh::{
    Allow, Caller, Context, Execute, Handle, HandleError, Link, LinkSettings, MeshClient, Refusal,
    Running, Service, UnitOfWork, postgres::Postgres, topology::Topology, trace::Tracer,
};
use serde::{Deserialize, Serialize};
use servers::{Options, Servers};
use sqlx::{Executor, PgConnection, PgPool, migrate::Migrator};
use uuid::Uuid;

/// How long it may take until everything is there again.
const RESTORED_WITHIN: Duration = Duration::from_secs(180);
/// How long the services may take to stop.
pub const STOPPED_WITHIN: Duration = Duration::from_secs(20);
/// How many messages of a stream are read at a time.
const PAGE: usize = 1_000;
/// The service that emits, and the one that consumes.
pub const EMITTER: &str = "point";
const LISTENER: &str = "payment";
const STREAM: &str = "POINT";

/// The unit of work of both services: the events that were handled.
#[derive(Default)]
struct Handled(Vec<Uuid>);

/// `point.emit`: emits `count` events, each in a message of its own.
#[derive(Debug, Serialize, Deserialize)]
struct Emit {
    count: u32,
}

impl Command for Emit {
    const ENDPOINT: &'static str = "point.emit";
    type Reply = ();
}

impl UnitOfWork for Handled {
    type Keys = ();
    /// How many messages are emitted each time.
    type Config = Arc<AtomicU32>;

    async fn load((): (), _: &mut PgConnection) -> sqlx::Result<Self> {
        Ok(Self::default())
    }

    async fn save(self, tx: &mut PgConnection) -> sqlx::Result<()> {
        let learned = sqlx::query("insert into learned select unnest($1::uuid[])").bind(self.0);
        learned.execute(tx).await.map(drop)
    }
}

impl Execute<Emit> for Handled {
    fn keys(_: &Emit, _: &Caller, (): &mut ()) {}

    fn execute(
        &mut self,
        emit: &Emit,
        ctx: &mut Context<'_, Arc<AtomicU32>>,
    ) -> Result<(), Refusal> {
        for _ in 0..emit.count {
            ctx.emit(refunded(Uuid::now_v7()));
        }
        Ok(())
    }
}

impl Handle<PointRefunded> for Handled {
    fn keys(_: &PointRefunded, (): &mut ()) {}

    fn handle(
        &mut self,
        event: &PointRefunded,
        _: &mut Context<'_, Arc<AtomicU32>>,
    ) -> Result<(), HandleError> {
        self.0.push(event.payment_id.0);
        Ok(())
    }
}

fn emitter() -> Service<Postgres<Handled>> {
    Service::<Postgres<Handled>>::new(EMITTER)
        .executes::<Emit>(Allow::Inside, &["point.refunded"])
        .every_with("emitting", Duration::from_millis(5), |engine, _| async move {
            let count = engine.config().load(Ordering::SeqCst);
            Ok((count > 0).then_some(Emit { count }).into_iter().collect())
        })
}

fn listener() -> Service<Postgres<Handled>> {
    Service::<Postgres<Handled>>::new(LISTENER).consumes::<PointRefunded>(&[])
}

/// Servers, a service that emits and one that consumes.
pub struct Environment {
    pub servers: Servers,
    pub pools: [PgPool; 2],
    client: MeshClient,
    pace: Arc<AtomicU32>,
    pub emitter: Option<Running>,
    listener: Option<Running>,
}

impl Environment {
    /// Starts the servers and both services; nothing is emitted yet.
    pub async fn set() -> Self {
        let servers =
            Servers::start(Options::temporary().databases([EMITTER, LISTENER])).await.unwrap();
        let mut pools = Vec::new();
        for service in [EMITTER, LISTENER] {
            let pool = PgPool::connect(&servers.database_url(service)).await.unwrap();
            mesh::postgres::migrate(&pool, &Migrator::DEFAULT).await.unwrap();
            pool.execute("create table learned (id uuid not null)").await.unwrap();
            pools.push(pool);
        }
        let pools = pools.try_into().unwrap();
        let client = MeshClient::new(link(&servers, "operator").await);
        let pace = Arc::default();
        let mut env = Self { servers, pools, client, pace, emitter: None, listener: None };
        env.make_stream().await;
        env.start().await;
        env.start_listener().await;
        env
    }

    /// Starts the service that consumes.
    pub async fn start_listener(&mut self) {
        let url = self.servers.database_url(LISTENER);
        let engine = Arc::new(Postgres::new(&url, Arc::default()).unwrap());
        self.listener = Some(mesh::start(listener(), engine, self.link(LISTENER).await));
    }

    /// Stops the service that consumes, once it has handled all `count` messages and has recorded how
    /// far it has come.
    pub async fn stop_listener(&mut self, count: usize) {
        eventually("everything is handled", async || self.learned().await == count as i64).await;
        eventually("the position is recorded", async || {
            let reached: Option<i64> =
                sqlx::query_scalar("select max(stream_seq) from mesh.reached")
                    .fetch_one(&self.pools[1])
                    .await
                    .unwrap();
            reached == Some(count as i64)
        })
        .await;
        self.listener.take().expect("it runs").stop().await;
    }

    /// Starts the service that emits.
    pub async fn start(&mut self) {
        self.emitter = Some(self.another().await);
    }

    /// Another instance of the service that emits.
    pub async fn another(&self) -> Running {
        let url = self.servers.database_url(EMITTER);
        let engine = Arc::new(Postgres::new(&url, self.pace.clone()).unwrap());
        mesh::start(emitter(), engine, self.link(EMITTER).await)
    }

    pub fn is_ready(&self) -> bool {
        self.emitter.as_ref().expect("it runs").health().is_ready()
    }

    /// Kills the service that emits.
    pub fn kill(&mut self) {
        self.emitter.take().expect("it runs").abandon();
    }

    pub async fn link(&self, service: &'static str) -> Link {
        link(&self.servers, service).await
    }

    pub async fn make_stream(&self) {
        let stream = [(STREAM, include_bytes!("../../../jetstream/streams/POINT.json").as_slice())];
        let consumer = [(
            "POINT.payment",
            include_bytes!("../../../jetstream/consumers/POINT.payment.json").as_slice(),
        )];
        let link = self.link("provisioner").await;
        Topology::parse(&stream, &consumer).unwrap().apply(&link).await.unwrap();
    }

    /// The stream, on a connection that may change it.
    pub async fn stream(&self) -> (jetstream::Context, Stream) {
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

    pub fn emit(&self, pace: u32) {
        self.pace.store(pace, Ordering::SeqCst);
    }

    /// Waits until this many more rows were emitted.
    pub async fn emitted(&self, more: usize) {
        let before = self.rows().await.len();
        eventually("more is emitted", async || self.rows().await.len() >= before + more).await;
    }

    /// Waits until an acknowledgement of the broker has not come in time.
    pub async fn publishes_time_out(&self) {
        let health = self.emitter.as_ref().expect("it runs").health();
        eventually("a publish times out", async || {
            health.faults().iter().any(|fault| fault.starts_with("events cannot be published"))
        })
        .await;
    }

    /// Stops emitting, waits until everything is published and nothing changes, and returns all rows.
    pub async fn quiet(&self) -> Vec<Uuid> {
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
    pub async fn rows(&self) -> Vec<(Uuid, Option<i64>)> {
        let rows = sqlx::query_as("select id, stream_seq from mesh.outbox order by id");
        rows.fetch_all(&self.pools[0]).await.unwrap()
    }

    /// The ids of published rows in the order in which they are in the stream.
    pub async fn in_order_of_stream(&self) -> Vec<Uuid> {
        let mut rows = self.rows().await;
        rows.sort_by_key(|(_, mark)| *mark);
        rows.into_iter().map(|(id, _)| id).collect()
    }

    /// The ids of the stream's messages by sequence; `None` while the broker is down.
    pub async fn stored(&self) -> Option<HashMap<i64, Uuid>> {
        let (mut ids, mut from) = (HashMap::new(), 1);
        loop {
            let page = self.client.stored_messages(EMITTER, from, PAGE).await.ok()?;
            let Some(last) = page.last() else { return Some(ids) };
            from = last.sequence + 1;
            ids.extend(page.iter().map(|message| (message.sequence as i64, message.id)));
        }
    }

    /// Whether these rows are in the stream at the sequences of their marks.
    pub async fn are_stored(&self, rows: &[Uuid]) -> bool {
        let marks: HashMap<_, _> = self.rows().await.into_iter().collect();
        let Some(stored) = self.stored().await else { return false };
        let is_there = |id: &Uuid| marks[id].is_some_and(|mark| stored.get(&mark) == Some(id));
        rows.iter().all(is_there)
    }

    pub async fn ids(&self) -> Vec<Uuid> {
        self.rows().await.into_iter().map(|(id, _)| id).collect()
    }

    /// Waits until everything emitted so far is in the stream, while the service goes on emitting.
    pub async fn is_restored(&self) {
        let rows = self.ids().await;
        eventually("lost messages are there again", async || self.are_stored(&rows).await).await;
    }

    /// Ends the test: nothing more is emitted, everything is in the stream and was handled once.
    pub async fn ends_whole(mut self) {
        self.emit(0);
        self.is_restored().await;
        let rows = self.ids().await;
        assert!(self.are_stored(&rows).await);
        eventually("everything is handled", async || {
            let learned: (i64, i64) =
                sqlx::query_as("select count(*), count(distinct id) from learned")
                    .fetch_one(&self.pools[1])
                    .await
                    .unwrap();
            assert_eq!(learned.0, learned.1, "an event was handled twice");
            assert!(learned.0 <= rows.len() as i64);
            learned.0 == rows.len() as i64
        })
        .await;
        let services: Vec<_> =
            [self.emitter.take(), self.listener.take()].into_iter().flatten().collect();
        eventually("they can do their work", async || {
            services.iter().all(|running| running.health().is_ready())
        })
        .await;
        let stopped = async {
            for running in services {
                running.stop().await;
            }
        };
        tokio::time::timeout(STOPPED_WITHIN, stopped).await.expect("they stop in time");
        self.servers.stop().await;
    }

    /// Waits until everything is handled, and then outbox, stream and consumer were compared.
    pub async fn is_compared(&self) {
        let rows = self.rows().await;
        eventually("everything is handled", async || self.learned().await == rows.len() as i64)
            .await;
        let last = rows.iter().filter_map(|(_, mark)| *mark).max();
        self.is_verified_up_to(last).await;
    }

    /// Waits until outbox and stream were compared up to a sequence.
    pub async fn is_verified_up_to(&self, last: Option<i64>) {
        eventually("outbox and stream were compared", async || {
            let verified: Option<i64> = sqlx::query_scalar("select stream_seq from mesh.verified")
                .fetch_optional(&self.pools[0])
                .await
                .unwrap();
            verified == last
        })
        .await;
    }

    /// How many of these rows have no mark.
    pub async fn unmarked_of(&self, rows: &[Uuid]) -> usize {
        let unmarked = self.rows().await.into_iter().filter(|(_, mark)| mark.is_none());
        unmarked.filter(|(id, _)| rows.contains(id)).count()
    }

    pub async fn learned(&self) -> i64 {
        let count = sqlx::query_scalar("select count(*) from learned");
        count.fetch_one(&self.pools[1]).await.unwrap()
    }

    pub fn store(&self) -> PathBuf {
        self.servers.folder().join("nats/jetstream")
    }

    /// Sends the broker a signal.
    pub fn signal(&self, signal: &str) {
        let pid = self.servers.nats.pid().expect("the broker runs").to_string();
        assert!(Process::new("kill").args([signal, &pid]).status().unwrap().success());
    }

    /// Copies what the broker has on its disk.
    pub fn copy(&self) -> PathBuf {
        let to = self.servers.folder().join("copy");
        let _ = fs::remove_dir_all(&to);
        self.signal("-STOP");
        copy_folder(&self.store(), &to).unwrap();
        self.signal("-CONT");
        to
    }

    pub fn break_down(&self) {
        self.servers.nats.kill();
    }

    pub async fn come_back(&self) {
        self.servers.nats.restart().await.unwrap();
    }

    /// The broker crashes and comes back with this copy.
    pub async fn roll_back(&self, copy: &Path) {
        self.servers.nats.kill();
        fs::remove_dir_all(self.store()).unwrap();
        copy_folder(copy, &self.store()).unwrap();
        self.servers.nats.restart().await.unwrap();
    }

    /// The broker crashes, and loses the files with the stream's messages.
    pub async fn empty(&self) {
        self.servers.nats.kill();
        let mut folders = vec![self.store()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap().map(Result::unwrap) {
                match entry.file_name().to_str() {
                    Some("msgs") => fs::remove_dir_all(entry.path()).unwrap(),
                    _ if entry.file_type().unwrap().is_dir() => folders.push(entry.path()),
                    _ => {}
                }
            }
        }
        self.servers.nats.restart().await.unwrap();
    }

    /// Deletes the stream and creates it again, with its consumer.
    pub async fn wipe(&self) {
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
    let is_service = [EMITTER, LISTENER].contains(&service);
    let answers = is_service.then(|| servers.nkey_seed(&format!("{service}-answers")).to_owned());
    Link::connect_to_answer(settings, answers, Tracer::off()).await.unwrap()
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

/// Polls `look` until it is true. `what` names what is awaited.
pub async fn eventually(what: &str, look: impl AsyncFn() -> bool) {
    eventually_within(RESTORED_WITHIN, what, || async { look().await.then_some(()) }).await;
}

pub fn refunded(payment: Uuid) -> PointRefunded {
    PointRefunded {
        user_id: Uuid::now_v7().into(),
        payment_id: payment.into(),
        schedule_id: Uuid::now_v7().into(),
        amount: 1,
        balance: 1,
        reason: RefundReason::HoldGone,
        because: None,
    }
}
