//! Payments: each one is a saga from request to end.

use serde::{Deserialize, Serialize};

use crate::{
    AttemptId, Page, PaymentId, ReservationId, ScheduleId, Timestamp, UserId, audit::SagaState,
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
    /// Nothing was taken, or everything was given back.
    Failed,
    /// Completed once; the money has been given back since.
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

impl PaymentFailure {
    /// Its name on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::InsufficientBalance => "insufficient_balance",
            Self::NoWallet => "no_wallet",
            Self::HoldGone => "hold_gone",
            Self::ShowCancelled => "show_cancelled",
        }
    }

    /// How the saga of a payment that failed so has ended: where points were taken, they were
    /// given back.
    pub fn outcome(self) -> SagaState {
        match self {
            Self::InsufficientBalance | Self::NoWallet => SagaState::Failed,
            Self::HoldGone | Self::ShowCancelled => SagaState::Compensated,
        }
    }
}

/// `payment.requested`: a fan asked to pay a hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PaymentRequested {
    /// The payment.
    pub payment_id: PaymentId,
    /// The reservation that is paid.
    pub reservation_id: ReservationId,
    /// The schedule of the seats.
    pub schedule_id: ScheduleId,
    /// The fan who pays.
    pub user_id: UserId,
    /// Points.
    pub amount: i64,
    /// The fence of the hold.
    pub hold_version: i64,
    /// When it was requested.
    pub requested_at: Timestamp,
}

/// `payment.hold_extension_requested`: a payment has begun while its hold had less than a
/// minute left. Emitted together with `payment.requested`. Nothing follows when the hold was
/// extended before, or has ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PaymentHoldExtensionRequested {
    /// The payment.
    pub payment_id: PaymentId,
    /// The hold.
    pub reservation_id: ReservationId,
    /// The schedule of the seats.
    pub schedule_id: ScheduleId,
    /// The fan who pays.
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
    /// The reservation that was paid.
    pub reservation_id: ReservationId,
    /// The schedule of the seats.
    pub schedule_id: ScheduleId,
    /// The fan who paid.
    pub user_id: UserId,
    /// Points.
    pub amount: i64,
    /// How many seats; 0 in events emitted before this member existed.
    #[serde(default)]
    pub seats: u32,
    /// When it was requested.
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
    /// The reservation that was to be paid.
    pub reservation_id: ReservationId,
    /// The schedule of the seats.
    pub schedule_id: ScheduleId,
    /// The fan who would have paid.
    pub user_id: UserId,
    /// Points.
    pub amount: i64,
    /// Why it failed.
    pub reason: PaymentFailure,
    /// When it was requested.
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
    /// The reservation that had been paid.
    pub reservation_id: ReservationId,
    /// The schedule of the seats.
    pub schedule_id: ScheduleId,
    /// The fan who got the points back.
    pub user_id: UserId,
    /// Points.
    pub amount: i64,
    /// How many seats; 0 in events emitted before this member existed.
    #[serde(default)]
    pub seats: u32,
    /// When it had been requested.
    pub requested_at: Timestamp,
    /// When it was given back.
    pub ended_at: Timestamp,
}

/// `payment.withdrawal_cleared`: no payment runs and no refund is due; nothing new begins for
/// this fan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PaymentWithdrawalCleared {
    /// The fan who wants to close the account.
    pub user_id: UserId,
    /// The attempt.
    pub attempt: AttemptId,
}

/// `payment.withdrawal_blocked`: something blocks a withdrawal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PaymentWithdrawalBlocked {
    /// The fan who wants to close the account.
    pub user_id: UserId,
    /// The attempt.
    pub attempt: AttemptId,
    /// What blocks it.
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
    /// The hold to pay.
    pub reservation_id: ReservationId,
}

/// Read one of the caller's payments.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GetPayment {
    /// The payment.
    pub payment_id: PaymentId,
}

/// List the caller's payments, newest first.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FindPayments {
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// The number of entries wanted.
    pub limit: Option<u32>,
}

/// A payment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Payment {
    /// Its id, and the id of its saga.
    pub payment_id: PaymentId,
    /// The reservation that is paid.
    pub reservation_id: ReservationId,
    /// The schedule of the seats.
    pub schedule_id: ScheduleId,
    /// The fan who pays.
    pub user_id: UserId,
    /// Points.
    pub amount: i64,
    /// Its state.
    pub state: PaymentState,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<PaymentFailure>,
    /// When it was requested.
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
