//! Turns each event of a reservation into an update of its seats.

use std::collections::BTreeMap;

use events::{
    ScheduleId, SeatId,
    concert::ScheduleCancelled,
    reservation::{
        ReservationCancelled, ReservationConfirmed, ReservationCreated, ReservationExpired,
    },
    state::SeatStated,
};
use mesh::valkey::{At, CallOn, FunctionCall};

use super::{MapConfig, SeatMaps};

/// How far one owner of a seat has come, with the names of `seats.lua`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Stage {
    Held,
    Sold,
    Freed,
}

impl Stage {
    fn as_str(&self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Sold => "sold",
            Self::Freed => "freed",
        }
    }
}

fn mark<'a>(
    schedule: ScheduleId,
    hold_version: i64,
    stage: Stage,
    seats: impl Iterator<Item = &'a SeatId>,
) -> FunctionCall {
    let call = FunctionCall::new("mark").arg(schedule).arg(hold_version).arg(stage.as_str());
    seats.fold(call, |call, seat| call.arg(seat))
}

impl CallOn<ScheduleCancelled> for SeatMaps {
    fn call(event: &ScheduleCancelled, _at: &At<'_, MapConfig>) -> FunctionCall {
        FunctionCall::new("off").arg(event.schedule_id)
    }
}

/// Marks the show of this schedule as cancelled.
pub(crate) fn schedule_cancelled(schedule: ScheduleId) -> FunctionCall {
    FunctionCall::new("off").arg(schedule)
}

/// The updates for seats as the reservation service states them: one for all seats in the same
/// state.
pub(crate) fn stated(schedule: ScheduleId, seats: &[SeatStated]) -> Vec<FunctionCall> {
    let mut groups: BTreeMap<(i64, Stage), Vec<&SeatId>> = BTreeMap::new();
    for seat in seats {
        let stage = match &seat.owner {
            None => Stage::Freed,
            Some(owner) if owner.is_sold => Stage::Sold,
            Some(_) => Stage::Held,
        };
        groups.entry((seat.hold_version, stage)).or_default().push(&seat.seat);
    }
    let update = |((version, stage), seats): (_, Vec<&SeatId>)| {
        mark(schedule, version, stage, seats.into_iter())
    };
    groups.into_iter().map(update).collect()
}

impl CallOn<ReservationCreated> for SeatMaps {
    fn call(event: &ReservationCreated, _at: &At<'_, MapConfig>) -> FunctionCall {
        let seats = event.seats.iter().map(|priced| &priced.seat);
        mark(event.schedule_id, event.hold_version, Stage::Held, seats)
    }
}

macro_rules! handle_seats {
    ($($event:ty => $stage:expr;)+) => {$(
        impl CallOn<$event> for SeatMaps {
            fn call(event: &$event, _at: &At<'_, MapConfig>) -> FunctionCall {
                let seats = event.seats.iter();
                mark(event.schedule_id, event.hold_version, $stage, seats)
            }
        }
    )+};
}
handle_seats! {
    ReservationConfirmed => Stage::Sold;
    ReservationExpired => Stage::Freed;
    ReservationCancelled => Stage::Freed;
}
