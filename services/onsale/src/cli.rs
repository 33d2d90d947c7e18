//! The command line.

use std::{net::SocketAddr, path::PathBuf, process::ExitCode, sync::Arc};

use crate::{
    bench,
    config::{self, Config, PROVISIONER, SERVICES, WITH_DATABASE},
    dead_letters, demo, doctor,
    environment::{self, DATA_FOLDER, Environment},
    export,
    fleet::{self, Fleet, ServiceConfigs},
    flows, health, replay, saga, secrets, verify,
};
use anyhow::{Context, Result, bail};
use clap::{Parser, Subcommand};
use tracing_subscriber::EnvFilter;

/// Sells concert seats: a mesh of services on NATS JetStream.
///
/// Servers and secrets are named by environment variables (ONSALE_NATS_URL,
/// ONSALE_VALKEY_URL, ONSALE_<SERVICE>_DATABASE_URL, ONSALE_NKEY_DIR; docs/configuration.md lists all).
/// `demo`, `dev` and `bench` start servers of their own when ONSALE_NATS_URL is not set.
#[derive(Parser)]
#[command(name = "onsale", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs a sale from opening to receipt, and stays up
    Demo(demo::Demo),
    /// Starts servers and every service, and stays up
    Dev(Dev),
    /// Runs services on the servers named in the environment
    Run(Run),
    /// Migrates the databases of services
    Migrate {
        /// Services; all that have a database when none is named
        services: Vec<String>,
    },
    /// Applies or checks the streams and consumers of the broker
    #[command(subcommand)]
    Topology(Topology),
    /// Lists, shows, retries and discards events that services could not handle
    #[command(subcommand)]
    DeadLetters(dead_letters::Command),
    /// Checks servers, databases, streams and services; fails when something is wrong
    Doctor(doctor::Doctor),
    /// Exports sales events to the data platform again, or writes them as Parquet files
    Export(export::Export),
    /// Checks the invariants
    #[command(subcommand)]
    Audit(Audit),
    /// Prints a new .env for compose.yaml, with random passwords and keys
    Secrets,
    /// Runs a benchmark
    #[command(subcommand)]
    Bench(Bench),
    /// Shows sagas of a running mesh: what happened, and what is still to come
    #[command(subcommand)]
    Saga(saga::SagaCommand),
    /// Prints which events follow from which, as tables or as diagrams
    Flows(flows::FlowsCommand),
    /// Rebuilds a read model from the streams, next to the live one, and swaps it in
    Replay(replay::Replay),
    /// Prints the OpenAPI document
    Openapi,
}

const RUN_ENVIRONMENT: &str = "\
Environment:
  ONSALE_NATS_URL                  the broker
  ONSALE_<SERVICE>_DATABASE_URL    the service's database (all but queue, ranking, gateway)
  ONSALE_VALKEY_URL                the store of queue, of ranking and of concert's seat maps
  ONSALE_<SERVICE>_NKEY_SEED       the service's user on the broker, or ONSALE_NKEY_DIR
  ONSALE_HOLD_GRACE_SECS           seconds by which a running payment may extend its hold
                                   [default: 60]
  ONSALE_LOGIN_RATE_PER_MINUTE, ONSALE_LOGIN_BURST, ONSALE_TRUST_PROXY
                                   how often one address may log in (`off` for no limit), and
                                   whether the gateway believes X-Forwarded-For (`1`)
  ONSALE_AUDIT_KEEP_DAYS           days that audit keeps events [default: 30]
  ONSALE_HTTP_ADDR                 where the gateway listens [default: 127.0.0.1:8080]
  ONSALE_HEALTH_ADDR               where /healthz and /readyz of this process are served, for
                                   example 127.0.0.1:8081; not served when it is not set
  ONSALE_NOTIFY                    how messages go out: folder, alimtalk or webhook
                                   [default: folder]
  ONSALE_NOTIFY_FOLDER             the folder [default: below the temporary files]
  ONSALE_ALIMTALK_URL, ONSALE_ALIMTALK_APP_KEY, ONSALE_ALIMTALK_SECRET,
  ONSALE_ALIMTALK_SENDER           the relay of AlimTalk messages, and who sends them
  ONSALE_ALIMTALK_SMS_FROM         the number of text messages in their place; none are sent
                                   when it is not set
  ONSALE_WEBHOOK_URL, ONSALE_WEBHOOK_SECRET
                                   the webhook, and the key that signs its messages
  ONSALE_OPERATOR_EMAIL, ONSALE_OPERATOR_PASSWORD
                                   the account that grants roles; user creates it
  ONSALE_EXPORT_URL                the data platform; data-platform posts sales events there
  ONSALE_EXPORT_TOKEN              the bearer token it requires
  ONSALE_EXPORT_FOLDER             a folder for the same events as Parquet files
  OTEL_EXPORTER_OTLP_ENDPOINT      a collector of traces, for example http://127.0.0.1:4318";

