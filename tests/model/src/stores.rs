//! The tables of the services as a part of a state: shared between states, compared by what is in
//! them.

use std::{
    fmt::{self, Write as _},
    hash::{DefaultHasher, Hash, Hasher},
    sync::Arc,
};

use events::{Timestamp, point::EntryKind};
use uuid::Uuid;

/// The tables of one service.
#[derive(Clone)]
pub struct Shared<T> {
    tables: Arc<T>,
    /// A hash of everything in the tables.
    digest: u64,
}

impl<T: fmt::Debug + Clone> Shared<T> {
    /// These tables.
    pub fn new(tables: T) -> Self {
        let mut digest = Digest(DefaultHasher::new());
        write!(digest, "{tables:?}").expect("a hasher takes everything");
        Self { digest: digest.0.finish(), tables: Arc::new(tables) }
    }

    /// The tables.
    pub fn get(&self) -> &T {
        &self.tables
    }
}

impl<T> Hash for Shared<T> {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.digest.hash(state);
    }
}

impl<T> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        self.digest == other.digest
    }
}

impl<T: fmt::Debug> fmt::Debug for Shared<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.tables.fmt(f)
    }
}

/// Hashes what is written to it.
struct Digest(DefaultHasher);

impl fmt::Write for Digest {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

/// Tables in the form in which states are compared: without times that no decision reads, and
/// with the ledger in an order of its own. Else the same state would count as many.
pub trait Level: Clone + fmt::Debug {
    /// Brings the tables into that form.
    fn level(&mut self);
}

impl Level for reservation::sim::Tables {
    fn level(&mut self) {
        let never = never();
        self.reservations.values_mut().for_each(|row| row.created_at = never);
    }
}

impl Level for payment::sim::Tables {
    fn level(&mut self) {
        let never = never();
        for row in self.payments.values_mut() {
            row.requested_at = never;
            row.ended_at = row.ended_at.map(|_| never);
        }
    }
}

impl Level for point::sim::Tables {
    fn level(&mut self) {
        let never = never();
        for entry in &mut self.entries {
            (entry.at, entry.id.0, entry.balance) = (never, Uuid::nil(), 0);
        }
        self.entries.sort_by_key(|entry| {
            let kind = match entry.kind {
                EntryKind::Charge => 0,
                EntryKind::Debit => 1,
                EntryKind::Refund => 2,
                EntryKind::Forfeit => 3,
            };
            (entry.user_id, entry.payment_id, kind)
        });
    }
}

fn never() -> Timestamp {
    Timestamp::from_unix_millis(0).expect("1970")
}
