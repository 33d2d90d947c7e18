//! The names of states in the database.

use events::reservation::{CancelReason, ReservationState};
use mesh::postgres::unknown;

use crate::domain::{Refund, Schedule};

pub(super) fn schedule_state(schedule: &Schedule) -> &'static str {
    match schedule {
        Schedule::Open(_) => "open",
        Schedule::Cancelling => "cancelling",
        Schedule::Cancelled => "cancelled",
    }
}

pub(super) fn state_name(state: ReservationState) -> &'static str {
    match state {
        ReservationState::Pending => "PENDING",
        ReservationState::Confirmed => "CONFIRMED",
        ReservationState::Expired => "EXPIRED",
        ReservationState::Cancelled => "CANCELLED",
    }
}

pub(super) fn state_of(name: &str) -> sqlx::Result<ReservationState> {
    match name {
        "PENDING" => Ok(ReservationState::Pending),
        "CONFIRMED" => Ok(ReservationState::Confirmed),
        "EXPIRED" => Ok(ReservationState::Expired),
        "CANCELLED" => Ok(ReservationState::Cancelled),
        other => Err(unknown("state", other)),
    }
}

pub(super) fn refund_name(refund: Refund) -> &'static str {
    match refund {
        Refund::Due => "due",
        Refund::Made => "made",
        Refund::Forfeited => "forfeited",
    }
}

pub(super) fn refund_of(name: &str) -> sqlx::Result<Refund> {
    match name {
        "due" => Ok(Refund::Due),
        "made" => Ok(Refund::Made),
        "forfeited" => Ok(Refund::Forfeited),
        other => Err(unknown("refund", other)),
    }
}

pub(super) fn cancel_reason_name(reason: CancelReason) -> &'static str {
    match reason {
        CancelReason::ByFan => "by_fan",
        CancelReason::ShowCancelled => "show_cancelled",
        CancelReason::Withdrawn => "withdrawn",
    }
}

pub(super) fn cancel_reason_of(name: &str) -> sqlx::Result<CancelReason> {
    match name {
        "by_fan" => Ok(CancelReason::ByFan),
        "show_cancelled" => Ok(CancelReason::ShowCancelled),
        "withdrawn" => Ok(CancelReason::Withdrawn),
        other => Err(unknown("reason", other)),
    }
}
