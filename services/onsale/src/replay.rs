//! `onsale replay`: a read model built anew from the streams, next to the one that is live.

use std::{io::IsTerminal, path::PathBuf};

use anstream::println;
use anyhow::{Context, Result, anyhow, bail};
use clap::{Args, ValueEnum};
use indicatif::{ProgressBar, ProgressStyle};
use mesh::{
    Asker, Link, LinkSettings,
    trace::Tracer,
    valkey::{self, Difference, Library, Progress, Rebuilt, Valkey},
};

use crate::{
    config::Config,
    room::{self, ReadModel},
    stage::{self, DATA_FOLDER},
};

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

/// A read model.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum What {
    /// What sells most, and what sold out fastest
    Ranking,
    /// Which seats are not free; watchers get a new snapshot
    Seats,
}

/// Builds it anew, compares, swaps, and prints what it did.
///
/// # Errors
/// When a server cannot be reached, or another replay is on its way. What is live is as it
/// was then.
pub async fn run(options: Replay) -> Result<()> {
    let config = stage::find(&options.data)?;
    if config.valkey_url.is_empty() {
        bail!("set ONSALE_VALKEY_URL, for example redis://127.0.0.1:6379");
    }
    let rebuilt = match options.what {
        What::Ranking => {
            let valkey = Valkey::new(&config.valkey_url, ranking::Rules::default())?;
            replay(&config, ranking::NAME, room::ranking(valkey.into())).await?
        }
        What::Seats => {
            let valkey = Valkey::new(&config.valkey_url, concert::MapRules::default())?;
            replay(&config, concert::NAME, room::seat_maps(valkey.into())).await?
        }
    };
    report(&rebuilt);
    Ok(())
}

/// Replays as the service itself: it may read the streams that it hears.
///
/// # Errors
/// As [`run`].
pub async fn replay<L: Library>(
    config: &Config,
    service: &'static str,
    model: ReadModel<L>,
) -> Result<Rebuilt> {
    if config.nats_url.is_empty() {
        bail!("set ONSALE_NATS_URL, for example nats://127.0.0.1:4222");
    }
    let nkey_seed = config.nkey_seeds.get(service).cloned();
    let settings = LinkSettings { service, nats_url: config.nats_url.clone(), nkey_seed };
    let link = Link::connect_now(settings, Tracer::off()).await.map_err(|error| anyhow!(error))?;
    let bar = match std::io::stderr().is_terminal() {
        true => ProgressBar::new(0).with_style(style()?),
        false => ProgressBar::hidden(),
    };
    let asker = Asker::new(link.clone());
    let rebuilt =
        valkey::rebuild(
            &model.valkey,
            &model.table,
            model.order,
            &asker,
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
    for (fact, fed) in &rebuilt.facts {
        println!("{fact:28} {:>9} taken in", fed.taken + fed.repeats);
        if fed.left_out > 0 {
            println!("{:28} {:>9} refused, as they were the first time", "", fed.left_out);
        }
    }
    if rebuilt.unreadable > 0 {
        println!("{:28} {:>9} could not be read", "", rebuilt.unreadable);
    }
    if rebuilt.carried > 0 {
        let what = "carried over: the streams no longer have them";
        println!("{:28} {:>9} {what}", "older", rebuilt.carried);
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
