//! `onsale demo`: a real sale from opening to receipt, as fans would experience it.

pub(super) mod crowd;
mod listened;
mod outage;
mod show;

use std::{path::PathBuf, sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use events::ScheduleId;
use mesh::metrics::Push;
use tokio::sync::Semaphore;
use uuid::Uuid;

use crate::{
    config::{self},
    databases::Databases,
    deployment::DATA_FOLDER,
    development::{box_office, environment::Environment, receipt::Receipt, sale::Sale, topology},
    fleet::{Fleet, ServiceConfigs},
    health::Listener,
    http::Http,
    registry::SERVICES,
    stop,
};
use crowd::{Board, SIGNING_UP_MAX, Scene};
use listened::Listened;
use outage::{Back, Outage};
use show::Show;

pub use outage::Part;

/// How long everything may take to come to rest after the last fan went home: the longest
/// hold and its extension included.
const REST_WITHIN: Duration = Duration::from_secs(120);

/// Options of `onsale demo`.
#[derive(Debug, Clone, Args)]
pub struct Demo {
    /// The sale to run: a TOML file (see sales/); 500 fans for 50 seats when absent
    #[arg(long, value_name = "FILE")]
    pub sale: Option<PathBuf>,
    /// Kills this part in the middle of the sale and brings it back
    #[arg(long = "break", value_name = "PART")]
    pub break_part: Option<Part>,
    /// Stops after the receipt instead of staying up
    #[arg(long)]
    pub exit: bool,
    /// Fans, instead of as many as the sale says
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub fans: Option<u32>,
    /// Where the servers keep their data
    #[arg(long, value_name = "DIR", default_value = DATA_FOLDER)]
    pub data: PathBuf,
    /// The seed of the crowd's random choices
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
}

/// Runs `onsale demo`; returns when the sale is over and, without `--exit`, when asked to
/// stop.
///
/// # Errors
/// When something cannot be started, or an invariant is broken.
pub async fn run(options: Demo) -> Result<()> {
    let mut sale = match &options.sale {
        Some(file) => Sale::read(file)?,
        None => Sale::club(),
    };
    sale.crowd.fans = options.fans.unwrap_or(sale.crowd.fans);
    let show = Show::begin();
    let steps = show.clone();
    let mut env =
        Environment::start(Some(options.data.clone()), Arc::new(move |line| steps.step(line)))
            .await?;
    env.config.http_addr = Some(free_address(env.config.http_addr)?);
    let outage = options.break_part.map(|part| Outage::new(part, &env)).transpose()?;
    show.step("starting the services");
    let configs = ServiceConfigs { push_metrics: Push::from_env()?, ..configs(&env) };
    let inside: Vec<&str> = SERVICES
        .into_iter()
        .filter(|service| outage.as_ref().is_none_or(|outage| outage.service() != Some(service)))
        .collect();
    let health = Listener::open_for_development().await?;
    let fleet = Fleet::start(&env.config, &inside, &configs).await?;
    health.watch(&fleet);
    let keeper = tokio::spawn(topology::keep(env.config.clone()));
    let http_addr = env.config.http_addr.context("an address")?;
    env.announce(http_addr)?;
    let http = Http::new(format!("http://{http_addr}"));
    let warnings = show.clone();
    let mut servers = env.keep_servers(Arc::new(move |line| warnings.warn(line)));
    let live = async {
        let held = match hold_sale(&sale, &options, &env, outage, &http, &show).await {
            Ok(held) => held,
            Err(error) => return (Err(error), None),
        };
        let accounted = account_for(&held, &http, &env, &show).await;
        if accounted.is_ok() && !options.exit {
            show.stay(&http, &env, &options.data, health.addr());
            stop::wait(false).await;
        }
        (accounted, held.part)
    };
    let (outcome, part) = tokio::select! {
        lived = live => lived,
        error = servers.given_up() => (Err(error), None),
    };
    drop(servers);
    keeper.abort();
    if let Some(part) = part {
        part.stop().await;
    }
    fleet.stop().await;
    env.stop().await;
    outcome
}

/// Prints the receipt, and what the listeners made of the sale.
async fn account_for(held: &Held, http: &Http, env: &Environment, show: &Show) -> Result<()> {
    show.receipt(&held.receipt);
    let mut broken = held.receipt.broken();
    show.step("waiting until the listeners have caught up");
    match Listened::of(held.schedule, http, env).await {
        Ok(listened) => {
            show.listened(&listened, env);
            broken.extend(listened.wrong());
        }
        // A broken invariant matters more than a listener that could not be read.
        Err(error) if broken.is_empty() => return Err(error),
        Err(error) => show.warn(&format!("{error:#}")),
    }
    match broken.is_empty() {
        true => Ok(()),
        false => Err(anyhow!("invariants are broken:\n  {}", broken.join("\n  "))),
    }
}

/// The configuration of a demo's services: all of its fans come from one machine.
fn configs(env: &Environment) -> ServiceConfigs {
    ServiceConfigs {
        operator: Some(env.operator.clone()),
        beside: env.beside(),
        gateway: gateway::Settings { login_per_minute: None, ..Default::default() },
        notification: notification::Config::folder(env.messages_folder()),
        data_platform: data_platform::Config {
            folder: Some(env.export_folder()),
            ..Default::default()
        },
        reservation: reservation::Config { grace_secs: 5, ..Default::default() },
        ..ServiceConfigs::default()
    }
}

/// The wanted address, or a free port when that one is taken.
fn free_address(wanted: Option<std::net::SocketAddr>) -> Result<std::net::SocketAddr> {
    let wanted = wanted.map_or_else(config::http_addr, Ok)?;
    let listener = std::net::TcpListener::bind(wanted)
        .or_else(|_| std::net::TcpListener::bind((wanted.ip(), 0)))?;
    Ok(listener.local_addr()?)
}

/// A sale that is over.
struct Held {
    schedule: ScheduleId,
    receipt: Receipt,
    part: Option<Back>,
}

async fn hold_sale(
    sale: &Sale,
    options: &Demo,
    env: &Environment,
    outage: Option<Outage>,
    http: &Http,
    show: &Show,
) -> Result<Held> {
    let mut outage = outage;
    if let Some(outage) = &mut outage {
        outage.start_part().await?;
    }
    wait_for_gateway(http).await?;
    let organizer = box_office::organizer(http, &env.operator).await?;
    let concert = box_office::concert(http, &organizer.access_token, &sale.concert()).await?;
    let opening = sale.schedule(concert.concert_id, mesh::clock::now());
    let schedule = box_office::open(http, &organizer.access_token, &opening).await?;
    show.opened(sale, &schedule);
    wait_for_room(http, schedule.schedule_id, &organizer.access_token).await?;
    let board = Arc::new(Board::default());
    let price_max = opening_price_max(&sale.plan);
    let scene = Arc::new(Scene {
        http: http.clone(),
        schedule: schedule.schedule_id,
        crowd: sale.crowd,
        price_max,
        board: board.clone(),
        door: Semaphore::new(SIGNING_UP_MAX),
        run: Uuid::now_v7(),
        seed: options.seed,
    });
    let watching = show.watch(board.clone(), sale.crowd.fans);
    let breaking = outage
        .map(|outage| outage.strike_in_the_middle(board.clone(), sale.seats_total, show.clone()));
    crowd::run(scene).await;
    watching.end();
    let part = match breaking {
        Some(breaking) => Some(breaking.await.context("the outage")??),
        None => None,
    };
    let errors = board.errors.load(std::sync::atomic::Ordering::Relaxed);
    if errors > 0 {
        show.warn(&format!("{errors} fans gave up; the log says why"));
    }
    show.step("waiting until every hold and payment has ended");
    let databases = Databases::open(&env.config).await?;
    let receipt = Receipt::at_rest(&databases, &[schedule.schedule_id.0], REST_WITHIN).await?;
    if receipt.seats_total == 0 {
        bail!("the reservation service does not know the schedule");
    }
    Ok(Held { schedule: schedule.schedule_id, receipt, part })
}

/// The price of the dearest seat of a plan.
pub(super) fn opening_price_max(plan: &str) -> i64 {
    concert::plan::parse(plan)
        .map(|plan| plan.blocks.iter().map(|block| block.price).max().unwrap_or(0))
        .unwrap_or(0)
}

async fn wait_for_gateway(http: &Http) -> Result<()> {
    let answer = http.get("/readyz").send_patiently(Duration::from_secs(30)).await?;
    if !answer.status.is_success() {
        bail!("the gateway is not ready: {}", answer.status);
    }
    Ok(())
}

/// The room opens when queue has consumed the schedule's event, moments after it was entered.
pub(super) async fn wait_for_room(http: &Http, schedule: ScheduleId, token: &str) -> Result<()> {
    let path = format!("/v1/schedules/{schedule}/seats");
    let until = tokio::time::Instant::now() + Duration::from_secs(30);
    while !http.get(&path).token(token).send().await?.status.is_success() {
        if tokio::time::Instant::now() > until {
            bail!("the schedule did not become known in time");
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
