//! The unit of work: the wallets and the part of the ledger that one batch touches.
//!
//! Every statement gets its keys as an array and looks up nothing else. So a query plan made
//! while the tables were empty is still good when they are large.
//!
//! Wallets are locked first, in the order of their owners. The ledger is read after that, so
//! that a batch that waited for a wallet sees what was written meanwhile. Each message of a
//! batch sees in memory what the messages before it have changed.

#[cfg(feature = "sim")]
pub(crate) mod in_memory;
mod names;
mod withdrawals;

use std::collections::HashMap;

use events::{
    AttemptId, EntryId, PaymentId, Timestamp, UserId, point::EntryKind, withdrawal::Standing,
};
use mesh::postgres::{Rows, column};
use sqlx::PgConnection;
use time::OffsetDateTime;
use tracing::warn;
use uuid::Uuid;

use crate::{
    Config,
    domain::{Entry, Trail, Wallet, WalletState, house},
};
use names::{kind_name, kind_named, state_name, state_named};
use withdrawals::Attempt;

/// What the messages of a batch need.
#[derive(Debug, Default)]
pub struct Keys {
    /// Owners of wallets.
    pub(crate) wallets: Vec<Uuid>,
    /// Payments whose trail is needed.
    pub(crate) payments: Vec<Uuid>,
    /// Owners of wallets whose withdrawal an event is about.
    pub(crate) leaving: Vec<Uuid>,
}

/// A payment that was refused in this batch.
#[derive(Debug)]
struct Refused {
    payment_id: PaymentId,
    user_id: UserId,
    at: Timestamp,
}

/// Points in a closed wallet. Its owner cannot spend them, so an operator must deal with them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Missed {
    /// The owner of the wallet.
    pub(crate) user_id: UserId,
    /// The refunded payment; `None` for points that were in the wallet when it closed.
    pub(crate) payment_id: Option<PaymentId>,
    /// How many points.
    pub(crate) amount: i64,
    /// Since when.
    pub(crate) at: Timestamp,
}

/// The wallets and the part of the ledger that one batch touches.
#[derive(Debug, Default)]
pub struct UnitOfWork {
    wallets: Rows<UserId, Wallet>,
    trails: HashMap<PaymentId, Trail>,
    entries: Vec<Entry>,
    refused: Vec<Refused>,
    attempts: Rows<AttemptId, Attempt>,
    stranded: Vec<Missed>,
}

impl UnitOfWork {
    /// A fan's wallet.
    pub(crate) fn wallet(&self, user_id: UserId) -> Option<&Wallet> {
        self.wallets.get(&user_id)
    }

    /// Adds a wallet unless there is one.
    pub(crate) fn open_wallet(&mut self, user_id: UserId, wallet: Wallet) {
        if !self.wallets.contains(&user_id) {
            self.wallets.add(user_id, wallet);
        }
    }

    /// What the ledger knows of a payment.
    pub(crate) fn trail(&self, id: PaymentId) -> Option<&Trail> {
        self.trails.get(&id)
    }

    /// Records that a payment was refused.
    pub(crate) fn refuse(&mut self, payment_id: PaymentId, user_id: UserId, at: Timestamp) {
        self.trails.insert(payment_id, Trail::Refused);
        self.refused.push(Refused { payment_id, user_id, at });
    }

    /// Enters a movement: the wallet, the trail and the ledger change together or not at all.
    pub(crate) fn enter(&mut self, entry: Entry) {
        let Some(wallet) = self.wallets.change(&entry.user_id) else { return };
        wallet.balance = entry.balance;
        if let Some(payment_id) = entry.payment_id {
            let trail = match entry.kind {
                EntryKind::Refund => Trail::Refunded,
                _ => Trail::Debited { user_id: entry.user_id, amount: -entry.amount },
            };
            self.trails.insert(payment_id, trail);
        }
        self.entries.push(entry);
    }

