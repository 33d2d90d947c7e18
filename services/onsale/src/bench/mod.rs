//! How fast it is: payments through the gateway, from a process of their own. The seat map
//! is measured in [`seats`].
//!
//! Servers and services run in a child process, the driver in this one, all on the same
//! machine. Every request pays a hold that was made before the clock started; a twentieth of
//! them lose their hold while the payment runs and are compensated. A payment counts when
//! its end is known, and afterwards the databases must satisfy every invariant.

mod audit;
mod compare;
mod driver;
mod seats;
mod stand;

use std::time::{Duration, Instant};

pub use audit::{Audit, audit};

use anyhow::{Result, bail};
use clap::Args;
use comfy_table::{Cell, CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use serde::Serialize;

use uuid::Uuid;

pub use self::seats::{Seats, seats};
use self::stand::Stand;
use crate::{
    lag::{LISTENERS, Observer},
    receipt::Books,
};

/// How long the mesh may take to come to rest after the last answer.
const REST_WITHIN: Duration = Duration::from_secs(60);
/// How long those who only listen may take to hear of all that was paid.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(180);

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
    /// Measures one mesh with every service and one without those that only listen, by turns,
    /// at the highest concurrency
    #[arg(long)]
    pub compare: bool,
    /// Turns of each mesh when comparing
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub turns: u32,
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
    /// Seconds after the last payment until whoever only listens had heard of all, in s.
    pub behind_s: f64,
}

/// Runs `onsale bench payments`.
///
/// # Errors
/// When something cannot be started, an answer is not as documented, or an invariant is
/// broken.
pub async fn payments(options: Payments) -> Result<()> {
    if options.compare {
        return compare::run(options).await;
    }
    let mut run = Run::start(&[]).await?;
    let most = options.concurrency.iter().copied().max().unwrap_or(1);
    let mut lines = Vec::new();
    for &concurrency in &options.concurrency {
        // Enough for a steady state, and no more than it takes.
        let requests = (options.requests * concurrency / most).clamp(300, options.requests);
        let requests = requests.max(concurrency * 4);
        lines.push(run.pay(concurrency, requests, options.compensate_percent).await?);
    }
    let payments = run.end().await?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&lines)?);
    } else {
        println!("{}", table(&lines));
        println!("invariants checked over {payments} payments in the databases");
    }
    Ok(())
}

/// One mesh under test, from its start to the check of its books.
struct Run {
    stand: Stand,
    listeners: Observer,
    schedules: Vec<Uuid>,
}

impl Run {
    /// Starts a mesh without the services named.
    async fn start(without: &[&str]) -> Result<Self> {
        let stand = Stand::start(without).await?;
        let here: Vec<&str> =
            LISTENERS.into_iter().filter(|service| !without.contains(service)).collect();
        let listeners = Observer::open(&stand.config, &here).await?;
        Ok(Self { stand, listeners, schedules: Vec::new() })
    }

    /// Makes holds and pays them, `concurrency` at once. Whoever only listens has heard of
    /// the holds before the first is paid, and of the payments before this returns.
    async fn pay(&mut self, concurrency: usize, requests: usize, lost: u32) -> Result<Line> {
        eprintln!("{concurrency} at once: making {requests} holds …");
        let hall = self.stand.prepare(requests, lost).await?;
        self.listeners.caught_up(CAUGHT_UP_WITHIN).await?;
        eprintln!("{concurrency} at once: paying …");
        let mut line = driver::pay_all(self.stand.addr, &hall, concurrency).await?;
        let paid = Instant::now();
        self.listeners.caught_up(CAUGHT_UP_WITHIN).await?;
        line.behind_s = paid.elapsed().as_secs_f64();
        line.resident_mb = self.stand.resident_mb();
        self.schedules.extend(hall.schedules.iter().map(|schedule| schedule.0));
        Ok(line)
    }

    /// Checks the books and stops; how many payments were checked.
    async fn end(self) -> Result<i64> {
        let books = Books::open(&self.stand.config).await?;
        let receipt = books.receipt_at_rest(&self.schedules, REST_WITHIN).await?;
        drop(books);
        self.listeners.close().await;
        self.stand.stop().await;
        let broken = receipt.broken();
        if !broken.is_empty() {
            bail!("invariants are broken:\n  {}", broken.join("\n  "));
        }
        Ok(receipt.payments.values().sum())
    }
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
        "listeners behind s",
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
            format!("{:.1}", line.behind_s),
        ];
        table.add_row(cells.map(|text| Cell::new(text).set_alignment(CellAlignment::Right)));
    }
    table
}
