//! The wall clock, read here and nowhere else.

use events::Timestamp;

/// Now, in UTC, to the microsecond.
#[expect(clippy::disallowed_methods, reason = "the one place that may ask")]
pub fn now() -> Timestamp {
    time::OffsetDateTime::now_utc().into()
}
