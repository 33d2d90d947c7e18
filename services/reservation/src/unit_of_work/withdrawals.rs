//! Withdrawals: attempts to close an account, and what they mean for a fan's reservations.
//!
//! A new hold and the clearance of a withdrawal must not miss each other. Both take the fan's
//! gate, an advisory lock. Holds take it shared, so they never wait for each other; a decision
//! on a withdrawal takes it exclusively. What the gate protects is read by a later statement.

use std::collections::{BTreeMap, BTreeSet};

use events::{AttemptId, ScheduleId, UserId, withdrawal::Standing};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Keys, UnitOfWork, column, load::ScheduleRow, rows::Row, unreadable};
use crate::domain::Schedule;

/// The class of the advisory locks; nothing else in this database uses it.
pub(super) const GATES: i32 = 1;

/// Attempts by their ids.
pub(super) type Attempts = BTreeMap<AttemptId, Attempt>;

/// An attempt to close an account.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) user_id: UserId,
    pub(super) standing: Standing,
    pub(super) is_dirty: bool,
}

/// The gates of these fans. There are few gates, so that a large batch does not fill the lock
/// table.
pub(super) fn gates(users: impl Iterator<Item = UserId>) -> BTreeSet<i32> {
    users.map(|user| i32::from(user.0.as_bytes()[15])).collect()
}

/// Takes the gates of the fans who leave and of the fans who buy in the same batch, in the
/// order of the gates.
pub(super) async fn close_gates(keys: &Keys, tx: &mut PgConnection) -> sqlx::Result<()> {
    let buyers = gates(keys.buyers.iter().map(|key| key.1));
    let mut wanted: BTreeMap<i32, bool> = buyers.into_iter().map(|gate| (gate, false)).collect();
    wanted.extend(gates(keys.leaving.iter().copied()).into_iter().map(|gate| (gate, true)));
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
        self.attempts.get(&attempt).map(|row| row.standing)
    }

    /// Whether nothing new may begin for this fan.
    pub(crate) fn is_closing(&self, user_id: UserId) -> bool {
        self.attempts.values().any(|row| row.user_id == user_id && row.standing.closes())
    }

    /// A schedule, if it is loaded.
    pub(crate) fn show(&self, schedule_id: ScheduleId) -> Option<&Schedule> {
        self.schedules.get(&schedule_id).map(|row| &**row)
    }

    /// Keeps the standing of an attempt, and marks the fan's reservations accordingly: a debit
    /// checks nothing but its reservation.
    pub(crate) fn keep_attempt(&mut self, id: AttemptId, user_id: UserId, standing: Standing) {
        self.attempts.insert(id, Attempt { user_id, standing, is_dirty: true });
        let is_closing = self.is_closing(user_id);
        for row in self.reservations.values_mut() {
            if row.user_id == user_id && row.owns() && row.closing != is_closing {
                row.change().closing = is_closing;
            }
        }
    }

    /// Records that the account of a buyer is being closed.
    pub(super) fn note_closing(&mut self, id: AttemptId, user_id: UserId) {
        let closing = Attempt { user_id, standing: Standing::Cleared, is_dirty: false };
        self.attempts.entry(id).or_insert(closing);
    }

    /// Loads the attempts of the fans who leave.
    pub(super) async fn load_leaving(
        &mut self,
        keys: &Keys,
        tx: &mut PgConnection,
    ) -> sqlx::Result<()> {
        let users: Vec<Uuid> = keys.leaving.iter().map(|id| id.0).collect();
        let rows: Vec<(Uuid, Uuid, String)> = sqlx::query_as(
            "select attempt, user_id, standing from withdrawals where user_id = any($1)",
        )
        .bind(users)
        .fetch_all(&mut *tx)
        .await?;
        for (attempt, user_id, name) in rows {
            let standing = Standing::named(&name).ok_or_else(|| unreadable(&name))?;
            let row = Attempt { user_id: UserId(user_id), standing, is_dirty: false };
            self.attempts.insert(AttemptId(attempt), row);
        }
        Ok(())
    }

    /// Loads the schedules of reservations whose fans leave or give them back. These are not
    /// locked: a show that is being called off right now is refunded in any case.
    pub(super) async fn load_shows(
        &mut self,
        keys: &Keys,
        tx: &mut PgConnection,
    ) -> sqlx::Result<()> {
        let wanted = |row: &&Row<crate::domain::Reservation>| {
            keys.leaving.contains(&row.user_id) || keys.returning.contains(&row.id)
        };
        let of = self.reservations.values().filter(wanted).map(|row| row.schedule_id);
        let shows: BTreeSet<_> = of.filter(|show| !self.schedules.contains_key(show)).collect();
        if shows.is_empty() {
            return Ok(());
        }
        let rows: Vec<ScheduleRow> = sqlx::query_as(
            "select id, state, opens_at, starts_at, refund_until, hold_secs, seats_per_fan_max
             from schedules where id = any($1)",
        )
        .bind(shows.iter().map(|id| id.0).collect::<Vec<_>>())
        .fetch_all(tx)
        .await?;
        for row in rows {
            self.schedules.insert(ScheduleId(row.id), Row::stored(row.schedule()?));
        }
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
        .bind(column(&dirty, |(id, _)| id.0))
        .bind(column(&dirty, |(_, row)| row.user_id.0))
        .bind(column(&dirty, |(_, row)| row.standing.as_str()))
        .execute(tx)
        .await?;
        Ok(())
    }
}
