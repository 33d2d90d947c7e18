//! Reservations: which fans hold and own which seats. The `reservation` service alone decides.

use serde::{Deserialize, Serialize};

use crate::{
    AttemptId, Page, PaymentId, ReservationId, ScheduleId, SeatId, Timestamp, UserId,
    withdrawal::WithdrawalReason,
};

/// The state of a reservation.
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

/// Why a paid hold could not be confirmed.
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
    /// The schedule of the seats.
    pub schedule_id: ScheduleId,
    /// The fan who holds them.
    pub user_id: UserId,
    /// The seats that are held.
    pub seats: Vec<PricedSeat>,
    /// Sum of the prices.
    pub amount: i64,
    /// The fence of every later step; the next owner of each seat gets a higher one.
    pub hold_version: i64,
    /// When the hold runs out.
    pub expires_at: Timestamp,
    /// The latest time to which the hold can be extended.
    pub hard_cap_at: Timestamp,
}

/// `reservation.confirmed`: the seats are the fan's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReservationConfirmed {
    /// The reservation.
    pub reservation_id: ReservationId,
    /// The schedule of the seats.
    pub schedule_id: ScheduleId,
    /// The fan who owns them.
    pub user_id: UserId,
    /// The payment that confirmed it.
    pub payment_id: PaymentId,
    /// The seats that are owned.
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
    /// The schedule of the seats.
    pub schedule_id: ScheduleId,
    /// The fan who paid.
    pub user_id: UserId,
    /// The payment to return.
    pub payment_id: PaymentId,
    /// Points to return.
    pub amount: i64,
    /// Why it was refused.
    pub reason: ConfirmRefusal,
}

/// `reservation.expired`: a hold ran out; its seats are free.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReservationExpired {
    /// The reservation.
    pub reservation_id: ReservationId,
    /// The schedule of the seats.
    pub schedule_id: ScheduleId,
    /// The fan who held them.
    pub user_id: UserId,
    /// The seats that are free again.
    pub seats: Vec<SeatId>,
    /// The fence of the former owner.
    pub hold_version: i64,
}

/// `reservation.cancelled`: a hold or a confirmed reservation was given up; its seats are
/// free, and what was paid is to be returned, unless it was forfeited.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReservationCancelled {
    /// The reservation.
    pub reservation_id: ReservationId,
    /// The schedule of the seats.
    pub schedule_id: ScheduleId,
    /// The fan who held or owned them.
    pub user_id: UserId,
    /// The seats that are free again.
    pub seats: Vec<SeatId>,
    /// The fence of the former owner.
    pub hold_version: i64,
    /// Why it was cancelled.
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

/// `reservation.withdrawal_cleared`: no refund is due, and there are no tickets for shows to
/// come, or the fan gives them up; nothing new begins for this fan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReservationWithdrawalCleared {
    /// The fan who wants to close the account.
    pub user_id: UserId,
    /// The attempt.
    pub attempt: AttemptId,
}

/// `reservation.withdrawal_blocked`: something blocks a withdrawal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ReservationWithdrawalBlocked {
    /// The fan who wants to close the account.
    pub user_id: UserId,
    /// The attempt.
    pub attempt: AttemptId,
    /// What blocks it.
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
    /// The schedule of the seats.
    pub schedule_id: ScheduleId,
    /// The seats, without repetition: by their ids, or by the names of section, row and seat,
    /// joined by `-`.
    pub seats: Vec<SeatId>,
    /// The pass of an ACTIVE place.
    pub pass: String,
}

/// Give up a hold or, until the schedule's `refund_until`, a confirmed reservation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Cancel {
    /// The reservation; over HTTP it comes from the path.
    pub reservation_id: ReservationId,
}

/// Read one of the caller's reservations.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GetReservation {
    /// The reservation.
    pub reservation_id: ReservationId,
}

/// List the caller's reservations, newest first.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FindReservations {
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// The number of entries wanted.
    pub limit: Option<u32>,
}

/// A reservation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Reservation {
    /// Its id.
    pub reservation_id: ReservationId,
    /// The schedule of the seats.
    pub schedule_id: ScheduleId,
    /// The fan it belongs to.
    pub user_id: UserId,
    /// Its state.
    pub state: ReservationState,
    /// The seats and their prices.
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
