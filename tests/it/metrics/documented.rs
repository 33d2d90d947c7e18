//! The table of `docs/metrics.md` and what a mesh exports.

use std::collections::{BTreeMap, BTreeSet};

use harness::{openmetrics::Exposition, project};

/// The page with every metric.
const PAGE: &str = "docs/metrics.md";
/// Labels that are not a metric's own.
const EVERYWHERE: [&str; 2] = ["service", "le"];

/// A row of the table.
#[derive(Debug, PartialEq)]
struct Row {
    kind: String,
    labels: BTreeSet<String>,
    unit: String,
}

/// The rows of the tables by name.
fn table() -> BTreeMap<String, Row> {
    let page = project::read(PAGE);
    let rows = page.lines().filter_map(|line| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let ["", name, kind, labels, unit, _means, _then, ""] = cells[..] else { return None };
        let name = name.strip_prefix('`')?.strip_suffix('`')?;
        let labels = labels.split('`').skip(1).step_by(2).map(str::to_owned).collect();
        let row = Row { kind: kind.to_owned(), labels, unit: unit.to_owned() };
        Some((name.to_owned(), row))
    });
    rows.collect()
}

/// What differs between the documents and a scrape of a whole mesh.
pub(super) fn differences(scraped: &Exposition) -> Vec<String> {
    let mut table = table();
    let mut found = Vec::new();
    for (name, family) in &scraped.families {
        let name = family.query_name(name);
        let Some(row) = table.remove(&name) else {
            found.push(format!("{name} is exported, and not in {PAGE}"));
            continue;
        };
        let labels = family.samples.iter().flat_map(|sample| sample.labels.keys());
        let labels: BTreeSet<String> =
            labels.filter(|label| !EVERYWHERE.contains(&label.as_str())).cloned().collect();
        if row.kind != family.kind {
            found.push(format!("{name} is a {}, not a {}", family.kind, row.kind));
        }
        if !labels.is_subset(&row.labels) || !family.samples.is_empty() && labels != row.labels {
            found.push(format!("{name} has the labels {labels:?}, not {:?}", row.labels));
        }
        let unit = family.unit.clone().unwrap_or_default();
        if row.unit != unit {
            found.push(format!("{name} is in `{unit}`, not in `{}`", row.unit));
        }
    }
    found.extend(table.into_keys().map(|name| format!("{name} is in {PAGE}, and not exported")));
    found
}

/// Whether a label's value could be an id: it would make a time series for each of them.
pub(super) fn looks_like_an_id(value: &str) -> bool {
    let mut run = 0;
    let has_long_number = value.chars().any(|c| {
        run = if c.is_ascii_hexdigit() { run + 1 } else { 0 };
        run >= 8
    });
    let digits = value.chars().filter(char::is_ascii_digit).count();
    has_long_number || digits > 4 || value.contains('@')
}

#[test]
fn ids_are_told_from_names() {
    for id in ["0192f3aa-0000-7000-8000-000000000000", "1234567", "a@b.com", "deadbeef"] {
        assert!(looks_like_an_id(id), "{id}");
    }
    for name in ["completed", "reservation.hold", "/v1/schedules/{id}/seats", "503", "0.1.0"] {
        assert!(!looks_like_an_id(name), "{name}");
    }
}

#[test]
fn every_metric_of_the_page_says_what_it_means_and_what_to_do() {
    assert!(table().len() > 40, "the table is not read: {:?}", table());
    let page = project::read(PAGE);
    for line in page.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        assert_eq!(cells.len(), 8, "{line}");
        assert!(cells[5].len() > 10 && !cells[6].is_empty(), "{line}");
    }
}
