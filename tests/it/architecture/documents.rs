//! The documents: their length, their links, and the environment variables that they name.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Component, Path, PathBuf},
};

use harness::project;

/// Documents that must be short, and the number of lines that each must stay below.
const SHORT: [(&str, usize); 2] = [("README.md", 250), ("ARCHITECTURE.md", 400)];

/// The page with every environment variable.
const VARIABLES: &str = "docs/configuration.md";
/// How the names of our variables begin, and those of OpenTelemetry.
const PREFIXES: [&str; 2] = ["ONSALE_", "OTEL_"];
/// Variables that the exporter of OpenTelemetry reads by itself.
const READ_BY_THE_EXPORTER: [&str; 6] = [
    "OTEL_RESOURCE_ATTRIBUTES",
    "OTEL_EXPORTER_OTLP_HEADERS",
    "OTEL_EXPORTER_OTLP_COMPRESSION",
    "OTEL_EXPORTER_OTLP_TRACES_HEADERS",
    "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT",
    "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION",
];
/// Files that read variables and are no Rust.
const CONFIGURED: [&str; 3] =
    ["jetstream/nats.conf", "compose.yaml", "deploy/postgres/services.sh"];
/// Stands for the part of a name that differs, for example the service.
const ANY: char = '*';

fn documents() -> Vec<PathBuf> {
    let is_document = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "md");
    project::tree("").into_iter().filter(is_document).collect()
}

#[test]
fn the_readme_and_the_architecture_stay_short() {
    for (path, lines_max) in SHORT {
        let lines = project::read(path).lines().count();
        assert!(lines < lines_max, "{path} has {lines} lines; it must stay below {lines_max}");
    }
}

/// The lines of a document outside code blocks.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut is_code = false;
    text.lines().filter(move |line| {
        let is_fence = line.trim_start().starts_with("```");
        is_code ^= is_fence;
        !is_code && !is_fence
    })
}

/// A text without its `code`, whose brackets are no links.
fn without_code(line: &str) -> String {
    line.split('`').step_by(2).collect::<Vec<_>>().join("")
}

/// The targets of the links in a document.
fn links(text: &str) -> Vec<String> {
    let text: String = prose(text).map(|line| without_code(line) + "\n").collect();
    text.match_indices("](")
        .filter_map(|(at, _)| text[at + 2..].split_once(')'))
        .map(|(target, _)| target.to_owned())
        .collect()
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let headings = prose(text).filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
            let title = line.trim_start_matches('#').trim().to_lowercase();
            let anchor = title.chars().filter(kept).collect::<String>().replace(' ', "-");
            let count = counts.entry(anchor.clone()).or_default();
            *count += 1;
            match *count {
                1 => anchor,
                more => format!("{anchor}-{}", more - 1),
            }
        })
        .collect()
}

/// A path without `..`.
fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::ParentDir => drop(normal.pop()),
            part => normal.push(part),
        }
    }
    normal
}

/// Why a relative link leads nowhere.
pub fn broken(document: &Path, link: &str) -> Option<String> {
    if link.contains("://") || link.starts_with("mailto:") {
        return None;
    }
    let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
    let folder = document.parent().unwrap_or(Path::new(""));
    let target = if file.is_empty() { document.to_owned() } else { normal(&folder.join(file)) };
    if !project::root().join(&target).exists() {
        return Some(format!("{}: there is no file {}", document.display(), target.display()));
    }
    if anchor.is_empty() || anchors(&project::read(&target)).contains(anchor) {
        return None;
    }
    Some(format!("{}: {} has no heading #{anchor}", document.display(), target.display()))
}

