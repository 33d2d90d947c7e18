//! Withdrawals: attempts to close an account, and what blocks them.
//!
//! A new payment and the clearance of a withdrawal must not miss each other. Both take the
//! fan's gate, an advisory lock. Payments take it shared, so they never wait for each other;
//! a decision on a withdrawal takes it exclusively. What the gate protects is read by a later
//! statement.

use std::collections::{BTreeMap, BTreeSet};

use events::{AttemptId, PaymentId, UserId, withdrawal::Standing};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Row, UnitOfWork};
use crate::{
    domain::{self, Payment},
    rows::PaymentColumns,
};

/// The class of the advisory locks; nothing else in this database uses it.
pub(super) const GATES: i32 = 1;

/// An attempt to close an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attempt {
    /// The fan.
    pub(crate) user_id: UserId,
    /// Where the attempt stands in this service.
    pub(crate) standing: Standing,
}

/// Payments whose seats had been given back when the unit of work was loaded.
pub(super) type GivenBack = BTreeSet<PaymentId>;

/// The gates of these fans. There are few gates, so that a large batch does not fill the lock
/// table.
pub(super) fn gates(users: &[Uuid]) -> BTreeSet<i32> {
    users.iter().map(|user| i32::from(user.as_bytes()[15])).collect()
}

/// Takes the gates of the fans who leave and of the fans who pay in the same batch, in the
/// order of the gates.
pub(super) async fn close_gates(
    leaving: &[Uuid],
    payers: &[Uuid],
    tx: &mut PgConnection,
) -> sqlx::Result<()> {
    let mut wanted: BTreeMap<i32, bool> =
        gates(payers).into_iter().map(|gate| (gate, false)).collect();
    wanted.extend(gates(leaving).into_iter().map(|gate| (gate, true)));
    sqlx::query(
        "select case when alone then pg_advisory_xact_lock($1, gate)
                     else pg_advisory_xact_lock_shared($1, gate) end
         from unnest($2::int4[], $3::bool[]) as wanted (gate, alone)",
    )
    .bind(GATES)
    .bind(wanted.keys().copied().collect::<Vec<_>>())
    .bind(wanted.values().copied().collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}

impl UnitOfWork {
    /// Where an attempt stands, if it is known.
    pub(crate) fn standing(&self, attempt: AttemptId) -> Option<Standing> {
        self.attempts.get(&attempt).map(|row| row.now.standing)
    }

    /// Keeps where an attempt stands.
    pub(crate) fn keep_attempt(&mut self, id: AttemptId, user_id: UserId, standing: Standing) {
        let now = Attempt { user_id, standing };
        self.attempts.insert(id, Row { now, is_dirty: true });
    }

    /// Whether nothing new may begin for this fan.
    pub(crate) fn is_closing(&self, user_id: UserId) -> bool {
        self.attempts.values().any(|row| row.now.user_id == user_id && row.now.standing.closes())
    }

    /// What blocks a fan's withdrawal.
    pub(crate) fn at_stake(&self, user_id: UserId) -> Option<events::withdrawal::WithdrawalReason> {
        let theirs = self.payments.values().map(|row| &row.now).filter(|p| p.user_id == user_id);
        domain::at_stake(theirs.map(|payment| {
            let hold = self.holds.get(&payment.reservation_id);
            let is_over = hold.is_some_and(|row| row.now.ended);
            (payment.standing, is_over || self.given_back.contains(&payment.id))
        }))
    }

    /// Loads the attempts of the fans who leave, and their live payments. The payments are not
    /// locked: those that the batch changes are loaded again, with a lock.
    pub(super) async fn load_leaving(
        &mut self,
        users: &[Uuid],
        tx: &mut PgConnection,
    ) -> sqlx::Result<()> {
        let rows: Vec<(Uuid, Uuid, String)> = sqlx::query_as(
            "select attempt, user_id, standing from withdrawals where user_id = any($1)",
        )
        .bind(users)
        .fetch_all(&mut *tx)
        .await?;
        for (attempt, user_id, standing) in rows {
            self.keep_loaded(AttemptId(attempt), UserId(user_id), &standing)?;
        }
        let rows: Vec<PaymentColumns> = sqlx::query_as(
            "select id, reservation_id, schedule_id, user_id, amount, seats, hold_version,
                    state::text, reason::text, requested_at, ended_at
             from payments where user_id = any($1) and live",
        )
        .bind(users)
        .fetch_all(&mut *tx)
        .await?;
        let mut reservations = Vec::new();
        for row in rows {
            let payment = Payment::try_from(row)?;
            reservations.push(payment.reservation_id.0);
            let standing = payment.standing;
            self.keep_payment(payment, Some(standing));
        }
        let over: Vec<Uuid> = sqlx::query_scalar(
            "select p.id from payments p join holds h using (reservation_id)
             where p.user_id = any($1) and p.live and h.ended and h.reservation_id = any($2)",
        )
        .bind(users)
        .bind(reservations)
        .fetch_all(tx)
        .await?;
        self.given_back.extend(over.into_iter().map(PaymentId));
        Ok(())
    }

    pub(super) fn keep_loaded(
        &mut self,
        attempt: AttemptId,
        user_id: UserId,
        standing: &str,
    ) -> sqlx::Result<()> {
        let standing = Standing::named(standing).ok_or_else(|| {
            sqlx::Error::Decode(format!("unknown withdrawal standing `{standing}`").into())
        })?;
        self.attempts.insert(attempt, Row { now: Attempt { user_id, standing }, is_dirty: false });
        Ok(())
    }

    /// A batch that writes attempts of a fan holds the fan's gate exclusively.
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
        .bind(dirty.iter().map(|(_, row)| row.now.user_id.0).collect::<Vec<_>>())
        .bind(dirty.iter().map(|(_, row)| row.now.standing.as_str()).collect::<Vec<_>>())
        .execute(tx)
        .await?;
        Ok(())
    }
}
