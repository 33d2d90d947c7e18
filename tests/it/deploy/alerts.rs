//! The alerts: each says what to do, is documented, and has been seen to fire.

use std::{collections::BTreeMap, path::Path};

use harness::{project, prometheus};
use serde_json::Value;

use super::queries::{Rule, alerts};
use crate::architecture::documents;

/// The page that lists every alert.
const PAGE: &str = "docs/dashboards.md";
/// The tests of the rules, which `promtool` runs.
const TESTS: &str = "deploy/prometheus/tests";
/// Whom an alert calls: somebody at once, or somebody in the morning.
const SEVERITIES: [&str; 2] = ["page", "ticket"];
/// Alerts that must not wait before they fire.
const AT_ONCE: [&str; 3] = ["OnsaleViolation", "OnsaleSagaStalled", "OnsaleDeadLetter"];

#[test]
fn every_alert_says_what_is_wrong_and_what_to_do() {
    assert!(alerts().len() > 20);
    for rule in alerts() {
        let name = rule.alert().expect("an alert");
        assert!(name.starts_with("Onsale"), "{name}");
        assert!(SEVERITIES.contains(&rule.text("/labels/severity")), "{name} calls nobody");
        assert!(!rule.text("/annotations/summary").is_empty(), "{name} has no summary");
        let action = rule.text("/annotations/action");
        let sentences = action.matches(". ").count() + 1;
        let is_short = action.ends_with('.') && sentences <= 2;
        assert!(is_short, "{name} needs one or two sentences on what to do: {action}");
        let runbook = rule.text("/annotations/runbook");
        assert!(runbook.starts_with("docs/troubleshooting.md#"), "{name}: {runbook}");
        assert_eq!(documents::broken(Path::new("."), runbook), None, "{name}");
        let is_patient = rule.rule["for"].is_string();
        assert!(!AT_ONCE.contains(&name) || !is_patient, "{name} fires late");
    }
}

#[test]
fn the_page_lists_every_alert_with_what_to_do() {
    let text = project::read(PAGE);
    let listed: BTreeMap<&str, Vec<&str>> = text
        .lines()
        .filter_map(|line| line.strip_prefix("| `Onsale").map(|_| line))
        .map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect::<Vec<_>>())
        .map(|cells| (cells[0].trim_matches('`'), cells))
        .collect();
    let rules: BTreeMap<String, Rule> = alerts()
        .into_iter()
        .map(|rule| (rule.alert().unwrap_or_default().to_owned(), rule))
        .collect();
    let names = |listed: &BTreeMap<&str, Vec<&str>>| -> Vec<String> {
        listed.keys().map(|name| (*name).to_owned()).collect()
    };
    assert_eq!(names(&listed), rules.keys().cloned().collect::<Vec<_>>());
    for (name, cells) in listed {
        let [_, severity, when, action] = &cells[..] else { panic!("{name}: {cells:?}") };
        assert_eq!(*severity, rules[name].text("/labels/severity"), "{name}");
        assert!(!when.is_empty(), "{name}");
        assert_eq!(*action, plain(rules[name].text("/annotations/action")), "{name}");
    }
}

/// A text whose labels are written in capitals, as on the page.
fn plain(text: &str) -> String {
    let mut parts = text.split("{{ $labels.");
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (label, rest) = part.split_once(" }}").expect("the end of a label");
        plain.push_str(&label.to_uppercase());
        plain.push_str(rest);
    }
    plain
}

/// For each alert, whether its tests see it fire, and whether they see it silent.
fn seen() -> BTreeMap<String, (bool, bool)> {
    let mut seen: BTreeMap<String, (bool, bool)> = BTreeMap::new();
    let mut note = |alert: &str, is_firing: bool| {
        let (firing, silent) = seen.entry(alert.to_owned()).or_default();
        *firing |= is_firing;
        *silent |= !is_firing;
    };
    for path in project::tree(TESTS) {
        let text = project::read(&path);
        let file: Value = serde_saphyr::from_str(&text).expect("a test of rules");
        let tests = file["tests"].as_array().expect("tests");
        let of = |kind: &str| -> Vec<Value> {
            tests.iter().filter_map(|test| test[kind].as_array()).flatten().cloned().collect()
        };
        for expected in of("alert_rule_test") {
            let firing = expected["exp_alerts"].as_array().is_some_and(|all| !all.is_empty());
            note(expected["alertname"].as_str().expect("a name"), firing);
        }
        for expected in of("promql_expr_test") {
            let expr = expected["expr"].as_str().expect("a query");
            let Some((_, rest)) = expr.split_once("ALERTS{alertname=\"") else { continue };
            let firing = expected["exp_samples"].as_array().is_some_and(|all| !all.is_empty());
            note(rest.split('"').next().unwrap_or_default(), firing);
        }
    }
    seen
}

#[test]
fn every_alert_is_tested_to_fire_and_to_be_silent() {
    let seen = seen();
    for rule in alerts() {
        let name = rule.alert().expect("an alert");
        let (firing, silent) = seen.get(name).copied().unwrap_or_default();
        assert!(firing, "no test in {TESTS} sees {name} fire");
        assert!(silent, "no test in {TESTS} sees {name} silent");
    }
}

#[test]
fn promtool_accepts_the_rules_and_their_tests_pass() {
    let root = project::root();
    let files = |folder: &str| project::tree(folder).into_iter().map(|path| root.join(path));
    let config = [root.join("deploy/prometheus/prometheus.yml")];
    let ran = [
        prometheus::promtool(&["check", "config"], config),
        prometheus::promtool(&["check", "rules"], files("deploy/prometheus/rules")),
        prometheus::promtool(&["test", "rules"], files(TESTS)),
    ];
    for said in ran {
        match said {
            Ok(Some(said)) => assert!(said.contains("SUCCESS"), "{said}"),
            Ok(None) => println!("skipped: promtool of the package `prometheus` is not installed"),
            Err(said) => panic!("{said}"),
        }
    }
}

#[test]
fn the_pool_of_the_alert_is_as_large_as_that_of_a_service() {
    let text = project::read("services/mesh/src/store/postgres.rs");
    let line = text.lines().find_map(|line| line.strip_prefix("const CONNECTIONS_MAX: u32 = "));
    let most = line.expect("the size of the pool").trim_end_matches(';');
    let of = |rule: &Rule| rule.alert() == Some("OnsalePoolExhausted");
    let rule = alerts().into_iter().find(of).expect("the alert");
    assert!(rule.text("/expr").contains(&format!("{{state=\"used\"}}) >= {most}\n")));
}

#[test]
fn a_service_that_nobody_reaches_is_missed() {
    let of = |rule: &Rule| rule.alert() == Some("OnsaleServiceAbsent");
    let rule = alerts().into_iter().find(of).expect("the alert");
    let terms: Vec<_> = rule.text("/expr").split(" or ").map(str::trim).collect();
    let wanted: Vec<_> = onsale::registry::SERVICES
        .iter()
        .map(|service| format!("absent(onsale_ready{{service=\"{service}\"}})"))
        .collect();
    for term in &wanted {
        assert!(terms.contains(&term.as_str()), "{term} is missing");
    }
    assert_eq!(terms.len(), wanted.len());
}
