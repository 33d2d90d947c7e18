//! No file of a crate depends on one that depends on it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use harness::project;

/// The path of a module from the root of its crate.
type Module = Vec<String>;
/// Which modules a module depends on.
type Edges = BTreeMap<Module, BTreeSet<Module>>;

/// The crates whose files must form no circle.
const WITHOUT_CIRCLES: [&str; 21] = [
    "auditor/src",
    "events/src",
    "flows/src",
    "servers/src",
    "services/audit/src",
    "services/concert/src",
    "services/data-platform/src",
    "services/gateway/src",
    "services/mesh/src",
    "services/notification/src",
    "services/onsale/src",
    "services/payment/src",
    "services/point/src",
    "services/queue/src",
    "services/ranking/src",
    "services/reservation/src",
    "services/user/src",
    "tests/model/src",
    "tests/sim/src",
    "tests/src",
    "text/src",
];
/// The crates whose rooms must form no circle either.
const WITHOUT_CIRCLES_OF_ROOMS: [&str; 1] = ["services/gateway/src"];
/// How many re-exports a name may go through.
const REEXPORTS_MAX: usize = 3;

/// The modules of a crate with their code; tests are left out.
fn modules(src: &str) -> BTreeMap<Module, Vec<String>> {
    let files = project::tree(src).into_iter().filter(|path| path.extension().is_some());
    let mut found = BTreeMap::new();
    for file in files.filter(|path| path.extension().is_some_and(|ending| ending == "rs")) {
        let name = file.strip_prefix(src).expect("it lies there").with_extension("");
        let mut module: Module =
            name.iter().map(|part| part.to_string_lossy().into_owned()).collect();
        module.retain(|part| part != "lib" && part != "main" && part != "mod");
        if module.iter().any(|part| part == "tests" || part == "testkit") {
            continue;
        }
        found.insert(module, tokens(&project::read(&file)));
    }
    found
}

/// Identifiers, `::` and single characters, without comments and without the tests at the end.
fn tokens(text: &str) -> Vec<String> {
    let is_tests = |rest: &str| {
        let next = rest.lines().nth(1).unwrap_or_default();
        next.contains("mod tests {")
    };
    let mut marks = text.match_indices("#[cfg(test)]");
    let end = marks.find(|(at, _)| is_tests(&text[*at..])).map_or(text.len(), |(at, _)| at);
    let code = &text[..end];
    let code: String = code
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .fold(String::new(), |all, line| all + line + "\n");
    let mut found: Vec<String> = Vec::new();
    let mut is_open = false;
    for char in code.chars() {
        let is_word = char.is_alphanumeric() || char == '_';
        match found.last_mut() {
            Some(last) if is_word && is_open => last.push(char),
            Some(last) if char == ':' && last == ":" => last.push(':'),
            _ if char.is_whitespace() => {}
            _ => found.push(char.to_string()),
        }
        is_open = is_word;
    }
    found
}

/// The paths of a tree (`a::{b, c::d}`) that begins at `at`, and where it ends.
fn paths(tokens: &[String], mut at: usize, before: &[String]) -> (Vec<Module>, usize) {
    let mut path = before.to_vec();
    loop {
        match tokens.get(at).map(String::as_str) {
            Some("{") => {
                let (mut all, mut next) = (Vec::new(), at + 1);
                while tokens.get(next).is_some_and(|token| token != "}") {
                    let (some, end) = paths(tokens, next, &path);
                    all.extend(some);
                    next = end.max(next + 1);
                    while tokens.get(next).is_some_and(|token| token == ",") {
                        next += 1;
                    }
                }
                return (all, next + 1);
            }
            Some(word) if word.chars().next().is_some_and(|c| c.is_alphabetic() || c == '_') => {
                path.push(word.to_owned());
            }
            _ => return (vec![path], at),
        }
        at += 1;
        if tokens.get(at).is_none_or(|token| token != "::") {
            // `… as Name`
            let is_renamed = tokens.get(at).is_some_and(|token| token == "as");
            return (vec![path], if is_renamed { at + 2 } else { at });
        }
        at += 1;
    }
}

/// The module that a path names, seen from `from`; with the name in it.
fn resolve(path: &[String], from: &Module, known: &BTreeSet<Module>) -> Option<(Module, String)> {
    let mut full = match path[0].as_str() {
        "crate" => Vec::new(),
        "self" => from.clone(),
        "super" => from[..from.len().checked_sub(1)?].to_vec(),
        _ => [from.clone(), vec![path[0].clone()]].concat(),
    };
    for part in &path[1..] {
        match part.as_str() {
            "super" => drop(full.pop()),
            part => full.push(part.to_owned()),
        }
    }
    let name = full.last().cloned().unwrap_or_default();
    while !known.contains(&full) {
        full.pop()?;
    }
    Some((full, name))
}

