//! `jetstream/flows.toml` and the declarations of the services say the same.

use audit::flows::{Flows, Is, Pattern};
use harness::{facts, project, wiring};
use mesh::Wiring;
use onsale::flows::{diagrams, put_into};
use serde_json::json;

/// What a service declares to tell, and no flow has it.
fn undeclared(wirings: &[Wiring], flows: &Flows) -> Vec<String> {
    let mut complaints = Vec::new();
    for wiring in wirings {
        let service = wiring.service;
        let mut complain = |why: &str, told: &str| {
            complaints.push(format!("{service} tells {told} {why}; no flow says so"));
        };
        for (heard, tells) in &wiring.hears {
            let says = |told: &str| {
                flows
                    .steps_after(heard)
                    .any(|step| step.by == service && step.tells().any(|said| said.fact == told))
            };
            for told in tells.iter().filter(|told| !says(told)) {
                complain(&format!("on hearing {heard}"), told);
            }
        }
        for (endpoint, tells) in &wiring.answers {
            for told in tells.iter().filter(|told| !begins(flows, endpoint, told)) {
                complain(&format!("on {endpoint}"), told);
            }
        }
        for (timer, tells) in &wiring.timers {
            // A timer that gives a command of the inside tells what that command tells.
            let by_command = |told: &&&str| {
                wiring.answers.iter().any(|(_, tells)| tells.contains(*told))
                    || begins(flows, &format!("{service}.{timer}"), told)
            };
            for told in tells.iter().filter(|told| !by_command(told)) {
                complain(&format!("by its timer {timer}"), told);
            }
        }
    }
    complaints
}

/// Whether some flow or timer says that this command or timer tells this fact.
fn begins(flows: &Flows, name: &str, told: &str) -> bool {
    said_to_begin(flows).any(|(by, fact)| by == name && fact.fact == told)
}

/// Every command and timer of the flows, with each fact that it tells.
fn said_to_begin(flows: &Flows) -> impl Iterator<Item = (&str, &Pattern)> {
    let begins = flows.flows().iter().flat_map(|flow| &flow.begins);
    let commands =
        begins.flat_map(|begin| begin.tells.iter().map(|told| (begin.command.as_str(), told)));
    let timers = flows.timers().iter();
    commands.chain(timers.flat_map(|t| t.tells.iter().map(|told| (t.name.as_str(), told))))
}

/// What a flow says that a service does, and it does not.
fn not_done(wirings: &[Wiring], flows: &Flows) -> Vec<String> {
    let mut complaints = Vec::new();
    for step in flows.steps() {
        let own = wirings.iter().filter(|wiring| wiring.service == step.by);
        let heard = own.flat_map(|wiring| &wiring.hears).find(|(fact, _)| *fact == step.after.fact);
        for told in step.tells() {
            if !heard.is_some_and(|(_, tells)| tells.contains(&told.fact.as_str())) {
                let (by, after) = (&step.by, &step.after);
                complaints.push(format!("{by} does not tell {told} on hearing {after}"));
            }
        }
    }
    for (name, told) in said_to_begin(flows) {
        let does = wirings.iter().any(|wiring| {
            let timers = wiring.timers.iter();
            let timers =
                timers.map(|(timer, tells)| (format!("{}.{timer}", wiring.service), tells));
            let answers = wiring.answers.iter().map(|(name, tells)| ((*name).to_owned(), tells));
            timers.chain(answers).any(|(by, tells)| by == name && tells.contains(&&*told.fact))
        });
        if !does {
            complaints.push(format!("nobody tells {told} on {name}"));
        }
    }
    complaints
}

/// Compensations that nobody performs, and flows that say they are compensated while nothing
/// in them undoes anything.
fn uncompensated(wirings: &[Wiring], flows: &Flows) -> Vec<String> {
    let mut complaints = Vec::new();
    let leads = |by: &Pattern| {
        flows.links().iter().any(|(_, told, _)| told.meets(by))
            || said_to_begin(flows).any(|(_, told)| told.meets(by))
    };
    let tells = |fact: &str| {
        wirings.iter().any(|wiring| {
            let all = wiring.hears.iter().chain(&wiring.answers).chain(&wiring.timers);
            all.flat_map(|(_, tells)| *tells).any(|told| *told == fact)
        })
    };
    for undo in flows.undoes() {
        if !leads(&undo.by) || !tells(&undo.by.fact) {
            complaints.push(format!("nobody undoes {} by {}", undo.fact, undo.by));
        }
    }
    for flow in flows.flows() {
        let (facts, _) = flows.reach(flow);
        let has = |pattern: &Pattern| facts.iter().any(|fact| fact.meets(pattern));
        let undoes = flows.undoes().iter().any(|undo| has(&undo.fact) && has(&undo.by));
        let says = flow.ends().any(|(_, state)| state == events::audit::SagaState::Compensated);
        if says != undoes {
            let name = &flow.name;
            complaints.push(format!("flow {name}: compensated? {says}; undoes anything? {undoes}"));
        }
    }
    complaints
}

