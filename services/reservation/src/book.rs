//! The page of reservations and seats that one batch touches.
//!
//! Rows are locked table by table, always in the same order and within a table by key:
//! schedules, places, reservations, seats. So two lanes may wait for each other's batch,
//! but never in a circle. Whoever finds a seat free holds its lock until commit; the
//! batch behind finds it taken.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    hash::Hash,
    ops::Deref,
};

use events::{ReservationId, ScheduleId, SeatId, UserId};
use sqlx::PgConnection;

use crate::{
    Rules,
    domain::{Place, Reservation, Schedule, Seat},
    sql,
};

/// What the messages of a batch need.
#[derive(Debug, Default)]
pub struct Keys {
    /// Schedules that are sold from.
    pub(crate) selling: BTreeSet<ScheduleId>,
    /// Schedules that are opened or cancelled.
    pub(crate) changing: BTreeSet<ScheduleId>,
    /// Places that are heard of.
    pub(crate) places: BTreeSet<(ScheduleId, UserId)>,
    /// Places whose fans ask for a hold: their seats are counted too.
    pub(crate) buyers: BTreeSet<(ScheduleId, UserId)>,
    /// Reservations that keep their seats, unless their time is up.
    pub(crate) reservations: BTreeSet<ReservationId>,
    /// Reservations that may give their seats up.
    pub(crate) ending: BTreeSet<ReservationId>,
    /// Fans whose holds end.
    pub(crate) leaving: BTreeSet<UserId>,
    /// Seats that are asked for.
    pub(crate) seats: BTreeSet<(ScheduleId, SeatId)>,
}

/// What the database has of a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mark {
    Kept,
    Changed,
    New,
}

/// A row, and whether it must be written.
#[derive(Debug)]
pub(crate) struct Row<T> {
    value: T,
    mark: Mark,
}

impl<T> Row<T> {
    /// As the database has it.
    pub(crate) fn stored(value: T) -> Self {
        Self { value, mark: Mark::Kept }
    }

    /// Not in the database yet.
    pub(crate) fn new(value: T) -> Self {
        Self { value, mark: Mark::New }
    }

    /// Changes the value; the row is written when `change` says so by `true`.
    pub(crate) fn change(&mut self, change: impl FnOnce(&mut T) -> bool) -> bool {
        let changed = change(&mut self.value);
        if changed && self.mark == Mark::Kept {
            self.mark = Mark::Changed;
        }
        changed
    }

    pub(crate) fn is_new(&self) -> bool {
        self.mark == Mark::New
    }

    pub(crate) fn is_changed(&self) -> bool {
        self.mark == Mark::Changed
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

/// New rows and changed ones, each in the order of their keys.
pub(crate) fn unsaved<K: Ord + Hash, T>(rows: &Rows<K, T>) -> (Sorted<'_, K, T>, Sorted<'_, K, T>) {
    let pick = |wanted: fn(&Row<T>) -> bool| {
        let mut picked: Sorted<'_, K, T> =
            rows.iter().filter(|(_, row)| wanted(row)).map(|(key, row)| (key, &row.value)).collect();
        picked.sort_unstable_by(|a, b| a.0.cmp(b.0));
        picked
    };
    (pick(Row::is_new), pick(Row::is_changed))
}

/// Rows in the order of their keys.
pub(crate) type Sorted<'a, K, T> = Vec<(&'a K, &'a T)>;

/// A seat with what was read of it: its update names both, so that it cannot overwrite.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SeatRow {
    pub(crate) seat: Seat,
    pub(crate) read: Seat,
}

impl SeatRow {
    pub(crate) fn new(seat: Seat) -> Self {
        Self { seat, read: seat }
    }
}

/// The page of reservations and seats that one batch touches.
#[derive(Debug, Default)]
pub struct Book {
    pub(crate) schedules: Rows<ScheduleId, Schedule>,
    pub(crate) places: Rows<(ScheduleId, UserId), Place>,
    pub(crate) reservations: Rows<ReservationId, Reservation>,
    /// Nested, so that a seat is found without a copy of its name.
    pub(crate) seats: HashMap<ScheduleId, Rows<SeatId, SeatRow>>,
    /// Seats that the buyers of this batch have, by reservation.
    pub(crate) held: HashMap<(ScheduleId, UserId), HashMap<ReservationId, usize>>,
}

impl Book {
    /// A seat of a schedule.
    pub(crate) fn seat(&self, schedule_id: ScheduleId, seat: &SeatId) -> Option<&Seat> {
        Some(&self.seats.get(&schedule_id)?.get(seat)?.seat)
    }

