//! The shape of `flows.toml`, and what can be wrong with it.

use std::collections::{BTreeMap, BTreeSet};

use events::{audit::SagaState, producer_of};
use serde::Deserialize;

use crate::pattern::Pattern;

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub(super) flow: Vec<Flow>,
    pub(super) step: Vec<Step>,
    pub(super) timer: Vec<Timer>,
    pub(super) lifetime: Vec<Lifetime>,
    pub(super) undo: Vec<Undo>,
    pub(super) cycle: Vec<Cycle>,
}

/// A flow that commands begin, and how it ends.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flow {
    /// For example `pay`.
    pub name: String,
    /// What happens, in words.
    pub title: String,
    /// The commands, each with what it emits.
    #[serde(deserialize_with = "begins")]
    pub begins: Vec<Begin>,
    #[serde(default)]
    completed: Vec<Pattern>,
    #[serde(default)]
    failed: Vec<Pattern>,
    #[serde(default)]
    compensated: Vec<Pattern>,
}

/// A command that begins a flow.
#[derive(Debug)]
pub struct Begin {
    /// For example `payment.pay`.
    pub command: String,
    /// What it emits.
    pub emits: Vec<Pattern>,
}

/// What a service emits when it handles an event.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The event.
    pub after: Pattern,
    /// The service.
    pub by: String,
    /// It emits one of these; empty when it need not emit anything.
    #[serde(default)]
    pub must: Vec<Pattern>,
    /// It may emit these.
    #[serde(default)]
    pub may: Vec<Pattern>,
    /// Seconds within which it emits one of `must`.
    #[serde(default)]
    pub within_secs: i64,
    /// Whether it emits `may` in another saga than the event's.
    #[serde(default)]
    pub elsewhere: bool,
}

/// What a timer emits.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timer {
    /// `<service>.<timer>`, or the internal command that the timer gives.
    pub name: String,
    /// The events after which it may come due.
    pub after: Vec<Pattern>,
    /// What it emits.
    pub emits: Vec<Pattern>,
    /// Whether it emits this in another saga than that of the events before.
    #[serde(default)]
    pub elsewhere: bool,
}

/// What must happen to a thing once it has begun, in whatever saga.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lifetime {
    /// The event that begins it.
    pub of: Pattern,
    /// The field that names the thing in this event and in those that end it.
    pub thing: String,
    /// The service that ends it.
    pub by: String,
    /// It ends with one of these.
    pub must: Vec<Pattern>,
    /// The field of the first event that says until when.
    pub until: String,
    /// Seconds after that.
    pub within_secs: i64,
}

/// A compensation.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Undo {
    /// What is undone.
    pub event: Pattern,
    /// By what, about the same thing.
    pub by: Pattern,
}

/// Events that may lead back to themselves.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cycle {
    /// The events.
    pub events: Vec<String>,
    /// Why they do not go on forever.
    pub ends_because: String,
}

/// What is wrong with a file of flows.
#[derive(Debug, thiserror::Error)]
pub enum FlowsError {
    /// It is not TOML, or an entry has another shape.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    /// Two flows have one name.
    #[error("there are two flows `{0}`")]
    Twice(String),
    /// An event is expected of a service that does not emit it.
    #[error("{place}: `{event}` is emitted by {producer}, not by {by}")]
    OtherProducer {
        /// Where the file says so.
        place: String,
        /// The event.
        event: String,
        /// The service that emits it.
        producer: String,
        /// The service that the file names.
        by: String,
    },
    /// An entry names no event that is emitted.
    #[error("{0} names no event that follows")]
    Nothing(String),
    /// A step has `must` without a time limit, or a time limit without `must`.
    #[error("{0} must be followed, so it needs `within_secs`, 1 or more; else it has none")]
    NoTime(String),
    /// A flow cannot reach this end.
    #[error("flow `{flow}` cannot end with `{end}`: nothing leads there")]
    NoWay {
        /// The flow.
        flow: String,
        /// The end.
        end: String,
    },
    /// A step comes after an event that is part of no flow.
    #[error("a step comes after `{0}`, which no flow leads to")]
    NeverConsumed(String),
}

impl Flow {
    /// The events that end it, and the state of each end.
    pub fn ends(&self) -> impl Iterator<Item = (&Pattern, SagaState)> {
        let with = |state| move |event| (event, state);
        let completed = self.completed.iter().map(with(SagaState::Completed));
        let failed = self.failed.iter().map(with(SagaState::Failed));
        let compensated = self.compensated.iter().map(with(SagaState::Compensated));
        completed.chain(failed).chain(compensated)
    }
}

impl Step {
    /// All events that it may emit.
    pub fn emits(&self) -> impl Iterator<Item = &Pattern> {
        self.must.iter().chain(&self.may)
    }
}

impl File {
    /// Every pattern of the file.
    pub(super) fn patterns(&self) -> impl Iterator<Item = &Pattern> {
        let flows = self.flow.iter().flat_map(|flow| {
            let begins = flow.begins.iter().flat_map(|begin| &begin.emits);
            begins.chain(flow.ends().map(|(event, _)| event))
        });
        let steps = self.step.iter().flat_map(|step| [&step.after].into_iter().chain(step.emits()));
        let timers = self.timer.iter().flat_map(|timer| timer.after.iter().chain(&timer.emits));
        let lives = self.lifetime.iter().flat_map(|life| [&life.of].into_iter().chain(&life.must));
        let undoes = self.undo.iter().flat_map(|undo| [&undo.event, &undo.by]);
        flows.chain(steps).chain(timers).chain(lives).chain(undoes)
    }

    /// Checks what can be seen entry by entry.
    pub(super) fn check(&self) -> Result<(), FlowsError> {
        let mut names = BTreeSet::new();
        if let Some(twice) = self.flow.iter().find(|flow| !names.insert(&flow.name)) {
            return Err(FlowsError::Twice(twice.name.clone()));
        }
        for flow in &self.flow {
            for begin in &flow.begins {
                let place = format!("flow `{}`", flow.name);
                emitted_by(&place, producer_of(&begin.command), begin.emits.iter())?;
            }
        }
        for step in &self.step {
            let place = format!("the step after `{}`", step.after);
            emitted_by(&place, &step.by, step.emits())?;
            if step.must.is_empty() != (step.within_secs <= 0) {
                return Err(FlowsError::NoTime(place));
            }
        }
        for timer in &self.timer {
            let place = format!("timer `{}`", timer.name);
            emitted_by(&place, producer_of(&timer.name), timer.emits.iter())?;
        }
        for life in &self.lifetime {
            let place = format!("the lifetime of `{}`", life.of);
            emitted_by(&place, &life.by, life.must.iter())?;
        }
        Ok(())
    }
}

fn emitted_by<'a>(
    place: &str,
    by: &str,
    events: impl Iterator<Item = &'a Pattern>,
) -> Result<(), FlowsError> {
    let mut events = events.peekable();
    if events.peek().is_none() {
        return Err(FlowsError::Nothing(place.to_owned()));
    }
    match events.find(|event| producer_of(&event.event) != by) {
        None => Ok(()),
        Some(event) => Err(FlowsError::OtherProducer {
            place: place.to_owned(),
            event: event.to_string(),
            producer: producer_of(&event.event).to_owned(),
            by: by.to_owned(),
        }),
    }
}

/// `{ "payment.pay" = ["payment.requested"] }`.
fn begins<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Vec<Begin>, D::Error> {
    let table = BTreeMap::<String, Vec<Pattern>>::deserialize(deserializer)?;
    Ok(table.into_iter().map(|(command, emits)| Begin { command, emits }).collect())
}
