//! Concerts, their schedules and seat plans.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{ConcertId, Page, ScheduleId, SeatId, Timestamp};

/// How fast and how far the waiting room lets fans through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct Admission {
    /// Fans admitted each second at most.
    pub per_second: u32,
    /// ACTIVE fans at any time at most.
    pub active_max: u32,
    /// Seconds an admitted fan has to reserve.
    pub pass_secs: u32,
}

impl Default for Admission {
    fn default() -> Self {
        Self { per_second: 100, active_max: 1_000, pass_secs: 300 }
    }
}

/// Seats of one row at one price, in the order of the plan.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SeatBlock {
    /// For example `A`.
    pub section: String,
    /// For example `12`; empty for a standing area.
    pub row: String,
    /// Points for each of these seats.
    pub price: i64,
    /// For example `["1","2","3"]`.
    pub seats: Vec<String>,
}

impl SeatBlock {
    /// The ids of these seats.
    pub fn ids(&self) -> impl Iterator<Item = SeatId> + '_ {
        self.seats.iter().map(|seat| SeatId::new(&self.section, &self.row, seat))
    }
}

/// `concert.schedule_opened`: a schedule with its seats exists; its room opens at once,
/// and fans are admitted from `opens_at`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ScheduleOpened {
    /// The schedule.
    pub schedule_id: ScheduleId,
    /// The concert it performs.
    pub concert_id: ConcertId,
    /// The concert's title.
    pub title: String,
    /// Where.
    pub venue: String,
    /// When the show begins; sales end then.
    pub starts_at: Timestamp,
    /// When the first fan is admitted.
    pub opens_at: Timestamp,
    /// The room's pace.
    pub admission: Admission,
    /// Seconds a hold lives.
    pub hold_secs: u32,
    /// Seats one fan may hold or own.
    pub seats_per_fan_max: u32,
    /// All seats, row by row.
    pub seats: Vec<SeatBlock>,
}

/// `concert.schedule_cancelled`: the show will not take place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ScheduleCancelled {
    /// The schedule.
    pub schedule_id: ScheduleId,
    /// The concert it would have performed.
    pub concert_id: ConcertId,
    /// Why, for the fans.
    pub reason: String,
}

crate::facts! {
    ScheduleOpened = "concert.schedule_opened", schedule: |e| Some(e.schedule_id), about: |e| e.schedule_id.0;
    ScheduleCancelled = "concert.schedule_cancelled", schedule: |e| Some(e.schedule_id), about: |e| e.schedule_id.0;
}

/// Enter a concert (organizer).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreateConcert {
    /// 1 to 200 characters.
    pub title: String,
    /// Who plays; 1 to 200 characters.
    pub artist: String,
    /// For the fans; at most 5,000 characters.
    #[serde(default)]
    pub description: String,
}

/// Put a performance of a concert on sale (organizer).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OpenSchedule {
    /// Which concert; over HTTP it comes from the path.
    pub concert_id: ConcertId,
    /// Where; 1 to 200 characters.
    pub venue: String,
    /// When the show begins.
    pub starts_at: Timestamp,
    /// When the first fan is admitted; now when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opens_at: Option<Timestamp>,
    /// The room's pace.
    #[serde(default)]
    pub admission: Admission,
    /// Seconds a hold lives, 1 to 3600; 300 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_secs: Option<u32>,
    /// Seats one fan may hold or own, 1 to 100; 4 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seats_per_fan_max: Option<u32>,
    /// CSV whose header names `section`, `row`, `seat` and `price`, one line a seat. The name
    /// of each has up to 64 characters; `1-300` as `seat` stands for as many seats.
    pub seat_plan: String,
}

/// Call a performance off (organizer): every hold ends, every payment is returned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CancelSchedule {
    /// Which; over HTTP it comes from the path.
    pub schedule_id: ScheduleId,
    /// Why, for the fans; at most 500 characters.
    #[serde(default)]
    pub reason: String,
}

/// Find concerts.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FindConcerts {
    /// Words that title or artist contain, each from its beginning.
    pub q: Option<String>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// Entries wanted.
    pub limit: Option<u32>,
}

/// Read one concert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GetConcert {
    /// Which.
    pub concert_id: ConcertId,
}

/// List the schedules of a concert.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FindSchedules {
    /// Which concert.
    pub concert_id: ConcertId,
    /// `next_cursor` of the page before.
    #[serde(default)]
    pub cursor: Option<String>,
    /// Entries wanted.
    #[serde(default)]
    pub limit: Option<u32>,
}

