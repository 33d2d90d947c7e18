//! What an overload has shown: a table, a verdict, a JSON file and a picture.

use std::{collections::BTreeMap, fs, path::Path};

use anstream::println;
use anyhow::{Context, Result};
use serde::Serialize;

use super::{
    super::line,
    tally::{
        Tally, WINDOW, Window, between, per_second, quantile_ms, quarter, recovery_secs,
        resident_mb,
    },
};
use crate::development::{
    picture::{self, Panel},
    receipt::Receipt,
};

/// The least part of the peak that must still complete.
const GOODPUT_MIN: f64 = 0.9;
/// How long the slowest hundredth of what was admitted may take.
const P99_MAX_MS: f64 = 3_000.0;
/// How much longer it may take in the last quarter of the overload than in the second …
const P99_GROWTH_MAX: f64 = 1.5;
/// … unless it is by less than this.
const P99_NOISE_MS: f64 = 100.0;
/// How much more memory may be resident in the last quarter than in the second …
const MEMORY_GROWTH_MAX: f64 = 1.1;
/// … unless it is by less than this.
const MEMORY_NOISE_MB: f64 = 16.0;
/// How long the mesh may take to recover.
const RECOVERY_MAX_SECS: f64 = 10.0;
/// Calm is what takes no longer than twice the time before the overload, or than this.
const CALM_MS: f64 = 100.0;

/// A phase of the load, in seconds from the beginning.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Phase {
    pub(super) name: &'static str,
    pub(super) from: f64,
    pub(super) to: f64,
}

/// What one phase has shown.
#[derive(Debug, Clone, Serialize)]
pub struct Figures {
    /// The phase.
    pub phase: &'static str,
    /// How long it lasted.
    pub secs: f64,
    /// Payments that were due each second.
    pub offered_per_s: f64,
    /// Payments that completed each second.
    pub goodput_per_s: f64,
    /// Payments that were refused each second: `503` with `Retry-After`.
    pub refused_per_s: f64,
    /// From the moment a payment was due until its answer, of those that completed: the median.
    pub p50_ms: f64,
    /// The slowest hundredth.
    pub p99_ms: f64,
    /// Resident memory of the one process with all services, the median.
    pub resident_mb: f64,
}

impl Figures {
    pub(super) fn of(phase: &Phase, windows: &[Window]) -> Self {
        let windows = between(windows, phase.from, phase.to);
        Self {
            phase: phase.name,
            secs: windows.len() as f64 * WINDOW.as_secs_f64(),
            offered_per_s: per_second(windows, |window| window.offered),
            goodput_per_s: per_second(windows, |window| window.completed),
            refused_per_s: per_second(windows, |window| window.refused),
            p50_ms: quantile_ms(windows, 0.5),
            p99_ms: quantile_ms(windows, 0.99),
            resident_mb: resident_mb(windows),
        }
    }
}

/// What is known after the load.
pub(super) struct After {
    pub(super) behind_s: f64,
    pub(super) connections: usize,
    pub(super) receipt: Receipt,
}

/// The whole run.
#[derive(Debug, Clone, Serialize)]
pub struct OverloadReport {
    /// The phases.
    pub phases: Vec<Figures>,
    /// Payments that completed each second of the overload, as a part of the peak.
    pub goodput_ratio: f64,
    /// The slowest hundredth in the second and in the last quarter of the overload, in ms.
    pub p99_ms_by_quarter: [f64; 2],
    /// Resident memory in these quarters, in MB.
    pub resident_mb_by_quarter: [f64; 2],
    /// From the end of the overload until nothing is refused and everything is as fast as before.
    pub recovery_secs: Option<f64>,
    /// Connections of the driver at the end: as many as were ever needed at once.
    pub connections: usize,
    /// From the last answer until the listeners had consumed everything.
    pub behind_s: f64,
    /// Answers that no client may get, and how many got them.
    pub strange: BTreeMap<String, u64>,
    /// Payments that were checked in the databases.
    pub checked: i64,
    /// Everything that must not be.
    pub wrong: Vec<String>,
    #[serde(skip)]
    picture: Vec<Panel>,
}

