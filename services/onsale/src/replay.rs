//! `onsale replay`: what lies in Valkey built anew from what the owners have and from the
//! streams: a read model next to the one that is live, the waiting rooms in place.

use std::{io::IsTerminal, path::PathBuf, time::Duration};

use anstream::println;
use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use mesh::{
    Link, LinkSettings, MeshClient,
    engine::Failure,
    trace::Tracer,
    valkey::{self, Difference, LuaModule, Progress, Rebuilt, Valkey},
};

use crate::{
    config::Config,
    environment::{self, DATA_FOLDER},
    room::{self, ReadModel},
};

/// How long another instance may take to rebuild the rooms.
const ROOMS_WITHIN: Duration = Duration::from_secs(600);
/// Between two looks whether it has.
const LOOK_EVERY: Duration = Duration::from_millis(200);
/// Lines of a difference that are shown of each side.
const LINES_MAX: usize = 20;

/// Options of `onsale replay`.
#[derive(Debug, Clone, Args)]
pub struct Replay {
    /// What is built anew
    pub what: What,
    /// Where a running `dev` or `demo` keeps its data; not used when the environment names
    /// servers
    #[arg(long, value_name = "DIR", default_value = DATA_FOLDER)]
    pub data: PathBuf,
}

/// What can be built anew.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum What {
    /// What sells most, and what sold out fastest
    Ranking,
    /// Which seats are not free; watchers get a new snapshot
    Seats,
    /// The waiting rooms; meanwhile they answer 503, and every place stays
    Room,
}

/// Builds it anew, compares, swaps, and prints what it did.
///
/// # Errors
/// When a server cannot be reached, or another replay is on its way. What is live is as it
/// was then.
pub async fn run(options: Replay) -> Result<()> {
    let config = environment::find(&options.data)?;
    if config.valkey_url.is_empty() {
        bail!("set ONSALE_VALKEY_URL, for example redis://127.0.0.1:6379");
    }
    let rebuilt = match options.what {
        What::Ranking => {
            let valkey = Valkey::new(&config.valkey_url, ranking::Config::default())?;
            replay(&config, ranking::NAME, room::ranking(valkey.into())).await?
        }
        What::Seats => {
            let valkey = Valkey::new(&config.valkey_url, concert::MapConfig::default())?;
            replay(&config, concert::NAME, room::seat_maps(valkey.into())).await?
        }
        What::Room => return rooms(&config).await,
    };
    report(&rebuilt);
    Ok(())
}

/// Connects as the service itself: it may read what it is made of.
async fn link(config: &Config, service: &'static str) -> Result<Link> {
    if config.nats_url.is_empty() {
        bail!("set ONSALE_NATS_URL, for example nats://127.0.0.1:4222");
    }
    let nkey_seed = config.nkey_seeds.get(service).cloned();
    let settings = LinkSettings { service, nats_url: config.nats_url.clone(), nkey_seed };
    Link::connect_now(settings, Tracer::off()).await.map_err(|error| anyhow!(error))
}

/// Has the waiting rooms rebuilt in place. Places, numbers and pace stay as they are; what
/// others own is theirs to say.
async fn rooms(config: &Config) -> Result<()> {
    let count = replay_rooms(config).await?;
    match count {
        0 => println!("the queue service has rebuilt them"),
        count => println!("{count:>9} things taken in"),
    }
    println!("the rooms are whole");
    Ok(())
}

/// The same, without a word; how much was taken in here, and nothing when the service that
/// runs was faster.
///
/// # Errors
/// When a server cannot be reached, or an owner does not answer: the rooms stay shut then, and
/// the service tries again.
pub async fn replay_rooms(config: &Config) -> Result<u64> {
    let valkey = Valkey::new(&config.valkey_url, queue::Config::default())?;
    let link = link(config, queue::NAME).await?;
    let client = MeshClient::new(link.clone());
    valkey.unseal().await?;
    let until = tokio::time::Instant::now() + ROOMS_WITHIN;
    let count = loop {
        match room::rebuild_room(&valkey, &client).await {
            // The service that runs is at it.
            Err(Failure::Contended(_)) if tokio::time::Instant::now() < until => {
                tokio::time::sleep(LOOK_EVERY).await;
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
) -> Result<Rebuilt> {
    let link = link(config, service).await?;
    let bar = match std::io::stderr().is_terminal() {
        true => ProgressBar::new(0).with_style(style()?),
        false => ProgressBar::hidden(),
    };
    let client = MeshClient::new(link.clone());
    let rebuilt = valkey::rebuild(
        &model.valkey,
        &model.table,
        (model.sources)(&client),
        &client,
        |progress| match progress {
            Progress::Read { stream, seq, last_seq } => {
                bar.set_message(stream.to_owned());
                bar.set_length(last_seq);
                bar.set_position(seq);
            }
            Progress::Comparing => bar.set_message("comparing with what is live"),
        },
    );
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
        println!("{event:28} {:>9} taken in", fed.taken + fed.repeats);
        if fed.left_out > 0 {
            println!("{:28} {:>9} refused, as they were the first time", "", fed.left_out);
        }
    }
    if rebuilt.unreadable > 0 {
        println!("{:28} {:>9} could not be read", "", rebuilt.unreadable);
    }
    let stated = rebuilt.stated;
    if stated.taken > 0 {
        println!("{:28} {:>9} taken in", "stated by the owners", stated.taken);
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
