//! A service's database with its unit of work, as an engine.

use std::{future::Future, marker::PhantomData, sync::Arc};

use async_trait::async_trait;
use events::{Timestamp, UserId};
use futures::future::BoxFuture;
use sqlx::{PgPool, migrate::Migrator};

use super::{BATCH_TIMEOUT, Database, migrate, transaction::Tx};
use crate::{
    UnitOfWork,
    batch::{
        handler::{decide, keys_of},
        run::{self, Runner},
        unit::{Decided, Unit, Units},
        work::{Entry, Work},
    },
    failpoint::Failpoints,
    parked::Parked,
    store::engine::{Care, Engine, Failure, Operation, Ran, Retried, Store},
};

/// A service's own database, as an engine for its unit of work.
pub struct Postgres<B: UnitOfWork> {
    database: Database,
    config: Arc<B::Config>,
    unit: PhantomData<fn() -> B>,
}

impl<B: UnitOfWork> Postgres<B> {
    /// An engine on the database at `url`; it connects when first needed.
    ///
    /// # Errors
    /// When the address is malformed.
    pub fn new(url: &str, config: B::Config) -> Result<Self, sqlx::Error> {
        Ok(Self { database: Database::new(url)?, config: Arc::new(config), unit: PhantomData })
    }

    /// Makes the engine check, before it is used, that the database is this service's own and up
    /// to date.
    pub fn owning(mut self, migrations: Option<&'static Migrator>) -> Self {
        self.database.migrations = migrations;
        self
    }

    /// Runs a transaction of the service outside any batch, with a batch's timeout.
    ///
    /// # Errors
    /// The transaction's own error; `Uncertain` when it times out.
    pub async fn unit<T>(
        &self,
        unit: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        self.database.unit(unit).await
    }

    /// The service's connections.
    pub fn pool(&self) -> &PgPool {
        &self.database.pool
    }

    /// The service's configuration.
    pub fn config(&self) -> &B::Config {
        &self.config
    }

    /// The points where tests can make this service fail.
    pub fn failpoints(&self) -> &Arc<Failpoints> {
        &self.database.failpoints
    }

    /// Brings the database up to date: the mesh's own tables, then the service's.
    ///
    /// # Errors
    /// When a migration fails, or an applied one has changed since.
    pub async fn migrate(&self, service: &Migrator) -> Result<(), sqlx::migrate::MigrateError> {
        migrate(self.pool(), service).await
    }
}

/// These futures are boxed here: the code of an unboxed one is compiled again in each crate that
/// awaits it.
impl Database {
    /// Runs a batch. One that timed out may have taken effect.
    fn run<'a>(
        &'a self,
        units: &'a dyn Units<Tx>,
        batch: &'a mut [Work],
        care: Care,
    ) -> BoxFuture<'a, Result<Ran, Failure>> {
        Box::pin(async move { self.unit(run::run(&self.runner(units), batch, care)).await })
    }

    /// Retries a parked event.
    fn retry<'a>(
        &'a self,
        units: &'a dyn Units<Tx>,
        parked: &'a Parked,
        entry: &'a mut Entry,
        by: Option<UserId>,
    ) -> BoxFuture<'a, Result<Retried, Failure>> {
        Box::pin(async move {
            self.answer(BATCH_TIMEOUT, run::retry(&self.runner(units), parked, entry, by)).await
        })
    }

    fn runner<'a>(&'a self, units: &'a dyn Units<Tx>) -> Runner<'a, PgPool> {
        Runner { store: &self.pool, units, failpoints: &self.failpoints, outlook: &self.outlook }
    }
}

#[async_trait]
impl<B: UnitOfWork> Engine for Postgres<B> {
    fn store(&self) -> &dyn Store {
        &self.database
    }

    fn operation(&self) -> Operation {
        Operation { system: "postgresql", name: "TRANSACTION" }
    }

    async fn run(&self, batch: &mut [Work], care: Care) -> Result<Ran, Failure> {
        self.database.run(self, batch, care).await
    }

    async fn retry(
        &self,
        parked: &Parked,
        entry: &mut Entry,
        by: Option<UserId>,
    ) -> Result<Retried, Failure> {
        self.database.retry(self, parked, entry, by).await
    }
}

#[async_trait]
impl<B: UnitOfWork> Units<Tx> for Postgres<B> {
    async fn load(&self, tx: &mut Tx, entries: &[&Entry]) -> Result<Box<dyn Unit<Tx>>, Failure> {
        let unit = B::load(keys_of::<B>(entries), tx).await?;
        Ok(Box::new(Loaded { unit, config: self.config.clone() }))
    }
}

struct Loaded<B: UnitOfWork> {
    unit: B,
    config: Arc<B::Config>,
}

#[async_trait]
impl<B: UnitOfWork> Unit<Tx> for Loaded<B> {
    fn decide(&mut self, entry: &Entry, now: Timestamp) -> Decided {
        decide(&mut self.unit, &self.config, entry, now)
    }

    async fn save(self: Box<Self>, tx: &mut Tx) -> Result<(), Failure> {
        Ok(self.unit.save(tx).await?)
    }
}
