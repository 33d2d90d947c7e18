//! The unit of work in memory: what handlers read and change.

use std::collections::{BTreeSet, HashMap};

use events::{
    AttemptId, ReservationId, ScheduleId, SeatId, UserId, reservation::ReservationState,
    withdrawal::Standing,
};
use mesh::postgres::Rows;

use super::withdrawals::Attempt;
use crate::domain::{Bought, Place, Reservation, Schedule, Seat};

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
    pub(super) attempts: Rows<AttemptId, Attempt>,
}

impl UnitOfWork {
    /// A seat of a schedule.
    pub(crate) fn seat(&self, schedule_id: ScheduleId, seat: &SeatId) -> Option<&Seat> {
        self.seats.get(&schedule_id)?.get(seat)
    }

    /// What is known of a fan's place.
    pub(crate) fn place(&self, schedule_id: ScheduleId, user_id: UserId) -> Place {
        self.places.get(&(schedule_id, user_id)).copied().unwrap_or(Place::UNKNOWN)
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
        if change.is_newer_than(&self.place(key.0, key.1)) {
            self.places.put(key, change);
        }
    }

    /// Puts a schedule on sale, with its seats.
    pub(crate) fn open(
        &mut self,
        schedule_id: ScheduleId,
        schedule: Schedule,
        seats: impl Iterator<Item = (SeatId, Seat)>,
    ) {
        self.schedules.add(schedule_id, schedule);
        let rows = self.seats.entry(schedule_id).or_default();
        seats.for_each(|(id, seat)| rows.add(id, seat));
    }

    /// Adds a hold, and makes it the owner of its seats.
    pub(crate) fn grant(&mut self, hold: Reservation) {
        let seats = self.seats.entry(hold.schedule_id).or_default();
        for name in hold.seat_ids() {
            if let Some(seat) = seats.change(name) {
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
        self.reservations.add(hold.id, hold);
    }

    /// Ends a reservation and frees its seats, except those that have a later owner by now.
    pub(crate) fn end(&mut self, id: ReservationId, state: ReservationState) {
        let Some(ended) = self.reservations.change(&id) else { return };
        ended.state = state;
        if let Some(seats) = self.seats.get_mut(&ended.schedule_id) {
            for name in ended.seat_ids() {
                if let Some(seat) = seats.change(name).filter(|seat| seat.belongs_to(ended)) {
                    seat.owner = None;
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
    /// Where an attempt to close an account stands, if it is known.
    pub(crate) fn standing(&self, attempt: AttemptId) -> Option<Standing> {
        self.attempts.get(&attempt).map(|row| row.standing)
    }

    /// Whether nothing new may begin for this fan.
    pub(crate) fn is_closing(&self, user_id: UserId) -> bool {
        self.attempts.values().any(|row| row.user_id == user_id && row.standing.closes())
    }

    /// Keeps the standing of an attempt, and marks the fan's reservations accordingly: a debit
    /// checks nothing but its reservation.
    pub(crate) fn keep_attempt(&mut self, id: AttemptId, user_id: UserId, standing: Standing) {
        self.attempts.put(id, Attempt { user_id, standing });
        let is_closing = self.is_closing(user_id);
        for id in self.pick(|row| row.user_id == user_id && row.owns()) {
            if let Some(row) = self.reservations.change(&id) {
                row.closing = is_closing;
            }
        }
    }

    /// Records that the account of a buyer is being closed.
    pub(super) fn note_closing(&mut self, id: AttemptId, user_id: UserId) {
        if !self.attempts.contains(&id) {
            self.attempts.load(id, Attempt { user_id, standing: Standing::Cleared });
        }
    }
}
