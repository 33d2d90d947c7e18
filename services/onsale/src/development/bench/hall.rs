//! The holds that a run pays.

use std::sync::Arc;

use events::{ReservationId, ScheduleId};

/// A hold to be paid.
pub(super) struct Hold {
    pub(super) reservation_id: ReservationId,
    pub(super) token: Arc<str>,
    /// Whose hold it is: a token is replaced sooner than a hold ends.
    pub(super) fan: usize,
    /// Whether the hold is given up while its payment runs.
    pub(super) is_lost: bool,
}

/// Holds of one run.
pub(super) struct Hall {
    pub(super) schedules: Vec<ScheduleId>,
    pub(super) holds: Arc<Vec<Hold>>,
}

impl Hall {
    /// Holds of which some will be lost: spread evenly, and the same in every run.
    pub(super) fn new(schedules: Vec<ScheduleId>, mut holds: Vec<Hold>, lost_percent: u32) -> Self {
        for (index, hold) in holds.iter_mut().enumerate() {
            let before = index as u64 * u64::from(lost_percent) / 100;
            let after = (index as u64 + 1) * u64::from(lost_percent) / 100;
            hold.is_lost = after > before;
        }
        Self { schedules, holds: Arc::new(holds) }
    }
}
