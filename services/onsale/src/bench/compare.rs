//! What those who only listen cost a sale: two meshes, measured by turns.

use anyhow::Result;
use comfy_table::{Cell, CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use serde::Serialize;

use super::{Line, Payments, Run};
use crate::lag::LISTENERS;

/// One turn of both meshes.
#[derive(Debug, Clone, Serialize)]
struct Turn {
    /// Without those who only listen.
    without: Line,
    /// With every service.
    with: Line,
}

/// Pays on both meshes by turns, so that what else the machine does meets both alike.
pub(super) async fn run(options: Payments) -> Result<()> {
    let concurrency = options.concurrency.iter().copied().max().unwrap_or(1);
    let requests = options.requests.max(concurrency * 4);
    let (mut without, mut with) = (Run::start(&LISTENERS).await?, Run::start(&[]).await?);
    let mut turns = Vec::new();
    for turn in 0..options.turns {
        eprintln!("turn {} of {}", turn + 1, options.turns);
        let lost = options.compensate_percent;
        turns.push(Turn {
            without: without.pay(concurrency, requests, lost).await?,
            with: with.pay(concurrency, requests, lost).await?,
        });
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

/// The median of what was paid with everybody on, as a part of what was paid without.
fn ratio(turns: &[Turn]) -> f64 {
    let of = |turn: &Turn| turn.with.payments_per_s / turn.without.payments_per_s;
    let mut ratios: Vec<f64> = turns.iter().map(of).collect();
    ratios.sort_unstable_by(f64::total_cmp);
    let middle = ratios.len() / 2;
    match ratios.len() % 2 {
        0 if middle > 0 => (ratios[middle - 1] + ratios[middle]) / 2.0,
        _ => ratios.get(middle).copied().unwrap_or(1.0),
    }
}

fn table(turns: &[Turn]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header([
        "turn",
        "payments/s without",
        "payments/s with",
        "ratio",
        "p99 ms without",
        "p99 ms with",
        "listeners behind s",
    ]);
    for (index, turn) in turns.iter().enumerate() {
        let cells = [
            (index + 1).to_string(),
            format!("{:.0}", turn.without.payments_per_s),
            format!("{:.0}", turn.with.payments_per_s),
            format!("{:.2}", turn.with.payments_per_s / turn.without.payments_per_s),
            format!("{:.0}", turn.without.p99_ms),
            format!("{:.0}", turn.with.p99_ms),
            format!("{:.1}", turn.with.behind_s),
        ];
        table.add_row(cells.map(|text| Cell::new(text).set_alignment(CellAlignment::Right)));
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(without: f64, with: f64) -> Turn {
        let line = |payments_per_s| Line {
            concurrency: 1,
            requests: 1,
            payments_per_s,
            p50_ms: 1.0,
            p99_ms: 1.0,
            completed: 1,
            compensated: 0,
            refused: 0,
            resident_mb: 1.0,
            behind_s: 0.0,
        };
        Turn { without: line(without), with: line(with) }
    }

    #[test]
    fn one_bad_turn_does_not_change_the_median() {
        let turns = [turn(100.0, 90.0), turn(100.0, 10.0), turn(100.0, 88.0)];
        assert_eq!(ratio(&turns), 0.88);
        assert_eq!(ratio(&turns[..2]), 0.5);
    }
}