#[test]
fn every_relative_link_leads_to_a_file_and_a_heading() {
    let broken: Vec<String> = documents()
        .iter()
        .flat_map(|path| {
            let links = links(&project::read(path));
            links.into_iter().filter_map(|link| broken(path, &link)).collect::<Vec<_>>()
        })
        .collect();
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn links_and_headings_are_found_outside_code() {
    let text = "# One, `two`: three!\n\n[a](b.md#c) and `[no](link)`\n\n```sh\n# no heading\n\
                [no](link)\n```\n[wrapped\nlink](d.md)\n## Again\n## Again\n";
    assert_eq!(links(text), ["b.md#c", "d.md"]);
    let anchors: Vec<String> = anchors(text).into_iter().collect();
    assert_eq!(anchors, ["again", "again-1", "one-two-three"]);
    let document = Path::new("docs/x.md");
    assert_eq!(broken(document, "https://example.com/#x"), None);
    assert_eq!(broken(document, "../README.md"), None);
    assert!(broken(document, "README.md").is_some_and(|why| why.contains("no file docs/README")));
    assert!(broken(document, "../README.md#no-such").is_some_and(|why| why.contains("#no-such")));
}

/// The names of variables in a text: each begins with a prefix, and its varying parts, written
/// as `{…}`, `<…>` or `${…}`, become [`ANY`].
fn variables(text: &str) -> BTreeSet<String> {
    let begins = |prefix: &&str| text.match_indices(*prefix).map(|(at, _)| at).collect::<Vec<_>>();
    let starts = PREFIXES.iter().flat_map(begins);
    let is_start = |at: &usize| {
        let before = text[..*at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    };
    starts.filter(is_start).map(|at| variable(&text[at..])).collect()
}

/// The name at the beginning of a text.
fn variable(mut text: &str) -> String {
    let mut name = String::new();
    while let Some(c) = text.chars().next() {
        let part = text.strip_prefix('$').unwrap_or(text);
        let closing = match part.chars().next() {
            Some('{') => '}',
            Some('<') => '>',
            _ if c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_' => {
                name.push(c);
                text = &text[1..];
                continue;
            }
            _ => break,
        };
        let Some((_, after)) = part.split_once(closing) else { break };
        name.push(ANY);
        text = after;
    }
    name
}

/// The string literals of Rust code that are the name of a variable and nothing else, tests not
/// included.
fn read_by_code() -> BTreeSet<String> {
    let is_code = |path: &PathBuf| {
        let is_rust = path.extension().is_some_and(|ending| ending == "rs");
        let is_ours =
            ["services", "servers/src", "tests/chaos"].iter().any(|of| path.starts_with(of));
        is_rust && is_ours && (path.starts_with("tests") || !super::sources::is_test(path))
    };
    let mut names = BTreeSet::new();
    for path in project::tree("").into_iter().filter(is_code) {
        let text = project::read(&path);
        let code = text.split("\n#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        for literal in code.split('"') {
            let name = variable(literal);
            let whole = PREFIXES.iter().any(|prefix| name.starts_with(prefix))
                && variables(literal).len() == 1
                && !literal.contains([' ', '=', '\n']);
            if whole {
                names.insert(name);
            }
        }
    }
    names
}

/// The variables that other files read: `$NAME` and `${NAME…}`.
fn read_by_configuration() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for path in CONFIGURED {
        let text = project::read(path);
        for (at, _) in text.match_indices('$') {
            let rest = &text[at + 1..];
            let name = variable(rest.strip_prefix('{').unwrap_or(rest));
            if PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
                names.insert(name);
            }
        }
    }
    names
}

/// Whether `name` fits `pattern`, in which [`ANY`] stands for one or more characters.
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once(ANY) {
        None => pattern == name,
        Some((before, after)) => name.strip_prefix(before).is_some_and(|rest| {
            let ends = rest.char_indices().skip(1).map(|(at, _)| at).chain([rest.len()]);
            ends.filter(|end| *end > 0).any(|end| fits(after, &rest[end..]))
        }),
    }
}

/// Those of `names` that none of `known` explains.
fn unknown<'a>(names: &'a BTreeSet<String>, known: &BTreeSet<String>) -> Vec<&'a String> {
    let is_known = |name: &String| known.iter().any(|one| fits(one, name) || fits(name, one));
    names.iter().filter(|name| !is_known(name)).collect()
}

