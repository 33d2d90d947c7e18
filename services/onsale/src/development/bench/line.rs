//! One line of the result: what was measured, its medians, and how it is printed.

use std::collections::BTreeMap;

use comfy_table::{Cell, CellAlignment, Table, presets::UTF8_FULL_CONDENSED};
use serde::Serialize;

use super::{
    counts::{self, ByService},
    meter::Costs,
};

/// The components, in the order in which they are printed; the monolith takes the place of the
/// services.
const COMPONENTS: [&str; 6] = ["services", "monolith", "postgres", "nats", "valkey", "driver"];

/// One line of the result.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Line {
    /// Payments running at once.
    pub concurrency: usize,
    /// Payments requested.
    pub requests: usize,
    /// Payments with a known end per second.
    pub payments_per_s: f64,
    /// Median time from request to known end, in ms.
    pub p50_ms: f64,
    /// The same for the slowest hundredth.
    pub p99_ms: f64,
    /// Payments that completed.
    pub completed: usize,
    /// Payments whose money was taken and given back.
    pub compensated: usize,
    /// Payments refused at once: the loss of the hold was known already.
    pub refused: usize,
    /// The most memory that the one process with all services took while it was paid, in MB.
    pub resident_mb: f64,
    /// Time after the last payment until the listeners had consumed all events, in s.
    pub behind_s: f64,
    /// What a payment costs.
    #[serde(flatten)]
    pub costs: Costs,
    /// What was published.
    #[serde(flatten)]
    pub traffic: Traffic,
}

/// Messages and events that were published.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Traffic {
    /// Messages published a payment, by all services.
    pub messages_per_payment: f64,
    /// Events published a payment, by the services that have their outbox in PostgreSQL.
    pub events_per_payment: f64,
    /// Events a message, mean over the same services.
    pub events_per_message: f64,
    /// Events a message, mean of each of them.
    pub events_per_message_by_service: BTreeMap<&'static str, f64>,
}

impl Traffic {
    pub(super) fn of(counts: &ByService, payments: usize) -> Self {
        let each = |count: u64| count as f64 / payments.max(1) as f64;
        let by_service = counts.iter().filter(|(_, count)| count.events.is_some());
        Self {
            messages_per_payment: each(counts.values().map(|count| count.messages).sum()),
            events_per_payment: each(counts.values().filter_map(|count| count.events).sum()),
            events_per_message: counts::mean(counts),
            events_per_message_by_service: by_service
                .map(|(name, count)| (*name, counts::mean(&BTreeMap::from([(*name, *count)]))))
                .collect(),
        }
    }
}

/// The median; of an even number, the mean of the two in the middle.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() % 2 {
        0 if middle > 0 => (values[middle - 1] + values[middle]) / 2.0,
        _ => values.get(middle).copied().unwrap_or(0.0),
    }
}

type Named = BTreeMap<&'static str, f64>;

fn median_by_name(maps: &[&Named]) -> Named {
    let names = maps.iter().flat_map(|map| map.keys().copied());
    let of = |name| median(maps.iter().filter_map(|map| map.get(name).copied()));
    names.map(|name| (name, of(name))).collect()
}

