//! The unit of work: the state that one batch touches. It is loaded and locked, and saved where
//! it has changed.
//!
//! Rows are locked table by table, always in the same order, and within a table by key: gates
//! (see `withdrawals`), schedules, places, reservations, seats. So two batches may wait for
//! each other, but never in a cycle. A batch that finds a seat free holds its lock until
//! commit; the batch that waited for it then finds the seat taken.

#[cfg(feature = "sim")]
pub(crate) mod in_memory;
mod load;
mod rows;
mod save;
mod withdrawals;

use std::{collections::BTreeSet, time::Duration};

use events::{
    ReservationId, ScheduleId, SeatId, UserId,
    reservation::{CancelReason, ReservationState},
};
use sqlx::PgConnection;

use crate::{
    Config,
    domain::{Refund, Schedule},
};

pub(crate) use load::ReservationRow;
pub(crate) use rows::Row;
pub use rows::UnitOfWork;

/// What the messages of a batch need.
#[derive(Debug, Default)]
pub struct Keys {
    /// Schedules whose seats are requested.
    pub(crate) selling: BTreeSet<ScheduleId>,
    /// Schedules that are opened or cancelled.
    pub(crate) changing: BTreeSet<ScheduleId>,
    /// Places that an event is about.
    pub(crate) places: BTreeSet<(ScheduleId, UserId)>,
    /// Places whose fans ask for a hold. The seats these fans have are counted too.
    pub(crate) buyers: BTreeSet<(ScheduleId, UserId)>,
    /// Reservations that keep their seats, unless their time is up.
    pub(crate) reservations: BTreeSet<ReservationId>,
    /// Reservations that may give their seats up.
    pub(crate) ending: BTreeSet<ReservationId>,
    /// Reservations that their fans give back. The terms of their schedules are loaded too.
    pub(crate) returning: BTreeSet<ReservationId>,
    /// Fans whose withdrawal an event is about.
    pub(crate) leaving: BTreeSet<UserId>,
    /// Requested seats.
    pub(crate) seats: BTreeSet<(ScheduleId, SeatId)>,
}

/// The time of a batch is taken a moment before its unit of work is loaded. A hold that ends
/// this soon is loaded with its seats, so that every message of the batch can expire it.
const NEAR: Duration = Duration::from_secs(1);

impl mesh::UnitOfWork for UnitOfWork {
    type Keys = Keys;
    type Config = Config;
    const KEY: &'static str = "reservation_id";

    async fn load(mut keys: Keys, tx: &mut PgConnection) -> sqlx::Result<Self> {
        if !keys.leaving.is_empty() {
            withdrawals::close_gates(&keys, tx).await?;
        }
        let mut unit = Self {
            schedules: load::schedules(&keys, tx).await?,
            places: load::places(&keys, tx).await?,
            reservations: load::reservations(&keys, tx).await?,
            ..Self::default()
        };
        load::held(&mut unit, &keys, tx).await?;
        if !keys.leaving.is_empty() {
            unit.load_leaving(&keys, tx).await?;
        }
        unit.load_shows(&keys, tx).await?;
        let near = mesh::clock::now().0 + NEAR;
        for reservation in unit.reservations.values() {
            let may_end = keys.ending.contains(&reservation.id)
                || keys.leaving.contains(&reservation.user_id)
                || reservation.is_due(near.into());
            if reservation.owns() && may_end {
                let seats = reservation.seat_ids().cloned();
                keys.seats.extend(seats.map(|seat| (reservation.schedule_id, seat)));
            }
        }
        unit.seats = load::seats(&keys, tx).await?;
        Ok(unit)
    }

    async fn save(self, tx: &mut PgConnection) -> sqlx::Result<()> {
        save::insert_schedules(&self, tx).await?;
        save::update_schedules(&self, tx).await?;
        save::places(&self, tx).await?;
        save::insert_reservations(&self, tx).await?;
        save::update_reservations(&self, tx).await?;
        save::insert_seats(&self, tx).await?;
        save::update_seats(&self, tx).await?;
        self.save_attempts(tx).await
    }
}

/// One column of these rows, for `unnest`.
fn column<'a, R, T>(rows: &'a [R], read: impl Fn(&'a R) -> T) -> Vec<T> {
    rows.iter().map(read).collect()
}

fn schedule_state(schedule: &Schedule) -> &'static str {
    match schedule {
        Schedule::Open(_) => "open",
        Schedule::Cancelling => "cancelling",
        Schedule::Cancelled => "cancelled",
    }
}

fn state_name(state: ReservationState) -> &'static str {
    match state {
        ReservationState::Pending => "PENDING",
        ReservationState::Confirmed => "CONFIRMED",
        ReservationState::Expired => "EXPIRED",
        ReservationState::Cancelled => "CANCELLED",
    }
}

fn state_of(name: &str) -> sqlx::Result<ReservationState> {
    match name {
        "PENDING" => Ok(ReservationState::Pending),
        "CONFIRMED" => Ok(ReservationState::Confirmed),
        "EXPIRED" => Ok(ReservationState::Expired),
        "CANCELLED" => Ok(ReservationState::Cancelled),
        other => Err(unreadable(other)),
    }
}

fn refund_name(refund: Refund) -> &'static str {
    match refund {
        Refund::Due => "due",
        Refund::Made => "made",
        Refund::Forfeited => "forfeited",
    }
}

fn refund_of(name: &str) -> sqlx::Result<Refund> {
    match name {
        "due" => Ok(Refund::Due),
        "made" => Ok(Refund::Made),
        "forfeited" => Ok(Refund::Forfeited),
        other => Err(unreadable(other)),
    }
}

fn cancel_reason_name(reason: CancelReason) -> &'static str {
    match reason {
        CancelReason::ByFan => "by_fan",
        CancelReason::ShowCancelled => "show_cancelled",
        CancelReason::Withdrawn => "withdrawn",
    }
}

fn cancel_reason_of(name: &str) -> sqlx::Result<CancelReason> {
    match name {
        "by_fan" => Ok(CancelReason::ByFan),
        "show_cancelled" => Ok(CancelReason::ShowCancelled),
        "withdrawn" => Ok(CancelReason::Withdrawn),
        other => Err(unreadable(other)),
    }
}

/// The database holds a state that this service does not know.
fn unreadable(word: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("unknown state `{word}`").into())
}
