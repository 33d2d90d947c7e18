//! The unit of work: the holds and payments that one batch touches.
//!
//! Every statement gets its keys as an array and looks up nothing else. So a query plan made
//! while the tables were empty is still good when they are large.
//!
//! Locks are taken in this order: gates (see `withdrawals`), holds, payments, and within each
//! by key. A [`Pay`] locks its hold, so that two payments of the same reservation are decided
//! one after the other.
//!
//! [`Pay`]: events::payment::Pay

#[cfg(feature = "sim")]
pub(crate) mod in_memory;
mod withdrawals;

use std::collections::{BTreeMap, HashMap};

use events::{
    AttemptId, PaymentId, ReservationId, ScheduleId, Timestamp, UserId, withdrawal::Standing,
};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    Config,
    domain::{Hold, Payment, Standing as PaymentStanding},
    rows::{PaymentColumns, reason_name, seats_from, state_name},
};
use withdrawals::{Attempt, GATES, GivenBack, gates};

/// What the messages of a batch need.
#[derive(Debug, Default)]
pub struct Keys {
    /// Holds that an event is about or a fan wants to pay.
    pub(crate) holds: Vec<Uuid>,
    /// Reservations whose running or completed payment is needed.
    pub(crate) live: Vec<Uuid>,
    /// Payments that an event is about.
    pub(crate) payments: Vec<Uuid>,
    /// Fans who want to pay.
    pub(crate) payers: Vec<Uuid>,
    /// Fans whose withdrawal an event is about.
    pub(crate) leaving: Vec<Uuid>,
}

/// A row, and whether it must be written.
#[derive(Debug)]
struct Row<T> {
    now: T,
    is_dirty: bool,
}

/// A payment, and its standing in the database.
#[derive(Debug)]
struct PaymentRow {
    now: Payment,
    stored: Option<PaymentStanding>,
}

/// The holds and payments that one batch touches.
#[derive(Debug, Default)]
pub struct UnitOfWork {
    holds: BTreeMap<ReservationId, Row<Hold>>,
    payments: BTreeMap<PaymentId, PaymentRow>,
    of_reservation: HashMap<ReservationId, PaymentId>,
    attempts: BTreeMap<AttemptId, Row<Attempt>>,
    given_back: GivenBack,
}

impl UnitOfWork {
    /// A hold, if it is known.
    pub(crate) fn hold(&self, id: ReservationId) -> Option<&Hold> {
        self.holds.get(&id).map(|row| &row.now)
    }

    /// Applies what an event says about a hold.
    pub(crate) fn apply_hold(&mut self, id: ReservationId, update: Hold) {
        match self.holds.get_mut(&id) {
            Some(row) => row.is_dirty |= row.now.apply(&update),
            None => drop(self.holds.insert(id, Row { now: update, is_dirty: true })),
        }
    }

    /// Ends a hold; an unknown hold stays unknown.
    pub(crate) fn end_hold(&mut self, id: ReservationId) {
        if let Some(row) = self.holds.get_mut(&id) {
            row.is_dirty |= row.now.end();
        }
    }

    /// The running or completed payment of a reservation.
    pub(crate) fn live(&self, id: ReservationId) -> Option<&Payment> {
        let payment = &self.payments.get(self.of_reservation.get(&id)?)?.now;
        payment.standing.is_live().then_some(payment)
    }

    /// A payment.
    pub(crate) fn payment_mut(&mut self, id: PaymentId) -> Option<&mut Payment> {
        self.payments.get_mut(&id).map(|row| &mut row.now)
    }

    /// Adds a new payment.
    pub(crate) fn add_payment(&mut self, payment: Payment) {
        self.keep_payment(payment, None);
    }

    fn keep_payment(&mut self, payment: Payment, stored: Option<PaymentStanding>) {
        if payment.standing.is_live() {
            self.of_reservation.insert(payment.reservation_id, payment.id);
        }
        self.payments.insert(payment.id, PaymentRow { now: payment, stored });
    }

