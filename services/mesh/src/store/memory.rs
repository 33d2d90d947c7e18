//! The third engine: inbox, state, outbox and parked events in memory, for the simulation.
//!
//! It runs the same batches as the PostgreSQL engine (see `batch`) and passes the same
//! conformance suite. The [`Database`] outlives the engine, as a real one outlives a process: a new
//! engine on the same [`Database`] is a restarted process. It is behind the feature `sim`: nothing
//! in production keeps its state in memory.

mod engine;
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

use tokio::sync::Mutex;
use uuid::Uuid;

use crate::{
    UnitOfWork,
    batch::answers::KeptAnswer,
    store::engine::{Failure, Generation, Mark},
};

pub use engine::Memory;
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
    generation: Generation,
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
            generation: Generation::default(),
            parked: table::Table::default(),
        }
    }
}
