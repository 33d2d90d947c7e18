//! Which event follows from which: reads and indexes `jetstream/flows.toml`.
//!
//! The file says what the services do. A test of its own (`tests/it/architecture/flows/`)
//! compares it with what the services declare.
//!
//! | file | what is in it |
//! |---|---|
//! | this one | [`Flows`]: all flows, asked by event; and what follows from them taken together |
//! | `file` | the entries as they are written, and what can be wrong with one |
//! | `pattern` | an event with conditions on its payload, as entries name it |
//!
//! Begin with [`Flows::shipped`], the file that this binary was built with. [`Flows::may_follow`]
//! and [`Flows::may_begin`] judge one event, [`Flows::of`] has all that the file says of one, and
//! [`Flows::reach`] follows a flow from its beginning. Nothing here knows a broker or a database:
//! the auditor, the command line and the tests read the same flows.

mod file;
mod pattern;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::LazyLock,
};

use events::audit::SagaState;

pub use file::{Begin, Cycle, Flow, FlowsError, Lifetime, Step, Timer, Undo};
pub use pattern::{Condition, Fields, Is, NoPattern, Pattern};

/// The file at build time.
const TEXT: &str = include_str!("../../jetstream/flows.toml");

static SHIPPED: LazyLock<Flows> =
    LazyLock::new(|| Flows::parse(TEXT).unwrap_or_else(|error| panic!("flows.toml: {error}")));

/// Every flow of the mesh.
#[derive(Debug)]
pub struct Flows {
    file: file::File,
    of_event: HashMap<String, OfEvent>,
    no_event: OfEvent,
}

/// All that the file says of one event.
#[derive(Debug, Default)]
pub struct OfEvent {
    /// The fields that its entries and the timeline need.
    pub fields: Vec<String>,
    /// The steps after it, by their position in the file.
    pub steps: Vec<usize>,
    /// Whether some step must lead to it.
    pub is_awaited: bool,
    /// The flows that it begins, by their rank in the file.
    pub begins: Vec<(usize, Pattern)>,
    /// The first flow that it may be part of.
    pub part_of: Option<usize>,
    /// The flows that it ends, and how.
    pub ends: Vec<(usize, Pattern, SagaState)>,
}

/// Why one event may follow another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Link {
    /// One of the events of its step must follow.
    Must,
    /// It may follow.
    May,
    /// A timer may emit it.
    Time,
    /// It may follow, in another saga.
    MayElsewhere,
    /// A timer may emit it, in another saga.
    TimeElsewhere,
}

/// An event, one that may follow it, and why.
pub type Arrow<'a> = (&'a Pattern, &'a Pattern, Link);

impl Link {
    /// Whether what follows belongs to another saga.
    pub fn is_elsewhere(self) -> bool {
        matches!(self, Self::MayElsewhere | Self::TimeElsewhere)
    }
}

