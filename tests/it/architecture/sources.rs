//! Rules for the source files.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
};

use harness::project;
use onsale::registry::{WITH_DATABASE, migrations};

/// This file.
const HERE: &str = "tests/it/architecture/sources.rs";
/// The most lines that a Rust file may have.
const FILE_LINES_MAX: usize = 500;
/// The most lines that a function may have, from `fn` to its closing brace.
const FN_LINES_MAX: usize = 70;
/// The functions that may be longer, because they list one thing.
const LONG: [&str; 0] = [];

/// Words that a decision must not use: it gets the time as an argument, and has no randomness.
const IMPURE: [&str; 15] = [
    "async",
    "await",
    "tokio",
    "futures",
    "sqlx",
    "redis",
    "async_nats",
    "clock",
    "now_utc",
    "now_v7",
    "new_v4",
    "rand",
    "random",
    "SystemTime",
    "Instant",
];

/// Audit decides nothing; what it derives from events is as pure as any decision.
const DECIDES_NOTHING: [&str; 1] = ["audit"];
const PURE: [&str; 2] = ["flows/src", "auditor/src"];

/// Whether a file contains the tests of another file.
pub(super) fn is_test(path: &Path) -> bool {
    path.components().any(|part| part.as_os_str() == "tests") || path.ends_with("tests.rs")
}

fn rust_files() -> Vec<PathBuf> {
    let is_rust = |path: &PathBuf| path.extension().is_some_and(|ending| ending == "rs");
    project::tree("").into_iter().filter(is_rust).collect()
}

/// The code of a file, line by line, without comments.
fn code(text: &str) -> impl Iterator<Item = &str> {
    text.lines().map(|line| match line.find("//") {
        Some(at) if !line[..at].contains('"') => &line[..at],
        _ => line,
    })
}

#[test]
fn a_decision_is_pure() {
    let with_domain: BTreeSet<_> = project::tree("services")
        .into_iter()
        .filter(|path| path.ends_with("src/domain.rs"))
        .collect();
    for service in harness::wiring::all().into_iter().map(|wiring| wiring.service) {
        let path = PathBuf::from(format!("services/{service}/src/domain.rs"));
        assert!(
            with_domain.contains(&path) || DECIDES_NOTHING.contains(&service),
            "{} is missing",
            path.display()
        );
    }
    for path in &with_domain {
        assert!(
            project::read(path).contains("#[cfg(test)]"),
            "{}: decisions are tested at the end of the file",
            path.display()
        );
    }
    let is_pure = |path: &PathBuf| PURE.iter().any(|pure| path.starts_with(pure));
    let pure = rust_files().into_iter().filter(|path| is_pure(path) && !is_test(path));
    for path in with_domain.into_iter().chain(pure) {
        let text = project::read(&path);
        for (number, line) in code(&text).enumerate() {
            let mut words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
            let impure = words.find(|word| IMPURE.contains(word));
            assert_eq!(impure, None, "{}:{}: {line}", path.display(), number + 1);
        }
    }
}

/// Calls that count code points, or compare or split text by them. What people see is something
/// else.
const BY_CODE_POINT: [&str; 4] =
    [".chars().count()", ".to_lowercase()", ".to_uppercase()", ".is_alphanumeric()"];
/// Places where they are not used on texts from users: the tool draws tables, and the names of
/// roles, services and members are our own.
const OURS: [&str; 4] = [
    "services/onsale",
    "services/mesh/src/service/caller.rs",
    "services/mesh/src/nats/link.rs",
    "services/mesh/src/inbound/input",
];

#[test]
fn texts_from_users_are_compared_in_one_place() {
    let is_ours = |path: &PathBuf| OURS.iter().any(|ours| path.starts_with(ours));
    let of_services = |path: &PathBuf| path.starts_with("services") && !is_test(path);
    for path in rust_files().into_iter().filter(|path| of_services(path) && !is_ours(path)) {
        let text = project::read(&path);
        let lines = text.lines().take_while(|line| !line.starts_with("#[cfg(test)]"));
        for (number, line) in lines.enumerate() {
            let found = BY_CODE_POINT.iter().find(|call| line.contains(**call));
            assert_eq!(found, None, "{}:{}: {line}", path.display(), number + 1);
        }
    }
}

#[test]
fn no_file_is_too_long() {
    let long: Vec<_> = rust_files()
        .into_iter()
        .map(|path| (project::read(&path).lines().count(), path))
        .filter(|(lines, _)| *lines > FILE_LINES_MAX)
        .collect();
    assert!(long.is_empty(), "too long: {long:#?}");
}

#[test]
fn no_function_is_too_long() {
    let mut long = BTreeSet::new();
    for path in rust_files() {
        for (name, lines) in functions(&project::read(&path)) {
            if lines > FN_LINES_MAX {
                long.insert(format!("{} {name}: {lines} lines", path.display()));
            }
        }
    }
    let (declared, undeclared): (Vec<_>, Vec<_>) = long
        .iter()
        .partition(|found| LONG.iter().any(|known| found.starts_with(&format!("{known}:"))));
    assert!(undeclared.is_empty(), "too long: {undeclared:#?}");
    assert_eq!(declared.len(), LONG.len(), "no longer long: {LONG:?} but {declared:?}");
}

