//! The tables of this service in memory, for the simulation.

use std::collections::BTreeMap;

use events::{AttemptId, PaymentId, UserId, point::EntryKind};
use mesh::{engine::Failure, memory::InMemory};

use super::{Keys, UnitOfWork, withdrawals::Attempt};
use crate::domain::{Entry, Trail, Wallet};

/// The tables.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    /// Wallets.
    pub wallets: BTreeMap<UserId, Wallet>,
    /// The ledger.
    pub entries: Vec<Entry>,
    /// Payments that were refused.
    pub refusals: BTreeMap<PaymentId, UserId>,
    attempts: BTreeMap<AttemptId, Attempt>,
}

impl Tables {
    fn trail(&self, id: PaymentId) -> Option<Trail> {
        if self.refusals.contains_key(&id) {
            return Some(Trail::Refused);
        }
        let of_payment = self.entries.iter().filter(|entry| entry.payment_id == Some(id));
        of_payment.fold(None, |trail, entry| match entry.kind {
            EntryKind::Refund => Some(Trail::Refunded),
            _ if trail == Some(Trail::Refunded) => trail,
            _ => Some(Trail::Debited { user_id: entry.user_id, amount: -entry.amount }),
        })
    }
}

impl InMemory for UnitOfWork {
    type Tables = Tables;

    fn load_from(keys: Keys, tables: &Tables) -> Self {
        let mut unit = Self::default();
        for id in keys.wallets.into_iter().map(UserId) {
            if let Some(&wallet) = tables.wallets.get(&id) {
                unit.wallets.load(id, wallet);
            }
        }
        for id in keys.payments.into_iter().map(PaymentId) {
            unit.trails.extend(tables.trail(id).map(|trail| (id, trail)));
        }
        for (id, attempt) in &tables.attempts {
            if keys.leaving.contains(&attempt.user_id.0) {
                unit.attempts.load(*id, *attempt);
            }
        }
        unit
    }

    fn save_to(self, tables: &mut Tables) -> Result<(), Failure> {
        for (id, wallet) in self.wallets.dirty() {
            if wallet.balance < 0 {
                return Err(Failure::Refused("a balance below zero".into()));
            }
            tables.wallets.insert(*id, *wallet);
        }
        for entry in self.entries {
            let is_same =
                |other: &Entry| other.payment_id == entry.payment_id && other.kind == entry.kind;
            if entry.payment_id.is_some() && tables.entries.iter().any(is_same) {
                return Err(Failure::Duplicate("entries_payment".into()));
            }
            tables.entries.push(entry);
        }
        for refused in self.refused {
            if tables.refusals.insert(refused.payment_id, refused.user_id).is_some() {
                return Err(Failure::Duplicate("refusals".into()));
            }
        }
        let dirty = self.attempts.dirty().into_iter();
        tables.attempts.extend(dirty.map(|(id, attempt)| (*id, *attempt)));
        Ok(())
    }
}