    /// Loads holds, and takes the gates of the payers.
    async fn load_holds(
        &mut self,
        ids: &[Uuid],
        payers: &[Uuid],
        tx: &mut PgConnection,
    ) -> sqlx::Result<()> {
        type Found = (Uuid, Uuid, Uuid, i64, i32, i64, OffsetDateTime, bool, bool);
        let rows: Vec<Found> = sqlx::query_as(
            "select reservation_id, schedule_id, user_id, amount, seats, hold_version,
                    expires_at, ended, is_off
             from holds
             where reservation_id = any($1)
                 and (select count(pg_advisory_xact_lock_shared($2, gate))
                      from unnest($3::int4[]) as gate) >= 0
             order by reservation_id
             for update",
        )
        .bind(ids)
        .bind(GATES)
        .bind(gates(payers).into_iter().collect::<Vec<_>>())
        .fetch_all(tx)
        .await?;
        for row in rows {
            let (id, schedule_id, user_id, amount, seats, hold_version, ..) = row;
            let (.., expires_at, ended, is_off) = row;
            let now = Hold {
                schedule_id: ScheduleId(schedule_id),
                user_id: UserId(user_id),
                amount,
                seats: seats_from(seats)?,
                hold_version,
                expires_at: Timestamp(expires_at),
                ended,
                is_off,
            };
            self.holds.insert(ReservationId(id), Row { now, is_dirty: false });
        }
        Ok(())
    }

