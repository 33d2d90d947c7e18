//! Every query of a rule, a panel or a data source, and the metrics that it asks for.

use std::collections::{BTreeMap, BTreeSet};

use harness::project;
use serde_json::Value;

/// The rules of Prometheus.
const RULES: &str = "deploy/prometheus/rules";
/// The dashboards of Grafana.
const DASHBOARDS: &str = "deploy/grafana/dashboards";
/// The data sources of Grafana, which lead from a trace to metrics.
const SOURCES: &str = "deploy/grafana/provisioning/datasources/onsale.yml";
/// What Prometheus makes by itself.
const OF_PROMETHEUS: [&str; 2] = ["up", "ALERTS"];
/// Words of the query language that are followed by a list of labels.
const WITH_LABELS: [&str; 6] = ["by", "without", "on", "ignoring", "group_left", "group_right"];
/// Words of the query language that stand alone.
const WORDS: [&str; 6] = ["and", "or", "unless", "bool", "offset", "atan2"];

/// A query, and where it is.
#[derive(Debug, Clone)]
pub struct Query {
    pub place: String,
    pub expr: String,
}

/// A rule: what is recorded, or an alert.
#[derive(Debug, Clone)]
pub struct Rule {
    pub file: String,
    pub rule: Value,
}

impl Rule {
    pub fn text(&self, path: &str) -> &str {
        self.rule.pointer(path).and_then(Value::as_str).unwrap_or_default().trim()
    }

    /// The name of an alert.
    pub fn alert(&self) -> Option<&str> {
        self.rule["alert"].as_str()
    }

    fn name(&self) -> &str {
        self.alert().unwrap_or_else(|| self.text("/record"))
    }
}

/// Every rule.
pub fn rules() -> Vec<Rule> {
    let mut rules = Vec::new();
    for path in project::tree(RULES) {
        let text = project::read(&path);
        let file = path.display().to_string();
        let parsed: Value =
            serde_saphyr::from_str(&text).unwrap_or_else(|why| panic!("{file}: {why}"));
        for group in parsed["groups"].as_array().expect("groups of rules") {
            let of_group = group["rules"].as_array().expect("rules").iter();
            rules.extend(of_group.map(|rule| Rule { file: file.clone(), rule: rule.clone() }));
        }
    }
    rules
}

/// Every alert.
pub fn alerts() -> Vec<Rule> {
    rules().into_iter().filter(|rule| rule.alert().is_some()).collect()
}

/// Every dashboard, by its file's name.
pub fn dashboards() -> BTreeMap<String, Value> {
    let files = project::names(DASHBOARDS, "json");
    let read = |name: &String| project::read_json(format!("{DASHBOARDS}/{name}.json"));
    files.iter().map(|name| (name.clone(), read(name))).collect()
}

/// Every panel of a dashboard that shows something.
pub fn panels(dashboard: &Value) -> Vec<&Value> {
    let panels = dashboard["panels"].as_array().expect("panels");
    panels.iter().filter(|panel| panel["type"] != "row").collect()
}

/// Every query of the dashboards.
pub fn of_dashboards() -> Vec<Query> {
    let mut queries = Vec::new();
    for (file, dashboard) in dashboards() {
        for panel in panels(&dashboard) {
            for target in panel["targets"].as_array().expect("queries") {
                let expr = target["expr"].as_str().expect("a query").to_owned();
                queries.push(Query { place: format!("{file}: {}", panel["title"]), expr });
            }
        }
        for shown in dashboard["annotations"]["list"].as_array().into_iter().flatten() {
            let expr = shown["expr"].as_str().expect("a query").to_owned();
            queries.push(Query { place: format!("{file}: {}", shown["name"]), expr });
        }
        for variable in dashboard["templating"]["list"].as_array().into_iter().flatten() {
            let asked = variable["query"]["query"].as_str().expect("a query");
            let metric = asked.strip_prefix("label_values(").and_then(|rest| rest.split_once(','));
            let expr = metric.expect("the values of a label").0.to_owned();
            queries.push(Query { place: format!("{file}: {}", variable["name"]), expr });
        }
    }
    queries
}

