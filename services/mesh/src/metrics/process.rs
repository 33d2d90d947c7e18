//! What the operating system knows of this process, as Linux shows it.

use std::{fmt, fs};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
    registry::Unit,
};

/// Ticks in a second of the times in `/proc`: the same on every Linux that Rust supports.
const TICKS: f64 = 100.0;

/// The metrics of the process itself.
#[derive(Debug)]
pub(super) struct ProcessMetrics {
    /// Seconds since 1970; `None` where there is no `/proc`.
    started_at: Option<f64>,
}

impl Default for ProcessMetrics {
    fn default() -> Self {
        Self { started_at: started_at() }
    }
}

impl Collector for ProcessMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let help = "Spans that were not sent: too many waited, or no collector took them";
        let mut counter =
            encoder.encode_descriptor("onsale_spans_dropped", help, None, MetricType::Counter)?;
        counter.encode_counter::<NoLabelSet, _, u64>(&crate::trace::dropped_spans(), None)?;
        if let Some(cpu) = cpu_seconds() {
            let (help, unit) = ("Time on a processor", Some(&Unit::Seconds));
            let mut counter =
                encoder.encode_descriptor("process_cpu", help, unit, MetricType::Counter)?;
            counter.encode_counter::<NoLabelSet, _, f64>(&cpu, None)?;
        }
        let gauges = [
            ("process_resident_memory", "Memory in use", Some(Unit::Bytes), resident_bytes()),
            ("process_open_fds", "Open files and sockets", None, open_files()),
            ("process_start_time", "Start, since 1970", Some(Unit::Seconds), self.started_at),
        ];
        for (name, help, unit, value) in gauges {
            let Some(value) = value else { continue };
            let kind = MetricType::Gauge;
            encoder.encode_descriptor(name, help, unit.as_ref(), kind)?.encode_gauge(&value)?;
        }
        Ok(())
    }
}

/// The fields of `/proc/self/stat` from the third on: the second is a name that may contain
/// anything.
fn stat() -> Option<Vec<f64>> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let (_, fields) = stat.rsplit_once(") ")?;
    Some(fields.split(' ').map(|field| field.trim().parse().unwrap_or_default()).collect())
}

fn cpu_seconds() -> Option<f64> {
    let stat = stat()?;
    Some((stat.get(11)? + stat.get(12)?) / TICKS)
}

fn started_at() -> Option<f64> {
    let after_boot = stat()?.get(19)? / TICKS;
    let booted = fs::read_to_string("/proc/stat").ok()?;
    let booted = booted.lines().find_map(|line| line.strip_prefix("btime "))?;
    Some(booted.trim().parse::<f64>().ok()? + after_boot)
}

fn resident_bytes() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: f64 = resident.trim().strip_suffix(" kB")?.trim().parse().ok()?;
    Some(kib * 1_024.0)
}

fn open_files() -> Option<f64> {
    // The folder that is being read is open, too.
    Some(fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1) as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_process_knows_its_memory_files_time_and_start() {
        assert!(resident_bytes().unwrap() > 1e6);
        let before = open_files().unwrap();
        let held = fs::File::open("/proc/self/stat").unwrap();
        assert!(open_files().unwrap() >= before);
        drop(held);
        let now = crate::clock::now().unix_millis() as f64 / 1_000.0;
        let age = now - started_at().unwrap();
        assert!((-2.0..86_400.0).contains(&age), "{age}");
        assert!(cpu_seconds().unwrap() < 86_400.0);
    }
}
