//! A saga as it happened.

use std::collections::{BTreeMap, BTreeSet};

use events::{
    Timestamp,
    audit::{Saga, Step},
};
use flows::{Fields, Flows};
use uuid::Uuid;

use super::Progress;
use crate::Observed;

/// The story of a saga: its events in causal order, what was undone, and what is still to come.
/// `None` without events.
pub fn saga(flows: &Flows, events: &[Observed], now: Timestamp) -> Option<Saga> {
    let saga_id = events.first()?.saga_id;
    let events: BTreeMap<Uuid, &Observed> =
        events.iter().map(|observed| (observed.event_id.0, observed)).collect();
    let mut progress = Progress::default();
    events.values().for_each(|observed| progress.handle(flows, observed));
    let line = progress.line(flows, saga_id, now);
    let (undoes, undone) = undone(flows, &events);
    let steps = in_causal_order(&events).into_iter().map(|(id, depth)| {
        let observed = events[&id];
        let cause = observed.cause_id.and_then(|cause| events.get(&cause));
        let since = cause.map_or(line.began_at, |cause| cause.at);
        Step {
            event: observed.event.clone(),
            service: observed.service().to_owned(),
            event_id: observed.event_id,
            cause_id: observed.cause_id,
            depth,
            at: observed.at,
            after_ms: observed.at.unix_millis() - since.unix_millis(),
            deliveries: observed.deliveries,
            trace_id: observed.trace_id.clone(),
            undoes: undoes.get(&id).map(|other| events[other].event.clone()),
            undone_by: undone.get(&id).map(|other| events[other].event.clone()),
            data: observed.read().unwrap_or_default(),
        }
    });
    Some(Saga { steps: steps.collect(), to_come: progress.to_come(now), line })
}

/// The events with their depth: each after its cause, siblings by time.
///
/// Events that name each other as cause have no beginning. No service emits such events, but the
/// timeline shows all that were emitted: they come last, as if nothing had caused the first of
/// them.
fn in_causal_order(events: &BTreeMap<Uuid, &Observed>) -> Vec<(Uuid, u32)> {
    let mut by_time: Vec<_> = events.values().collect();
    by_time.sort_by_key(|observed| (observed.at, observed.event_id));
    let mut children: BTreeMap<Uuid, Vec<Uuid>> = BTreeMap::new();
    let mut beginnings = Vec::new();
    for observed in &by_time {
        match observed.cause_id.filter(|cause| events.contains_key(cause)) {
            Some(cause) => children.entry(cause).or_default().push(observed.event_id.0),
            None => beginnings.push(observed.event_id.0),
        }
    }
    let (mut order, mut seen) = (Vec::new(), BTreeSet::new());
    for beginning in
        beginnings.into_iter().chain(by_time.iter().map(|observed| observed.event_id.0))
    {
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

/// Which event undoes which, and the other way round.
fn undone(flows: &Flows, events: &BTreeMap<Uuid, &Observed>) -> (Pairs, Pairs) {
    let (mut undoes, mut undone) = (Pairs::new(), Pairs::new());
    let fields =
        |observed: &Observed| Fields::read(&observed.payload, &flows.of(&observed.event).fields);
    for undo in flows.undoes() {
        for (by, doing) in events.iter().filter(|(_, observed)| observed.event == undo.by.event) {
            let same = |(_, observed): &(&Uuid, &&Observed)| {
                observed.event == undo.event.event && observed.about == doing.about
            };
            let Some((what, was)) = events.iter().find(same) else { continue };
            if undo.by.fits(&fields(doing)) && undo.event.fits(&fields(was)) {
                undoes.entry(*by).or_insert(*what);
                undone.entry(*what).or_insert(*by);
            }
        }
    }
    (undoes, undone)
}