#[derive(clap::Args)]
struct Dev {
    /// Where the servers keep their data
    #[arg(long, value_name = "DIR", default_value = DATA_FOLDER)]
    data: PathBuf,
    /// Where the gateway listens [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDR")]
    http: Option<SocketAddr>,
    /// Writes addresses and secrets here (mode 0600) once everything runs
    #[arg(long, value_name = "FILE")]
    ready_file: Option<PathBuf>,
    /// Leaves services out, to be run elsewhere or not at all
    #[arg(long, value_name = "SERVICE", value_delimiter = ',')]
    without: Vec<String>,
    /// Creates one more database, for a program outside the mesh
    #[arg(long, value_name = "NAME", hide = true)]
    database: Vec<String>,
    /// Stops when standard input closes, however the parent process ends
    #[arg(long, hide = true)]
    with_parent: bool,
}

#[derive(clap::Args)]
#[command(after_help = RUN_ENVIRONMENT)]
struct Run {
    /// Services: user, concert, queue, reservation, payment, point, ranking, notification,
    /// data-platform, audit, gateway
    #[arg(required_unless_present = "all")]
    services: Vec<String>,
    /// Every service
    #[arg(long, conflicts_with = "services")]
    all: bool,
    /// Stops when standard input closes, however the parent process ends
    #[arg(long, hide = true)]
    with_parent: bool,
}

#[derive(Subcommand)]
enum Topology {
    /// Creates and updates streams and consumers as jetstream/ defines them
    Apply,
    /// Prints every difference; fails when there is one
    Check,
}

#[derive(Subcommand)]
enum Audit {
    /// Checks every stored event, and that the databases agree; fails when something is wrong
    Verify(verify::Verify),
}

#[derive(Subcommand)]
enum Bench {
    /// Payments through the gateway, some of them compensated
    Payments(bench::Payments),
    /// The seat map: its readers, and the watchers of its changes
    Seats(bench::Seats),
    /// Events that audit consumes
    Audit(bench::Audit),
    /// The monolith that `payments --against monolith` starts
    #[command(hide = true)]
    Monolith(bench::Monolith),
}

/// Reads the command line, runs the command and says how it ended.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(match &cli.command {
        // When a part is broken on purpose, the errors of the others are expected.
        Command::Demo(demo) if demo.break_part.is_some() => Some("off"),
        // Its producers have no commands to answer, and log that each second.
        Command::Bench(Bench::Audit(_)) => Some("off"),
        // These run services. The other commands print their own errors.
        Command::Dev(_) | Command::Run(_) | Command::Bench(Bench::Monolith(_)) => None,
        _ => Some("error,sqlx=off,async_nats=off"),
    });
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(run(cli.command));
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Logs to standard error: text on a terminal, JSON lines elsewhere or as
/// `ONSALE_LOG_FORMAT` says; `RUST_LOG` chooses what.
fn start_log(quieter: Option<&str>) {
    use std::io::IsTerminal;
    let default = quieter.unwrap_or("info,async_nats=warn,sqlx::postgres::notice=warn");
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| default.into());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let as_json = match std::env::var("ONSALE_LOG_FORMAT").as_deref() {
        Ok("json") => true,
        Ok(_) => false,
        Err(_) => !std::io::stderr().is_terminal() && quieter.is_none(),
    };
    if as_json {
        log.json().init();
    } else {
        log.with_target(false).with_ansi(std::io::stderr().is_terminal()).init();
    }
}

async fn run(command: Command) -> Result<()> {
    match command {
        Command::Demo(options) => demo::run(options).await,
        Command::Dev(options) => dev(options).await,
        Command::Run(options) => run_services(options).await,
        Command::Migrate { services } => migrate(&services).await,
        Command::Topology(Topology::Apply) => {
            for line in fleet::apply_topology(&Config::from_env(&[PROVISIONER])?).await? {
                println!("{line}");
            }
            Ok(())
        }
        Command::Topology(Topology::Check) => {
            let drifts = fleet::check_topology(&Config::from_env(&[PROVISIONER])?).await?;
            drifts.iter().for_each(|drift| println!("{drift}"));
            if drifts.is_empty() {
                println!("streams and consumers match jetstream/");
                return Ok(());
            }
            bail!("{} differences; `onsale topology apply` removes them", drifts.len());
        }
        Command::Doctor(options) => doctor::run(options).await,
        Command::Export(options) => export::run(options).await,
        Command::Audit(Audit::Verify(options)) => verify::run(options).await,
        Command::DeadLetters(command) => dead_letters::run(command).await,
        Command::Secrets => {
            print!("{}", secrets::env_file()?);
            Ok(())
        }
        Command::Bench(Bench::Payments(options)) => bench::payments(options).await,
        Command::Bench(Bench::Monolith(options)) => bench::monolith(options).await,
        Command::Bench(Bench::Seats(options)) => bench::seats(options).await,
        Command::Saga(command) => saga::run(command).await,
        Command::Flows(options) => flows::run(&options),
        Command::Bench(Bench::Audit(options)) => bench::audit(options).await,
        Command::Replay(options) => replay::run(options).await,
        Command::Openapi => {
            println!("{}", gateway::openapi_json());
            Ok(())
        }
    }
}

