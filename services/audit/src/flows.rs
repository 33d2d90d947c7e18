//! What follows from what: `jetstream/flows.toml`, read and looked up.
//!
//! The file says what the services do; that it is true is a proof of its own
//! (`tests/it/architecture/flows/`), which compares it with what the services declare.

mod file;
mod pattern;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::LazyLock,
};

use events::audit::SagaState;

pub use file::{Begin, Cycle, Flow, FlowsError, Lifetime, Step, Timer, Undo};
pub use pattern::{Condition, Fields, Is, NoPattern, Pattern};

/// The file as it was when this was built.
const TEXT: &str = include_str!("../../../jetstream/flows.toml");

static SHIPPED: LazyLock<Flows> =
    LazyLock::new(|| Flows::parse(TEXT).unwrap_or_else(|error| panic!("flows.toml: {error}")));

/// Every flow of the mesh.
#[derive(Debug)]
pub struct Flows {
    file: file::File,
    of_fact: HashMap<String, OfFact>,
    no_fact: OfFact,
}

/// All that the file says of one fact.
#[derive(Debug, Default)]
pub(crate) struct OfFact {
    /// The fields that its lines and the timeline ask for.
    pub(crate) fields: Vec<String>,
    /// The steps after it, by position.
    pub(crate) steps: Vec<usize>,
    /// Whether some step must lead to it.
    pub(crate) is_awaited: bool,
    /// The flows that it begins, by rank.
    pub(crate) begins: Vec<(usize, Pattern)>,
    /// The first flow that it may be part of.
    pub(crate) part_of: Option<usize>,
    /// The flows that it ends, and how.
    pub(crate) ends: Vec<(usize, Pattern, SagaState)>,
}

/// Why one fact may follow another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    /// It must: one of the facts of its step.
    Must,
    /// It may.
    May,
    /// With time.
    Time,
    /// It may, in another saga.
    MayElsewhere,
    /// With time, in another saga.
    TimeElsewhere,
}

/// What may come after what, and why.
pub type Arrow<'a> = (&'a Pattern, &'a Pattern, Link);

impl Link {
    /// Whether what follows belongs to another saga.
    pub fn is_elsewhere(self) -> bool {
        matches!(self, Self::MayElsewhere | Self::TimeElsewhere)
    }
}

