//! What a service that reads whole streams is handed.

use std::sync::Arc;

use events::Timestamp;
use uuid::Uuid;

use crate::{
    StoredEvent,
    failpoint::{Failpoint, Failpoints},
    store::{engine::Failure, postgres::Positions},
};

/// Events in the order of their streams, and the reader's positions after them. While the reader
/// catches up, the streams advance together in time, so that events of one moment come together.
pub struct Read {
    /// The events: each stream's in its order, one stream after the other.
    pub events: Vec<StoredEvent>,
    /// Whether no stream had more when this was read: then, with these events, the service has
    /// all that was emitted a moment ago.
    pub is_all: bool,
    /// When the read began: everything stored before is included, if [`Read::is_all`].
    pub began_at: Timestamp,
    pub(super) positions: Positions,
    pub(super) has_moved: bool,
    pub(super) failpoints: Arc<Failpoints>,
}

impl Read {
    /// Whether any message was read, even of other events: only then are there new positions to
    /// settle.
    pub fn has_moved(&self) -> bool {
        self.has_moved
    }

    /// Saves the positions, in the transaction that takes the events in.
    ///
    /// # Errors
    /// When the database refuses it.
    pub async fn settle(&self, tx: &mut sqlx::PgConnection) -> Result<(), Failure> {
        self.positions.save(tx).await?;
        let events = self.events.iter().map(StoredEvent::name);
        if self.failpoints.should_fail(Failpoint::BeforeCommit, events) {
            return Err(Failure::Unavailable("failpoint: before commit".into()));
        }
        Ok(())
    }
}

impl std::fmt::Debug for Read {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ids: Vec<Option<Uuid>> = self.events.iter().map(StoredEvent::event_id).collect();
        f.debug_struct("Read").field("events", &ids).finish_non_exhaustive()
    }
}
