//! The dashboards: what a panel needs, and that its queries name what the program exports.

use std::collections::BTreeSet;

use harness::project;
use serde_json::Value;

use super::queries::{
    Query, dashboards, made_here, metrics, of_dashboards, of_rules, of_spans, panels, samples,
};

/// The last schema of dashboards of this form (Grafana 12 and later).
const SCHEMA: u64 = 42;
/// The dashboards, in the order in which an on-call engineer opens them.
const NAMES: [&str; 4] = ["sale", "sagas", "mesh", "waiting-room"];
/// The kinds of panels that Grafana brings along and that are used here.
const KINDS: [&str; 5] = ["stat", "timeseries", "table", "heatmap", "state-timeline"];
/// The histograms whose values name a trace.
const WITH_EXEMPLARS: [&str; 2] =
    ["onsale_payment_duration_seconds", "http_server_request_duration_seconds"];
/// The width of a dashboard.
const WIDTH: u64 = 24;

/// What the program exports: the names of samples. A test of the metrics compares the page with
/// what is exported.
fn exported() -> BTreeSet<String> {
    let page = project::read("docs/metrics.md");
    let rows = page.lines().filter_map(|line| {
        let mut cells = line.split('|').map(str::trim).skip(1);
        let name = cells.next()?.strip_prefix('`')?.strip_suffix('`')?;
        Some(samples(name, cells.next()?))
    });
    rows.flatten().collect()
}

fn all() -> Vec<Query> {
    of_rules().into_iter().chain(of_dashboards()).chain(of_spans()).collect()
}

#[test]
fn every_query_names_metrics_that_the_program_exports() {
    let (exported, made_here) = (exported(), made_here());
    let queries = all();
    assert!(queries.len() > 100, "only {} queries were found", queries.len());
    for Query { place, expr } in queries {
        let asked = metrics(&expr);
        assert!(!asked.is_empty(), "{place} asks for nothing: {expr}");
        for name in asked {
            let is_known = exported.contains(&name) || made_here.contains(&name);
            assert!(is_known, "{place}: nothing exports {name}");
        }
    }
}

#[test]
fn what_the_program_exports_is_shown() {
    let shown: BTreeSet<String> = all().iter().flat_map(|query| metrics(&query.expr)).collect();
    let base = |name: &String| {
        let ends = ["_bucket", "_sum", "_count"];
        ends.iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name).to_owned()
    };
    let shown: BTreeSet<String> = shown.iter().map(base).collect();
    let hidden: BTreeSet<_> =
        exported().iter().map(base).filter(|name| !shown.contains(name)).collect();
    assert!(hidden.is_empty(), "exported, and on no dashboard: {hidden:?}");
}

#[test]
fn every_panel_says_what_to_do_and_has_a_unit_and_thresholds() {
    for (file, dashboard) in dashboards() {
        for panel in panels(&dashboard) {
            let place = format!("{file}: {}", panel["title"]);
            let text = panel["description"].as_str().unwrap_or_default();
            let is_sentence = text.len() > 20 && text.ends_with('.');
            assert!(is_sentence, "{place} does not say what to do: {text:?}");
            let defaults = &panel["fieldConfig"]["defaults"];
            assert!(defaults["unit"].is_string(), "{place} has no unit");
            let steps = defaults["thresholds"]["steps"].as_array().map_or(0, Vec::len);
            assert!(steps > 0, "{place} has no thresholds");
            // A line at a threshold is drawn only where crossing it is bad.
            let is_drawn = defaults["custom"]["thresholdsStyle"]["mode"] == "line";
            assert!(!is_drawn || steps > 1, "{place} draws a threshold that it does not have");
        }
    }
}

#[test]
fn every_dashboard_is_one_that_grafana_can_load() {
    let found = dashboards();
    assert_eq!(found.keys().map(String::as_str).collect::<BTreeSet<_>>(), BTreeSet::from(NAMES));
    for (file, dashboard) in &found {
        assert_eq!(dashboard["uid"], format!("onsale-{file}"));
        assert_eq!(dashboard["schemaVersion"], SCHEMA, "{file}");
        assert_eq!(dashboard["tags"][0], "onsale", "{file}");
        let all = dashboard["panels"].as_array().expect("panels");
        let ids: BTreeSet<u64> = all.iter().filter_map(|panel| panel["id"].as_u64()).collect();
        assert_eq!(ids.len(), all.len(), "{file}: ids of panels are not unique");
        for panel in all {
            fits(file, panel);
        }
        no_overlap(file, all);
    }
}