    /// The entries of this batch.
    #[cfg(test)]
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Where an attempt to close an account stands, if it is known.
    pub(crate) fn standing(&self, attempt: AttemptId) -> Option<Standing> {
        self.attempts.get(&attempt).map(|row| row.standing)
    }

    /// Keeps the standing of an attempt, and sets the wallet state that follows from it.
    pub(crate) fn keep_attempt(&mut self, id: AttemptId, user_id: UserId, standing: Standing) {
        self.attempts.put(id, Attempt { user_id, standing });
        let theirs = self.attempts.values().filter(|row| row.user_id == user_id);
        let state = WalletState::of(theirs.map(|row| row.standing));
        if let Some(wallet) = self.wallets.change(&user_id) {
            wallet.state = state;
        }
    }

    /// Records points in a closed wallet.
    pub(crate) fn strand(&mut self, stranded: Missed) {
        self.stranded.push(stranded);
    }

    /// The points that this batch recorded as stranded.
    #[cfg(test)]
    pub(crate) fn stranded(&self) -> &[Missed] {
        &self.stranded
    }

    /// Two batches that need the same wallet decide one after the other.
    async fn load_wallets(&mut self, ids: &[Uuid], tx: &mut PgConnection) -> sqlx::Result<()> {
        let rows: Vec<(Uuid, i64, String)> = sqlx::query_as(
            "select user_id, balance, state::text from wallets
             where user_id = any($1) order by user_id for update",
        )
        .bind(ids)
        .fetch_all(tx)
        .await?;
        for (user_id, balance, state) in rows {
            let wallet = Wallet { balance, state: state_named(&state)? };
            self.wallets.load(UserId(user_id), wallet);
        }
        Ok(())
    }

    /// The movements of each payment, or its refusal; the last row of a payment counts.
    async fn load_trails(&mut self, ids: &[Uuid], tx: &mut PgConnection) -> sqlx::Result<()> {
        let rows: Vec<(Uuid, Uuid, i64, String)> = sqlx::query_as(
            "select payment_id, user_id, amount, kind::text from entries
             where payment_id = any($1)
             union all
             select payment_id, user_id, 0, 'refusal' from refusals
             where payment_id = any($1)
             order by kind",
        )
        .bind(ids)
        .fetch_all(tx)
        .await?;
        for (payment_id, user_id, amount, kind) in rows {
            let trail = match kind.as_str() {
                "debit" => Trail::Debited { user_id: UserId(user_id), amount: -amount },
                "refund" => Trail::Refunded,
                _ => Trail::Refused,
            };
            self.trails.insert(PaymentId(payment_id), trail);
        }
        Ok(())
    }

