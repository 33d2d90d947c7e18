//! Mistakes that are planted in the wiring around the handlers, to see that the checks find them.

use events::{
    Timestamp,
    point::{EntryKind, PointDebited},
    reservation::ReservationState,
};

use crate::steps::Waiting;

/// A planted mistake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A debit confirms the fan who has the seat by now.
    OwnerFenceOff,
    /// A late debit brings an expired hold back to life.
    LateDebitConfirms,
    /// A hold is extended whenever a payment asks, and nothing caps it.
    ExtensionUncapped,
    /// Money is given back without a look at what was given back before.
    RefundUnchecked,
    /// Money is taken without a look at what was taken before.
    DebitUnchecked,
    /// `point.refunded` reaches nobody.
    RefundLost,
    /// The timer expires nothing.
    TimerOff,
}

impl Bug {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::OwnerFenceOff,
        Self::LateDebitConfirms,
        Self::ExtensionUncapped,
        Self::RefundUnchecked,
        Self::DebitUnchecked,
        Self::RefundLost,
        Self::TimerOff,
    ];

    /// Whether no consumer gets this event.
    pub fn loses(self, event: &str) -> bool {
        self == Self::RefundLost && event == "point.refunded"
    }
}

/// What a mistake does before and after reservation handles an event.
pub fn around_reservation(
    bug: Bug,
    waiting: &mut Waiting,
    tables: &mut reservation::sim::Tables,
    now: Timestamp,
    handle: impl FnOnce(&Waiting, &mut reservation::sim::Tables) -> bool,
) -> bool {
    match (bug, waiting.event) {
        (Bug::OwnerFenceOff, "point.debited") => {
            let owner = tables.seats.values().find_map(|seat| seat.owner);
            if let Some(row) = owner.and_then(|id| tables.reservations.get(&id)) {
                let mut debited: PointDebited = read(waiting);
                (debited.reservation_id, debited.user_id) = (row.id, row.user_id);
                (debited.hold_version, debited.amount) = (row.hold_version, row.amount);
                waiting.data = serde_json::to_string(&debited).expect("plain data").into();
            }
            handle(waiting, tables)
        }
        (Bug::LateDebitConfirms, "point.debited") => {
            let debited: PointDebited = read(waiting);
            if let Some(row) = tables.reservations.get_mut(&debited.reservation_id)
                && row.state == ReservationState::Expired
            {
                (row.state, row.expires_at) = (ReservationState::Pending, now.plus_secs(1));
            }
            handle(waiting, tables)
        }
        (Bug::ExtensionUncapped, "payment.hold_extension_requested") => {
            let caps: Vec<_> =
                tables.reservations.values().map(|row| (row.id, row.hard_cap_at)).collect();
            for row in tables.reservations.values_mut() {
                (row.extended, row.hard_cap_at) = (false, now.plus_secs(86_400));
            }
            let is_done = handle(waiting, tables);
            for (id, cap) in caps {
                if let Some(row) = tables.reservations.get_mut(&id) {
                    row.hard_cap_at = cap;
                }
            }
            is_done
        }
        _ => handle(waiting, tables),
    }
}

/// What a mistake does before and after point handles an event.
pub fn around_point(
    bug: Bug,
    waiting: &Waiting,
    tables: &mut point::sim::Tables,
    handle: impl FnOnce(&Waiting, &mut point::sim::Tables) -> bool,
) -> bool {
    let forgotten = match (bug, waiting.event) {
        (Bug::DebitUnchecked, "payment.requested") => EntryKind::Debit,
        (Bug::RefundUnchecked, "reservation.confirm_refused" | "reservation.cancelled") => {
            EntryKind::Refund
        }
        _ => return handle(waiting, tables),
    };
    let all = std::mem::take(&mut tables.entries);
    let (hidden, seen) = all.into_iter().partition(|entry| entry.kind == forgotten);
    tables.entries = seen;
    let is_done = handle(waiting, tables);
    tables.entries.extend::<Vec<_>>(hidden);
    is_done
}

fn read(waiting: &Waiting) -> PointDebited {
    serde_json::from_str(&waiting.data).expect("a service emitted it")
}
