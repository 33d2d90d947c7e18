//! The unit of work: the state that one batch touches. It is loaded and locked, and saved where
//! it has changed.
//!
//! Rows are locked table by table, always in the same order, and within a table by key: gates
//! (see `withdrawals`), schedules, places, reservations, seats. So two batches may wait for
//! each other, but never in a cycle. A batch that finds a seat free holds its lock until
//! commit; the batch that waited for it then finds the seat taken.

#[cfg(feature = "sim")]
pub(crate) mod in_memory;
mod keys;
mod load;
mod names;
mod rows;
mod save;
mod withdrawals;

use std::time::Duration;

use mesh::postgres::close_gates;
use sqlx::PgConnection;

use crate::Config;

pub use keys::Keys;
pub(crate) use load::ReservationRow;
pub use rows::UnitOfWork;

/// The time of a batch is taken a moment before its unit of work is loaded. A hold that ends
/// this soon is loaded with its seats, so that every message of the batch can expire it.
const NEAR: Duration = Duration::from_secs(1);

impl mesh::UnitOfWork for UnitOfWork {
    type Keys = Keys;
    type Config = Config;
    const KEY: &'static str = "reservation_id";

    async fn load(mut keys: Keys, tx: &mut PgConnection) -> sqlx::Result<Self> {
        if !keys.leaving.is_empty() {
            let buyers = keys.buyers.iter().map(|key| key.1);
            close_gates(keys.leaving.iter().copied(), buyers, tx).await?;
        }
        let mut unit = Self {
            schedules: load::schedules(&keys, tx).await?,
            places: load::places(&keys, tx).await?,
            reservations: load::reservations(&keys, tx).await?,
            ..Self::default()
        };
        load::held(&mut unit, &keys, tx).await?;
        if !keys.leaving.is_empty() {
            unit.attempts = withdrawals::load(&keys.leaving, tx).await?;
        }
        load::shows(&mut unit, &keys, tx).await?;
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
        withdrawals::save(&self.attempts, tx).await
    }
}
