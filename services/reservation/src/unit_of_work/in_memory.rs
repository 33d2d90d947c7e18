//! The tables of this service in memory, for the simulation.

use std::collections::{BTreeMap, BTreeSet};

use events::{
    AttemptId, ReservationId, ScheduleId, SeatId, Timestamp, UserId, reservation::ReservationState,
};
use mesh::{engine::Failure, memory::InMemory};

use super::{Keys, UnitOfWork, withdrawals::Attempt};
use crate::{
    domain::{Bought, Place, Refund, Reservation, Schedule, Seat},
    timers::{EmptyShow, ExpireHold},
};

/// Reservations of a cancelled show that are cancelled at a time.
const EMPTIED_MAX: usize = 100;

/// The tables.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    /// Schedules.
    pub schedules: BTreeMap<ScheduleId, Schedule>,
    /// Reservations.
    pub reservations: BTreeMap<ReservationId, Reservation>,
    /// Seats, and who owns them.
    pub seats: BTreeMap<(ScheduleId, SeatId), Seat>,
    places: BTreeMap<(ScheduleId, UserId), Place>,
    attempts: BTreeMap<AttemptId, Attempt>,
}

impl Tables {
    /// The holds whose time is up, as the timer finds them.
    pub fn due_holds(&self, now: Timestamp) -> Vec<ExpireHold> {
        let due = self.reservations.values().filter(|reservation| reservation.is_due(now));
        due.map(|reservation| ExpireHold { reservation_id: reservation.id }).collect()
    }

    /// The cancelled shows that may still have reservations, as the timer finds them.
    pub fn cancelled_shows(&self) -> Vec<EmptyShow> {
        let is_cancelling = |(_, state): &(&ScheduleId, &Schedule)| **state == Schedule::Cancelling;
        let empty = |(&schedule_id, _)| {
            let owns = |row: &&Reservation| row.schedule_id == schedule_id && row.owns();
            let owners = self.reservations.values().filter(owns).take(EMPTIED_MAX);
            EmptyShow { schedule_id, reservations: owners.map(|row| row.id).collect() }
        };
        self.schedules.iter().filter(is_cancelling).map(empty).collect()
    }
}

impl InMemory for UnitOfWork {
    type Tables = Tables;

    fn load_from(mut keys: Keys, tables: &Tables) -> Self {
        let mut unit = Self::default();
        for id in keys.selling.union(&keys.changing) {
            if let Some(schedule) = tables.schedules.get(id) {
                unit.schedules.load(*id, *schedule);
            }
        }
        for key in keys.places.union(&keys.buyers) {
            if let Some(place) = tables.places.get(key) {
                unit.places.load(*key, *place);
            }
        }
        for row in tables.reservations.values() {
            let is_named = keys.reservations.contains(&row.id) || keys.ending.contains(&row.id);
            let is_theirs = keys.leaving.contains(&row.user_id)
                && (row.owns() || row.refund == Some(Refund::Due));
            if is_named || is_theirs {
                unit.reservations.load(row.id, row.clone());
            }
            let buyer = (row.schedule_id, row.user_id);
            if keys.buyers.contains(&buyer) && (row.owns() || row.payment_id.is_some()) {
                let bought = Bought {
                    seats: if row.owns() { row.seats.len() } else { 0 },
                    holds_until: (row.state == ReservationState::Pending).then_some(row.expires_at),
                    place_version: row.place_version,
                    is_paid: row.payment_id.is_some(),
                };
                unit.held.entry(buyer).or_default().insert(row.id, bought);
            }
        }
        unit.load_attempts(&keys, tables);
        let near = mesh::clock::now().0 + super::NEAR;
        for row in unit.reservations.values() {
            let may_end = keys.ending.contains(&row.id)
                || keys.leaving.contains(&row.user_id)
                || row.is_due(near.into());
            if row.owns() && may_end {
                keys.seats.extend(row.seat_ids().map(|seat| (row.schedule_id, seat.clone())));
            }
        }
        for key in keys.seats {
            if let Some(seat) = tables.seats.get(&key) {
                unit.seats.entry(key.0).or_default().load(key.1, *seat);
            }
        }
        unit
    }

    fn save_to(self, tables: &mut Tables) -> Result<(), Failure> {
        tables.schedules.extend(self.schedules.dirty().into_iter().map(|(id, row)| (*id, *row)));
        for (key, row) in self.places.dirty() {
            let place = tables.places.entry(*key).or_insert(Place::UNKNOWN);
            if row.is_newer_than(place) {
                *place = *row;
            }
        }
        for (id, row) in self.reservations.dirty() {
            tables.reservations.insert(*id, row.clone());
        }
        for (schedule_id, seats) in &self.seats {
            for (id, seat) in seats.dirty() {
                let key = (*schedule_id, id.clone());
                match (seats.stored(id), tables.seats.get(&key)) {
                    (None, Some(_)) => return Err(Failure::Duplicate("seats".into())),
                    (read, stored) if read != stored => {
                        return Err(Failure::Refused("a seat has another owner by now".into()));
                    }
                    _ => drop(tables.seats.insert(key, *seat)),
                }
            }
        }
        let dirty = self.attempts.dirty().into_iter();
        tables.attempts.extend(dirty.map(|(id, attempt)| (*id, *attempt)));
        Ok(())
    }
}

impl UnitOfWork {
    fn load_attempts(&mut self, keys: &Keys, tables: &Tables) {
        let buyers: BTreeSet<UserId> = keys.buyers.iter().map(|key| key.1).collect();
        for (id, attempt) in &tables.attempts {
            if keys.leaving.contains(&attempt.user_id) {
                self.attempts.load(*id, *attempt);
            } else if buyers.contains(&attempt.user_id) && attempt.standing.closes() {
                self.note_closing(*id, attempt.user_id);
            }
        }
        let of = |row: &&Reservation| {
            keys.leaving.contains(&row.user_id) || keys.returning.contains(&row.id)
        };
        let shows: Vec<_> =
            self.reservations.values().filter(of).map(|row| row.schedule_id).collect();
        for id in shows {
            if let Some(schedule) = tables.schedules.get(&id)
                && !self.schedules.contains(&id)
            {
                self.schedules.load(id, *schedule);
            }
        }
    }
}
