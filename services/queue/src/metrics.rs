//! The metrics of the waiting rooms.

use events::{Problem, Timestamp, concert::Admission};
use mesh::{
    clock,
    engine::Failure,
    metrics::{Metric, Sample},
    valkey::{FunctionCall, Reply, Valkey},
};

use crate::{
    domain::{Pace, expected_wait_secs},
    room::Room,
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

/// Values that `reads.open_rooms` returns for each room.
const VALUES: usize = 7;

/// A room as `reads.open_rooms` of `line.lua` returns it.
#[derive(Debug, Clone, PartialEq)]
struct Seen {
    waiting: u64,
    active: u64,
    pace: Pace,
}

pub(crate) async fn sample(valkey: &Valkey<Room>) -> Result<Vec<Sample>, Failure> {
    let now = clock::now();
    let away = |problem: Problem| Failure::Unavailable(problem.to_string());
    let reply = valkey.read(FunctionCall::new("open_rooms"), now).await.map_err(away)?;
    Ok(samples(&seen(&reply).map_err(away)?, now))
}

fn seen(reply: &Reply) -> Result<Vec<Seen>, Problem> {
    let room = |at: usize| {
        let lately: f64 = reply.get(at + 3)?;
        let opens_at = Timestamp::from_unix_millis(reply.get(at + 2)?);
        Ok(Seen {
            waiting: reply.get(at)?,
            active: reply.get(at + 1)?,
            pace: Pace {
                opens_at: opens_at.ok_or_else(|| Problem::from(events::codes::INTERNAL))?,
                lately: (lately >= 0.0).then_some(lately),
                admission: Admission {
                    per_second: reply.get(at + 4)?,
                    active_max: reply.get(at + 5)?,
                    pass_secs: reply.get(at + 6)?,
                },
            },
        })
    };
    (0..reply.0.len()).step_by(VALUES).map(room).collect()
}

fn samples(rooms: &[Seen], now: Timestamp) -> Vec<Sample> {
    let busy = || rooms.iter().filter(|room| room.waiting > 0);
    let wait = busy().map(|room| expected_wait_secs(room.waiting, &room.pace, now)).max();
    vec![
        WAITING.is(busy().map(|room| room.waiting).sum::<u64>() as f64),
        LONGEST.is(busy().map(|room| room.waiting).max().unwrap_or(0) as f64),
        ROOMS.is(busy().count() as f64),
        EXPECTED.is(wait.unwrap_or(0) as f64),
        PASSES.is(rooms.iter().map(|room| room.active).sum::<u64>() as f64),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_room_counts_and_an_empty_one_does_not() {
        let now = Timestamp::from_unix_millis(1_000_000).unwrap();
        let room =
            |waiting: u64, per_second: u32| format!("{waiting} 3 900000 -1 {per_second} 1000 300");
        let text = [room(100, 10), room(50, 1), room(0, 1)].join(" ");
        let reply = Reply(text.split(' ').map(str::to_owned).collect());
        let expected = [
            WAITING.is(150.0),
            LONGEST.is(100.0),
            ROOMS.is(2.0),
            EXPECTED.is(50.0),
            PASSES.is(9.0),
        ];
        assert_eq!(samples(&seen(&reply).unwrap(), now), expected);
        assert_eq!(samples(&[], now)[3], EXPECTED.is(0.0));
    }
}
