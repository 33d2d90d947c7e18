//! Events of a batch that are parked, and order keys that parked events hold.

use std::collections::HashSet;

use super::{
    closing::Parking,
    transaction::Transaction,
    work::{Entry, Work},
};
use crate::{
    parked::{Parked, ParkedState, key::NONE},
    store::engine::Failure,
};

/// The parked events of one batch.
#[derive(Default)]
pub(super) struct Parkings {
    /// Order keys that a parked event holds: later events with the same key wait behind it.
    held: HashSet<String>,
    new: Vec<Parking>,
}

impl Parkings {
    /// Loads the order keys of the batch that a parked event holds. This is a statement of its
    /// own, after the unit of work has its locks: one begun before would not see what was parked
    /// while it waited for them.
    pub(super) async fn load(
        &mut self,
        tx: &mut impl Transaction,
        batch: &[Work],
        fresh: &[bool],
    ) -> Result<(), Failure> {
        let is_message = |(work, fresh): &(&Work, &bool)| **fresh && work.delivery().is_some();
        if !batch.iter().zip(fresh).any(|both| is_message(&both)) {
            return Ok(());
        }
        let messages = batch.iter().zip(fresh).filter(is_message);
        // Order keys are computed only when any is held.
        if !tx.is_any_held().await? {
            return Ok(());
        }
        let keys: HashSet<String> = messages
            .flat_map(|(work, _)| &work.entries)
            .map(Entry::key)
            .filter(|key| key != NONE)
            .collect();
        self.held = tx.held(keys.into_iter().collect()).await?;
        Ok(())
    }

    /// Parks an event that cannot be read, or that must wait behind another with the same order
    /// key; whether it did.
    pub(super) fn is_parked_unrun(&mut self, work: &mut Work, at: usize) -> bool {
        let entry = &mut work.entries[at];
        if let Err(cause) = &entry.handler {
            let cause = cause.to_string();
            entry.span.fail("dead_letter", || cause.clone());
            self.park(work, at, ParkedState::Dead, cause);
            return true;
        }
        if self.held.is_empty() || !self.held.contains(&entry.key()) {
            return false;
        }
        entry.span.note("onsale.parked", || "behind");
        let cause = "it waits for what is before it".to_owned();
        self.park(work, at, ParkedState::Behind, cause);
        true
    }

    /// Parks the event at index `at` of a message.
    pub(super) fn park(&mut self, work: &Work, at: usize, state: ParkedState, cause: String) {
        let Some(parking) = Parking::of(work, at, state, cause) else { return };
        if parking.key != NONE && state.holds_key() {
            self.held.insert(parking.key.clone());
        }
        self.new.push(parking);
    }

    /// Stores them.
    pub(super) async fn insert(
        &mut self,
        tx: &mut impl Transaction,
    ) -> Result<Vec<Parked>, Failure> {
        match std::mem::take(&mut self.new) {
            none if none.is_empty() => Ok(Vec::new()),
            new => tx.park(new).await,
        }
    }
}
