//! The metrics of the waiting rooms.

use mesh::{
    clock,
    engine::Failure,
    metrics::{Metric, Sample},
    valkey::Valkey,
};

use crate::{
    room::Room,
    rooms::{RoomState, rooms},
};

/// Fans who were admitted.
pub(crate) static ADMITTED: Metric =
    Metric::counter("onsale_admitted_fans", "Fans who were admitted and may reserve", &[]);

static WAITING: Metric = Metric::gauge("onsale_waiting_fans", "Fans in all waiting rooms", &[]);
static LONGEST: Metric =
    Metric::gauge("onsale_waiting_fans_longest", "Fans in the longest waiting room", &[]);
static ROOMS: Metric =
    Metric::gauge("onsale_waiting_rooms", "Waiting rooms in which fans wait", &[]);
static EXPECTED: Metric = Metric::gauge(
    "onsale_waiting_expected_seconds",
    "Expected wait of a fan who would enter the slowest of these rooms now",
    &[],
);
static PASSES: Metric = Metric::gauge(
    "onsale_passes_active",
    "Places of fans who were admitted and have not ended yet",
    &[],
);

/// The gauges that are sampled.
pub(crate) const GAUGES: &[&Metric] = &[&WAITING, &LONGEST, &ROOMS, &EXPECTED, &PASSES];

/// Rooms that are sampled at most: all of them.
const ROOMS_MAX: usize = u32::MAX as usize;

pub(crate) async fn sample(valkey: &Valkey<Room>) -> Result<Vec<Sample>, Failure> {
    let rooms = rooms(valkey, ROOMS_MAX, clock::now()).await;
    Ok(samples(&rooms.map_err(|problem| Failure::Unavailable(problem.to_string()))?))
}

fn samples(rooms: &[RoomState]) -> Vec<Sample> {
    let busy = || rooms.iter().filter(|room| room.waiting > 0);
    vec![
        WAITING.is(busy().map(|room| room.waiting).sum::<u64>() as f64),
        LONGEST.is(busy().map(|room| room.waiting).max().unwrap_or(0) as f64),
        ROOMS.is(busy().count() as f64),
        EXPECTED.is(busy().map(|room| room.expected_wait_secs).max().unwrap_or(0) as f64),
        PASSES.is(rooms.iter().map(|room| room.admitted).sum::<u64>() as f64),
    ]
}

#[cfg(test)]
mod tests {
    use events::ScheduleId;

    use super::*;

    #[test]
    fn the_slowest_room_counts_and_an_empty_one_does_not() {
        let room = |waiting, expected_wait_secs| RoomState {
            schedule_id: ScheduleId(clock::new_id()),
            waiting,
            admitted: 3,
            expected_wait_secs,
        };
        let expected = [
            WAITING.is(150.0),
            LONGEST.is(100.0),
            ROOMS.is(2.0),
            EXPECTED.is(50.0),
            PASSES.is(9.0),
        ];
        assert_eq!(samples(&[room(100, 10), room(50, 50), room(0, 70)]), expected);
        assert_eq!(samples(&[])[3], EXPECTED.is(0.0));
    }
}
