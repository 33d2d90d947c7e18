//! How far a saga has come.

use std::cmp::Ordering;

use events::{
    EventId, SagaId, ScheduleId, Timestamp, UserId,
    audit::{SagaLine, SagaStalled, SagaState, ToCome},
};
use flows::{Fields, Flows, OfEvent};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Observed;

/// The running total of one saga, kept in its row.
///
/// Every part of it is a set, a minimum or a maximum, so the order of events does not matter.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Progress {
    /// The events it has handled, in the order of their ids.
    observed: Vec<Uuid>,
    /// Its flow; empty before the first event.
    flow: String,
    /// Whether the event that begins this flow was handled; if not, the flow is a guess.
    has_begun: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<(Timestamp, String)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<UserId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    schedule_id: Option<ScheduleId>,
    /// The earliest trace.
    #[serde(skip_serializing_if = "Option::is_none")]
    trace: Option<(Timestamp, String)>,
    /// What must still come, the first to be due first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    awaited: Vec<Awaited>,
    /// Events that were handled before the event they follow from.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    early: Vec<(Uuid, String)>,
    /// How it has ended, for each flow that it may turn out to be.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ends: Vec<(String, SagaState)>,
}

/// Events of which one must still come.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Awaited {
    due_at: Timestamp,
    after_id: EventId,
    after: String,
    service: String,
    events: Vec<String>,
}

impl Awaited {
    fn order(&self, other: &Self) -> Ordering {
        let key = |awaited: &Self| (awaited.due_at, awaited.after_id);
        key(self).cmp(&key(other)).then_with(|| self.events.cmp(&other.events))
    }
}

impl Progress {
    /// Handles an event of the saga; one that was handled before changes nothing.
    pub fn handle(&mut self, flows: &Flows, observed: &Observed) {
        let Err(position) = self.observed.binary_search(&observed.event_id.0) else { return };
        self.observed.insert(position, observed.event_id.0);
        let of = flows.of(&observed.event);
        let fields = Fields::read(&observed.payload, &of.fields);
        self.note(observed, &fields);
        self.name(flows, of, &fields);
        self.end(flows, of, &fields);
        self.await_what_follows(flows, of, observed, &fields);
        self.meet(of, observed);
    }

    /// Notes what does not depend on any flow.
    fn note(&mut self, observed: &Observed, fields: &Fields) {
        lower(&mut self.first_at, observed.at);
        let last = (observed.at, observed.event.as_str());
        if self.last.as_ref().is_none_or(|(at, event)| (*at, event.as_str()) < last) {
            self.last = Some((observed.at, observed.event.clone()));
        }
        // Events of one saga name one fan and one schedule, except for a withdrawal that leaves
        // several waiting rooms. Any choice will do there, as long as it is always the same.
        if let Some(user_id) = fields.parse("user_id") {
            lower(&mut self.user_id, user_id);
        }
        if let Some(schedule_id) = fields.parse("schedule_id") {
            lower(&mut self.schedule_id, schedule_id);
        }
        if let Some(trace_id) = &observed.trace_id {
            lower(&mut self.trace, (observed.at, trace_id.clone()));
        }
    }

    /// Chooses the flow: one that was begun before one that is guessed, then the first in the
    /// file.
    fn name(&mut self, flows: &Flows, of: &OfEvent, fields: &Fields) {
        let begun = of.begins.iter().filter(|(_, begin)| begin.fits(fields));
        let begun = begun.map(|(rank, _)| *rank).min();
        let Some(rank) = begun.or(of.part_of) else { return };
        let key = |has_begun: bool, rank| (!has_begun, rank);
        let own = key(self.has_begun, flows.rank(&self.flow));
        if self.flow.is_empty() || key(begun.is_some(), rank) < own {
            self.flow.clone_from(&flows.flows()[rank].name);
            self.has_begun = begun.is_some();
        }
    }

    fn end(&mut self, flows: &Flows, of: &OfEvent, fields: &Fields) {
        for (rank, end, state) in &of.ends {
            if !end.fits(fields) {
                continue;
            }
            let flow = &flows.flows()[*rank].name;
            match self.ends.binary_search_by(|(known, _)| known.cmp(flow)) {
                // States are ordered from the worst to the best.
                Ok(at) => self.ends[at].1 = self.ends[at].1.min(*state),
                Err(at) => self.ends.insert(at, (flow.clone(), *state)),
            }
        }
    }