impl Flows {
    /// The flows that this program was built with.
    pub fn shipped() -> &'static Self {
        &SHIPPED
    }

    /// Reads flows.
    ///
    /// # Errors
    /// What is wrong, and where.
    pub fn parse(text: &str) -> Result<Self, FlowsError> {
        let file: file::File = toml::from_str(text)?;
        file.check()?;
        let no_fact = OfFact { fields: of_every_fact(), ..OfFact::default() };
        let mut flows = Self { file, of_fact: HashMap::new(), no_fact };
        flows.index();
        flows.check_reach()?;
        Ok(flows)
    }

    /// What commands set going, in the order of the file.
    pub fn flows(&self) -> &[Flow] {
        &self.file.flow
    }

    /// What services do on hearing.
    pub fn steps(&self) -> &[Step] {
        &self.file.step
    }

    /// What time brings.
    pub fn timers(&self) -> &[Timer] {
        &self.file.timer
    }

    /// What must come to an end.
    pub fn lifetimes(&self) -> &[Lifetime] {
        &self.file.lifetime
    }

    /// What is undone by what.
    pub fn undoes(&self) -> &[Undo] {
        &self.file.undo
    }

    /// Facts that may lead back to themselves.
    pub fn cycles(&self) -> &[Cycle] {
        &self.file.cycle
    }

    /// The flow of this name.
    pub fn flow(&self, name: &str) -> Option<&Flow> {
        self.file.flow.iter().find(|flow| flow.name == name)
    }

    /// The steps after a fact of this name, whatever its payload.
    pub fn steps_after(&self, fact: &str) -> impl Iterator<Item = &Step> {
        self.of(fact).steps.iter().map(|at| &self.file.step[*at])
    }

    /// Whether the file knows a fact of this name.
    pub fn knows(&self, fact: &str) -> bool {
        self.of_fact.contains_key(fact)
    }

    /// Every fact that the file names, in the order of the alphabet.
    pub fn facts(&self) -> BTreeSet<&str> {
        self.of_fact.keys().map(String::as_str).collect()
    }

    /// Whether a fact that names one called `cause` as its cause may be `fact`: on hearing it,
    /// or with time.
    pub fn may_follow(&self, cause: &str, fact: &str) -> bool {
        let is_told = |told: &Pattern| told.fact == fact;
        let by_time = |timer: &Timer| {
            timer.after.iter().any(|after| after.fact == cause) && timer.tells.iter().any(is_told)
        };
        self.steps_after(cause).any(|step| step.tells().any(is_told))
            || self.timers().iter().any(by_time)
    }

    /// Whether a command or a timer may tell `fact`, without any fact to hear.
    pub fn may_begin(&self, fact: &str) -> bool {
        let by_command = self.flows().iter().flat_map(|flow| &flow.begins);
        let by_command = by_command.flat_map(|begin| &begin.tells);
        let by_time = self.timers().iter().flat_map(|timer| &timer.tells);
        by_command.chain(by_time).any(|told| told.fact == fact)
    }

    /// What may come after what, and why.
    pub fn links(&self) -> Vec<Arrow<'_>> {
        let steps = self.steps().iter().flat_map(|step| {
            let must = step.must.iter().map(|told| (&step.after, told, Link::Must));
            let may = if step.elsewhere { Link::MayElsewhere } else { Link::May };
            must.chain(step.may.iter().map(move |told| (&step.after, told, may)))
        });
        let timers = self.timers().iter().flat_map(|timer| {
            let link = if timer.elsewhere { Link::TimeElsewhere } else { Link::Time };
            let after = timer.after.iter();
            after.flat_map(move |after| timer.tells.iter().map(move |told| (after, told, link)))
        });
        steps.chain(timers).collect()
    }

    /// The facts of a flow's saga, as far as they can be reached from its beginning, and the
    /// links that lead from them, be it to another saga.
    pub fn reach<'a>(&'a self, flow: &'a Flow) -> (Vec<&'a Pattern>, Vec<Arrow<'a>>) {
        let all = self.links();
        let mut facts: Vec<&Pattern> = flow.begins.iter().flat_map(|begin| &begin.tells).collect();
        facts.sort();
        facts.dedup();
        let (mut links, mut next) = (Vec::new(), 0);
        while let Some(fact) = facts.get(next).copied() {
            next += 1;
            for (after, told, link) in all.iter().filter(|(after, ..)| after.meets(fact)) {
                if !links.contains(&(*after, *told, *link)) {
                    links.push((*after, *told, *link));
                }
                if !link.is_elsewhere() && !facts.contains(told) {
                    facts.push(told);
                }
            }
        }
        (facts, links)
    }

    pub(crate) fn of(&self, fact: &str) -> &OfFact {
        self.of_fact.get(fact).unwrap_or(&self.no_fact)
    }

    /// The place of a flow in the file; the end for one that is not there any more.
    pub(crate) fn rank(&self, flow: &str) -> usize {
        self.flows().iter().position(|known| known.name == flow).unwrap_or(usize::MAX)
    }

    fn index(&mut self) {
        let mut of_fact: BTreeMap<String, OfFact> = BTreeMap::new();
        for pattern in self.file.patterns() {
            let of = of_fact.entry(pattern.fact.clone()).or_default();
            of.fields.extend(pattern.conditions.iter().map(|condition| condition.field.clone()));
        }
        let at =
            |of_fact: &mut BTreeMap<String, OfFact>, fact: &str, change: &dyn Fn(&mut OfFact)| {
                change(of_fact.entry(fact.to_owned()).or_default());
            };
        for (position, step) in self.file.step.iter().enumerate() {
            at(&mut of_fact, &step.after.fact, &|of| of.steps.push(position));
            for told in &step.must {
                at(&mut of_fact, &told.fact, &|of| of.is_awaited = true);
            }
        }
        for (rank, flow) in self.flows().iter().enumerate() {
            for told in flow.begins.iter().flat_map(|begin| &begin.tells) {
                at(&mut of_fact, &told.fact, &|of| of.begins.push((rank, told.clone())));
            }
            for (end, state) in flow.ends() {
                at(&mut of_fact, &end.fact, &|of| of.ends.push((rank, end.clone(), state)));
            }
            for fact in self.reach(flow).0 {
                at(&mut of_fact, &fact.fact, &|of| of.part_of = of.part_of.or(Some(rank)));
            }
        }
        for of in of_fact.values_mut() {
            of.fields.extend(of_every_fact());
            of.fields.sort();
            of.fields.dedup();
        }
        self.of_fact = of_fact.into_iter().collect();
    }

    /// What can never come is a mistake: an end of a flow, or a fact that a step waits for.
    fn check_reach(&self) -> Result<(), FlowsError> {
        let reached: Vec<_> = self.flows().iter().map(|flow| (flow, self.reach(flow).0)).collect();
        for (flow, facts) in &reached {
            for (end, _) in flow.ends() {
                if !facts.iter().any(|fact| fact.meets(end)) {
                    let (flow, end) = (flow.name.clone(), end.to_string());
                    return Err(FlowsError::NoWay { flow, end });
                }
            }
        }
        for step in self.steps() {
            let comes =
                |(_, facts): &(_, Vec<&Pattern>)| facts.iter().any(|f| f.meets(&step.after));
            if !reached.iter().any(comes) {
                return Err(FlowsError::NeverHeard(step.after.to_string()));
            }
        }
        Ok(())
    }
}

/// What the timeline shows of every fact.
fn of_every_fact() -> Vec<String> {
    ["user_id", "schedule_id"].map(str::to_owned).to_vec()
}

#[cfg(test)]
mod tests;
