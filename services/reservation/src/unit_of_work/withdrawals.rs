//! What is known of withdrawals: attempts, and what they mean for a fan's reservations.
//!
//! A hold and the clearance of a withdrawal must not pass each other unseen. Both take the
//! fan's gate, an advisory lock: holds share it, so they never wait for each other; whoever
//! decides on a withdrawal has it alone. What is behind the gate is read by a later statement.

use std::collections::{BTreeMap, BTreeSet};

use events::{AttemptId, ScheduleId, UserId, withdrawal::Standing};
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Keys, UnitOfWork, column, load::ScheduleRow, page::Row, unreadable};
use crate::domain::Schedule;

/// The class of the advisory locks; nothing else of this database uses it.
pub(super) const GATES: i32 = 1;

/// Attempts of fans who leave.
pub(super) type Attempts = BTreeMap<AttemptId, Attempt>;

/// An attempt to close an account.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) user_id: UserId,
    pub(super) standing: Standing,
    pub(super) is_news: bool,
}

/// The gates of these fans; few, so that a large batch does not fill the table of locks.
pub(super) fn gates(users: impl Iterator<Item = UserId>) -> BTreeSet<i32> {
    users.map(|user| i32::from(user.0.as_bytes()[15])).collect()
}

/// Takes the gates of whoever leaves, and of whoever buys in the same batch, in their order.
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
    /// An attempt, as far as it is known.
    pub(crate) fn standing(&self, attempt: AttemptId) -> Option<Standing> {
        self.attempts.get(&attempt).map(|row| row.standing)
    }

    /// Whether nothing new may begin for this fan.
    pub(crate) fn is_closing(&self, user_id: UserId) -> bool {
        self.attempts.values().any(|row| row.user_id == user_id && row.standing.closes())
    }

    /// A schedule, as far as it is on this page.
    pub(crate) fn show(&self, schedule_id: ScheduleId) -> Option<&Schedule> {
        self.schedules.get(&schedule_id).map(|row| &**row)
    }

    /// Keeps where an attempt stands, and notes at the fan's reservations what follows: a
    /// payment looks at nothing else.
    pub(crate) fn keep_attempt(&mut self, id: AttemptId, user_id: UserId, standing: Standing) {
        self.attempts.insert(id, Attempt { user_id, standing, is_news: true });
        let is_closing = self.is_closing(user_id);
        for row in self.reservations.values_mut() {
            if row.user_id == user_id && row.owns() && row.closing != is_closing {
                row.change().closing = is_closing;
            }
        }
    }

    /// Notes, for those who buy, that an attempt closes an account.
    pub(super) fn note_closing(&mut self, id: AttemptId, user_id: UserId) {
        let closing = Attempt { user_id, standing: Standing::Cleared, is_news: false };
        self.attempts.entry(id).or_insert(closing);
    }

    /// Loads the attempts of whoever leaves.
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
            let row = Attempt { user_id: UserId(user_id), standing, is_news: false };
            self.attempts.insert(AttemptId(attempt), row);
        }
        Ok(())
    }

    /// Loads the shows of reservations whose fans leave, or give them back. These are not
    /// locked: one that is called off right now gives its money back in any case.
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

    /// Whoever writes attempts of a fan has the fan's gate alone.
    pub(super) async fn save_attempts(&self, tx: &mut PgConnection) -> sqlx::Result<()> {
        let news: Vec<_> = self.attempts.iter().filter(|(_, row)| row.is_news).collect();
        if news.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "insert into withdrawals (attempt, user_id, standing)
             select * from unnest($1::uuid[], $2::uuid[], $3::text[])
             on conflict (attempt) do update set standing = excluded.standing",
        )
        .bind(column(&news, |(id, _)| id.0))
        .bind(column(&news, |(_, row)| row.user_id.0))
        .bind(column(&news, |(_, row)| row.standing.as_str()))
        .execute(tx)
        .await?;
        Ok(())
    }
}
