//! Who says what, who hears it, and what may follow: wiring, streams and consumers agree.

use std::collections::{BTreeMap, BTreeSet};

use events::producer_of;
use harness::{facts, project, wiring};
use mesh::Wiring;

/// Facts that no service of today hears, and who is to hear them.
///
/// An entry goes with the service that begins to listen: one that is heard fails the test.
const UNHEARD: [(&str, &str); 4] = [
    ("queue.waiting", "audit, which follows every place from its first step"),
    ("queue.returned", "audit, and notification, which tells the fan to come back"),
    ("payment.refunded", "notification and data-platform, which tell the fan and the books"),
    ("point.charged", "notification and audit; no other service asks where points come from"),
];

/// Chains of facts that may lead back to where they began, each with the reason that it ends.
const CYCLES: [(&[&str], &str); 0] = [];

/// Each fact with the facts that a service may tell on hearing it.
fn follows() -> BTreeMap<&'static str, BTreeSet<&'static str>> {
    let mut follows: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
    for (fact, tells) in wiring::all().iter().flat_map(|wiring| wiring.hears.clone()) {
        follows.entry(fact).or_default().extend(tells);
    }
    follows
}

/// Everything a service says it may tell.
fn told_by(wiring: &Wiring) -> BTreeSet<&'static str> {
    let entries = wiring.hears.iter().chain(&wiring.answers).chain(&wiring.timers);
    entries.flat_map(|(_, tells)| tells.iter().copied()).collect()
}

fn heard() -> BTreeSet<&'static str> {
    wiring::all().iter().flat_map(|wiring| &wiring.hears).map(|(fact, _)| *fact).collect()
}

/// `subjects` or `filter_subjects` of one file.
fn subjects(file: &str, field: &str) -> BTreeSet<String> {
    let json = project::read_json(file);
    let list = json[field].as_array().unwrap_or_else(|| panic!("{file} has no {field}"));
    list.iter().filter_map(|subject| subject.as_str()).map(str::to_owned).collect()
}

/// Whether a subject falls under a NATS wildcard.
fn captures(wildcard: &str, subject: &str) -> bool {
    let (mut tokens, mut wanted) = (subject.split('.'), wildcard.split('.'));
    loop {
        match (wanted.next(), tokens.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(wanted), Some(token)) if wanted == token => {}
            _ => return false,
        }
    }
}

#[test]
fn a_service_speaks_under_its_own_name_only() {
    for wiring in wiring::all() {
        for fact in told_by(&wiring) {
            assert!(facts::named(fact).is_some(), "{}: {fact} is no fact", wiring.service);
            assert_eq!(producer_of(fact), wiring.service, "{fact}");
        }
        for (endpoint, _) in wiring.answers {
            assert!(endpoint.starts_with(&format!("{}.", wiring.service)), "{endpoint}");
        }
        for (fact, _) in wiring.hears {
            assert!(facts::named(fact).is_some(), "{}: {fact} is no fact", wiring.service);
            assert_ne!(producer_of(fact), wiring.service, "a service knows what it said: {fact}");
        }
    }
}

#[test]
fn every_endpoint_is_answered() {
    let answered: BTreeSet<_> =
        wiring::all().iter().flat_map(|wiring| &wiring.answers).map(|(name, _)| *name).collect();
    for endpoints in [
        events::user::ENDPOINTS,
        events::concert::ENDPOINTS,
        events::queue::ENDPOINTS,
        events::reservation::ENDPOINTS,
        events::payment::ENDPOINTS,
        events::point::ENDPOINTS,
    ] {
        for endpoint in endpoints {
            assert!(answered.contains(endpoint), "nobody answers {endpoint}");
        }
    }
}

#[test]
fn every_fact_is_told_by_its_producer() {
    let told: BTreeSet<_> = wiring::all().iter().flat_map(told_by).collect();
    let silent: Vec<_> = facts::ALL.iter().filter(|fact| !told.contains(fact.name)).collect();
    assert!(silent.is_empty(), "nobody tells {silent:?}");
}

#[test]
fn every_fact_is_heard_by_somebody_or_says_who_is_to_hear_it() {
    let heard = heard();
    let waiting: BTreeSet<_> = UNHEARD.iter().map(|(fact, _)| *fact).collect();
    for fact in facts::ALL {
        let is_heard = heard.contains(fact.name);
        assert_ne!(
            is_heard,
            waiting.contains(fact.name),
            "{}: {}",
            fact.name,
            if is_heard { "is heard now; take it off the list" } else { "nobody hears it" }
        );
    }
    assert!(waiting.iter().all(|fact| facts::named(fact).is_some()), "{waiting:?}");
}

#[test]
fn exactly_one_stream_captures_each_fact() {
    let streams = project::names("jetstream/streams", "json");
    for fact in facts::ALL {
        let subject = events::subject(fact.name, fact.version, None);
        let capturing: Vec<_> = streams
            .iter()
            .filter(|stream| {
                let subjects = subjects(&format!("jetstream/streams/{stream}.json"), "subjects");
                subjects.iter().any(|wildcard| captures(wildcard, &subject))
            })
            .collect();
        assert_eq!(capturing, [&producer_of(fact.name).to_uppercase()], "{subject}");
    }
}

