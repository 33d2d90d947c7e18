//! Chains of events come to an end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use flows::Flows;
use harness::wiring;
use mesh::Wiring;

type Follows = BTreeMap<String, BTreeSet<String>>;

/// Each event with the events that may follow from it, in a handler or by a timer.
fn follows(wirings: &[Wiring], flows: &Flows) -> Follows {
    let mut follows = Follows::new();
    let mut add = |event: &str, emitted: &str| {
        follows.entry(event.to_owned()).or_default().insert(emitted.to_owned());
    };
    for (event, emits) in wirings.iter().flat_map(|wiring| &wiring.consumes) {
        emits.iter().for_each(|emitted| add(event, emitted));
    }
    for (after, emitted, _) in flows.links() {
        add(&after.event, &emitted.event);
    }
    follows
}

/// Cycles that are not declared, and declarations without a cycle.
fn complaints(follows: &Follows, flows: &Flows) -> Vec<String> {
    let cycles: Vec<_> = follows.keys().filter_map(|event| way_back(event, follows)).collect();
    let is_of = |cycle: &Vec<&str>, members: &[String]| {
        cycle.iter().all(|event| members.iter().any(|member| member == event))
    };
    let undeclared = cycles
        .iter()
        .filter(|cycle| !flows.cycles().iter().any(|declared| is_of(cycle, &declared.events)))
        .map(|cycle| format!("may go on forever: {}", cycle.join(" → ")));
    let without = flows
        .cycles()
        .iter()
        .filter(|declared| !cycles.iter().any(|cycle| is_of(cycle, &declared.events)))
        .map(|declared| format!("no such cycle: {}", declared.events.join(" → ")));
    undeclared.chain(without).collect()
}

/// The shortest chain that leads from an event back to itself.
fn way_back<'a>(event: &'a str, follows: &'a Follows) -> Option<Vec<&'a str>> {
    let mut seen = BTreeSet::new();
    let mut chains = VecDeque::from([vec![event]]);
    while let Some(chain) = chains.pop_front() {
        let last = chain.last()?;
        for next in follows.get(*last).into_iter().flatten() {
            if next == event {
                return Some(chain);
            }
            if seen.insert(next) {
                chains.push_back([chain.as_slice(), &[next]].concat());
            }
        }
    }
    None
}

#[test]
fn every_chain_of_events_ends() {
    let flows = Flows::shipped();
    assert_eq!(complaints(&follows(&wiring::all(), flows), flows), [""; 0]);
}

fn example(edges: &[(&str, &str)]) -> Follows {
    let mut follows = Follows::new();
    for (from, to) in edges {
        follows.entry((*from).to_owned()).or_default().insert((*to).to_owned());
    }
    follows
}

#[test]
fn a_chain_that_leads_back_is_found() {
    let follows = example(&[("a", "b"), ("a", "d"), ("b", "c"), ("c", "a"), ("c", "b")]);
    assert_eq!(way_back("a", &follows), Some(vec!["a", "b", "c"]));
    assert_eq!(way_back("b", &follows), Some(vec!["b", "c"]));
    assert_eq!(way_back("d", &follows), None);
}

#[test]
fn an_undeclared_cycle_is_named_and_so_is_a_declaration_without_a_cycle() {
    let follows = example(&[("a.x", "b.y"), ("b.y", "a.x")]);
    let none = Flows::parse("").expect("no flows");
    let complaint = complaints(&follows, &none);
    assert_eq!(complaint, ["may go on forever: a.x → b.y", "may go on forever: b.y → a.x"]);
    let declared = "[[cycle]]\nevents = [\"a.x\", \"b.y\"]\nends_because = \"it is counted\"";
    let declared = Flows::parse(declared).expect("a cycle");
    assert_eq!(complaints(&follows, &declared), [""; 0]);
    assert_eq!(complaints(&example(&[]), &declared), ["no such cycle: a.x → b.y"]);
}
