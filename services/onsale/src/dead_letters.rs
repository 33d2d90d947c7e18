//! `onsale dead-letters`: the operator lists, shows, retries and discards the events that
//! services could not handle.

use std::collections::BTreeMap;

use anstream::{eprintln, println};
use anstyle::{AnsiColor, Style};
use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use events::{
    Problem, Timestamp,
    dead_letter::{
        DeadLetter, DeadLetterDetails, DeadLetterId, DeadLetterState, DeadLetters, DiscardReason,
        Retried, RetriedAll, RetryAll,
    },
};

use crate::operator::{Operator, Where};

const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();
const WAITS: Style = AnsiColor::Yellow.on_default();
const DIM: Style = Style::new().dimmed();
/// Characters of a cause in a table.
const CAUSE_CHARS: usize = 72;
/// Dead letters of one page.
const PAGE: usize = 100;
/// Requests of `retry-all` at most; each retries as many as one request can.
const ROUNDS_MAX: usize = 100;

/// The commands of `onsale dead-letters`.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Lists dead letters and the events that wait behind them, newest first
    Ls(List),
    /// Shows one with its event and everything that was parked for its order key
    Show {
        /// Its name, like `payment-17`
        letter: DeadLetterId,
        /// Which gateway
        #[command(flatten)]
        at: Where,
    },
    /// Retries one, and the events parked for its order key; fails when one fails again
    Retry {
        /// Its name, like `payment-17`
        letter: DeadLetterId,
        /// Which gateway
        #[command(flatten)]
        at: Where,
    },
    /// Retries all with a cause, and the events parked for their order keys; fails when one
    /// fails again
    RetryAll(All),
    /// Discards one; the events that wait behind it go on
    Discard {
        /// Its name, like `payment-17`
        letter: DeadLetterId,
        /// Why; the reason is stored
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Also when the service decides by the event, and what waits for it stays open
        #[arg(long)]
        leave_open: bool,
        /// Which gateway
        #[command(flatten)]
        at: Where,
    },
}

impl Command {
    /// Parses the words of a command line, the program's name first.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn read(words: impl IntoIterator<Item = String>) -> Result<Self> {
        #[derive(Parser)]
        struct Line {
            #[command(subcommand)]
            command: Command,
        }
        Ok(Line::try_parse_from(words)?.command)
    }
}

/// Which dead letters to list.
#[derive(Debug, Clone, Args)]
pub struct List {
    /// Only of this service
    #[arg(long)]
    service: Option<String>,
    /// Only those whose cause contains this
    #[arg(long, value_name = "TEXT")]
    cause: Option<String>,
    /// Also those that have ended, and events that came too early and are retried
    #[arg(long)]
    all: bool,
    /// Prints JSON, one object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: Where,
}

/// Which dead letters to retry.
#[derive(Debug, Clone, Args)]
pub struct All {
    /// Only of this service
    #[arg(long)]
    service: Option<String>,
    /// A part of the cause
    #[arg(long, value_name = "TEXT")]
    cause: String,
    #[command(flatten)]
    at: Where,
}

/// Runs `onsale dead-letters`.
///
/// # Errors
/// When the gateway refuses, or an event fails again.
pub async fn run(command: Command) -> Result<()> {
    match command {
        Command::Ls(list) => ls(&list).await,
        Command::Show { letter, at } => {
            let operator = Operator::log_in(&at).await?;
            let opened = operator.get(format!("/v1/dead-letters/{letter}")).send().await?.json()?;
            show(&opened);
            Ok(())
        }
        Command::Retry { letter, at } => {
            let operator = Operator::log_in(&at).await?;
            let request = operator.post(format!("/v1/dead-letters/{letter}/retry"));
            let redriven: Retried = request.send().await?.json()?;
            report(&redriven);
            failed(redriven.stopped.iter().count())
        }
        Command::RetryAll(all) => retry_all(all).await,
        Command::Discard { letter, reason, leave_open, at } => {
            let operator = Operator::log_in(&at).await?;
            discard(&operator, &letter, DiscardReason { reason, leave_open }).await
        }
    }
}

