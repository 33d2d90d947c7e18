//! `jetstream/flows.toml` agrees with the declarations of the services.

use flows::{Flows, Is, Pattern};
use harness::{event_types, project, wiring};
use mesh::Wiring;
use onsale::flows::{diagrams, put_into};
use serde_json::json;

/// Events that a service declares to emit and no flow declares.
fn undeclared(wirings: &[Wiring], flows: &Flows) -> Vec<String> {
    let mut complaints = Vec::new();
    for wiring in wirings {
        let service = wiring.service;
        let mut complain = |why: &str, emitted: &str| {
            complaints.push(format!("{service} emits {emitted} {why}; no flow declares it"));
        };
        for (event, emits) in &wiring.consumes {
            let is_declared = |emitted: &str| {
                flows.steps_after(event).any(|step| {
                    step.by == service && step.emits().any(|declared| declared.event == emitted)
                })
            };
            for emitted in emits.iter().filter(|emitted| !is_declared(emitted)) {
                complain(&format!("on {event}"), emitted);
            }
        }
        for (endpoint, emits) in &wiring.answers {
            for emitted in emits.iter().filter(|emitted| !begins(flows, endpoint, emitted)) {
                complain(&format!("on {endpoint}"), emitted);
            }
        }
        for (timer, emits) in &wiring.timers {
            // A timer that sends an internal command emits what that command emits.
            let by_command = |emitted: &&&str| {
                wiring.answers.iter().any(|(_, emits)| emits.contains(*emitted))
                    || begins(flows, &format!("{service}.{timer}"), emitted)
            };
            for emitted in emits.iter().filter(|emitted| !by_command(emitted)) {
                complain(&format!("by its timer {timer}"), emitted);
            }
        }
    }
    complaints
}

/// Whether the flows declare that this command or timer emits this event.
fn begins(flows: &Flows, name: &str, emitted: &str) -> bool {
    begun(flows).any(|(by, event)| by == name && event.event == emitted)
}

/// Every command and timer of the flows, with each event that it emits.
fn begun(flows: &Flows) -> impl Iterator<Item = (&str, &Pattern)> {
    let begins = flows.flows().iter().flat_map(|flow| &flow.begins);
    let commands = begins
        .flat_map(|begin| begin.emits.iter().map(|emitted| (begin.command.as_str(), emitted)));
    let timers = flows.timers().iter();
    commands.chain(timers.flat_map(|t| t.emits.iter().map(|emitted| (t.name.as_str(), emitted))))
}

/// What a flow declares, and no service does.
fn not_done(wirings: &[Wiring], flows: &Flows) -> Vec<String> {
    let mut complaints = Vec::new();
    for step in flows.steps() {
        let own = wirings.iter().filter(|wiring| wiring.service == step.by);
        let handled =
            own.flat_map(|wiring| &wiring.consumes).find(|(event, _)| *event == step.after.event);
        for emitted in step.emits() {
            if !handled.is_some_and(|(_, emits)| emits.contains(&emitted.event.as_str())) {
                let (by, after) = (&step.by, &step.after);
                complaints.push(format!("{by} does not emit {emitted} on {after}"));
            }
        }
    }
    for (name, emitted) in begun(flows) {
        let does = wirings.iter().any(|wiring| {
            let timers = wiring.timers.iter();
            let timers =
                timers.map(|(timer, emits)| (format!("{}.{timer}", wiring.service), emits));
            let answers = wiring.answers.iter().map(|(name, emits)| ((*name).to_owned(), emits));
            timers.chain(answers).any(|(by, emits)| by == name && emits.contains(&&*emitted.event))
        });
        if !does {
            complaints.push(format!("no service emits {emitted} on {name}"));
        }
    }
    complaints
}