impl Line {
    /// The turns of one line as one: figures by their median, payments by their sum, memory and
    /// the lag of the listeners by their maximum.
    pub(super) fn of_turns(turns: &[&Self]) -> Self {
        let mid = |of: fn(&Self) -> f64| median(turns.iter().map(|line| of(line)));
        let sum = |of: fn(&Self) -> usize| turns.iter().map(|line| of(line)).sum();
        let most = |of: fn(&Self) -> f64| turns.iter().map(|line| of(line)).fold(0.0, f64::max);
        let named = |of: fn(&Self) -> &Named| {
            median_by_name(&turns.iter().map(|line| of(line)).collect::<Vec<_>>())
        };
        let rows: Vec<f64> = turns.iter().filter_map(|line| line.costs.rows_per_payment).collect();
        Self {
            concurrency: turns.first().map_or(0, |line| line.concurrency),
            requests: sum(|line| line.requests),
            payments_per_s: mid(|line| line.payments_per_s),
            p50_ms: mid(|line| line.p50_ms),
            p99_ms: mid(|line| line.p99_ms),
            completed: sum(|line| line.completed),
            compensated: sum(|line| line.compensated),
            refused: sum(|line| line.refused),
            resident_mb: most(|line| line.resident_mb),
            behind_s: most(|line| line.behind_s),
            costs: Costs {
                cpu_us_per_payment: named(|line| &line.costs.cpu_us_per_payment),
                synced_bytes_per_payment: named(|line| &line.costs.synced_bytes_per_payment),
                transactions_per_payment: mid(|line| line.costs.transactions_per_payment),
                rows_per_payment: (!rows.is_empty()).then(|| median(rows)),
            },
            traffic: Traffic {
                messages_per_payment: mid(|line| line.traffic.messages_per_payment),
                events_per_payment: mid(|line| line.traffic.events_per_payment),
                events_per_message: mid(|line| line.traffic.events_per_message),
                events_per_message_by_service: named(|line| {
                    &line.traffic.events_per_message_by_service
                }),
            },
        }
    }
}

/// A table whose figures stand below each other.
pub(crate) fn table<H, R>(header: H, rows: impl IntoIterator<Item = R>) -> Table
where
    H: IntoIterator<Item: ToString>,
    R: IntoIterator<Item = String>,
{
    let right = |text: String| Cell::new(text).set_alignment(CellAlignment::Right);
    let mut table = Table::new();
    table.load_style(UTF8_FULL_CONDENSED);
    table.set_header(header.into_iter().map(|name| Cell::new(name.to_string())));
    for row in rows {
        table.add_row(row.into_iter().map(right));
    }
    table
}

/// How fast each line was.
pub(super) fn speeds<'a>(lines: impl Iterator<Item = &'a Line>) -> Table {
    let header = [
        "concurrent",
        "requests",
        "payments/s",
        "p50 ms",
        "p99 ms",
        "completed",
        "compensated",
        "refused",
        "resident MB",
        "listeners behind s",
    ];
    let row = |line: &Line| {
        [
            line.concurrency.to_string(),
            line.requests.to_string(),
            format!("{:.0}", line.payments_per_s),
            format!("{:.1}", line.p50_ms),
            format!("{:.1}", line.p99_ms),
            line.completed.to_string(),
            line.compensated.to_string(),
            line.refused.to_string(),
            format!("{:.0}", line.resident_mb),
            format!("{:.1}", line.behind_s),
        ]
    };
    table(header, lines.map(row))
}

/// Microseconds of processor time a payment, by component.
pub(super) fn processor_times<'a>(lines: impl Iterator<Item = &'a Line> + Clone) -> Table {
    let is_there =
        |name: &&&str| lines.clone().any(|line| line.costs.cpu_us_per_payment.contains_key(**name));
    let names: Vec<&str> = COMPONENTS.iter().filter(is_there).copied().collect();
    let header = ["concurrent"].into_iter().chain(names.iter().copied()).chain(["together"]);
    let row = |line: &Line| {
        let each = names.iter().map(|name| named(&line.costs.cpu_us_per_payment, name));
        let first = line.concurrency.to_string();
        let all = format!("{:.0}", line.costs.cpu_us());
        [first].into_iter().chain(each).chain([all]).collect::<Vec<_>>()
    };
    table(header.map(|name| format!("{name}{}", unit(name, " µs"))), lines.clone().map(row))
}

/// Events, transactions, rows and bytes a payment.
pub(super) fn traffic<'a>(lines: impl Iterator<Item = &'a Line>) -> Table {
    let header = [
        "concurrent",
        "messages",
        "events",
        "events/message",
        "transactions",
        "rows",
        "postgres B",
        "nats B",
        "valkey B",
    ];
    let row = |line: &Line| {
        let Line { costs, traffic, .. } = line;
        let bytes = |name| named(&costs.synced_bytes_per_payment, name);
        [
            line.concurrency.to_string(),
            some(traffic.messages_per_payment),
            some(traffic.events_per_payment),
            some(traffic.events_per_message),
            some(costs.transactions_per_payment),
            costs.rows_per_payment.map_or("-".into(), some),
            bytes("postgres"),
            bytes("nats"),
            bytes("valkey"),
        ]
    };
    table(header, lines.map(row))
}

