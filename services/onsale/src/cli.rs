//! The command line.

use std::process::ExitCode;

use anyhow::{Result, bail};
use clap::{Parser, Subcommand};

#[cfg(feature = "development")]
use crate::development;
use crate::{
    config::{self, Config, PROVISIONER},
    dead_letters, deployment, doctor, export,
    fleet::{self, Fleet, ServiceConfigs},
    flows, health, log,
    registry::{self, SERVICES, WITH_DATABASE},
    replay, saga, secrets, stop, top, verify,
};

/// Sells concert seats: a mesh of services on NATS JetStream.
///
/// Servers and secrets are named by environment variables (ONSALE_NATS_URL,
/// ONSALE_VALKEY_URL, ONSALE_<SERVICE>_DATABASE_URL, ONSALE_NKEY_DIR; docs/configuration.md lists all).
#[cfg_attr(
    feature = "development",
    doc = "`demo`, `dev` and `bench` start servers of their own when ONSALE_NATS_URL is not set; `chaos` always does."
)]
#[derive(Parser)]
#[command(name = "onsale", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    #[cfg(feature = "development")]
    #[command(flatten)]
    Development(development::Command),
    /// Runs services on the servers named in the environment
    Run(Run),
    /// Migrates the databases of services
    Migrate {
        #[arg(help = format!("Services: {}; all of them when none is named", WITH_DATABASE.join(", ")))]
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
    /// Shows a running mesh on one screen, live: sale, services, outboxes, consumers, sagas
    Top(top::Top),
    /// Exports sales events to the data platform again, or writes them as Parquet files
    Export(export::Export),
    /// Checks the invariants
    #[command(subcommand)]
    Audit(Audit),
    /// Prints a new .env for compose.yaml, with random passwords and keys
    Secrets,
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
  ONSALE_<SERVICE>_DATABASE_URL    the service's database, if it has one
  ONSALE_VALKEY_URL                Valkey, for the services that keep something there
  ONSALE_<SERVICE>_NKEY_SEED       the service's user on the broker, or ONSALE_NKEY_DIR
  ONSALE_HOLD_GRACE_SECS           seconds by which a running payment may extend its hold
                                   [default: 60]
  ONSALE_LOGIN_RATE_PER_MINUTE, ONSALE_LOGIN_BURST, ONSALE_TRUST_PROXY
                                   how often one address may log in (`off` for no limit), and
                                   whether the gateway believes X-Forwarded-For (`1`)
  ONSALE_PAYMENTS_AT_ONCE          payments of one gateway that may always run at once
                                   [default: 1024]
  ONSALE_AUDIT_KEEP_DAYS           days that audit keeps events [default: 30]
  ONSALE_HTTP_ADDR                 where the gateway listens [default: 127.0.0.1:8080]
  ONSALE_HEALTH_ADDR               where /healthz, /readyz and /metrics of this process are served,
                                   for example 127.0.0.1:8081; not served when it is not set
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
  OTEL_EXPORTER_OTLP_ENDPOINT      a collector of traces and metrics, for example
                                   http://127.0.0.1:4318";

#[derive(clap::Args)]
#[command(after_help = RUN_ENVIRONMENT)]
struct Run {
    #[arg(required_unless_present = "all", help = format!("Services: {}", SERVICES.join(", ")))]
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

impl Command {
    /// What is logged unless the environment says otherwise; `None` for what a service logs.
    fn log_filter(&self) -> Option<&'static str> {
        match self {
            #[cfg(feature = "development")]
            Self::Development(command) => command.log_filter(),
            Self::Run(_) => None,
            // The other commands print their own errors.
            _ => Some(log::ERRORS),
        }
    }
}

/// Reads the command line, runs the command and says how it ended.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    log::start(cli.command.log_filter());
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

async fn run(command: Command) -> Result<()> {
    match command {
        #[cfg(feature = "development")]
        Command::Development(command) => command.run().await,
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
        Command::Top(options) => top::run(options).await,
        Command::Export(options) => export::run(options).await,
        Command::Audit(Audit::Verify(options)) => verify::run(options).await,
        Command::DeadLetters(command) => dead_letters::run(command).await,
        Command::Secrets => {
            print!("{}", secrets::env_file()?);
            Ok(())
        }
        Command::Saga(command) => saga::run(command).await,
        Command::Flows(options) => flows::run(&options),
        Command::Replay(options) => replay::run(options).await,
        Command::Openapi => {
            println!("{}", gateway::openapi_json());
            Ok(())
        }
    }
}

async fn run_services(options: Run) -> Result<()> {
    let names: Vec<&str> = if options.all {
        SERVICES.to_vec()
    } else {
        options.services.iter().map(String::as_str).collect()
    };
    names.iter().try_for_each(|name| registry::find(name).map(drop))?;
    #[cfg(feature = "development")]
    {
        development::crash::arm()?;
        development::clock::follow()?;
    }
    let config = Config::from_env(&names)?;
    let health = match config::health_addr()? {
        Some(addr) => Some(health::Listener::open(addr).await?),
        None => None,
    };
    let configs = ServiceConfigs {
        operator: deployment::operator_from_env().ok(),
        ..ServiceConfigs::from_env()?
    };
    let fleet = Fleet::start(&config, &names, &configs).await?;
    if let Some(addr) = fleet.http_addr() {
        tracing::info!(%addr, "the gateway listens");
    }
    if let Some(health) = &health {
        health.watch(&fleet);
    }
    stop::wait(options.with_parent).await;
    fleet.stop().await;
    Ok(())
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

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn demo_dev_bench_and_chaos_are_commands_of_development_alone() {
        let cli = Cli::command();
        let has = |name: &str| cli.get_subcommands().any(|command| command.get_name() == name);
        for name in ["demo", "dev", "bench", "chaos"] {
            assert_eq!(has(name), cfg!(feature = "development"), "{name}");
        }
        for name in ["run", "migrate", "topology", "doctor", "saga", "replay", "secrets"] {
            assert!(has(name), "{name}");
        }
        Cli::command().debug_assert();
    }
}