async fn dev(options: Dev) -> Result<()> {
    check_names(options.without.iter().map(String::as_str))?;
    let here = |service: &&str| !options.without.iter().any(|without| without == service);
    let names: Vec<&str> = SERVICES.into_iter().filter(here).collect();
    let say: Arc<dyn Fn(&str) + Send + Sync> = Arc::new(|line| eprintln!("{line}"));
    let mut env =
        Environment::start_with(Some(options.data), &options.database, say.clone()).await?;
    let mut servers = env.keep_servers(say);
    if options.http.is_some() {
        env.config.http_addr = options.http;
    }
    let (operator, beside) = (Some(env.operator.clone()), env.beside());
    let configs = ServiceConfigs { operator, beside, ..configs_from_env(Some(&env))? };
    let fleet = Fleet::start(&env.config, &names, &configs).await?;
    let keeper = tokio::spawn(fleet::keep_topology(env.config.clone()));
    let http_addr = fleet.http_addr().context("without the gateway, use `run`")?;
    println!("http://{http_addr}");
    env.announce(http_addr)?;
    if let Some(file) = options.ready_file {
        environment::write_secret(&file, &serde_json::to_vec(&env.ready(http_addr))?)?;
    }
    let outcome = tokio::select! {
        () = environment::wait_for_stop(options.with_parent) => Ok(()),
        error = servers.given_up() => Err(error),
    };
    drop(servers);
    keeper.abort();
    fleet.stop().await;
    env.stop().await;
    outcome
}

async fn run_services(options: Run) -> Result<()> {
    let names: Vec<&str> = if options.all {
        SERVICES.to_vec()
    } else {
        options.services.iter().map(String::as_str).collect()
    };
    check_names(names.iter().copied())?;
    let config = Config::from_env(&names)?;
    let health = match config::health_addr()? {
        Some(addr) => Some(health::Listener::open(addr).await?),
        None => None,
    };
    let configs = ServiceConfigs {
        operator: environment::operator_from_env().ok(),
        ..configs_from_env(None)?
    };
    let fleet = Fleet::start(&config, &names, &configs).await?;
    if let Some(addr) = fleet.http_addr() {
        tracing::info!(%addr, "the gateway listens");
    }
    if let Some(health) = &health {
        health.watch(&fleet);
    }
    environment::wait_for_stop(options.with_parent).await;
    fleet.stop().await;
    Ok(())
}

fn check_names<'a>(mut names: impl Iterator<Item = &'a str>) -> Result<()> {
    match names.find(|name| !SERVICES.contains(name)) {
        None => Ok(()),
        Some(name) => bail!("there is no service `{name}`; there are {}", SERVICES.join(", ")),
    }
}

async fn migrate(services: &[String]) -> Result<()> {
    let names: Vec<&str> = if services.is_empty() {
        WITH_DATABASE.to_vec()
    } else {
        services.iter().map(String::as_str).collect()
    };
    if let Some(unknown) = names.iter().find(|name| !WITH_DATABASE.contains(name)) {
        bail!("`{unknown}` has no database; these have: {}", WITH_DATABASE.join(", "));
    }
    let config = Config::named_in_env(&names)?;
    fleet::migrate(&config, &names).await?;
    println!("migrated {}", names.join(", "));
    Ok(())
}

/// Messages and sales events go to folders beside the data of `env` unless environment
/// variables name other targets.
fn configs_from_env(env: Option<&Environment>) -> Result<ServiceConfigs> {
    let notification = match env {
        Some(env) => notification::Config::from_env_or(env.messages_folder()),
        None => notification::Config::from_env(),
    };
    let mut data_platform = data_platform::Config::from_env().map_err(anyhow::Error::msg)?;
    if let (Some(env), false) = (env, data_platform.has_target()) {
        data_platform.folder = Some(env.export_folder());
    }
    let mut configs = ServiceConfigs {
        audit: audit::Config::from_env()?,
        notification: notification.map_err(anyhow::Error::msg)?,
        gateway: gateway::Settings::from_env().map_err(anyhow::Error::msg)?,
        data_platform,
        ..ServiceConfigs::default()
    };
    if let Ok(secs) = std::env::var("ONSALE_HOLD_GRACE_SECS") {
        configs.reservation.grace_secs = secs
            .parse()
            .with_context(|| format!("ONSALE_HOLD_GRACE_SECS={secs} is not a number"))?;
    }
    Ok(configs)
}
