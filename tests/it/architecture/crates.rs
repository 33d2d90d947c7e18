//! Which crates may depend on which, from `cargo metadata`.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Command,
    sync::LazyLock,
};

use harness::project;
use onsale::registry::SERVICES;
use serde_json::Value;

/// A set of crate names.
type Names = BTreeSet<String>;

/// The workspace as Cargo resolves it for the machine that runs this.
struct Workspace {
    /// The members, by name, with the folder of each.
    members: BTreeMap<String, String>,
    /// The dependencies of each crate in the graph.
    normal: BTreeMap<String, Names>,
    /// The dev-dependencies of each member.
    dev: BTreeMap<String, Names>,
}

static WORKSPACE: LazyLock<Workspace> = LazyLock::new(Workspace::read);

impl Workspace {
    fn read() -> Self {
        let metadata = metadata();
        let name_of: BTreeMap<&str, &str> = list(&metadata["packages"])
            .iter()
            .map(|package| (text(&package["id"]), text(&package["name"])))
            .collect();
        let ids: BTreeSet<&str> = list(&metadata["workspace_members"]).iter().map(text).collect();
        let root = project::root().display().to_string();
        let folder_of = |package: &Value| {
            let manifest = text(&package["manifest_path"]);
            let folder = manifest.strip_suffix("/Cargo.toml").unwrap_or(manifest);
            folder.strip_prefix(&root).unwrap_or(folder).trim_start_matches('/').to_owned()
        };
        let members = list(&metadata["packages"])
            .iter()
            .filter(|package| ids.contains(text(&package["id"])))
            .map(|package| (text(&package["name"]).to_owned(), folder_of(package)))
            .collect();
        let (mut normal, mut dev) = (BTreeMap::<_, Names>::new(), BTreeMap::<_, Names>::new());
        for node in list(&metadata["resolve"]["nodes"]) {
            let name = name_of[text(&node["id"])].to_owned();
            for dependency in list(&node["deps"]) {
                let on = name_of[text(&dependency["pkg"])].to_owned();
                for how in list(&dependency["dep_kinds"]) {
                    let kind = if how["kind"] == "dev" { &mut dev } else { &mut normal };
                    kind.entry(name.clone()).or_default().insert(on.clone());
                }
            }
        }
        Self { members, normal, dev }
    }

    fn normal(&self, member: &str) -> Names {
        self.normal.get(member).cloned().unwrap_or_default()
    }

    fn dev(&self, member: &str) -> Names {
        self.dev.get(member).cloned().unwrap_or_default()
    }

    /// The members among a set of crates.
    fn ours(&self, crates: &Names) -> Names {
        crates.iter().filter(|name| self.members.contains_key(*name)).cloned().collect()
    }

    /// The members that depend on a crate.
    fn users_of(&self, wanted: &str) -> Names {
        let with = |member: &&String| self.normal(member).contains(wanted);
        self.members.keys().filter(with).cloned().collect()
    }

    /// All transitive dependencies of a member.
    fn closure(&self, member: &str) -> Names {
        let mut all = Names::new();
        let mut open = vec![member.to_owned()];
        while let Some(name) = open.pop() {
            for on in self.normal(&name) {
                if all.insert(on.clone()) {
                    open.push(on);
                }
            }
        }
        all
    }
}

/// `cargo metadata` for this machine, offline.
fn metadata() -> Value {
    let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
    let output = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()))
        .args(["metadata", "--format-version", "1", "--offline", "--locked"])
        .args(["--filter-platform", &platform])
        .current_dir(project::root())
        .output()
        .expect("cargo runs: it runs this test");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("cargo writes JSON")
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn names(list: &[&str]) -> Names {
    list.iter().map(|name| (*name).to_owned()).collect()
}

#[test]
fn every_crate_of_the_workspace_is_known_here() {
    let mut known = names(&[
        "auditor", "events", "flows", "mesh", "model", "onsale", "servers", "sim", "tests", "text",
    ]);
    known.extend(names(&SERVICES));
    assert_eq!(WORKSPACE.members.keys().cloned().collect::<Names>(), known);
    for service in SERVICES {
        assert_eq!(WORKSPACE.members[service], format!("services/{service}"));
    }
}

