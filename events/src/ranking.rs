//! Rankings: the best-selling concerts, and the fastest to sell out.

use serde::{Deserialize, Serialize};

use crate::{ConcertId, ScheduleId, Timestamp};

/// The criterion of a ranking.
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

/// How far back sales count. The windows slide in steps of a minute, ten minutes and an hour.
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
    /// The criterion.
    pub by: RankBy,
    /// How far back sales count.
    pub window: Window,
    /// The number of places wanted, 1 to 100; 10 when absent.
    pub limit: Option<u32>,
}

/// A ranking of concerts.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ConcertRanking {
    /// The criterion.
    pub by: RankBy,
    /// How far back sales count.
    pub window: Window,
    /// The time of this ranking.
    pub at: Timestamp,
    /// The places, first to last.
    pub places: Vec<RankedConcert>,
}

/// One place of a ranking.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RankedConcert {
    /// 1 is first; equal concerts share a place.
    pub place: u32,
    /// The concert.
    pub concert_id: ConcertId,
    /// Its title.
    pub title: String,
    /// Seats sold within the window; absent when ranked by sell-out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seats_sold: Option<i64>,
    /// Milliseconds from opening to the last seat; absent when ranked by seats sold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sell_out_ms: Option<i64>,
    /// The schedule that sold out in this time; absent when ranked by seats sold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule_id: Option<ScheduleId>,
}

crate::commands! {
    RankConcerts = "ranking.concerts", 200 => ConcertRanking;
}