async fn discard(operator: &Operator, letter: &DeadLetterId, how: DiscardReason) -> Result<()> {
    let request = operator.post(format!("/v1/dead-letters/{letter}/discard"));
    let answer = request.json(&how).send().await?;
    if answer.code().as_deref() == Some("saga_open") {
        let problem: Problem = serde_json::from_slice(&answer.body)?;
        let mut why = problem.detail.clone();
        if let Some(saga) = problem.extra.get("saga") {
            let text = |name: &str| saga[name].as_str().unwrap_or("?").to_owned();
            why.push_str(&format!(
                "\nits saga {} ({}) is {}",
                text("saga_id"),
                text("flow"),
                text("state")
            ));
        }
        bail!("{}\nuse --leave-open to discard it all the same", printable(&why));
    }
    let redriven: Retried = answer.json()?;
    println!("dead letter {letter} is discarded");
    if let Some(saga_id) = redriven.left_open.as_ref().and_then(|open| open.saga_id) {
        println!("{WAITS}its saga is left open{WAITS:#}: onsale saga show {saga_id}");
    }
    report(&redriven);
    failed(redriven.stopped.iter().count())
}

async fn ls(list: &List) -> Result<()> {
    let operator = Operator::log_in(&list.at).await?;
    let (dead_letters, unasked) = all_of(&operator, list).await?;
    unasked.iter().for_each(warn);
    if list.json {
        for dead_letter in &dead_letters {
            println!("{}", serde_json::to_string(dead_letter)?);
        }
    } else if dead_letters.is_empty() {
        let of = if unasked.is_empty() { "" } else { " in the services that answered" };
        println!("{GOOD}no dead letters{of}{GOOD:#}");
    } else {
        println!("{}", table(&dead_letters, None));
        let count = |state| dead_letters.iter().filter(|one| one.state == state).count();
        let (parked, waiting) = (count(DeadLetterState::Parked), count(DeadLetterState::Waiting));
        let early = match count(DeadLetterState::Early) {
            0 => String::new(),
            early => format!(", {early} early"),
        };
        let letter = &dead_letters[0].letter;
        println!(
            "{parked} parked, {waiting} waiting{early}; `onsale dead-letters show {letter}` shows one"
        );
    }
    Ok(())
}

/// The dead letters, and the services that could not be asked for theirs, with the reason.
async fn all_of(
    operator: &Operator,
    list: &List,
) -> Result<(Vec<DeadLetter>, BTreeMap<String, String>)> {
    let (mut dead_letters, mut unasked) = (Vec::new(), BTreeMap::new());
    let mut before = None;
    loop {
        let mut path = format!("/v1/dead-letters?limit={PAGE}&all={}", list.all);
        let named = [("service", &list.service), ("cause", &list.cause), ("before", &before)];
        for (name, value) in named {
            if let Some(value) = value {
                path.push_str(&format!("&{name}={}", escaped(value)));
            }
        }
        let page: DeadLetters = operator.get(path).send().await?.json()?;
        dead_letters.extend(page.items);
        unasked.extend(page.unasked.into_iter().map(|one| (one.service, one.why)));
        match page.next_before {
            Some(next) => before = Some(next),
            None => return Ok((dead_letters, unasked)),
        }
    }
}

