//! Lists of services outside the registry agree with it.

use std::collections::BTreeSet;

use events::CONTRACTS;
use mesh::Wiring;
use onsale::config::Config;
use onsale::registry::{self, SERVICES};

fn set(names: impl IntoIterator<Item = &'static str>) -> BTreeSet<&'static str> {
    names.into_iter().collect()
}

/// The services that declare something of this kind.
fn declaring(wanted: fn(&Wiring) -> bool) -> BTreeSet<&'static str> {
    set(registry::wirings().iter().filter(|wiring| wanted(wiring)).map(|wiring| wiring.service))
}

fn producers() -> BTreeSet<&'static str> {
    declaring(|wiring| wiring.emits().next().is_some())
}

fn consumers() -> BTreeSet<&'static str> {
    declaring(|wiring| !wiring.consumes.is_empty())
}

#[test]
fn the_contracts_are_those_of_the_services() {
    let named = set(CONTRACTS.iter().map(|contract| contract.name));
    assert_eq!(named, set(SERVICES.into_iter().filter(|name| *name != gateway::NAME)));
    let emit = CONTRACTS.iter().filter(|contract| !contract.events.is_empty());
    assert_eq!(set(emit.map(|contract| contract.name)), producers());
    let keep = CONTRACTS.iter().filter(|contract| contract.keeps_dead_letters);
    assert_eq!(set(keep.map(|contract| contract.name)), consumers());
}

#[test]
fn every_service_that_emits_events_has_a_stream() {
    let topology = onsale::fleet::topology(&Config::default()).expect("it is read");
    let name = |stream: &str| stream.to_lowercase().replace('_', "-");
    let streams: BTreeSet<String> = topology.streams().map(name).collect();
    let producers: BTreeSet<String> = producers().into_iter().map(str::to_owned).collect();
    assert!(producers.is_subset(&streams), "{producers:?} {streams:?}");
}

#[test]
fn audit_reads_the_events_of_every_other_service() {
    let wirings = registry::wirings();
    let audit = wirings.iter().find(|wiring| wiring.service == audit::NAME).expect("it is there");
    let read = set(audit.follows.iter().map(|event| events::producer_of(event)));
    let others = producers().into_iter().filter(|service| *service != audit::NAME);
    assert_eq!(read, set(others));
}

#[test]
fn a_folder_lies_in_services_for_each_service() {
    let folders =
        std::fs::read_dir(harness::project::root().join("services")).expect("it is there");
    let folders: BTreeSet<String> = folders
        .map(|folder| folder.expect("it is read").file_name().to_string_lossy().into_owned())
        .filter(|name| !["mesh", "onsale", "clippy.toml"].contains(&name.as_str()))
        .collect();
    assert_eq!(folders, SERVICES.into_iter().map(str::to_owned).collect());
}
