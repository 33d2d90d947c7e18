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

use std::collections::{BTreeSet, HashMap};

use events::{
    AttemptId, PaymentId, ReservationId, ScheduleId, Timestamp, UserId,
    withdrawal::{Standing, WithdrawalReason},
};
use mesh::postgres::{GATES, Rows, close_gates, column, gates};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    Config,
    domain::{self, Hold, Payment, Standing as PaymentStanding},
    rows::{PaymentColumns, reason_name, seats_from, state_name},
};
use withdrawals::Attempt;

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

/// The holds and payments that one batch touches.
#[derive(Debug, Default)]
pub struct UnitOfWork {
    holds: Rows<ReservationId, Hold>,
    payments: Rows<PaymentId, Payment>,
    of_reservation: HashMap<ReservationId, PaymentId>,
    attempts: Rows<AttemptId, Attempt>,
    /// Payments whose seats had been given back when the unit of work was loaded.
    given_back: BTreeSet<PaymentId>,
}

impl UnitOfWork {
    /// A hold, if it is known.
    pub(crate) fn hold(&self, id: ReservationId) -> Option<&Hold> {
        self.holds.get(&id)
    }

    /// Applies what an event says about a hold.
    pub(crate) fn apply_hold(&mut self, id: ReservationId, update: Hold) {
        match self.holds.change(&id) {
            Some(hold) => drop(hold.apply(&update)),
            None => self.holds.add(id, update),
        }
    }

    /// Ends a hold; an unknown hold stays unknown.
    pub(crate) fn end_hold(&mut self, id: ReservationId) {
        if let Some(hold) = self.holds.change(&id) {
            hold.end();
        }
    }

    /// The running or completed payment of a reservation.
    pub(crate) fn live(&self, id: ReservationId) -> Option<&Payment> {
        let payment = self.payments.get(self.of_reservation.get(&id)?)?;
        payment.standing.is_live().then_some(payment)
    }

    /// A payment.
    pub(crate) fn payment_mut(&mut self, id: PaymentId) -> Option<&mut Payment> {
        self.payments.change(&id)
    }

    /// Adds a new payment.
    pub(crate) fn add_payment(&mut self, payment: Payment) {
        self.note_live(&payment);
        self.payments.add(payment.id, payment);
    }

    fn load_payment(&mut self, payment: Payment) {
        self.note_live(&payment);
        self.payments.load(payment.id, payment);
    }

    fn note_live(&mut self, payment: &Payment) {
        if payment.standing.is_live() {
            self.of_reservation.insert(payment.reservation_id, payment.id);
        }
    }

    /// Where an attempt to close an account stands, if it is known.
    pub(crate) fn standing(&self, attempt: AttemptId) -> Option<Standing> {
        self.attempts.get(&attempt).map(|row| row.standing)
    }

    /// Keeps where an attempt stands.
    pub(crate) fn keep_attempt(&mut self, id: AttemptId, user_id: UserId, standing: Standing) {
        self.attempts.put(id, Attempt { user_id, standing });
    }

    /// Whether nothing new may begin for this fan.
    pub(crate) fn is_closing(&self, user_id: UserId) -> bool {
        self.attempts.values().any(|row| row.user_id == user_id && row.standing.closes())
    }

    /// What blocks a fan's withdrawal.
    pub(crate) fn at_stake(&self, user_id: UserId) -> Option<WithdrawalReason> {
        let theirs = self.payments.values().filter(|payment| payment.user_id == user_id);
        domain::at_stake(theirs.map(|payment| {
            let is_over = self.holds.get(&payment.reservation_id).is_some_and(|hold| hold.ended);
            (payment.standing, is_over || self.given_back.contains(&payment.id))
        }))
    }

