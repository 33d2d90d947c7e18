//! Each fact of a reservation as a word on its seats.

use events::{
    ReservationId, ScheduleId, SeatId,
    concert::ScheduleCancelled,
    reservation::{
        ReservationCancelled, ReservationConfirmed, ReservationCreated, ReservationExpired,
    },
};
use mesh::valkey::{Act, ActOn, At};

use super::{MapRules, SeatMaps};

/// How far one owner of a seat has come, as `seats.lua` names it.
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
    owner: ReservationId,
    seats: impl Iterator<Item = &'a SeatId>,
) -> Act {
    let act = Act::new("mark").arg(schedule).arg(hold_version).arg(stage.as_str()).arg(owner);
    seats.fold(act, |act, seat| act.arg(seat))
}

impl ActOn<ScheduleCancelled> for SeatMaps {
    fn act(fact: &ScheduleCancelled, _at: &At<'_, MapRules>) -> Act {
        Act::new("off").arg(fact.schedule_id)
    }
}

impl ActOn<ReservationCreated> for SeatMaps {
    fn act(fact: &ReservationCreated, _at: &At<'_, MapRules>) -> Act {
        let seats = fact.seats.iter().map(|priced| &priced.seat);
        mark(fact.schedule_id, fact.hold_version, Stage::Held, fact.reservation_id, seats)
    }
}

macro_rules! hear_of_seats {
    ($($fact:ty => $stage:expr;)+) => {$(
        impl ActOn<$fact> for SeatMaps {
            fn act(fact: &$fact, _at: &At<'_, MapRules>) -> Act {
                let seats = fact.seats.iter();
                mark(fact.schedule_id, fact.hold_version, $stage, fact.reservation_id, seats)
            }
        }
    )+};
}
hear_of_seats! {
    ReservationConfirmed => Stage::Sold;
    ReservationExpired => Stage::Freed;
    ReservationCancelled => Stage::Freed;
}
