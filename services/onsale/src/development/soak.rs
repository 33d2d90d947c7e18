//! `onsale soak`: sale after sale for hours, and whether anything grows that may not.
//!
//! The services run as in a deployment, one process each and two of the busy ones. Days pass for
//! them: their clocks are set forward between two sales, so partitions are made and dropped,
//! signing keys rotate and what is too old is forgotten, as in weeks. Streams keep their messages
//! for as many of these short days as they keep them otherwise. Processes are restarted in order,
//! in the middle of sales.

mod report;
mod sampler;
mod series;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anstream::{eprintln, println};
use anyhow::{Context, Result, bail};
use clap::Args;
use mesh::trace::Tracer;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::sync::{Mutex, Semaphore};
use uuid::Uuid;

use super::{
    bench::procs,
    box_office, clock,
    demo::{self, crowd},
    environment::{Environment, write_secret},
    lasting::duration,
    processes::{Processes, SERVERS},
    receipt::Receipt,
    sale::Sale,
};
use crate::{config::PROVISIONER, databases::Databases, files, fleet, http::Http, stop};
use sampler::{Sampler, Watched};

pub use report::SoakReport;
pub use series::{Expected, Judged, Series, Verdict};

/// Days after which even ids of messages are forgotten, and a little more: from then on nothing of
/// the mesh may grow, and the judged half begins later.
const DAYS_UNTIL_WARM: u64 = 2 * 17;
/// A day is as long as it takes to tidy at least: once a minute.
const DAY_MIN: Duration = Duration::from_secs(65);
const DAY: Duration = Duration::from_secs(24 * 3_600);
/// What a broker allows as the window in which it recognises a repeat, at most.
const WINDOW_MAX: Duration = Duration::from_secs(120);
/// How long everything may take to come to rest after a sale.
const REST_WITHIN: Duration = Duration::from_secs(180);
/// In the first part of the run every process is restarted; later only second instances are, so
/// that the others show what they gather.
const RESTARTS_OF_ALL: f64 = 0.3;

const EXPLAINED: &str = "\
Sampled are, for each process and server: memory of its own, file handles, connections and threads;
the tables of each database, partitions together; the streams. A series is bounded or growing by
the median slope of its second half. Accounts, payments and the ledger are kept for good and grow
with each sale; they are printed, not judged. The mesh forgets after 15 days, so tables, streams
and servers are judged when 34 have passed: 17 before the second half.

Ctrl-C ends the run early, with its report.";

/// Options of `onsale soak`.
#[derive(Debug, Clone, Args)]
#[command(after_help = EXPLAINED)]
pub struct Soak {
    /// How long: seconds, or with a unit (90s, 30m, 2h)
    #[arg(long = "for", value_name = "TIME", default_value = "2h", value_parser = duration)]
    pub lasts: Duration,
    /// How long a day is for the services [default: a fortieth of the time, at least 65s]
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub day: Option<Duration>,
    /// How often everything is sampled
    #[arg(long, value_name = "TIME", default_value = "5s", value_parser = duration)]
    pub every: Duration,
    /// Fans of each sale
    #[arg(long, value_name = "N", default_value_t = 150,
          value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub fans: u32,
    /// The seed that chooses restarts and the crowd; another one each time when absent
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Where the report, its pictures and the logs are written
    #[arg(long, value_name = "DIR", default_value = "soak-report")]
    pub report: PathBuf,
    /// Prints the report as JSON
    #[arg(long)]
    pub json: bool,
}

/// Runs `onsale soak`.
///
/// # Errors
/// When something cannot be started, grows that may not, or is wrong after a sale.
pub async fn run(options: Soak) -> Result<()> {
    if options.day.is_some_and(|day| day < DAY_MIN) {
        bail!("--day is {DAY_MIN:?} at least: what is too old is dropped once a minute");
    }
    if options.every.is_zero() {
        bail!("--every is a second at least");
    }
    let report = make(&options).await?;
    report.write(&options.report)?;
    if options.json {
        println!("{}", serde_json::to_string_pretty(&report)?);
    } else {
        report.print();
        println!("report, pictures and logs: {}", options.report.display());
    }
    let mut wrong = report.wrong.clone();
    wrong.extend(report.growing());
    match wrong.as_slice() {
        [] => Ok(()),
        wrong => bail!("the soak failed:\n  {}", wrong.join("\n  ")),
    }
}