    /// Loads holds, and takes the gates of the payers.
    async fn load_holds(
        &mut self,
        ids: &[Uuid],
        payers: &[Uuid],
        tx: &mut PgConnection,
    ) -> sqlx::Result<()> {
        type Found = (Uuid, Uuid, Uuid, i64, i32, i64, OffsetDateTime, bool, bool, Option<String>);
        let rows: Vec<Found> = sqlx::query_as(
            "select reservation_id, schedule_id, user_id, amount, seats, hold_version,
                    expires_at, ended, is_off, traceparent
             from holds
             where reservation_id = any($1)
                 and (select count(pg_advisory_xact_lock_shared($2, gate))
                      from unnest($3::int4[]) as gate) >= 0
             order by reservation_id
             for update",
        )
        .bind(ids)
        .bind(GATES)
        .bind(gates(payers.iter().copied().map(UserId)))
        .fetch_all(tx)
        .await?;
        for row in rows {
            let (id, schedule_id, user_id, amount, seats, hold_version, ..) = row;
            let (.., expires_at, ended, is_off, traceparent) = row;
            let hold = Hold {
                schedule_id: ScheduleId(schedule_id),
                user_id: UserId(user_id),
                amount,
                seats: seats_from(seats)?,
                hold_version,
                expires_at: Timestamp(expires_at),
                ended,
                is_off,
                traceparent,
            };
            self.holds.load(ReservationId(id), hold);
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
            match Standing::named(&row.7) {
                Some(standing) => {
                    let attempt = Attempt { user_id: UserId(row.3), standing };
                    self.attempts.load(AttemptId(row.0), attempt);
                }
                None => self.load_payment(Payment::try_from(row)?),
            }
        }
        Ok(())
    }

    /// Loads the attempts of the fans who leave, and their live payments. The payments are not
    /// locked: those that the batch changes are loaded again, with a lock.
    async fn load_leaving(&mut self, users: &[Uuid], tx: &mut PgConnection) -> sqlx::Result<()> {
        self.attempts = withdrawals::load(users, tx).await?;
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
            self.load_payment(payment);
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

    /// Two batches may insert the same hold at once: the end wins here too.
    async fn save_holds(&self, tx: &mut PgConnection) -> sqlx::Result<()> {
        let dirty = self.holds.dirty();
        if dirty.is_empty() {
            return Ok(());
        }
        sqlx::query(
            "insert into holds
                 (reservation_id, schedule_id, user_id, amount, seats, hold_version, expires_at,
                  ended, is_off, traceparent)
             select * from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::int8[], $5::int4[],
                                  $6::int8[], $7::timestamptz[], $8::bool[], $9::bool[],
                                  $10::text[])
             on conflict (reservation_id) do update
                 set ended = true, is_off = excluded.is_off
             where excluded.ended and not holds.ended",
        )
        .bind(column(&dirty, |(id, _)| id.0))
        .bind(column(&dirty, |(_, hold)| hold.schedule_id.0))
        .bind(column(&dirty, |(_, hold)| hold.user_id.0))
        .bind(column(&dirty, |(_, hold)| hold.amount))
        .bind(column(&dirty, |(_, hold)| hold.seats as i32))
        .bind(column(&dirty, |(_, hold)| hold.hold_version))
        .bind(column(&dirty, |(_, hold)| hold.expires_at.0))
        .bind(column(&dirty, |(_, hold)| hold.ended))
        .bind(column(&dirty, |(_, hold)| hold.is_off))
        .bind(column(&dirty, |(_, hold)| hold.traceparent.as_deref()))
        .execute(tx)
        .await?;
        Ok(())
    }

    /// Payments begin as REQUESTED.
    async fn insert_payments(&self, tx: &mut PgConnection) -> sqlx::Result<()> {
        let new = self.payments.added();
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
        .bind(column(&new, |(_, p)| p.id.0))
        .bind(column(&new, |(_, p)| p.reservation_id.0))
        .bind(column(&new, |(_, p)| p.schedule_id.0))
        .bind(column(&new, |(_, p)| p.user_id.0))
        .bind(column(&new, |(_, p)| p.amount))
        .bind(column(&new, |(_, p)| p.seats as i32))
        .bind(column(&new, |(_, p)| p.hold_version))
        .bind(column(&new, |(_, p)| p.requested_at.0))
        .execute(tx)
        .await?;
        Ok(())
    }

    async fn update_payments(&self, tx: &mut PgConnection) -> sqlx::Result<()> {
        let mut moved = self.payments.dirty();
        moved.retain(|(_, payment)| payment.standing != PaymentStanding::Requested);
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
        .bind(column(&moved, |(_, p)| p.id.0))
        .bind(column(&moved, |(_, p)| state_name(p.standing.state())))
        .bind(column(&moved, |(_, p)| p.standing.reason().map(reason_name)))
        .bind(column(&moved, |(_, p)| p.ended_at.map(|at| at.0)))
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
            let users = |ids: &[Uuid]| ids.iter().copied().map(UserId).collect::<Vec<_>>();
            close_gates(users(&keys.leaving), users(&keys.payers), tx).await?;
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
        withdrawals::save(&self.attempts, tx).await
    }
}
