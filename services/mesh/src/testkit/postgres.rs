//! A database for one test, and the handlers of a unit of work on it.

use events::{Command, Event};
use servers::{Options, Servers};
use sqlx::{AssertSqlSafe, PgPool, migrate::Migrator, postgres::PgPoolOptions};
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::{Caller, Context, Execute, Handle, Refusal, UnitOfWork, postgres::migrate};

/// The role of all databases.
const ROLE: &str = "test";
/// Connections of a pool at most. Tests run side by side, and a server has a hundred.
const CONNECTIONS_MAX: u32 = 8;

/// The URL of a new database with the tables of a service, on a server that all tests share.
///
/// # Panics
/// When it cannot be created.
pub async fn database(migrations: &Migrator) -> String {
    static SERVERS: OnceCell<Servers> = OnceCell::const_new();
    let start = || async {
        Servers::start(Options::temporary().databases([ROLE])).await.expect("the servers start")
    };
    let servers = SERVERS.get_or_init(start).await;
    let url = servers.database_url(ROLE);
    let (server, rest) = url.rsplit_once('/').expect("a URL with a database");
    let (role, settings) = rest.split_once('?').unwrap_or((rest, ""));
    let name = format!("test_{}", Uuid::now_v7().simple());
    let admin = PgPool::connect(servers.postgres.url()).await.expect("PostgreSQL answers");
    let create = format!("create database {name} owner {role}");
    sqlx::query(AssertSqlSafe(create)).execute(&admin).await.expect("it creates a database");
    admin.close().await;
    let url = format!("{server}/{name}?{settings}");
    let pool = connect(&url).await;
    migrate(&pool, migrations).await.expect("its tables are created");
    pool.close().await;
    url
}

/// Connections to such a database.
///
/// # Panics
/// When it cannot be created.
pub async fn pool(migrations: &Migrator) -> PgPool {
    connect(&database(migrations).await).await
}

async fn connect(url: &str) -> PgPool {
    let options = PgPoolOptions::new().max_connections(CONNECTIONS_MAX);
    options.connect(url).await.expect("PostgreSQL answers")
}

/// Runs a batch as one transaction: loads what `keys` adds, lets `act` decide, saves what changed.
///
/// # Errors
/// When it cannot be stored.
pub async fn batch<U: UnitOfWork, T>(
    pool: &PgPool,
    config: &U::Config,
    caller: &Caller,
    keys: impl FnOnce(&mut U::Keys),
    act: impl FnOnce(&mut U, &mut Context<'_, U::Config>) -> T,
) -> sqlx::Result<T> {
    let mut wanted = U::Keys::default();
    keys(&mut wanted);
    let mut tx = pool.begin().await?;
    let mut unit = U::load(wanted, &mut tx).await?;
    let now = crate::clock::now();
    let done = act(&mut unit, &mut Context::at(now, config, caller, Uuid::now_v7()));
    unit.save(&mut tx).await?;
    tx.commit().await?;
    Ok(done)
}

/// Handles an event in a batch of its own.
///
/// # Panics
/// When it is not handled, or cannot be stored.
pub async fn handle<U: Handle<E>, E: Event>(pool: &PgPool, config: &U::Config, event: &E) {
    let keys = |keys: &mut U::Keys| <U as Handle<E>>::keys(event, keys);
    let handled =
        batch(pool, config, &Caller::Mesh, keys, |unit: &mut U, ctx| unit.handle(event, ctx));
    handled.await.expect("it is stored").expect("it is handled");
}

/// Decides a command in a batch of its own.
///
/// # Errors
/// Its refusal.
///
/// # Panics
/// When it cannot be stored.
pub async fn execute<U: Execute<C>, C: Command>(
    pool: &PgPool,
    config: &U::Config,
    caller: &Caller,
    command: &C,
) -> Result<C::Reply, Refusal> {
    let keys = |keys: &mut U::Keys| <U as Execute<C>>::keys(command, caller, keys);
    let executed =
        batch(pool, config, caller, keys, |unit: &mut U, ctx| unit.execute(command, ctx));
    executed.await.expect("it is stored")
}
