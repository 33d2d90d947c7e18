//! The PostgreSQL engine: inbox, unit of work, outbox and parked events in one transaction.

mod check;
mod engine;
mod gates;
pub(crate) mod limits;
mod migrations;
pub(crate) mod outbox;
mod parked;
pub mod partitions;
mod positions;
mod problem;
mod reached;
mod rows;
mod transaction;

use std::{
    future::Future,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use sqlx::{
    ConnectOptions as _, PgPool,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions},
};

use crate::{
    batch::outlook::Outlook,
    deadline::within,
    failpoint::Failpoints,
    store::engine::{Failure, Mark, Pool, Store},
};

pub use check::{check, connect, default_partitions, newer_migrations};
pub use engine::Postgres;
pub use gates::{GATES, close_gates, gates};
pub(crate) use limits::{ANSWER_TIMEOUT, POSTGRES};
pub use migrations::{Migrations, migrator};
pub use outbox::backlog;
pub(crate) use positions::Place;
pub use positions::{Lead, Positions};
pub use problem::{read_failed, unknown};
pub use rows::{Rows, column};

/// The migrations of the mesh's own tables, which every service's database has.
pub static MESH_MIGRATIONS: Migrations = crate::migrations![
    "mesh/0001_mesh.sql",
    "mesh/0002_reached.sql",
    "mesh/0003_generation.sql",
    "mesh/0004_comparison.sql"
];

/// Connections of one service: two batch workers, its queries, timers and housekeeping.
const CONNECTIONS_MAX: u32 = 8;
/// How long a message waits for a connection before the store counts as unreachable.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(6);
/// How long a whole batch may take. A message that takes longer is redelivered meanwhile.
const BATCH_TIMEOUT: Duration = Duration::from_secs(20);
/// How long housekeeping may take, which moves and drops tables.
const TIDY_TIMEOUT: Duration = Duration::from_secs(60);

/// When a statement last timed out. A connection older than that may still be running it, in an
/// abandoned transaction, and is not used again.
#[derive(Default)]
struct GivenUp {
    is_any: AtomicBool,
    at: Mutex<Option<Instant>>,
}

impl GivenUp {
    fn now(&self) {
        *self.at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
        self.is_any.store(true, Relaxed);
    }

    /// Whether a connection of this age was opened after that.
    fn is_younger(&self, age: Duration) -> bool {
        if !self.is_any.load(Relaxed) {
            return true;
        }
        let at = *self.at.lock().unwrap_or_else(PoisonError::into_inner);
        at.is_none_or(|at| at.elapsed() > age)
    }
}

/// A service's own database.
pub(crate) struct Database {
    pool: PgPool,
    options: PgConnectOptions,
    failpoints: Arc<Failpoints>,
    outlook: Outlook,
    given_up: Arc<GivenUp>,
    /// The service's own migrations, beside the mesh's.
    migrations: Option<&'static Migrator>,
}

impl Database {
    /// The database at `url`; it connects when first needed.
    fn new(url: &str) -> Result<Self, sqlx::Error> {
        // Failures are logged where they are handled; logging every statement is expensive.
        let options = url.parse::<PgConnectOptions>()?.disable_statement_logging().options([
            ("statement_timeout", "30s"),
            // A message that is redelivered while its first transaction still runs must not
            // stall its batch.
            ("lock_timeout", "1s"),
            ("idle_in_transaction_session_timeout", "60s"),
            // Every statement of a batch names the keys it wants. Without this, a plan cached
            // while a table was still empty would scan and hash for ever after.
            ("enable_seqscan", "off"),
            ("enable_hashjoin", "off"),
            ("enable_mergejoin", "off"),
        ]);
        let given_up = Arc::new(GivenUp::default());
        let known = given_up.clone();
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS_MAX)
            .acquire_timeout(ACQUIRE_TIMEOUT)
            .test_before_acquire(false)
            .before_acquire(move |_, connection| {
                let is_clean = known.is_younger(connection.age);
                Box::pin(async move { Ok(is_clean) })
            })
            .connect_lazy_with(options.clone());
        let failpoints = Arc::new(Failpoints::default());
        let outlook = Outlook::unknown();
        Ok(Self { pool, options, failpoints, outlook, given_up, migrations: None })
    }

    /// Waits for the database up to `limit`. After a timeout the call may have taken effect.
    async fn answer<T>(
        &self,
        limit: Duration,
        answer: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        match within(limit, POSTGRES, answer).await {
            Ok(answer) => answer,
            Err(late) => {
                self.given_up.now();
                Err(late.into())
            }
        }
    }

    /// Runs a transaction with a batch's timeout.
    async fn unit<T>(&self, unit: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
        match within(BATCH_TIMEOUT, POSTGRES, unit).await {
            Ok(ended) => ended,
            Err(late) => {
                self.given_up.now();
                Err(Failure::Uncertain(late.to_string()))
            }
        }
    }
}

/// Brings one service's database up to date, including the partitions of the coming days.
///
/// # Errors
/// When a migration fails, or an applied one has changed since.
pub async fn migrate(pool: &PgPool, service: &Migrator) -> Result<(), sqlx::migrate::MigrateError> {
    for migrator in [&*MESH_MIGRATIONS, service] {
        // Both share one table of applied versions; each ignores the other's.
        let mut migrator = Migrator::with_migrations(migrator.iter().cloned().collect());
        migrator.set_ignore_missing(true);
        migrator.run(pool).await?;
    }
    partitions::tidy(pool, crate::clock::now()).await?;
    Ok(())
}

#[async_trait]
impl Store for Database {
    async fn lead(&self) -> Result<Lead, Failure> {
        Lead::take(&self.options).await
    }

    async fn positions(&self) -> Result<Positions, Failure> {
        self.answer(ANSWER_TIMEOUT, Positions::load(&self.pool)).await
    }

    async fn reached(&self, stream: &str) -> Result<Vec<Mark>, Failure> {
        self.answer(ANSWER_TIMEOUT, reached::places(&self.pool, stream)).await
    }

    async fn note_reached(&self, stream: &str, mark: Mark) -> Result<(), Failure> {
        self.answer(ANSWER_TIMEOUT, reached::note(&self.pool, stream, mark)).await
    }

    async fn forget_reached(&self, stream: &str, above: u64) -> Result<(), Failure> {
        self.answer(ANSWER_TIMEOUT, reached::forget(&self.pool, stream, above)).await
    }

    async fn check(&self) -> Result<(), Failure> {
        self.answer(ANSWER_TIMEOUT, async {
            let mut connection = self.pool.acquire().await?;
            check(&mut connection, self.migrations).await
        })
        .await
    }

    async fn tidy(&self) -> Result<(), Failure> {
        let tidied = async { Ok(partitions::tidy(&self.pool, crate::clock::now()).await?) };
        self.answer(TIDY_TIMEOUT, tidied).await
    }

    fn given_up(&self) {
        self.given_up.now();
    }

    fn pool(&self) -> Option<Pool> {
        let idle = u32::try_from(self.pool.num_idle()).unwrap_or(u32::MAX);
        Some(Pool { idle, used: self.pool.size().saturating_sub(idle) })
    }

    fn failpoints(&self) -> Arc<Failpoints> {
        self.failpoints.clone()
    }
}
