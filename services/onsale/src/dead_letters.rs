//! `onsale dead-letters`: what services could not take in, seen and decided by the operator.

use std::collections::BTreeMap;

use anstream::{eprintln, println};
use anstyle::{AnsiColor, Style};
use anyhow::{Result, bail};
use clap::{Args, Parser, Subcommand};
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use events::{
    Problem, Timestamp,
    dead_letter::{
        DeadLetter, DeadLetterId, DeadLetterState, DeadLetters, DiscardReason, OpenedDeadLetter,
        Redriven, RetriedAll, RetryAll,
    },
};

use crate::operator::{Operator, Where};

const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default().bold();
const WAITS: Style = AnsiColor::Yellow.on_default();
const DIM: Style = Style::new().dimmed();
/// Characters of a cause in a table.
const CAUSE_CHARS: usize = 72;
/// Letters asked for at once.
const PAGE: usize = 100;
/// Rounds of `retry-all` at most; each takes what one request can do.
const ROUNDS_MAX: usize = 100;

/// What is done with dead letters.
#[derive(Debug, Clone, Subcommand)]
pub enum Command {
    /// Lists those that stand in a line, newest first
    Ls(List),
    /// Shows one with its event and every other that was parked for its key
    Show {
        /// Its name, like `payment-17`
        letter: DeadLetterId,
        /// Which gateway
        #[command(flatten)]
        at: Where,
    },
    /// Tries one again, and the line it stands in; fails when one fails again
    Retry {
        /// Its name, like `payment-17`
        letter: DeadLetterId,
        /// Which gateway
        #[command(flatten)]
        at: Where,
    },
    /// Tries all of a cause again, and the lines they stand in; fails when one fails again
    RetryAll(All),
    /// Gives one up; those that wait behind it go on
    Discard {
        /// Its name, like `payment-17`
        letter: DeadLetterId,
        /// Why; it is kept
        #[arg(long, value_name = "TEXT")]
        reason: String,
        /// Also when the service decides by it, and what waits for it stays open
        #[arg(long)]
        leave_open: bool,
        /// Which gateway
        #[command(flatten)]
        at: Where,
    },
}

impl Command {
    /// Reads the words of a command line, the program's name first.
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

/// Which letters to list.
#[derive(Debug, Clone, Args)]
pub struct List {
    /// Only of this service
    #[arg(long)]
    service: Option<String>,
    /// Only those whose cause contains this
    #[arg(long, value_name = "TEXT")]
    cause: Option<String>,
    /// Those that have ended as well, and those that came too early and are tried again
    #[arg(long)]
    all: bool,
    /// As JSON, one letter a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: Where,
}

/// Which letters to try again.
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

/// Does it.
///
/// # Errors
/// When the gateway refuses, or a letter fails again.
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
            let ask = operator.post(format!("/v1/dead-letters/{letter}/retry"));
            let line: Redriven = ask.send().await?.json()?;
            say(&line);
            failed(line.stopped.iter().count())
        }
        Command::RetryAll(all) => retry_all(all).await,
        Command::Discard { letter, reason, leave_open, at } => {
            let operator = Operator::log_in(&at).await?;
            discard(&operator, &letter, DiscardReason { reason, leave_open }).await
        }
    }
}

async fn discard(operator: &Operator, letter: &DeadLetterId, how: DiscardReason) -> Result<()> {
    let ask = operator.post(format!("/v1/dead-letters/{letter}/discard"));
    let answer = ask.json(&how).send().await?;
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
        bail!("{}\nwith --leave-open it is discarded all the same", printable(&why));
    }
    let line: Redriven = answer.json()?;
    println!("letter {letter} is discarded");
    if let Some(saga_id) = line.left_open.as_ref().and_then(|open| open.saga_id) {
        println!("{WAITS}its saga is left open{WAITS:#}: onsale saga show {saga_id}");
    }
    say(&line);
    failed(line.stopped.iter().count())
}

async fn ls(list: &List) -> Result<()> {
    let operator = Operator::log_in(&list.at).await?;
    let (letters, unasked) = all_of(&operator, list).await?;
    unasked.iter().for_each(warn);
    if list.json {
        for letter in &letters {
            println!("{}", serde_json::to_string(letter)?);
        }
    } else if letters.is_empty() {
        let of = if unasked.is_empty() { "" } else { " of those that answered" };
        println!("{GOOD}no dead letters{of}{GOOD:#}");
    } else {
        println!("{}", table(&letters, None));
        let count = |state| letters.iter().filter(|one| one.state == state).count();
        let (parked, waiting) = (count(DeadLetterState::Parked), count(DeadLetterState::Waiting));
        let early = match count(DeadLetterState::Early) {
            0 => String::new(),
            early => format!(", {early} early"),
        };
        let letter = &letters[0].letter;
        println!(
            "{parked} parked, {waiting} waiting{early}; `onsale dead-letters show {letter}` opens one"
        );
    }
    Ok(())
}

/// The letters, and the services that did not say which they have.
async fn all_of(
    operator: &Operator,
    list: &List,
) -> Result<(Vec<DeadLetter>, BTreeMap<String, String>)> {
    let (mut letters, mut unasked) = (Vec::new(), BTreeMap::new());
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
        letters.extend(page.items);
        unasked.extend(page.unasked.into_iter().map(|one| (one.service, one.why)));
        match page.next_before {
            Some(next) => before = Some(next),
            None => return Ok((letters, unasked)),
        }
    }
}

