//! A process that ends at a given step, as if it was killed there.

use anyhow::{Context, Result};
use mesh::failpoint::crash;

/// Where a process that `onsale chaos` runs has to end: a step and an arrival, like `committed:3`.
pub(crate) const VARIABLE: &str = "ONSALE_CRASH_AT";

/// Ends this process where the environment wants it to, as if it was killed there.
///
/// # Errors
/// When the variable names no step.
pub(crate) fn arm() -> Result<()> {
    let Ok(at) = std::env::var(VARIABLE) else { return Ok(()) };
    crash::crash_at(at.parse().with_context(|| format!("{VARIABLE}={at}"))?);
    Ok(())
}
