//! What the owners have, page by page: from it other services make again what they have lost
//! and the streams no longer have.
//!
//! Services ask for it, and nobody else: the endpoints lie under `state.` and not under `cmd.`,
//! and the broker lets only those services ask that make something of it. Each answer is bounded. What
//! happens while the pages are read is in the streams.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    Command, PaymentId, ReservationId, ScheduleId, SeatId, Timestamp, UserId, concert::Schedule,
};

/// One page of a state, in the order of its keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stated<T, K> {
    /// What is so.
    pub items: Vec<T>,
    /// Behind which key to go on; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<K>,
}

/// A command that is answered with one page of a state.
pub trait StatePage: Command<Reply = Stated<Self::Item, Self::Key>> {
    /// What is stated.
    type Item: Serialize + DeserializeOwned + Send + 'static;
    /// What it is ordered by.
    type Key: Serialize + DeserializeOwned + Send + 'static;

    /// The page behind this key.
    fn after(self, key: Self::Key) -> Self;
}

/// Every schedule there is, of `concert`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StateSchedules {
    /// Only those behind this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<ScheduleId>,
    /// Only those whose show begins later than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_after: Option<Timestamp>,
}

/// A schedule is so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScheduleStated {
    /// The schedule.
    #[serde(flatten)]
    pub schedule: Schedule,
    /// The title of its concert.
    pub title: String,
}

/// Every seat of a schedule that ever had an owner, of `reservation`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StateSeats {
    /// Which schedule.
    pub schedule_id: ScheduleId,
    /// Only seats behind this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<SeatId>,
}

/// A seat is so.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeatStated {
    /// Which seat.
    pub seat: SeatId,
    /// The fence of its last owner.
    pub hold_version: i64,
    /// Who has it; nobody when it is free again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<SeatOwner>,
}

/// A reservation that has a seat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeatOwner {
    /// Which reservation.
    pub reservation_id: ReservationId,
    /// Whose.
    pub user_id: UserId,
    /// Whether it is paid; otherwise it is a hold.
    pub is_sold: bool,
    /// How many seats it has, this one among them.
    pub seats: u32,
    /// Beyond which a hold never lives.
    pub hard_cap_at: Timestamp,
}

/// Every payment that was completed, of `payment`.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StateSales {
    /// Only payments behind this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<PaymentId>,
}

/// Seats were sold by a payment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SaleStated {
    /// Which payment.
    pub payment_id: PaymentId,
    /// Whose seats.
    pub schedule_id: ScheduleId,
    /// How many.
    pub seats: u32,
    /// When it was completed; of one that was refunded, when it was asked for.
    pub sold_at: Timestamp,
    /// When it was refunded, if it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub returned_at: Option<Timestamp>,
}

crate::commands! {
    StateSchedules = "concert.all_schedules", 200 => Stated<ScheduleStated, ScheduleId>;
    StateSeats = "reservation.all_seats", 200 => Stated<SeatStated, SeatId>;
    StateSales = "payment.all_sales", 200 => Stated<SaleStated, PaymentId>;
}

macro_rules! pages {
    ($($command:ty => $item:ty, $key:ty;)+) => {$(
        impl StatePage for $command {
            type Item = $item;
            type Key = $key;

            fn after(mut self, key: $key) -> Self {
                self.after = Some(key);
                self
            }
        }
    )+};
}
pages! {
    StateSchedules => ScheduleStated, ScheduleId;
    StateSeats => SeatStated, SeatId;
    StateSales => SaleStated, PaymentId;
}
