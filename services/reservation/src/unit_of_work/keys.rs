//! The keys of what a batch loads.

use std::collections::BTreeSet;

use events::{ReservationId, ScheduleId, SeatId, UserId};

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