/// Compensations that no service performs, and flows that are declared as compensated although
/// nothing in them undoes anything.
fn uncompensated(wirings: &[Wiring], flows: &Flows) -> Vec<String> {
    let mut complaints = Vec::new();
    let leads = |by: &Pattern| {
        flows.links().iter().any(|(_, emitted, _)| emitted.meets(by))
            || begun(flows).any(|(_, emitted)| emitted.meets(by))
    };
    let emits = |event: &str| {
        wirings.iter().any(|wiring| {
            let all = wiring.consumes.iter().chain(&wiring.answers).chain(&wiring.timers);
            all.flat_map(|(_, emits)| *emits).any(|emitted| *emitted == event)
        })
    };
    for undo in flows.undoes() {
        if !leads(&undo.by) || !emits(&undo.by.event) {
            complaints.push(format!("no service undoes {} by {}", undo.event, undo.by));
        }
    }
    for flow in flows.flows() {
        let (events, _) = flows.reach(flow);
        let has = |pattern: &Pattern| events.iter().any(|event| event.meets(pattern));
        let undoes = flows.undoes().iter().any(|undo| has(&undo.event) && has(&undo.by));
        let declares = flow.ends().any(|(_, state)| state == events::audit::SagaState::Compensated);
        if declares != undoes {
            let name = &flow.name;
            complaints
                .push(format!("flow {name}: compensated? {declares}; undoes anything? {undoes}"));
        }
    }
    complaints
}

/// Patterns that no event can ever match.
fn impossible(flows: &Flows) -> Vec<String> {
    let links = flows.links();
    let links = links.iter().flat_map(|(after, emitted, _)| [*after, *emitted]);
    let ends = flows.flows().iter().flat_map(|flow| flow.ends().map(|(end, _)| end));
    let begins = begun(flows).map(|(_, emitted)| emitted);
    let undoes = flows.undoes().iter().flat_map(|undo| [&undo.event, &undo.by]);
    let mut complaints = Vec::new();
    for pattern in links.chain(ends).chain(begins).chain(undoes) {
        let Some(event) = event_types::named(&pattern.event) else {
            complaints.push(format!("{pattern}: there is no such event"));
            continue;
        };
        let recorded = event.data();
        for condition in &pattern.conditions {
            if recorded.get(&condition.field).is_none() {
                complaints.push(format!("{pattern}: it has no field {}", condition.field));
                continue;
            }
            let Is::OneOf(values) = &condition.is else { continue };
            for value in values {
                let mut data = recorded.clone();
                data[&condition.field] = json!(value);
                if (event.read)(data.to_string().as_bytes()).is_err() {
                    complaints.push(format!("{pattern}: {} is never {value}", condition.field));
                }
            }
        }
    }
    complaints
}

#[test]
fn every_event_that_a_service_emits_is_declared_in_a_flow() {
    assert_eq!(undeclared(&wiring::all(), Flows::shipped()), [""; 0]);
}

#[test]
fn everything_that_a_flow_declares_is_done_by_a_service() {
    assert_eq!(not_done(&wiring::all(), Flows::shipped()), [""; 0]);
}

#[test]
fn every_compensation_is_performed_by_a_service() {
    assert_eq!(uncompensated(&wiring::all(), Flows::shipped()), [""; 0]);
}

#[test]
fn flows_name_every_event_and_only_possible_patterns() {
    let flows = Flows::shipped();
    assert_eq!(impossible(flows), [""; 0]);
    let missing: Vec<_> =
        event_types::ALL.iter().filter(|event| !flows.knows(event.name)).collect();
    assert!(missing.is_empty(), "no flow knows {missing:?}");
}

#[test]
fn a_lifetime_names_fields_that_its_events_have() {
    for life in Flows::shipped().lifetimes() {
        for pattern in [&life.of].into_iter().chain(&life.must) {
            let event = event_types::named(&pattern.event).unwrap_or_else(|| panic!("{pattern}"));
            let recorded = event.data();
            assert!(recorded.get(&life.thing).is_some(), "{pattern} has no {}", life.thing);
            let is_first = pattern == &life.of;
            assert!(!is_first || recorded.get(&life.until).is_some(), "{pattern}: {}", life.until);
        }
    }
}

