//! The counters in a PostgreSQL table; each store is a database of its own.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
};

use events::{Problem, ScheduleId, UserId, codes};
use mesh::{
    Allow, Caller, Context, Execute, Handle, HandleError, Refusal, Service, UnitOfWork,
    engine::{Engine, Which},
    postgres::{Postgres, migrate},
};
use servers::{Options, Servers};
use sqlx::{
    AssertSqlSafe, Connection, Executor, PgConnection, PgPool, migrate::Migrator,
    postgres::PgPoolOptions,
};
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::{
    counter::{Add, Added, Bumped, EMITS, How, Moved, NAME, Opened},
    store::{Harness, Store, bumped, eventually, message},
};

/// A value that the table's constraint refuses.
const BROKEN: i64 = -1_000_000;
/// The database that all others are copied from.
const TEMPLATE: &str = "counters";

pub struct OnPostgres {
    url: String,
    pool: PgPool,
}

#[derive(Debug, Clone, Default)]
pub struct Counter {
    pub value: i64,
    pub version: i64,
    pub is_new: bool,
    pub is_changed: bool,
}

/// The counters of a batch.
pub struct Counters(pub BTreeMap<Uuid, Counter>);

impl UnitOfWork for Counters {
    type Keys = BTreeSet<Uuid>;
    type Config = ();
    const KEY: &'static str = "counter";

    async fn load(keys: BTreeSet<Uuid>, tx: &mut PgConnection) -> sqlx::Result<Self> {
        let rows: Vec<(Uuid, i64, i64)> = sqlx::query_as(
            "select id, value, version from counters where id = any($1) order by id for update",
        )
        .bind(keys.into_iter().collect::<Vec<_>>())
        .fetch_all(tx)
        .await?;
        let counter = |(id, value, version)| (id, Counter { value, version, ..Counter::default() });
        Ok(Self(rows.into_iter().map(counter).collect()))
    }

    async fn save(self, tx: &mut PgConnection) -> sqlx::Result<()> {
        let statements = [
            "insert into counters select * from unnest($1::uuid[], $2::bigint[], $3::bigint[])",
            "update counters as c set value = n.value, version = n.version
             from unnest($1::uuid[], $2::bigint[], $3::bigint[]) as n (id, value, version)
             where c.id = n.id",
        ];
        for (statement, is_new) in statements.into_iter().zip([true, false]) {
            let rows: Vec<_> = self
                .0
                .iter()
                .filter(|(_, counter)| counter.is_changed && counter.is_new == is_new)
                .collect();
            if !rows.is_empty() {
                sqlx::query(statement)
                    .bind(rows.iter().map(|(id, _)| **id).collect::<Vec<_>>())
                    .bind(rows.iter().map(|(_, counter)| counter.value).collect::<Vec<_>>())
                    .bind(rows.iter().map(|(_, counter)| counter.version).collect::<Vec<_>>())
                    .execute(&mut *tx)
                    .await?;
            }
        }
        Ok(())
    }
}

impl Counters {
    fn open(&mut self, id: Uuid) -> &mut Counter {
        let counter =
            self.0.entry(id).or_insert_with(|| Counter { is_new: true, ..Counter::default() });
        counter.is_changed = true;
        counter
    }

    fn bump(&mut self, id: Uuid, amount: i64, how: How, ctx: &mut Context<'_, ()>) -> Added {
        let counter = self.open(id);
        counter.value += if how == How::Breaks { BROKEN } else { amount };
        counter.version += 1;
        assert!(how != How::Panics, "panics on purpose");
        let (value, version) = (counter.value, counter.version);
        let moved = |apart| Moved { counter: id, value, version, apart };
        match how {
            How::Spreads(count) => {
                for _ in 0..count {
                    ctx.emit(moved(Some(ScheduleId(Uuid::now_v7()))));
                }
            }
            _ => ctx.emit(moved(None)),
        }
        Added { value, version }
    }
}

impl Handle<Bumped> for Counters {
    fn keys(event: &Bumped, keys: &mut BTreeSet<Uuid>) {
        keys.insert(event.counter);
    }

    fn handle(&mut self, event: &Bumped, ctx: &mut Context<'_, ()>) -> Result<(), HandleError> {
        if event.how == How::Late && !self.0.contains_key(&event.counter) {
            return Err(HandleError::NotYet("the counter"));
        }
        self.bump(event.counter, event.amount, event.how, ctx);
        Ok(())
    }
}

impl Handle<Opened> for Counters {
    const KEY: &'static str = "by";

    fn keys(event: &Opened, keys: &mut BTreeSet<Uuid>) {
        keys.insert(event.counter);
    }

    fn handle(&mut self, event: &Opened, _ctx: &mut Context<'_, ()>) -> Result<(), HandleError> {
        self.open(event.counter);
        Ok(())
    }
}

impl Execute<Add> for Counters {
    fn keys(command: &Add, _caller: &Caller, keys: &mut BTreeSet<Uuid>) {
        keys.insert(command.counter);
    }