impl Flows {
    /// The flows that this binary was built with.
    pub fn shipped() -> &'static Self {
        &SHIPPED
    }

    /// Parses flows.
    ///
    /// # Errors
    /// When the text is wrong; the error says what and where.
    pub fn parse(text: &str) -> Result<Self, FlowsError> {
        let file: file::File = toml::from_str(text)?;
        file.check()?;
        let no_event = OfEvent { fields: of_every_event(), ..OfEvent::default() };
        let mut flows = Self { file, of_event: HashMap::new(), no_event };
        flows.index();
        flows.check_reach()?;
        Ok(flows)
    }

    /// The flows that commands begin, in the order of the file.
    pub fn flows(&self) -> &[Flow] {
        &self.file.flow
    }

    /// What services emit when they handle an event.
    pub fn steps(&self) -> &[Step] {
        &self.file.step
    }

    /// What timers emit.
    pub fn timers(&self) -> &[Timer] {
        &self.file.timer
    }

    /// What must come to an end.
    pub fn lifetimes(&self) -> &[Lifetime] {
        &self.file.lifetime
    }

    /// Which event undoes which.
    pub fn undoes(&self) -> &[Undo] {
        &self.file.undo
    }

    /// Events that may lead back to themselves.
    pub fn cycles(&self) -> &[Cycle] {
        &self.file.cycle
    }

    /// The flow of this name.
    pub fn flow(&self, name: &str) -> Option<&Flow> {
        self.file.flow.iter().find(|flow| flow.name == name)
    }

    /// The steps after an event of this name, whatever its payload.
    pub fn steps_after(&self, event: &str) -> impl Iterator<Item = &Step> {
        self.of(event).steps.iter().map(|at| &self.file.step[*at])
    }

    /// Whether the file names this event.
    pub fn knows(&self, event: &str) -> bool {
        self.of_event.contains_key(event)
    }

    /// Every event that the file names, in alphabetical order.
    pub fn events(&self) -> BTreeSet<&str> {
        self.of_event.keys().map(String::as_str).collect()
    }

    /// Whether `event` may name `cause` as its cause: emitted by a handler or a timer.
    pub fn may_follow(&self, cause: &str, event: &str) -> bool {
        let is_emitted = |emitted: &Pattern| emitted.event == event;
        let by_time = |timer: &Timer| {
            timer.after.iter().any(|after| after.event == cause)
                && timer.emits.iter().any(is_emitted)
        };
        self.steps_after(cause).any(|step| step.emits().any(is_emitted))
            || self.timers().iter().any(by_time)
    }

    /// Whether a command or a timer may emit `event`, without an event that causes it.
    pub fn may_begin(&self, event: &str) -> bool {
        let by_command = self.flows().iter().flat_map(|flow| &flow.begins);
        let by_command = by_command.flat_map(|begin| &begin.emits);
        let by_time = self.timers().iter().flat_map(|timer| &timer.emits);
        by_command.chain(by_time).any(|emitted| emitted.event == event)
    }

    /// All pairs of events of which one may follow the other, and why.
    pub fn links(&self) -> Vec<Arrow<'_>> {
        let steps = self.steps().iter().flat_map(|step| {
            let must = step.must.iter().map(|emitted| (&step.after, emitted, Link::Must));
            let may = if step.elsewhere { Link::MayElsewhere } else { Link::May };
            must.chain(step.may.iter().map(move |emitted| (&step.after, emitted, may)))
        });
        let timers = self.timers().iter().flat_map(|timer| {
            let link = if timer.elsewhere { Link::TimeElsewhere } else { Link::Time };
            let after = timer.after.iter();
            after.flat_map(move |after| {
                timer.emits.iter().map(move |emitted| (after, emitted, link))
            })
        });
        steps.chain(timers).collect()
    }

    /// The events of a flow's saga that can be reached from its beginning, and the links that
    /// lead from them, also to another saga.
    pub fn reach<'a>(&'a self, flow: &'a Flow) -> (Vec<&'a Pattern>, Vec<Arrow<'a>>) {
        let all = self.links();
        let mut events: Vec<&Pattern> = flow.begins.iter().flat_map(|begin| &begin.emits).collect();
        events.sort();
        events.dedup();
        let (mut links, mut next) = (Vec::new(), 0);
        while let Some(event) = events.get(next).copied() {
            next += 1;
            for (after, emitted, link) in all.iter().filter(|(after, ..)| after.meets(event)) {
                if !links.contains(&(*after, *emitted, *link)) {
                    links.push((*after, *emitted, *link));
                }
                if !link.is_elsewhere() && !events.contains(emitted) {
                    events.push(emitted);
                }
            }
        }
        (events, links)
    }

    /// All that the file says of an event; of one that it does not name, that nothing follows.
    pub fn of(&self, event: &str) -> &OfEvent {
        self.of_event.get(event).unwrap_or(&self.no_event)
    }

    /// The position of a flow in the file; the last for one that is no longer there.
    pub fn rank(&self, flow: &str) -> usize {
        self.flows().iter().position(|known| known.name == flow).unwrap_or(usize::MAX)
    }

    fn index(&mut self) {
        let mut of_event: BTreeMap<String, OfEvent> = BTreeMap::new();
        for pattern in self.file.patterns() {
            let of = of_event.entry(pattern.event.clone()).or_default();
            of.fields.extend(pattern.conditions.iter().map(|condition| condition.field.clone()));
        }
        let at = |of_event: &mut BTreeMap<String, OfEvent>,
                  event: &str,
                  change: &dyn Fn(&mut OfEvent)| {
            change(of_event.entry(event.to_owned()).or_default());
        };
        for (position, step) in self.file.step.iter().enumerate() {
            at(&mut of_event, &step.after.event, &|of| of.steps.push(position));
            for emitted in &step.must {
                at(&mut of_event, &emitted.event, &|of| of.is_awaited = true);
            }
        }
        for (rank, flow) in self.flows().iter().enumerate() {
            for emitted in flow.begins.iter().flat_map(|begin| &begin.emits) {
                at(&mut of_event, &emitted.event, &|of| of.begins.push((rank, emitted.clone())));
            }
            for (end, state) in flow.ends() {
                at(&mut of_event, &end.event, &|of| of.ends.push((rank, end.clone(), state)));
            }
            for event in self.reach(flow).0 {
                at(&mut of_event, &event.event, &|of| of.part_of = of.part_of.or(Some(rank)));
            }
        }
        for of in of_event.values_mut() {
            of.fields.extend(of_every_event());
            of.fields.sort();
            of.fields.dedup();
        }
        self.of_event = of_event.into_iter().collect();
    }

    /// Finds what can never come: an end of a flow, or an event that a step waits for.
    fn check_reach(&self) -> Result<(), FlowsError> {
        let reached: Vec<_> = self.flows().iter().map(|flow| (flow, self.reach(flow).0)).collect();
        for (flow, events) in &reached {
            for (end, _) in flow.ends() {
                if !events.iter().any(|event| event.meets(end)) {
                    let (flow, end) = (flow.name.clone(), end.to_string());
                    return Err(FlowsError::NoWay { flow, end });
                }
            }
        }
        for step in self.steps() {
            let comes =
                |(_, events): &(_, Vec<&Pattern>)| events.iter().any(|f| f.meets(&step.after));
            if !reached.iter().any(comes) {
                return Err(FlowsError::NeverConsumed(step.after.to_string()));
            }
        }
        Ok(())
    }
}

/// The fields that the timeline shows of every event.
fn of_every_event() -> Vec<String> {
    ["user_id", "schedule_id"].map(str::to_owned).to_vec()
}

#[cfg(test)]
mod tests;
