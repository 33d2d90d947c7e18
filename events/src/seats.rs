//! Seat plans and seat maps: all seats of a schedule, and those that are not free.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{ScheduleId, SeatId, concert::SeatBlock};

/// The state of a seat on the map.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum SeatState {
    /// Can be reserved.
    Free,
    /// A fan holds it for a while.
    Held,
    /// Paid.
    Sold,
}

/// One seat on the map.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Seat {
    /// Its id: `SECTION-ROW-SEAT`.
    pub seat: SeatId,
    /// Its state. The reservation service alone decides; this may be a moment old.
    pub state: SeatState,
}

/// Seats of one section by state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SectionCount {
    /// The section.
    pub section: String,
    /// Can be reserved.
    pub free: i64,
    /// Held.
    pub held: i64,
    /// Paid.
    pub sold: i64,
}

/// The seat plan of a schedule. It never changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SeatPlan {
    /// The schedule.
    pub schedule_id: ScheduleId,
    /// Every seat with its price, in the order of the plan.
    pub seats: Vec<SeatBlock>,
}

/// The generation of a seat map. A map that is rebuilt gets a new epoch, and its sequence
/// starts again. 16 hex digits on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(value_type = String))]
#[serde(try_from = "String", into = "String")]
pub struct Epoch(pub u64);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl From<Epoch> for String {
    fn from(epoch: Epoch) -> Self {
        epoch.to_string()
    }
}

impl FromStr for Epoch {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        let number = match text.len() == 16 && text.bytes().all(is_hex) {
            true => u64::from_str_radix(text, 16).ok(),
            false => None,
        };
        number.map(Self).ok_or("an epoch has 16 hex digits")
    }
}

impl TryFrom<String> for Epoch {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

/// Whether the free seats of a seat map can be reserved.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum MapState {
    /// They can, until the show begins.
    #[default]
    Open,
    /// The show is cancelled: no seat is free, and those that are held or sold are given back.
    Cancelled,
}

/// The seat map of a schedule: the states of its seats, without the plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SeatMap {
    /// The schedule.
    pub schedule_id: ScheduleId,
    /// The epoch of the map.
    pub epoch: Epoch,
    /// How many changes this map has had.
    pub sequence: u64,
    /// Whether the show takes place.
    #[serde(default)]
    pub state: MapState,
    /// Counts of each section, in the order of the plan.
    pub sections: Vec<SectionCount>,
    /// The seats that are held or sold. While the map is `open`, all other seats of the plan
    /// are free; once it is `cancelled`, none is free.
    pub seats: Vec<Seat>,
}

impl SeatMap {
    /// The state of a seat of the plan; `None` when the show is cancelled and the seat has no
    /// owner.
    pub fn state_of(&self, seat: &SeatId) -> Option<SeatState> {
        let shown = self.seats.iter().find(|shown| shown.seat == *seat);
        let free = (self.state == MapState::Open).then_some(SeatState::Free);
        shown.map(|shown| shown.state).or(free)
    }
}

/// Read how a seat map has changed since a position in its history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GetSeatChanges {
    /// The schedule.
    pub schedule_id: ScheduleId,
    /// The epoch of the map that the client has.
    pub epoch: Epoch,
    /// Its sequence.
    pub sequence: u64,
}

/// How a seat map has changed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SeatChanges {
    /// The epoch of the map.
    pub epoch: Epoch,
    /// How many changes it has had.
    pub sequence: u64,
    /// Whether the requested changes are unknown or no longer kept: the map must be read again.
    pub is_gone: bool,
    /// The changes in order, without a gap; perhaps not yet all up to `sequence`.
    pub deltas: Vec<SeatDelta>,
}

/// One change of a seat map: of one reservation, or of many that changed at the same time.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SeatDelta {
    /// The sequence of the map after it.
    pub sequence: u64,
    /// The counts of the sections that it touched: after it, or after the last one of those that
    /// were made together, when they were too large for one.
    pub sections: Vec<SectionTaken>,
    /// The seats that it changed.
    pub seats: Vec<Seat>,
    /// The state of the map, if that has changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub state: Option<MapState>,
}

/// Seats of one section that are not free.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SectionTaken {
    /// The section.
    pub section: String,
    /// Held.
    pub held: i64,
    /// Paid.
    pub sold: i64,
}

/// `live.concert.seats.<schedule>`: a [`SeatDelta`] as it happens, for live subscribers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeatsChanged {
    /// The epoch of the map.
    pub epoch: Epoch,
    /// The change.
    pub delta: SeatDelta,
}

impl SeatsChanged {
    /// The name under which it is announced.
    pub const NAME: &'static str = "concert.seats";
}