    fn execute(&mut self, command: &Add, ctx: &mut Context<'_, ()>) -> Result<Added, Refusal> {
        if command.amount == 0 {
            return Err(Problem::new(codes::INVALID, "Nothing is nothing.").into());
        }
        Ok(self.bump(command.counter, command.amount, command.how, ctx))
    }
}

/// The server of all databases of these tests, with their template.
async fn servers() -> &'static Servers {
    static SERVERS: OnceCell<Servers> = OnceCell::const_new();
    SERVERS
        .get_or_init(|| async {
            let servers = Servers::start(Options::temporary()).await.unwrap();
            let mut admin = PgConnection::connect(servers.postgres.url()).await.unwrap();
            admin.execute(AssertSqlSafe(format!("create database {TEMPLATE}"))).await.unwrap();
            let pool = PgPool::connect(&database(&servers, TEMPLATE)).await.unwrap();
            migrate(&pool, &Migrator::DEFAULT).await.unwrap();
            pool.execute(
                "create table counters (id uuid primary key,
                     value bigint not null check (value > -100000), version bigint not null)",
            )
            .await
            .unwrap();
            pool.close().await;
            servers
        })
        .await
}

/// The administrator's address of a database.
fn database(servers: &Servers, name: &str) -> String {
    let url = servers.postgres.url();
    let (address, options) = url.split_once('?').unwrap_or((url, ""));
    let (host, _) = address.rsplit_once('/').unwrap();
    format!("{host}/{name}?{options}")
}

impl Store for OnPostgres {
    type Engine = Postgres<Counters>;

    async fn open() -> Self {
        static STORES: AtomicU32 = AtomicU32::new(0);
        let servers = servers().await;
        let name = format!("{TEMPLATE}_{}", STORES.fetch_add(1, Ordering::SeqCst));
        let mut admin = PgConnection::connect(servers.postgres.url()).await.unwrap();
        let made = format!("create database {name} template {TEMPLATE}");
        admin.execute(AssertSqlSafe(made)).await.unwrap();
        let url = database(servers, &name);
        // A connection that `lose` does not cut off.
        let pool = PgPoolOptions::new().max_connections(1).connect(&url).await.unwrap();
        Self { url, pool }
    }

    fn service() -> Service<Self::Engine> {
        Service::<Self::Engine>::new(NAME)
            .consumes::<Bumped>(EMITS)
            .consumes::<Opened>(&[])
            .executes::<Add>(Allow::Anyone, EMITS)
    }

    fn engine(&self) -> Arc<Self::Engine> {
        Arc::new(Postgres::new(&self.url, ()).unwrap())
    }

    async fn lose(&self) {
        sqlx::query(
            "select pg_terminate_backend(pid) from pg_stat_activity
             where datname = current_database() and pid <> pg_backend_pid()",
        )
        .execute(&self.pool)
        .await
        .unwrap();
    }

    async fn counter(&self, id: Uuid) -> Option<(i64, i64)> {
        sqlx::query_as("select value, version from counters where id = $1")
            .bind(id)
            .fetch_optional(&self.pool)
            .await
            .unwrap()
    }
}

#[test]
fn the_first_event_of_a_key_is_not_overtaken_while_its_row_is_locked() {
    crate::run(async {
        let harness = Harness::<OnPostgres>::open().await;
        let held = Uuid::now_v7();
        let by = UserId(Uuid::now_v7());
        let emitted = [How::Breaks, How::Plain, How::Plain].map(|how| bumped(held, 1, how));
        let mut parked = harness.take(&[&message(emitted)]).await.parked;
        let (dead, head) = (parked.remove(0), parked.remove(0));
        assert!(harness.engine.store().discard(dead.number, by, "of no use").await.unwrap());
        let mut operator = PgConnection::connect(&harness.store.url).await.unwrap();
        let mut locking = operator.begin().await.unwrap();
        sqlx::query("select from mesh.parked where number = $1 for update")
            .bind(head.number as i64)
            .execute(&mut *locking)
            .await
            .unwrap();
        // It is due, and no other row is.
        let due = "select count(*) from mesh.parked where due_at <= clock_timestamp()";
        eventually("the head is due", || async {
            let due: i64 = sqlx::query_scalar(due).fetch_one(&harness.store.pool).await.unwrap();
            (due > 0).then_some(())
        })
        .await;
        for which in [Which::Due(10), Which::Missed(10), Which::First(held.to_string())] {
            let leased = harness.lease(which).await;
            assert!(leased.is_empty(), "{leased:?}");
        }
        harness.bump(held, 4, How::Plain).await;
        locking.rollback().await.unwrap();
        for wanted in [(1, 1), (2, 2), (6, 3)] {
            assert!(harness.attempt(&harness.due().await).await);
            assert_eq!(harness.value(held).await, wanted);
        }
    });
}
