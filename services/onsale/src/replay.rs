//! `onsale replay`: rebuilds what is in Valkey from the state of its owners and from the streams:
//! a read model next to the live one, the waiting rooms in place.

use std::{io::IsTerminal, path::PathBuf, sync::Arc, time::Duration};

use anstream::println;
use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};
use futures::FutureExt;
use indicatif::{ProgressBar, ProgressStyle};
use mesh::{
    Kept, Link, LinkSettings, MeshClient,
    engine::Failure,
    trace::Tracer,
    valkey::{Difference, LuaModule, Progress, ReadModel, Rebuilt, Valkey},
};
use queue::WaitingRooms;

use crate::{
    config::Config,
    deployment::{self, DATA_FOLDER},
    stop,
};

/// How long another instance may take to rebuild the rooms.
const ROOMS_WITHIN: Duration = Duration::from_secs(600);
/// How often a rebuild is retried meanwhile.
const RETRY_EVERY: Duration = Duration::from_millis(200);
/// Lines of a difference that are shown for each side.
const LINES_MAX: usize = 20;

/// Options of `onsale replay`.
#[derive(Debug, Clone, Args)]
pub struct Replay {
    /// What to rebuild
    pub what: What,
    /// Where a running `dev` or `demo` keeps its data; not used when the environment names
    /// servers
    #[arg(long, value_name = "DIR", default_value = DATA_FOLDER)]
    pub data: PathBuf,
}

/// What can be rebuilt.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum What {
    /// What sells most, and what sold out fastest
    Ranking,
    /// Which seats are not free; watchers get a new snapshot
    Seats,
    /// The waiting rooms; they answer 503 meanwhile, and every place stays
    Room,
}

/// Rebuilds, compares, swaps, and prints the result.
///
/// # Errors
/// When a server cannot be reached, another replay is running, or it is asked to stop. What is
/// live stays as it was then.
pub async fn run(options: Replay) -> Result<()> {
    let config = deployment::find(&options.data)?;
    if config.valkey_url.is_empty() {
        bail!("set ONSALE_VALKEY_URL, for example redis://127.0.0.1:6379");
    }
    let stop = stop::wait(false);
    let rebuilt = match options.what {
        What::Ranking => {
            let valkey = Valkey::new(&config.valkey_url, ranking::Config::default())?;
            replay(&config, ranking::NAME, ranking::read_model(valkey.into()), stop).await?
        }
        What::Seats => {
            let valkey = Valkey::new(&config.valkey_url, concert::MapConfig::default())?;
            replay(&config, concert::NAME, concert::read_model(valkey.into()), stop).await?
        }
        What::Room => return rooms(&config, stop).await,
    };
    report(&rebuilt);
    Ok(())
}

/// Connects as the service itself, which may read the streams that it is rebuilt from.
async fn link(config: &Config, service: &'static str) -> Result<Link> {
    if config.nats_url.is_empty() {
        bail!("set ONSALE_NATS_URL, for example nats://127.0.0.1:4222");
    }
    let nkey_seed = config.nkey_seeds.get(service).cloned();
    let settings = LinkSettings { service, nats_url: config.nats_url.clone(), nkey_seed };
    Link::connect_now(settings, Tracer::off()).await.map_err(anyhow::Error::msg)
}

/// Rebuilds the waiting rooms in place. Places, numbers and pace stay as they are; the owners
/// state the rest.
async fn rooms(config: &Config, stop: impl Future<Output = ()> + Send) -> Result<()> {
    let count = replay_rooms(config, stop).await?;
    match count {
        0 => println!("the queue service has rebuilt them"),
        count => println!("{count:>9} entries read"),
    }
    println!("the rooms are complete");
    Ok(())
}

/// Rebuilds the waiting rooms without output. Returns how many entries were read here, 0 when
/// the running service was faster.
///
/// # Errors
/// When a server cannot be reached, an owner does not answer, or it is asked to stop: the rooms
/// stay closed then, and the service rebuilds them.
pub async fn replay_rooms(config: &Config, stop: impl Future<Output = ()> + Send) -> Result<u64> {
    let valkey = Arc::new(Valkey::new(&config.valkey_url, queue::Config::default())?);
    let rooms = WaitingRooms(valkey.clone());
    let link = link(config, queue::NAME).await?;
    let stop = stop.shared();
    let client = MeshClient::new(link.clone());
    valkey.unseal().await?;
    let until = tokio::time::Instant::now() + ROOMS_WITHIN;
    let count = loop {
        match rooms.rebuild(&client, stop.clone()).await {
            // The running service is rebuilding them.
            Err(Failure::Contended(_)) if tokio::time::Instant::now() < until => {
                if tokio::time::timeout(RETRY_EVERY, stop.clone()).await.is_ok() {
                    break Err(mesh::stopped()).context("rebuilding the rooms");
                }
            }
            rebuilt => break rebuilt.context("rebuilding the rooms"),
        }
    };
    link.drain().await;
    count
}

/// Replays as the service itself.
///
/// # Errors
/// As [`run`].
pub async fn replay<L: LuaModule>(
    config: &Config,
    service: &'static str,
    model: ReadModel<L>,
    stop: impl Future<Output = ()> + Send,
) -> Result<Rebuilt> {
    let link = link(config, service).await?;
    let bar = match std::io::stderr().is_terminal() {
        true => ProgressBar::new(0).with_style(style()?),
        false => ProgressBar::hidden(),
    };
    let client = MeshClient::new(link.clone());
    let rebuilt = model.replay(&client, stop, |progress| match progress {
        Progress::Read { stream, seq, last_seq } => {
            bar.set_message(stream.to_owned());
            bar.set_length(last_seq);
            bar.set_position(seq);
        }
        Progress::Comparing => bar.set_message("comparing with what is live"),
    });
    let rebuilt = rebuilt.await.with_context(|| format!("replaying {}", L::NAME));
    bar.finish_and_clear();
    link.drain().await;
    rebuilt
}

fn style() -> Result<ProgressStyle> {
    Ok(ProgressStyle::with_template("{bar:30} {pos}/{len}  {msg}")?)
}

fn report(rebuilt: &Rebuilt) {
    for (event, fed) in &rebuilt.events {
        println!("{event:28} {:>9} handled", fed.taken + fed.repeats);
        if fed.left_out > 0 {
            println!("{:28} {:>9} refused, as they were the first time", "", fed.left_out);
        }
    }
    if rebuilt.unreadable > 0 {
        println!("{:28} {:>9} could not be read", "", rebuilt.unreadable);
    }
    let stated = rebuilt.stated;
    if stated.taken > 0 {
        println!("{:28} {:>9} handled", "stated by the owners", stated.taken);
    }
    match &rebuilt.difference {
        None => println!("nothing was live before"),
        Some(difference) if difference.is_none() => println!("equal to what was live"),
        Some(difference) => show(difference),
    }
    println!("swapped in");
}

fn show(difference: &Difference) {
    println!("different from what was live (-), which is replaced (+):");
    for (sign, lines) in [("-", &difference.only_live), ("+", &difference.only_shadow)] {
        for line in lines.iter().take(LINES_MAX) {
            println!("{sign} {line}");
        }
        if lines.len() > LINES_MAX {
            println!("{sign} … and {} more", lines.len() - LINES_MAX);
        }
    }
}