    /// What is known of a fan's place.
    pub(crate) fn place(&self, schedule_id: ScheduleId, user_id: UserId) -> Place {
        self.places.get(&(schedule_id, user_id)).map_or(Place::UNHEARD, |place| **place)
    }

    /// How many seats of a schedule a fan holds or owns.
    pub(crate) fn held(&self, schedule_id: ScheduleId, user_id: UserId) -> usize {
        self.held.get(&(schedule_id, user_id)).map_or(0, |held| held.values().sum())
    }

    /// Puts a schedule on sale, with its seats.
    pub(crate) fn open(
        &mut self,
        schedule_id: ScheduleId,
        schedule: Schedule,
        seats: impl Iterator<Item = (SeatId, Seat)>,
    ) {
        self.schedules.insert(schedule_id, Row::new(schedule));
        let rows = seats.map(|(id, seat)| (id, Row::new(SeatRow::new(seat)))).collect();
        self.seats.insert(schedule_id, rows);
    }

    /// Writes a hold down: the reservation, and itself as the owner of its seats.
    pub(crate) fn grant(&mut self, reservation: Reservation) {
        let Reservation { id, schedule_id, user_id, hold_version, .. } = reservation;
        let seats = self.seats.entry(schedule_id).or_default();
        for name in reservation.seat_ids() {
            if let Some(row) = seats.get_mut(name) {
                row.change(|row| {
                    row.seat.owner = Some(id);
                    row.seat.hold_version = hold_version;
                    true
                });
            }
        }
        self.held.entry((schedule_id, user_id)).or_default().insert(id, reservation.seats.len());
        self.reservations.insert(id, Row::new(reservation));
    }

    /// Frees the seats of a reservation that has ended. A seat that has a later owner by
    /// now is left alone.
    pub(crate) fn release(&mut self, id: ReservationId) {
        let Some(reservation) = self.reservations.get(&id) else { return };
        let Some(seats) = self.seats.get_mut(&reservation.schedule_id) else { return };
        for name in reservation.seat_ids() {
            if let Some(row) = seats.get_mut(name) {
                row.change(|row| {
                    let is_its = row.seat.belongs_to(reservation);
                    if is_its {
                        row.seat.owner = None;
                    }
                    is_its
                });
            }
        }
        if let Some(held) = self.held.get_mut(&(reservation.schedule_id, reservation.user_id)) {
            held.remove(&id);
        }
    }

    /// Whether the seats of a reservation are on this page, so that it can end here.
    pub(crate) fn has_seats_of(&self, reservation: &Reservation) -> bool {
        reservation.seat_ids().all(|seat| self.seat(reservation.schedule_id, seat).is_some())
    }

    /// The reservations on this page that `wanted` picks, oldest first.
    pub(crate) fn pick(&self, wanted: impl Fn(&Reservation) -> bool) -> Vec<ReservationId> {
        let picked: BTreeMap<_, _> =
            self.reservations.iter().filter(|(_, row)| wanted(row)).collect();
        picked.into_keys().copied().collect()
    }
}

impl mesh::Book for Book {
    type Keys = Keys;
    type Rules = Rules;

    async fn load(mut keys: Keys, tx: &mut PgConnection) -> sqlx::Result<Self> {
        let mut book = Self {
            schedules: sql::load_schedules(&keys, tx).await?,
            places: sql::load_places(&keys, tx).await?,
            reservations: sql::load_reservations(&keys, tx).await?,
            held: sql::count_held(&keys.buyers, tx).await?,
            ..Self::default()
        };
        keys.seats.extend(sql::seats_at_stake(&keys, &book.reservations));
        book.seats = sql::load_seats(&keys.seats, tx).await?;
        Ok(book)
    }

    async fn save(self, tx: &mut PgConnection) -> sqlx::Result<()> {
        sql::save_schedules(&self.schedules, tx).await?;
        sql::save_places(&self.places, tx).await?;
        sql::save_reservations(&self.reservations, tx).await?;
        sql::save_seats(&self.seats, tx).await
    }
}
