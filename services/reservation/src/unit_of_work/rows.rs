//! The unit of work in memory: what handlers read and change.

use std::{
    collections::{BTreeSet, HashMap},
    hash::Hash,
    ops::Deref,
};

use events::{ReservationId, ScheduleId, SeatId, UserId, reservation::ReservationState};

use super::withdrawals::Attempts;
use crate::domain::{Bought, Place, Reservation, Schedule, Seat};

/// A value, and what the database has in its place.
#[derive(Debug)]
pub(crate) struct Row<T> {
    value: T,
    stored: Stored<T>,
}

#[derive(Debug)]
enum Stored<T> {
    /// Nothing yet.
    No,
    /// The same value.
    Same,
    /// The value before the change.
    Older(T),
}

impl<T: Clone> Row<T> {
    /// A value as it is in the database.
    pub(crate) fn stored(value: T) -> Self {
        Self { value, stored: Stored::Same }
    }

    /// A value that is not in the database yet.
    pub(crate) fn new(value: T) -> Self {
        Self { value, stored: Stored::No }
    }

    /// The value, to be changed and written.
    pub(crate) fn change(&mut self) -> &mut T {
        if let Stored::Same = self.stored {
            self.stored = Stored::Older(self.value.clone());
        }
        &mut self.value
    }

    /// The value to insert.
    pub(crate) fn inserted(&self) -> Option<&T> {
        matches!(self.stored, Stored::No).then_some(&self.value)
    }

    /// The value that was read and the one to write instead.
    pub(crate) fn updated(&self) -> Option<(&T, &T)> {
        match &self.stored {
            Stored::Older(read) => Some((read, &self.value)),
            Stored::No | Stored::Same => None,
        }
    }
}

impl<T> Deref for Row<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.value
    }
}

/// Rows by key.
pub(crate) type Rows<K, T> = HashMap<K, Row<T>>;

/// What `pick` returns for the rows, in the order of their keys: rows are written in the
/// order in which they are locked.
pub(crate) fn sorted<'a, K: Ord + Hash, T, P>(
    rows: &'a Rows<K, T>,
    pick: impl Fn(&'a Row<T>) -> Option<P>,
) -> Vec<(&'a K, P)> {
    let mut picked: Vec<(&K, P)> =
        rows.iter().filter_map(|(key, row)| Some((key, pick(row)?))).collect();
    picked.sort_unstable_by(|a, b| a.0.cmp(b.0));
    picked
}

/// What fans hold and have bought of a schedule, by reservation.
pub(crate) type Held = HashMap<(ScheduleId, UserId), HashMap<ReservationId, Bought>>;

/// The reservations and seats that one batch touches.
#[derive(Debug, Default)]
pub struct UnitOfWork {
    pub(crate) schedules: Rows<ScheduleId, Schedule>,
    pub(crate) places: Rows<(ScheduleId, UserId), Place>,
    pub(crate) reservations: Rows<ReservationId, Reservation>,
    /// Nested, so that a lookup does not copy the name of the seat.
    pub(crate) seats: HashMap<ScheduleId, Rows<SeatId, Seat>>,
    /// What the buyers of this batch hold and have bought.
    pub(crate) held: Held,
    pub(super) attempts: Attempts,
}

impl UnitOfWork {
    /// A seat of a schedule.
    pub(crate) fn seat(&self, schedule_id: ScheduleId, seat: &SeatId) -> Option<&Seat> {
        Some(&**self.seats.get(&schedule_id)?.get(seat)?)
    }

    /// What is known of a fan's place.
    pub(crate) fn place(&self, schedule_id: ScheduleId, user_id: UserId) -> Place {
        self.places.get(&(schedule_id, user_id)).map_or(Place::UNKNOWN, |place| **place)
    }

    /// What a fan holds and has bought of a schedule.
    pub(crate) fn bought(
        &self,
        schedule_id: ScheduleId,
        user_id: UserId,
    ) -> impl Iterator<Item = &Bought> + Clone {
        self.held.get(&(schedule_id, user_id)).into_iter().flat_map(HashMap::values)
    }

    /// Records that a hold was paid: for a request in the same batch it is no hold any more.
    pub(crate) fn note_paid(&mut self, id: ReservationId) {
        if let Some(bought) = self.of_buyer(id) {
            (bought.holds_until, bought.is_paid) = (None, true);
        }
    }

    fn of_buyer(&mut self, id: ReservationId) -> Option<&mut Bought> {
        let row = self.reservations.get(&id)?;
        self.held.get_mut(&(row.schedule_id, row.user_id))?.get_mut(&id)
    }

    /// Applies the end of a place, unless a later end is known.
    pub(crate) fn apply_place(&mut self, key: (ScheduleId, UserId), change: Place) {
        let place = self.places.entry(key).or_insert_with(|| Row::new(Place::UNKNOWN));
        if change.is_newer_than(place) {
            *place.change() = change;
        }
    }

    /// Puts a schedule on sale, with its seats.
    pub(crate) fn open(
        &mut self,
        schedule_id: ScheduleId,
        schedule: Schedule,
        seats: impl Iterator<Item = (SeatId, Seat)>,
    ) {
        self.schedules.insert(schedule_id, Row::new(schedule));
        let rows = seats.map(|(id, seat)| (id, Row::new(seat))).collect();
        self.seats.insert(schedule_id, rows);
    }

    /// Adds a hold, and makes it the owner of its seats.
    pub(crate) fn grant(&mut self, hold: Reservation) {
        let seats = self.seats.entry(hold.schedule_id).or_default();
        for name in hold.seat_ids() {
            if let Some(seat) = seats.get_mut(name) {
                let seat = seat.change();
                seat.owner = Some(hold.id);
                seat.hold_version = hold.hold_version;
            }
        }
        let buyer = (hold.schedule_id, hold.user_id);
        let bought = Bought {
            seats: hold.seats.len(),
            holds_until: Some(hold.expires_at),
            place_version: hold.place_version,
            is_paid: false,
        };
        self.held.entry(buyer).or_default().insert(hold.id, bought);
        self.reservations.insert(hold.id, Row::new(hold));
    }

    /// Ends a reservation and frees its seats, except those that have a later owner by now.
    pub(crate) fn end(&mut self, id: ReservationId, state: ReservationState) {
        let Some(row) = self.reservations.get_mut(&id) else { return };
        row.change().state = state;
        let ended = &**row;
        if let Some(seats) = self.seats.get_mut(&ended.schedule_id) {
            for name in ended.seat_ids() {
                if let Some(seat) = seats.get_mut(name).filter(|seat| seat.belongs_to(ended)) {
                    seat.change().owner = None;
                }
            }
        }
        if let Some(bought) = self.of_buyer(id) {
            (bought.seats, bought.holds_until) = (0, None);
        }
    }

    /// Whether the seats of a reservation are loaded, so that it can be ended here.
    pub(crate) fn has_seats_of(&self, id: ReservationId) -> bool {
        self.reservations.get(&id).is_some_and(|reservation| {
            reservation.seat_ids().all(|seat| self.seat(reservation.schedule_id, seat).is_some())
        })
    }

    /// The loaded reservations that are `wanted`, oldest first.
    pub(crate) fn pick(&self, wanted: impl Fn(&Reservation) -> bool) -> BTreeSet<ReservationId> {
        self.reservations.values().filter(|row| wanted(row)).map(|row| row.id).collect()
    }
}
