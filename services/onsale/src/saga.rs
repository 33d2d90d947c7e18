//! `onsale saga`: lists and shows sagas of a running mesh, as they happen.

mod draw;

use std::{collections::BTreeMap, io::IsTerminal, time::Duration};

use anstream::{print, println};
use anyhow::{Context, Result, bail};
use clap::{Args, Subcommand, ValueEnum};
use events::{
    PAGE_MAX, Page, SagaId, Timestamp,
    audit::{Saga, SagaLine, SagaState},
};
use mesh::clock;
use reqwest::StatusCode;

use crate::{
    http::Answer,
    operator::{Operator, Where},
};

pub use draw::{draw, span};

/// How often `--follow` polls.
const POLL_EVERY: Duration = Duration::from_millis(300);
/// Events of one saga come from several streams and may be consumed late by this much, so each
/// poll goes back that far.
const BEHIND_SECS: i64 = 10;
/// Sagas that `--follow` remembers as shown.
const SHOWN_MAX: usize = 10_000;
/// Columns of an output that is not a terminal.
const WIDTH: usize = 120;

/// The commands of `onsale saga`.
#[derive(Subcommand)]
pub enum SagaCommand {
    /// Draws one saga: its events as a tree with time bars, and what is still to come
    Show(Show),
    /// Lists sagas, the latest first
    Ls(Ls),
}

/// `onsale saga show`.
#[derive(Args)]
pub struct Show {
    /// The id of a saga, payment, reservation, user, event or trace; or `<schedule id>/<seat>`
    id: String,
    #[command(flatten)]
    how: How,
}

/// `onsale saga ls`.
#[derive(Args)]
pub struct Ls {
    /// Only in this state
    #[arg(long)]
    state: Option<State>,
    /// Only those that this service took part in or is awaited in
    #[arg(long, value_name = "NAME")]
    service: Option<String>,
    /// Only those with an event since then: `30s`, `10m`, `2h`, `1d`, or a moment
    #[arg(long, value_name = "TIME")]
    since: Option<String>,
    /// Only those about this: an id, a trace, or `<schedule id>/<seat>`
    #[arg(long, value_name = "ID")]
    about: Option<String>,
    /// How many
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: u32,
    #[command(flatten)]
    how: How,
}

#[derive(Args)]
struct How {
    /// Prints JSON: a saga as it is, or one line for each
    #[arg(long)]
    json: bool,
    /// Keeps running and prints what changes; `show` ends with the saga
    #[arg(long)]
    follow: bool,
    #[command(flatten)]
    at: Where,
}

#[derive(Clone, Copy, ValueEnum)]
enum State {
    Running,
    Stalled,
    Compensated,
    Failed,
    Completed,
}

impl From<State> for SagaState {
    fn from(state: State) -> Self {
        match state {
            State::Running => Self::Running,
            State::Stalled => Self::Stalled,
            State::Compensated => Self::Compensated,
            State::Failed => Self::Failed,
            State::Completed => Self::Completed,
        }
    }
}

/// Runs `onsale saga`.
///
/// # Errors
/// When the gateway cannot be reached, or knows no such saga.
pub async fn run(command: SagaCommand) -> Result<()> {
    match command {
        SagaCommand::Show(options) => show(options).await,
        SagaCommand::Ls(options) => list(options).await,
    }
}

/// The operator, logged in again when needed: an access token lives for minutes, and `--follow`
/// may run for longer.
struct Session<'a> {
    at: &'a Where,
    operator: Operator,
}

impl<'a> Session<'a> {
    async fn open(at: &'a Where) -> Result<Self> {
        Ok(Self { at, operator: Operator::log_in(at).await? })
    }

    async fn get(&mut self, path: &str) -> Result<Answer> {
        let answer = self.operator.get(path).send().await?;
        if answer.status != StatusCode::UNAUTHORIZED {
            return Ok(answer);
        }
        self.operator = Operator::log_in(self.at).await?;
        self.operator.get(path).send().await
    }
}

