//! `onsale top`: a mesh on one screen, live: the sale, the services, their outboxes and consumers,
//! sagas, and what needs an operator.
//!
//! | file | what it is |
//! |---|---|
//! | `look` | what one look has seen, and the rates between two |
//! | `broker`, `stores`, `gateway` | where it is seen, each with its connections |
//! | `sources` | one look at all of them |
//! | `screen` | a look as lines, for a screen or as one |
//! | `line` | a line of styled text that is cut to a width |
//! | `terminal` | the screen of a terminal, which is restored however the program ends |
//!
//! It shows whatever can be reached. A part that cannot is named with the reason, and looked for
//! again at the next look.

mod broker;
mod gateway;
mod line;
mod look;
mod screen;
mod sources;
mod stores;
mod terminal;

use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

use anyhow::Result;
use clap::Args;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::{deployment, operator::Where, stop};
use look::Look;
use sources::Sources;
use terminal::{Terminal, What};

/// Columns of an output that is not a terminal.
const WIDTH: u16 = 120;
/// Lines of a screen that is printed once: enough for everything.
const HEIGHT: u16 = 200;

/// Options of `onsale top`.
#[derive(Debug, Clone, Args)]
#[command(after_help = "\
On a terminal it is one screen; `q` ends it. Elsewhere it is a line for each look.

in/s and out/s are messages that a service has consumed and published. A part that cannot be
reached is named, and looked for again.")]
pub struct Top {
    /// Seconds from one look to the next
    #[arg(long, value_name = "SECS", default_value_t = 1.0, value_parser = seconds)]
    every: f64,
    /// Prints one look and ends; it takes `--every` seconds, because rates need two
    #[arg(long)]
    once: bool,
    /// Prints JSON, one object for each look
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: Where,
}

fn seconds(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(secs) if (0.2..=3_600.0).contains(&secs) => Ok(secs),
        _ => Err("must be a number of seconds from 0.2 to 3600".into()),
    }
}

/// Runs `onsale top`.
///
/// # Errors
/// When there is nothing to look at, or the output is closed.
pub async fn run(options: Top) -> Result<()> {
    let config = deployment::find(&options.at.data)?;
    let mut sources = Sources::new(config, options.at.clone());
    let on_terminal = io::stdout().is_terminal() && !options.json;
    let mut ticks = interval(Duration::from_secs_f64(options.every));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let outcome = match (options.once, on_terminal) {
        (true, _) => once(&options, &mut sources, &mut ticks, on_terminal).await,
        (false, true) => on_screen(&mut sources, &mut ticks).await,
        (false, false) => in_lines(&options, &mut sources, &mut ticks).await,
    };
    sources.close().await;
    match outcome {
        // The reader of the lines has read enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => Ok(outcome?),
    }
}

async fn once(
    options: &Top,
    sources: &mut Sources,
    ticks: &mut Interval,
    on_terminal: bool,
) -> io::Result<()> {
    ticks.tick().await;
    let before = sources.look(None).await;
    ticks.tick().await;
    let look = sources.look(Some(&before)).await;
    if !on_terminal {
        return print(&look, options.json);
    }
    let mut out = anstream::stdout().lock();
    let (width, _) = terminal::size().unwrap_or((WIDTH, 0));
    for line in screen::lines(&look, width, HEIGHT) {
        writeln!(out, "{}", line.rendered(width, true))?;
    }
    out.flush()
}

async fn in_lines(options: &Top, sources: &mut Sources, ticks: &mut Interval) -> io::Result<()> {
    let mut before: Option<Look> = None;
    let asked_to_stop = stop::wait(false);
    tokio::pin!(asked_to_stop);
    loop {
        let look = async {
            ticks.tick().await;
            sources.look(before.as_ref()).await
        };
        let look = tokio::select! {
            look = look => look,
            () = &mut asked_to_stop => return Ok(()),
        };
        // The first look has no rates yet.
        if before.is_some() {
            print(&look, options.json)?;
        }
        before = Some(look);
    }
}

fn print(look: &Look, as_json: bool) -> io::Result<()> {
    let line = match as_json {
        true => serde_json::to_string(look)?,
        false => screen::line(look),
    };
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

async fn on_screen(sources: &mut Sources, ticks: &mut Interval) -> io::Result<()> {
    let mut terminal = Terminal::open()?;
    let mut before: Option<Look> = None;
    terminal.draw(|_, _| vec![screen::greeting()])?;
    while let Some(look) = next_look(&mut terminal, sources, ticks, before.as_ref()).await? {
        terminal.draw(|width, height| screen::lines(&look, width, height))?;
        before = Some(look);
    }
    Ok(())
}

/// Waits for the next look, while the terminal stays usable; `None` when the user wants to end.
async fn next_look(
    terminal: &mut Terminal,
    sources: &mut Sources,
    ticks: &mut Interval,
    before: Option<&Look>,
) -> io::Result<Option<Look>> {
    let look = async {
        ticks.tick().await;
        sources.look(before).await
    };
    tokio::pin!(look);
    loop {
        let what = tokio::select! {
            look = &mut look => return Ok(Some(look)),
            what = terminal.next() => what,
        };
        match (what, before) {
            (What::Quit, _) => return Ok(None),
            (What::Resized, None) => terminal.draw(|_, _| vec![screen::greeting()])?,
            (What::Resized, Some(before)) => {
                terminal.draw(|width, height| screen::lines(before, width, height))?;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_look_comes_every_few_seconds_and_never_all_the_time() {
        assert_eq!(seconds("1"), Ok(1.0));
        assert_eq!(seconds("0.5"), Ok(0.5));
        for text in ["0", "-1", "x", "NaN", "inf", "86400"] {
            assert!(seconds(text).is_err(), "{text}");
        }
    }
}
