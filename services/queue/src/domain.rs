//! What is decided outside Valkey: how long a fan will wait, and what a place shows.

use events::{
    Problem, ScheduleId, Timestamp, UserId, codes,
    concert::Admission,
    queue::{Place, PlaceEnd, PlaceState},
};

/// Seconds between two polls of a client: never less and never more.
const POLL_SECS: std::ops::RangeInclusive<u64> = 1..=30;
/// Polls of a client during its wait, about.
const POLLS_PER_WAIT: u64 = 10;
/// The slowest pace that an estimate assumes, in fans a second.
const PACE_MIN: f64 = 0.001;

/// Every reason why a place ends without a payment.
const ENDS: [PlaceEnd; 6] = [
    PlaceEnd::Timeout,
    PlaceEnd::Left,
    PlaceEnd::SoldOut,
    PlaceEnd::Closed,
    PlaceEnd::Cancelled,
    PlaceEnd::Withdrawn,
];

/// A place as Valkey returns it.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    /// Its state.
    pub state: PlaceState,
    /// Its version, which grows with every change.
    pub version: u64,
    /// Its number in the queue.
    pub ticket: u64,
    /// Until when the fan may reserve, once admitted.
    pub reserve_until: Timestamp,
    /// Why it ended, once it has.
    pub reason: Option<PlaceEnd>,
    /// How many fans are admitted first.
    pub ahead: u64,
    /// The pace of its room.
    pub room: Pace,
}

/// How fast a room moves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Pace {
    /// When the first fan is admitted.
    pub opens_at: Timestamp,
    /// Fans admitted a second, lately; `None` while no admission was measured.
    pub lately: Option<f64>,
    /// What the organizer allows.
    pub admission: Admission,
}

/// Expected seconds until a fan with `ahead` others before them is admitted.
///
/// The estimate takes the recent pace, but never one faster than the organizer allows or slower
/// than passes run out.
pub fn expected_wait_secs(ahead: u64, room: &Pace, now: Timestamp) -> u64 {
    let Admission { per_second, active_max, pass_secs } = room.admission;
    let allowed = f64::from(per_second);
    let turnover = f64::from(active_max) / f64::from(pass_secs.max(1));
    let pace = room.lately.unwrap_or(allowed).max(turnover).min(allowed).max(PACE_MIN);
    let closed_millis = (room.opens_at.unix_millis() - now.unix_millis()).max(0) as u64;
    closed_millis.div_ceil(1_000) + (ahead as f64 / pace).ceil() as u64
}

/// Seconds until the next poll: the longer the wait, the fewer polls.
pub fn poll_after_secs(wait_secs: u64) -> u64 {
    (wait_secs / POLLS_PER_WAIT).clamp(*POLL_SECS.start(), *POLL_SECS.end())
}

/// The place as its fan sees it, without ticket and pass; the caller adds those, for it has the
/// keys.
pub fn place(schedule_id: ScheduleId, user_id: UserId, seen: &Seen, now: Timestamp) -> Place {
    let wait_secs = (seen.state == PlaceState::Waiting)
        .then(|| expected_wait_secs(seen.ahead, &seen.room, now));
    Place {
        schedule_id,
        user_id,
        state: seen.state,
        position: wait_secs.map(|_| seen.ahead),
        expected_wait_secs: wait_secs,
        poll_after_secs: wait_secs.map(poll_after_secs),
        ticket: None,
        pass: None,
        reserve_until: (seen.state == PlaceState::Active).then_some(seen.reserve_until),
        reason: seen.reason.filter(|_| seen.state == PlaceState::Expired),
    }
}

/// The state for Valkey's one-letter code.
///
/// # Errors
/// `internal` for any other code.
pub fn state_of(code: &str) -> Result<PlaceState, Problem> {
    match code {
        "W" => Ok(PlaceState::Waiting),
        "A" => Ok(PlaceState::Active),
        "C" => Ok(PlaceState::Completed),
        "E" => Ok(PlaceState::Expired),
        _ => Err(Problem::new(codes::INTERNAL, format!("`{code}` is not a state of a place."))),
    }
}