async fn retry_all(all: All) -> Result<()> {
    let operator = Operator::log_in(&all.at).await?;
    let what = RetryAll { service: all.service, cause: all.cause };
    let (mut retried, mut resolved, mut bad) = (0, 0, 0);
    let mut silent = BTreeMap::new();
    for _ in 0..ROUNDS_MAX {
        let request = operator.post("/v1/dead-letters/retry").json(&what);
        let done: RetriedAll = request.send().await?.json()?;
        done.lines.iter().for_each(report);
        for unasked in &done.unasked {
            let (letter, why) = (&unasked.letter, &unasked.why);
            println!("{BAD}dead letter {letter} was not retried{BAD:#}: {why}");
        }
        silent = done.unasked_services.into_iter().map(|one| (one.service, one.why)).collect();
        retried += done.lines.len();
        resolved += done.lines.iter().map(|line| line.resolved.len()).sum::<usize>();
        let failed = done.lines.iter().filter(|line| line.stopped.is_some()).count();
        bad += failed + done.unasked.len();
        // Those that fail again still have the cause; further rounds would retry them for ever.
        if done.left == 0 || failed > 0 || !done.unasked.is_empty() {
            if done.left > 0 {
                println!("{} more dead letters with this cause were not retried", done.left);
            }
            break;
        }
    }
    silent.iter().for_each(warn);
    if retried == 0 && bad == 0 && silent.is_empty() {
        bail!("no parked letter has this cause");
    }
    println!("{retried} order keys retried, {resolved} events handled");
    failed(bad)?;
    if silent.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = silent.keys().map(String::as_str).collect();
    bail!("not asked for their letters: {}", names.join(", "))
}

/// Reports a service that could not be asked for its dead letters.
fn warn((service, why): (&String, &String)) {
    eprintln!("{WAITS}{service} could not be asked for its dead letters{WAITS:#}: {why}");
}

fn failed(count: usize) -> Result<()> {
    match count {
        0 => Ok(()),
        1 => bail!("1 event failed again"),
        count => bail!("{count} events failed again"),
    }
}

/// Reports what became of the events parked for one order key.
fn report(redriven: &Retried) {
    let Retried { service, key, .. } = redriven;
    for letter in &redriven.resolved {
        println!("{GOOD}event {letter} is handled{GOOD:#} by {service} {DIM}({key}){DIM:#}");
    }
    if let Some(stopped) = &redriven.stopped {
        println!(
            "{BAD}event {} failed again{BAD:#} in {service} after {} attempts: {}",
            stopped.letter, stopped.attempts, stopped.cause
        );
    }
    match (redriven.left, &redriven.stopped) {
        (0, _) => {}
        (left, Some(_)) => println!("{WAITS}{left} events stay parked{WAITS:#} for {key}"),
        (left, None) => println!("{WAITS}{left} events go on by themselves{WAITS:#} ({key})"),
    }
}

fn show(opened: &DeadLetterDetails) {
    let dead_letter = &opened.letter;
    let style = style_of(dead_letter.state);
    let state = word(dead_letter.state);
    println!("dead letter {}  {style}{state}{style:#}", dead_letter.letter);
    let id = |id: Option<String>| id.unwrap_or_else(|| "-".into());
    let behind = dead_letter.behind.as_ref().map(|behind| format!("dead letter {behind}"));
    let rows = [
        ("service", dead_letter.service.clone()),
        ("event", dead_letter.event.clone()),
        ("order key", dead_letter.key.clone()),
        ("behind", id(behind)),
        ("cause", dead_letter.cause.clone()),
        ("attempts", dead_letter.attempts.to_string()),
        ("event id", id(dead_letter.event_id.map(|event| event.to_string()))),
        ("saga", id(dead_letter.saga_id.map(|saga| saga.to_string()))),
        ("trace", id(dead_letter.trace_id.clone())),
        ("emitted at", id(dead_letter.told_at.map(|at| at.to_string()))),
        ("parked at", id(dead_letter.kept_at.map(|at| at.to_string()))),
        ("from", format!("{} {}", dead_letter.stream, dead_letter.sequence)),
        ("subject", dead_letter.subject.clone()),
    ];
    for (name, value) in rows {
        println!("  {DIM}{name:<10}{DIM:#}  {}", printable(&value));
    }
    for change in &dead_letter.history {
        let at = id(change.at.map(|at| at.to_string()));
        let by = change.by.map_or("by itself".into(), |by| format!("by {by}"));
        let why = change.why.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
        println!("  {DIM}{at}{DIM:#}  {} {by}{}", word(change.became), printable(&why));
    }
    println!("\nevent");
    pretty(&opened.payload).lines().for_each(|line| println!("  {line}"));
    println!("\neverything parked for {} in {}", dead_letter.key, dead_letter.service);
    println!("{}", table(&opened.deliveries, Some(&dead_letter.letter)));
}

