//! A database in memory with its service's unit of work, as an engine.

use std::sync::Arc;

use async_trait::async_trait;
use events::{Timestamp, UserId};

use super::{Database, InMemory, transaction::Tx};
use crate::{
    Service,
    batch::work::{Entry, Work},
    batch::{
        handler::{decide, keys_of},
        outlook::Outlook,
        run::{self, Runner},
        unit::{Decided, Unit, Units},
    },
    failpoint::Failpoints,
    parked::Parked,
    store::engine::{Care, Engine, Failure, Mark, Operation, POSITIONS_MAX, Ran, Retried, Store},
    store::postgres::Postgres,
};

/// A service's state in memory, as an engine.
pub struct Memory<B: InMemory> {
    pub(super) database: Database<B>,
    config: Arc<B::Config>,
    failpoints: Arc<Failpoints>,
    outlook: Outlook,
}

impl<B: InMemory> Memory<B> {
    /// An engine on a database, as in a process that has just started.
    pub fn new(database: Database<B>, config: B::Config) -> Self {
        let outlook = Outlook::unknown();
        Self { database, config: Arc::new(config), failpoints: Arc::default(), outlook }
    }

    /// The database it runs on.
    pub fn database(&self) -> &Database<B> {
        &self.database
    }

    fn runner(&self) -> Runner<'_, Database<B>> {
        Runner {
            store: &self.database,
            units: self,
            failpoints: &self.failpoints,
            outlook: &self.outlook,
        }
    }
}

#[async_trait]
impl<B: InMemory> Engine for Memory<B> {
    fn store(&self) -> &dyn Store {
        self
    }

    fn operation(&self) -> Operation {
        Operation { system: "memory", name: "TRANSACTION" }
    }

    async fn run(&self, batch: &mut [Work], care: Care) -> Result<Ran, Failure> {
        run::run(&self.runner(), batch, care).await
    }

    async fn retry(
        &self,
        parked: &Parked,
        entry: &mut Entry,
        by: Option<UserId>,
    ) -> Result<Retried, Failure> {
        run::retry(&self.runner(), parked, entry, by).await
    }
}

#[async_trait]
impl<B: InMemory> Store for Memory<B> {
    async fn reached(&self, stream: &str) -> Result<Vec<Mark>, Failure> {
        Ok(self.database.kept.lock().await.reached.get(stream).cloned().unwrap_or_default())
    }

    async fn note_reached(&self, stream: &str, mark: Mark) -> Result<(), Failure> {
        self.database.spend()?;
        let mut kept = self.database.kept.lock().await;
        let marks = kept.reached.entry(stream.to_owned()).or_default();
        if let Err(at) = marks.binary_search_by_key(&mark.sequence, |known| known.sequence) {
            marks.insert(at, mark);
        }
        marks.drain(..marks.len().saturating_sub(POSITIONS_MAX));
        Ok(())
    }

    async fn forget_reached(&self, stream: &str, above: u64) -> Result<(), Failure> {
        self.database.spend()?;
        if let Some(marks) = self.database.kept.lock().await.reached.get_mut(stream) {
            marks.retain(|mark| mark.sequence <= above);
        }
        Ok(())
    }

    async fn check(&self) -> Result<(), Failure> {
        Ok(())
    }

    async fn tidy(&self) -> Result<(), Failure> {
        Ok(())
    }

    fn failpoints(&self) -> Arc<Failpoints> {
        self.failpoints.clone()
    }
}

#[async_trait]
impl<B: InMemory> Units<Tx<B>> for Memory<B> {
    async fn load(
        &self,
        tx: &mut Tx<B>,
        entries: &[&Entry],
    ) -> Result<Box<dyn Unit<Tx<B>>>, Failure> {
        let unit = B::load_from(keys_of::<B>(entries), &tx.tables);
        Ok(Box::new(Loaded { unit, config: self.config.clone() }))
    }
}

struct Loaded<B: InMemory> {
    unit: B,
    config: Arc<B::Config>,
}

#[async_trait]
impl<B: InMemory> Unit<Tx<B>> for Loaded<B> {
    fn decide(&mut self, entry: &Entry, now: Timestamp) -> Decided {
        decide(&mut self.unit, &self.config, entry, now)
    }

    async fn save(self: Box<Self>, tx: &mut Tx<B>) -> Result<(), Failure> {
        self.unit.save_to(&mut tx.tables)
    }
}

impl<B: InMemory> Service<Postgres<B>> {
    /// The same service with its state in memory: it handles the same events and commands. It
    /// has no queries and timers, since these read the database directly.
    pub fn in_memory(self) -> Service<Memory<B>> {
        self.decided_only()
    }
}
