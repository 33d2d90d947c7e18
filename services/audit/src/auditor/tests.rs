//! Sales as they should be, in every order; and each rule, broken by a false fact.

mod broken;
mod clean;
mod sale;
mod size;

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use sale::{Random, Sale};

/// The rule, and the facts that are named, in the order of their ids.
type Named = BTreeSet<(Rule, Vec<Uuid>)>;

fn named(violations: &[Violation]) -> Named {
    let facts = |one: &Violation| {
        let mut facts: Vec<Uuid> = one.events.iter().map(|event| event.0).collect();
        facts.sort_unstable();
        (one.rule, facts)
    };
    violations.iter().map(facts).collect()
}

/// The facts as they are published: each stream in its order, the streams mixed anyhow, some
/// facts twice, and everything settled now and then that can be.
fn audit(sale: &Sale, seed: u64) -> (Auditor, Vec<Violation>) {
    let mut random = Random(seed);
    let mut streams: BTreeMap<&str, Vec<&Heard>> = BTreeMap::new();
    for fact in &sale.facts {
        streams.entry(fact.service()).or_default().push(fact);
    }
    let mut streams: Vec<(usize, Vec<&Heard>)> =
        streams.into_values().map(|stream| (0, stream)).collect();
    let (mut auditor, mut said) = (Auditor::default(), Vec::new());
    // Whole stretches of one stream, so that the others lag behind.
    while streams.iter().any(|(next, stream)| *next < stream.len()) {
        let at = random.below(streams.len());
        for _ in 0..=random.below(12) {
            let (next, stream) = &mut streams[at];
            let Some(fact) = stream.get(*next) else { break };
            said.extend(auditor.hear(Flows::shipped(), fact));
            if random.below(4) == 0 {
                let again = stream[random.below(*next + 1)];
                said.extend(auditor.hear(Flows::shipped(), again));
            }
            *next += 1;
        }
        if random.below(3) == 0 {
            let heads = streams.iter().filter_map(|(next, stream)| Some(stream.get(*next)?.at));
            let until = heads.min().unwrap_or(sale.now());
            said.extend(auditor.settled(until));
        }
    }
    said.extend(auditor.settled(sale.now()));
    said.extend(auditor.at_rest(sale.now()));
    (auditor, said)
}

/// In whatever order the streams are read, exactly these are found, each once.
fn finds(sale: &Sale, expected: &[(Rule, &[Uuid])]) {
    let mut wanted = Named::new();
    for (rule, facts) in expected {
        let mut facts = facts.to_vec();
        facts.sort_unstable();
        wanted.insert((*rule, facts));
    }
    let mut ids = BTreeSet::new();
    for seed in 0..60 {
        let (_, said) = audit(sale, seed);
        let found = named(&said);
        assert_eq!(found, wanted, "seed {seed}: {said:#?}");
        assert_eq!(said.len(), found.len(), "seed {seed}: something is said twice");
        ids.insert(said.iter().map(|one| one.violation_id).collect::<BTreeSet<_>>());
    }
    assert_eq!(ids.len(), 1, "the same violations under other ids");
}