/// An event with indentation; what is not JSON is shown as it came.
fn pretty(event: &str) -> String {
    let pretty = serde_json::from_str::<serde_json::Value>(event)
        .and_then(|value| serde_json::to_string_pretty(&value));
    printable(&pretty.unwrap_or_else(|_| event.to_owned()))
}

fn table(dead_letters: &[DeadLetter], marked: Option<&DeadLetterId>) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    let header =
        ["dead letter", "state", "service", "event", "order key", "attempts", "parked at", "cause"];
    table.set_header(header);
    for one in dead_letters {
        let mark = if marked == Some(&one.letter) { "▸ " } else { "" };
        let state = match &one.behind {
            Some(behind) => format!("{} behind {behind}", word(one.state)),
            None => word(one.state).to_owned(),
        };
        let number = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        table.add_row(vec![
            Cell::new(format!("{mark}{}", one.letter)),
            Cell::new(state),
            Cell::new(&one.service),
            Cell::new(&one.event),
            Cell::new(&one.key),
            number(one.attempts.to_string()),
            Cell::new(one.kept_at.map(whole_seconds).unwrap_or_default()),
            Cell::new(cut(&printable(&one.cause))),
        ]);
    }
    table
}

fn style_of(state: DeadLetterState) -> Style {
    match state {
        DeadLetterState::Parked => BAD,
        DeadLetterState::Waiting | DeadLetterState::Early => WAITS,
        DeadLetterState::Resolved => GOOD,
        DeadLetterState::Discarded => DIM,
    }
}

fn word(state: DeadLetterState) -> &'static str {
    match state {
        DeadLetterState::Parked => "parked",
        DeadLetterState::Waiting => "waiting",
        DeadLetterState::Early => "early",
        DeadLetterState::Resolved => "resolved",
        DeadLetterState::Discarded => "discarded",
    }
}

/// `2027-03-10T10:00:04Z`, without a fraction.
fn whole_seconds(at: Timestamp) -> String {
    Timestamp::from_unix_millis(at.unix_millis() / 1_000 * 1_000)
        .map_or_else(String::new, |at| at.to_string())
}

/// A text without control characters, which could change the terminal.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { '·' } else { c }).collect()
}

fn cut(text: &str) -> String {
    match text.char_indices().nth(CAUSE_CHARS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

/// A value of a query.
fn escaped(text: &str) -> String {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-_.~".contains(&b);
    let escape = |b: u8| if plain(b) { char::from(b).to_string() } else { format!("%{b:02X}") };
    text.bytes().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_escaped() {
        assert_eq!(escaped("missing field `amount`"), "missing%20field%20%60amount%60");
    }

    #[test]
    fn an_event_is_shown_as_json_and_anything_else_as_it_came() {
        assert_eq!(pretty(r#"{"data":{"a":1}}"#), "{\n  \"data\": {\n    \"a\": 1\n  }\n}");
        assert_eq!(pretty("{\"a\": \u{1b}[2J"), "{\"a\": ·[2J");
    }

    #[test]
    fn a_dead_letter_is_named_by_its_service_and_number() {
        let words = |letter: &str| ["onsale", "retry", letter].map(str::to_owned);
        let command = Command::read(words("payment-17")).unwrap();
        assert!(matches!(command, Command::Retry { letter, .. } if letter.number() == 17));
        let error = Command::read(words("17")).unwrap_err().to_string();
        assert!(error.contains("payment-17"), "{error}");
    }

    #[test]
    fn a_message_cannot_change_the_terminal() {
        assert_eq!(printable("a\u{1b}[2J\nb"), "a·[2J\nb");
    }

    #[test]
    fn a_long_cause_is_cut_between_characters() {
        let long = "ä".repeat(CAUSE_CHARS + 1);
        assert_eq!(cut(&long).chars().count(), CAUSE_CHARS + 1);
        assert!(cut(&long).ends_with('…'));
        assert_eq!(cut("short"), "short");
    }
}
