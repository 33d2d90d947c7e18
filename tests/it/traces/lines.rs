//! The log of this process, as a service would write it.

use std::{
    io,
    sync::{Arc, Mutex, PoisonError},
};

use harness::mesh::eventually;
use onsale::log::WithIds;
use serde_json::Value;
use tracing_subscriber::{filter::LevelFilter, fmt::MakeWriter};

/// Lines of JSON that were logged by any thread.
#[derive(Clone, Default)]
pub struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    /// The warnings and errors of this process from now on. Only one test may take them.
    pub fn of_this_process() -> Self {
        let lines = Self::default();
        let log = tracing_subscriber::fmt()
            .with_max_level(LevelFilter::WARN)
            .with_writer(lines.clone())
            .json()
            .map_event_format(WithIds::json)
            .finish();
        tracing::subscriber::set_global_default(log).expect("no other test takes them");
        lines
    }

    /// Waits for a line with this message, trace and saga.
    pub async fn wait_for(&self, message: &str, trace_id: &str, saga_id: &str) {
        eventually(&format!("a line `{message}` of trace {trace_id}"), || async {
            let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let text = String::from_utf8(bytes).expect("UTF-8");
            let is_it = |line: &str| {
                let line: Value = serde_json::from_str(line).expect("a line is JSON");
                line["fields"]["message"] == message
                    && line["trace_id"] == trace_id
                    && line["saga_id"] == saga_id
                    && line["span_id"].is_string()
            };
            // The last line may not be whole yet.
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            whole.lines().any(is_it).then_some(())
        })
        .await;
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Lines {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