#[test]
fn the_diagrams_in_the_documents_are_current() {
    let kept = project::read("docs/flows.md");
    let current = put_into(&kept, &diagrams(Flows::shipped())).expect("they have a place");
    assert!(kept == current, "run `onsale flows --write docs/flows.md`");
}

/// A point service and a payment service of an example.
fn example() -> [Wiring; 2] {
    let none = || (Vec::new(), Vec::new());
    let (timers, follows) = none();
    let payment = Wiring {
        service: "payment",
        consumes: vec![("point.debit_refused", &["payment.failed"])],
        answers: vec![("payment.pay", &["payment.requested"])],
        timers,
        follows,
    };
    let (timers, follows) = none();
    let point = Wiring {
        service: "point",
        consumes: vec![("payment.requested", &["point.debited", "point.debit_refused"])],
        answers: vec![],
        timers,
        follows,
    };
    [payment, point]
}

const EXAMPLE: &str = r#"
[[flow]]
name = "pay"
title = "An example"
begins = { "payment.pay" = ["payment.requested"] }
failed = ["payment.failed"]

[[step]]
after = "payment.requested"
by = "point"
must = ["point.debited", "point.debit_refused"]
within_secs = 1

[[step]]
after = "point.debit_refused"
by = "payment"
must = ["payment.failed"]
within_secs = 1
"#;

fn flows(more: &str) -> Flows {
    Flows::parse(&format!("{EXAMPLE}{more}")).expect("an example")
}

#[test]
fn an_example_without_mistakes_has_no_complaints() {
    let (wirings, flows) = (example(), flows(""));
    assert_eq!(undeclared(&wirings, &flows), [""; 0]);
    assert_eq!(not_done(&wirings, &flows), [""; 0]);
    assert_eq!(uncompensated(&wirings, &flows), [""; 0]);
    assert_eq!(impossible(&flows), [""; 0]);
}

#[test]
fn a_handler_that_emits_what_no_flow_declares_is_named() {
    let mut wirings = example();
    wirings[1].consumes[0].1 = &["point.debited", "point.debit_refused", "point.refunded"];
    wirings[1].answers.push(("point.charge", &["point.charged"]));
    wirings[1].timers.push(("gift", &["point.refunded"]));
    assert_eq!(
        undeclared(&wirings, &flows("")),
        [
            "point emits point.refunded on payment.requested; no flow declares it",
            "point emits point.charged on point.charge; no flow declares it",
            "point emits point.refunded by its timer gift; no flow declares it",
        ]
    );
}

#[test]
fn a_step_that_no_service_takes_is_named() {
    let timer = "[[timer]]\nname = \"payment.remind\"\nafter = [\"payment.requested\"]\n\
                 emits = [\"payment.failed\"]\n";
    let mut wirings = example();
    wirings[0].consumes.clear();
    assert_eq!(
        not_done(&wirings, &flows(timer)),
        [
            "payment does not emit payment.failed on point.debit_refused",
            "no service emits payment.failed on payment.remind",
        ]
    );
}

#[test]
fn a_compensation_that_no_service_performs_is_named() {
    let undo = "[[undo]]\nevent = \"point.debited\"\nby = \"point.refunded\"\n";
    assert_eq!(
        uncompensated(&example(), &flows(undo)),
        ["no service undoes point.debited by point.refunded"]
    );
    let undone = "[[undo]]\nevent = \"payment.requested\"\nby = \"payment.failed\"\n";
    assert_eq!(
        uncompensated(&example(), &flows(undone)),
        ["flow pay: compensated? false; undoes anything? true"]
    );
}

#[test]
fn a_pattern_that_no_event_matches_is_named() {
    let undo = "[[undo]]\nevent = \"point.lost\"\nby = \"payment.failed{reason=bored, why}\"\n";
    assert_eq!(
        impossible(&flows(undo)),
        [
            "point.lost: there is no such event",
            "payment.failed{reason=bored, why}: reason is never bored",
            "payment.failed{reason=bored, why}: it has no field why",
        ]
    );
}
