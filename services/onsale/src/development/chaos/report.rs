//! What a run of faults has shown: tables, a JSON file and a picture.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use anstream::println;
use anyhow::{Context, Result};
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use serde::Serialize;

use super::{
    check::Verdict,
    fault::Kind,
    history::{Answers, Noticed},
};

/// One fault, or two at once.
#[derive(Debug, Clone, Serialize)]
pub struct Struck {
    /// The kinds.
    pub kinds: Vec<Kind>,
    /// What they were done to.
    pub targets: Vec<String>,
    /// When it began, in seconds since the first one.
    pub at_secs: f64,
    /// How long it lasted, in seconds.
    pub lasted_secs: f64,
    /// From the moment it was undone until a payment that was requested after it has ended.
    pub recovered_secs: Option<f64>,
    /// From the start of the process until it has handled something, where one was started.
    pub first_event_secs: Option<f64>,
    /// Requests that failed meanwhile and were sent again.
    pub failures: usize,
    /// Requests that were under way meanwhile, and of how many the client noticed something.
    pub noticed: Noticed,
    /// Whether clients may notice such a fault.
    pub may_be_noticed: bool,
}

/// The whole run.
#[derive(Debug, Clone, Serialize)]
pub struct ChaosReport {
    /// The seed that chooses the same faults again.
    pub seed: u64,
    /// How many nodes the broker has.
    pub nodes: u8,
    /// How long faults were made, in seconds.
    pub secs: f64,
    /// The faults.
    pub faults: Vec<Struck>,
    /// Payments that ended while clients waited.
    pub payments_ended: usize,
    /// Requests that failed and were sent again, by why.
    pub failures: BTreeMap<String, usize>,
    /// The longest time without the end of a payment, in seconds.
    pub longest_silence_secs: f64,
    /// The longest time that a client waited for the end of a payment, in seconds.
    pub longest_wait_secs: f64,
    /// That payment, its end, and when it was requested, in seconds since the start.
    pub longest_waited_for: String,
    /// From the end of the faults until the last payment had its end, in seconds.
    pub drained_secs: f64,
    /// From the end of the faults until everything that the broker had lost was published again.
    pub published_secs: f64,
    /// Messages that came again, as far as processes that still run know.
    pub redeliveries: u64,
    /// Processes that ended by themselves.
    pub ended: Vec<String>,
    /// Answers that no client should get, and how many got them.
    pub strange: BTreeMap<String, u64>,
    /// The comparison at the end.
    pub verdict: Verdict,
    /// Ends of payments in each second, for the picture.
    pub ends_per_second: Vec<usize>,
}

impl ChaosReport {
    /// Takes over what clients were answered.
    pub(super) fn add(&mut self, answers: &Answers, began: Instant, over: Instant) {
        let last = answers.ends.iter().map(|end| end.ended_at).max();
        self.drained_secs = last.map_or(0.0, |last| secs(last.saturating_duration_since(over)));
        self.payments_ended = answers.ends.len();
        for failure in &answers.failures {
            *self.failures.entry(failure.why.clone()).or_default() += 1;
        }
        self.longest_silence_secs = answers.longest_silence().as_secs_f64();
        if let Some(end) = answers.longest_wait() {
            self.longest_wait_secs = secs(end.waited());
            let (payment, state) = (end.payment, end.state);
            let at = secs(end.asked_at.saturating_duration_since(began));
            self.longest_waited_for = format!("{payment}, {state:?}, requested at {at:.0} s");
        }
        self.strange = answers.strange.clone();
        for end in &answers.ends {
            let second = end.ended_at.saturating_duration_since(began).as_secs() as usize;
            if self.ends_per_second.len() <= second {
                self.ends_per_second.resize(second + 1, 0);
            }
            self.ends_per_second[second] += 1;
        }
    }

    /// Everything that must not be.
    pub fn wrong(&self) -> Vec<String> {
        let mut wrong = self.verdict.wrong.clone();
        wrong.extend(self.ended.iter().cloned());
        wrong.extend(self.strange.iter().map(|(what, count)| format!("{count} × {what}")));
        let stuck = self.faults.iter().filter(|fault| fault.recovered_secs.is_none());
        wrong.extend(stuck.map(|fault| {
            let (kinds, targets) = (named(&fault.kinds), fault.targets.join(" and "));
            format!("nothing was sold any more after {kinds} ({targets})")
        }));
        wrong
    }

    /// Writes the report into a folder.
    ///
    /// # Errors
    /// When it cannot be written to.
    pub fn write(&self, folder: &Path) -> Result<()> {
        fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
        let json = serde_json::to_vec_pretty(self)?;
        fs::File::create(folder.join("report.json"))?.write_all(&json)?;
        Ok(())
    }

