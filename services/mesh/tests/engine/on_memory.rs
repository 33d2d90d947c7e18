//! The counters on the engine in memory.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use mesh::{
    Service,
    engine::Failure,
    memory::{self, InMemory, Memory},
};
use uuid::Uuid;

use crate::{
    on_postgres::{Counter, Counters, OnPostgres},
    store::Store,
};

pub struct OnMemory(memory::Database<Counters>);

impl InMemory for Counters {
    type Tables = BTreeMap<Uuid, (i64, i64)>;

    fn load_from(keys: BTreeSet<Uuid>, tables: &Self::Tables) -> Self {
        let stored = |id: Uuid| {
            let &(value, version) = tables.get(&id)?;
            Some((id, Counter { value, version, ..Counter::default() }))
        };
        Self(keys.into_iter().filter_map(stored).collect())
    }

    fn save_to(self, tables: &mut Self::Tables) -> Result<(), Failure> {
        for (id, counter) in self.0.into_iter().filter(|(_, counter)| counter.is_changed) {
            if counter.value <= -100_000 {
                return Err(Failure::Refused("the value is too small".into()));
            }
            tables.insert(id, (counter.value, counter.version));
        }
        Ok(())
    }
}

impl Store for OnMemory {
    type Engine = Memory<Counters>;

    async fn open() -> Self {
        Self(memory::Database::default())
    }

    fn service() -> Service<Self::Engine> {
        OnPostgres::service().in_memory()
    }

    fn engine(&self) -> Arc<Self::Engine> {
        Arc::new(Memory::new(self.0.clone(), ()))
    }

    async fn lose(&self) {
        self.0.cut_off();
    }

    async fn counter(&self, id: Uuid) -> Option<(i64, i64)> {
        self.0.look(|tables| tables.get(&id).copied()).await
    }
}
