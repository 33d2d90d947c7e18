//! Jaeger, Prometheus and Grafana: what they are given, and whom they find.

use std::collections::BTreeSet;

use harness::project;
use onsale::registry::SERVICES;
use serde_json::Value;

use super::{
    COMPOSE, HEALTH_ADDR, WATCHERS, check, command, containers, environment, plain, ports, secret,
    volumes,
};

/// The configuration of Prometheus.
const PROMETHEUS: &str = "deploy/prometheus/prometheus.yml";
/// The data sources of Grafana.
const SOURCES: &str = "deploy/grafana/provisioning/datasources/onsale.yml";
/// Where Grafana finds its dashboards.
const DASHBOARDS: &str = "deploy/grafana/provisioning/dashboards/onsale.yml";

fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&project::read(path)).unwrap_or_else(|why| panic!("{path}: {why}"))
}

fn image(container: &str) -> String {
    plain(&COMPOSE["services"][container]["image"])
}

#[test]
fn what_watches_is_pinned_and_has_no_privileges() {
    let major = ["jaegertracing/jaeger:2.", "prom/prometheus:v3.", "grafana/grafana:12."];
    for (container, major) in WATCHERS.into_iter().zip(major) {
        let image = image(container);
        assert!(image.starts_with(major), "{image}");
        let parts = image.rsplit(':').next().unwrap_or_default().split('.').count();
        assert_eq!(parts, 3, "{image} names no whole version");
        let given = &COMPOSE["services"][container];
        assert_eq!(given["read_only"], true, "{container}");
        assert_eq!(given["cap_drop"][0], "ALL", "{container}");
        assert_eq!(given["security_opt"][0], "no-new-privileges:true", "{container}");
    }
    for container in ["prometheus", "grafana"] {
        assert!(!check(container).is_empty(), "{container} has no health check");
    }
}

#[test]
fn nothing_that_sells_waits_for_what_watches() {
    for container in containers() {
        let on = COMPOSE["services"][container]["depends_on"].as_object().into_iter().flatten();
        for (on, _) in on {
            assert!(!WATCHERS.contains(&on.as_str()), "{container} waits for {on}");
        }
    }
}

#[test]
fn only_this_machine_reaches_what_watches_and_grafana_asks_for_its_password() {
    assert_eq!(ports("jaeger"), ["127.0.0.1:16686:16686"]);
    assert_eq!(ports("prometheus"), ["127.0.0.1:9090:9090"]);
    assert_eq!(ports("grafana"), ["127.0.0.1:3000:3000"]);
    let grafana = environment("grafana");
    assert_eq!(grafana["GF_SECURITY_ADMIN_PASSWORD"], secret("ONSALE_GRAFANA_PASSWORD"));
    assert_eq!(grafana["GF_AUTH_ANONYMOUS_ENABLED"], "false");
    assert_eq!(grafana["GF_USERS_ALLOW_SIGN_UP"], "false");
    for service in SERVICES {
        let addr = &environment(service)["ONSALE_HEALTH_ADDR"];
        let port = addr.rsplit(':').next().unwrap_or_default();
        assert!(ports(service).iter().all(|open| !open.contains(port)), "{service}");
    }
}

#[test]
fn prometheus_scrapes_every_service_where_it_serves_its_metrics() {
    let config = yaml(PROMETHEUS);
    let jobs = config["scrape_configs"].as_array().expect("jobs");
    let of_job = |name: &str| jobs.iter().find(|job| job["job_name"] == name).expect("a job");
    let found = &of_job("onsale")["dns_sd_configs"][0];
    let names: BTreeSet<&str> =
        found["names"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    assert_eq!(names, BTreeSet::from(SERVICES));
    assert_eq!(HEALTH_ADDR, format!("0.0.0.0:{}", found["port"]));
    // Fixed addresses are those of containers, or its own.
    for job in jobs.iter().filter(|job| job["job_name"] != "onsale") {
        let target = job["static_configs"][0]["targets"][0].as_str().expect("a target");
        let host = target.split(':').next().unwrap_or_default();
        assert!(host == "localhost" || containers().contains(host), "{target}");
    }
    assert!(command("prometheus").contains(&"--enable-feature=exemplar-storage".to_owned()));
    assert!(
        command("prometheus").contains(&"--config.file=/etc/prometheus/prometheus.yml".to_owned())
    );
    assert!(volumes("prometheus").contains("./deploy/prometheus:/etc/prometheus:ro"));
}

#[test]
fn grafana_finds_its_sources_and_its_dashboards() {
    let mounts = volumes("grafana");
    assert!(mounts.contains("./deploy/grafana/provisioning:/etc/grafana/provisioning:ro"));
    let folder = plain(&yaml(DASHBOARDS)["providers"][0]["options"]["path"]);
    assert!(mounts.contains(&format!("./deploy/grafana/dashboards:{folder}:ro")));
    let home = environment("grafana")["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"].clone();
    let home = home.strip_prefix(&folder).map(|file| format!("deploy/grafana/dashboards{file}"));
    assert!(project::root().join(home.expect("in that folder")).exists());

    let sources = yaml(SOURCES);
    for source in sources["datasources"].as_array().expect("sources") {
        let url = plain(&source["url"]);
        let host = url.trim_start_matches("http://").split(':').next().unwrap_or_default();
        assert!(containers().contains(host), "{url}");
        if source["type"] == "prometheus" {
            let version = plain(&source["jsonData"]["prometheusVersion"]);
            assert!(image("prometheus").ends_with(&format!(":v{version}")), "{version}");
            let scraped = &yaml(PROMETHEUS)["global"]["scrape_interval"];
            assert_eq!(&source["jsonData"]["timeInterval"], scraped);
        }
    }
}

#[test]
fn metric_and_trace_lead_to_each_other() {
    let sources = yaml(SOURCES);
    let sources = sources["datasources"].as_array().expect("sources");
    let of = |kind: &str| sources.iter().find(|source| source["type"] == kind).expect("a source");
    let (metrics, traces) = (of("prometheus"), of("jaeger"));
    let exemplar = &metrics["jsonData"]["exemplarTraceIdDestinations"][0];
    assert_eq!(exemplar["datasourceUid"], traces["uid"]);
    assert_eq!(traces["jsonData"]["tracesToMetrics"]["datasourceUid"], metrics["uid"]);
    // The attribute of a span that leads to a label is one that spans have.
    let tag = plain(&traces["jsonData"]["tracesToMetrics"]["tags"][0]["key"]);
    let given = format!("KeyValue::new(\"{tag}\"");
    let of_mesh = project::tree("services/mesh/src");
    let mut code = of_mesh.iter().filter(|path| path.extension().is_some_and(|of| of == "rs"));
    assert!(code.any(|path| project::read(path).contains(&given)), "no span has {tag}");
    // Nobody collects logs, so there is no source for them.
    assert!(sources.iter().all(|source| source["type"] != "loki" || containers().contains("loki")));
}
