//! `onsale bench overload`: more payments than the mesh can do, for minutes.
//!
//! First the peak: as many payments as fit, by clients that wait for each answer. Then half of
//! it, the overload, and half of it again, by a schedule that does not wait for answers. What the
//! mesh has no room for it must refuse at once and say when to come again; what it takes in must
//! end as fast as ever.

mod arrivals;
mod report;
mod tally;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use anstream::println;
use anyhow::{Context, Result, bail};
use clap::Args;
use uuid::Uuid;

use super::{
    logs, procs,
    stand::{AtOnce, Setup, Stand},
};
use crate::{
    databases::Databases,
    development::{lag::Observer, lasting::duration, receipt::Receipt},
    registry::LISTENERS,
};
use arrivals::{Load, lock};
use report::Phase;
use tally::WINDOW;

pub use report::OverloadReport;

/// Payments from which the pace is guessed before the peak is measured.
const FIRST: usize = 100;
/// Payments at once of what is left over.
const REST_AT_ONCE: usize = 64;
/// How long the listeners may take to consume what was paid: they wait while it is busy.
const CAUGHT_UP_WITHIN: Duration = Duration::from_secs(20 * 60);
/// How long the databases may take to come to rest.
const REST_WITHIN: Duration = Duration::from_secs(120);
/// Tokens are renewed this often; they hold for longer.
const RENEWED_EVERY: Duration = Duration::from_secs(310);
/// Holds that are made before tokens are looked at again.
const PREPARED_AT_ONCE: usize = 20_000;
/// Holds for each payment that is expected: a short peak is not quite the peak.
const SPARE: f64 = 1.4;
/// Holds that are on their way at any time, to be paid or refused.
const ON_THEIR_WAY: usize = 256;

const EXPLAINED: &str = "\
The run fails when
  - an answer is neither a completed payment nor `503` with `Retry-After`,
  - fewer payments than 90 % of the peak completed each second of the overload,
  - the slowest hundredth of what was admitted took more than 3 s, or longer and longer,
  - the memory of the services grew during the overload,
  - the mesh needed more than 10 s to recover afterwards, or
  - an invariant is broken in the databases.

Every payment needs a hold, and holds are made before the clock starts: a run of ten minutes makes
one for each payment that the mesh can do in that time, which takes about as long again.";

/// Options of `onsale bench overload`.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXPLAINED)]
pub struct Overload {
    /// How long the overload lasts: seconds, or with a unit (90s, 30m, 2h)
    #[arg(long = "for", value_name = "TIME", default_value = "10m", value_parser = duration)]
    pub lasts: Duration,
    /// How many times the peak is offered
    #[arg(long, value_name = "N", default_value_t = 2.0)]
    pub times: f64,
    /// How long the peak is measured
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = duration)]
    pub peak_for: Duration,
    /// Payments at once while the peak is measured
    #[arg(long, value_name = "N", default_value_t = 512,
          value_parser = clap::value_parser!(u64).range(1..=1_024))]
    pub peak_at_once: u64,
    /// How long half of the peak is offered, before and after the overload
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = duration)]
    pub calm_for: Duration,
    /// Payments that the gateway lets run at once, however few have ended lately
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub at_once: Option<u32>,
    /// Where the report and its picture are written
    #[arg(long, value_name = "DIR")]
    pub report: Option<PathBuf>,
    /// Prints the report as JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs `onsale bench overload`.
///
/// # Errors
/// When something cannot be started, or the mesh does not hold what the help says.
pub async fn overload(options: Overload) -> Result<()> {
    if !(options.times > 1.0 && options.times <= 20.0) {
        bail!("--times is more than 1 and at most 20, not {}", options.times);
    }
    let calm = 4 * WINDOW;
    if options.lasts < calm || options.peak_for < calm || options.calm_for < calm {
        bail!("each phase lasts a second at least");
    }
    let report = logs::kept_on_failure(make(&options)).await?;
    if let Some(folder) = &options.report {
        report.write(folder)?;
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        report.print();
    }
    match report.wrong.as_slice() {
        [] => Ok(()),
        wrong => bail!("the mesh does not hold under overload:\n  {}", wrong.join("\n  ")),
    }
}

async fn make(options: &Overload) -> Result<OverloadReport> {
    let payments_at_once = options.at_once.map_or(AtOnce::Usual, AtOnce::Only);
    let stand = Stand::start(&Setup { payments_at_once, ..Setup::default() }).await?;
    let mut run = Run::new(stand).await?;
    let peak = run.peak(options).await?;
    let (half, over) = (peak / 2.0, peak * options.times);
    // No more is paid than at the peak, however much is offered.
    let secs = options.lasts.as_secs_f64() + options.calm_for.as_secs_f64();
    run.prepare((peak * secs * SPARE) as usize + ON_THEIR_WAY).await?;
    run.open("half before", half, options.calm_for).await?;
    run.open("overload", over, options.lasts).await?;
    run.open("half after", half, options.calm_for).await?;
    run.end().await
}

