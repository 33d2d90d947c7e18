//! A saga as a picture: a graph of its events, and the time of each.

use std::fmt::Write;

use anstyle::{AnsiColor, Style};
use events::{
    Timestamp,
    audit::{Saga, SagaState, Step, ToCome},
};
use uuid::Uuid;

const GOOD: Style = AnsiColor::Green.on_default();
const TURNED: Style = AnsiColor::Yellow.on_default();
const BAD: Style = AnsiColor::Red.on_default();
const COMING: Style = AnsiColor::Cyan.on_default();
const DIM: Style = Style::new().dimmed();
const UNDONE: Style = Style::new().dimmed().strikethrough();
const BOLD: Style = Style::new().bold();
/// The time axis is left out where it would be shorter than this.
const AXIS_MIN: usize = 12;
/// A longer axis shows nothing more.
const AXIS_MAX: usize = 60;

/// Draws a saga on `width` columns, in colours; where the output has none, the caller strips
/// them (`anstream` does).
///
/// An event stands below its cause. Its bar begins at the cause and ends at the event. `◆` was
/// begun by a command or by a timer, `↩` undoes another event, `⊘` was undone.
pub fn draw(saga: &Saga, width: usize, now: Timestamp) -> String {
    let rows = rows(saga);
    let axis = Axis::of(saga, &rows, width, now);
    let mut drawn = head(saga, now);
    for row in &rows {
        row.draw(&axis, &mut drawn);
    }
    for coming in &saga.to_come {
        drawn.push_str(&awaited(coming, now));
    }
    let mut traces: Vec<_> = saga.steps.iter().filter_map(|step| step.trace_id.as_ref()).collect();
    let mut seen = std::collections::BTreeSet::new();
    traces.retain(|trace| seen.insert(*trace));
    for trace in traces {
        let _ = writeln!(drawn, "{DIM}trace {trace}{DIM:#}");
    }
    drawn
}

/// The colour of a state.
pub(super) fn style_of(state: SagaState) -> Style {
    match state {
        SagaState::Running => COMING,
        SagaState::Stalled | SagaState::Failed => BAD,
        SagaState::Compensated => TURNED,
        SagaState::Completed => GOOD,
    }
}

fn head(saga: &Saga, now: Timestamp) -> String {
    let line = &saga.line;
    let state = style_of(line.state);
    let end = if saga.to_come.is_empty() { line.last_at } else { now };
    let took = span(end.unix_millis() - line.began_at.unix_millis());
    let mut head = format!(
        "{BOLD}{}{BOLD:#} {} {state}{}{state:#} in {took}\n",
        line.flow,
        line.saga_id,
        line.state.as_str()
    );
    let user = line.user_id.map(|id| format!("fan {id}"));
    let schedule = line.schedule_id.map(|id| format!("schedule {id}"));
    let about: Vec<_> = user.into_iter().chain(schedule).collect();
    let _ = writeln!(head, "{DIM}began {}{DIM:#}", line.began_at);
    if !about.is_empty() {
        let _ = writeln!(head, "{DIM}{}{DIM:#}", about.join("  "));
    }
    head.push('\n');
    head
}

fn awaited(coming: &ToCome, now: Timestamp) -> String {
    let events = coming.events.join(" | ");
    let millis = coming.due_at.unix_millis() - now.unix_millis();
    let (style, due) = if coming.is_overdue {
        (BAD, format!("overdue by {}", span(-millis)))
    } else {
        (COMING, format!("due in {}", span(millis)))
    };
    format!(
        "{style}◌ still to come: {events} by {}, {due}{style:#} {DIM}(after {}){DIM:#}\n",
        coming.service, coming.after
    )
}

/// A time as people write it: `4 ms`, `3.2 s`, `5 min`, `2.5 h`, `3 d`.
pub fn span(millis: i64) -> String {
    let tenths = |unit: i64| millis as f64 / unit as f64;
    match millis.abs() {
        0..1_000 => format!("{millis} ms"),
        1_000..60_000 => format!("{:.1} s", tenths(1_000)),
        60_000..3_600_000 => format!("{:.1} min", tenths(60_000)),
        3_600_000..172_800_000 => format!("{:.1} h", tenths(3_600_000)),
        _ => format!("{:.1} d", tenths(86_400_000)),
    }
}

/// One event with its place in the graph.
struct Row<'a> {
    graph: String,
    label: String,
    since: String,
    step: &'a Step,
}

/// The events in their order, each with the lines that lead to it.
///
/// An event that is the only one to follow from another stands right below it. Where several
/// follow, each is a branch.
fn rows(saga: &Saga) -> Vec<Row<'_>> {
    let parents: Vec<_> = saga.steps.iter().map(|step| position(saga, step.cause_id?)).collect();
    let is_last = |at: usize| !parents[at + 1..].contains(&parents[at]);
    let is_only = |at: usize| parents.iter().filter(|parent| **parent == parents[at]).count() == 1;
    // What is drawn to the left of the events that follow from each event.
    let mut margins: Vec<String> = Vec::new();
    let mut rows = Vec::new();
    for (at, step) in saga.steps.iter().enumerate() {
        let margin =
            parents[at].and_then(|parent| margins.get(parent)).cloned().unwrap_or_default();
        let branch = match parents[at] {
            Some(_) if !is_only(at) => Some(is_last(at)),
            _ => None,
        };
        let (line, below) = match branch {
            None => ("", ""),
            Some(false) => ("├─", "│ "),
            Some(true) => ("╰─", "  "),
        };
        rows.push(Row {
            graph: format!("{margin}{line}{}", mark(step, parents[at].is_none())),
            label: label(step),
            since: since(step, parents[at].is_none()),
            step,
        });
        margins.push(format!("{margin}{below}"));
    }
    rows
}

