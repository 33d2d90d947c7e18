//! `onsale bench growth`: payments on databases with millions of earlier ones, and on empty ones.

mod fill;

use anstream::println;
use anyhow::{Result, bail};
use clap::Args;
use serde::Serialize;

use super::{
    line::{self, Line, median},
    logs,
    options::Load,
    run::Run,
    stand::Setup,
};

/// The least part of the payments on empty databases.
const RATIO_MIN: f64 = 0.9;

const EXPLAINED: &str = "\
Two meshes run, each on servers of its own, and are paid by turns. The databases of payment,
reservation and point of the one are filled first, as if the earlier payments had been made over
the last 90 days: holds, payments, schedules, seats, reservations, places, wallets and the ledger
whole, and outboxes, inboxes and answers with what retention leaves of them. A million payments
take about 2 GB.";

/// Options of `onsale bench growth`.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXPLAINED)]
pub struct Growth {
    /// Earlier payments
    #[arg(long, value_name = "N", default_value_t = 20_000_000,
          value_parser = clap::value_parser!(u64).range(1_000..=100_000_000))]
    pub earlier: u64,
    /// Payments running at once
    #[arg(long, value_name = "N", default_value_t = 512,
          value_parser = clap::value_parser!(u64).range(1..=1_024))]
    pub concurrency: u64,
    /// Payments of each turn
    #[arg(long, value_name = "N", default_value_t = 20_000)]
    pub requests: usize,
    /// Turns of both
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub turns: u32,
    /// Prints an object instead of a table
    #[arg(long)]
    pub json: bool,
}

/// One turn of both meshes.
#[derive(Debug, Clone, Serialize)]
struct Turn {
    empty: Line,
    filled: Line,
}

/// The result.
#[derive(Debug, Clone, Serialize)]
struct GrowthReport {
    earlier: u64,
    ratio: f64,
    turns: Vec<Turn>,
}

/// Runs `onsale bench growth`.
///
/// # Errors
/// When something cannot be started, an invariant is broken, or earlier payments cost too much.
pub async fn growth(options: Growth) -> Result<()> {
    let report = logs::kept_on_failure(measure(&options)).await?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        let header = [
            "turn",
            "payments/s empty",
            "filled",
            "ratio",
            "p99 ms empty",
            "filled",
            "CPU µs empty",
            "filled",
        ];
        let row = |(at, Turn { empty, filled }): (usize, &Turn)| {
            [
                (at + 1).to_string(),
                format!("{:.0}", empty.payments_per_s),
                format!("{:.0}", filled.payments_per_s),
                format!("{:.2}", filled.payments_per_s / empty.payments_per_s),
                format!("{:.0}", empty.p99_ms),
                format!("{:.0}", filled.p99_ms),
                format!("{:.0}", empty.costs.cpu_us()),
                format!("{:.0}", filled.costs.cpu_us()),
            ]
        };
        println!("{}", line::table(header, report.turns.iter().enumerate().map(row)));
        println!(
            "with {} earlier payments: {:.2} of the payments a second (median of {} turns)",
            report.earlier,
            report.ratio,
            report.turns.len()
        );
    }
    if report.ratio < RATIO_MIN {
        bail!("earlier payments cost more than a tenth: {:.2}", report.ratio);
    }
    Ok(())
}

async fn measure(options: &Growth) -> Result<GrowthReport> {
    let setup = Setup::default();
    let (mut empty, mut filled) = (Run::start(&setup).await?, Run::start(&setup).await?);
    fill::fill(&filled.stand.config, options.earlier).await?;
    let load = Load {
        concurrency: options.concurrency as usize,
        requests: options.requests.max(options.concurrency as usize * 4),
        lost: 5,
        rows: false,
        traced_every: None,
    };
    let mut turns = Vec::new();
    for turn in 1..=options.turns {
        eprintln!("turn {turn} of {}", options.turns);
        turns.push(Turn { empty: empty.pay(&load).await?, filled: filled.pay(&load).await? });
    }
    empty.end().await?;
    filled.end().await?;
    let ratio =
        median(turns.iter().map(|turn| turn.filled.payments_per_s / turn.empty.payments_per_s));
    Ok(GrowthReport { earlier: options.earlier, ratio, turns })
}
