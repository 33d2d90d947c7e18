//! A saga as it happened.

use std::collections::{BTreeMap, BTreeSet};

use events::{
    Timestamp,
    audit::{Saga, Step},
};
use uuid::Uuid;

use super::Progress;
use crate::{
    Heard,
    flows::{Fields, Flows},
};

/// The story of a saga: its facts in causal order, what was undone, and what is still to
/// come. `None` without facts.
pub fn saga(flows: &Flows, facts: &[Heard], now: Timestamp) -> Option<Saga> {
    let saga_id = facts.first()?.saga_id;
    let facts: BTreeMap<Uuid, &Heard> =
        facts.iter().map(|heard| (heard.event_id.0, heard)).collect();
    let mut progress = Progress::default();
    facts.values().for_each(|heard| progress.hear(flows, heard));
    let line = progress.line(flows, saga_id, now);
    let (undoes, undone) = undone(flows, &facts);
    let steps = in_causal_order(&facts).into_iter().map(|(id, depth)| {
        let heard = facts[&id];
        let cause = heard.cause_id.and_then(|cause| facts.get(&cause));
        let since = cause.map_or(line.began_at, |cause| cause.at);
        Step {
            fact: heard.fact.clone(),
            service: heard.service().to_owned(),
            event_id: heard.event_id,
            cause_id: heard.cause_id,
            depth,
            at: heard.at,
            after_ms: heard.at.unix_millis() - since.unix_millis(),
            deliveries: heard.deliveries,
            trace_id: heard.trace_id.clone(),
            undoes: undoes.get(&id).map(|other| facts[other].fact.clone()),
            undone_by: undone.get(&id).map(|other| facts[other].fact.clone()),
            data: heard.read().unwrap_or_default(),
        }
    });
    Some(Saga { steps: steps.collect(), to_come: progress.to_come(now), line })
}

/// The facts with their depth: each after its cause, siblings by time.
///
/// Ids that name each other as cause have no beginning. No service tells such facts, but the
/// timeline shows what was told: they come last, as if nothing had caused the first of them.
fn in_causal_order(facts: &BTreeMap<Uuid, &Heard>) -> Vec<(Uuid, u32)> {
    let mut by_time: Vec<_> = facts.values().collect();
    by_time.sort_by_key(|heard| (heard.at, heard.event_id));
    let mut children: BTreeMap<Uuid, Vec<Uuid>> = BTreeMap::new();
    let mut beginnings = Vec::new();
    for heard in &by_time {
        match heard.cause_id.filter(|cause| facts.contains_key(cause)) {
            Some(cause) => children.entry(cause).or_default().push(heard.event_id.0),
            None => beginnings.push(heard.event_id.0),
        }
    }
    let (mut order, mut seen) = (Vec::new(), BTreeSet::new());
    for beginning in beginnings.into_iter().chain(by_time.iter().map(|heard| heard.event_id.0)) {
        let mut open = vec![(beginning, 0)];
        while let Some((id, depth)) = open.pop() {
            if !seen.insert(id) {
                continue;
            }
            order.push((id, depth));
            let next = children.get(&id).into_iter().flatten().rev();
            open.extend(next.map(|child| (*child, depth + 1)));
        }
    }
    order
}

type Pairs = BTreeMap<Uuid, Uuid>;

/// Which fact undoes which, and the other way round.
fn undone(flows: &Flows, facts: &BTreeMap<Uuid, &Heard>) -> (Pairs, Pairs) {
    let (mut undoes, mut undone) = (Pairs::new(), Pairs::new());
    let fields = |heard: &Heard| Fields::read(&heard.payload, &flows.of(&heard.fact).fields);
    for undo in flows.undoes() {
        for (by, doing) in facts.iter().filter(|(_, heard)| heard.fact == undo.by.fact) {
            let same = |(_, heard): &(&Uuid, &&Heard)| {
                heard.fact == undo.fact.fact && heard.about == doing.about
            };
            let Some((what, was)) = facts.iter().find(same) else { continue };
            if undo.by.fits(&fields(doing)) && undo.fact.fits(&fields(was)) {
                undoes.entry(*by).or_insert(*what);
                undone.entry(*what).or_insert(*by);
            }
        }
    }
    (undoes, undone)
}
