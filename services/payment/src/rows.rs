//! How a payment is stored: its columns and the names of its states.

use events::{
    PaymentId, ReservationId, ScheduleId, Timestamp, UserId,
    payment::{PaymentFailure, PaymentState},
};
use mesh::postgres::unknown;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::domain::{Payment, Standing};

/// The columns of a payment: id, reservation, schedule, user, amount, seats, hold version,
/// state, reason, requested at, ended at.
pub(crate) type PaymentColumns = (
    Uuid,
    Uuid,
    Uuid,
    Uuid,
    i64,
    i32,
    i64,
    String,
    Option<String>,
    OffsetDateTime,
    Option<OffsetDateTime>,
);

impl TryFrom<PaymentColumns> for Payment {
    type Error = sqlx::Error;

    fn try_from(row: PaymentColumns) -> sqlx::Result<Self> {
        let (id, reservation, schedule, user, amount, seats, hold_version, ..) = row;
        let (.., state, reason, from, to) = row;
        Ok(Self {
            id: PaymentId(id),
            reservation_id: ReservationId(reservation),
            schedule_id: ScheduleId(schedule),
            user_id: UserId(user),
            amount,
            seats: seats_from(seats)?,
            hold_version,
            requested_at: Timestamp(from),
            standing: standing(&state, reason.as_deref())?,
            ended_at: to.map(Timestamp),
        })
    }
}

/// Reads a stored number of seats.
pub(crate) fn seats_from(column: i32) -> sqlx::Result<u32> {
    u32::try_from(column).map_err(|error| sqlx::Error::Decode(error.into()))
}

fn standing(state: &str, reason: Option<&str>) -> sqlx::Result<Standing> {
    let to_state = match state {
        "REQUESTED" => PaymentState::Requested,
        "COMPLETED" => PaymentState::Completed,
        "FAILED" => PaymentState::Failed,
        "REFUNDED" => PaymentState::Refunded,
        _ => return Err(unknown("payment state", state)),
    };
    let to_reason = match reason {
        None => None,
        Some("insufficient_balance") => Some(PaymentFailure::InsufficientBalance),
        Some("no_wallet") => Some(PaymentFailure::NoWallet),
        Some("hold_gone") => Some(PaymentFailure::HoldGone),
        Some("show_cancelled") => Some(PaymentFailure::ShowCancelled),
        Some(reason) => return Err(unknown("payment failure", reason)),
    };
    Standing::from_parts(to_state, to_reason).ok_or_else(|| unknown("payment state", state))
}

/// The name of a payment's state in the database.
pub(crate) fn state_name(state: PaymentState) -> &'static str {
    match state {
        PaymentState::Requested => "REQUESTED",
        PaymentState::Completed => "COMPLETED",
        PaymentState::Failed => "FAILED",
        PaymentState::Refunded => "REFUNDED",
    }
}

/// The name of a failure in the database: that on the wire.
pub(crate) fn reason_name(reason: PaymentFailure) -> &'static str {
    reason.as_str()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_read_back_as_it_was_written() {
        let reasons = [
            PaymentFailure::InsufficientBalance,
            PaymentFailure::NoWallet,
            PaymentFailure::HoldGone,
            PaymentFailure::ShowCancelled,
        ];
        for wanted in reasons.map(Standing::Failed).into_iter().chain([
            Standing::Requested,
            Standing::Unwinding,
            Standing::Completed,
            Standing::Refunded,
        ]) {
            let reason = wanted.reason().map(reason_name);
            assert_eq!(standing(state_name(wanted.state()), reason).unwrap(), wanted);
        }
        assert!(standing("PAUSED", None).is_err());
    }
}
