//! Concerts, their schedules and seat plans.

use serde::{Deserialize, Serialize};

use crate::{ConcertId, Page, ScheduleId, SeatId, Timestamp, UserId, user::Role};

pub use crate::seats::{
    Epoch, GetSeatChanges, MapState, Seat, SeatChanges, SeatDelta, SeatMap, SeatPlan, SeatState,
    SeatsChanged, SectionCount, SectionTaken,
};

/// How fast the waiting room admits fans, and how many at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct Admission {
    /// The most fans admitted each second.
    pub per_second: u32,
    /// The most ACTIVE fans at any time.
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
    /// The venue.
    pub venue: String,
    /// When the show begins; sales end then.
    pub starts_at: Timestamp,
    /// When the first fan is admitted.
    pub opens_at: Timestamp,
    /// Until when a ticket can be given back for its money; `starts_at` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refund_until: Option<Timestamp>,
    /// The pace of the waiting room.
    pub admission: Admission,
    /// Seconds a hold lives.
    pub hold_secs: u32,
    /// Seats one fan may hold or own.
    pub seats_per_fan_max: u32,
    /// All seats, row by row.
    pub seats: Vec<SeatBlock>,
    /// The account that put it on sale.
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
    /// The account that cancelled it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Actor>,
}

/// The account that did something, and the role it acted in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Actor {
    /// The account.
    pub user_id: UserId,
    /// `organizer` for an organizer of the concert; `operator` for an operator who acts for them.
    pub role: Role,
}

/// `concert.organizer_added`: one more account may manage a concert. The account that enters a
/// concert is its first organizer; no event is emitted for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OrganizerAdded {
    /// The concert.
    pub concert_id: ConcertId,
    /// The new organizer.
    pub user_id: UserId,
    /// The account that added the organizer.
    pub by: Actor,
    /// When it was added.
    pub at: Timestamp,
}

/// `concert.organizer_removed`: an account may no longer manage a concert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OrganizerRemoved {
    /// The concert.
    pub concert_id: ConcertId,
    /// The former organizer.
    pub user_id: UserId,
    /// The account that removed the organizer; absent when the organizer's account was closed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<Actor>,
    /// How many organizers are left. With none, only operators can manage the concert.
    pub left: u32,
    /// When it was removed.
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
    /// The title; 1 to 200 characters.
    pub title: String,
    /// The artist; 1 to 200 characters.
    pub artist: String,
    /// A description for the fans; at most 5,000 characters.
    #[serde(default)]
    pub description: String,
}

/// Put a performance of a concert on sale (an organizer of the concert, operator).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OpenSchedule {
    /// The concert; over HTTP it comes from the path.
    pub concert_id: ConcertId,
    /// The venue; 1 to 200 characters.
    pub venue: String,
    /// When the show begins.
    pub starts_at: Timestamp,
    /// When the first fan is admitted; now when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub opens_at: Option<Timestamp>,
    /// Until when a ticket can be given back for its money; `starts_at` at the latest, and when
    /// absent. A time in the past means never.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refund_until: Option<Timestamp>,
    /// The pace of the waiting room.
    #[serde(default)]
    pub admission: Admission,
    /// Seconds a hold lives, 1 to 3600; 300 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold_secs: Option<u32>,
    /// Seats one fan may hold or own, 1 to 100; 4 when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seats_per_fan_max: Option<u32>,
    /// CSV with the header `section`, `row`, `seat`, `price` and one line for each seat. Names
    /// have up to 64 characters; `1-300` as `seat` stands for 300 seats.
    pub seat_plan: String,
}

/// Cancel a performance (an organizer of the concert, operator): every hold ends, and every
/// payment is refunded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CancelSchedule {
    /// The schedule; over HTTP it comes from the path.
    pub schedule_id: ScheduleId,
    /// Why, for the fans; at most 500 characters.
    #[serde(default)]
    pub reason: String,
}

/// Let one more account manage a concert (an organizer of the concert, operator).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct AddOrganizer {
    /// The concert.
    pub concert_id: ConcertId,
    /// The new organizer: an account with the role `organizer`.
    pub user_id: UserId,
}

/// Remove an organizer of a concert (an organizer of the concert, operator). The last one
/// stays.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RemoveOrganizer {
    /// The concert.
    pub concert_id: ConcertId,
    /// The organizer to remove.
    pub user_id: UserId,
}

/// List the organizers of a concert (organizer, operator).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GetOrganizers {
    /// The concert.
    pub concert_id: ConcertId,
}

/// The organizers of a concert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Organizers {
    /// The concert.
    pub concert_id: ConcertId,
    /// Its organizers, the first one first. With none, only operators can manage the concert.
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
    /// The account that added the organizer; absent for the account that entered the concert.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added_by: Option<Actor>,
}

/// Find concerts.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FindConcerts {
    /// The beginnings of words in the title or the artist.
    pub q: Option<String>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
    /// The number of entries wanted.
    pub limit: Option<u32>,
}

/// Read one concert.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GetConcert {
    /// The concert.
    pub concert_id: ConcertId,
}

/// List the schedules of a concert.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FindSchedules {
    /// The concert.
    pub concert_id: ConcertId,
    /// `next_cursor` of the page before.
    #[serde(default)]
    pub cursor: Option<String>,
    /// The number of entries wanted.
    #[serde(default)]
    pub limit: Option<u32>,
}

/// Read the seat plan of a schedule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GetPlan {
    /// The schedule.
    pub schedule_id: ScheduleId,
}

/// Read which seats of a schedule are not free.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GetSeats {
    /// The schedule.
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
    /// Its title.
    pub title: String,
    /// The artist.
    pub artist: String,
    /// A description for the fans.
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
    /// The show was cancelled.
    Cancelled,
}

/// The cancellation of a performance.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Cancellation {
    /// When it was cancelled.
    pub at: Timestamp,
    /// Why, for the fans.
    pub reason: String,
    /// The account that cancelled it.
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
    /// The venue.
    pub venue: String,
    /// When the show begins.
    pub starts_at: Timestamp,
    /// When the first fan is admitted.
    pub opens_at: Timestamp,
    /// Until when a ticket can be given back for its money.
    pub refund_until: Timestamp,
    /// Whether it can be bought.
    pub state: ScheduleState,
    /// The cancellation, if it was cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cancelled: Option<Cancellation>,
    /// The pace of the waiting room.
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
