//! Flows as Mermaid diagrams.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::Write,
};

use events::{audit::SagaState, producer_of};
use flows::{Flow, Flows, Is, Link, Pattern, Timer};

/// A flow of more events is drawn from top to bottom.
const WIDE: usize = 5;

/// Markdown: a legend, a diagram of all flows, and a diagram of each.
pub fn diagrams(flows: &Flows) -> String {
    let mut text = "\
<!-- Generated from jetstream/flows.toml by `onsale flows --write docs/flows.md`. -->

A solid line is an event that must follow, a dashed line one that may, with the timer that emits it;
`↩` compensates an earlier event. Ends are green when the flow completed, red when it was refused,
yellow when something was compensated.

## Which service waits for which

"
    .to_owned();
    text.push_str(&overview(flows));
    let (short, long): (Vec<_>, Vec<_>) =
        flows.flows().iter().partition(|flow| flows.reach(flow).1.is_empty());
    for flow in long {
        let drawn = of_flows(flows, &[flow]);
        let _ = write!(text, "\n## `{}`: {}\n\n{drawn}", flow.name, flow.title);
    }
    text.push_str("\n## Flows of a single event\n\n");
    for flow in &short {
        let _ = writeln!(text, "- `{}`: {}", flow.name, flow.title);
    }
    let _ = write!(text, "\n{}", of_flows(flows, &short));
    text.push_str("\n## Events that may follow in any flow\n\n");
    text.push_str(&asides(flows));
    text
}

/// Asides, with the timers that bring them.
fn asides(flows: &Flows) -> String {
    let mut diagram = Diagram::default();
    let is_of_asides = |timer: &&Timer| timer.emits.iter().all(|emitted| is_aside(flows, emitted));
    for step in flows.steps() {
        for emitted in step.emits().filter(|emitted| is_aside(flows, emitted)) {
            diagram.link(flows, &step.after, emitted, Link::May);
        }
    }
    for (number, timer) in flows.timers().iter().filter(is_of_asides).enumerate() {
        let _ = writeln!(diagram.nodes, "  t{number}([{}])", timer.name);
        for after in &timer.after {
            let id = diagram.node(flows, after);
            let _ = writeln!(diagram.links, "  {id} -.-> t{number}");
        }
        for emitted in &timer.emits {
            let id = diagram.node(flows, emitted);
            let _ = writeln!(diagram.links, "  t{number} -.-> {id}");
        }
    }
    diagram.drawn("LR")
}

/// An event that nothing waits for, that nothing follows, and that ends no flow: it would be in
/// every diagram and explain none.
fn is_aside(flows: &Flows, emitted: &Pattern) -> bool {
    let is_end = |flow: &Flow| flow.ends().any(|(end, _)| end.event == emitted.event);
    let is_begin = |flow: &Flow| {
        flow.begins.iter().flat_map(|begin| &begin.emits).any(|begin| begin.event == emitted.event)
    };
    let matters = flows.links().iter().any(|(after, other, link)| {
        after.event == emitted.event || (other.event == emitted.event && *link == Link::Must)
    });
    !matters && !flows.flows().iter().any(|flow| is_end(flow) || is_begin(flow))
}

/// Flows in one diagram.
fn of_flows(flows: &Flows, pictured: &[&Flow]) -> String {
    let mut diagram = Diagram::default();
    for (number, begin) in pictured.iter().flat_map(|flow| &flow.begins).enumerate() {
        let _ = writeln!(diagram.nodes, "  c{number}([{}])", begin.command);
        for emitted in &begin.emits {
            let id = diagram.node(flows, emitted);
            let _ = writeln!(diagram.links, "  c{number} --> {id}");
        }
    }
    for flow in pictured {
        let (events, links) = flows.reach(flow);
        for event in events.into_iter().filter(|event| !is_aside(flows, event)) {
            for (after, emitted, link) in &links {
                if after.meets(event) && !is_aside(flows, emitted) {
                    diagram.link(flows, event, emitted, *link);
                }
            }
            let ends = flow.ends().filter(|(end, _)| end.meets(event)).map(|(_, state)| state);
            if let Some(state) = ends.min() {
                let id = diagram.node(flows, event);
                diagram.ends.entry(state).or_default().insert(id);
            }
        }
    }
    let is_short = pictured.len() > 1 || diagram.ids.len() <= WIDE;
    diagram.drawn(if is_short { "LR" } else { "TD" })
}

