//! Benchmarks: payments through the gateway, from a process of their own. The seat map is
//! measured in [`seats`].
//!
//! Servers and services run in a child process, the driver in this one, all on the same
//! machine. Every request pays a hold that was made before the clock started. A twentieth of
//! them lose their hold while the payment runs and are compensated. A payment counts when
//! its end is known, and afterwards the databases must satisfy every invariant.

mod against;
mod audit;
mod compare;
mod counts;
mod driver;
mod line;
mod logs;
mod meter;
mod monolith;
mod procs;
mod seats;
mod stand;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use sqlx::postgres::PgPoolOptions;
use uuid::Uuid;

pub use self::{
    audit::{Audit, audit},
    line::Line,
    monolith::{Monolith, serve as monolith},
    seats::{Seats, seats},
};
use self::{
    counts::Counter,
    line::Traffic,
    meter::{Component, Meter},
    procs::Memory,
    stand::Stand,
};
use crate::{
    lag::{LISTENERS, Observer},
    receipt::Databases,
};

/// How long the mesh may take to come to rest after the last answer.
const REST_WITHIN: Duration = Duration::from_secs(60);
/// How long the listeners may take to consume the events of all payments.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(180);

/// Turns of a comparison by default.
const TURNS: u32 = 3;

const EXPLAINED: &str = "\
What is counted, each for one payment:
  CPU µs         processor time by component, from the first request until every service has
                 consumed the events of the last payment, so what listeners do later is included.
                 PostgreSQL is the server with all its processes. The driver counts while it pays
  messages       what JetStream has stored; events: rows, or events in rows, of the outboxes in
                 PostgreSQL
  transactions   those that wrote; rows: inserted, updated and deleted ones
  B              bytes of PostgreSQL's log; what NATS and Valkey have sent to storage
  resident MB    the most memory that the one process with all services took while it paid

Rows are counted in the last turn of each line. PostgreSQL reports them with a delay of ten
seconds, so the benchmark waits for them before and after; --skip-rows saves the time.";

/// Options of `onsale bench payments`.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXPLAINED)]
pub struct Payments {
    /// Payments running at once; one line of the table each
    #[arg(long, value_delimiter = ',', default_value = "1,64,512")]
    pub concurrency: Vec<usize>,
    /// Payments of a turn with the highest concurrency; the others take fewer
    #[arg(long, default_value_t = 20_000)]
    pub requests: usize,
    /// Percent of payments whose hold is lost while they run
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=100))]
    pub compensate_percent: u32,
    /// Measures another program and the mesh, by turns: it answers the same requests, on the
    /// same PostgreSQL server
    #[arg(long, value_enum, value_name = "OPPONENT", conflicts_with = "compare")]
    pub against: Option<Opponents>,
    /// Connections of the monolith to its database
    #[arg(long, default_value_t = 32, value_name = "N",
        value_parser = clap::value_parser!(u32).range(1..=100))]
    pub monolith_connections: u32,
    /// Measures one mesh with every service and one without the listeners, by turns, at the
    /// highest concurrency
    #[arg(long)]
    pub compare: bool,
    /// Turns of each line; medians are printed [default: 3 for a comparison, else 1]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=20))]
    pub turns: Option<u32>,
    /// Does not count rows, which takes 21 s a line
    #[arg(long)]
    pub skip_rows: bool,
    /// Prints an array of objects instead of tables
    #[arg(long)]
    pub json: bool,
}

/// What the mesh can be measured against.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Opponents {
    /// One program, one database, one transaction a request
    Monolith,
}

/// What one turn pays.
#[derive(Debug, Clone, Copy)]
struct Load {
    concurrency: usize,
    requests: usize,
    /// Percent of holds that are lost.
    lost: u32,
    /// Whether rows are counted, which takes 21 s.
    rows: bool,
}

impl Payments {
    fn turns(&self) -> u32 {
        let compares = self.compare || self.against.is_some();
        self.turns.unwrap_or(if compares { TURNS } else { 1 })
    }

    fn most(&self) -> usize {
        self.concurrency.iter().copied().max().unwrap_or(1)
    }

    /// Enough for a steady state, and no more than it takes.
    fn load(&self, concurrency: usize, turn: u32) -> Load {
        let requests = self.requests * concurrency / self.most();
        let requests = requests.clamp(self.requests.min(300), self.requests);
        Load {
            concurrency,
            requests: requests.max(concurrency * 4),
            lost: self.compensate_percent,
            rows: !self.skip_rows && turn == self.turns(),
        }
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
            None if options.compare => compare::run(&options).await,
            None => alone(&options).await,
        }
    })
    .await
}