#[test]
fn the_events_crate_depends_on_no_runtime() {
    let plain = names(&["serde", "serde_json", "thiserror", "time", "utoipa", "uuid"]);
    assert_eq!(WORKSPACE.normal("events").difference(&plain).collect::<Vec<_>>(), [""; 0]);
    let all = WORKSPACE.closure("events");
    for runtime in ["tokio", "async-nats", "sqlx", "sqlx-core", "redis", "axum", "hyper", "futures"]
    {
        assert!(!all.contains(runtime), "events is built with {runtime}");
    }
}

#[test]
fn flows_and_the_auditor_depend_on_no_runtime_and_no_service() {
    assert_eq!(WORKSPACE.ours(&WORKSPACE.closure("flows")), names(&["events"]));
    assert_eq!(WORKSPACE.ours(&WORKSPACE.closure("auditor")), names(&["events", "flows"]));
    let all = WORKSPACE.closure("auditor");
    for runtime in ["tokio", "async-nats", "sqlx", "redis", "axum", "hyper", "futures"] {
        assert!(!all.contains(runtime), "the auditor is built with {runtime}");
    }
    assert!(!WORKSPACE.users_of("audit").contains("sim"), "a sale is audited without the service");
}

#[test]
fn the_text_crate_depends_on_no_runtime_and_no_member() {
    assert_eq!(WORKSPACE.ours(&WORKSPACE.closure("text")), names(&[]));
    let all = WORKSPACE.closure("text");
    for runtime in ["tokio", "async-nats", "sqlx", "redis", "axum", "hyper", "futures"] {
        assert!(!all.contains(runtime), "text is built with {runtime}");
    }
}

#[test]
fn only_the_runtime_speaks_to_nats() {
    assert_eq!(WORKSPACE.users_of("async-nats"), names(&["mesh", "tests"]));
    let tried_with: Vec<_> =
        WORKSPACE.members.keys().filter(|m| WORKSPACE.dev(m).contains("async-nats")).collect();
    assert!(tried_with.iter().all(|member| *member == "servers"), "{tried_with:?}");
}

#[test]
fn no_service_depends_on_another() {
    for service in SERVICES {
        let on = WORKSPACE.ours(&WORKSPACE.normal(service));
        let known = match service {
            "audit" => names(&["auditor", "events", "flows", "mesh", "text"]),
            _ => names(&["events", "mesh", "text"]),
        };
        assert!(on.is_subset(&known), "{service} depends on {on:?}");
        let tried_with = WORKSPACE.ours(&WORKSPACE.dev(service));
        let known = names(&["events", "mesh", "servers"]);
        assert!(tried_with.is_subset(&known), "{service} is tested with {tried_with:?}");
        let users = WORKSPACE.users_of(service);
        assert!(
            users.is_subset(&names(&["model", "onsale", "sim", "tests"])),
            "{service} is seen by {users:?}"
        );
    }
}

#[test]
fn the_runtime_depends_on_no_service() {
    let ours = |member: &str| WORKSPACE.ours(&WORKSPACE.normal(member));
    assert_eq!(ours("events"), names(&[]));
    assert_eq!(ours("servers"), names(&[]));
    // `servers` is behind the feature `testkit`.
    assert_eq!(ours("mesh"), names(&["events", "servers", "text"]));
    assert!(ours("onsale").is_disjoint(&names(&["model", "sim", "tests"])));
}

#[test]
fn only_tests_enable_the_testkit() {
    let metadata = metadata();
    let mut enabled_by = Names::new();
    for package in list(&metadata["packages"]) {
        for dependency in list(&package["dependencies"]) {
            if list(&dependency["features"]).iter().any(|feature| text(feature) == "testkit") {
                assert_eq!(text(&dependency["kind"]), "dev", "by {}", text(&package["name"]));
                enabled_by.insert(text(&package["name"]).to_owned());
            }
        }
        for (feature, enables) in package["features"].as_object().into_iter().flatten() {
            let is_kit = |enabled: &Value| text(enabled).ends_with("/testkit");
            assert!(!list(enables).iter().any(is_kit), "{feature} of {}", text(&package["name"]));
        }
    }
    assert!(enabled_by.contains("mesh"), "{enabled_by:?}");
}

#[test]
fn the_gateway_has_no_store() {
    let gateway = WORKSPACE.normal("gateway");
    for store in ["sqlx", "redis"] {
        assert!(!gateway.contains(store), "gateway depends on {store}");
    }
}