/// Services, and the events for which one waits for another.
fn overview(flows: &Flows) -> String {
    let mut between: BTreeMap<(&str, &str, bool), BTreeSet<&str>> = BTreeMap::new();
    for (after, emitted, link) in flows.links() {
        let (from, to) = (producer_of(&after.event), producer_of(&emitted.event));
        if from != to {
            let word = after.event.split_once('.').map_or("", |(_, word)| word);
            between.entry((from, to, link == Link::Must)).or_default().insert(word);
        }
    }
    let mut drawn = "```mermaid\nflowchart LR\n".to_owned();
    for ((from, to, must), words) in &between {
        // An event that must follow is not named again among those that may.
        let is_new = |word: &&&str| {
            *must || !between.get(&(*from, *to, true)).is_some_and(|named| named.contains(**word))
        };
        let words: Vec<_> = words.iter().filter(is_new).copied().collect();
        if !words.is_empty() {
            let arrow = arrow(if *must { Link::Must } else { Link::May });
            let _ = writeln!(drawn, "  {from} {arrow}|{}| {to}", words.join("<br/>"));
        }
    }
    drawn.push_str("```\n");
    drawn
}

#[derive(Default)]
struct Diagram {
    ids: BTreeMap<String, String>,
    nodes: String,
    links: String,
    drawn: BTreeSet<(String, String)>,
    ends: BTreeMap<SagaState, BTreeSet<String>>,
}

impl Diagram {
    fn node(&mut self, flows: &Flows, event: &Pattern) -> String {
        let label = label(flows, event);
        if let Some(id) = self.ids.get(&label) {
            return id.clone();
        }
        let id = format!("f{}", self.ids.len());
        let _ = writeln!(self.nodes, "  {id}[\"{label}\"]");
        self.ids.insert(label, id.clone());
        id
    }

    fn link(&mut self, flows: &Flows, after: &Pattern, emitted: &Pattern, link: Link) {
        let (from, to) = (self.node(flows, after), self.node(flows, emitted));
        if !self.drawn.insert((from.clone(), to.clone())) {
            return;
        }
        let _ = write!(self.links, "  {from} {}", arrow(link));
        let by_time = flows.timers().iter().find(|timer| {
            timer.emits.contains(emitted) && timer.after.iter().any(|one| one.meets(after))
        });
        if let (Link::Time | Link::TimeElsewhere, Some(timer)) = (link, by_time) {
            let _ = write!(self.links, "|{}|", timer.name);
        }
        let _ = writeln!(self.links, " {to}");
    }

    fn drawn(self, direction: &str) -> String {
        let mut drawn = format!("```mermaid\nflowchart {direction}\n{}{}", self.nodes, self.links);
        for (state, ids) in &self.ends {
            let colour = match state {
                SagaState::Completed => "#2da44e",
                SagaState::Compensated => "#bf8700",
                _ => "#cf222e",
            };
            let ids: Vec<_> = ids.iter().map(String::as_str).collect();
            let _ =
                writeln!(drawn, "  classDef {} stroke:{colour},stroke-width:3px", state.as_str());
            let _ = writeln!(drawn, "  class {} {}", ids.join(","), state.as_str());
        }
        drawn.push_str("```\n");
        drawn
    }
}

/// The event, and on a second line what distinguishes it.
fn label(flows: &Flows, event: &Pattern) -> String {
    let undoes = flows.undoes().iter().any(|undo| undo.by.meets(event));
    let mut label = format!("{}{}", if undoes { "↩ " } else { "" }, event.event);
    let conditions: Vec<_> = event
        .conditions
        .iter()
        .map(|condition| match &condition.is {
            Is::OneOf(values) => values.join(" or "),
            Is::There => format!("with {}", condition.field),
            Is::Absent => format!("without {}", condition.field),
        })
        .collect();
    if !conditions.is_empty() {
        let _ = write!(label, "<br/>{}", conditions.join(", "));
    }
    label
}

/// How a link is drawn.
fn arrow(link: Link) -> &'static str {
    match link {
        Link::Must => "-->",
        _ => "-.->",
    }
}
