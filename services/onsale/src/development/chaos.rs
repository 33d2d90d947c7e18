//! `onsale chaos`: a sale without end on real servers, one process per service, and faults.
//!
//! Clients remember what they were answers. When the faults are over and everything is at rest,
//! that is compared with the databases, the streams and the auditor: nothing may be lost,
//! nothing may have happened twice, and everything that was begun has ended.

mod check;
mod fans;
mod fault;
mod history;
mod plot;
mod report;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anstream::println;
use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use futures::FutureExt;
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use uuid::Uuid;

use crate::{
    databases::Databases,
    development::{
        environment::Environment, lasting::duration, processes::Processes, receipt::Receipt,
        topology,
    },
    stop,
};
use check::Verdict;
use fans::Load;
use fault::{Fault, Targets};
use history::History;
use servers::{Options, Servers};

pub use fault::Kind;
pub use report::{ChaosReport, Struck};

/// How long it may take until something is sold again after a fault.
const RECOVERED_WITHIN: Duration = Duration::from_secs(60);
/// How long everything may take to come to rest after the load.
const REST_WITHIN: Duration = Duration::from_secs(120);
/// How long nothing happens between two faults.
const PAUSE_MILLIS: std::ops::RangeInclusive<u64> = 200..=1_500;
/// One fault in this many is two at once.
const PAIR_EVERY: u32 = 4;
const PROBE: Duration = Duration::from_millis(20);

/// Options of `onsale chaos`.
#[derive(Debug, Clone, Args)]
pub struct Chaos {
    /// How long faults are made: seconds, or with a unit (90s, 30m, 2h)
    #[arg(long = "for", value_name = "TIME", default_value = "2m", value_parser = duration)]
    pub lasts: Duration,
    /// Stops after so many faults; two at once count as one
    #[arg(long, value_name = "N")]
    pub faults: Option<usize>,
    /// The seed that chooses the faults; another one each time when absent
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Nodes of the broker, 1 or 3: three keep every stream, and a fault hits one of them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = nodes)]
    pub nodes: u8,
    /// Only faults of these kinds
    #[arg(long, value_name = "KIND", value_delimiter = ',')]
    pub only: Vec<Kind>,
    /// Fans who buy at the same time
    #[arg(long, value_name = "N", default_value_t = 16,
          value_parser = clap::value_parser!(u16).range(1..=1_000))]
    pub fans: u16,
    /// Where the report, its picture and the logs are written
    #[arg(long, value_name = "DIR", default_value = "chaos-report")]
    pub report: PathBuf,
    /// Prints the report as JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs `onsale chaos`.
///
/// # Errors
/// When something cannot be started, or anything is wrong afterwards.
pub async fn run(options: Chaos) -> Result<()> {
    let as_json = options.json;
    let say = move |line: &str| {
        if !as_json {
            println!("{line}");
        }
    };
    let report = make(&options, Arc::new(say)).await?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        report.print();
        println!("report and logs: {}", options.report.display());
    }
    match report.wrong().len() {
        0 => Ok(()),
        wrong => bail!(
            "{wrong} things are wrong; the same faults again: --seed {} --nodes {}",
            report.seed,
            report.nodes
        ),
    }
}

/// Makes the faults and compares, and writes the report with its picture; prints nothing itself.
///
/// # Errors
/// When something cannot be started or read.
pub async fn make(options: &Chaos, say: Arc<dyn Fn(&str) + Send + Sync>) -> Result<ChaosReport> {
    let seed = options.seed.unwrap_or_else(|| Uuid::new_v4().as_u64_pair().0 >> 32);
    say(&format!("seed {seed}"));
    let mut deck = Deck::of(&options.only, options.nodes)?;
    let mut servers = Options::temporary();
    if options.nodes > 1 {
        servers = servers.three_nodes();
    }
    let env = Environment::start_own(servers, &[], say.clone()).await?;
    let logs = options.report.join("logs");
    // Logs of an earlier run say nothing about this one.
    let _ = std::fs::remove_dir_all(&logs);
    say("starting one process per service, and two of the busy ones");
    let mut processes = Processes::start(&env, &logs).await?;
    let keeper = tokio::spawn(topology::keep(env.config.clone()));
    let made = strike(options, &mut deck, seed, &env, &mut processes, &say).await;
    keeper.abort();
    processes.stop().await;
    if let Some(servers) = &env.servers {
        keep_logs(servers, &logs);
    }
    env.stop().await;
    if let Ok(report) = &made {
        report.write(&options.report)?;
        plot::draw(report, &options.report.join("report.svg"))?;
    }
    made
}