impl OverloadReport {
    pub(super) fn of(phases: &[Phase], tally: &Tally, after: After) -> Self {
        let After { behind_s, connections, receipt } = after;
        let windows = tally.windows.as_slice();
        let of = |name: &str| phases.iter().find(|phase| phase.name == name);
        let figures = |name: &str| of(name).map(|phase| Figures::of(phase, windows));
        let span = |name: &str| of(name).map_or(&[][..], |at| between(windows, at.from, at.to));
        let over = span("overload");
        let quarters = [quarter(over, 1), quarter(over, 3)];
        let peak = figures("peak").map_or(0.0, |figures| figures.goodput_per_s);
        let calm_ms = figures("half before").map_or(0.0, |figures| figures.p99_ms * 2.0);
        let mut report = Self {
            phases: phases.iter().map(|phase| Figures::of(phase, windows)).collect(),
            goodput_ratio: per_second(over, |window| window.completed) / peak.max(1.0),
            p99_ms_by_quarter: quarters.map(|quarter| quantile_ms(quarter, 0.99)),
            resident_mb_by_quarter: quarters.map(resident_mb),
            recovery_secs: recovery_secs(span("half after"), calm_ms.max(CALM_MS)),
            connections,
            behind_s,
            strange: tally.strange.clone(),
            checked: receipt.payments.values().sum(),
            wrong: receipt.broken(),
            picture: panels(phases, windows),
        };
        let judged = report.judged(quantile_ms(over, 0.99));
        report.wrong.extend(judged);
        report
    }

    fn judged(&self, p99_ms: f64) -> Vec<String> {
        let mut wrong: Vec<String> =
            self.strange.iter().map(|(what, count)| format!("{count} × {what}")).collect();
        if self.goodput_ratio < GOODPUT_MIN {
            let percent = 100.0 * self.goodput_ratio;
            wrong.push(format!("goodput fell to {percent:.0} % of the peak"));
        }
        let [p99_then, p99_last] = self.p99_ms_by_quarter;
        if p99_ms > P99_MAX_MS {
            wrong.push(format!("the slowest hundredth took {p99_ms:.0} ms"));
        }
        if p99_last > p99_then * P99_GROWTH_MAX && p99_last > p99_then + P99_NOISE_MS {
            wrong.push(format!("payments took longer and longer: {p99_then:.0}, {p99_last:.0} ms"));
        }
        let [mb_then, mb_last] = self.resident_mb_by_quarter;
        if mb_last > mb_then * MEMORY_GROWTH_MAX && mb_last > mb_then + MEMORY_NOISE_MB {
            wrong.push(format!("memory grew: {mb_then:.0}, {mb_last:.0} MB"));
        }
        match self.recovery_secs {
            Some(secs) if secs <= RECOVERY_MAX_SECS => {}
            Some(secs) => wrong.push(format!("recovery took {secs:.1} s")),
            None => wrong.push("the mesh did not recover".into()),
        }
        wrong
    }

    /// Prints the table and what else was seen.
    pub(super) fn print(&self) {
        let header = [
            "phase",
            "s",
            "offered/s",
            "goodput/s",
            "refused/s",
            "p50 ms",
            "p99 ms",
            "resident MB",
        ];
        let row = |figures: &Figures| {
            [
                figures.phase.to_owned(),
                format!("{:.0}", figures.secs),
                format!("{:.0}", figures.offered_per_s),
                format!("{:.0}", figures.goodput_per_s),
                format!("{:.0}", figures.refused_per_s),
                format!("{:.0}", figures.p50_ms),
                format!("{:.0}", figures.p99_ms),
                format!("{:.0}", figures.resident_mb),
            ]
        };
        println!("{}", line::table(header, self.phases.iter().map(row)));
        println!("goodput during the overload: {:.2} of the peak", self.goodput_ratio);
        let [p99_then, p99_last] = self.p99_ms_by_quarter;
        let [mb_then, mb_last] = self.resident_mb_by_quarter;
        println!(
            "second and last quarter of it: p99 {p99_then:.0} and {p99_last:.0} ms, \
             resident {mb_then:.0} and {mb_last:.0} MB"
        );
        match self.recovery_secs {
            Some(secs) => println!("recovered {secs:.2} s after it"),
            None => println!("not recovered after it"),
        }
        println!(
            "listeners {:.1} s behind at the end; {} connections of the driver",
            self.behind_s, self.connections
        );
        println!("invariants checked over {} payments in the databases", self.checked);
    }

    /// Writes the report and its picture into a folder.
    ///
    /// # Errors
    /// When it cannot be written to.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        fs::write(folder.join("overload.json"), serde_json::to_vec_pretty(self)?)?;
        picture::draw(&folder.join("overload.svg"), &self.picture)
    }
}

