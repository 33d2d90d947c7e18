//! Concerts, their schedules and seat plans.

use serde::{Deserialize, Serialize};

use crate::{ConcertId, Page, ScheduleId, SeatId, Timestamp, UserId, user::Role};

pub use crate::seats::{
    Epoch, GetSeatChanges, MapState, Seat, SeatChanges, SeatDelta, SeatMap, SeatPlan, SeatState,
    SeatsChanged, SectionCount, SectionTaken,
};

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
    /// Until when a ticket can be given back for its money; `starts_at` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refund_until: Option<Timestamp>,
    /// The room's pace.
    pub admission: Admission,
    /// Seconds a hold lives.
    pub hold_secs: u32,
    /// Seats one fan may hold or own.
    pub seats_per_fan_max: u32,
    /// All seats, row by row.
    pub seats: Vec<SeatBlock>,
    /// Who put it on sale.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Actor>,
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
    /// Who called it off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Actor>,
}

/// Who did something, and by which right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Actor {
    /// The account.
    pub user_id: UserId,
    /// `organizer` for one of the concert's own; `operator` for whoever acts in their place.
    pub role: Role,
}

/// `concert.organizer_added`: one more account acts on a concert. Whoever enters a concert is
/// its first organizer, of which nothing is emitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OrganizerAdded {
    /// The concert.
    pub concert_id: ConcertId,
    /// Who acts on it from now on.
    pub user_id: UserId,
    /// Who has added them.
    pub by: Actor,
    /// When.
    pub at: Timestamp,
}

/// `concert.organizer_removed`: an account acts on a concert no more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OrganizerRemoved {
    /// The concert.
    pub concert_id: ConcertId,
    /// Who acted on it.
    pub user_id: UserId,
    /// Who has removed them; absent when the account was closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Actor>,
    /// How many organizers are left. With none, the concert is in the operators' hands.
    pub left: u32,
    /// When.
    pub at: Timestamp,
}

crate::events! {
    ScheduleOpened = "concert.schedule_opened", schedule: |e| Some(e.schedule_id), about: |e| e.schedule_id.0;
    ScheduleCancelled = "concert.schedule_cancelled", schedule: |e| Some(e.schedule_id), about: |e| e.schedule_id.0;
    OrganizerAdded = "concert.organizer_added", schedule: |_| None, about: |e| e.concert_id.0;
    OrganizerRemoved = "concert.organizer_removed", schedule: |_| None, about: |e| e.concert_id.0;
}

/// Enter a concert (organizer, operator).
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

/// Put a performance of a concert on sale (an organizer of the concert, operator).
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
    /// Until when a ticket can be given back for its money, `starts_at` at the latest and when
    /// absent; a moment that is past means never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refund_until: Option<Timestamp>,
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

/// Call a performance off (an organizer of the concert, operator): every hold ends, every
/// payment is returned.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CancelSchedule {
    /// Which; over HTTP it comes from the path.
    pub schedule_id: ScheduleId,
    /// Why, for the fans; at most 500 characters.
    #[serde(default)]
    pub reason: String,
}

/// Let one more account act on a concert (an organizer of the concert, operator).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AddOrganizer {
    /// Which concert.
    pub concert_id: ConcertId,
    /// Who: an account with the role `organizer`.
    pub user_id: UserId,
}

/// Let an account act on a concert no more (an organizer of the concert, operator). The last
/// one stays.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RemoveOrganizer {
    /// Which concert.
    pub concert_id: ConcertId,
    /// Who.
    pub user_id: UserId,
}

/// Read who acts on a concert (organizer, operator).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GetOrganizers {
    /// Which concert.
    pub concert_id: ConcertId,
}

/// Who acts on a concert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Organizers {
    /// The concert.
    pub concert_id: ConcertId,
    /// Its organizers, the first one first. With none, the concert is in the operators' hands.
    pub organizers: Vec<Organizer>,
}

/// One organizer of a concert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Organizer {
    /// The account.
    pub user_id: UserId,
    /// Since when.
    pub since: Timestamp,
    /// Who has added them; absent for whoever entered the concert.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added_by: Option<Actor>,
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
    /// The show has begun, and sales have ended.
    Closed,
    /// Called off.
    Cancelled,
}

/// How a performance was called off.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Cancellation {
    /// When.
    pub at: Timestamp,
    /// Why, for the fans.
    pub reason: String,
    /// Who did it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Actor>,
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
    /// Until when a ticket can be given back for its money.
    pub refund_until: Timestamp,
    /// Whether it can be bought.
    pub state: ScheduleState,
    /// How it was called off, once it was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancelled: Option<Cancellation>,
    /// The room's pace.
    pub admission: Admission,
    /// Seconds a hold lives.
    pub hold_secs: u32,
    /// Seats one fan may hold or own.
    pub seats_per_fan_max: u32,
    /// Number of its seats.
    pub seats_total: i64,
}

crate::commands! {
    CreateConcert = "concert.create", 201 => Concert;
    OpenSchedule = "concert.open_schedule", 201 => Schedule;
    CancelSchedule = "concert.cancel_schedule", 202 => Schedule;
    AddOrganizer = "concert.add_organizer", 200 => Organizers;
    RemoveOrganizer = "concert.remove_organizer", 200 => Organizers;
    GetOrganizers = "concert.organizers", 200 => Organizers;
    FindConcerts = "concert.find", 200 => Page<Concert>;
    GetConcert = "concert.get", 200 => Concert;
    FindSchedules = "concert.schedules", 200 => Page<Schedule>;
    GetPlan = "concert.plan", 200 => SeatPlan;
    GetSeats = "concert.seats", 200 => SeatMap;
    GetSeatChanges = "concert.seat_changes", 200 => SeatChanges;
}