    /// Prints the tables.
    pub fn print(&self) {
        println!("{}", self.by_kind());
        println!("{}", self.figures());
        match self.wrong().as_slice() {
            [] => println!("nothing lost, nothing twice, everything ended"),
            wrong => {
                println!("{} things are wrong:", wrong.len());
                wrong.iter().take(40).for_each(|line| println!("  {line}"));
            }
        }
    }

    fn by_kind(&self) -> Table {
        let mut table = table(&[
            "fault",
            "alone",
            "with another",
            "recovered p50",
            "longest",
            "failed requests",
            "noticed",
            "of",
        ]);
        let kinds: BTreeSet<Kind> =
            self.faults.iter().flat_map(|fault| fault.kinds.iter().copied()).collect();
        for kind in kinds {
            let (alone, paired): (Vec<_>, Vec<_>) = self
                .faults
                .iter()
                .filter(|fault| fault.kinds.contains(&kind))
                .partition(|fault| fault.kinds.len() == 1);
            let mut recovered: Vec<f64> =
                alone.iter().chain(&paired).filter_map(|fault| fault.recovered_secs).collect();
            recovered.sort_by(f64::total_cmp);
            let failures: usize = alone.iter().map(|fault| fault.failures).sum();
            let noticed = |of: fn(&Noticed) -> usize| -> usize {
                alone.iter().map(|fault| of(&fault.noticed)).sum()
            };
            let secs =
                |value: Option<&f64>| value.map_or("-".into(), |secs| format!("{secs:.1} s"));
            row(
                &mut table,
                &kind.to_string(),
                &[
                    alone.len().to_string(),
                    paired.len().to_string(),
                    secs(recovered.get(recovered.len() / 2)),
                    secs(recovered.last()),
                    failures.to_string(),
                    noticed(|one| one.noticed).to_string(),
                    noticed(|one| one.requests).to_string(),
                ],
            );
        }
        table
    }

    fn figures(&self) -> Table {
        let mut table = table(&["", ""]);
        let firsts: Vec<f64> =
            self.faults.iter().filter_map(|fault| fault.first_event_secs).collect();
        let longest_first = firsts.iter().copied().fold(0.0, f64::max);
        let failures: usize = self.failures.values().sum();
        let hidden = self.faults.iter().filter(|fault| !fault.may_be_noticed);
        let noticed: usize = hidden.map(|fault| fault.failures).sum();
        let rows = [
            ("seed", self.seed.to_string()),
            ("nodes of the broker", self.nodes.to_string()),
            (
                "faults",
                self.faults.iter().map(|fault| fault.kinds.len()).sum::<usize>().to_string(),
            ),
            ("time of faults", format!("{:.0} s", self.secs)),
            ("payments ended", self.payments_ended.to_string()),
            ("requests that failed and were sent again", failures.to_string()),
            ("of them in faults that clients need not notice", noticed.to_string()),
            ("longest time without a payment's end", format!("{:.1} s", self.longest_silence_secs)),
            ("longest wait of a client", format!("{:.1} s", self.longest_wait_secs)),
            ("the payment that it waited for", self.longest_waited_for.clone()),
            ("slowest first event after a start", format!("{longest_first:.1} s")),
            ("last end of a payment after the faults", format!("{:.1} s", self.drained_secs)),
            ("everything published after the faults", format!("{:.1} s", self.published_secs)),
            ("messages that came again", self.redeliveries.to_string()),
            ("events audited", self.verdict.events.to_string()),
        ];
        for (name, value) in rows {
            row(&mut table, name, &[value]);
        }
        for (what, count) in &self.verdict.compared {
            row(
                &mut table,
                &format!("{what} compared with what clients were answered"),
                &[count.to_string()],
            );
        }
        table
    }
}

/// The kinds of a fault in words.
pub(super) fn named(kinds: &[Kind]) -> String {
    kinds.iter().map(Kind::to_string).collect::<Vec<_>>().join(" and ")
}

/// Seconds between two moments.
pub(super) fn secs(duration: Duration) -> f64 {
    duration.as_secs_f64()
}

fn table(head: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    if head.iter().any(|name| !name.is_empty()) {
        table.set_header(head);
    }
    table
}

fn row(table: &mut Table, name: &str, values: &[String]) {
    let values = values.iter().map(|value| Cell::new(value).set_alignment(CellAlignment::Right));
    table.add_row([Cell::new(name)].into_iter().chain(values).collect::<Vec<_>>());
}