/// Read the seat plan of a schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GetPlan {
    /// Which schedule.
    pub schedule_id: ScheduleId,
}

/// Read which seats of a schedule are not free.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GetSeats {
    /// Which schedule.
    pub schedule_id: ScheduleId,
    /// Only this section.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section: Option<String>,
}

/// A concert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Concert {
    /// Its id.
    pub concert_id: ConcertId,
    /// What it is called.
    pub title: String,
    /// Who plays.
    pub artist: String,
    /// For the fans.
    pub description: String,
    /// When it was entered.
    pub created_at: Timestamp,
}

/// Whether a schedule can be bought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum ScheduleState {
    /// On sale from `opens_at` to `starts_at`.
    Open,
    /// Called off.
    Cancelled,
}

/// One performance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Schedule {
    /// Its id.
    pub schedule_id: ScheduleId,
    /// The concert it performs.
    pub concert_id: ConcertId,
    /// Where.
    pub venue: String,
    /// When the show begins.
    pub starts_at: Timestamp,
    /// When the first fan is admitted.
    pub opens_at: Timestamp,
    /// Whether it can be bought.
    pub state: ScheduleState,
    /// The room's pace.
    pub admission: Admission,
    /// Seconds a hold lives.
    pub hold_secs: u32,
    /// Seats one fan may hold or own.
    pub seats_per_fan_max: u32,
    /// Number of its seats.
    pub seats_total: i64,
}

/// What the map shows of a seat.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum SeatState {
    /// Can be reserved.
    Free,
    /// Somebody has it for a while.
    Held,
    /// Paid.
    Sold,
}

/// One seat on the map.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Seat {
    /// Its id: `SECTION-ROW-SEAT`, with a `_` for a `-` inside a name.
    pub seat: SeatId,
    /// What the map shows. The reservation service alone decides; this may be a moment old.
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

/// Which making of a seat map: one that was made anew has another, and its sequence begins
/// anew. 16 hex digits on the wire.
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

/// The seat map of a schedule: what its plan does not say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SeatMap {
    /// The schedule.
    pub schedule_id: ScheduleId,
    /// Which making of the map this is.
    pub epoch: Epoch,
    /// How many changes this map has seen.
    pub sequence: u64,
    /// Counts of each section, in the order of the plan.
    pub sections: Vec<SectionCount>,
    /// The seats that are not free; all others of the plan are.
    pub seats: Vec<Seat>,
}

impl SeatMap {
    /// What the map shows of a seat of the plan.
    pub fn state_of(&self, seat: &SeatId) -> SeatState {
        let shown = self.seats.iter().find(|shown| shown.seat == *seat);
        shown.map_or(SeatState::Free, |shown| shown.state)
    }
}

/// Read how a seat map has changed since a place in its history.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GetSeatChanges {
    /// Which schedule.
    pub schedule_id: ScheduleId,
    /// The epoch of the map that is known.
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
    /// How many changes it has seen.
    pub sequence: u64,
    /// Whether the changes asked for are not known, or no longer: the map has to be read.
    pub is_gone: bool,
    /// The changes in order, without a hole; perhaps not yet all up to `sequence`.
    pub deltas: Vec<SeatDelta>,
}

/// One change of a seat map.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SeatDelta {
    /// The sequence of the map after it.
    pub sequence: u64,
    /// The sections that it touched, as they are after it.
    pub sections: Vec<SectionTaken>,
    /// The seats that it changed.
    pub seats: Vec<Seat>,
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

/// `live.concert.seats.<schedule>`: a [`SeatDelta`] as it happens, for whoever listens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeatsChanged {
    /// The epoch of the map.
    pub epoch: Epoch,
    /// The change.
    pub delta: SeatDelta,
}

impl SeatsChanged {
    /// What it is announced under.
    pub const NAME: &'static str = "concert.seats";
}

crate::commands! {
    CreateConcert = "concert.create", 201 => Concert;
    OpenSchedule = "concert.open_schedule", 201 => Schedule;
    CancelSchedule = "concert.cancel_schedule", 202 => Schedule;
    FindConcerts = "concert.find", 200 => Page<Concert>;
    GetConcert = "concert.get", 200 => Concert;
    FindSchedules = "concert.schedules", 200 => Page<Schedule>;
    GetPlan = "concert.plan", 200 => SeatPlan;
    GetSeats = "concert.seats", 200 => SeatMap;
    GetSeatChanges = "concert.seat_changes", 200 => SeatChanges;
}