/// Patterns that no fact could ever fit.
fn impossible(flows: &Flows) -> Vec<String> {
    let links = flows.links();
    let links = links.iter().flat_map(|(after, told, _)| [*after, *told]);
    let ends = flows.flows().iter().flat_map(|flow| flow.ends().map(|(end, _)| end));
    let begins = said_to_begin(flows).map(|(_, told)| told);
    let undoes = flows.undoes().iter().flat_map(|undo| [&undo.fact, &undo.by]);
    let mut complaints = Vec::new();
    for pattern in links.chain(ends).chain(begins).chain(undoes) {
        let Some(fact) = facts::named(&pattern.fact) else {
            complaints.push(format!("{pattern}: there is no such fact"));
            continue;
        };
        let recorded = fact.data();
        for condition in &pattern.conditions {
            if recorded.get(&condition.field).is_none() {
                complaints.push(format!("{pattern}: it has no field {}", condition.field));
                continue;
            }
            let Is::OneOf(values) = &condition.is else { continue };
            for value in values {
                let mut told = recorded.clone();
                told[&condition.field] = json!(value);
                if (fact.read)(told.to_string().as_bytes()).is_err() {
                    complaints.push(format!("{pattern}: {} is never {value}", condition.field));
                }
            }
        }
    }
    complaints
}

#[test]
fn what_a_service_tells_is_declared_in_a_flow() {
    assert_eq!(undeclared(&wiring::all(), Flows::shipped()), [""; 0]);
}

#[test]
fn what_a_flow_declares_is_done_by_a_service() {
    assert_eq!(not_done(&wiring::all(), Flows::shipped()), [""; 0]);
}

#[test]
fn every_compensation_is_performed_by_somebody() {
    assert_eq!(uncompensated(&wiring::all(), Flows::shipped()), [""; 0]);
}

#[test]
fn flows_name_every_fact_and_only_what_facts_can_say() {
    let flows = Flows::shipped();
    assert_eq!(impossible(flows), [""; 0]);
    let missing: Vec<_> = facts::ALL.iter().filter(|fact| !flows.knows(fact.name)).collect();
    assert!(missing.is_empty(), "no flow knows {missing:?}");
}

#[test]
fn a_lifetime_names_fields_that_its_facts_have() {
    for life in Flows::shipped().lifetimes() {
        for pattern in [&life.of].into_iter().chain(&life.must) {
            let fact = facts::named(&pattern.fact).unwrap_or_else(|| panic!("{pattern}"));
            let recorded = fact.data();
            assert!(recorded.get(&life.thing).is_some(), "{pattern} has no {}", life.thing);
            let is_first = pattern == &life.of;
            assert!(!is_first || recorded.get(&life.until).is_some(), "{pattern}: {}", life.until);
        }
    }
}

#[test]
fn the_diagrams_of_the_architecture_are_current() {
    let kept = project::read("ARCHITECTURE.md");
    let current = put_into(&kept, &diagrams(Flows::shipped())).expect("they have a place");
    assert!(kept == current, "run `onsale flows --write ARCHITECTURE.md`");
}

/// A point service and a payment service of an example.
fn example() -> [Wiring; 2] {
    let none = || (Vec::new(), Vec::new());
    let (timers, follows) = none();
    let payment = Wiring {
        service: "payment",
        hears: vec![("point.debit_refused", &["payment.failed"])],
        answers: vec![("payment.pay", &["payment.requested"])],
        timers,
        follows,
    };
    let (timers, follows) = none();
    let point = Wiring {
        service: "point",
        hears: vec![("payment.requested", &["point.debited", "point.debit_refused"])],
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
fn a_handler_that_tells_what_its_flow_does_not_declare_is_named() {
    let mut wirings = example();
    wirings[1].hears[0].1 = &["point.debited", "point.debit_refused", "point.refunded"];
    wirings[1].answers.push(("point.charge", &["point.charged"]));
    wirings[1].timers.push(("gift", &["point.refunded"]));
    assert_eq!(
        undeclared(&wirings, &flows("")),
        [
            "point tells point.refunded on hearing payment.requested; no flow says so",
            "point tells point.charged on point.charge; no flow says so",
            "point tells point.refunded by its timer gift; no flow says so",
        ]
    );
}

#[test]
fn a_step_that_nobody_takes_is_named() {
    let timer = "[[timer]]\nname = \"payment.remind\"\nafter = [\"payment.requested\"]\n\
                 tells = [\"payment.failed\"]\n";
    let mut wirings = example();
    wirings[0].hears.clear();
    assert_eq!(
        not_done(&wirings, &flows(timer)),
        [
            "payment does not tell payment.failed on hearing point.debit_refused",
            "nobody tells payment.failed on payment.remind",
        ]
    );
}

#[test]
fn a_compensation_that_nobody_performs_is_named() {
    let undo = "[[undo]]\nfact = \"point.debited\"\nby = \"point.refunded\"\n";
    assert_eq!(
        uncompensated(&example(), &flows(undo)),
        ["nobody undoes point.debited by point.refunded"]
    );
    let undone = "[[undo]]\nfact = \"payment.requested\"\nby = \"payment.failed\"\n";
    assert_eq!(
        uncompensated(&example(), &flows(undone)),
        ["flow pay: compensated? false; undoes anything? true"]
    );
}

#[test]
fn a_pattern_that_no_fact_fits_is_named() {
    let undo = "[[undo]]\nfact = \"point.lost\"\nby = \"payment.failed{reason=bored, why}\"\n";
    assert_eq!(
        impossible(&flows(undo)),
        [
            "point.lost: there is no such fact",
            "payment.failed{reason=bored, why}: reason is never bored",
            "payment.failed{reason=bored, why}: it has no field why",
        ]
    );
}
