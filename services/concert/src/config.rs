//! The configuration of the half that answers commands.

/// What can be configured.
#[derive(Debug, Clone)]
pub struct Config {
    /// Bytes of a `concert.schedule_opened` at most. An event too large for the broker must
    /// be refused while its organizer still waits for the answer.
    pub opened_bytes_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        // `max_payload` of the broker is 8 MiB, headers included.
        Self { opened_bytes_max: 7_000_000 }
    }
}