async fn strike(
    options: &Chaos,
    deck: &mut Deck,
    seed: u64,
    env: &Environment,
    processes: &mut Processes,
    say: &Arc<dyn Fn(&str) + Send + Sync>,
) -> Result<ChaosReport> {
    let history = History::new();
    let fans = usize::from(options.fans);
    say(&format!("{fans} fans begin to buy"));
    let load = Load::start(&processes.gateways, &env.operator, history.clone(), fans, seed).await?;
    wait_for_a_sale(&history, history.began()).await.context("nothing was sold at first")?;
    let servers = env.servers.as_ref().context("chaos starts its own servers")?;
    let mut run = Run {
        random: StdRng::seed_from_u64(seed),
        history: history.clone(),
        faults: Vec::new(),
        ended: Vec::new(),
    };
    let began = Instant::now();
    let mut asked = std::pin::pin!(stop::wait(false));
    while began.elapsed() < options.lasts
        && options.faults.is_none_or(|most| run.faults.len() < most)
        && asked.as_mut().now_or_never().is_none()
    {
        let mut faults = deck.deal(processes, &mut run.random);
        let mut targets = Targets { processes: &mut *processes, servers };
        let struck = run.strike(&mut faults, &mut targets).await?;
        say(&line(run.count(), &struck));
        let is_stuck = struck.recovered_secs.is_none();
        run.faults.push(struck);
        run.ended.extend(processes.ended()?);
        run.ended.extend(servers_ended(servers).await?);
        if is_stuck {
            break;
        }
        tokio::time::sleep(Duration::from_millis(run.random.random_range(PAUSE_MILLIS))).await;
    }
    let lasted = began.elapsed();
    say("the faults are over; everybody finishes");
    let over = Instant::now();
    load.finish().await;
    let redeliveries = processes.repeats().await;
    let (databases, published) = rest(&history, env, over).await?;
    say("comparing what clients were answered with databases, streams and the auditor");
    let answers = std::mem::take(&mut *history.answers());
    let verdict = Verdict::of(&answers, &env.config, &databases).await?;
    let mut report = ChaosReport {
        seed,
        nodes: options.nodes,
        secs: report::secs(lasted),
        faults: run.faults,
        payments_ended: 0,
        failures: Default::default(),
        longest_silence_secs: 0.0,
        longest_wait_secs: 0.0,
        longest_waited_for: String::new(),
        drained_secs: 0.0,
        published_secs: report::secs(published),
        redeliveries,
        ended: run.ended,
        strange: Default::default(),
        verdict,
        ends_per_second: Vec::new(),
    };
    report.add(&answers, history.began(), over);
    Ok(report)
}

/// Starts those servers again that have ended by themselves, and names them.
async fn servers_ended(servers: &Servers) -> Result<Vec<String>> {
    let mut ended = Vec::new();
    for server in servers.all() {
        if let Some(status) = server.ended() {
            let said = server.last_line();
            ended.push(format!("{} ended by itself: {status}: {said}", server.name()));
            server.restart().await?;
        }
    }
    Ok(ended)
}

/// Copies what the servers have logged: their folder is deleted.
fn keep_logs(servers: &Servers, to: &Path) {
    for server in servers.all() {
        let (from, log) = (servers.folder(), format!("{}.log", server.name()));
        for folder in [from.join(server.name()), from.to_owned()] {
            // The report does without.
            let _ = std::fs::copy(folder.join(&log), to.join(&log));
        }
    }
}

/// The faults so far.
struct Run {
    random: StdRng,
    history: History,
    faults: Vec<Struck>,
    ended: Vec<String>,
}

impl Run {
    fn count(&self) -> usize {
        self.faults.iter().map(|fault| fault.kinds.len()).sum()
    }

    /// Makes faults at once, undoes them, and waits until something is sold again.
    async fn strike(&self, faults: &mut [Fault], on: &mut Targets<'_>) -> Result<Struck> {
        let (began, mut kinds) = (Instant::now(), Vec::new());
        let may_be_noticed = faults.iter().any(|fault| fault.may_be_noticed(on.processes));
        for fault in faults.iter_mut() {
            let struck = fault.strike(on).await;
            kinds.push(struck.with_context(|| format!("making {}", fault.kind))?);
        }
        let lasts = faults.iter().map(|fault| fault.lasts).max().unwrap_or_default();
        tokio::time::sleep(lasts).await;
        let targets = faults.iter().map(|fault| fault.target(on.processes)).collect();
        for fault in faults.iter() {
            fault.heal(on).await.with_context(|| format!("undoing {}", fault.kind))?;
        }
        let healed = Instant::now();
        let first = first_event(faults, on, healed);
        let (recovered, first_event_secs) =
            tokio::join!(wait_for_a_sale(&self.history, healed), first);
        let now = Instant::now();
        Ok(Struck {
            kinds,
            targets,
            at_secs: report::secs(began - self.history.began()),
            lasted_secs: report::secs(healed - began),
            recovered_secs: recovered.ok().map(report::secs),
            first_event_secs,
            failures: self.history.failures_between(began, now),
            noticed: self.history.noticed_between(began, now),
            may_be_noticed,
        })
    }
}