    /// Loads payments by their ids, and the live payments of reservations. The same statement
    /// loads the payers whose accounts are being closed: there are hardly any.
    async fn load_payments(
        &mut self,
        ids: &[Uuid],
        live: &[Uuid],
        payers: &[Uuid],
        tx: &mut PgConnection,
    ) -> sqlx::Result<()> {
        let rows: Vec<PaymentColumns> = sqlx::query_as(
            "with found as (
                 select id, reservation_id, schedule_id, user_id, amount, seats, hold_version,
                        state::text as state, reason::text as reason, requested_at, ended_at
                 from payments
                 where id = any($1) or (live and reservation_id = any($2))
                 order by id
                 for update)
             select * from found
             union all
             select attempt, attempt, attempt, user_id, 0, 0, 0, standing, null, 'epoch', null
             from withdrawals where user_id = any($3) and standing in ('cleared', 'withdrawn')",
        )
        .bind(ids)
        .bind(live)
        .bind(payers)
        .fetch_all(tx)
        .await?;
        for row in rows {
            if Standing::named(&row.7).is_some() {
                self.keep_loaded(AttemptId(row.0), UserId(row.3), &row.7)?;
                continue;
            }
            let payment = Payment::try_from(row)?;
            let standing = payment.standing;
            self.keep_payment(payment, Some(standing));
        }
        Ok(())
    }

    /// Two batches may insert the same hold at once: the end wins here too.
    async fn save_holds(&self, tx: &mut PgConnection) -> sqlx::Result<()> {
        let dirty: Vec<_> = self.holds.iter().filter(|(_, row)| row.is_dirty).collect();
        if dirty.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "insert into holds
                 (reservation_id, schedule_id, user_id, amount, seats, hold_version, expires_at,
                  ended, is_off)
             select * from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::int8[], $5::int4[],
                                  $6::int8[], $7::timestamptz[], $8::bool[], $9::bool[])
             on conflict (reservation_id) do update
                 set ended = true, is_off = excluded.is_off
             where excluded.ended and not holds.ended",
        )
        .bind(dirty.iter().map(|(id, _)| id.0).collect::<Vec<_>>())
        .bind(dirty.iter().map(|(_, row)| row.now.schedule_id.0).collect::<Vec<_>>())
        .bind(dirty.iter().map(|(_, row)| row.now.user_id.0).collect::<Vec<_>>())
        .bind(dirty.iter().map(|(_, row)| row.now.amount).collect::<Vec<_>>())
        .bind(dirty.iter().map(|(_, row)| row.now.seats as i32).collect::<Vec<_>>())
        .bind(dirty.iter().map(|(_, row)| row.now.hold_version).collect::<Vec<_>>())
        .bind(dirty.iter().map(|(_, row)| row.now.expires_at.0).collect::<Vec<_>>())
        .bind(dirty.iter().map(|(_, row)| row.now.ended).collect::<Vec<_>>())
        .bind(dirty.iter().map(|(_, row)| row.now.is_off).collect::<Vec<_>>())
        .execute(tx)
        .await?;
        Ok(())
    }

    /// Payments begin as REQUESTED.
    async fn insert_payments(&self, tx: &mut PgConnection) -> sqlx::Result<()> {
        let new: Vec<&Payment> =
            self.payments.values().filter(|row| row.stored.is_none()).map(|row| &row.now).collect();
        if new.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "insert into payments
                 (id, reservation_id, schedule_id, user_id, amount, seats, hold_version,
                  requested_at)
             select * from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::int8[],
                                  $6::int4[], $7::int8[], $8::timestamptz[])",
        )
        .bind(new.iter().map(|p| p.id.0).collect::<Vec<_>>())
        .bind(new.iter().map(|p| p.reservation_id.0).collect::<Vec<_>>())
        .bind(new.iter().map(|p| p.schedule_id.0).collect::<Vec<_>>())
        .bind(new.iter().map(|p| p.user_id.0).collect::<Vec<_>>())
        .bind(new.iter().map(|p| p.amount).collect::<Vec<_>>())
        .bind(new.iter().map(|p| p.seats as i32).collect::<Vec<_>>())
        .bind(new.iter().map(|p| p.hold_version).collect::<Vec<_>>())
        .bind(new.iter().map(|p| p.requested_at.0).collect::<Vec<_>>())
        .execute(tx)
        .await?;
        Ok(())
    }

    async fn update_payments(&self, tx: &mut PgConnection) -> sqlx::Result<()> {
        let moved: Vec<&Payment> = self
            .payments
            .values()
            .filter(|row| row.now.standing != row.stored.unwrap_or(PaymentStanding::Requested))
            .map(|row| &row.now)
            .collect();
        if moved.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "update payments p
             set state = m.state::payment_state, reason = m.reason::payment_failure,
                 ended_at = m.ended_at
             from unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[])
                  as m (id, state, reason, ended_at)
             where p.id = m.id and p.id = any($1)",
        )
        .bind(moved.iter().map(|p| p.id.0).collect::<Vec<_>>())
        .bind(moved.iter().map(|p| state_name(p.standing.state())).collect::<Vec<_>>())
        .bind(moved.iter().map(|p| p.standing.reason().map(reason_name)).collect::<Vec<_>>())
        .bind(moved.iter().map(|p| p.ended_at.map(|at| at.0)).collect::<Vec<_>>())
        .execute(tx)
        .await?;
        Ok(())
    }
}

impl mesh::UnitOfWork for UnitOfWork {
    type Keys = Keys;
    type Config = Config;
    const KEY: &'static str = "reservation_id";

    async fn load(keys: Keys, tx: &mut PgConnection) -> sqlx::Result<Self> {
        let mut unit = Self::default();
        if !keys.leaving.is_empty() {
            withdrawals::close_gates(&keys.leaving, &keys.payers, tx).await?;
            unit.load_leaving(&keys.leaving, tx).await?;
        }
        if !keys.holds.is_empty() {
            unit.load_holds(&keys.holds, &keys.payers, tx).await?;
        }
        if !keys.payments.is_empty() || !keys.live.is_empty() {
            unit.load_payments(&keys.payments, &keys.live, &keys.payers, tx).await?;
        }
        Ok(unit)
    }

    async fn save(self, tx: &mut PgConnection) -> sqlx::Result<()> {
        self.save_holds(tx).await?;
        self.insert_payments(tx).await?;
        self.update_payments(tx).await?;
        self.save_attempts(tx).await
    }
}