/// The row of the cause; one that is not above the event counts as unknown.
fn position(saga: &Saga, cause: Uuid) -> Option<usize> {
    saga.steps.iter().position(|step| step.event_id.0 == cause)
}

fn mark(step: &Step, is_beginning: bool) -> char {
    match step {
        step if step.undone_by.is_some() => '⊘',
        step if step.undoes.is_some() => '↩',
        _ if is_beginning => '◆',
        _ => '●',
    }
}

/// The event, with its reason where it has one.
fn label(step: &Step) -> String {
    match step.data.get("reason").and_then(|reason| reason.as_str()) {
        // A schedule's reason is a sentence written by the organizer.
        Some(reason) if !reason.contains(' ') => format!("{}{{{reason}}}", step.event),
        _ => step.event.clone(),
    }
}

fn since(step: &Step, is_beginning: bool) -> String {
    if is_beginning && step.after_ms == 0 {
        return String::new();
    }
    let sign = if step.after_ms < 0 { "" } else { "+" };
    format!("{sign}{}", span(step.after_ms))
}

fn style(step: &Step) -> Style {
    let word = step.event.split_once('.').map_or("", |(_, word)| word);
    match word {
        _ if step.undone_by.is_some() => UNDONE,
        _ if step.undoes.is_some() => TURNED,
        "failed" | "saga_stalled" | "violation" => BAD,
        word if word.ends_with("_refused") => BAD,
        "expired" | "cancelled" | "schedule_cancelled" | "withdrawn" | "returned" => TURNED,
        _ => GOOD,
    }
}

/// The widths of the columns, and the time span of the bars.
struct Axis {
    label: usize,
    service: usize,
    since: usize,
    tries: usize,
    bar: usize,
    from: i64,
    to: i64,
}

impl Axis {
    fn of(saga: &Saga, rows: &[Row<'_>], width: usize, now: Timestamp) -> Self {
        let widest =
            |length: &dyn Fn(&Row<'_>) -> usize| rows.iter().map(length).max().unwrap_or(0);
        let label = widest(&|row| row.graph.chars().count() + 1 + row.label.chars().count());
        let mut service = widest(&|row| row.step.service.chars().count()) + 2;
        let since = widest(&|row| row.since.chars().count()) + 2;
        let tries = widest(&|row| tries(row.step).chars().count());
        let times = || saga.steps.iter().map(|step| step.at.unix_millis());
        let last = times().max().unwrap_or(0);
        let now = if saga.to_come.is_empty() { last } else { now.unix_millis().max(last) };
        let left = |service: usize| width.saturating_sub(label + service + since + tries + 3);
        if left(service) < AXIS_MIN {
            service = 0;
        }
        let bar = if left(service) < AXIS_MIN { 0 } else { left(service).min(AXIS_MAX) };
        Self { label, service, since, tries, bar, from: times().min().unwrap_or(0), to: now }
    }

    fn column(&self, millis: i64) -> usize {
        let all = (self.to - self.from).max(1) as f64;
        let part = (millis - self.from).max(0) as f64 / all;
        ((part * self.bar as f64) as usize).min(self.bar - 1)
    }

    /// From the cause to the event.
    fn bar(&self, step: &Step) -> String {
        if self.bar == 0 {
            return String::new();
        }
        let end = step.at.unix_millis();
        let (one, two) = (self.column(end - step.after_ms), self.column(end));
        let (from, to) = (one.min(two), one.max(two));
        let bar = if step.after_ms == 0 { "╹".to_owned() } else { "━".repeat(to - from + 1) };
        format!("  {}{bar}", " ".repeat(from))
    }
}

fn tries(step: &Step) -> String {
    if step.deliveries > 1 { format!("  ×{}", step.deliveries) } else { String::new() }
}

impl Row<'_> {
    fn draw(&self, axis: &Axis, drawn: &mut String) {
        let style = style(self.step);
        let used = self.graph.chars().count() + 1 + self.label.chars().count();
        let pad = " ".repeat(axis.label.saturating_sub(used));
        let mut line = format!("{} {style}{}{style:#}{pad}", self.graph, self.label);
        if axis.service > 0 {
            let service = axis.service - 2;
            let _ = write!(line, "  {DIM}{:<service$}{DIM:#}", self.step.service);
        }
        let (since, most) = (axis.since, axis.tries);
        let _ = write!(line, "{:>since$}{:<most$}", self.since, tries(self.step));
        let bar = axis.bar(self.step);
        if bar.is_empty() {
            let _ = writeln!(drawn, "{}", line.trim_end());
        } else {
            let _ = writeln!(drawn, "{line}{style}{bar}{style:#}");
        }
    }
}

#[cfg(test)]
mod tests;