/// The panel is of a known kind, and its parts are where Grafana looks for them.
fn fits(file: &str, panel: &Value) {
    let place = format!("{file}: {}", panel["title"]);
    assert!(panel["title"].as_str().is_some_and(|title| !title.is_empty()), "{file}: no title");
    let at = &panel["gridPos"];
    let (x, w) = (at["x"].as_u64().expect("x"), at["w"].as_u64().expect("w"));
    assert!(w > 0 && x + w <= WIDTH && at["h"].as_u64() > Some(0), "{place} does not fit");
    if panel["type"] == "row" {
        return;
    }
    assert!(KINDS.iter().any(|kind| panel["type"] == *kind), "{place}: {}", panel["type"]);
    let targets = panel["targets"].as_array().expect("queries");
    let refs: BTreeSet<_> = targets.iter().filter_map(|target| target["refId"].as_str()).collect();
    assert!(!refs.is_empty() && refs.len() == targets.len(), "{place}: ids of queries");
    for source in targets.iter().map(|target| &target["datasource"]).chain([&panel["datasource"]]) {
        assert_eq!(source["type"], "prometheus", "{place}");
        assert_eq!(source["uid"], "onsale-prometheus", "{place}");
    }
    // Only what these measure has exemplars, which lead from a value to its trace.
    let is_measured = |target: &&Value| {
        let expr = target["expr"].as_str().unwrap_or_default();
        WITH_EXEMPLARS.iter().any(|name| expr.contains(&format!("{name}_bucket")))
    };
    let measured = targets.iter().filter(is_measured).count();
    let with_exemplars: Vec<_> = targets.iter().filter(|one| one["exemplar"] == true).collect();
    assert_eq!(with_exemplars.len(), measured.min(1), "{place}: exemplars of one query are enough");
    assert!(with_exemplars.iter().all(is_measured), "{place}: nothing has such exemplars");
}

/// No two panels cover each other.
fn no_overlap(file: &str, panels: &[Value]) {
    let mut covered = BTreeSet::new();
    for panel in panels {
        let of = |name: &str| panel["gridPos"][name].as_u64().expect("a number");
        for x in of("x")..of("x") + of("w") {
            for y in of("y")..of("y") + of("h") {
                assert!(covered.insert((x, y)), "{file}: {} covers another", panel["title"]);
            }
        }
    }
}

#[test]
fn links_lead_to_dashboards_that_exist_and_services_can_be_chosen() {
    let found = dashboards();
    let uids: BTreeSet<String> = found
        .values()
        .filter_map(|dashboard| dashboard["uid"].as_str().map(str::to_owned))
        .collect();
    let mut links = 0;
    for (file, dashboard) in &found {
        assert_eq!(dashboard["links"][0]["type"], "dashboards", "{file}");
        for link in panels(dashboard).iter().flat_map(|panel| panel["links"].as_array()).flatten() {
            let url = link["url"].as_str().expect("a link");
            let uid = url.strip_prefix("/d/").expect("a link to a dashboard");
            assert!(uids.contains(uid), "{file}: {url}");
            links += 1;
        }
        let variables = dashboard["templating"]["list"].as_array().expect("variables");
        let names: BTreeSet<_> = variables.iter().filter_map(|one| one["name"].as_str()).collect();
        let queries = of_dashboards();
        let of_file = queries.iter().filter(|query| query.place.starts_with(&format!("{file}: ")));
        let uses = of_file.filter(|query| query.expr.contains("$service")).count();
        assert_eq!(names.contains("service"), uses > 0, "{file}");
        for variable in variables {
            assert_eq!(variable["allValue"], ".*", "{file}");
            assert_eq!(variable["includeAll"], true, "{file}");
        }
    }
    assert!(links > 0);
}
