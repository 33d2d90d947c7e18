//! Wallets and the double-entry ledger.

use serde::{Deserialize, Serialize};

use crate::{
    AttemptId, EntryId, Page, PaymentId, ReservationId, ScheduleId, Timestamp, UserId,
    reservation::CancelReason, withdrawal::WithdrawalReason,
};

/// Why points moved.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum EntryKind {
    /// Bought by the fan.
    Charge,
    /// Taken for a payment.
    Debit,
    /// Given back for a payment.
    Refund,
    /// Given up when the account was closed.
    Forfeit,
}

/// Why a payment could not be taken from a wallet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum DebitRefusal {
    /// Too few points.
    InsufficientBalance,
    /// The wallet is closed or was never opened.
    NoWallet,
}

/// Why a payment was given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RefundReason {
    /// The hold was gone before it could be confirmed: the payment never completed.
    HoldGone,
    /// A confirmed reservation was cancelled: the payment had completed.
    Cancelled,
}

/// `point.charged`: a fan bought points.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PointCharged {
    /// The owner of the wallet.
    pub user_id: UserId,
    /// The ledger entry.
    pub entry_id: EntryId,
    /// Points.
    pub amount: i64,
    /// Points in the wallet afterwards.
    pub balance: i64,
}

/// `point.debited`: a payment was taken from a wallet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PointDebited {
    /// The owner of the wallet.
    pub user_id: UserId,
    /// The payment.
    pub payment_id: PaymentId,
    /// The hold.
    pub reservation_id: ReservationId,
    /// The schedule of the seats.
    pub schedule_id: ScheduleId,
    /// The fence of the hold.
    pub hold_version: i64,
    /// Points.
    pub amount: i64,
    /// Points in the wallet afterwards.
    pub balance: i64,
}

/// `point.debit_refused`: a payment could not be taken.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PointDebitRefused {
    /// The owner of the wallet.
    pub user_id: UserId,
    /// The payment.
    pub payment_id: PaymentId,
    /// The hold.
    pub reservation_id: ReservationId,
    /// The schedule of the seats.
    pub schedule_id: ScheduleId,
    /// The points that the payment needs.
    pub amount: i64,
    /// Points in the wallet.
    pub balance: i64,
    /// Why it was refused.
    pub reason: DebitRefusal,
}

/// `point.refunded`: a payment was given back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PointRefunded {
    /// The owner of the wallet.
    pub user_id: UserId,
    /// The payment.
    pub payment_id: PaymentId,
    /// The schedule of the seats.
    pub schedule_id: ScheduleId,
    /// Points.
    pub amount: i64,
    /// Points in the wallet afterwards.
    pub balance: i64,
    /// Why; it distinguishes a payment that never completed from one that did.
    pub reason: RefundReason,
    /// Why the seats were gone, when they were given back or the show was called off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub because: Option<CancelReason>,
}

/// `point.forfeited`: the points left in the wallet of a closed account were given up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PointForfeited {
    /// The owner of the wallet.
    pub user_id: UserId,
    /// The ledger entry.
    pub entry_id: EntryId,
    /// Points.
    pub amount: i64,
    /// Points in the wallet afterwards.
    pub balance: i64,
}

/// `point.withdrawal_cleared`: no points are left, or the fan gives them up; nothing new begins
/// for this fan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PointWithdrawalCleared {
    /// The fan who wants to close the account.
    pub user_id: UserId,
    /// The attempt.
    pub attempt: AttemptId,
}

/// `point.withdrawal_blocked`: something blocks a withdrawal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct PointWithdrawalBlocked {
    /// The fan who wants to close the account.
    pub user_id: UserId,
    /// The attempt.
    pub attempt: AttemptId,
    /// What blocks it.
    pub reason: WithdrawalReason,
}

crate::events! {
    PointCharged = "point.charged", schedule: |_| None, about: |e| e.user_id.0;
    PointDebited = "point.debited", schedule: |e| Some(e.schedule_id), about: |e| e.payment_id.0;
    PointDebitRefused = "point.debit_refused", schedule: |e| Some(e.schedule_id), about: |e| e.payment_id.0;
    PointRefunded = "point.refunded", schedule: |e| Some(e.schedule_id), about: |e| e.payment_id.0;
    PointForfeited = "point.forfeited", schedule: |_| None, about: |e| e.user_id.0;
    PointWithdrawalCleared = "point.withdrawal_cleared", schedule: |_| None, about: |e| e.user_id.0;
    PointWithdrawalBlocked = "point.withdrawal_blocked", schedule: |_| None, about: |e| e.user_id.0;
}

/// Buy points for the caller's wallet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Charge {
    /// 1 to 10,000,000.
    pub amount: i64,
}

/// Read the balance of the caller's wallet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GetBalance {}

/// List the entries of the caller's wallet, newest first.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FindEntries {
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// The number of entries wanted.
    pub limit: Option<u32>,
}

/// A wallet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Balance {
    /// The owner of the wallet.
    pub user_id: UserId,
    /// Points in it.
    pub balance: i64,
}

/// One movement of a wallet.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Entry {
    /// Its id.
    pub entry_id: EntryId,
    /// Why points moved.
    pub kind: EntryKind,
    /// Points; positive into the wallet, negative out of it.
    pub amount: i64,
    /// Points in the wallet afterwards.
    pub balance: i64,
    /// The payment behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment_id: Option<PaymentId>,
    /// When points moved.
    pub at: Timestamp,
}

crate::commands! {
    Charge = "point.charge", 201 => Entry;
    GetBalance = "point.balance", 200 => Balance;
    FindEntries = "point.entries", 200 => Page<Entry>;
}