async fn retry_all(all: All) -> Result<()> {
    let operator = Operator::log_in(&all.at).await?;
    let what = RetryAll { service: all.service, cause: all.cause };
    let (mut tried, mut resolved, mut bad) = (0, 0, 0);
    let mut silent = BTreeMap::new();
    for _ in 0..ROUNDS_MAX {
        let ask = operator.post("/v1/dead-letters/retry").json(&what);
        let done: RetriedAll = ask.send().await?.json()?;
        done.lines.iter().for_each(say);
        for unasked in &done.unasked {
            println!("{BAD}letter {} was not tried{BAD:#}: {}", unasked.letter, unasked.why);
        }
        silent = done.unasked_services.into_iter().map(|one| (one.service, one.why)).collect();
        tried += done.lines.len();
        resolved += done.lines.iter().map(|line| line.resolved.len()).sum::<usize>();
        let failed = done.lines.iter().filter(|line| line.stopped.is_some()).count();
        bad += failed + done.unasked.len();
        // Those that fail again have the cause still; another round would try them for ever.
        if done.left == 0 || failed > 0 || !done.unasked.is_empty() {
            if done.left > 0 {
                println!("{} more letters of this cause were not tried", done.left);
            }
            break;
        }
    }
    silent.iter().for_each(warn);
    if tried == 0 && bad == 0 && silent.is_empty() {
        bail!("no parked letter has this cause");
    }
    println!("{tried} lines tried, {resolved} letters taken in");
    failed(bad)?;
    if silent.is_empty() {
        return Ok(());
    }
    let names: Vec<&str> = silent.keys().map(String::as_str).collect();
    bail!("not asked for their letters: {}", names.join(", "))
}

/// Says that a service's letters are missing.
fn warn((service, why): (&String, &String)) {
    eprintln!("{WAITS}{service} could not be asked for its letters{WAITS:#}: {why}");
}

fn failed(count: usize) -> Result<()> {
    match count {
        0 => Ok(()),
        1 => bail!("1 letter failed again"),
        count => bail!("{count} letters failed again"),
    }
}

/// Says what became of a line.
fn say(line: &Redriven) {
    let Redriven { service, key, .. } = line;
    for letter in &line.resolved {
        println!("{GOOD}letter {letter} is taken in{GOOD:#} by {service} {DIM}({key}){DIM:#}");
    }
    if let Some(stopped) = &line.stopped {
        println!(
            "{BAD}letter {} failed again{BAD:#} in {service} after {} tries: {}",
            stopped.letter, stopped.attempts, stopped.cause
        );
    }
    match (line.left, &line.stopped) {
        (0, _) => {}
        (left, Some(_)) => println!("{WAITS}{left} letters stand in the line{WAITS:#} of {key}"),
        (left, None) => println!("{WAITS}{left} letters go on by themselves{WAITS:#} ({key})"),
    }
}

fn show(opened: &OpenedDeadLetter) {
    let letter = &opened.letter;
    let style = style_of(letter.state);
    println!("letter {}  {style}{}{style:#}", letter.letter, word(letter.state));
    let id = |id: Option<String>| id.unwrap_or_else(|| "-".into());
    let behind = letter.behind.as_ref().map(|behind| format!("letter {behind}"));
    let rows = [
        ("service", letter.service.clone()),
        ("fact", letter.event.clone()),
        ("key", letter.key.clone()),
        ("behind", id(behind)),
        ("cause", letter.cause.clone()),
        ("attempts", letter.attempts.to_string()),
        ("event", id(letter.event_id.map(|event| event.to_string()))),
        ("saga", id(letter.saga_id.map(|saga| saga.to_string()))),
        ("trace", id(letter.trace_id.clone())),
        ("told at", id(letter.told_at.map(|at| at.to_string()))),
        ("kept at", id(letter.kept_at.map(|at| at.to_string()))),
        ("from", format!("{} {}", letter.stream, letter.sequence)),
        ("subject", letter.subject.clone()),
    ];
    for (name, value) in rows {
        println!("  {DIM}{name:<8}{DIM:#}  {}", printable(&value));
    }
    for event in &letter.history {
        let at = id(event.at.map(|at| at.to_string()));
        let by = event.by.map_or("by itself".into(), |by| format!("by {by}"));
        let why = event.why.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
        println!("  {DIM}{at}{DIM:#}  {} {by}{}", word(event.became), printable(&why));
    }
    println!("\nevent");
    pretty(&opened.payload).lines().for_each(|line| println!("  {line}"));
    println!("\neverything parked for {} in {}", letter.key, letter.service);
    println!("{}", table(&opened.deliveries, Some(&letter.letter)));
}

/// An event as one reads it; what is no JSON is shown as it came.
fn pretty(event: &str) -> String {
    let pretty = serde_json::from_str::<serde_json::Value>(event)
        .and_then(|value| serde_json::to_string_pretty(&value));
    printable(&pretty.unwrap_or_else(|_| event.to_owned()))
}

fn table(letters: &[DeadLetter], marked: Option<&DeadLetterId>) -> Table {
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
    let heads = ["letter", "state", "service", "fact", "key", "tries", "kept at", "cause"];
    table.set_header(heads);
    for letter in letters {
        let mark = if marked == Some(&letter.letter) { "▸ " } else { "" };
        let state = match &letter.behind {
            Some(behind) => format!("{} behind {behind}", word(letter.state)),
            None => word(letter.state).to_owned(),
        };
        let number = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
        table.add_row(vec![
            Cell::new(format!("{mark}{}", letter.letter)),
            Cell::new(state),
            Cell::new(&letter.service),
            Cell::new(&letter.event),
            Cell::new(&letter.key),
            number(letter.attempts.to_string()),
            Cell::new(letter.kept_at.map(whole_seconds).unwrap_or_default()),
            Cell::new(cut(&printable(&letter.cause))),
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

/// A text whose control characters cannot change the terminal.
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
    fn a_letter_is_named_by_its_service_and_number() {
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