#[test]
fn a_stream_keeps_what_it_acknowledged() {
    for stream in project::names("jetstream/streams", "json") {
        let config = project::read_json(format!("jetstream/streams/{stream}.json"));
        assert_eq!(config["name"], stream.as_str());
        assert_eq!(config["retention"], "limits", "{stream}: others forget which ids they had");
        assert_eq!(config["storage"], "file", "{stream}");
        assert!(config["max_bytes"].as_i64().is_some_and(|max| max > 0), "{stream} is unbounded");
        let of_facts =
            facts::DECLARED.iter().any(|(producer, _)| stream == producer.to_uppercase());
        assert_eq!(config["allow_atomic"] == true, of_facts, "{stream}: relays publish in batches");
    }
}

#[test]
fn consumers_are_what_the_services_hear() {
    let mut wanted = BTreeMap::<String, BTreeSet<String>>::new();
    for wiring in wiring::all() {
        for (fact, _) in wiring.hears {
            let stream = producer_of(fact).to_uppercase();
            let filter = facts::named(fact).map(facts::Fact::filter).unwrap_or_default();
            wanted.entry(format!("{stream}.{}", wiring.service)).or_default().insert(filter);
        }
    }
    let declared: BTreeMap<_, _> = project::names("jetstream/consumers", "json")
        .into_iter()
        .map(|name| {
            let filters = subjects(&format!("jetstream/consumers/{name}.json"), "filter_subjects");
            (name, filters)
        })
        .collect();
    assert_eq!(declared, wanted);
}

#[test]
fn a_consumer_acknowledges_one_by_one_and_never_gives_up_by_itself() {
    for name in project::names("jetstream/consumers", "json") {
        let config = project::read_json(format!("jetstream/consumers/{name}.json"));
        let service = name.split_once('.').map(|(_, service)| service);
        assert_eq!(config["durable_name"].as_str(), service, "{name}");
        assert_eq!(config["ack_policy"], "explicit", "{name}");
        assert_eq!(config["deliver_policy"], "all", "{name}");
        assert_eq!(config["max_deliver"], -1, "{name}: the service decides when to give up");
        assert!(config.get("backoff").is_none(), "{name}: it adds up wrongly with nak delays");
    }
}

#[test]
fn facts_lead_to_an_end() {
    let follows = follows();
    let mut cycles = Vec::new();
    for fact in facts::ALL {
        if let Some(cycle) = way_back(fact.name, &follows) {
            cycles.push(cycle);
        }
    }
    let declared = |cycle: &Vec<&str>| {
        CYCLES.iter().any(|(members, _)| cycle.iter().all(|fact| members.contains(fact)))
    };
    let undeclared: Vec<_> = cycles.iter().filter(|cycle| !declared(cycle)).collect();
    assert!(undeclared.is_empty(), "these may go on forever: {undeclared:?}");
    for (members, _) in CYCLES {
        let there = cycles.iter().any(|cycle| cycle.iter().all(|fact| members.contains(fact)));
        assert!(there, "declared, but there is no such cycle: {members:?}");
    }
}

/// The shortest chain that leads from a fact back to itself.
fn way_back<'a>(
    fact: &'a str,
    follows: &BTreeMap<&'a str, BTreeSet<&'a str>>,
) -> Option<Vec<&'a str>> {
    let mut seen = BTreeSet::new();
    let mut ways = std::collections::VecDeque::from([vec![fact]]);
    while let Some(way) = ways.pop_front() {
        let last = way.last()?;
        for next in follows.get(last).into_iter().flatten() {
            if *next == fact {
                return Some(way);
            }
            if seen.insert(*next) {
                ways.push_back([way.as_slice(), &[next]].concat());
            }
        }
    }
    None
}

#[test]
fn a_chain_that_leads_back_is_found() {
    let follows = BTreeMap::from([
        ("a", BTreeSet::from(["b", "d"])),
        ("b", BTreeSet::from(["c"])),
        ("c", BTreeSet::from(["a", "b"])),
    ]);
    assert_eq!(way_back("a", &follows), Some(vec!["a", "b", "c"]));
    assert_eq!(way_back("b", &follows), Some(vec!["b", "c"]));
    assert_eq!(way_back("d", &follows), None);
}

#[test]
fn a_wildcard_captures_what_it_names() {
    assert!(captures("onsale.payment.>", "onsale.payment.requested.v1.-"));
    assert!(captures("a.*.c", "a.b.c"));
    for (wildcard, subject) in [("a.>", "a"), ("a.*", "a.b.c"), ("a.b", "a"), ("a", "a.b")] {
        assert!(!captures(wildcard, subject), "{wildcard} {subject}");
    }
}
