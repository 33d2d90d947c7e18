//! The shape of `flows.toml`, and what can be wrong with it.

use std::collections::{BTreeMap, BTreeSet};

use events::{audit::SagaState, producer_of};
use serde::Deserialize;

use super::Pattern;

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

/// What commands set going, and how that ends.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Flow {
    /// For example `pay`.
    pub name: String,
    /// What happens, in words.
    pub title: String,
    /// The commands, each with what it tells.
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
    /// What it tells.
    pub emits: Vec<Pattern>,
}

/// What a service does on hearing a fact.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The fact.
    pub after: Pattern,
    /// The service.
    pub by: String,
    /// It tells one of these; none when it need not tell anything.
    #[serde(default)]
    pub must: Vec<Pattern>,
    /// It may tell these.
    #[serde(default)]
    pub may: Vec<Pattern>,
    /// Seconds within which it tells one of `must`.
    #[serde(default)]
    pub within_secs: i64,
    /// Whether it tells what it may in another saga than that of the fact.
    #[serde(default)]
    pub elsewhere: bool,
}

/// What time brings.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Timer {
    /// `<service>.<timer>`, or the command of the inside that the timer gives.
    pub name: String,
    /// The facts after which it may come due.
    pub after: Vec<Pattern>,
    /// What it tells.
    pub emits: Vec<Pattern>,
    /// Whether it tells so in another saga than that of the facts before.
    #[serde(default)]
    pub elsewhere: bool,
}

/// What must come about a thing once it has begun, in whatever saga.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lifetime {
    /// The fact that begins it.
    pub of: Pattern,
    /// The field that names the thing in this fact and in those that end it.
    pub thing: String,
    /// The service that ends it.
    pub by: String,
    /// It ends with one of these.
    pub must: Vec<Pattern>,
    /// The field of the first fact that says until when.
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

/// Facts that may lead back to themselves.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cycle {
    /// The facts.
    pub events: Vec<String>,
    /// Why they do not go on forever.
    pub ends_because: String,
}

/// What is wrong with a file of flows.
#[derive(Debug, thiserror::Error)]
pub enum FlowsError {
    /// It is no TOML, or a line is of another kind.
    #[error("{0}")]
    Toml(#[from] toml::de::Error),
    /// Two flows have one name.
    #[error("there are two flows `{0}`")]
    Twice(String),
    /// A fact is expected of a service that does not tell it.
    #[error("{place}: `{event}` is told by {producer}, not by {by}")]
    OtherProducer {
        /// Where it stands.
        place: String,
        /// The fact.
        event: String,
        /// Who tells it.
        producer: String,
        /// Who is said to.
        by: String,
    },
    /// A line says nothing.
    #[error("{0} names no fact that follows")]
    Nothing(String),
    /// A step must be taken, but nobody knows until when.
    #[error("{0} must be followed, so it needs `within_secs`, 1 or more; else it has none")]
    NoTime(String),
    /// A flow cannot end like this.
    #[error("flow `{flow}` cannot end with `{end}`: nothing leads there")]
    NoWay {
        /// The flow.
        flow: String,
        /// The end.
        end: String,
    },
    /// A step comes after a fact that is part of no flow.
    #[error("a step comes after `{0}`, which no flow leads to")]
    NeverConsumed(String),
}

impl Flow {
    /// How it ends, fact by fact.
    pub fn ends(&self) -> impl Iterator<Item = (&Pattern, SagaState)> {
        let with = |state| move |event| (event, state);
        let completed = self.completed.iter().map(with(SagaState::Completed));
        let failed = self.failed.iter().map(with(SagaState::Failed));
        let compensated = self.compensated.iter().map(with(SagaState::Compensated));
        completed.chain(failed).chain(compensated)
    }
}

impl Step {
    /// Whatever it may tell.
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

    /// What can be seen line by line.
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
