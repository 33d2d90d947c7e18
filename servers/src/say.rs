//! Progress, reported line by line.

use std::sync::Arc;

/// Where progress is reported, one line at a time.
pub type Say = Arc<dyn Fn(&str) + Send + Sync>;