/// From the moment a process was started again until it has handled something.
async fn first_event(faults: &[Fault], on: &Targets<'_>, since: Instant) -> Option<f64> {
    let [fault] = faults else { return None };
    let index = fault.restarted()?;
    let process = on.processes.iter().nth(index)?;
    if !process.is_busy() {
        return None;
    }
    while since.elapsed() < RECOVERED_WITHIN {
        if process.handled().await > 0 {
            return Some(report::secs(since.elapsed()));
        }
        tokio::time::sleep(PROBE).await;
    }
    None
}

/// Waits until a payment that was requested after `since` has ended; how long that took.
async fn wait_for_a_sale(history: &History, since: Instant) -> Result<Duration> {
    let asked = Instant::now();
    while !history.sells_since(since) {
        if asked.elapsed() > RECOVERED_WITHIN {
            bail!("nothing was sold within {RECOVERED_WITHIN:?}");
        }
        tokio::time::sleep(PROBE).await;
    }
    Ok(asked.elapsed())
}

/// Waits until nothing is in flight; how long that took since `began`.
async fn rest(
    history: &History,
    env: &Environment,
    began: Instant,
) -> Result<(Databases, Duration)> {
    let databases = Databases::open(&env.config).await?;
    let schedules: Vec<Uuid> = history.answers().schedules.iter().map(|one| one.0).collect();
    let mut drained = None;
    while began.elapsed() < REST_WITHIN && drained.is_none() {
        let receipt = Receipt::of(&databases, &schedules).await;
        if receipt.is_ok_and(|receipt| receipt.is_at_rest()) {
            drained = Some(began.elapsed());
        }
        tokio::time::sleep(PROBE).await;
    }
    // The holds that nobody pays for run out by themselves.
    Receipt::at_rest(&databases, &schedules, REST_WITHIN).await?;
    Ok((databases, drained.unwrap_or(REST_WITHIN)))
}

/// Every kind comes up before one comes up again.
struct Deck {
    kinds: Vec<Kind>,
    left: Vec<Kind>,
}

impl Deck {
    fn of(only: &[Kind], nodes: u8) -> Result<Self> {
        let kinds = match only {
            [] => Kind::all(nodes).collect(),
            only => only.to_vec(),
        };
        for kind in &kinds {
            ensure!(kind.is_possible(nodes), "{kind} needs a broker of three nodes: --nodes 3");
        }
        Ok(Self { kinds, left: Vec::new() })
    }

    /// The next fault, now and then with another one.
    fn deal(&mut self, processes: &Processes, random: &mut StdRng) -> Vec<Fault> {
        if self.left.is_empty() {
            self.left = self.kinds.clone();
        }
        let next = self.left.swap_remove(random.random_range(0..self.left.len()));
        let first = Fault::of(next, processes, random);
        let mut faults = vec![first];
        if random.random_ratio(1, PAIR_EVERY)
            && let Some(kind) = self.kinds.choose(random)
        {
            let second = Fault::of(*kind, processes, random);
            if second.goes_with(&faults[0]) {
                faults.push(second);
            }
        }
        faults
    }
}

fn line(count: usize, struck: &Struck) -> String {
    let recovered = match struck.recovered_secs {
        Some(secs) => format!("sold again after {secs:.1} s"),
        None => "nothing was sold any more".to_owned(),
    };
    format!(
        "{:6.1} s  {:4}  {} of {}, {:.1} s; {recovered}, {} requests failed",
        struck.at_secs,
        count + struck.kinds.len(),
        report::named(&struck.kinds),
        struck.targets.join(" and "),
        struck.lasted_secs,
        struck.failures,
    )
}

/// How many nodes the broker has.
fn nodes(text: &str) -> Result<u8> {
    match text.parse() {
        Ok(nodes @ (1 | 3)) => Ok(nodes),
        _ => bail!("1 or 3: with two, one that is down stops both"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_that_needs_three_nodes_is_refused_with_one() {
        assert!(Deck::of(&[Kind::Leader], 1).is_err());
        let kinds = |nodes| Deck::of(&[], nodes).unwrap().kinds;
        assert!(!kinds(1).contains(&Kind::Leader));
        assert!(kinds(3).contains(&Kind::Leader));
        assert!(nodes("2").is_err());
    }
}
