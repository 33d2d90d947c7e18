//! The result of a verification, and how it is printed.

use anstream::println;
use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets::UTF8_FULL_CONDENSED};
use events::{
    EventId, Timestamp,
    audit::{Rule, Violation},
};
use serde::Serialize;

/// How often a rule was checked, and how often it was broken.
#[derive(Debug, Clone, Serialize)]
pub struct Line {
    /// The rule.
    pub rule: Rule,
    /// Events, seats or payments that it was checked on.
    pub checked: u64,
    /// How often it was broken.
    pub violations: usize,
}

/// A violation, with the names of its events.
#[derive(Debug, Clone, Serialize)]
pub struct Found {
    /// The violation.
    #[serde(flatten)]
    pub violation: Violation,
    /// The offending events by name.
    pub events: Vec<(EventId, &'static str)>,
}

/// How many things were compared between the events and the databases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Compared {
    /// Payments.
    pub payments: usize,
    /// Reservations.
    pub reservations: usize,
    /// Seats that were ever held.
    pub seats: usize,
    /// Wallets that points ever moved in.
    pub wallets: usize,
    /// Messages that an outbox marks as published.
    pub messages: usize,
}

/// Something on which the events and a database disagree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// What, for example `payment 018f…`.
    pub what: String,
    /// What the events say; `None` for nothing.
    pub events: Option<String>,
    /// What the database says; `None` for nothing.
    pub database: Option<String>,
}

/// The result of a verification.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Events that were read.
    pub events: usize,
    /// Events that could not be read.
    pub unread: u64,
    /// Since when every event is stored; `None` when that is from the beginning.
    pub since: Option<Timestamp>,
    /// Rule by rule.
    pub rules: Vec<Line>,
    /// What is broken.
    pub violations: Vec<Found>,
    /// `None` when events were still in flight.
    pub compared: Option<Compared>,
    /// Where events and databases disagree.
    pub differences: Vec<Difference>,
}

impl Report {
    /// Whether nothing is wrong, and everything was compared.
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty() && self.differences.is_empty() && self.compared.is_some()
    }

    /// Rule by rule, as a table.
    pub fn table(&self) -> Table {
        let mut table = Table::new();
        table.load_style(UTF8_FULL_CONDENSED).set_content_arrangement(ContentArrangement::Dynamic);
        table.set_header(["rule", "checked", "violations"]);
        let right = |count: String| Cell::new(count).set_alignment(CellAlignment::Right);
        for line in &self.rules {
            table.add_row([
                Cell::new(line.rule.as_str()),
                right(line.checked.to_string()),
                right(line.violations.to_string()),
            ]);
        }
        table
    }

    /// In one line, for example for a receipt.
    pub fn summary(&self) -> String {
        let count = |count, one: &str, many: &str| match count {
            0 => format!("no {one}"),
            1 => format!("1 {one}"),
            _ => format!("{count} {many}"),
        };
        let violations = count(self.violations.len(), "violation", "violations");
        let differences = match (self.compared, self.differences.len()) {
            (None, _) => "not compared with the databases".into(),
            (_, wrong) => {
                count(wrong, "difference to the databases", "differences to the databases")
            }
        };
        format!("{} events, {violations}, {differences}", self.events)
    }

    pub(super) fn print(&self) {
        match self.since {
            None => println!("{} events, from the beginning", self.events),
            Some(since) => println!("{} events, all of them since {since}", self.events),
        }
        println!("{}", self.table());
        if self.unread > 0 {
            println!("{} events could not be read", self.unread);
        }
        match self.compared {
            None => println!("not compared with the databases: events are still in flight"),
            Some(Compared { payments, reservations, seats, wallets, messages }) => println!(
                "events and databases {} {payments} payments, {reservations} reservations, \
                 {seats} seats, {wallets} wallets, {messages} messages",
                if self.differences.is_empty() { "agree on" } else { "do not agree on all of" }
            ),
        }
        for Found { violation, events } in &self.violations {
            println!("\n{}: {}", violation.rule.as_str(), violation.detail);
            events.iter().for_each(|(event, name)| println!("  {event}  {name}"));
        }
        for Difference { what, events, database } in &self.differences {
            let text = |side: &Option<String>| side.clone().unwrap_or_else(|| "nothing".into());
            println!("\n{what}: the events say {}, the database {}", text(events), text(database));
        }
    }
}
