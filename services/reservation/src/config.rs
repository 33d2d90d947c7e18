//! The configuration of this service.

/// The settings of this service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Seconds by which a hold is extended, once, when its payment begins in its last minute;
    /// also how far the hard cap lies behind the hold's original end.
    pub grace_secs: u32,
    /// How often a debit of an unknown reservation is tried before it is refused and the money
    /// goes back.
    pub unknown_tries_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { grace_secs: 60, unknown_tries_max: 10 }
    }
}