/// The functions of a formatted file: name, and number of lines from the head to the closing
/// brace, which is exactly below the beginning of the head.
fn functions(text: &str) -> Vec<(&str, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (first, line) in lines.iter().enumerate() {
        let head = line.trim_start();
        let Some(name) = fn_name(head) else { continue };
        let indent = line.len() - head.len();
        let closes = |line: &&str| {
            let rest = line.get(indent..).unwrap_or_default();
            line.trim_start().len() == rest.len() && (rest == "}" || rest.ends_with(';'))
        };
        let one_line = head.ends_with(['}', ';']);
        let more = if one_line { Some(0) } else { lines[first..].iter().position(closes) };
        found.extend(more.map(|more| (name, more + 1)));
    }
    found
}

/// The name of a function, when this line is its head.
fn fn_name(mut head: &str) -> Option<&str> {
    let before = ["pub ", "pub(crate) ", "pub(super) ", "async ", "const ", "unsafe "];
    while let Some(rest) = before.iter().find_map(|word| head.strip_prefix(word)) {
        head = rest;
    }
    head.strip_prefix("fn ")?.split(|c: char| !c.is_alphanumeric() && c != '_').next()
}

#[test]
fn functions_are_measured_from_their_head_to_their_closing_brace() {
    let text = "
impl X {
    pub(crate) async fn a<T>(
        b: T,
    ) -> u8
    where
        T: Y,
    {
        if b {
        }
        1
    }

    fn c(
        d: u8,
    );
    fn e() {}
}
fn f() {
    let x = |y| {
        y;
    };
}
// fn g() {
let fn_h = 1;
";
    assert_eq!(functions(text), [("a", 10), ("c", 3), ("e", 1), ("f", 5)]);
}

#[test]
fn no_file_or_folder_has_a_name_that_says_nothing() {
    let vague = ["common", "shared", "utils", "util", "helpers", "misc", "scripts"];
    for path in project::tree("") {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        assert!(!vague.contains(&&*name), "the name {} says nothing", path.display());
    }
}

#[test]
fn no_test_is_ignored_and_nothing_is_left_to_do() {
    for path in rust_files().into_iter().filter(|path| !path.ends_with(HERE)) {
        let text = project::read(&path);
        for left in ["#[ignore", "todo!(", "unimplemented!(", "dbg!("] {
            assert!(!text.contains(left), "{}: {left}", path.display());
        }
    }
}

#[test]
fn no_file_names_the_machine_it_was_written_on() {
    let here = project::root().display().to_string();
    let homes = [here.as_str(), "/root/", "/home/", "/Users/", "/mnt/"];
    for path in written_files() {
        let text = project::read(&path);
        for (number, line) in text.lines().enumerate() {
            let named = homes.iter().find(|home| names_path(line, home));
            assert_eq!(named, None, "{}:{}: {line}", path.display(), number + 1);
        }
    }
}

/// Whether an absolute path in this line begins with `home`.
fn names_path(line: &str, home: &str) -> bool {
    line.match_indices(home).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || "./-_}~*)>".contains(c))
    })
}

#[test]
fn packages_come_from_the_public_registry() {
    let lock = project::read("Cargo.lock");
    let public = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    let others: Vec<_> =
        lock.lines().filter(|line| line.starts_with("source = ") && *line != public).collect();
    assert!(others.is_empty(), "{others:?}");
    let mirrors =
        ["index-url", "--registry", "replace-with", "[registries", "GOPROXY=", "PIP_INDEX"];
    for path in written_files() {
        let text = project::read(&path);
        for mirror in mirrors {
            assert!(!text.contains(mirror), "{} names a registry: {mirror}", path.display());
        }
    }
}

/// Every text file but this one, which lists what must not be found.
fn written_files() -> Vec<PathBuf> {
    project::tree("")
        .into_iter()
        .filter(|path| project::root().join(path).is_file() && !path.ends_with(HERE))
        .filter(|path| std::fs::read_to_string(project::root().join(path)).is_ok())
        .collect()
}

/// Clippy reads one file only, so the file for services has to repeat the rules for all crates.
#[test]
fn the_clippy_rules_for_all_crates_also_apply_to_services() {
    let read = |file: &str| project::read(file);
    let (all, services) = (read("clippy.toml"), read("services/clippy.toml"));
    let missing: Vec<&str> = all.lines().filter(|line| !services.contains(*line)).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn every_migration_is_compiled_in() {
    let services = WITH_DATABASE.into_iter().filter_map(|name| Some((name, migrations(name)?)));
    let compiled = services.chain([("mesh", &*mesh::postgres::MESH_MIGRATIONS)]);
    let files: BTreeSet<(String, String)> = project::tree("migrations")
        .into_iter()
        .filter(|path| path.extension().is_some_and(|ending| ending == "sql"))
        .map(|path| {
            let folder = path.parent().and_then(Path::file_name).expect("a folder");
            (folder.to_string_lossy().into_owned(), project::read(path))
        })
        .collect();
    let compiled: BTreeSet<(String, String)> = compiled
        .flat_map(|(folder, migrator)| {
            migrator.iter().map(move |one| (folder.to_owned(), one.sql.as_str().to_owned()))
        })
        .collect();
    let differ: Vec<_> = compiled.symmetric_difference(&files).collect();
    assert!(differ.is_empty(), "only as a file, or only compiled in: {differ:#?}");
}
