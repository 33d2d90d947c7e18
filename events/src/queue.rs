//! The waiting room: places, admission, passes.

use serde::{Deserialize, Serialize};

use crate::{Claims, Command, PaymentId, ScheduleId, Timestamp, UserId};

/// The state of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PlaceState {
    /// The fan waits.
    Waiting,
    /// The fan may reserve.
    Active,
    /// Used up by a payment; entering again makes a new place at the end of the queue.
    Completed,
    /// Ended without a payment; entering again makes a new place at the end of the queue.
    Expired,
}

/// Why a place ended without being used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum PlaceEnd {
    /// The pass ran out.
    Timeout,
    /// The fan left.
    Left,
    /// No seats are left to sell.
    SoldOut,
    /// The show has begun, and sales have ended.
    Closed,
    /// The show was cancelled.
    Cancelled,
    /// The fan's account was closed.
    Withdrawn,
}

/// `queue.waiting`: a fan has a place in the waiting room.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct QueueWaiting {
    /// The schedule of the room.
    pub schedule_id: ScheduleId,
    /// The fan who has the place.
    pub user_id: UserId,
    /// The number drawn; lower is earlier.
    pub ticket: u64,
    /// Grows with every change of this fan's place; a reader keeps the highest.
    pub place_version: u64,
    /// When the fan entered; a payment requested before this belongs to an earlier place.
    pub entered_at: Timestamp,
}

/// `queue.activated`: a fan was admitted.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct QueueActivated {
    /// The schedule of the room.
    pub schedule_id: ScheduleId,
    /// The fan who was admitted.
    pub user_id: UserId,
    /// Grows with every change of this fan's place; a reader keeps the highest.
    pub place_version: u64,
    /// Until when the fan may reserve.
    pub reserve_until: Timestamp,
}

/// `queue.returned`: an admitted fan lost the hold through no fault of their own and
/// is at the front of the queue again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct QueueReturned {
    /// The schedule of the room.
    pub schedule_id: ScheduleId,
    /// The fan who returns.
    pub user_id: UserId,
    /// Grows with every change of this fan's place; a reader keeps the highest.
    pub place_version: u64,
}

/// `queue.completed`: a payment has used a place up, and the fan has no live hold.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct QueueCompleted {
    /// The schedule of the room.
    pub schedule_id: ScheduleId,
    /// The fan who has the place.
    pub user_id: UserId,
    /// Grows with every change of this fan's place; a reader keeps the highest.
    pub place_version: u64,
    /// The latest payment that was completed under this place.
    pub payment_id: PaymentId,
}

/// `queue.expired`: a place has ended without being used up; its pass is void.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct QueueExpired {
    /// The schedule of the room.
    pub schedule_id: ScheduleId,
    /// The fan who has the place.
    pub user_id: UserId,
    /// Grows with every change of this fan's place; a reader keeps the highest.
    pub place_version: u64,
    /// Why it ended.
    pub reason: PlaceEnd,
}

crate::events! {
    QueueWaiting = "queue.waiting", schedule: |e| Some(e.schedule_id), about: |e| e.user_id.0;
    QueueActivated = "queue.activated", schedule: |e| Some(e.schedule_id), about: |e| e.user_id.0;
    QueueReturned = "queue.returned", schedule: |e| Some(e.schedule_id), about: |e| e.user_id.0;
    QueueCompleted = "queue.completed", schedule: |e| Some(e.schedule_id), about: |e| e.user_id.0;
    QueueExpired = "queue.expired", schedule: |e| Some(e.schedule_id), about: |e| e.user_id.0;
}

/// Enter the waiting room, or get the place that the fan has already.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Enter {
    /// The schedule of the room; over HTTP it comes from the path.
    pub schedule_id: ScheduleId,
    /// The signed ticket of an earlier place. It restores the old number if the room has lost
    /// it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
}

/// Read the caller's own place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GetPlace {
    /// The schedule of the room.
    pub schedule_id: ScheduleId,
}

/// Give the caller's own place up; refused while the caller holds seats.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Leave {
    /// The schedule of the room.
    pub schedule_id: ScheduleId,
}

/// The public keys that verify passes, as a JSON Web Key Set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Jwks {}

/// A fan's place.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Place {
    /// The schedule of the room.
    pub schedule_id: ScheduleId,
    /// The fan who has the place.
    pub user_id: UserId,
    /// Its state.
    pub state: PlaceState,
    /// Fans to be admitted first; present while WAITING.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub position: Option<u64>,
    /// Expected seconds until admission; present while WAITING.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expected_wait_secs: Option<u64>,
    /// Seconds after which to poll again; present while WAITING.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub poll_after_secs: Option<u64>,
    /// Proof of this place's number; pass it to `enter` again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<String>,
    /// The right to reserve, an EdDSA JWT; present while ACTIVE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pass: Option<String>,
    /// Until when the fan may reserve; present while ACTIVE.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reserve_until: Option<Timestamp>,
    /// Why it ended; present when EXPIRED.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<PlaceEnd>,
}

crate::commands! {
    Enter = "queue.enter", 200 => Place;
    GetPlace = "queue.place", 200 => Place;
    Leave = "queue.leave", 200 => Place;
    Jwks = "queue.jwks", 200 => serde_json::Value;
}

/// The issuer of passes and tickets.
const ISSUER: &str = "onsale/queue";

/// A pass: the right to reserve and pay, while the place is ACTIVE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassClaims {
    /// The owner of the place.
    pub sub: UserId,
    /// The schedule of the waiting room.
    pub schedule: ScheduleId,
    /// Fences a pass of an earlier activation.
    pub place_version: u64,
    /// When it was signed, in seconds since 1970.
    pub iat: i64,
    /// Until when the fan may reserve, in seconds since 1970.
    pub exp: i64,
}

impl PassClaims {
    /// A pass from now until `reserve_until`.
    pub fn new(
        sub: UserId,
        schedule: ScheduleId,
        place_version: u64,
        now: Timestamp,
        reserve_until: Timestamp,
    ) -> Self {
        let (iat, exp) = (now.unix_secs(), reserve_until.unix_secs());
        Self { sub, schedule, place_version, iat, exp }
    }
}

impl Claims for PassClaims {
    const ISSUER: &'static str = ISSUER;
    const AUDIENCE: &'static str = "onsale/pass";
    const KEYS: &'static str = Jwks::ENDPOINT;
    fn exp(&self) -> Option<i64> {
        Some(self.exp)
    }
}

/// A ticket: proof of a number in the queue, good for as long as its key is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketClaims {
    /// The owner of the number.
    pub sub: UserId,
    /// The schedule of the waiting room.
    pub schedule: ScheduleId,
    /// The number.
    pub ticket: u64,
}

impl Claims for TicketClaims {
    const ISSUER: &'static str = ISSUER;
    const AUDIENCE: &'static str = "onsale/ticket";
    const KEYS: &'static str = Jwks::ENDPOINT;
    fn exp(&self) -> Option<i64> {
        None
    }
}
