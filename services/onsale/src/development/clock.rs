//! A process whose clock another process moves, as if each had a machine of its own.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use mesh::clock;

/// The file that says by how many milliseconds the clock of a process that `onsale chaos` or `onsale
/// soak` runs is ahead, like `-3200`.
pub(crate) const VARIABLE: &str = "ONSALE_CLOCK_FILE";
/// How often the file is read.
pub(crate) const READ_EVERY: Duration = Duration::from_millis(20);

/// Moves the clock of this process as the file says that the environment names, now and whenever
/// it changes.
///
/// # Errors
/// When the file cannot be read.
pub(crate) fn follow() -> Result<()> {
    let Some(file) = std::env::var_os(VARIABLE) else { return Ok(()) };
    let text = std::fs::read_to_string(&file).with_context(|| format!("{VARIABLE}={file:?}"))?;
    let mut ahead_millis = moved(&text, 0);
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(READ_EVERY).await;
            let text = read(file.as_ref());
            ahead_millis = moved(&text, ahead_millis);
        }
    });
    Ok(())
}

fn read(file: &Path) -> String {
    std::fs::read_to_string(file).unwrap_or_default()
}

/// Moves the clock when the file says another number than before; returns what holds now. A file
/// that is just being written says nothing.
fn moved(text: &str, before: i64) -> i64 {
    let Ok(ahead_millis) = text.trim().parse() else { return before };
    if ahead_millis != before {
        clock::move_to(ahead_millis);
        tracing::warn!(ahead_millis, "the clock of this process was moved");
    }
    ahead_millis
}
