//! Benchmarks: payments through the gateway, from a process of their own. The seat map is
//! measured in [`seats`].
//!
//! Servers and services run in a child process, the driver in this one, all on the same
//! machine. Every request pays a hold that was made before the clock started. A twentieth of
//! them lose their hold while the payment runs and are compensated. A payment counts when
//! its end is known, and afterwards the databases must satisfy every invariant.

mod against;
mod audit;
mod collector;
mod compare;
mod counts;
mod driver;
mod growth;
mod hall;
pub(super) mod line;
mod logs;
mod meter;
mod monolith;
mod options;
mod overload;
pub(super) mod procs;
mod run;
mod seats;
mod stand;
mod wire;

use anyhow::Result;
use clap::Subcommand;

pub use self::{
    audit::{Audit, audit},
    growth::{Growth, growth},
    line::Line,
    monolith::{Monolith, serve as monolith},
    options::{Comparison, Opponents, Payments},
    overload::{Overload, overload},
    seats::{Seats, seats},
};
use self::{run::Run, stand::Setup};

/// The benchmarks.
#[derive(Subcommand)]
pub enum Command {
    /// Payments through the gateway, some of them compensated
    Payments(Payments),
    /// The seat map: its readers, and the watchers of its changes
    Seats(Seats),
    /// Events that audit consumes
    Audit(Audit),
    /// More payments than the mesh can do, for minutes
    Overload(Overload),
    /// Payments on databases with millions of earlier ones, and on empty ones
    Growth(Growth),
    /// The monolith that `payments --against monolith` starts
    #[command(hide = true)]
    Monolith(Monolith),
}

impl Command {
    /// What is logged unless the environment says otherwise; `None` for what a service logs.
    pub(super) fn log_filter(&self) -> Option<&'static str> {
        match self {
            // Its producers have no commands to answer, and log that each second.
            Self::Audit(_) => Some("off"),
            Self::Monolith(_) => None,
            Self::Payments(_) | Self::Growth(_) | Self::Overload(_) | Self::Seats(_) => {
                Some(crate::log::ERRORS)
            }
        }
    }
}

/// Runs a benchmark.
///
/// # Errors
/// When something cannot be started, an answer is not as documented, or an invariant is
/// broken.
pub async fn run(command: Command) -> Result<()> {
    match command {
        Command::Payments(options) => payments(options).await,
        Command::Growth(options) => growth(options).await,
        Command::Overload(options) => overload(options).await,
        Command::Seats(options) => seats(options).await,
        Command::Audit(options) => audit(options).await,
        Command::Monolith(options) => monolith(options).await,
    }
}

/// Runs `onsale bench payments`.
///
/// # Errors
/// When something cannot be started, an answer is not as documented, or an invariant is
/// broken.
pub async fn payments(options: Payments) -> Result<()> {
    logs::kept_on_failure(async {
        match options.against {
            Some(Opponents::Monolith) => against::run(&options).await,
            None => match options.compare {
                Some(what) => compare::run(&options, what).await,
                None => alone(&options).await,
            },
        }
    })
    .await
}

/// Measures the mesh alone.
async fn alone(options: &Payments) -> Result<()> {
    let mut run = Run::start(&Setup::default()).await?;
    let mut lines = Vec::new();
    for &concurrency in &options.concurrency {
        let mut turns = Vec::new();
        for turn in 1..=options.turns() {
            turns.push(run.pay(&options.load(concurrency, turn)).await?);
        }
        lines.push(Line::of_turns(&turns.iter().collect::<Vec<_>>()));
    }
    let payments = run.end().await?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&lines)?);
        return Ok(());
    }
    println!("{}", line::speeds(lines.iter()));
    println!("Processor time a payment:\n{}", line::processor_times(lines.iter()));
    println!("A payment:\n{}", line::traffic(lines.iter()));
    lines.iter().filter_map(line::batches).for_each(|text| println!("{text}"));
    println!("invariants checked over {payments} payments in the databases");
    Ok(())
}
