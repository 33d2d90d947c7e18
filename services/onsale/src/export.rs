//! `onsale export`: exports sales events again, a range of them or all that are stored.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
};

use anstream::println;
use anyhow::{Context, Result, anyhow, bail};
use clap::Args;
use comfy_table::{Cell, CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use data_platform::{
    Config as ExportConfig, FOLDER_VARIABLE, NAME, Progress, Range, Tally, Totals, URL_VARIABLE,
    backfill,
};
use events::Timestamp;
use indicatif::{ProgressBar, ProgressStyle};
use mesh::{Link, LinkSettings, MeshClient, trace::Tracer};

use crate::{
    config::Config,
    deployment::{self, DATA_FOLDER},
};

/// Options of `onsale export`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
The records, keys and versions are those of the service's own export, so what the target has
already stays as it is. The service's own position is not touched.

Environment:
  ONSALE_EXPORT_URL, ONSALE_EXPORT_FOLDER   the targets when none is named here
  ONSALE_EXPORT_TOKEN                       the bearer token of the data platform")]
pub struct Export {
    /// Events from this time on: `beginning` (all that are stored), a day (2026-11-21, from
    /// midnight UTC) or a moment (2026-11-21T10:00:00Z)
    #[arg(long, value_name = "TIME", default_value = "beginning", value_parser = moment)]
    pub since: Moment,
    /// Events before this time: `now`, a day or a moment
    #[arg(long, value_name = "TIME", default_value = "now", value_parser = moment)]
    pub until: Moment,
    /// Posts newline-delimited JSON to this address
    #[arg(long, value_name = "URL")]
    pub to: Option<String>,
    /// Writes Parquet files into this folder
    #[arg(long, value_name = "DIR")]
    pub folder: Option<PathBuf>,
    /// Where a running `dev` or `demo` keeps its data; not used when the environment names
    /// servers
    #[arg(long, value_name = "DIR", default_value = DATA_FOLDER)]
    pub data: PathBuf,
}

/// One end of a range; `None` is as far as the streams go.
pub type Moment = Option<Timestamp>;

/// Reads an end of a range.
///
/// # Errors
/// When it is neither a word, a day nor a moment.
fn moment(text: &str) -> Result<Moment> {
    if matches!(text, "beginning" | "now") {
        return Ok(None);
    }
    let midnight = format!("{text}T00:00:00Z");
    let read = text.parse().or_else(|_| midnight.parse());
    read.map(Some).map_err(|_| anyhow!("a day (2026-11-21) or a moment (2026-11-21T10:00:00Z)"))
}

/// Exports and prints what was exported.
///
/// # Errors
/// When there is no target or no mesh, or the target refuses the records.
pub async fn run(options: Export) -> Result<()> {
    let configs = configs(&options)?;
    let range = Range { since: options.since, until: options.until };
    if range.since.zip(range.until).is_some_and(|(since, until)| since >= until) {
        bail!("--since is not before --until");
    }
    let link = link(&options.data).await?;
    let bar = bar();
    let client = MeshClient::new(link.clone());
    let done = backfill(&client, &configs, range, &|progress| show(&bar, progress)).await;
    bar.finish_and_clear();
    link.drain().await;
    let Progress { totals, unreadable, .. } =
        done.map_err(|cause| anyhow!("{cause}; the target keeps what it has accepted"))?;
    println!("{}", table(&totals));
    println!("{}", summary(&totals));
    if unreadable > 0 {
        bail!("{unreadable} events cannot be read and were left out");
    }
    Ok(())
}

/// The targets named in the options, else those of the environment.
fn configs(options: &Export) -> Result<ExportConfig> {
    let named = ExportConfig::from_env().map_err(anyhow::Error::msg)?;
    let configs = match (&options.to, &options.folder) {
        (None, None) => named,
        (url, folder) => ExportConfig { url: url.clone(), folder: folder.clone(), ..named },
    };
    if !configs.has_target() {
        bail!("name a target: --to, --folder, {URL_VARIABLE} or {FOLDER_VARIABLE}");
    }
    Ok(configs)
}

/// A connection as the service that may read these streams.
async fn link(data: &Path) -> Result<Link> {
    let config: Config = deployment::find(data)?;
    if config.nats_url.is_empty() {
        bail!("set ONSALE_NATS_URL, for example nats://127.0.0.1:4222");
    }
    let nkey_seed = config.nkey_seeds.get(NAME).cloned();
    let settings = LinkSettings { service: NAME, nats_url: config.nats_url, nkey_seed };
    let link = Link::connect_now(settings, Tracer::off()).await.map_err(anyhow::Error::msg);
    link.with_context(|| format!("connecting as {NAME}"))
}

fn bar() -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} events  {per_sec}  {wide_msg}");
    ProgressBar::new(0).with_style(style.expect("the template is right"))
}

fn show(bar: &ProgressBar, progress: &Progress) {
    bar.set_length(progress.of);
    bar.set_position(progress.read);
    bar.set_message(match &progress.trouble {
        Some(cause) => format!("retrying: {cause}"),
        None => format!("{} records", progress.totals.records()),
    });
}

fn table(totals: &Totals) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_header(["event", "records", "seats", "points"]);
    for (event, Tally { records, seats, points }) in &totals.0 {
        let numbers = [records.to_string(), seats.to_string(), points.to_string()];
        let numbers = numbers.map(|text| Cell::new(text).set_alignment(CellAlignment::Right));
        table.add_row([Cell::new(event)].into_iter().chain(numbers));
    }
    table
}

fn summary(totals: &Totals) -> String {
    let (completed, refunded) = (totals.of("payment.completed"), totals.of("payment.refunded"));
    format!(
        "{} records; {} payments completed, {} points; {} refunded, {} points",
        totals.records(),
        completed.records,
        completed.points,
        refunded.records,
        refunded.points,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_named_by_words_days_and_moments() {
        let read = |text| moment(text).expect("a moment");
        assert_eq!((read("beginning"), read("now")), (None, None));
        for (text, read) in [
            ("2026-11-21", "2026-11-21T00:00:00Z"),
            ("2026-11-21T10:00:00+09:00", "2026-11-21T01:00:00Z"),
        ] {
            assert_eq!(moment(text).expect("a moment").expect("a bound").to_string(), read);
        }
        for wrong in ["", "yesterday", "2026-13-01", "2026-11-21T25:00:00Z"] {
            assert!(moment(wrong).is_err(), "{wrong}");
        }
    }
}