/// Every query of the rules.
pub fn of_rules() -> Vec<Query> {
    let query = |rule: Rule| Query {
        place: format!("{}: {}", rule.file, rule.name()),
        expr: rule.text("/expr").to_owned(),
    };
    rules().into_iter().map(query).collect()
}

/// Every query that a span leads to.
pub fn of_spans() -> Vec<Query> {
    let sources: Value = serde_saphyr::from_str(&project::read(SOURCES)).expect("YAML");
    let sources = sources["datasources"].as_array().expect("sources").iter();
    let queries = sources
        .flat_map(|one| one["jsonData"]["tracesToMetrics"]["queries"].as_array())
        .flatten()
        .map(|query| Query {
            place: format!("{SOURCES}: {}", query["name"]),
            expr: query["query"].as_str().expect("a query").replace("$$", "$"),
        });
    queries.collect()
}

/// A query as Grafana sends it: its variables are filled in.
pub fn filled_in(expr: &str) -> String {
    expr.replace("$__rate_interval", "30s")
        .replace("$__tags", "service=\"payment\"")
        .replace("$service", ".*")
}

/// The names that samples of a metric have.
pub fn samples(name: &str, kind: &str) -> Vec<String> {
    let ends: &[&str] = if kind == "histogram" { &["_bucket", "_sum", "_count"] } else { &[""] };
    ends.iter().map(|end| format!("{name}{end}")).collect()
}

/// The names of the metrics that a query asks for.
pub fn metrics(expr: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    let bare = without_quotes_and_labels(expr);
    let mut rest = bare.as_str();
    while let Some(at) = rest.find(|c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':') {
        let word = &rest[at..];
        let end = word.find(|c: char| !is_of_name(c)).unwrap_or(word.len());
        let (word, after) = word.split_at(end);
        let next = after.trim_start();
        rest = after;
        if WITH_LABELS.contains(&word) {
            rest = next.strip_prefix('(').and_then(|labels| labels.split_once(')')).expect("()").1;
            continue;
        }
        let is_number = word.starts_with(|c: char| c.is_ascii_digit());
        let is_called = next.starts_with('(') || begins_with_word(next, &["by", "without"]);
        if !is_number && !is_called && !WORDS.contains(&word) {
            names.insert(word.to_owned());
        }
    }
    names
}

fn is_of_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | ':' | '.')
}

fn begins_with_word(text: &str, words: &[&str]) -> bool {
    let end = text.find(|c: char| !is_of_name(c)).unwrap_or(text.len());
    words.contains(&&text[..end])
}

/// A query without texts in quotes, `{…}` and `[…]`.
fn without_quotes_and_labels(expr: &str) -> String {
    let mut closing = Vec::new();
    let mut bare = String::new();
    for c in expr.chars() {
        match (closing.last(), c) {
            (Some(end), c) if *end == c => drop(closing.pop()),
            (Some('"'), _) => {}
            (_, '"') => closing.push('"'),
            (_, '{') => closing.push('}'),
            (_, '[') => closing.push(']'),
            (None, c) => bare.push(c),
            (Some(_), _) => {}
        }
    }
    bare
}

/// What may be asked for besides what the program exports.
pub fn made_here() -> BTreeSet<String> {
    let recorded = rules().into_iter().map(|rule| rule.text("/record").to_owned());
    let recorded = recorded.filter(|name| !name.is_empty());
    recorded.chain(OF_PROMETHEUS.map(str::to_owned)).collect()
}

#[test]
fn the_metrics_of_a_query_are_found() {
    let found = |expr: &str| metrics(expr).into_iter().collect::<Vec<_>>().join(" ");
    assert_eq!(found("max(a) > 0 unless (sum(increase(b_total[2m])) > 1.5e9)"), "a b_total");
    assert_eq!(found("sum by (le, x) (rate(h_bucket{a=~\"}b|c\", d=\"e\"}[$__r]))"), "h_bucket");
    assert_eq!(found("60 * sum(r{s=\"t\"}) or vector(0)"), "r");
    assert_eq!(found("x:y:z > 0.05 and on () sum(k) >= 20"), "k x:y:z");
    assert_eq!(found("a offset 5m == bool b"), "a b");
    assert_eq!(found("count without (i) (up)"), "up");
}
