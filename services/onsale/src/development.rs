//! What development runs and production does not: the demo, servers of our own, benchmarks.
//!
//! It is compiled with the feature `development`, which is on unless a build turns it off; the
//! image does. Nothing outside this room depends on it but the command line.
//!
//! | file | what it is |
//! |---|---|
//! | `environment` | real servers of our own, migrated and with the topology applied |
//! | `topology` | streams and consumers recreated on a broker that is ours alone |
//! | `dev` | every service on such servers |
//! | `demo` | a sale from opening to receipt |
//! | `sale` | a sale as a file |
//! | `box_office` | what an organizer does before a sale |
//! | `receipt` | what the databases say afterwards |
//! | `lag` | how far the listeners are behind |
//! | `bench` | benchmarks |
//! | `chaos` | a sale under faults |
//! | `soak` | sale after sale, and what grows |
//! | `processes`, `proxy` | one process for each service, behind connections that can be broken |
//! | `lasting` | how long something lasts, as an option |
//! | `picture` | lines over time, as SVG |
//! | `crash` | a process that ends at a given step |
//! | `clock` | a process whose clock is moved |

pub mod bench;
pub mod box_office;
pub mod chaos;
pub(crate) mod clock;
pub(crate) mod crash;
pub mod demo;
pub mod dev;
pub mod environment;
pub mod lag;
mod lasting;
mod picture;
mod processes;
mod proxy;
pub mod receipt;
pub mod sale;
pub mod soak;
pub mod topology;

use anyhow::Result;
use clap::Subcommand;

/// The commands that only development has.
#[derive(Subcommand)]
pub enum Command {
    /// Runs a sale from opening to receipt, and stays up
    Demo(demo::Demo),
    /// Starts servers and every service, and stays up
    Dev(dev::Dev),
    /// Runs a benchmark
    #[command(subcommand)]
    Bench(bench::Command),
    /// Sells under faults of every kind, and proves that nothing is lost and nothing happens twice
    Chaos(chaos::Chaos),
    /// Sells for hours while days pass, and proves that nothing grows that may not
    Soak(soak::Soak),
}

impl Command {
    /// What is logged unless the environment says otherwise; `None` for what a service logs.
    pub fn log_filter(&self) -> Option<&'static str> {
        match self {
            // When a part is broken on purpose, the errors of the others are expected.
            Self::Demo(demo) if demo.break_part.is_some() => Some("off"),
            Self::Chaos(_) => Some("off"),
            Self::Demo(_) | Self::Soak(_) => Some(crate::log::ERRORS),
            Self::Dev(_) => None,
            Self::Bench(command) => command.log_filter(),
        }
    }

    /// Runs it.
    ///
    /// # Errors
    /// When something cannot be started, or the outcome is not what it must be.
    pub async fn run(self) -> Result<()> {
        match self {
            Self::Demo(options) => demo::run(options).await,
            Self::Dev(options) => dev::run(options).await,
            Self::Bench(command) => bench::run(command).await,
            Self::Chaos(options) => chaos::run(options).await,
            Self::Soak(options) => soak::run(options).await,
        }
    }
}
