//! The tables of this service in memory, for the simulation: accounts, and attempts to close
//! them. The simulation has no log-ins.

use std::collections::BTreeMap;

use events::{AttemptId, Timestamp, UserId, user::WithdrawalState};
use mesh::{engine::Failure, memory::InMemory};

use super::{Keys, UnitOfWork};
use crate::{domain::Account, inside::RefuseWithdrawal, withdrawal::Withdrawal};

/// The tables.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    /// Accounts.
    pub accounts: BTreeMap<UserId, Account>,
    /// Attempts to close them.
    pub withdrawals: BTreeMap<AttemptId, Withdrawal>,
}

impl Tables {
    /// The attempts that were not answered in time, as the timer finds them.
    pub fn unanswered(&self, secs: i64, now: Timestamp) -> Vec<RefuseWithdrawal> {
        let is_due = |row: &&Withdrawal| !row.is_over() && row.requested_at.plus_secs(secs) <= now;
        let due = self.withdrawals.values().filter(is_due);
        due.map(|row| RefuseWithdrawal { user_id: row.user_id, attempt: row.attempt }).collect()
    }
}

impl InMemory for UnitOfWork {
    type Tables = Tables;

    fn load_from(keys: Keys, tables: &Tables) -> Self {
        let accounts = tables.accounts.values().filter(|account| {
            keys.users.contains(&account.user_id)
                || account.email().is_some_and(|email| keys.emails.contains(email))
        });
        let withdrawals = tables.withdrawals.values().filter(|row| {
            keys.attempts.contains(&row.attempt)
                || (keys.leaving.contains(&row.user_id) && row.state != WithdrawalState::Refused)
        });
        Self {
            accounts: accounts.map(|row| (row.user_id, row.clone())).collect(),
            withdrawals: withdrawals.map(|row| (row.attempt, row.clone())).collect(),
            ..Self::default()
        }
    }

    fn save_to(self, tables: &mut Tables) -> Result<(), Failure> {
        for (id, account) in self.accounts.dirty() {
            tables.accounts.insert(*id, account.clone());
        }
        for (id, row) in self.withdrawals.dirty() {
            tables.withdrawals.insert(*id, row.clone());
            let stands = |other: &&Withdrawal| {
                other.user_id == row.user_id && other.state != WithdrawalState::Refused
            };
            if tables.withdrawals.values().filter(stands).count() > 1 {
                return Err(Failure::Duplicate("withdrawals_standing".into()));
            }
        }
        Ok(())
    }
}
