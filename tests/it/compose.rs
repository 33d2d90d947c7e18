//! `compose.yaml` must agree with the binary.
//!
//! It cannot be run in a test, so it is parsed: versions, ports, environment and users are
//! compared with the constants of the binary.

mod watching;

use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    process::Command,
    sync::LazyLock,
};

use harness::project;
use onsale::{
    config::{CALLOUT, Config, HTTP_ADDR, PROVISIONER, answers},
    registry::{SERVICES, WITH_DATABASE, WITH_VALKEY},
};
use serde_json::Value;

/// The text after a name in `${…}` when the variable must be set.
const MUST: &str = ":?make .env with onsale secrets";
/// Where every service serves its health and its metrics, for the other containers.
const HEALTH_ADDR: &str = "0.0.0.0:8081";
/// The jobs that run once, before the services.
const JOBS: [&str; 2] = ["migrate", "topology"];
/// The only folder in a container that services can write files to.
const FOLDERS: &str = "/var/lib/onsale";
/// The secrets of third parties, which the operator writes into `.env` when needed.
const OF_OTHERS: [&str; 4] = [
    "ONSALE_ALIMTALK_APP_KEY",
    "ONSALE_ALIMTALK_SECRET",
    "ONSALE_WEBHOOK_SECRET",
    "ONSALE_EXPORT_TOKEN",
];
/// The servers.
const SERVERS: [&str; 3] = ["nats", "postgres", "valkey"];
/// What watches the rest.
const WATCHERS: [&str; 3] = ["jaeger", "prometheus", "grafana"];

type Vars = BTreeMap<String, String>;

static COMPOSE: LazyLock<Value> = LazyLock::new(|| {
    serde_saphyr::from_str(&project::read("compose.yaml")).expect("compose.yaml is YAML")
});

fn containers() -> BTreeSet<&'static str> {
    let services = COMPOSE["services"].as_object().expect("compose.yaml has services");
    services.keys().map(String::as_str).collect()
}

fn environment(container: &str) -> Vars {
    let vars = COMPOSE["services"][container]["environment"].as_object();
    let vars = vars.unwrap_or_else(|| panic!("{container} has no environment"));
    vars.iter().map(|(name, value)| (name.clone(), plain(value))).collect()
}