#[test]
fn every_variable_that_is_read_is_documented() {
    let documented = variables(&project::read(VARIABLES));
    for read in [read_by_code(), read_by_configuration()] {
        assert!(!read.is_empty());
        let missing = unknown(&read, &documented);
        assert!(missing.is_empty(), "read, but not in {VARIABLES}: {missing:?}");
    }
}

#[test]
fn every_documented_variable_is_read() {
    let mut read = read_by_code();
    read.extend(read_by_configuration());
    read.extend(READ_BY_THE_EXPORTER.map(str::to_owned));
    for path in documents() {
        let named = variables(&project::read(&path));
        let named = named.into_iter().filter(|name| !PREFIXES.contains(&name.as_str())).collect();
        let unread = unknown(&named, &read);
        assert!(unread.is_empty(), "{}: named, but never read: {unread:?}", path.display());
    }
}

#[test]
fn names_of_variables_are_found_with_their_varying_parts() {
    let text = "`ONSALE_<SERVICE>_DATABASE_URL`, format!(\"ONSALE_{}_X\"), MY_ONSALE_Y, OTEL_Z=1";
    let found: Vec<String> = variables(text).into_iter().collect();
    assert_eq!(found, ["ONSALE_*_DATABASE_URL", "ONSALE_*_X", "OTEL_Z"]);
    assert_eq!(variable("ONSALE_${upper}_PASSWORD:?}"), "ONSALE_*_PASSWORD");
    assert!(fits("ONSALE_*_URL", "ONSALE_DATA_PLATFORM_URL"));
    assert!(!fits("ONSALE_*_URL", "ONSALE__URL") && !fits("ONSALE_*_URL", "ONSALE_A_URLS"));
    let names = ["ONSALE_A", "ONSALE_B"].map(str::to_owned).into();
    let known = ["ONSALE_A", "ONSALE_C"].map(str::to_owned).into();
    assert_eq!(unknown(&names, &known), ["ONSALE_B"]);
}

/// Words that the code and the documents had for things that have a usual name.
const OLD_WORDS: [&str; 15] = [
    "fact",
    "facts",
    "tell",
    "tells",
    "told",
    "hear",
    "hears",
    "heard",
    "deed",
    "deeds",
    "asker",
    "whoever",
    "courteous",
    "courtesy",
    "unhurried",
];
/// Names that stay as they are: members of JSON, tables and their columns, an attribute of spans.
const KEPT_NAMES: [&str; 15] = [
    "\"fact\"",
    "\"facts\"",
    "facts (",
    "from facts",
    "deliveries, fact,",
    "truncate facts",
    "stream, facts,",
    "set facts",
    "e.facts",
    "'facts'",
    "`facts`",
    "/facts",
    "onsale.fact",
    "exported.facts",
    "excluded.facts",
];

#[test]
fn old_words_are_gone() {
    let here = Path::new("tests/it/architecture/documents.rs");
    let is_text = |path: &PathBuf| {
        path.extension().is_some_and(|ending| ["rs", "md", "lua"].iter().any(|of| ending == *of))
    };
    let mut found = Vec::new();
    for file in project::tree("").into_iter().filter(is_text).filter(|path| path != here) {
        for (at, line) in project::read(&file).lines().enumerate() {
            let mut line = line.to_lowercase();
            KEPT_NAMES.iter().for_each(|name| line = line.replace(name, " "));
            let is_word = |char: char| char.is_alphanumeric() || char == '_';
            let mut words = line.split(|char| !is_word(char));
            if let Some(word) = words.find(|word| OLD_WORDS.contains(word)) {
                found.push(format!("{}:{}: {word}", file.display(), at + 1));
            }
        }
    }
    assert!(found.is_empty(), "old words: {found:#?}");
}