    fn await_what_follows(
        &mut self,
        flows: &Flows,
        of: &OfEvent,
        observed: &Observed,
        fields: &Fields,
    ) {
        for step in of.steps.iter().map(|at| &flows.steps()[*at]) {
            if step.must.is_empty() || !step.after.fits(fields) {
                continue;
            }
            let is_met = self.early.iter().any(|(cause, event)| {
                *cause == observed.event_id.0 && step.must.iter().any(|must| must.event == *event)
            });
            if is_met {
                continue;
            }
            let mut events: Vec<String> = Vec::new();
            for must in &step.must {
                if !events.contains(&must.event) {
                    events.push(must.event.clone());
                }
            }
            let awaited = Awaited {
                due_at: observed.at.plus_secs(step.within_secs),
                after_id: observed.event_id,
                after: observed.event.clone(),
                service: step.by.clone(),
                events,
            };
            let at = self.awaited.partition_point(|other| other.order(&awaited).is_lt());
            self.awaited.insert(at, awaited);
        }
        self.early.retain(|(cause, _)| *cause != observed.event_id.0);
    }

    /// Removes what this event was awaited for; the event it follows from may not have come yet.
    fn meet(&mut self, of: &OfEvent, observed: &Observed) {
        let Some(cause) = observed.cause_id.filter(|_| of.is_awaited) else { return };
        if self.observed.binary_search(&cause).is_ok() {
            self.awaited.retain(|awaited| {
                awaited.after_id.0 != cause || !awaited.events.contains(&observed.event)
            });
            return;
        }
        let early = (cause, observed.event.clone());
        if let Err(at) = self.early.binary_search(&early) {
            self.early.insert(at, early);
        }
    }

    /// Whether it has handled this event.
    pub fn has_consumed(&self, event_id: EventId) -> bool {
        self.observed.binary_search(&event_id.0).is_ok()
    }

    /// Its flow, for example `pay`; empty while none of its events is part of any.
    pub fn flow(&self) -> &str {
        &self.flow
    }

    /// Its state.
    pub fn state(&self, now: Timestamp) -> SagaState {
        match self.next_due() {
            Some(due_at) if due_at < now => SagaState::Stalled,
            Some(_) => SagaState::Running,
            None => {
                let end = self.ends.iter().find(|(flow, _)| *flow == self.flow);
                end.map_or(SagaState::Completed, |(_, state)| *state)
            }
        }
    }

    /// When the first of what must still come is due; `None` when nothing is awaited.
    pub fn next_due(&self) -> Option<Timestamp> {
        self.awaited.first().map(|awaited| awaited.due_at)
    }

    /// When each awaited event is due, and from which service.
    pub fn awaited(&self) -> impl Iterator<Item = (Timestamp, &str)> {
        self.awaited.iter().map(|awaited| (awaited.due_at, awaited.service.as_str()))
    }

    /// The services that are awaited, each once.
    fn services(&self) -> Vec<String> {
        let mut services: Vec<_> = self.awaited.iter().map(|one| one.service.clone()).collect();
        services.sort();
        services.dedup();
        services
    }

    /// The saga in one line.
    pub fn line(&self, _flows: &Flows, saga_id: SagaId, now: Timestamp) -> SagaLine {
        let (last_at, last_event) = self.last.clone().unwrap_or((now, String::new()));
        SagaLine {
            saga_id,
            flow: self.flow.clone(),
            state: self.state(now),
            user_id: self.user_id,
            schedule_id: self.schedule_id,
            began_at: self.first_at.unwrap_or(now),
            last_at,
            last_event,
            events: u32::try_from(self.observed.len()).unwrap_or(u32::MAX),
            awaited: self.services(),
            trace_id: self.trace.as_ref().map(|(_, trace_id)| trace_id.clone()),
        }
    }

    /// The stalls: what should have come by now, and has not.
    pub fn stalled(&self, _flows: &Flows, saga_id: SagaId, now: Timestamp) -> Vec<SagaStalled> {
        let overdue = self.awaited.iter().take_while(|awaited| awaited.due_at < now);
        overdue
            .map(|awaited| SagaStalled {
                saga_id,
                flow: self.flow.clone(),
                awaited: awaited.events.clone(),
                service: awaited.service.clone(),
                after: awaited.after.clone(),
                after_id: awaited.after_id,
                due_at: awaited.due_at,
                schedule_id: self.schedule_id,
            })
            .collect()
    }

    /// What must still come, the first to be due first.
    pub fn to_come(&self, now: Timestamp) -> Vec<ToCome> {
        let awaited = self.awaited.iter();
        awaited
            .map(|awaited| ToCome {
                events: awaited.events.clone(),
                service: awaited.service.clone(),
                after: awaited.after.clone(),
                after_id: awaited.after_id,
                due_at: awaited.due_at,
                is_overdue: awaited.due_at < now,
            })
            .collect()
    }
}

/// Keeps the lesser of two.
fn lower<T: Ord>(kept: &mut Option<T>, found: T) {
    if kept.as_ref().is_none_or(|kept| found < *kept) {
        *kept = Some(found);
    }
}
