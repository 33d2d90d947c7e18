//! Panics of a service's own code, caught so that each only affects its own message.

use std::panic::{AssertUnwindSafe, catch_unwind};

/// A handler panicked, with this message.
#[derive(Debug, thiserror::Error)]
#[error("the handler panicked: {0}")]
pub(crate) struct Panicked(String);

/// Runs a service's own code and catches its panic.
pub(crate) fn caught<T>(run: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(run)).map_err(|panic| {
        let message = panic.downcast_ref::<String>().map(String::as_str);
        let message = message.or_else(|| panic.downcast_ref::<&str>().copied());
        Panicked(message.unwrap_or("unknown").to_owned())
    })
}
