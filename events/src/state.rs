//! The state of the owning services, page by page. Other services rebuild from it what they
//! have lost and the streams no longer have.
//!
//! Only services may ask for it: the endpoints lie under `state.` and not under `cmd.`, and the
//! broker grants them only to the services that rebuild from them. Each answer is bounded. What
//! happens while the pages are read is in the streams.

use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    Command, PaymentId, ReservationId, ScheduleId, SeatId, Timestamp, UserId, concert::Schedule,
};

/// One page of a state, in the order of its keys.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Stated<T, K> {
    /// The entries of this page.
    pub items: Vec<T>,
    /// The key after which to continue; absent on the last page.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<K>,
}

/// A query whose answer is one page of a state.
pub trait StatePage: Command<Reply = Stated<Self::Item, Self::Key>> {
    /// One entry of the state.
    type Item: Serialize + DeserializeOwned + Send + 'static;
    /// The key that the state is ordered by.
    type Key: Serialize + DeserializeOwned + Send + 'static;

    /// The query for the page after this key.
    fn after(self, key: Self::Key) -> Self;
}

/// Ask `concert` for every schedule.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StateSchedules {
    /// Only schedules after this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<ScheduleId>,
    /// Only schedules whose show begins later than this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts_after: Option<Timestamp>,
}

/// A schedule in the state of `concert`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ScheduleStated {
    /// The schedule.
    #[serde(flatten)]
    pub schedule: Schedule,
    /// The title of its concert.
    pub title: String,
}

/// Ask `reservation` for every seat of a schedule that ever had an owner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct StateSeats {
    /// The schedule.
    pub schedule_id: ScheduleId,
    /// Only seats after this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<SeatId>,
}

/// A seat in the state of `reservation`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeatStated {
    /// The seat.
    pub seat: SeatId,
    /// The fence of its last owner.
    pub hold_version: i64,
    /// The reservation that has it; absent when it is free again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<SeatOwner>,
}

/// A reservation that has a seat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeatOwner {
    /// The reservation.
    pub reservation_id: ReservationId,
    /// The fan it belongs to.
    pub user_id: UserId,
    /// Whether it is paid; otherwise it is a hold.
    pub is_sold: bool,
    /// How many seats it has, including this one.
    pub seats: u32,
    /// The latest time at which a hold can end.
    pub hard_cap_at: Timestamp,
}

/// Ask `payment` for every payment that was completed.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StateSales {
    /// Only payments after this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<PaymentId>,
}

/// A completed payment in the state of `payment`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SaleStated {
    /// The payment.
    pub payment_id: PaymentId,
    /// The schedule of the seats.
    pub schedule_id: ScheduleId,
    /// How many seats were sold.
    pub seats: u32,
    /// When it was completed; for a refunded payment, when it was requested.
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