fn command(container: &str) -> Vec<String> {
    let words = COMPOSE["services"][container]["command"].as_array();
    words.into_iter().flatten().map(plain).collect()
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A variable of `.env` that must be set, in compose's notation.
fn secret(name: &str) -> String {
    format!("${{{name}{MUST}}}")
}

/// A variable of `.env` that need not be set, in compose's notation.
fn optional(name: &str, default: &str) -> (String, String) {
    (name.to_owned(), format!("${{{name}:-{default}}}"))
}

fn upper(name: &str) -> String {
    name.to_uppercase().replace('-', "_")
}

/// Every `${…}` in a text: its name, and the text after the name.
fn interpolated(text: &str) -> Vec<(&str, &str)> {
    text.match_indices("${")
        .filter_map(|(at, _)| text[at + 2..].split_once('}'))
        .map(|(inside, _)| inside.split_at(inside.find(':').unwrap_or(inside.len())))
        .collect()
}

#[test]
fn there_is_one_container_for_each_service_and_each_server() {
    let wanted: BTreeSet<_> =
        SERVICES.into_iter().chain(JOBS).chain(SERVERS).chain(WATCHERS).collect();
    assert_eq!(containers(), wanted);
    for service in SERVICES {
        assert_eq!(command(service), ["run", service]);
    }
    assert_eq!(command("migrate"), ["migrate"]);
    assert_eq!(command("topology"), ["topology", "apply"]);
}

#[test]
fn the_servers_are_the_pinned_ones() {
    let images = [("nats", "nats"), ("postgres", "postgres"), ("valkey", "valkey/valkey")];
    for (server, repository) in images {
        let image = plain(&COMPOSE["services"][server]["image"]);
        let (name, tag) = image.split_once(':').expect("an image with its version");
        let version = tag.split('-').next().unwrap_or_default();
        let pinned = servers::PINNED.iter().find(|(name, _)| *name == server).expect("pinned").1;
        assert_eq!(name, repository);
        assert!(version.split('.').count() >= 2, "{image} names no minor version");
        let same = pinned == version || pinned.starts_with(&format!("{version}."));
        assert!(same, "{image}, but {pinned} is pinned");
    }
}

#[test]
fn a_container_gets_its_own_secrets_and_no_other() {
    for service in SERVICES {
        let mut wanted = Vars::from([
            ("ONSALE_NATS_URL".to_owned(), "nats://nats:4222".to_owned()),
            ("ONSALE_LOG_FORMAT".to_owned(), "json".to_owned()),
            ("OTEL_EXPORTER_OTLP_ENDPOINT".to_owned(), "http://jaeger:4318".to_owned()),
            ("OTEL_METRICS_EXPORTER".to_owned(), "none".to_owned()),
        ]);
        let seed = format!("ONSALE_{}_NKEY_SEED", upper(service));
        wanted.insert(seed.clone(), secret(&seed));
        for key in beside(service) {
            let seed = format!("ONSALE_{}_NKEY_SEED", upper(&key));
            wanted.insert(seed.clone(), secret(&seed));
        }
        if WITH_DATABASE.contains(&service) {
            let (name, url) = database(service);
            wanted.insert(name, url);
        }
        if WITH_VALKEY.contains(&service) {
            let url = format!("redis://:{}@valkey:6379/", secret("ONSALE_VALKEY_PASSWORD"));
            wanted.insert("ONSALE_VALKEY_URL".to_owned(), url);
        }
        wanted.extend(settings(service));
        wanted.insert("ONSALE_HEALTH_ADDR".to_owned(), HEALTH_ADDR.to_owned());
        assert_eq!(environment(service), wanted, "{service}");
    }
}

/// The identities whose keys a service has besides its own.
fn beside(service: &str) -> Vec<String> {
    match service {
        "gateway" => Vec::new(),
        "user" => [answers(service)].into_iter().chain(CALLOUT.map(str::to_owned)).collect(),
        _ => vec![answers(service)],
    }
}

/// The environment of a service besides its servers.
fn settings(service: &str) -> Vars {
    let fixed = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let settings = match service {
        "user" => vec![
            optional("ONSALE_OPERATOR_EMAIL", "operator@onsale.example"),
            fixed("ONSALE_OPERATOR_PASSWORD", &secret("ONSALE_OPERATOR_PASSWORD")),
        ],
        "notification" => vec![
            optional("ONSALE_NOTIFY", "folder"),
            fixed("ONSALE_NOTIFY_FOLDER", &format!("{FOLDERS}/messages")),
            optional("ONSALE_ALIMTALK_URL", ""),
            optional("ONSALE_ALIMTALK_APP_KEY", ""),
            optional("ONSALE_ALIMTALK_SECRET", ""),
            optional("ONSALE_ALIMTALK_SENDER", ""),
            optional("ONSALE_ALIMTALK_SMS_FROM", ""),
            optional("ONSALE_WEBHOOK_URL", ""),
            optional("ONSALE_WEBHOOK_SECRET", ""),
        ],
        "data-platform" => vec![
            optional("ONSALE_EXPORT_URL", ""),
            optional("ONSALE_EXPORT_TOKEN", ""),
            optional("ONSALE_EXPORT_FOLDER", ""),
        ],
        "audit" => vec![optional("ONSALE_AUDIT_KEEP_DAYS", "30")],
        "gateway" => vec![fixed("ONSALE_HTTP_ADDR", "0.0.0.0:8080")],
        _ => Vec::new(),
    };
    settings.into_iter().collect()
}

/// Name and value of the variable for a service's database.
fn database(service: &str) -> (String, String) {
    let password = secret(&format!("ONSALE_{}_DATABASE_PASSWORD", upper(service)));
    let (role, host) = (format!("onsale_{}", service.replace('-', "_")), "postgres:5432");
    (
        format!("ONSALE_{}_DATABASE_URL", upper(service)),
        format!("postgres://{role}:{password}@{host}/{role}?sslmode=disable"),
    )
}

#[test]
fn the_jobs_get_what_they_need() {
    let common = [
        "ONSALE_NATS_URL",
        "ONSALE_LOG_FORMAT",
        "OTEL_EXPORTER_OTLP_ENDPOINT",
        "OTEL_METRICS_EXPORTER",
    ];
    let own = |job| -> Vars {
        let given = environment(job).into_iter();
        given.filter(|(name, _)| !common.contains(&name.as_str())).collect()
    };
    assert_eq!(own("migrate"), WITH_DATABASE.into_iter().map(database).collect());
    let seed = format!("ONSALE_{}_NKEY_SEED", upper(PROVISIONER));
    assert_eq!(own("topology"), Vars::from([(seed.clone(), secret(&seed))]));
}

#[test]
fn the_binary_reads_every_variable_that_it_gets() {
    let text = || "x".to_owned();
    let config = Config {
        nats_url: text(),
        valkey_url: text(),
        database_urls: WITH_DATABASE
            .into_iter()
            .map(|service| (service.to_owned(), text()))
            .collect(),
        nkey_seeds: SERVICES
            .into_iter()
            .flat_map(beside)
            .chain(SERVICES.into_iter().chain([PROVISIONER]).map(str::to_owned))
            .map(|identity| (identity, text()))
            .collect(),
        http_addr: Some(HTTP_ADDR.parse().expect("an address")),
        replicas: None,
    };
    let read: BTreeSet<_> = config.to_env().into_iter().map(|(name, _)| name).collect();
    let ours = SERVICES.into_iter().chain(JOBS);
    let given: BTreeSet<_> =
        ours.flat_map(|container| environment(container).into_keys()).collect();
    let unset: Vec<_> = read.difference(&given).collect();
    assert!(unset.is_empty(), "read, but never given: {unset:?}");
    let sources: String = project::tree("services")
        .iter()
        .filter(|path| path.extension().is_some_and(|ending| ending == "rs"))
        .map(project::read)
        .collect();
    for name in given.difference(&read) {
        assert!(sources.contains(&format!("\"{name}\"")), "given, but never read: {name}");
    }
}

#[test]
fn nats_knows_every_identity_and_no_other() {
    let conf = project::read("jetstream/nats.conf");
    let uncommented = |line: &&str| !line.trim_start().starts_with('#');
    let code = conf.lines().filter(uncommented).collect::<Vec<_>>().join("\n");
    let variables: BTreeSet<String> = code
        .match_indices("$ONSALE_")
        .map(|(at, _)| {
            let rest = &code[at + 1..];
            let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(rest.len());
            rest[..end].to_owned()
        })
        .collect();
    let given = environment("nats");
    assert_eq!(given.keys().cloned().collect::<BTreeSet<_>>(), variables);
    let keys = variables.iter().filter_map(|name| name.strip_prefix("ONSALE_NKEY_"));
    let identities = servers::IDENTITIES.iter().copied().chain([servers::ISSUER]);
    let identities: BTreeSet<_> = identities.map(upper).collect();
    assert_eq!(keys.map(str::to_owned).collect::<BTreeSet<_>>(), identities);
    for identity in identities {
        let name = format!("ONSALE_NKEY_{identity}");
        assert_eq!(given[&name], secret(&name));
    }
    for service in SERVICES.into_iter().chain([PROVISIONER]) {
        assert!(servers::IDENTITIES.contains(&service), "{service} has no user on the broker");
    }
}

#[test]
fn every_service_with_a_database_gets_a_role_of_its_own() {
    let given = environment("postgres");
    let passwords: BTreeSet<_> =
        given.keys().filter(|name| name.ends_with("_DATABASE_PASSWORD")).cloned().collect();
    let wanted =
        WITH_DATABASE.map(|service| format!("ONSALE_{}_DATABASE_PASSWORD", upper(service)));
    assert_eq!(passwords, BTreeSet::from(wanted));
    let databases = WITH_DATABASE.map(|service| format!("onsale_{}", service.replace('-', "_")));
    assert_eq!(made_by_the_script(&passwords), BTreeSet::from(databases));
    let mount = "./deploy/postgres/services.sh:/docker-entrypoint-initdb.d/services.sh:ro";
    assert!(volumes("postgres").contains(mount));
}

/// The databases that the container's script makes when it is given these passwords. A `psql` that
/// only says what it was asked stands for the client.
fn made_by_the_script(passwords: &BTreeSet<String>) -> BTreeSet<String> {
    let folder = tempfile::tempdir().expect("a folder");
    let psql = folder.path().join("psql");
    std::fs::write(&psql, "#!/bin/sh\necho \"$@\"\n").expect("it is written");
    std::fs::set_permissions(&psql, PermissionsExt::from_mode(0o755)).expect("it can be run");
    let said = Command::new("sh")
        .arg(project::root().join("deploy/postgres/services.sh"))
        .env_clear()
        .env("PATH", format!("{}:/usr/bin:/bin", folder.path().display()))
        .env("POSTGRES_USER", "postgres")
        .envs(passwords.iter().map(|name| (name, "secret")))
        .output()
        .expect("it runs");
    assert!(said.status.success(), "{}", String::from_utf8_lossy(&said.stderr));
    let said = String::from_utf8_lossy(&said.stdout).into_owned();
    said.split_whitespace()
        .filter_map(|word| word.strip_prefix("name=").map(str::to_owned))
        .collect()
}

fn volumes(container: &str) -> BTreeSet<String> {
    COMPOSE["services"][container]["volumes"].as_array().into_iter().flatten().map(plain).collect()
}

/// The ports that a container opens outside.
fn ports(container: &str) -> Vec<String> {
    let ports = COMPOSE["services"][container]["ports"].as_array();
    ports.into_iter().flatten().map(plain).collect()
}

#[test]
fn ports_are_the_documented_defaults() {
    let usual: SocketAddr = HTTP_ADDR.parse().expect("an address");
    assert_eq!(ports("gateway"), [format!("{0}:{0}", usual.port())]);
    assert!(environment("gateway")["ONSALE_HTTP_ADDR"].ends_with(&format!(":{}", usual.port())));
    assert!(project::read("Containerfile").contains(&format!("EXPOSE {}", usual.port())));
    let nats = environment("nats");
    assert_eq!(nats["ONSALE_NATS_LISTEN"], "0.0.0.0:4222");
    assert_eq!(nats["ONSALE_NATS_MONITOR"], "0.0.0.0:8222");
    assert_eq!(ports("nats"), ["127.0.0.1:4222:4222"]);
    assert!(ports("postgres").is_empty() && ports("valkey").is_empty());
    assert!(volumes("nats").contains("./jetstream/nats.conf:/etc/nats/nats.conf:ro"));
    assert_eq!(command("nats"), ["--config", "/etc/nats/nats.conf"]);
}

#[test]
fn servers_sync_to_disk_before_they_acknowledge() {
    assert!(command("postgres").contains(&"synchronous_commit=on".to_owned()));
    let valkey = command("valkey").join(" ");
    assert!(valkey.contains("--appendonly yes --appendfsync always"), "{valkey}");
    assert!(project::read("jetstream/nats.conf").contains("sync_interval: always"));
    for server in ["nats", "postgres", "valkey"] {
        let named: Vec<_> = COMPOSE["volumes"].as_object().into_iter().flatten().collect();
        assert!(named.iter().any(|(name, _)| *name == server), "{server} has no volume");
        assert!(volumes(server).iter().any(|mount| mount.starts_with(&format!("{server}:/"))));
    }
}

#[test]
fn files_are_written_on_a_volume_that_the_service_may_write_to() {
    let image = project::read("Containerfile");
    let user = image.lines().rev().find_map(|line| line.strip_prefix("USER "));
    let (user, group) = user.and_then(|user| user.split_once(':')).expect("a user and a group");
    let made = format!("install --directory --owner {user} --group {group}");
    assert!(image.contains(&made), "the folders are another user's than {user}:{group}");
    for (service, volume) in [("notification", "messages"), ("data-platform", "export")] {
        let folder = format!("{FOLDERS}/{volume}");
        assert_eq!(volumes(service), BTreeSet::from([format!("{volume}:{folder}")]));
        let mut named = COMPOSE["volumes"].as_object().into_iter().flatten();
        assert!(named.any(|(name, _)| *name == volume), "{volume} is no volume");
        assert!(image.contains(&folder), "the image has no {folder}");
    }
}

#[test]
fn a_service_starts_after_the_containers_that_it_depends_on() {
    let after = |container: &str, on: &str| {
        plain(&COMPOSE["services"][container]["depends_on"][on]["condition"])
    };
    for service in SERVICES {
        assert_eq!(after(service, "nats"), "service_healthy", "{service}");
        assert_eq!(after(service, "topology"), "service_completed_successfully", "{service}");
        if WITH_DATABASE.contains(&service) {
            assert_eq!(after(service, "migrate"), "service_completed_successfully", "{service}");
        }
        let others = COMPOSE["services"][service]["depends_on"].as_object().into_iter().flatten();
        for (on, _) in others {
            assert!(!SERVICES.contains(&on.as_str()), "{service} must not wait for {on}");
        }
    }
    for service in WITH_VALKEY {
        assert_eq!(after(service, "valkey"), "service_healthy", "{service}");
    }
    assert_eq!(after("migrate", "postgres"), "service_healthy");
    assert_eq!(after("topology", "nats"), "service_healthy");
}

/// The command of a container's health check.
fn check(container: &str) -> String {
    let test = COMPOSE["services"][container]["healthcheck"]["test"].as_array();
    test.into_iter().flatten().map(plain).collect::<Vec<_>>().join(" ")
}

#[test]
fn every_container_that_stays_up_has_a_health_check() {
    for server in ["nats", "postgres", "valkey"] {
        assert!(!check(server).is_empty(), "{server}");
    }
    for service in SERVICES {
        let addr = match service {
            "gateway" => format!("127.0.0.1/{}", HTTP_ADDR.rsplit(':').next().unwrap_or_default()),
            _ => HEALTH_ADDR.replace("0.0.0.0:", "127.0.0.1/"),
        };
        assert!(check(service).contains(&format!("/dev/tcp/{addr}")), "{service}");
        assert!(check(service).contains("GET /readyz"), "{service}");
    }
}

#[test]
fn no_secret_is_written_down() {
    let text = project::read("compose.yaml");
    let asked: BTreeSet<_> = interpolated(&text)
        .into_iter()
        .filter(|(name, rest)| {
            let is_left_out = *rest == ":-" && OF_OTHERS.contains(name);
            let is_good = *rest == MUST || is_left_out || !is_secret(name);
            assert!(is_good, "{name}{rest} has a default");
            *rest == MUST
        })
        .map(|(name, _)| name.to_owned())
        .collect();
    let made = onsale::secrets::make().expect("secrets").into_iter().map(|(name, _)| name);
    // Also generated, for use with the `nats` command.
    let for_tools = ["ONSALE_CLIENT_NKEY_SEED", "ONSALE_OPERATOR_NKEY_SEED"];
    let made: BTreeSet<_> = made.filter(|name| !for_tools.contains(&name.as_str())).collect();
    assert_eq!(asked, made);
    for container in containers().into_iter().filter(|name| *name != "prometheus") {
        for (name, value) in environment(container).iter().filter(|(name, _)| is_secret(name)) {
            assert!(value.contains("${"), "{name} of {container} is written down");
        }
    }
    for ignore in [".gitignore", ".dockerignore"] {
        let text = project::read(ignore);
        assert!(text.lines().any(|line| line.trim_start_matches('/') == ".env"), "{ignore}");
    }
}

fn is_secret(name: &str) -> bool {
    ["PASSWORD", "SEED", "SECRET", "TOKEN", "APP_KEY"].iter().any(|word| name.contains(word))
        || name.ends_with("AUTH")
}

#[test]
fn the_image_builds_the_locked_binary_and_runs_it_without_privileges() {
    let text = project::read("Containerfile");
    let version = project::read("Cargo.toml");
    let rust = version.lines().find_map(|line| line.strip_prefix("rust-version = "));
    let rust = rust.expect("the workspace says which Rust it needs").trim_matches('"');
    assert!(text.contains(&format!("FROM rust:{rust}-")), "built with another Rust than {rust}");
    assert_eq!(text.lines().filter(|line| line.starts_with("FROM ")).count(), 2);
    assert!(text.contains("cargo build --release --locked --no-default-features"));
    assert!(text.lines().any(|line| line == "ENTRYPOINT [\"onsale\"]"));
    let user = text.lines().rev().find_map(|line| line.strip_prefix("USER "));
    assert!(user.is_some_and(|user| user != "root" && !user.starts_with('0')), "{user:?}");
    for service in SERVICES.into_iter().chain(JOBS) {
        assert_eq!(COMPOSE["services"][service]["build"]["dockerfile"], "Containerfile");
        assert_eq!(COMPOSE["services"][service]["read_only"], true);
    }
}
