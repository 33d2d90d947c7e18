//! The third engine: inbox, state, outbox and parked events in memory, for the simulation.
//!
//! It runs the same batches as the PostgreSQL engine (see `batch`) and passes the same
//! conformance suite. The [`Database`] outlives the engine, as a real one outlives a process: a new
//! engine on the same [`Database`] is a restarted process. It is behind the feature `sim`: nothing
//! in production keeps its state in memory.

mod outbox;
mod parked;
mod process;
mod rows;
mod table;
mod transaction;

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::SeqCst},
    },
};

use async_trait::async_trait;
use events::{Timestamp, UserId};
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::{
    Service, UnitOfWork,
    batch::work::{Entry, Work},
    batch::{
        answers::KeptAnswer,
        handler::{decide, keys_of},
        run::{self, Runner},
        unit::{Decided, Unit, Units},
    },
    failpoint::Failpoints,
    parked::Parked,
    store::engine::{Care, Engine, Failure, Mark, Ran, Retried, Store},
    store::postgres::Postgres,
};

use transaction::Tx;

pub use process::{DecodedCommand, Incoming, Process, Shelf, Taken};

/// A unit of work that can be kept in memory.
pub trait InMemory: UnitOfWork {
    /// The service's tables.
    type Tables: Clone + Default + Send + 'static;

    /// Loads what `keys` name, as [`UnitOfWork::load`] does from a database.
    fn load_from(keys: Self::Keys, tables: &Self::Tables) -> Self;

    /// Writes what has changed, as [`UnitOfWork::save`] does.
    ///
    /// # Errors
    /// When a constraint of the database would refuse it.
    fn save_to(self, tables: &mut Self::Tables) -> Result<(), Failure>;
}

/// The data of one service; it outlives the engines on it.
pub struct Database<B: InMemory> {
    kept: Arc<Mutex<Kept<B>>>,
    /// How often its connections were cut off.
    cuts: Arc<AtomicU64>,
    mistakes: Arc<Mistakes>,
}

/// Faults that can be planted, to check that a simulation finds them.
#[derive(Debug, Default)]
struct Mistakes {
    forgets_messages: AtomicBool,
    forgets_answers: AtomicBool,
}

impl<B: InMemory> Clone for Database<B> {
    fn clone(&self) -> Self {
        let Self { kept, cuts, mistakes } = self;
        Self { kept: kept.clone(), cuts: cuts.clone(), mistakes: mistakes.clone() }
    }
}

impl<B: InMemory> Default for Database<B> {
    fn default() -> Self {
        Self {
            kept: Arc::new(Mutex::new(Kept::default())),
            cuts: Arc::default(),
            mistakes: Arc::default(),
        }
    }
}

impl<B: InMemory> Database<B> {
    /// Cuts off its connections: transactions that have begun cannot commit any more.
    pub fn cut_off(&self) {
        self.cuts.fetch_add(1, SeqCst);
    }

    /// Plants a fault: the inbox keeps nothing.
    pub fn forget_messages(&self) {
        self.mistakes.forgets_messages.store(true, SeqCst);
    }

    /// Plants a fault: no answer is kept under its idempotency key.
    pub fn forget_answers(&self) {
        self.mistakes.forgets_answers.store(true, SeqCst);
    }

    /// A copy of the service's tables, if no transaction is running; empty tables otherwise.
    pub fn copy(&self) -> B::Tables {
        self.kept.try_lock().map(|kept| kept.tables.clone()).unwrap_or_default()
    }

    /// Reads the service's tables as last committed.
    pub async fn look<T>(&self, look: impl FnOnce(&B::Tables) -> T) -> T {
        look(&self.kept.lock().await.tables)
    }
}

/// The tables of a service, and those of the mesh.
struct Kept<B: InMemory> {
    tables: B::Tables,
    inbox: HashSet<Uuid>,
    answers: BTreeMap<[u8; 32], KeptAnswer>,
    outbox: BTreeMap<Uuid, rows::Row>,
    verified: Option<Mark>,
    parked: table::Table,
}

impl<B: InMemory> Default for Kept<B> {
    fn default() -> Self {
        Self {
            tables: B::Tables::default(),
            inbox: HashSet::new(),
            answers: BTreeMap::new(),
            outbox: BTreeMap::new(),
            verified: None,
            parked: table::Table::default(),
        }
    }
}

/// A service's state in memory, as an engine.
pub struct Memory<B: InMemory> {
    database: Database<B>,
    config: Arc<B::Config>,
    failpoints: Arc<Failpoints>,
    has_parked: AtomicBool,
}

impl<B: InMemory> Memory<B> {
    /// An engine on a database, as in a process that has just started.
    pub fn new(database: Database<B>, config: B::Config) -> Self {
        let has_parked = AtomicBool::new(true);
        Self { database, config: Arc::new(config), failpoints: Arc::default(), has_parked }
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
            has_parked: &self.has_parked,
        }
    }
}

#[async_trait]
impl<B: InMemory> Engine for Memory<B> {
    fn store(&self) -> &dyn Store {
        self
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
