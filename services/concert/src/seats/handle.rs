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
use mesh::valkey::{At, CallOn, FunctionCall};

use super::{MapConfig, SeatMaps};

/// How far one owner of a seat has come, as `seats.lua` names it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Environment {
    Held,
    Sold,
    Freed,
}

impl Environment {
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
    env: Environment,
    seats: impl Iterator<Item = &'a SeatId>,
) -> FunctionCall {
    let call = FunctionCall::new("mark").arg(schedule).arg(hold_version).arg(env.as_str());
    seats.fold(call, |call, seat| call.arg(seat))
}

impl CallOn<ScheduleCancelled> for SeatMaps {
    fn call(event: &ScheduleCancelled, _at: &At<'_, MapConfig>) -> FunctionCall {
        FunctionCall::new("off").arg(event.schedule_id)
    }
}

/// The show of this schedule is off.
pub fn called_off(schedule: ScheduleId) -> FunctionCall {
    FunctionCall::new("off").arg(schedule)
}

/// What the owner of the seats states of them, as words: seats with the same word together.
pub fn stated(schedule: ScheduleId, seats: &[SeatStated]) -> Vec<FunctionCall> {
    let mut words: BTreeMap<(i64, Environment), Vec<&SeatId>> = BTreeMap::new();
    for seat in seats {
        let env = match &seat.owner {
            None => Environment::Freed,
            Some(owner) if owner.is_sold => Environment::Sold,
            Some(_) => Environment::Held,
        };
        words.entry((seat.hold_version, env)).or_default().push(&seat.seat);
    }
    let word = |((version, env), seats): (_, Vec<&SeatId>)| {
        mark(schedule, version, env, seats.into_iter())
    };
    words.into_iter().map(word).collect()
}

impl CallOn<ReservationCreated> for SeatMaps {
    fn call(event: &ReservationCreated, _at: &At<'_, MapConfig>) -> FunctionCall {
        let seats = event.seats.iter().map(|priced| &priced.seat);
        mark(event.schedule_id, event.hold_version, Environment::Held, seats)
    }
}

macro_rules! handle_seats {
    ($($event:ty => $env:expr;)+) => {$(
        impl CallOn<$event> for SeatMaps {
            fn call(event: &$event, _at: &At<'_, MapConfig>) -> FunctionCall {
                let seats = event.seats.iter();
                mark(event.schedule_id, event.hold_version, $env, seats)
            }
        }
    )+};
}
handle_seats! {
    ReservationConfirmed => Environment::Sold;
    ReservationExpired => Environment::Freed;
    ReservationCancelled => Environment::Freed;
}
