//! Each fact of a reservation as a word on its seats.

use std::collections::BTreeMap;

use events::{
    ScheduleId, SeatId,
    concert::ScheduleCancelled,
    reservation::{
        ReservationCancelled, ReservationConfirmed, ReservationCreated, ReservationExpired,
    },
    state::SeatStated,
};
use mesh::valkey::{Act, ActOn, At};

use super::{MapRules, SeatMaps};

/// How far one owner of a seat has come, as `seats.lua` names it.
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
) -> Act {
    let act = Act::new("mark").arg(schedule).arg(hold_version).arg(stage.as_str());
    seats.fold(act, |act, seat| act.arg(seat))
}

impl ActOn<ScheduleCancelled> for SeatMaps {
    fn act(fact: &ScheduleCancelled, _at: &At<'_, MapRules>) -> Act {
        Act::new("off").arg(fact.schedule_id)
    }
}

/// The show of this schedule is off.
pub fn called_off(schedule: ScheduleId) -> Act {
    Act::new("off").arg(schedule)
}

/// What the owner of the seats states of them, as words: seats with the same word together.
pub fn stated(schedule: ScheduleId, seats: &[SeatStated]) -> Vec<Act> {
    let mut words: BTreeMap<(i64, Stage), Vec<&SeatId>> = BTreeMap::new();
    for seat in seats {
        let stage = match &seat.owner {
            None => Stage::Freed,
            Some(owner) if owner.is_sold => Stage::Sold,
            Some(_) => Stage::Held,
        };
        words.entry((seat.hold_version, stage)).or_default().push(&seat.seat);
    }
    let word = |((version, stage), seats): (_, Vec<&SeatId>)| {
        mark(schedule, version, stage, seats.into_iter())
    };
    words.into_iter().map(word).collect()
}

impl ActOn<ReservationCreated> for SeatMaps {
    fn act(fact: &ReservationCreated, _at: &At<'_, MapRules>) -> Act {
        let seats = fact.seats.iter().map(|priced| &priced.seat);
        mark(fact.schedule_id, fact.hold_version, Stage::Held, seats)
    }
}

macro_rules! hear_of_seats {
    ($($fact:ty => $stage:expr;)+) => {$(
        impl ActOn<$fact> for SeatMaps {
            fn act(fact: &$fact, _at: &At<'_, MapRules>) -> Act {
                let seats = fact.seats.iter();
                mark(fact.schedule_id, fact.hold_version, $stage, seats)
            }
        }
    )+};
}
hear_of_seats! {
    ReservationConfirmed => Stage::Sold;
    ReservationExpired => Stage::Freed;
    ReservationCancelled => Stage::Freed;
}
