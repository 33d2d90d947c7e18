//! Which events were observed, and whether each may follow from its cause.

use std::{
    collections::{BTreeMap, HashMap},
    sync::LazyLock,
};

use events::audit::Rule;
use flows::Flows;
use uuid::Uuid;

use super::finding::{Finding, SLACK_SECS, made_at};
use crate::Observed;

/// All events by name; an event's code is its index here.
static EVENTS: LazyLock<Vec<&'static str>> = LazyLock::new(|| events::all_events().collect());
/// The services that handle money.
const WITH_MONEY: [&str; 3] = ["reservation", "payment", "point"];

/// A set of services, one bit for each.
type Services = u32;

/// The set of one service; the empty one for a service that is not known.
fn set_of(service: &str) -> Services {
    events::contract_of(service).map_or(0, |known| 1 << known.number)
}

/// The code of an event that is not known here.
const UNKNOWN: u8 = u8::MAX;

fn code_of(event: &str) -> u8 {
    EVENTS.iter().position(|known| *known == event).map_or(UNKNOWN, |at| at as u8)
}

/// Work by when it is due.
#[derive(Debug)]
pub(super) struct Due<T>(BTreeMap<i64, Vec<T>>);

impl<T> Default for Due<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

impl<T> Due<T> {
    /// To be checked as soon as everything emitted before `at_secs` has been observed.
    pub(super) fn push(&mut self, at_secs: i64, what: T) {
        self.0.entry(at_secs).or_default().push(what);
    }

    /// Takes out what is due by then, ordered by time.
    pub(super) fn take(&mut self, until_secs: i64) -> impl Iterator<Item = T> + use<T> {
        let later = self.0.split_off(&until_secs.saturating_add(1));
        std::mem::replace(&mut self.0, later).into_values().flatten()
    }
}

/// An event whose cause was not observed yet.
#[derive(Debug, Clone, Copy)]
struct Waiting {
    event: Uuid,
    saga: Uuid,
    at: i64,
    code: u8,
}

/// A wrong step, and its description.
pub(super) type Wrong = (Finding, String);

/// Which events were observed, and from when on all were.
#[derive(Default)]
pub(super) struct Flow {
    /// The code of each event by its whole id: a new event must not be taken for a repeat.
    observed: HashMap<Uuid, u8>,
    waiting: HashMap<Uuid, Vec<Waiting>>,
    due: Due<Uuid>,
    may_follow: HashMap<(u8, u8), bool>,
    /// By event that must follow from another: the services that may emit that one.
    must_follow: HashMap<u8, Option<Services>>,
    /// Where the kept events of each service begin, in seconds.
    since: BTreeMap<Services, i64>,
    /// How many events had their cause checked.
    pub(super) checked: u64,
}

impl Flow {
    /// How many events were observed, not counting repeats.
    pub(super) fn len(&self) -> usize {
        self.observed.len()
    }

