//! One act for each fact heard and each command answered.

use events::{
    Problem, ScheduleId, Timestamp, UserId,
    concert::{Admission, ScheduleCancelled, ScheduleOpened},
    payment::{PaymentCompleted, PaymentFailed, PaymentFailure},
    queue::{Enter, Leave, Place, PlaceState},
    reservation::{ReservationCancelled, ReservationCreated, ReservationExpired},
    user::UserWithdrawn,
};
use mesh::{
    auth::{PassClaims, TicketClaims},
    valkey::{Act, ActOn, At, Reply, Texts},
};

use crate::{
    Room, Rules,
    domain::{self, Pace, Seen},
};

impl ActOn<ScheduleOpened> for Room {
    fn act(fact: &ScheduleOpened, _at: &At<'_, Rules>) -> Act {
        let seats: usize = fact.seats.iter().map(|block| block.seats.len()).sum();
        Act::new("open")
            .arg(fact.schedule_id)
            .arg(fact.opens_at.unix_millis())
            .arg(fact.starts_at.unix_millis())
            .arg(fact.admission.per_second)
            .arg(fact.admission.active_max)
            .arg(fact.admission.pass_secs)
            .arg(seats)
    }
}

impl ActOn<ScheduleCancelled> for Room {
    fn act(fact: &ScheduleCancelled, _at: &At<'_, Rules>) -> Act {
        Act::new("cancel").arg(fact.schedule_id)
    }
}

impl ActOn<ReservationCreated> for Room {
    fn act(fact: &ReservationCreated, _at: &At<'_, Rules>) -> Act {
        Act::new("hold")
            .arg(fact.schedule_id)
            .arg(fact.user_id)
            .arg(fact.reservation_id)
            .arg(fact.hard_cap_at.unix_millis())
    }
}

impl ActOn<ReservationExpired> for Room {
    fn act(fact: &ReservationExpired, _at: &At<'_, Rules>) -> Act {
        Act::new("release").arg(fact.schedule_id).arg(fact.user_id).arg(fact.reservation_id)
    }
}

impl ActOn<ReservationCancelled> for Room {
    fn act(fact: &ReservationCancelled, _at: &At<'_, Rules>) -> Act {
        let act = if fact.payment_id.is_some() { "unsell" } else { "release" };
        Act::new(act).arg(fact.schedule_id).arg(fact.user_id).arg(fact.reservation_id)
    }
}

impl ActOn<PaymentCompleted> for Room {
    fn act(fact: &PaymentCompleted, _at: &At<'_, Rules>) -> Act {
        Act::new("complete")
            .arg(fact.schedule_id)
            .arg(fact.user_id)
            .arg(fact.reservation_id)
            .arg(fact.payment_id)
            .arg(fact.requested_at.unix_millis())
            .arg(fact.seats)
    }
}

impl ActOn<PaymentFailed> for Room {
    /// Only who lost the hold goes back; after any other failure the hold lives on, and the
    /// place with it.
    fn act(fact: &PaymentFailed, _at: &At<'_, Rules>) -> Act {
        if fact.reason != PaymentFailure::HoldGone {
            return Act::new("nothing");
        }
        Act::new("bring_back")
            .arg(fact.schedule_id)
            .arg(fact.user_id)
            .arg(fact.reservation_id)
            .arg(fact.payment_id)
            .arg(fact.requested_at.unix_millis())
    }
}

impl ActOn<UserWithdrawn> for Room {
    fn act(fact: &UserWithdrawn, _at: &At<'_, Rules>) -> Act {
        Act::new("withdraw").arg(fact.user_id)
    }
}

impl Reply<Enter> for Room {
    fn act(command: &Enter, at: &At<'_, Rules>) -> Result<Act, Problem> {
        let (schedule, user) = (command.schedule_id, at.caller.user_id()?);
        let number = match &command.ticket {
            Some(ticket) => at.rules.signer.number(ticket, schedule, user, at.now)?,
            None => None,
        };
        let number = number.map(|number| number.to_string()).unwrap_or_default();
        Ok(Act::new("enter").arg(schedule).arg(user).arg(number))
    }

    fn reply(command: &Enter, value: &Texts, at: &At<'_, Rules>) -> Result<Place, Problem> {
        place(command.schedule_id, at.caller.user_id()?, value, at.rules, at.now)
    }
}

impl Reply<Leave> for Room {
    fn act(command: &Leave, at: &At<'_, Rules>) -> Result<Act, Problem> {
        Ok(Act::new("leave").arg(command.schedule_id).arg(at.caller.user_id()?))
    }

    fn reply(command: &Leave, value: &Texts, at: &At<'_, Rules>) -> Result<Place, Problem> {
        place(command.schedule_id, at.caller.user_id()?, value, at.rules, at.now)
    }
}

/// The place that an act returned, signed: a ticket while it lasts, a pass while ACTIVE.
pub(crate) fn place(
    schedule: ScheduleId,
    user: UserId,
    value: &Texts,
    rules: &Rules,
    now: Timestamp,
) -> Result<Place, Problem> {
    let seen = seen(value)?;
    let mut place = domain::place(schedule, user, &seen, now);
    if matches!(seen.state, PlaceState::Waiting | PlaceState::Active) {
        let claims = TicketClaims { sub: user, schedule, ticket: seen.ticket };
        place.ticket = Some(rules.signer.ticket(claims, now)?);
    }
    if seen.state == PlaceState::Active {
        let claims = PassClaims::new(user, schedule, seen.version, now, seen.reserve_until);
        place.pass = Some(rules.signer.pass(claims, now)?);
    }
    Ok(place)
}

/// Reads what `seen` of `room.lua` returns.
fn seen(value: &Texts) -> Result<Seen, Problem> {
    let moment = |index| {
        let millis = value.get(index)?;
        Timestamp::from_unix_millis(millis).ok_or_else(|| Problem::from(events::codes::INTERNAL))
    };
    let lately: f64 = value.get(7)?;
    Ok(Seen {
        state: domain::state_of(&value.get::<String>(0)?)?,
        version: value.get(1)?,
        ticket: value.get(2)?,
        reserve_until: moment(3)?,
        reason: domain::reason_of(&value.get::<String>(4)?),
        ahead: value.get(5)?,
        room: Pace {
            opens_at: moment(6)?,
            lately: (lately >= 0.0).then_some(lately),
            admission: Admission {
                per_second: value.get(8)?,
                active_max: value.get(9)?,
                pass_secs: value.get(10)?,
            },
        },
    })
}
