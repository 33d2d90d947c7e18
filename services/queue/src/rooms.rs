//! The waiting rooms as an operator sees them. This is for monitoring; no fan is answered with it.

use events::{Problem, ScheduleId, Timestamp};
use mesh::valkey::{FunctionCall, Keyspace};

use crate::{domain, handlers};

/// The values that the function in Valkey returns for each room.
const VALUES: usize = 8;

/// A room in which somebody waits or is admitted, or may soon be.
#[derive(Debug, Clone, PartialEq)]
pub struct RoomState {
    /// The schedule of the room.
    pub schedule_id: ScheduleId,
    /// Fans who wait.
    pub waiting: u64,
    /// Fans who are admitted.
    pub admitted: u64,
    /// Expected seconds until a fan who entered now would be admitted.
    pub expected_wait_secs: u64,
}

/// The rooms with the longest queues, at most `most` of them.
///
/// # Errors
/// `unavailable` while the store is away or being rebuilt.
pub async fn rooms(
    store: &Keyspace,
    most: usize,
    now: Timestamp,
) -> Result<Vec<RoomState>, Problem> {
    let value = store.read(FunctionCall::new("rooms").arg(most), now).await?;
    (0..value.0.len())
        .step_by(VALUES)
        .map(|at| {
            let waiting = value.get(at + 1)?;
            let pace = handlers::pace(&value, at + 3)?;
            Ok(RoomState {
                schedule_id: value.get(at)?,
                waiting,
                admitted: value.get(at + 2)?,
                expected_wait_secs: domain::expected_wait_secs(waiting, &pace, now),
            })
        })
        .collect()
}
