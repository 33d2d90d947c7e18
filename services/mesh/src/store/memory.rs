//! The third engine: inbox, state, outbox and parked events in memory, for the simulation.
//!
//! It runs the same batches as the PostgreSQL engine (see `batch`) and passes the same
//! conformance suite. The [`Database`] outlives the engine, as a real one outlives a process: a new
//! engine on the same [`Database`] is a restarted process. It is behind the feature `sim`: nothing
//! in production keeps its state in memory.

mod engine;
mod fuse;
mod mistakes;
mod outbox;
mod parked;
mod process;
mod rows;
mod shelf;
mod table;
mod transaction;

use std::{
    collections::{BTreeMap, HashSet},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::SeqCst},
    },
};

use events::Timestamp;
use tokio::sync::Mutex;
use uuid::Uuid;

use crate::{
    UnitOfWork,
    batch::answers::KeptAnswer,
    store::engine::{Failure, Generation, Mark, Place},
};

pub use crate::inbound::agreement::check::{Standing, When};
pub use engine::Memory;
pub use mistakes::Mistake;
pub use process::{DecodedCommand, Incoming, Process, Taken};
pub use shelf::{OwnConsumer, Shelf};

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
    fuse: Arc<fuse::Fuse>,
    mistakes: Arc<mistakes::Mistakes>,
}

impl<B: InMemory> Clone for Database<B> {
    fn clone(&self) -> Self {
        let Self { kept, cuts, fuse, mistakes } = self;
        let (kept, cuts) = (kept.clone(), cuts.clone());
        Self { kept, cuts, fuse: fuse.clone(), mistakes: mistakes.clone() }
    }
}

impl<B: InMemory> Default for Database<B> {
    fn default() -> Self {
        Self {
            kept: Arc::new(Mutex::new(Kept::default())),
            cuts: Arc::default(),
            fuse: Arc::default(),
            mistakes: Arc::default(),
        }
    }
}

impl<B: InMemory> Database<B> {
    /// Cuts off its connections: transactions that have begun cannot commit any more.
    pub fn cut_off(&self) {
        self.cuts.fetch_add(1, SeqCst);
    }

    /// Plants a mistake, to check that a simulation finds it.
    pub fn plant(&self, mistake: Mistake) {
        self.mistakes.plant(mistake);
    }

    /// Lets the process on this database die before the effect after so many more: a commit, a
    /// lease, a mark, or whatever else it calls [`Database::spend`] for. From then on nothing
    /// that it does has an effect, until [`Database::revive`].
    pub fn die_after(&self, effects: u32) {
        self.fuse.light(effects);
    }

    /// A new process runs on this database.
    pub fn revive(&self) {
        self.fuse.put_out();
    }

    /// Whether the process has died.
    pub fn is_dead(&self) -> bool {
        self.fuse.is_blown()
    }

    /// One effect of the process.
    ///
    /// # Errors
    /// When it dies before this effect, or has died.
    pub fn spend(&self) -> Result<(), Failure> {
        self.fuse.spend()
    }

    /// Changes the service's tables behind its back, if no transaction is running.
    pub fn change<T>(&self, change: impl FnOnce(&mut B::Tables) -> T) -> Option<T> {
        self.kept.try_lock().ok().map(|mut kept| change(&mut kept.tables))
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
    verified: Option<Place>,
    /// The instance that compares outbox and stream, and until when.
    comparison: Option<(Uuid, Timestamp)>,
    generation: Generation,
    parked: table::Table,
    /// The highest messages taken in from each stream, ascending.
    reached: BTreeMap<String, Vec<Mark>>,
}

impl<B: InMemory> Default for Kept<B> {
    fn default() -> Self {
        Self {
            tables: B::Tables::default(),
            inbox: HashSet::new(),
            answers: BTreeMap::new(),
            outbox: BTreeMap::new(),
            verified: None,
            comparison: None,
            generation: Generation::default(),
            parked: table::Table::default(),
            reached: BTreeMap::new(),
        }
    }
}
