//! Payments: a saga from request to end.

use serde::{Deserialize, Serialize};

use crate::{
    AttemptId, Page, PaymentId, ReservationId, ScheduleId, Timestamp, UserId,
    withdrawal::WithdrawalReason,
};

/// Where a payment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PaymentState {
    /// On its way.
    Requested,
    /// Money taken, seats confirmed.
    Completed,
    /// Nothing taken, or all given back.
    Failed,
    /// Completed once; the money was given back since.
    Refunded,
}

/// Why a payment failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum PaymentFailure {
    /// The wallet has too few points; the hold lives on.
    InsufficientBalance,
    /// The wallet is closed or was never opened.
    NoWallet,
    /// The hold ended first; the money was given back.
    HoldGone,
    /// The show was called off first; the money was given back.
    ShowCancelled,
}

/// `payment.requested`: a fan asked to pay a hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PaymentRequested {
    /// The payment.
    pub payment_id: PaymentId,
    /// What is paid.
    pub reservation_id: ReservationId,
    /// Whose seats.
    pub schedule_id: ScheduleId,
    /// Who pays.
    pub user_id: UserId,
    /// Points.
    pub amount: i64,
    /// The fence of the hold.
    pub hold_version: i64,
    /// When.
    pub requested_at: Timestamp,
}

/// `payment.hold_extension_requested`: a payment has begun while its hold had less than a
/// minute left. Told together with `payment.requested`; nothing follows when the hold was
/// extended before, or has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PaymentHoldExtensionRequested {
    /// The payment.
    pub payment_id: PaymentId,
    /// Which hold.
    pub reservation_id: ReservationId,
    /// Whose seats.
    pub schedule_id: ScheduleId,
    /// Who pays.
    pub user_id: UserId,
    /// The fence of the hold.
    pub hold_version: i64,
}

/// `payment.completed`: money taken, seats confirmed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PaymentCompleted {
    /// The payment.
    pub payment_id: PaymentId,
    /// What was paid.
    pub reservation_id: ReservationId,
    /// Whose seats.
    pub schedule_id: ScheduleId,
    /// Who paid.
    pub user_id: UserId,
    /// Points.
    pub amount: i64,
    /// How many seats; 0 in what was told before this was said.
    #[serde(default)]
    pub seats: u32,
    /// When it was asked for.
    pub requested_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
}

/// `payment.failed`: nothing was taken, or all was given back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PaymentFailed {
    /// The payment.
    pub payment_id: PaymentId,
    /// What was to be paid.
    pub reservation_id: ReservationId,
    /// Whose seats.
    pub schedule_id: ScheduleId,
    /// Who would have paid.
    pub user_id: UserId,
    /// Points.
    pub amount: i64,
    /// Why.
    pub reason: PaymentFailure,
    /// When it was asked for.
    pub requested_at: Timestamp,
    /// When it ended.
    pub ended_at: Timestamp,
}

/// `payment.refunded`: a completed payment was given back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PaymentRefunded {
    /// The payment.
    pub payment_id: PaymentId,
    /// What had been paid.
    pub reservation_id: ReservationId,
    /// Whose seats.
    pub schedule_id: ScheduleId,
    /// Who got it back.
    pub user_id: UserId,
    /// Points.
    pub amount: i64,
    /// How many seats; 0 in what was told before this was said.
    #[serde(default)]
    pub seats: u32,
    /// When it had been asked for.
    pub requested_at: Timestamp,
    /// When it was given back.
    pub ended_at: Timestamp,
}

/// `payment.withdrawal_cleared`: no payment runs and none is to be given back; nothing new begins for this fan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PaymentWithdrawalCleared {
    /// Who wants to leave.
    pub user_id: UserId,
    /// Which attempt.
    pub attempt: AttemptId,
}

/// `payment.withdrawal_blocked`: something stands in the way of a withdrawal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PaymentWithdrawalBlocked {
    /// Who wants to leave.
    pub user_id: UserId,
    /// Which attempt.
    pub attempt: AttemptId,
    /// What.
    pub reason: WithdrawalReason,
}

crate::events! {
    PaymentRequested = "payment.requested", schedule: |e| Some(e.schedule_id), about: |e| e.payment_id.0;
    PaymentHoldExtensionRequested = "payment.hold_extension_requested", schedule: |e| Some(e.schedule_id), about: |e| e.payment_id.0;
    PaymentCompleted = "payment.completed", schedule: |e| Some(e.schedule_id), about: |e| e.payment_id.0;
    PaymentFailed = "payment.failed", schedule: |e| Some(e.schedule_id), about: |e| e.payment_id.0;
    PaymentRefunded = "payment.refunded", schedule: |e| Some(e.schedule_id), about: |e| e.payment_id.0;
    PaymentWithdrawalCleared = "payment.withdrawal_cleared", schedule: |_| None, about: |e| e.user_id.0;
    PaymentWithdrawalBlocked = "payment.withdrawal_blocked", schedule: |_| None, about: |e| e.user_id.0;
}

/// Pay a hold with the points of the caller's wallet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Pay {
    /// Which hold.
    pub reservation_id: ReservationId,
}

/// Read one payment of the caller's.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GetPayment {
    /// Which.
    pub payment_id: PaymentId,
}

/// List the caller's payments, newest first.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FindPayments {
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// Entries wanted.
    pub limit: Option<u32>,
}

/// A payment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Payment {
    /// Its id, and the id of its saga.
    pub payment_id: PaymentId,
    /// What is paid.
    pub reservation_id: ReservationId,
    /// Whose seats.
    pub schedule_id: ScheduleId,
    /// Who pays.
    pub user_id: UserId,
    /// Points.
    pub amount: i64,
    /// Where it stands.
    pub state: PaymentState,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<PaymentFailure>,
    /// When it was asked for.
    pub requested_at: Timestamp,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}

crate::commands! {
    Pay = "payment.pay", 202 => Payment;
    GetPayment = "payment.get", 200 => Payment;
    FindPayments = "payment.find", 200 => Page<Payment>;
}
