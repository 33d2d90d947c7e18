//! Rankings: what sells most, and what sold out fastest.

use serde::{Deserialize, Serialize};

use crate::{ConcertId, ScheduleId, Timestamp};

/// What concerts are ranked by.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum RankBy {
    /// Seats sold within the window, most first.
    #[default]
    Sold,
    /// Time from opening to the last seat, fastest first; the window does not matter.
    SellOut,
}

/// How far back sales count; the step in which a window slides is a minute, ten minutes, an
/// hour.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum Window {
    /// The last hour.
    #[serde(rename = "1h")]
    Hour,
    /// The last 24 hours.
    #[default]
    #[serde(rename = "24h")]
    Day,
    /// The last 7 days.
    #[serde(rename = "7d")]
    Week,
}

/// Rank concerts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct RankConcerts {
    /// By what.
    pub by: RankBy,
    /// How far back.
    pub window: Window,
    /// Places wanted, 1 to 100; 10 when absent.
    pub limit: Option<u32>,
}

/// A ranking of concerts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ConcertRanking {
    /// By what.
    pub by: RankBy,
    /// How far back.
    pub window: Window,
    /// As of when.
    pub at: Timestamp,
    /// The places, first to last.
    pub places: Vec<RankedConcert>,
}

/// One place of a ranking.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RankedConcert {
    /// 1 is first; equals share a place.
    pub place: u32,
    /// The concert.
    pub concert_id: ConcertId,
    /// What it is called.
    pub title: String,
    /// Seats sold within the window; absent when ranked by sell-out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seats_sold: Option<i64>,
    /// Milliseconds from opening to the last seat; absent when ranked by seats sold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sell_out_ms: Option<i64>,
    /// The schedule that sold out so fast; absent when ranked by seats sold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_id: Option<ScheduleId>,
}

crate::commands! {
    RankConcerts = "ranking.concerts", 200 => ConcertRanking;
}