async fn make(options: &Soak) -> Result<SoakReport> {
    let seed = options.seed.unwrap_or_else(|| Uuid::new_v4().as_u64_pair().0 >> 32);
    eprintln!("seed {seed}");
    let say = Arc::new(|line: &str| eprintln!("{line}"));
    let env = Environment::start(None, say).await?;
    let day = options.day.unwrap_or_else(|| (options.lasts / 40).max(DAY_MIN));
    keep_messages_for(&env, day).await?;
    let logs = options.report.join("logs");
    // Logs of an earlier run say nothing about this one.
    let _ = std::fs::remove_dir_all(&logs);
    let clock = Clock::new(&logs)?;
    let more = [
        (clock::VARIABLE.to_owned(), clock.file.to_string_lossy().into_owned()),
        ("ONSALE_AUDIT_KEEP_DAYS".to_owned(), "7".to_owned()),
    ];
    eprintln!("starting one process per service, and two of the busy ones");
    let processes = Processes::start_with(&env, &logs, &more).await?;
    let processes = Arc::new(Mutex::new(processes));
    let sampler = Sampler::open(&env.config).await?;
    let mut run = Run {
        env: &env,
        processes: processes.clone(),
        sampler: Arc::new(Mutex::new(sampler)),
        clock,
        day,
        random: StdRng::seed_from_u64(seed),
        seed,
        sales: 0,
        payments: 0,
        restarts: 0,
        wrong: Vec::new(),
    };
    let report = run.until_over(options).await;
    drop(run);
    processes.lock().await.stop().await;
    env.stop().await;
    report
}

/// Sets the streams to keep messages for as many short days as they keep them otherwise.
async fn keep_messages_for(env: &Environment, day: Duration) -> Result<()> {
    let mut streams = Vec::new();
    for (name, content) in files::jetstream("streams") {
        let mut config: serde_json::Value = serde_json::from_slice(content)?;
        let age = Duration::from_nanos(config["max_age"].as_u64().unwrap_or(0));
        let shorter = day.mul_f64(age.as_secs_f64() / DAY.as_secs_f64());
        config["max_age"] = (shorter.as_nanos() as u64).into();
        let window = shorter.min(WINDOW_MAX);
        config["duplicate_window"] = (window.as_nanos() as u64).into();
        streams.push((name, serde_json::to_vec(&config)?));
    }
    let consumers: Vec<(String, Vec<u8>)> = Vec::new();
    let topology = mesh::topology::Topology::parse(&streams, &consumers)?;
    let link = fleet::link(&env.config, PROVISIONER, Tracer::off()).await?;
    topology.apply(&link).await.context("shortening the age of messages")?;
    link.drain().await;
    Ok(())
}

/// The clock of all services.
struct Clock {
    file: PathBuf,
    days: u64,
}

impl Clock {
    fn new(folder: &Path) -> Result<Self> {
        std::fs::create_dir_all(folder)?;
        let file = folder.canonicalize()?.join("clock-ahead");
        let clock = Self { file, days: 0 };
        clock.write()?;
        Ok(clock)
    }

    fn write(&self) -> Result<()> {
        let millis = (self.days * DAY.as_secs()) as i64 * 1_000;
        write_secret(&self.file, millis.to_string().as_bytes())?;
        mesh::clock::move_to(millis);
        Ok(())
    }

    /// Lets a day pass; every process knows it when this returns.
    async fn next_day(&mut self) -> Result<()> {
        self.days += 1;
        self.write()?;
        tokio::time::sleep(clock::READ_EVERY * 5).await;
        Ok(())
    }
}

/// The run so far.
struct Run<'a> {
    env: &'a Environment,
    processes: Arc<Mutex<Processes>>,
    sampler: Arc<Mutex<Sampler>>,
    clock: Clock,
    day: Duration,
    random: StdRng,
    seed: u64,
    sales: usize,
    payments: i64,
    restarts: usize,
    wrong: Vec<String>,
}

