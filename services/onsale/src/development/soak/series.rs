//! Whether a series of samples grows, by what it does when everything is warm.

use serde::Serialize;

use super::super::{bench::line::median, processes::SERVERS};

/// Samples of the judged half that are compared pairwise at most.
const POINTS_MAX: usize = 400;
/// A series that grows by less than this part of itself in the judged half stands still.
const PART: f64 = 0.1;

/// The unit of what is stored, in tables and streams; memory has another one.
pub(super) const STORED: &str = "MB stored";

/// What is expected of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Expected {
    /// It stays within bounds, however long the run.
    Bounded,
    /// It has what is kept for good: accounts, payments, the ledger. It grows with each sale.
    Kept,
}

/// What a series did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// It stays within bounds.
    Bounded,
    /// It grows, and may not.
    Growing,
    /// It grows as what is kept for good does.
    Kept,
    /// There are too few samples, or days, to say.
    TooShort,
}

/// Samples of one thing.
#[derive(Debug, Clone, Serialize)]
pub struct Series {
    /// The part of the system: a process, a database, a stream.
    pub of: String,
    /// What is counted, with its unit.
    pub what: String,
    /// What is expected of it.
    pub expected: Expected,
    /// A growth below this is noise.
    pub noise: f64,
    /// Seconds since the beginning, and the value.
    pub samples: Vec<(f64, f64)>,
    /// Nothing before this second is judged: the process was started then.
    pub since: f64,
}

/// A series in figures.
#[derive(Debug, Clone, Serialize)]
pub struct Judged {
    /// The part of the system.
    pub of: String,
    /// What is counted, with its unit.
    pub what: String,
    /// The median of the first quarter.
    pub first: f64,
    /// The median of the last quarter.
    pub last: f64,
    /// The most at any time.
    pub most: f64,
    /// Growth an hour in the second half: the median of the slopes between all pairs of samples.
    pub per_hour: f64,
    /// The verdict.
    pub verdict: Verdict,
}

impl Series {
    /// Whether it is bounded only because what is too old is dropped. A server has memory and
    /// files for what it stores: each connection of PostgreSQL opens every partition.
    pub(super) fn ages(&self) -> bool {
        self.what.ends_with(STORED) || SERVERS.contains(&self.of.as_str())
    }

    /// Judges what it did until `end`; `warm` says whether the run was long enough for it.
    pub fn judge(&self, end: f64, warm: bool) -> Judged {
        let half = self.part(end / 2.0, end);
        let per_hour = slope(&half) * 3_600.0;
        let quarters = [0.0, 0.25, 0.5, 0.75]
            .map(|from| median(self.part(end * from, end * (from + 0.25)).iter().map(|at| at.1)));
        let grown = per_hour / 3_600.0 * end / 2.0;
        let grows = grown > quarters[2] * PART
            && grown > self.noise
            // Half of what the slope promises: what is dropped again and again has a slope too.
            && quarters[3] - quarters[2] > grown / 4.0;
        let verdict = match self.expected {
            Expected::Kept => Verdict::Kept,
            _ if !warm || half.len() < 8 || self.since > end / 2.0 => Verdict::TooShort,
            _ if grows => Verdict::Growing,
            _ => Verdict::Bounded,
        };
        Judged {
            of: self.of.clone(),
            what: self.what.clone(),
            first: quarters[0],
            last: quarters[3],
            most: self.samples.iter().map(|at| at.1).fold(0.0, f64::max),
            per_hour,
            verdict,
        }
    }

    fn part(&self, from: f64, to: f64) -> Vec<(f64, f64)> {
        let within = |at: &&(f64, f64)| at.0 >= from && at.0 <= to;
        self.samples.iter().filter(within).copied().collect()
    }
}

/// The median of the slopes between all pairs (Theil and Sen): one sample that is far off does not
/// move it.
fn slope(samples: &[(f64, f64)]) -> f64 {
    let step = samples.len().div_ceil(POINTS_MAX).max(1);
    let some: Vec<_> = samples.iter().step_by(step).collect();
    let pairs = some.iter().enumerate().flat_map(|(at, first)| {
        some[at + 1..].iter().map(move |second| (second.1 - first.1) / (second.0 - first.0))
    });
    median(pairs.filter(|slope| slope.is_finite()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judged(expected: Expected, of: impl Fn(f64) -> f64) -> Verdict {
        let samples = (0..720).map(|at| (f64::from(at) * 5.0, of(f64::from(at) * 5.0))).collect();
        let series = Series {
            of: "payment-1".into(),
            what: "memory, MB".into(),
            expected,
            noise: 4.0,
            samples,
            since: 0.0,
        };
        series.judge(3_600.0, true).verdict
    }

    #[test]
    fn a_leak_is_seen_through_noise_and_warming_up_is_none() {
        let noise = |secs: f64| (secs / 5.0 * 2.399).sin() * 5.0;
        let leaks = |secs: f64| 80.0 + secs * 0.02 + noise(secs);
        assert_eq!(judged(Expected::Bounded, leaks), Verdict::Growing);
        assert_eq!(judged(Expected::Kept, leaks), Verdict::Kept);
        let warms = |secs: f64| 80.0 * (1.0 - (-secs / 300.0).exp()) + noise(secs);
        assert_eq!(judged(Expected::Bounded, warms), Verdict::Bounded);
    }

    #[test]
    fn what_is_dropped_again_and_again_is_bounded() {
        assert_eq!(judged(Expected::Bounded, |secs| 50.0 + secs % 300.0), Verdict::Bounded);
    }

    #[test]
    fn one_sample_that_is_far_off_changes_nothing() {
        let of = |secs: f64| if secs > 3_590.0 { 9_000.0 } else { 100.0 };
        assert_eq!(judged(Expected::Bounded, of), Verdict::Bounded);
    }

    #[test]
    fn a_process_that_was_started_late_is_not_judged() {
        let samples = (0..100).map(|at| (f64::from(at), f64::from(at))).collect();
        let series = Series {
            of: "point-2".into(),
            what: "threads".into(),
            expected: Expected::Bounded,
            noise: 1.0,
            samples,
            since: 80.0,
        };
        assert_eq!(series.judge(99.0, true).verdict, Verdict::TooShort);
    }
}
