//! Correct sales in every order, and each rule broken by a false event.

mod broken;
mod clean;
mod sale;
mod size;

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use sale::{Random, Sale};

/// The rule, and the events that are named, in the order of their ids.
type Named = BTreeSet<(Rule, Vec<Uuid>)>;

fn named(violations: &[Violation]) -> Named {
    let events = |one: &Violation| {
        let mut events: Vec<Uuid> = one.events.iter().map(|event| event.0).collect();
        events.sort_unstable();
        (one.rule, events)
    };
    violations.iter().map(events).collect()
}

/// Audits the events as they are published: each stream in its order, the streams mixed at
/// random, some events twice, and now and then everything settled that can be.
fn audit(sale: &Sale, seed: u64) -> (Auditor, Vec<Violation>) {
    let mut random = Random(seed);
    let mut streams: BTreeMap<&str, Vec<&Observed>> = BTreeMap::new();
    for event in &sale.events {
        streams.entry(event.service()).or_default().push(event);
    }
    let mut streams: Vec<(usize, Vec<&Observed>)> =
        streams.into_values().map(|stream| (0, stream)).collect();
    let (mut auditor, mut violations) = (Auditor::default(), Vec::new());
    // Whole stretches of one stream, so that the others lag behind.
    while streams.iter().any(|(next, stream)| *next < stream.len()) {
        let at = random.below(streams.len());
        for _ in 0..=random.below(12) {
            let (next, stream) = &mut streams[at];
            let Some(event) = stream.get(*next) else { break };
            violations.extend(auditor.handle(Flows::shipped(), event));
            if random.below(4) == 0 {
                let again = stream[random.below(*next + 1)];
                violations.extend(auditor.handle(Flows::shipped(), again));
            }
            *next += 1;
        }
        if random.below(3) == 0 {
            let heads = streams.iter().filter_map(|(next, stream)| Some(stream.get(*next)?.at));
            let until = heads.min().unwrap_or(sale.now());
            violations.extend(auditor.settled(until));
        }
    }
    violations.extend(auditor.settled(sale.now()));
    violations.extend(auditor.at_rest(sale.now()));
    (auditor, violations)
}

/// Asserts that exactly these are found, each once, in whatever order the streams are read.
fn finds(sale: &Sale, expected: &[(Rule, &[Uuid])]) {
    let mut wanted = Named::new();
    for (rule, events) in expected {
        let mut events = events.to_vec();
        events.sort_unstable();
        wanted.insert((*rule, events));
    }
    let mut ids = BTreeSet::new();
    for seed in 0..60 {
        let (_, violations) = audit(sale, seed);
        let found = named(&violations);
        assert_eq!(found, wanted, "seed {seed}: {violations:#?}");
        assert_eq!(violations.len(), found.len(), "seed {seed}: something is reported twice");
        ids.insert(violations.iter().map(|one| one.violation_id).collect::<BTreeSet<_>>());
    }
    assert_eq!(ids.len(), 1, "the same violations under other ids");
}