/// Measures the mesh alone.
async fn alone(options: &Payments) -> Result<()> {
    let mut run = Run::start(&[], &[]).await?;
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

/// One mesh under test, from its start to the check of its databases.
struct Run {
    stand: Stand,
    listeners: Observer,
    counter: Counter,
    meter: Meter,
    schedules: Vec<Uuid>,
}

impl Run {
    /// Starts a mesh without the services named, and with more databases on its server.
    async fn start(without: &[&str], databases: &[&str]) -> Result<Self> {
        let stand = Stand::start(without, databases).await?;
        let here: Vec<&str> =
            LISTENERS.into_iter().filter(|service| !without.contains(service)).collect();
        let listeners = Observer::open(&stand.config, &here).await?;
        let counter = Counter::open(&stand.config, listeners.client()).await?;
        let url = stand.config.database_url(payment::NAME)?;
        let pool = PgPoolOptions::new().max_connections(1).connect(url).await?;
        let mut components = components_of(&stand)?;
        components.extend(Component::postgres(&pool).await?);
        components.push(Component::driver());
        let urls = stand.config.database_urls.iter();
        let own = urls.filter(|(name, _)| *name != monolith::NAME).map(|(_, url)| url.as_str());
        let meter = Meter::new(components, own, pool);
        Ok(Self { stand, listeners, counter, meter, schedules: Vec::new() })
    }

    /// Makes holds and pays them. The listeners have consumed the events of the holds before the
    /// first is paid, and those of the payments before this returns.
    async fn pay(&mut self, load: &Load) -> Result<Line> {
        let Load { concurrency, requests, lost, rows } = *load;
        eprintln!("{concurrency} at once: making {requests} holds …");
        let hall = self.stand.prepare(requests, lost).await?;
        self.listeners.wait_until_caught_up(CAUGHT_UP_WITHIN).await?;
        let rows = if rows { Some(self.meter.rows().await?) } else { None };
        let counted = self.counter.count().await?;
        eprintln!("{concurrency} at once: paying …");
        let memory = Memory::watch(self.stand.pid()?);
        let before = self.meter.read().await?;
        let mut line = driver::pay_all(self.stand.addr, &hall, concurrency).await?;
        let (paid, paid_at) = (self.meter.read().await?, Instant::now());
        line.resident_mb = memory.most_mb().await;
        self.listeners.wait_until_caught_up(CAUGHT_UP_WITHIN).await?;
        line.behind_s = paid_at.elapsed().as_secs_f64();
        let after = self.meter.read().await?.with_driver_of(&paid);
        let payments = line.completed + line.compensated;
        line.costs = after.costs_since(&before, payments);
        if let Some(rows) = rows {
            let written = self.meter.rows().await? - rows;
            line.costs.rows_per_payment = Some(written as f64 / payments.max(1) as f64);
        }
        let published = counts::between(&counted, &self.counter.count().await?);
        line.traffic = Traffic::of(&published, payments);
        self.schedules.extend(hall.schedules.iter().map(|schedule| schedule.0));
        Ok(line)
    }

    /// Checks the databases and stops; returns how many payments were checked.
    async fn end(self) -> Result<i64> {
        let databases = Databases::open(&self.stand.config).await?;
        let receipt = databases.receipt_at_rest(&self.schedules, REST_WITHIN).await?;
        drop(databases);
        self.listeners.close().await;
        self.stand.stop().await;
        let broken = receipt.broken();
        if !broken.is_empty() {
            bail!("invariants are broken:\n  {}", broken.join("\n  "));
        }
        Ok(receipt.payments.values().sum())
    }
}

/// The one process with all services, and the servers that it has started.
fn components_of(stand: &Stand) -> Result<Vec<Component>> {
    let pid = stand.pid()?;
    let services = Component { name: "services", pid };
    Ok([services].into_iter().chain(Component::servers_of(pid)).collect())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        payments: Payments,
    }

    fn options(args: &str) -> Payments {
        Cli::try_parse_from(["bench"].into_iter().chain(args.split_whitespace())).unwrap().payments
    }

    #[test]
    fn a_comparison_takes_three_turns() {
        assert_eq!(options("").turns(), 1);
        assert_eq!(options("--compare").turns(), 3);
        assert_eq!(options("--against monolith").turns(), 3);
        assert_eq!(options("--against monolith --turns 5").turns(), 5);
    }

    #[test]
    fn a_line_with_less_concurrency_pays_less() {
        let options = options("--against monolith");
        let requests = |concurrency| options.load(concurrency, 1).requests;
        assert_eq!([1, 64, 512].map(requests), [300, 2_500, 20_000]);
    }

    #[test]
    fn a_small_number_of_requests_is_kept_unless_the_line_needs_more() {
        let options = options("--requests 40 --concurrency 1,16");
        assert_eq!([1, 16].map(|concurrency| options.load(concurrency, 1).requests), [40, 64]);
    }

    #[test]
    fn rows_are_counted_in_the_last_turn() {
        let rows = |options: &Payments| [1, 2].map(|turn| options.load(1, turn).rows);
        assert_eq!(rows(&options("--turns 2")), [false, true]);
        assert_eq!(rows(&options("--turns 2 --skip-rows")), [false, false]);
    }
}