impl Run<'_> {
    async fn until_over(&mut self, options: &Soak) -> Result<SoakReport> {
        let (began, mut day_began) = (Instant::now(), Instant::now());
        let sampling =
            tokio::spawn(sample(self.processes.clone(), self.sampler.clone(), options.every));
        let mut asked = std::pin::pin!(stop::wait(false));
        while began.elapsed() < options.lasts {
            let part = began.elapsed().as_secs_f64() / options.lasts.as_secs_f64();
            tokio::select! {
                () = &mut asked => break,
                sold = self.sale(options, part) => sold?,
            }
            if day_began.elapsed() >= self.day {
                self.clock.next_day().await?;
                day_began = Instant::now();
            }
            let ended = self.processes.lock().await.ended()?;
            self.wrong.extend(ended);
            eprintln!(
                "{:6.0} s  sale {}, day {}, {} payments, {} restarts",
                began.elapsed().as_secs_f64(),
                self.sales,
                self.clock.days,
                self.payments,
                self.restarts
            );
        }
        sampling.abort();
        let url = self.env.config.database_url(user::NAME)?;
        let pool = sqlx::PgPool::connect(url).await?;
        let keys = sqlx::query_scalar("select count(*) from signing_keys").fetch_one(&pool).await?;
        let sampler = self.sampler.lock().await;
        let (series, end) = (sampler.series(), sampler.secs());
        let is_warm = |series: &Series| !series.ages() || self.clock.days >= DAYS_UNTIL_WARM;
        Ok(SoakReport {
            seed: self.seed,
            secs: end,
            days: self.clock.days,
            sales: self.sales,
            payments: self.payments,
            restarts: self.restarts,
            keys,
            failed_looks: sampler.failed,
            judged: series.iter().map(|one| one.judge(end, is_warm(one))).collect(),
            wrong: self.wrong.clone(),
            series,
        })
    }

    /// Holds one sale to its end, with one process restarted in its middle.
    async fn sale(&mut self, options: &Soak, part: f64) -> Result<()> {
        let gateways = self.processes.lock().await.gateways.clone();
        let gateway = gateways[self.sales % gateways.len()];
        let http = Http::new(format!("http://{gateway}"));
        let mut sale = Sale::club();
        sale.crowd.fans = options.fans;
        let organizer = box_office::organizer(&http, &self.env.operator).await?;
        let token = &organizer.access_token;
        let concert = box_office::concert(&http, token, &sale.concert()).await?;
        let opening = sale.schedule(concert.concert_id, mesh::clock::now());
        let schedule = box_office::open(&http, token, &opening).await?.schedule_id;
        demo::wait_for_room(&http, schedule, token).await?;
        let board = Arc::new(crowd::Board::default());
        let scene = Arc::new(crowd::Scene {
            http,
            schedule,
            crowd: sale.crowd,
            price_max: demo::opening_price_max(&sale.plan),
            board: board.clone(),
            door: Semaphore::new(crowd::SIGNING_UP_MAX),
            run: Uuid::now_v7(),
            seed: self.seed.wrapping_add(self.sales as u64),
        });
        let selling = tokio::spawn(crowd::run(scene));
        self.restart_one(part).await?;
        selling.await.context("the crowd panicked")?;
        self.check(schedule.0, &board).await?;
        self.sales += 1;
        Ok(())
    }

    async fn check(&mut self, schedule: Uuid, board: &crowd::Board) -> Result<()> {
        let databases = Databases::open(&self.env.config).await?;
        let receipt = Receipt::at_rest(&databases, &[schedule], REST_WITHIN).await?;
        self.payments += receipt.payments.values().sum::<i64>();
        let number = self.sales + 1;
        self.wrong
            .extend(receipt.broken().into_iter().map(|line| format!("sale {number}: {line}")));
        let errors = board.errors.load(std::sync::atomic::Ordering::Relaxed);
        if errors > 0 {
            self.wrong.push(format!("sale {number}: {errors} fans gave up"));
        }
        Ok(())
    }

    /// Restarts one process in order.
    async fn restart_one(&mut self, part: f64) -> Result<()> {
        let mut processes = self.processes.lock().await;
        let count = processes.iter().len();
        let index = if part < RESTARTS_OF_ALL {
            self.restarts % count
        } else {
            let second: Vec<usize> = processes
                .iter()
                .enumerate()
                .filter(|(_, process)| process.name.ends_with("-2"))
                .map(|(index, _)| index)
                .collect();
            second[self.random.random_range(0..second.len())]
        };
        let process = processes.at(index);
        process.stop().await;
        process.restart()?;
        let name = process.name.clone();
        drop(processes);
        self.restarts += 1;
        self.sampler.lock().await.restarted(&name);
        Ok(())
    }
}

/// Samples until it is ended.
async fn sample(processes: Arc<Mutex<Processes>>, sampler: Arc<Mutex<Sampler>>, every: Duration) {
    let own = std::process::id() as i32;
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    loop {
        ticks.tick().await;
        let mut watched: Vec<Watched> = processes
            .lock()
            .await
            .iter()
            .filter_map(|process| Some((process.name.clone(), process.pid()?)))
            .map(|(name, pid)| Watched { name, pid, with_children: false })
            .collect();
        for (pid, name) in procs::children_of(own) {
            let server = SERVERS.into_iter().find(|server| name.starts_with(server));
            watched.extend(server.map(|server| Watched {
                name: server.to_owned(),
                pid,
                with_children: server == "postgres",
            }));
        }
        sampler.lock().await.sample(&watched).await;
    }
}