/// One mesh under load.
struct Run {
    stand: Stand,
    listeners: Observer,
    load: Arc<Load>,
    schedules: Vec<Uuid>,
    phases: Vec<Phase>,
}

impl Run {
    async fn new(stand: Stand) -> Result<Self> {
        let listeners = Observer::open(&stand.config, &LISTENERS).await?;
        let load = Load::new(stand.addr);
        Ok(Self { stand, listeners, load, schedules: Vec::new(), phases: Vec::new() })
    }

    /// Makes holds, and waits until their events are consumed.
    async fn prepare(&mut self, more: usize) -> Result<()> {
        let (began, mut left) = (Instant::now(), more);
        while left > 0 {
            eprintln!("making holds: {} of {more} …", more - left);
            let some = left.min(PREPARED_AT_ONCE);
            let hall = self.stand.prepare(some, 0).await?;
            self.schedules.extend(hall.schedules.iter().map(|schedule| schedule.0));
            let holds = Arc::try_unwrap(hall.holds).ok().context("holds are still being paid")?;
            self.load.add(holds);
            left -= some;
        }
        self.listeners.wait_until_caught_up(CAUGHT_UP_WITHIN).await?;
        eprintln!("made {more} holds in {:.0} s", began.elapsed().as_secs_f64());
        Ok(())
    }

    /// Measures how many payments a second complete when clients wait for their answers.
    async fn peak(&mut self, options: &Overload) -> Result<f64> {
        let at_once = options.peak_at_once as usize;
        self.prepare(FIRST.max(at_once * 4)).await?;
        let (all, began) = (self.load.left(), Instant::now());
        self.phase("first", 0.0, self.load.clone().closed(at_once, CAUGHT_UP_WITHIN)).await?;
        let first = all as f64 / began.elapsed().as_secs_f64();
        let expected = first * options.peak_for.as_secs_f64() * 1.5;
        self.prepare((expected as usize).max(at_once * 2)).await?;
        self.phase("peak", 0.0, self.load.clone().closed(at_once, options.peak_for)).await?;
        let phase = self.phases.last().context("the peak was measured")?;
        Ok(report::Figures::of(phase, &lock(&self.load.tally).windows).goodput_per_s)
    }

    /// Offers so many payments a second, by the clock.
    async fn open(&mut self, name: &'static str, rate: f64, lasts: Duration) -> Result<()> {
        self.phase(name, rate, self.load.clone().open(rate, lasts)).await
    }

    /// Does the work of one phase. Meanwhile memory is read, and tokens are renewed.
    async fn phase(
        &mut self,
        name: &'static str,
        rate: f64,
        work: impl Future<Output = Result<()>> + Send + 'static,
    ) -> Result<()> {
        let (pid, fans) = (self.stand.pid()?, self.stand.fans().await?.to_vec());
        self.load.renew(&fans);
        let from = lock(&self.load.tally).secs();
        match rate {
            0.0 => eprintln!("{name}: as many as fit …"),
            rate => eprintln!("{name}: {rate:.0} payments a second …"),
        }
        let work = tokio::spawn(work);
        let mut renewed = Instant::now();
        while !work.is_finished() {
            lock(&self.load.tally).resident(procs::resident_mb(pid).unwrap_or(0.0));
            if renewed.elapsed() > RENEWED_EVERY {
                let fans = self.stand.fans().await?.to_vec();
                self.load.renew(&fans);
                renewed = Instant::now();
            }
            tokio::time::sleep(WINDOW / 2).await;
        }
        work.await.context("the driver panicked")??;
        let to = lock(&self.load.tally).secs();
        self.phases.push(Phase { name, from, to });
        Ok(())
    }

    /// Pays what is left, and compares the databases.
    async fn end(mut self) -> Result<OverloadReport> {
        self.load.clone().answered().await?;
        let left = self.load.left();
        eprintln!("paying the {left} holds that are left …");
        self.phase("rest", 0.0, self.load.clone().closed(REST_AT_ONCE, CAUGHT_UP_WITHIN)).await?;
        let at = Instant::now();
        self.listeners.wait_until_caught_up(CAUGHT_UP_WITHIN).await?;
        let behind_s = at.elapsed().as_secs_f64();
        let databases = Databases::open(&self.stand.config).await?;
        let receipt = Receipt::at_rest(&databases, &self.schedules, REST_WITHIN).await?;
        drop(databases);
        let connections = self.load.connections();
        let after = report::After { behind_s, connections, receipt };
        let report = OverloadReport::of(&self.phases, &lock(&self.load.tally), after);
        self.listeners.close().await;
        self.stand.stop().await;
        Ok(report)
    }
}