fn panels(phases: &[Phase], windows: &[Window]) -> Vec<Panel> {
    // What was before the peak is only preparation.
    let from = phases.iter().find(|phase| phase.name == "half before").map_or(0.0, |at| at.from);
    let length = WINDOW.as_secs_f64();
    let begin = ((from / length) as usize).min(windows.len());
    let to = phases.iter().find(|phase| phase.name == "half after").map_or(0.0, |at| at.to);
    let end = ((to / length) as usize).clamp(begin, windows.len());
    let line = |name: &str, of: &dyn Fn(&Window) -> Option<f64>| {
        let points = windows[begin..end].iter().enumerate();
        let points = points.filter_map(|(at, window)| Some((at as f64 * length, of(window)?)));
        (name.to_owned(), points.collect::<Vec<_>>())
    };
    let per_s = |count: u32| Some(f64::from(count) / length);
    let took = |quantile: f64| {
        move |window: &Window| {
            let some = std::slice::from_ref(window);
            (!window.micros.is_empty()).then(|| quantile_ms(some, quantile))
        }
    };
    let shaded: Vec<_> = phases
        .iter()
        .filter(|phase| phase.name == "overload")
        .map(|phase| (phase.from - from, phase.to - from))
        .collect();
    let panel =
        |caption: &str, lines| Panel { caption: caption.into(), lines, shaded: shaded.clone() };
    vec![
        panel(
            "payments a second; the overload is shaded",
            vec![
                line("offered", &|window| per_s(window.offered)),
                line("refused", &|window| per_s(window.refused)),
                line("completed", &|window| per_s(window.completed)),
            ],
        ),
        panel(
            "how long admitted payments took, ms",
            vec![line("p50", &took(0.5)), line("p99", &took(0.99))],
        ),
        panel(
            "resident memory of the process with all services, MB",
            vec![line("resident", &|window| {
                (window.resident_mb > 0.0).then_some(window.resident_mb)
            })],
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::{super::tally::Became, *};

    /// What each window of the overload has: completed and refused payments, ms, and MB.
    type Over = [fn(usize) -> u32; 4];

    /// Half, overload and half again, each window with so many completed and refused payments,
    /// which took so many ms, and so much memory.
    fn report(over: Over, strange: &[&str]) -> OverloadReport {
        let [completed, refused, ms, mb] = over;
        let mut tally = Tally::new();
        let calm = |completed: u32| Window {
            offered: completed,
            completed,
            micros: vec![20_000; 8],
            resident_mb: 100.0,
            ..Window::default()
        };
        tally.windows.extend(std::iter::repeat_n(calm(100), 8));
        tally.windows.extend(std::iter::repeat_n(calm(50), 8));
        tally.windows.extend((0..8).map(|at| Window {
            offered: completed(at) + refused(at),
            refused: refused(at),
            completed: completed(at),
            micros: vec![ms(at) * 1_000; 8],
            resident_mb: f64::from(mb(at)),
            ..Window::default()
        }));
        tally.windows.extend(std::iter::repeat_n(calm(50), 8));
        for what in strange {
            tally.add(std::time::Instant::now(), Became::Strange((*what).into()));
        }
        let names = ["peak", "half before", "overload", "half after"];
        let phases: Vec<Phase> = (0..4)
            .map(|at| Phase { name: names[at], from: at as f64 * 2.0, to: at as f64 * 2.0 + 2.0 })
            .collect();
        let after = After { behind_s: 0.0, connections: 1, receipt: Receipt::default() };
        OverloadReport::of(&phases, &tally, after)
    }

    #[test]
    fn a_mesh_that_sheds_in_time_holds() {
        let report = report([|_| 95, |_| 105, |_| 300, |_| 110], &[]);
        assert_eq!(report.wrong, Vec::<String>::new());
        assert_eq!(report.goodput_ratio, 0.95);
        assert_eq!(report.recovery_secs, Some(0.0));
        let over = &report.phases[2];
        assert_eq!((over.offered_per_s, over.refused_per_s), (800.0, 420.0));
    }

    #[test]
    fn each_way_to_collapse_is_seen() {
        let cases: [(Over, &str); 4] = [
            ([|_| 80, |_| 0, |_| 300, |_| 110], "goodput fell to 80 %"),
            ([|_| 95, |_| 0, |_| 4_000, |_| 110], "the slowest hundredth took 4000 ms"),
            ([|_| 95, |_| 0, |at| 100 * at as u32, |_| 110], "longer and longer"),
            ([|_| 95, |_| 0, |_| 300, |at| 100 + 50 * at as u32], "memory grew"),
        ];
        for (over, wrong) in cases {
            let report = report(over, &[]);
            assert!(report.wrong.iter().any(|line| line.contains(wrong)), "{:?}", report.wrong);
            assert_eq!(report.wrong.len(), 1, "{:?}", report.wrong);
        }
        let strange = report([|_| 95, |_| 0, |_| 300, |_| 110], &["504: too late"]);
        assert!(strange.wrong.contains(&"1 × 504: too late".to_owned()), "{:?}", strange.wrong);
    }
}