    /// The name of an observed event.
    pub(super) fn name_of(&self, event: Uuid) -> Option<&'static str> {
        EVENTS.get(usize::from(*self.observed.get(&event)?)).copied()
    }

    /// From when on everything that these services emitted was observed, in seconds: the least
    /// number when it is from the beginning, the greatest when one has no observed event at all.
    fn since_of(&self, services: Services) -> i64 {
        let those = events::CONTRACTS.iter().map(|service| 1 << service.number);
        let those = those.filter(|service| services & service != 0);
        let firsts = those.map(|service| self.since.get(&service).copied().unwrap_or(i64::MAX));
        match firsts.max().unwrap_or(i64::MIN) {
            whole @ (i64::MIN | i64::MAX) => whole,
            since => since + SLACK_SECS,
        }
    }

    /// The same for all that handle money.
    pub(super) fn since_money(&self) -> i64 {
        self.since_of(WITH_MONEY.into_iter().map(set_of).sum())
    }

    /// Whether every movement of points was observed, from the first one on.
    pub(super) fn knows_all_points(&self) -> bool {
        self.since_of(set_of("point")) == i64::MIN
    }

    /// From when on everything was observed, of the services with any observed event.
    pub(super) fn since(&self) -> i64 {
        self.since.values().copied().max().unwrap_or(i64::MIN)
    }

    /// Notes an event. Returns whether it is new, not a repeat.
    pub(super) fn is_new(&mut self, observed: &Observed) -> bool {
        let code = code_of(&observed.event);
        if self.observed.insert(observed.event_id.0, code).is_some() {
            return false;
        }
        let service = set_of(observed.service());
        if service != 0 {
            // The first kept event may not be the first emitted: others may have aged out.
            let at = observed.at.unix_millis() / 1_000;
            let since = if observed.stream_seq > 1 { at } else { i64::MIN };
            self.since.entry(service).or_insert(since);
        }
        true
    }

    /// How many causes are awaited.
    #[cfg(test)]
    pub(super) fn waiting_len(&self) -> usize {
        self.waiting.len()
    }

    /// Checks an event's cause, or waits for it; checks the events that have waited for this one.
    pub(super) fn handle(&mut self, flows: &Flows, observed: &Observed, wrong: &mut Vec<Wrong>) {
        let event = observed.event_id.0;
        let step = Waiting {
            event,
            saga: observed.saga_id.0,
            at: observed.at.unix_millis() / 1_000,
            code: code_of(&observed.event),
        };
        if step.code == UNKNOWN {
            return;
        }
        if let Some(waiting) = self.waiting.remove(&event) {
            for later in waiting {
                self.judge(flows, event, step.code, &later, wrong);
            }
        }
        let must = *self
            .must_follow
            .entry(step.code)
            .or_insert_with(|| producers_before(flows, EVENTS[step.code as usize]));
        match observed.cause_id {
            None if must.is_some() => wrong.push(from_nothing(&step)),
            None => {}
            Some(cause) => match self.observed.get(&cause) {
                Some(code) => self.judge(flows, cause, *code, &step, wrong),
                None => {
                    self.due.push(step.at + SLACK_SECS + 1, cause);
                    self.waiting.entry(cause).or_default().push(step);
                }
            },
        }
    }

    fn judge(
        &mut self,
        flows: &Flows,
        cause: Uuid,
        code: u8,
        step: &Waiting,
        wrong: &mut Vec<Wrong>,
    ) {
        self.checked += 1;
        if code == UNKNOWN {
            return;
        }
        let (before, after) = (EVENTS[code as usize], EVENTS[step.code as usize]);
        let may = *self
            .may_follow
            .entry((code, step.code))
            .or_insert_with(|| may_follow(flows, before, after));
        if !may {
            let what = "an event follows from one that may not lead to it";
            let rule = Rule::DeclaredFlow;
            let found = Finding { rule, what, events: [cause, step.event], saga: step.saga };
            wrong.push((found, format!("{after} after {before}")));
        }
    }

    /// Gives up waiting for causes that would have been observed by now: they were commands or
    /// timers, or they never were.
    pub(super) fn settle(&mut self, until: i64, at_rest: bool, wrong: &mut Vec<Wrong>) {
        let bound = if at_rest { i64::MAX - 1 } else { until };
        for cause in self.due.take(bound) {
            let Some(mut waiting) = self.waiting.remove(&cause) else { continue };
            waiting.retain(|step| {
                let is_due = at_rest || step.at + SLACK_SECS < until;
                if is_due && self.misses(cause, step) {
                    self.checked += 1;
                    wrong.push(from_nothing(step));
                }
                !is_due
            });
            if !waiting.is_empty() {
                self.waiting.insert(cause, waiting);
            }
        }
    }

    /// Whether the cause must have been observed, if it was ever emitted.
    fn misses(&self, cause: Uuid, step: &Waiting) -> bool {
        let Some(services) = self.must_follow.get(&step.code).copied().flatten() else {
            return false;
        };
        let since = self.since_of(services);
        since == i64::MIN || made_at(cause).is_some_and(|made_at| since < made_at)
    }
}

/// The services that emit what leads to this event, if it must follow from another.
fn producers_before(flows: &Flows, event: &str) -> Option<Services> {
    // An event that the file does not name is not judged by it.
    let must_follow = flows.knows(event) && !flows.may_begin(event);
    let leads = EVENTS.iter().filter(|cause| flows.may_follow(cause, event));
    let producers = leads.map(|cause| set_of(events::producer_of(cause)));
    must_follow.then(|| producers.fold(0, |all, one| all | one))
}

fn may_follow(flows: &Flows, cause: &str, event: &str) -> bool {
    !flows.knows(event) || flows.may_follow(cause, event)
}

fn from_nothing(step: &Waiting) -> Wrong {
    let what = "an event follows from nothing that was emitted";
    let events = [step.event, Uuid::nil()];
    let found = Finding { rule: Rule::DeclaredFlow, what, events, saga: step.saga };
    (found, EVENTS[step.code as usize].to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_of_the_flows_is_known_and_so_is_the_service_that_emits_it() {
        for event in Flows::shipped().events() {
            assert_ne!(code_of(event), UNKNOWN, "{event}");
            assert_ne!(set_of(events::producer_of(event)), 0, "{event}");
        }
        assert!(EVENTS.len() < usize::from(UNKNOWN), "a code is one byte");
    }
}
