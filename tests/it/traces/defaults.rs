//! What `docs/configuration.md` says about traces is so.

use harness::project;
use mesh::trace::Collector;

/// The last column of the row of a variable.
fn documented(variable: &str) -> String {
    let page = project::read("docs/configuration.md");
    let cell = format!("`{variable}`");
    let row =
        page.lines().find(|line| line.split('|').nth(1).is_some_and(|names| names.contains(&cell)));
    let row = row.unwrap_or_else(|| panic!("{variable} has no row"));
    let last = row.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
    last.trim().replace('`', "")
}

#[test]
fn the_defaults_of_traces_are_those_that_are_documented() {
    for (variable, default) in Collector::defaults() {
        assert_eq!(documented(variable), default, "{variable}");
    }
}

#[test]
fn a_collector_that_the_environment_names_has_these_defaults() {
    let only = |name: &str| {
        (name == "OTEL_EXPORTER_OTLP_ENDPOINT").then(|| "http://collector:4318".to_owned())
    };
    let collector = Collector::from_variables(only).expect("all are known").expect("it is on");
    let of = |variable: &str| documented(variable);
    assert_eq!(of("OTEL_EXPORTER_OTLP_PROTOCOL"), collector.protocol.as_str());
    assert_eq!(of("OTEL_BSP_MAX_QUEUE_SIZE"), collector.waiting_spans_max.to_string());
    assert_eq!(of("OTEL_BSP_SCHEDULE_DELAY"), collector.send_every.as_millis().to_string());
    assert!(Collector::from_variables(|_| None).expect("nothing is wrong").is_none());
    assert_eq!(of("OTEL_EXPORTER_OTLP_ENDPOINT"), "off");
}