fn edges(src: &str) -> Edges {
    let modules = modules(src);
    let known: BTreeSet<Module> = modules.keys().cloned().collect();
    let (mut reexports, mut uses) = (BTreeMap::new(), Vec::new());
    for (module, tokens) in &modules {
        let mut at = 0;
        while at < tokens.len() {
            let is_child = || known.contains(&[module.clone(), vec![tokens[at].clone()]].concat());
            let follows = |token: &str| tokens.get(at + 1).is_some_and(|next| next == token);
            let before = |back: usize| at.checked_sub(back).map_or("", |at| tokens[at].as_str());
            let begins = matches!(tokens[at].as_str(), "crate" | "super" | "self") || is_child();
            if !(begins && follows("::")) || before(1) == "::" {
                at += 1;
                continue;
            }
            // `pub use …` and `pub(crate) use …`
            let is_reexport = before(1) == "use" && matches!(before(2), "pub" | ")");
            let (paths, end) = paths(tokens, at, &[]);
            for path in paths {
                match resolve(&path, module, &known) {
                    Some((target, name)) if is_reexport => {
                        reexports.insert((module.clone(), name), target);
                    }
                    Some((target, name)) => uses.push((module.clone(), target, name)),
                    None => {}
                }
            }
            at = end;
        }
    }
    let mut edges: Edges = modules.keys().map(|module| (module.clone(), BTreeSet::new())).collect();
    for (module, mut target, name) in uses {
        for _ in 0..REEXPORTS_MAX {
            match reexports.get(&(target.clone(), name.clone())) {
                Some(origin) => target.clone_from(origin),
                None => break,
            }
        }
        if target != module {
            edges.entry(module).or_default().insert(target);
        }
    }
    edges
}

/// What is left when, again and again, the modules go that depend on none that is left.
fn circles(mut edges: Edges) -> BTreeSet<String> {
    loop {
        let left: BTreeSet<Module> = edges.keys().cloned().collect();
        let done = |on: &BTreeSet<Module>| on.is_disjoint(&left);
        let before = edges.len();
        edges.retain(|_, on| !done(on));
        if edges.len() == before {
            break;
        }
    }
    // Those that only depend on a circle are no part of it.
    loop {
        let needed: BTreeSet<Module> = edges.values().flatten().cloned().collect();
        let before = edges.len();
        edges.retain(|module, _| needed.contains(module));
        if edges.len() == before {
            return edges.keys().map(|module| module.join("/")).collect();
        }
    }
}

#[test]
fn no_file_depends_on_one_that_depends_on_it() {
    let (mut found, mut dependencies, mut files) = (Vec::new(), 0, 0);
    for src in WITHOUT_CIRCLES {
        assert!(Path::new(&project::root().join(src)).is_dir(), "{src}");
        let edges = edges(src);
        let count: usize = edges.values().map(BTreeSet::len).sum();
        dependencies += count;
        files += edges.len();
        let circles = circles(edges);
        if !circles.is_empty() {
            found.push((src, circles));
        }
    }
    assert!(found.is_empty(), "circles: {found:?}");
    // With fewer, the reading of them must be wrong.
    assert!(dependencies > files, "{dependencies} dependencies of {files} files");
}

/// Which rooms depend on which: a room is a folder of the crate and the file of the same name.
fn rooms(edges: &Edges) -> Edges {
    let room_of = |module: &Module| module.iter().take(1).cloned().collect::<Module>();
    let mut rooms = Edges::new();
    for (module, on) in edges {
        let room = room_of(module);
        let others = on.iter().map(room_of).filter(|other| *other != room).collect::<Vec<_>>();
        rooms.entry(room).or_default().extend(others);
    }
    rooms
}

#[test]
fn no_room_depends_on_one_that_depends_on_it() {
    for src in WITHOUT_CIRCLES_OF_ROOMS {
        let rooms = rooms(&edges(src));
        assert!(rooms.len() > 2, "{src}: {rooms:?}");
        let circles = circles(rooms);
        assert!(circles.is_empty(), "{src}: circles of the rooms {circles:?}");
    }
}

#[test]
fn a_circle_of_rooms_is_found_though_its_files_form_none() {
    let module = |path: &str| path.split('/').map(str::to_owned).collect::<Module>();
    let edges = Edges::from([
        (module("a/x"), BTreeSet::from([module("b/x")])),
        (module("b/x"), BTreeSet::new()),
        (module("b/y"), BTreeSet::from([module("a/y"), module("b/x")])),
        (module("a/y"), BTreeSet::new()),
        (module("c"), BTreeSet::from([module("a/x")])),
    ]);
    assert!(circles(edges.clone()).is_empty());
    assert_eq!(circles(rooms(&edges)), BTreeSet::from(["a".to_owned(), "b".to_owned()]));
}

#[test]
fn a_circle_is_found_and_what_only_depends_on_it_is_not_named() {
    let module = |name: &str| vec![name.to_owned()];
    let on = |names: &[&str]| names.iter().map(|name| module(name)).collect();
    let edges = BTreeMap::from([
        (module("a"), on(&["b"])),
        (module("b"), on(&["c", "d"])),
        (module("c"), on(&["b"])),
        (module("d"), on(&[])),
    ]);
    assert_eq!(circles(edges), BTreeSet::from(["b".to_owned(), "c".to_owned()]));
    let code = tokens("use crate::{a::B, c::{self, D}}; // use crate::e::F;\nsuper::g::h();");
    let (found, _) = paths(&code, 1, &[]);
    let found: Vec<String> = found.iter().map(|path| path.join("::")).collect();
    assert_eq!(found, ["crate::a::B", "crate::c::self", "crate::c::D"]);
    assert!(!code.contains(&"e".to_owned()) && code.contains(&"h".to_owned()));
}
