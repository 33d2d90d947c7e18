//! What a soak has shown: a table, a JSON file and pictures.

use std::{collections::BTreeMap, fs, path::Path};

use anstream::println;
use anyhow::{Context, Result};
use serde::Serialize;

use super::{
    super::{
        bench::line::table,
        picture::{self, Panel},
    },
    series::{Judged, STORED, Series, Verdict},
};

/// A table or stream that never had so much is not printed.
const SHOWN_FROM_MB: f64 = 0.5;
/// The most lines of one panel; the largest are drawn.
const LINES_MAX: usize = 6;

/// The whole run.
#[derive(Debug, Clone, Serialize)]
pub struct SoakReport {
    /// The seed that chooses the same restarts again.
    pub seed: u64,
    /// How long it lasted, in seconds.
    pub secs: f64,
    /// Days that passed for the services.
    pub days: u64,
    /// Sales that were held.
    pub sales: usize,
    /// Payments that were checked in the databases.
    pub payments: i64,
    /// Processes that were restarted in order.
    pub restarts: usize,
    /// Signing keys that were made.
    pub keys: i64,
    /// Looks that failed, as at a process that is restarted.
    pub failed_looks: u64,
    /// Every series in figures.
    pub judged: Vec<Judged>,
    /// Everything that must not be, beside series that grow.
    pub wrong: Vec<String>,
    /// The samples.
    pub series: Vec<Series>,
}

impl SoakReport {
    /// The series that grow and may not.
    pub fn growing(&self) -> Vec<String> {
        let growing = self.judged.iter().filter(|one| one.verdict == Verdict::Growing);
        growing
            .map(|one| {
                let Judged { of, what, first, last, per_hour, .. } = one;
                format!("{of}: {what} grows by {per_hour:.1} an hour ({first:.1}, {last:.1})")
            })
            .collect()
    }

    /// Prints the table.
    pub(super) fn print(&self) {
        let header = ["of", "what", "first quarter", "last quarter", "most", "an hour", "verdict"];
        let row = |one: &Judged| {
            let verdict = match one.verdict {
                Verdict::Bounded => "bounded",
                Verdict::Growing => "GROWING",
                Verdict::Kept => "kept",
                Verdict::TooShort => "too short",
            };
            [
                one.of.clone(),
                one.what.clone(),
                format!("{:.1}", one.first),
                format!("{:.1}", one.last),
                format!("{:.1}", one.most),
                format!("{:+.1}", one.per_hour),
                verdict.to_owned(),
            ]
        };
        let is_shown = |one: &&Judged| !one.what.ends_with(STORED) || one.most >= SHOWN_FROM_MB;
        println!("{}", table(header, self.judged.iter().filter(is_shown).map(row)));
        let hidden = self.judged.len() - self.judged.iter().filter(is_shown).count();
        println!("{hidden} tables and streams never had {SHOWN_FROM_MB} MB; soak.json has them");
        println!(
            "{:.0} s: {} sales, {} payments, {} days, {} signing keys, {} restarts",
            self.secs, self.sales, self.payments, self.days, self.keys, self.restarts
        );
        let count = |verdict| self.judged.iter().filter(|one| one.verdict == verdict).count();
        println!(
            "{} series are bounded, {} are kept for good, {} were too short, {} grow",
            count(Verdict::Bounded),
            count(Verdict::Kept),
            count(Verdict::TooShort),
            count(Verdict::Growing)
        );
    }

    /// Writes the report and its pictures into a folder.
    ///
    /// # Errors
    /// When it cannot be written to.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        fs::write(folder.join("soak.json"), serde_json::to_vec(self)?)?;
        let mut by_what: BTreeMap<&str, Vec<&Series>> = BTreeMap::new();
        let mut by_service: BTreeMap<&str, Vec<&Series>> = BTreeMap::new();
        for series in &self.series {
            match series.what.split_once('.') {
                None => by_what.entry(&series.what).or_default().push(series),
                Some(_) => by_service.entry(&series.of).or_default().push(series),
            }
        }
        let panel = |caption: &str, series: Vec<&Series>, name: fn(&Series) -> &String| Panel {
            caption: caption.to_owned(),
            lines: largest(series)
                .into_iter()
                .map(|series| (name(series).clone(), series.samples.clone()))
                .collect(),
            shaded: Vec::new(),
        };
        let processes: Vec<Panel> =
            by_what.into_iter().map(|(what, some)| panel(what, some, |one| &one.of)).collect();
        picture::draw(&folder.join("processes.svg"), &processes)?;
        let tables: Vec<Panel> = by_service
            .into_iter()
            .map(|(of, some)| panel(&format!("tables of {of}"), some, |one| &one.what))
            .collect();
        picture::draw(&folder.join("tables.svg"), &tables)
    }
}

fn largest(mut series: Vec<&Series>) -> Vec<&Series> {
    let last = |series: &Series| series.samples.last().map_or(0.0, |at| at.1);
    series.sort_by(|a, b| last(b).total_cmp(&last(a)));
    series.truncate(LINES_MAX);
    series
}
