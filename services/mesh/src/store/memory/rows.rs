//! Rows of the outbox in memory.

use std::time::Duration;

use events::Timestamp;

use crate::{
    outbound::message::Message,
    store::{engine::Mark, postgres::outbox::LEASE_SECS},
};

/// A row of the outbox.
pub(super) struct Row {
    pub(super) message: Message,
    pub(super) sequence: Option<u64>,
    pub(super) leased_until: Timestamp,
    pub(super) refusals: u32,
}

impl Row {
    pub(super) fn new(message: Message, now: Timestamp) -> Self {
        Self {
            message,
            sequence: None,
            leased_until: later(now, Duration::from_secs_f64(LEASE_SECS)),
            refusals: 0,
        }
    }

    pub(super) fn mark(&self) -> Option<Mark> {
        self.sequence.map(|sequence| Mark { id: self.message.id, sequence })
    }
}

/// The time `by` after `now`.
pub(super) fn later(now: Timestamp, by: Duration) -> Timestamp {
    now.plus_millis(by.as_millis() as i64)
}