/// The reason as Valkey stores it.
pub fn text_of(reason: PlaceEnd) -> &'static str {
    match reason {
        PlaceEnd::Timeout => "timeout",
        PlaceEnd::Left => "left",
        PlaceEnd::SoldOut => "sold_out",
        PlaceEnd::Closed => "closed",
        PlaceEnd::Cancelled => "cancelled",
        PlaceEnd::Withdrawn => "withdrawn",
    }
}

/// The reason for Valkey's text; `None` for a place that has not ended.
pub fn reason_of(text: &str) -> Option<PlaceEnd> {
    ENDS.into_iter().find(|reason| text_of(*reason) == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(secs: i64) -> Timestamp {
        Timestamp(time::OffsetDateTime::UNIX_EPOCH).plus_secs(secs)
    }

    fn room(lately: Option<f64>) -> Pace {
        let admission = Admission { per_second: 50, active_max: 600, pass_secs: 300 };
        Pace { opens_at: at(100), lately, admission }
    }

    fn seen(state: PlaceState) -> Seen {
        Seen {
            state,
            version: 3,
            ticket: 7,
            reserve_until: at(400),
            reason: Some(PlaceEnd::Timeout),
            ahead: 1_000,
            room: room(None),
        }
    }

    #[test]
    fn without_measurements_the_queue_is_assumed_to_move_as_fast_as_allowed() {
        assert_eq!(expected_wait_secs(1_000, &room(None), at(100)), 20);
        assert_eq!(expected_wait_secs(0, &room(None), at(100)), 0);
    }

    #[test]
    fn before_the_opening_the_time_until_then_is_added() {
        assert_eq!(expected_wait_secs(1_000, &room(None), at(40)), 80);
        let room = room(None);
        assert_eq!(expected_wait_secs(0, &room, at(99).plus_millis(500)), 1);
    }

    #[test]
    fn the_estimate_takes_the_recent_pace() {
        assert_eq!(expected_wait_secs(1_000, &room(Some(10.0)), at(100)), 100);
    }

    #[test]
    fn the_estimate_is_never_faster_than_allowed_nor_slower_than_passes_run_out() {
        assert_eq!(expected_wait_secs(1_000, &room(Some(900.0)), at(100)), 20);
        assert_eq!(expected_wait_secs(1_000, &room(Some(0.0)), at(100)), 500);
    }

    #[test]
    fn a_room_that_admits_no_fans_still_gives_an_estimate() {
        let admission = Admission { per_second: 0, active_max: 0, pass_secs: 0 };
        let room = Pace { admission, ..room(None) };
        assert_eq!(expected_wait_secs(1, &room, at(100)), 1_000);
        assert!(expected_wait_secs(u64::MAX, &room, at(100)) > 0);
    }

    #[test]
    fn a_longer_wait_means_fewer_polls() {
        assert_eq!(poll_after_secs(0), 1);
        assert_eq!(poll_after_secs(100), 10);
        assert_eq!(poll_after_secs(100_000), 30);
    }

    #[test]
    fn each_state_shows_its_own_fields() {
        let (schedule, user) = (ScheduleId(uuid::Uuid::nil()), UserId(uuid::Uuid::nil()));
        let show = |state| place(schedule, user, &seen(state), at(100));
        let waiting = show(PlaceState::Waiting);
        assert_eq!((waiting.position, waiting.expected_wait_secs), (Some(1_000), Some(20)));
        assert_eq!((waiting.poll_after_secs, waiting.reserve_until), (Some(2), None));
        let active = show(PlaceState::Active);
        assert_eq!((active.position, active.reserve_until), (None, Some(at(400))));
        assert_eq!(active.reason, None);
        assert_eq!(show(PlaceState::Completed).reason, None);
        assert_eq!(show(PlaceState::Expired).reason, Some(PlaceEnd::Timeout));
    }

    #[test]
    fn a_reason_is_stored_as_text_and_read_back() {
        for reason in ENDS {
            assert_eq!(reason_of(text_of(reason)), Some(reason));
            let json = serde_json::to_value(reason).unwrap();
            assert_eq!(json, text_of(reason), "Lua emits it by this name");
        }
        assert_eq!(reason_of("-"), None);
        assert!(state_of("X").is_err());
    }
}