/// Events a message at each service; `None` when nothing was published.
pub(super) fn batches(line: &Line) -> Option<String> {
    let each = line.traffic.events_per_message_by_service.iter();
    let each: Vec<String> = each.map(|(name, mean)| format!("{name} {mean:.2}")).collect();
    let at = line.concurrency;
    (!each.is_empty()).then(|| format!("events a message at {at} at once: {}", each.join(", ")))
}

fn some(figure: f64) -> String {
    format!("{figure:.2}")
}

fn named(map: &Named, name: &str) -> String {
    map.get(name).map_or("-".into(), |figure| format!("{figure:.0}"))
}

fn unit(name: &str, unit: &'static str) -> &'static str {
    if name == "concurrent" { "" } else { unit }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::development::bench::counts::Published;

    fn line(payments_per_s: f64, services: f64) -> Line {
        Line {
            concurrency: 64,
            requests: 100,
            payments_per_s,
            completed: 95,
            resident_mb: payments_per_s,
            costs: Costs {
                cpu_us_per_payment: BTreeMap::from([("services", services), ("driver", 10.0)]),
                ..Costs::default()
            },
            ..Line::default()
        }
    }

    #[test]
    fn one_bad_turn_does_not_change_the_median() {
        assert_eq!(median([3.0, 100.0, 2.0]), 3.0);
        assert_eq!(median([1.0, 2.0]), 1.5);
        assert_eq!(median([]), 0.0);
    }

    #[test]
    fn turns_become_one_line() {
        let turns = [line(300.0, 40.0), line(100.0, 90.0), line(200.0, 50.0)];
        let whole = Line::of_turns(&turns.iter().collect::<Vec<_>>());
        assert_eq!((whole.concurrency, whole.requests, whole.completed), (64, 300, 285));
        assert_eq!((whole.payments_per_s, whole.resident_mb), (200.0, 300.0));
        assert_eq!(whole.costs.cpu_us_per_payment["services"], 50.0);
        assert_eq!(whole.costs.cpu_us(), 60.0);
        assert_eq!(whole.costs.rows_per_payment, None);
    }

    #[test]
    fn traffic_is_counted_by_payment_and_by_service() {
        let counts = ByService::from([
            ("payment", Published { messages: 4, events: Some(20) }),
            ("queue", Published { messages: 6, events: None }),
        ]);
        let traffic = Traffic::of(&counts, 10);
        assert_eq!((traffic.messages_per_payment, traffic.events_per_payment), (1.0, 2.0));
        assert_eq!(traffic.events_per_message, 5.0);
        assert_eq!(traffic.events_per_message_by_service, BTreeMap::from([("payment", 5.0)]));
    }

    #[test]
    fn a_line_is_flat_in_json() {
        let json = serde_json::to_value(line(300.0, 40.0)).unwrap();
        for name in ["concurrency", "payments_per_s", "p50_ms", "p99_ms", "events_per_message"] {
            assert!(json[name].is_number(), "{name}");
        }
        assert_eq!(json["cpu_us_per_payment"]["services"], 40.0);
    }

    #[test]
    fn every_row_of_a_table_is_as_wide_as_its_header() {
        let lines = [line(300.0, 40.0), line(100.0, 12_345.0)];
        let tables = [speeds(lines.iter()), processor_times(lines.iter()), traffic(lines.iter())];
        for table in tables {
            let text = table.to_string();
            let widths: Vec<usize> = text.lines().map(|line| line.chars().count()).collect();
            assert!(widths.windows(2).all(|pair| pair[0] == pair[1]), "{text}");
        }
        assert!(!processor_times(lines.iter()).to_string().contains("nats"));
    }
}