    /// When two batches open the same wallet at once, the second one fails here. Its retry
    /// finds the wallet of the first.
    async fn insert_wallets(&self, tx: &mut PgConnection) -> sqlx::Result<()> {
        let new = self.wallets.added();
        if new.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "insert into wallets (user_id, balance, state)
             select u, b, s::wallet_state
             from unnest($1::uuid[], $2::int8[], $3::text[]) as new (u, b, s)",
        )
        .bind(column(&new, |(id, _)| id.0))
        .bind(column(&new, |(_, wallet)| wallet.balance))
        .bind(column(&new, |(_, wallet)| state_name(wallet.state)))
        .execute(tx)
        .await?;
        Ok(())
    }

    async fn update_wallets(&self, tx: &mut PgConnection) -> sqlx::Result<()> {
        let changed = self.wallets.changed();
        if changed.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "update wallets w set balance = c.balance, state = c.state::wallet_state
             from unnest($1::uuid[], $2::int8[], $3::text[]) as c (user_id, balance, state)
             where w.user_id = c.user_id and w.user_id = any($1)",
        )
        .bind(column(&changed, |(id, _)| id.0))
        .bind(column(&changed, |(_, wallet)| wallet.balance))
        .bind(column(&changed, |(_, wallet)| state_name(wallet.state)))
        .execute(tx)
        .await?;
        Ok(())
    }

    async fn insert_entries(&self, tx: &mut PgConnection) -> sqlx::Result<()> {
        if self.entries.is_empty() {
            return Ok(());
        }
        let entries = &self.entries;
        sqlx::query(
            "insert into entries (user_id, id, payment_id, amount, balance, at, kind, house)
             select u, i, p, a, b, t, k::entry_kind, h::house_account
             from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::int8[], $5::int8[],
                         $6::timestamptz[], $7::text[], $8::text[])
                  as moved (u, i, p, a, b, t, k, h)",
        )
        .bind(column(entries, |e| e.user_id.0))
        .bind(column(entries, |e| e.id.0))
        .bind(column(entries, |e| e.payment_id.map(|id| id.0)))
        .bind(column(entries, |e| e.amount))
        .bind(column(entries, |e| e.balance))
        .bind(column(entries, |e| e.at.0))
        .bind(column(entries, |e| kind_name(e.kind)))
        .bind(column(entries, |e| house(e.kind)))
        .execute(tx)
        .await?;
        Ok(())
    }

    async fn insert_refusals(&self, tx: &mut PgConnection) -> sqlx::Result<()> {
        if self.refused.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "insert into refusals (payment_id, user_id, at)
             select * from unnest($1::uuid[], $2::uuid[], $3::timestamptz[])",
        )
        .bind(column(&self.refused, |r| r.payment_id.0))
        .bind(column(&self.refused, |r| r.user_id.0))
        .bind(column(&self.refused, |r| r.at.0))
        .execute(tx)
        .await?;
        Ok(())
    }
    async fn insert_stranded(&self, tx: &mut PgConnection) -> sqlx::Result<()> {
        let stranded = &self.stranded;
        if stranded.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "insert into stranded (user_id, payment_id, amount, at)
             select * from unnest($1::uuid[], $2::uuid[], $3::int8[], $4::timestamptz[])",
        )
        .bind(column(stranded, |row| row.user_id.0))
        .bind(column(stranded, |row| row.payment_id.map(|id| id.0)))
        .bind(column(stranded, |row| row.amount))
        .bind(column(stranded, |row| row.at.0))
        .execute(tx)
        .await?;
        for Missed { user_id, payment_id, amount, .. } in stranded {
            let payment_id = payment_id.map(|id| id.to_string());
            warn!(%user_id, ?payment_id, amount, "points are left in the wallet of a closed account");
        }
        Ok(())
    }
}

impl mesh::UnitOfWork for UnitOfWork {
    type Keys = Keys;
    type Config = Config;
    const KEY: &'static str = "user_id";

    async fn load(keys: Keys, tx: &mut PgConnection) -> sqlx::Result<Self> {
        let mut unit = Self::default();
        if !keys.wallets.is_empty() {
            unit.load_wallets(&keys.wallets, tx).await?;
        }
        if !keys.payments.is_empty() {
            unit.load_trails(&keys.payments, tx).await?;
        }
        if !keys.leaving.is_empty() {
            unit.attempts = withdrawals::load(&keys.leaving, tx).await?;
        }
        Ok(unit)
    }

    async fn save(self, tx: &mut PgConnection) -> sqlx::Result<()> {
        self.insert_wallets(tx).await?;
        self.update_wallets(tx).await?;
        self.insert_entries(tx).await?;
        self.insert_refusals(tx).await?;
        withdrawals::save(&self.attempts, tx).await?;
        self.insert_stranded(tx).await
    }
}

/// The columns of an entry: id, kind, amount, balance, payment, at.
pub(crate) type EntryColumns = (Uuid, String, i64, i64, Option<Uuid>, OffsetDateTime);

/// Reads a stored entry of `user_id`.
pub(crate) fn entry(user_id: UserId, row: EntryColumns) -> sqlx::Result<Entry> {
    let (id, kind, amount, balance, payment_id, at) = row;
    let kind = kind_named(&kind)?;
    let (id, payment_id) = (EntryId(id), payment_id.map(PaymentId));
    Ok(Entry { user_id, id, kind, amount, balance, payment_id, at: Timestamp(at) })
}
