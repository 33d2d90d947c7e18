//! Reservations: who holds and who owns which seats. The one judge.

use serde::{Deserialize, Serialize};

use crate::{
    AttemptId, Page, PaymentId, ReservationId, ScheduleId, SeatId, Timestamp, UserId,
    withdrawal::WithdrawalReason,
};

/// Where a reservation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ReservationState {
    /// A hold that runs out at `expires_at`.
    Pending,
    /// Paid; the seats are the fan's.
    Confirmed,
    /// The hold ran out.
    Expired,
    /// Given up, or taken back.
    Cancelled,
}

/// Why a reservation was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum CancelReason {
    /// The fan gave it up.
    ByFan,
    /// The show was cancelled.
    ShowCancelled,
    /// The fan's account was closed.
    Withdrawn,
}

/// Why a paid-for hold could not be confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ConfirmRefusal {
    /// The hold ran out.
    Expired,
    /// The hold was cancelled.
    Cancelled,
    /// The show was called off.
    ShowCancelled,
}

/// A seat and what it costs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PricedSeat {
    /// The seat.
    pub seat: SeatId,
    /// Points.
    pub price: i64,
}

/// `reservation.created`: seats are held.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReservationCreated {
    /// The hold.
    pub reservation_id: ReservationId,
    /// Whose seats.
    pub schedule_id: ScheduleId,
    /// Who holds.
    pub user_id: UserId,
    /// What is held.
    pub seats: Vec<PricedSeat>,
    /// Sum of the prices.
    pub amount: i64,
    /// Fences every later step; each seat's next owner has a higher one.
    pub hold_version: i64,
    /// When the hold runs out.
    pub expires_at: Timestamp,
    /// Beyond which no extension goes.
    pub hard_cap_at: Timestamp,
}

/// `reservation.confirmed`: the seats are the fan's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReservationConfirmed {
    /// The reservation.
    pub reservation_id: ReservationId,
    /// Whose seats.
    pub schedule_id: ScheduleId,
    /// Who owns.
    pub user_id: UserId,
    /// By which payment.
    pub payment_id: PaymentId,
    /// What is owned.
    pub seats: Vec<SeatId>,
    /// Points paid.
    pub amount: i64,
    /// The fence of this owner.
    pub hold_version: i64,
}

/// `reservation.confirm_refused`: the money came, but the hold is gone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReservationConfirmRefused {
    /// The reservation.
    pub reservation_id: ReservationId,
    /// Whose seats.
    pub schedule_id: ScheduleId,
    /// Who paid.
    pub user_id: UserId,
    /// Which payment must be returned.
    pub payment_id: PaymentId,
    /// Points to return.
    pub amount: i64,
    /// Why.
    pub reason: ConfirmRefusal,
}

/// `reservation.expired`: a hold ran out; its seats are free.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReservationExpired {
    /// The reservation.
    pub reservation_id: ReservationId,
    /// Whose seats.
    pub schedule_id: ScheduleId,
    /// Who held.
    pub user_id: UserId,
    /// What is free again.
    pub seats: Vec<SeatId>,
    /// The fence of the owner that was.
    pub hold_version: i64,
}

/// `reservation.cancelled`: a hold or a confirmed reservation was given up; its seats are
/// free, and what was paid is to be returned, unless it was forfeited.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReservationCancelled {
    /// The reservation.
    pub reservation_id: ReservationId,
    /// Whose seats.
    pub schedule_id: ScheduleId,
    /// Who held or owned.
    pub user_id: UserId,
    /// What is free again.
    pub seats: Vec<SeatId>,
    /// The fence of the owner that was.
    pub hold_version: i64,
    /// Why.
    pub reason: CancelReason,
    /// The payment that had confirmed it; to be returned, unless the reason is `withdrawn`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment_id: Option<PaymentId>,
    /// Points to return; 0 for a hold, and for what was forfeited.
    pub refund: i64,
}

impl ReservationCancelled {
    /// The payment to return. Tickets of an account that is closed are forfeited: their
    /// payment stays as it is.
    pub fn to_return(&self) -> Option<PaymentId> {
        self.payment_id.filter(|_| self.reason != CancelReason::Withdrawn)
    }
}

/// `reservation.withdrawal_cleared`: there are no tickets that matter, and no refund is due; nothing new begins for this fan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReservationWithdrawalCleared {
    /// Who wants to leave.
    pub user_id: UserId,
    /// Which attempt.
    pub attempt: AttemptId,
}

/// `reservation.withdrawal_blocked`: something stands in the way of a withdrawal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReservationWithdrawalBlocked {
    /// Who wants to leave.
    pub user_id: UserId,
    /// Which attempt.
    pub attempt: AttemptId,
    /// What.
    pub reason: WithdrawalReason,
}

crate::events! {
    ReservationCreated = "reservation.created", schedule: |e| Some(e.schedule_id), about: |e| e.reservation_id.0;
    ReservationConfirmed = "reservation.confirmed", schedule: |e| Some(e.schedule_id), about: |e| e.reservation_id.0;
    ReservationConfirmRefused = "reservation.confirm_refused", schedule: |e| Some(e.schedule_id), about: |e| e.reservation_id.0;
    ReservationExpired = "reservation.expired", schedule: |e| Some(e.schedule_id), about: |e| e.reservation_id.0;
    ReservationCancelled = "reservation.cancelled", schedule: |e| Some(e.schedule_id), about: |e| e.reservation_id.0;
    ReservationWithdrawalCleared = "reservation.withdrawal_cleared", schedule: |_| None, about: |e| e.user_id.0;
    ReservationWithdrawalBlocked = "reservation.withdrawal_blocked", schedule: |_| None, about: |e| e.user_id.0;
}

/// Hold seats: all of them or none.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Reserve {
    /// Whose seats.
    pub schedule_id: ScheduleId,
    /// Which, without repetition: by their ids, or by the names of section, row and seat,
    /// joined by `-`.
    pub seats: Vec<SeatId>,
    /// The pass of an ACTIVE place.
    pub pass: String,
}

/// Give a hold, or until the schedule's `refund_until` a confirmed reservation up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Cancel {
    /// Which; over HTTP it comes from the path.
    pub reservation_id: ReservationId,
}

/// Read one reservation of the caller's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GetReservation {
    /// Which.
    pub reservation_id: ReservationId,
}

/// List the caller's reservations, newest first.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FindReservations {
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// Entries wanted.
    pub limit: Option<u32>,
}

/// A reservation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Reservation {
    /// Its id.
    pub reservation_id: ReservationId,
    /// Whose seats.
    pub schedule_id: ScheduleId,
    /// Whose reservation.
    pub user_id: UserId,
    /// Where it stands.
    pub state: ReservationState,
    /// What it covers.
    pub seats: Vec<PricedSeat>,
    /// Sum of the prices.
    pub amount: i64,
    /// When the hold was made.
    pub created_at: Timestamp,
    /// When the hold runs out.
    pub expires_at: Timestamp,
    /// The payment that confirmed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment_id: Option<PaymentId>,
    /// Why it was cancelled, once it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<CancelReason>,
}

crate::commands! {
    Reserve = "reservation.reserve", 201 => Reservation;
    Cancel = "reservation.cancel", 202 => Reservation;
    GetReservation = "reservation.get", 200 => Reservation;
    FindReservations = "reservation.find", 200 => Page<Reservation>;
}
