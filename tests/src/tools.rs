//! The real tools that `tests/tools/build` builds: the `nats` command and Jaeger.

use std::{path::PathBuf, process::Command};

use crate::project;

/// Where a tool is; `None` when it was not built. Then it prints that the test was skipped, and
/// why.
///
/// # Panics
/// When `tests/tools/build` cannot be run.
pub fn find(name: &str) -> Option<PathBuf> {
    let script = project::root().join("tests/tools/build");
    let found = Command::new(script).args(["--find", name]).output().expect("bash is there");
    if found.status.success() {
        return Some(String::from_utf8_lossy(&found.stdout).trim().into());
    }
    let why = String::from_utf8_lossy(&found.stderr).trim().to_owned();
    // Past the capture of the test runner: a skipped test must be seen.
    let line = format!("skipped, because there is no {name}: {why}\n");
    let _ = std::io::Write::write_all(&mut std::io::stderr(), line.as_bytes());
    None
}
