//! How fast it is: payments through the gateway, from a process of their own.
//!
//! Servers and services run in a child process, the driver in this one, all on the same
//! machine. Every request pays a hold that was made before the clock started; a twentieth of
//! them lose their hold while the payment runs and are compensated. A payment counts when
//! its end is known, and afterwards the databases must satisfy every invariant.

mod driver;
mod stand;

use std::time::Duration;

use anyhow::{Result, bail};
use clap::Args;
use comfy_table::{Cell, CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use serde::Serialize;

use crate::receipt::Books;

/// How long the mesh may take to come to rest after the last answer.
const REST_WITHIN: Duration = Duration::from_secs(60);

/// Options of `onsale bench payments`.
#[derive(Debug, Clone, Args)]
pub struct Payments {
    /// Payments running at once; one line of the table each
    #[arg(long, value_delimiter = ',', default_value = "1,64,512")]
    pub concurrency: Vec<usize>,
    /// Payments of the line with the highest concurrency; the others take fewer
    #[arg(long, default_value_t = 20_000)]
    pub requests: usize,
    /// Percent of payments whose hold is lost while they run
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub compensate_percent: u32,
    /// Prints an array of objects instead of a table
    #[arg(long)]
    pub json: bool,
}

/// One line of the result.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// Payments running at once.
    pub concurrency: usize,
    /// Payments asked for.
    pub requests: usize,
    /// Payments with a known end per second.
    pub payments_per_s: f64,
    /// Median time from request to known end, in ms.
    pub p50_ms: f64,
    /// The same for the slowest hundredth.
    pub p99_ms: f64,
    /// Payments that completed.
    pub completed: usize,
    /// Payments whose money was taken and given back.
    pub compensated: usize,
    /// Payments refused at the door: the loss of the hold was known already.
    pub refused: usize,
    /// Resident memory of the one process with all services, in MB.
    pub resident_mb: f64,
}

/// Runs `onsale bench payments`.
///
/// # Errors
/// When something cannot be started, an answer is not as documented, or an invariant is
/// broken.
pub async fn payments(options: Payments) -> Result<()> {
    let stand = stand::Stand::start().await?;
    let most = options.concurrency.iter().copied().max().unwrap_or(1);
    let mut lines = Vec::new();
    let mut schedules = Vec::new();
    for &concurrency in &options.concurrency {
        // Enough for a steady state, and no more than it takes.
        let requests = (options.requests * concurrency / most).clamp(300, options.requests);
        let requests = requests.max(concurrency * 4);
        eprintln!("{concurrency} at once: making {requests} holds …");
        let hall = stand.prepare(requests, options.compensate_percent).await?;
        eprintln!("{concurrency} at once: paying …");
        let mut line = driver::pay_all(stand.addr, &hall, concurrency).await?;
        line.resident_mb = stand.resident_mb();
        schedules.extend(hall.schedules.iter().map(|schedule| schedule.0));
        lines.push(line);
    }
    let books = Books::open(&stand.config).await?;
    let receipt = books.receipt_at_rest(&schedules, REST_WITHIN).await?;
    drop(books);
    stand.stop().await;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&lines)?);
    } else {
        println!("{}", table(&lines));
        println!(
            "invariants checked over {} payments in the databases",
            receipt.payments.values().sum::<i64>()
        );
    }
    let broken = receipt.broken();
    if !broken.is_empty() {
        bail!("invariants are broken:\n  {}", broken.join("\n  "));
    }
    Ok(())
}

fn table(lines: &[Line]) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header([
        "concurrent",
        "requests",
        "payments/s",
        "p50 ms",
        "p99 ms",
        "completed",
        "compensated",
        "refused",
        "resident MB",
    ]);
    for line in lines {
        let cells = [
            line.concurrency.to_string(),
            line.requests.to_string(),
            format!("{:.0}", line.payments_per_s),
            format!("{:.1}", line.p50_ms),
            format!("{:.1}", line.p99_ms),
            line.completed.to_string(),
            line.compensated.to_string(),
            line.refused.to_string(),
            format!("{:.0}", line.resident_mb),
        ];
        table.add_row(cells.map(|text| Cell::new(text).set_alignment(CellAlignment::Right)));
    }
    table
}
