//! The function call of each event and each command.

use events::{
    Problem, ScheduleId, Timestamp, UserId,
    concert::{Admission, ScheduleCancelled, ScheduleOpened},
    payment::{PaymentCompleted, PaymentFailed, PaymentFailure},
    queue::{Enter, Leave, PassClaims, Place, PlaceState, TicketClaims},
    reservation::{ReservationCancelled, ReservationCreated, ReservationExpired},
    user::UserWithdrawn,
};
use mesh::valkey::{At, CallFor, CallOn, FunctionCall, Reply};

use crate::{
    domain::{self, Pace, Seen},
    room::{Config, Room},
};

impl CallOn<ScheduleOpened> for Room {
    fn call(event: &ScheduleOpened, _at: &At<'_, Config>) -> FunctionCall {
        let seats: usize = event.seats.iter().map(|block| block.seats.len()).sum();
        FunctionCall::new("open")
            .arg(event.schedule_id)
            .arg(event.opens_at.unix_millis())
            .arg(event.starts_at.unix_millis())
            .arg(event.admission.per_second)
            .arg(event.admission.active_max)
            .arg(event.admission.pass_secs)
            .arg(seats)
    }
}

impl CallOn<ScheduleCancelled> for Room {
    fn call(event: &ScheduleCancelled, _at: &At<'_, Config>) -> FunctionCall {
        FunctionCall::new("cancel").arg(event.schedule_id)
    }
}

impl CallOn<ReservationCreated> for Room {
    fn call(event: &ReservationCreated, _at: &At<'_, Config>) -> FunctionCall {
        FunctionCall::new("hold")
            .arg(event.schedule_id)
            .arg(event.user_id)
            .arg(event.reservation_id)
            .arg(event.hard_cap_at.unix_millis())
    }
}

impl CallOn<ReservationExpired> for Room {
    fn call(event: &ReservationExpired, _at: &At<'_, Config>) -> FunctionCall {
        FunctionCall::new("release")
            .arg(event.schedule_id)
            .arg(event.user_id)
            .arg(event.reservation_id)
    }
}

impl CallOn<ReservationCancelled> for Room {
    fn call(event: &ReservationCancelled, _at: &At<'_, Config>) -> FunctionCall {
        let call = if event.payment_id.is_some() { "unsell" } else { "release" };
        FunctionCall::new(call).arg(event.schedule_id).arg(event.user_id).arg(event.reservation_id)
    }
}

impl CallOn<PaymentCompleted> for Room {
    fn call(event: &PaymentCompleted, _at: &At<'_, Config>) -> FunctionCall {
        FunctionCall::new("complete")
            .arg(event.schedule_id)
            .arg(event.user_id)
            .arg(event.reservation_id)
            .arg(event.payment_id)
            .arg(event.requested_at.unix_millis())
            .arg(event.seats)
    }
}

impl CallOn<PaymentFailed> for Room {
    /// Only a fan whose hold is gone is returned; after any other failure the hold lives on, and
    /// so does the place.
    fn call(event: &PaymentFailed, _at: &At<'_, Config>) -> FunctionCall {
        if event.reason != PaymentFailure::HoldGone {
            return FunctionCall::new("nothing");
        }
        FunctionCall::new("bring_back")
            .arg(event.schedule_id)
            .arg(event.user_id)
            .arg(event.reservation_id)
            .arg(event.payment_id)
            .arg(event.requested_at.unix_millis())
    }
}

impl CallOn<UserWithdrawn> for Room {
    fn call(event: &UserWithdrawn, _at: &At<'_, Config>) -> FunctionCall {
        FunctionCall::new("withdraw").arg(event.user_id)
    }
}

impl CallFor<Enter> for Room {
    fn call(command: &Enter, at: &At<'_, Config>) -> Result<FunctionCall, Problem> {
        let (schedule, user) = (command.schedule_id, at.caller.user_id()?);
        let number = match &command.ticket {
            Some(ticket) => at.config.signer.number(ticket, schedule, user, at.now)?,
            None => None,
        };
        let number = number.map(|number| number.to_string()).unwrap_or_default();
        Ok(FunctionCall::new("enter").arg(schedule).arg(user).arg(number))
    }

    fn reply(command: &Enter, value: &Reply, at: &At<'_, Config>) -> Result<Place, Problem> {
        place(command.schedule_id, at.caller.user_id()?, value, at.config, at.now)
    }
}

impl CallFor<Leave> for Room {
    fn call(command: &Leave, at: &At<'_, Config>) -> Result<FunctionCall, Problem> {
        Ok(FunctionCall::new("leave").arg(command.schedule_id).arg(at.caller.user_id()?))
    }

    fn reply(command: &Leave, value: &Reply, at: &At<'_, Config>) -> Result<Place, Problem> {
        place(command.schedule_id, at.caller.user_id()?, value, at.config, at.now)
    }
}

/// The place that a function returned, with a signed ticket while it is WAITING or ACTIVE and a
/// signed pass while it is ACTIVE.
pub(crate) fn place(
    schedule: ScheduleId,
    user: UserId,
    value: &Reply,
    config: &Config,
    now: Timestamp,
) -> Result<Place, Problem> {
    let seen = seen(value)?;
    let mut place = domain::place(schedule, user, &seen, now);
    if matches!(seen.state, PlaceState::Waiting | PlaceState::Active) {
        let claims = TicketClaims { sub: user, schedule, ticket: seen.ticket };
        place.ticket = Some(config.signer.ticket(claims, now)?);
    }
    if seen.state == PlaceState::Active {
        let claims = PassClaims::new(user, schedule, seen.version, now, seen.reserve_until);
        place.pass = Some(config.signer.pass(claims, now)?);
    }
    Ok(place)
}

/// Decodes what `seen` of `room.lua` returns.
fn seen(value: &Reply) -> Result<Seen, Problem> {
    let moment = |index| moment(value, index);
    Ok(Seen {
        state: domain::state_of(&value.get::<String>(0)?)?,
        version: value.get(1)?,
        ticket: value.get(2)?,
        reserve_until: moment(3)?,
        reason: domain::reason_of(&value.get::<String>(4)?),
        ahead: value.get(5)?,
        room: pace(value, 6)?,
    })
}

/// How fast a room moves, from the five values at `from`.
pub(crate) fn pace(value: &Reply, from: usize) -> Result<Pace, Problem> {
    let lately: f64 = value.get(from + 1)?;
    Ok(Pace {
        opens_at: moment(value, from)?,
        lately: (lately >= 0.0).then_some(lately),
        admission: Admission {
            per_second: value.get(from + 2)?,
            active_max: value.get(from + 3)?,
            pass_secs: value.get(from + 4)?,
        },
    })
}

fn moment(value: &Reply, index: usize) -> Result<Timestamp, Problem> {
    let millis = value.get(index)?;
    Timestamp::from_unix_millis(millis).ok_or_else(|| Problem::from(events::codes::INTERNAL))
}
