//! Limits that the parts of the PostgreSQL engine share.

use std::time::Duration;

/// How long any call of the runtime may take that is not a whole batch.
pub(crate) const ANSWER_TIMEOUT: Duration = Duration::from_secs(8);
/// The name of the database in timeout errors.
pub(crate) const POSTGRES: &str = "PostgreSQL";