/// One part of a path or query, with every character escaped that could end it.
fn escaped(text: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    let escape = |byte| {
        if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }
    };
    text.bytes().map(escape).collect()
}

async fn show(options: Show) -> Result<()> {
    let mut session = Session::open(&options.how.at).await?;
    let path = format!("/v1/sagas/{}", escaped(&options.id));
    let (mut shown, mut height) = (None, 0);
    loop {
        let answer = session.get(&path).await?;
        let is_unknown = answer.status == StatusCode::NOT_FOUND;
        if is_unknown && !options.how.follow {
            bail!("no saga is known by {}", options.id);
        }
        if !is_unknown {
            let saga: Saga = answer.json()?;
            let is_over = !matches!(saga.line.state, SagaState::Running | SagaState::Stalled);
            if shown.as_ref() != Some(&saga) || !is_over {
                height = print_saga(&saga, &options.how, height)?;
                shown = Some(saga);
            }
            if is_over || !options.how.follow {
                return Ok(());
            }
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

/// Prints a saga over the one that was printed before; returns its number of lines.
fn print_saga(saga: &Saga, how: &How, height: usize) -> Result<usize> {
    if how.json {
        println!("{}", serde_json::to_string(saga)?);
        return Ok(0);
    }
    let drawn = draw(saga, width(), clock::now());
    if std::io::stdout().is_terminal() && height > 0 {
        print!("\x1b[{height}A\x1b[J");
    }
    print!("{drawn}");
    Ok(drawn.lines().count())
}

/// The columns of the terminal.
pub fn width() -> usize {
    let on_terminal = std::io::stdout().is_terminal();
    on_terminal.then(terminal_width).flatten().unwrap_or(WIDTH)
}

fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}

async fn list(options: Ls) -> Result<()> {
    let mut session = Session::open(&options.how.at).await?;
    let since = options.since.as_deref().map(|text| moment(text, clock::now())).transpose()?;
    let found = find(&mut session, &options, since, options.limit).await?;
    // The latest is printed last, next to what comes after it.
    for line in found.iter().rev() {
        print_line(line, options.how.json)?;
    }
    if !options.how.follow {
        return Ok(());
    }
    let mut shown: BTreeMap<SagaId, SagaLine> =
        found.into_iter().map(|line| (line.saga_id, line)).collect();
    loop {
        tokio::time::sleep(POLL_EVERY).await;
        let since = clock::now().plus_secs(-BEHIND_SECS);
        let found = find(&mut session, &options, Some(since), u32::MAX).await?;
        if shown.len() > SHOWN_MAX {
            shown.retain(|_, line| line.last_at >= since);
        }
        for line in found.into_iter().rev() {
            if shown.get(&line.saga_id) != Some(&line) {
                print_line(&line, options.how.json)?;
                shown.insert(line.saga_id, line);
            }
        }
    }
}

/// The sagas that match the options, page by page.
async fn find(
    session: &mut Session<'_>,
    options: &Ls,
    since: Option<Timestamp>,
    limit: u32,
) -> Result<Vec<SagaLine>> {
    let mut found: Vec<SagaLine> = Vec::new();
    let mut cursor = None;
    while (found.len() as u64) < u64::from(limit) {
        let rest = limit - u32::try_from(found.len()).unwrap_or(limit);
        let wanted = [
            ("limit", Some(rest.min(PAGE_MAX).to_string())),
            ("state", options.state.map(|state| SagaState::from(state).as_str().to_owned())),
            ("service", options.service.clone()),
            ("since", since.map(|since| since.to_string())),
            ("about", options.about.clone()),
            ("cursor", cursor.take()),
        ];
        let wanted = wanted.into_iter().filter_map(|(name, value)| Some((name, value?)));
        let query: Vec<_> =
            wanted.map(|(name, value)| format!("{name}={}", escaped(&value))).collect();
        let page: Page<SagaLine> =
            session.get(&format!("/v1/sagas?{}", query.join("&"))).await?.json()?;
        found.extend(page.items);
        cursor = page.next_cursor;
        if cursor.is_none() {
            break;
        }
    }
    Ok(found)
}

fn print_line(line: &SagaLine, as_json: bool) -> Result<()> {
    if as_json {
        println!("{}", serde_json::to_string(line)?);
    } else {
        println!("{}", in_one_line(line));
    }
    Ok(())
}

fn in_one_line(line: &SagaLine) -> String {
    let style = draw::style_of(line.state);
    let began = in_seconds(line.began_at);
    let took = span(line.last_at.unix_millis() - line.began_at.unix_millis());
    let awaited = match line.awaited.as_slice() {
        [] => String::new(),
        services => format!("  awaits {}", services.join(", ")),
    };
    format!(
        "{began}  {}  {:<10} {style}{:<11}{style:#} {:>3} events {took:>9}  {}{awaited}",
        line.saga_id,
        line.flow,
        line.state.as_str(),
        line.events,
        line.last_event
    )
}

/// A time in whole seconds: in a list the fraction is noise.
fn in_seconds(at: Timestamp) -> Timestamp {
    Timestamp(at.0.replace_nanosecond(0).unwrap_or(at.0))
}

/// A moment, or how long ago it was.
fn moment(text: &str, now: Timestamp) -> Result<Timestamp> {
    if let Ok(at) = text.parse() {
        return Ok(at);
    }
    let ago = || {
        let unit = text.chars().last()?;
        let number: u32 = text[..text.len() - unit.len_utf8()].parse().ok()?;
        let secs = match unit {
            's' => 1,
            'm' => 60,
            'h' => 3_600,
            'd' => 86_400,
            _ => return None,
        };
        // The time may lie before the first one that can be represented.
        now.0.checked_sub(time::Duration::seconds(i64::from(number) * secs)).map(Timestamp)
    };
    ago().with_context(|| format!("`{text}` is not a time; write 30s, 10m, 2h, 1d or a moment"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seat_is_one_part_of_a_path() {
        assert_eq!(escaped("019a/A-12-7"), "019a%2FA-12-7");
        assert_eq!(escaped("2026-11-20T10:00:00Z"), "2026-11-20T10%3A00%3A00Z");
        assert_eq!(escaped("가&b=c"), "%EA%B0%80%26b%3Dc");
    }

    #[test]
    fn a_time_is_relative_to_now_or_a_moment() {
        let now: Timestamp = "2026-11-20T10:00:00Z".parse().expect("a moment");
        for (text, at) in [
            ("30s", "2026-11-20T09:59:30Z"),
            ("10m", "2026-11-20T09:50:00Z"),
            ("2h", "2026-11-20T08:00:00Z"),
            ("1d", "2026-11-19T10:00:00Z"),
            ("2026-01-01T00:00:00+01:00", "2025-12-31T23:00:00Z"),
        ] {
            assert_eq!(moment(text, now).expect(text).to_string(), at);
        }
        for text in ["", "m", "-1m", "1w", "9999999999d", "4294967295d", "1분"] {
            assert!(moment(text, now).is_err(), "{text}");
        }
    }

    #[test]
    fn a_line_names_the_awaited_services() {
        let line: SagaLine = serde_json::from_value(serde_json::json!({
            "saga_id": "019a5c3f-4e91-7b6a-8c23-d7501fa9e605",
            "flow": "pay",
            "state": "stalled",
            "began_at": "2026-11-20T10:02:11.700318Z",
            "last_at": "2026-11-20T10:02:11.709Z",
            "last_fact": "point.debited",
            "facts": 2,
            "awaited": ["reservation"],
        }))
        .expect("a line");
        assert_eq!(
            anstream::adapter::strip_str(&in_one_line(&line)).to_string(),
            "2026-11-20T10:02:11Z  019a5c3f-4e91-7b6a-8c23-d7501fa9e605  pay        \
             stalled       2 events      9 ms  point.debited  awaits reservation"
        );
    }
}
