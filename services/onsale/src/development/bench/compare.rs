//! What one thing costs a sale: with it and without it, by turns.
//!
//! Two meshes compare the listeners. Traces are compared on one mesh, whose driver has some of its
//! payments recorded: two equal meshes differ by more than traces cost.

use anyhow::{Result, ensure};
use comfy_table::Table;
use serde::Serialize;

use super::{
    collector::Collector,
    line::{self, Line, median},
    options::{Comparison, Load, Payments},
    run::Run,
    stand::Setup,
};
use crate::registry::LISTENERS;

const LISTENING: [Side; 2] = [
    Side { name: "without listeners", mesh: 0, traced_every: None },
    Side { name: "every service", mesh: 1, traced_every: None },
];
/// Without traces twice: the second shows the noise.
const TRACING: [Side; 4] = [
    Side { name: "no traces", mesh: 0, traced_every: None },
    Side { name: "no traces again", mesh: 0, traced_every: None },
    Side { name: "1 % of traces", mesh: 0, traced_every: Some(100) },
    Side { name: "all traces", mesh: 0, traced_every: Some(1) },
];

/// One side of a comparison.
#[derive(Clone, Copy)]
struct Side {
    name: &'static str,
    /// Which of the meshes it pays on.
    mesh: usize,
    /// One payment of so many is recorded as a trace.
    traced_every: Option<usize>,
}

/// What one side did in one turn.
#[derive(Debug, Clone, Default, Serialize)]
struct Turn {
    turn: u32,
    /// The name of the side.
    mesh: &'static str,
    /// Its payments as a part of those of the first side in this turn.
    ratio: f64,
    /// Bytes of spans sent to the collector for each payment.
    spans_bytes_per_payment: f64,
    #[serde(flatten)]
    line: Line,
}

/// Pays on every side by turns, so that what else the machine does meets all alike.
pub(super) async fn run(options: &Payments, what: Comparison) -> Result<()> {
    let (mut meshes, sides, collector) = match what {
        Comparison::Listeners => (listeners().await?, LISTENING.to_vec(), None),
        Comparison::Traces => {
            let collector = Collector::start().await?;
            let setup = Setup { collector: Some(collector.addr), ..Setup::default() };
            (vec![Run::start(&setup).await?], TRACING.to_vec(), Some(collector))
        }
    };
    let sent = || collector.as_ref().map_or(0, Collector::received);
    let (concurrency, many) = (options.most(), options.turns());
    let mut turns: Vec<Turn> = Vec::new();
    for turn in 1..=many {
        eprintln!("turn {turn} of {many}");
        let mut paid = Vec::new();
        for index in order(sides.len(), turn) {
            let Side { name, mesh, traced_every } = sides[index];
            let load = Load { traced_every, ..options.load(concurrency, turn) };
            let before = sent();
            let line = meshes[mesh].pay(&load).await?;
            let bytes = sent() - before;
            // A comparison without spans would say that they cost nothing.
            ensure!(traced_every.is_none() || bytes > 0, "{name}: no span was sent");
            paid.push((index, Turn::new(turn, name, line, bytes)));
        }
        paid.sort_by_key(|(index, _)| *index);
        let first = paid[0].1.line.payments_per_s;
        turns.extend(paid.into_iter().map(|(_, paid)| paid.against(first)));
    }
    let mut checked = 0;
    for mesh in meshes {
        checked += mesh.end().await?;
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&turns)?);
        return Ok(());
    }
    println!("{}", table(&turns));
    for side in &sides[1..] {
        println!("{}", cost(side.name, sides[0].name, &turns));
    }
    println!("{many} turns, {concurrency} at once");
    println!("invariants checked over {checked} payments in the databases");
    Ok(())
}

/// Two meshes, of which one has no listeners.
async fn listeners() -> Result<Vec<Run>> {
    let without = Setup { name: Some("fewer-services"), without: &LISTENERS, ..Setup::default() };
    Ok(vec![Run::start(&without).await?, Run::start(&Setup::default()).await?])
}

/// The order of the sides in a turn: each comes first in its turn, so that none is favoured.
fn order(sides: usize, turn: u32) -> impl Iterator<Item = usize> {
    (0..sides).map(move |index| (index + turn as usize - 1) % sides)
}

impl Turn {
    fn new(turn: u32, mesh: &'static str, line: Line, spans_bytes: u64) -> Self {
        let payments = (line.completed + line.compensated).max(1);
        let spans_bytes_per_payment = spans_bytes as f64 / payments as f64;
        Self { turn, mesh, ratio: 1.0, spans_bytes_per_payment, line }
    }

    fn against(self, first: f64) -> Self {
        Self { ratio: self.line.payments_per_s / first, ..self }
    }
}

/// What a side costs, in words: the median of its turns, and the spread.
fn cost(name: &str, first: &str, turns: &[Turn]) -> String {
    let cost = |turn: &Turn| 100.0 * (1.0 - turn.ratio);
    let costs = turns.iter().filter(|turn| turn.mesh == name).map(cost);
    let least = costs.clone().fold(f64::INFINITY, f64::min);
    let most = costs.clone().fold(f64::NEG_INFINITY, f64::max);
    format!(
        "{name}: {:.0} % fewer payments than {first} (median; from {least:.0} to {most:.0} %)",
        median(costs)
    )
}

fn table(turns: &[Turn]) -> Table {
    let header = [
        "turn",
        "mesh",
        "payments/s",
        "ratio",
        "p50 ms",
        "p99 ms",
        "CPU µs",
        "spans B",
        "listeners behind s",
    ];
    let row = |Turn { turn, mesh, ratio, spans_bytes_per_payment, line }: &Turn| {
        [
            turn.to_string(),
            (*mesh).to_owned(),
            format!("{:.0}", line.payments_per_s),
            format!("{ratio:.2}"),
            format!("{:.0}", line.p50_ms),
            format!("{:.0}", line.p99_ms),
            format!("{:.0}", line.costs.cpu_us()),
            format!("{spans_bytes_per_payment:.0}"),
            format!("{:.1}", line.behind_s),
        ]
    };
    line::table(header, turns.iter().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_side_comes_first_in_its_turn() {
        let orders = [1, 2, 3, 4].map(|turn| order(3, turn).collect::<Vec<_>>());
        assert_eq!(orders, [[0, 1, 2], [1, 2, 0], [2, 0, 1], [0, 1, 2]]);
    }

    #[test]
    fn a_cost_is_the_median_of_the_turns_with_its_spread() {
        let turn = |mesh, ratio| Turn { mesh, ratio, ..Turn::default() };
        let turns = [turn("all", 0.9), turn("other", 0.2), turn("all", 1.01), turn("all", 0.88)];
        assert_eq!(
            cost("all", "none", &turns),
            "all: 10 % fewer payments than none (median; from -1 to 12 %)"
        );
    }
}
