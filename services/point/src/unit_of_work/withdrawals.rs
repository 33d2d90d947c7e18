//! Withdrawals: attempts to close an account, the wallet states that follow from them, and
//! points stranded in closed wallets.
//!
//! Reading or writing an attempt requires the lock on its owner's wallet.

use std::collections::BTreeMap;

use events::{AttemptId, UserId, withdrawal::Standing};
use sqlx::PgConnection;
use tracing::warn;
use uuid::Uuid;

use super::{Missed, UnitOfWork};
use crate::domain::WalletState;

/// Attempts by their ids.
pub(super) type Attempts = BTreeMap<AttemptId, Attempt>;

/// An attempt to close an account.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) user_id: UserId,
    pub(super) standing: Standing,
    pub(super) is_dirty: bool,
}

impl UnitOfWork {
    /// Where an attempt stands, if it is known.
    pub(crate) fn standing(&self, attempt: AttemptId) -> Option<Standing> {
        self.attempts.get(&attempt).map(|row| row.standing)
    }

    /// Keeps the standing of an attempt, and sets the wallet state that follows from it.
    pub(crate) fn keep_attempt(&mut self, id: AttemptId, user_id: UserId, standing: Standing) {
        self.attempts.insert(id, Attempt { user_id, standing, is_dirty: true });
        let theirs = self.attempts.values().filter(|row| row.user_id == user_id);
        let state = WalletState::of(theirs.map(|row| row.standing));
        if let Some(row) = self.wallets.get_mut(&user_id) {
            row.now.state = state;
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

    pub(super) async fn load_attempts(
        &mut self,
        users: &[Uuid],
        tx: &mut PgConnection,
    ) -> sqlx::Result<()> {
        let rows: Vec<(Uuid, Uuid, String)> = sqlx::query_as(
            "select attempt, user_id, standing from withdrawals where user_id = any($1)",
        )
        .bind(users)
        .fetch_all(tx)
        .await?;
        for (attempt, user_id, name) in rows {
            let standing = Standing::named(&name).ok_or_else(|| unknown("standing", &name))?;
            let attempt_row = Attempt { user_id: UserId(user_id), standing, is_dirty: false };
            self.attempts.insert(AttemptId(attempt), attempt_row);
        }
        Ok(())
    }

    pub(super) async fn save_attempts(&self, tx: &mut PgConnection) -> sqlx::Result<()> {
        let dirty: Vec<_> = self.attempts.iter().filter(|(_, row)| row.is_dirty).collect();
        if dirty.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "insert into withdrawals (attempt, user_id, standing)
             select * from unnest($1::uuid[], $2::uuid[], $3::text[])
             on conflict (attempt) do update set standing = excluded.standing",
        )
        .bind(dirty.iter().map(|(id, _)| id.0).collect::<Vec<_>>())
        .bind(dirty.iter().map(|(_, row)| row.user_id.0).collect::<Vec<_>>())
        .bind(dirty.iter().map(|(_, row)| row.standing.as_str()).collect::<Vec<_>>())
        .execute(tx)
        .await?;
        Ok(())
    }

    pub(super) async fn insert_stranded(&self, tx: &mut PgConnection) -> sqlx::Result<()> {
        let stranded = &self.stranded;
        if stranded.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "insert into stranded (user_id, payment_id, amount, at)
             select * from unnest($1::uuid[], $2::uuid[], $3::int8[], $4::timestamptz[])",
        )
        .bind(stranded.iter().map(|row| row.user_id.0).collect::<Vec<_>>())
        .bind(stranded.iter().map(|row| row.payment_id.map(|id| id.0)).collect::<Vec<_>>())
        .bind(stranded.iter().map(|row| row.amount).collect::<Vec<_>>())
        .bind(stranded.iter().map(|row| row.at.0).collect::<Vec<_>>())
        .execute(tx)
        .await?;
        for Missed { user_id, payment_id, amount, .. } in stranded {
            let payment_id = payment_id.map(|id| id.to_string());
            warn!(%user_id, ?payment_id, amount, "points are left in the wallet of a closed account");
        }
        Ok(())
    }
}

pub(super) fn state_name(state: WalletState) -> &'static str {
    match state {
        WalletState::Open => "open",
        WalletState::Closing => "closing",
        WalletState::Closed => "closed",
    }
}

pub(super) fn state_named(name: &str) -> sqlx::Result<WalletState> {
    match name {
        "open" => Ok(WalletState::Open),
        "closing" => Ok(WalletState::Closing),
        "closed" => Ok(WalletState::Closed),
        _ => Err(unknown("wallet state", name)),
    }
}

fn unknown(what: &str, name: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("unknown {what} `{name}`").into())
}
