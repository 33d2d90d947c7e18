//! What the listeners cost a sale: two meshes, measured by turns.

use anyhow::Result;
use comfy_table::Table;
use serde::Serialize;

use super::{
    line::{self, Line, median},
    options::Payments,
    run::Run,
};
use crate::registry::LISTENERS;

/// One turn of both meshes.
#[derive(Debug, Clone, Serialize)]
struct Turn {
    /// Without the listeners.
    without: Line,
    /// With every service.
    with: Line,
}

/// Pays on both meshes by turns, so that what else the machine does meets both alike.
pub(super) async fn run(options: &Payments) -> Result<()> {
    let concurrency = options.most();
    let (mut without, mut with) = (Run::start(&LISTENERS, &[]).await?, Run::start(&[], &[]).await?);
    let mut turns = Vec::new();
    let many = options.turns();
    for turn in 1..=many {
        eprintln!("turn {turn} of {many}");
        let load = options.load(concurrency, turn);
        turns.push(Turn { without: without.pay(&load).await?, with: with.pay(&load).await? });
    }
    let checked = without.end().await? + with.end().await?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&turns)?);
        return Ok(());
    }
    println!("{}", table(&turns));
    println!(
        "listening costs {:.0} % of the payments (median of {} turns at {concurrency} at once)",
        100.0 * (1.0 - ratio(&turns)),
        turns.len()
    );
    println!("invariants checked over {checked} payments in the databases");
    Ok(())
}

/// Payments with every service as a part of payments without the listeners, the median.
fn ratio(turns: &[Turn]) -> f64 {
    median(turns.iter().map(|turn| turn.with.payments_per_s / turn.without.payments_per_s))
}

fn table(turns: &[Turn]) -> Table {
    let header = [
        "turn",
        "payments/s without",
        "payments/s with",
        "ratio",
        "p99 ms without",
        "p99 ms with",
        "CPU µs without",
        "CPU µs with",
        "listeners behind s",
    ];
    let row = |(index, Turn { without, with }): (usize, &Turn)| {
        [
            (index + 1).to_string(),
            format!("{:.0}", without.payments_per_s),
            format!("{:.0}", with.payments_per_s),
            format!("{:.2}", with.payments_per_s / without.payments_per_s),
            format!("{:.0}", without.p99_ms),
            format!("{:.0}", with.p99_ms),
            format!("{:.0}", without.costs.cpu_us()),
            format!("{:.0}", with.costs.cpu_us()),
            format!("{:.1}", with.behind_s),
        ]
    };
    line::table(header, turns.iter().enumerate().map(row))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(without: f64, with: f64) -> Turn {
        let line = |payments_per_s| Line { payments_per_s, ..Line::default() };
        Turn { without: line(without), with: line(with) }
    }

    #[test]
    fn one_bad_turn_does_not_change_the_median() {
        let turns = [turn(100.0, 90.0), turn(100.0, 10.0), turn(100.0, 88.0)];
        assert_eq!(ratio(&turns), 0.88);
        assert_eq!(ratio(&turns[..2]), 0.5);
    }
}
