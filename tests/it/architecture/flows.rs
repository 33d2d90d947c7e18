//! Which service emits an event, which services consume it, and what may follow: wiring, flows,
//! streams and consumers agree.

mod declared;
mod graph;

use std::collections::{BTreeMap, BTreeSet};

use events::producer_of;
use harness::{event_types, project, wiring};
use mesh::Wiring;

/// Every event that a service declares to emit.
fn emitted_by(wiring: &Wiring) -> BTreeSet<&'static str> {
    wiring.emits().collect()
}

/// Events that no service consumes or reads. Those of audit are for operators.
fn unconsumed(wirings: &[Wiring], events: &[&'static str]) -> Vec<&'static str> {
    let consumed =
        wirings.iter().flat_map(|wiring| wiring.consumes.iter().map(|(event, _)| *event));
    let read = wirings.iter().flat_map(|wiring| wiring.follows.iter().copied());
    let consumed: BTreeSet<_> = consumed.chain(read).collect();
    let is_unconsumed = |event: &&str| producer_of(event) != "audit" && !consumed.contains(*event);
    events.iter().copied().filter(is_unconsumed).collect()
}

/// `subjects` or `filter_subjects` of one file.
fn subjects(file: &str, field: &str) -> BTreeSet<String> {
    let json = project::read_json(file);
    let list = json[field].as_array().unwrap_or_else(|| panic!("{file} has no {field}"));
    list.iter().filter_map(|subject| subject.as_str()).map(str::to_owned).collect()
}

/// Whether a NATS wildcard matches a subject.
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
fn a_service_emits_and_answers_under_its_own_name_only() {
    for wiring in wiring::all() {
        for event in emitted_by(&wiring) {
            assert!(event_types::named(event).is_some(), "{}: {event} is no event", wiring.service);
            assert_eq!(producer_of(event), wiring.service, "{event}");
        }
        for (endpoint, _) in &wiring.answers {
            assert!(endpoint.starts_with(&format!("{}.", wiring.service)), "{endpoint}");
        }
        for (event, _) in &wiring.consumes {
            assert!(event_types::named(event).is_some(), "{}: {event} is no event", wiring.service);
            // A service's second engine, a listener, may consume the service's own events.
            let only_listens = emitted_by(&wiring).is_empty();
            let is_own = producer_of(event) == wiring.service;
            assert!(!is_own || only_listens, "a service does not consume its own event: {event}");
        }
    }
}

#[test]
fn every_endpoint_is_answered() {
    let answered: BTreeSet<_> =
        wiring::all().iter().flat_map(|wiring| &wiring.answers).map(|(name, _)| *name).collect();
    let endpoints = events::CONTRACTS.iter().flat_map(|service| service.endpoints);
    for endpoint in endpoints.chain(events::state::ENDPOINTS) {
        assert!(answered.contains(endpoint), "no service answers {endpoint}");
    }
}

#[test]
fn every_event_is_emitted_by_its_producer() {
    let emitted: BTreeSet<_> = wiring::all().iter().flat_map(emitted_by).collect();
    let silent: Vec<_> =
        event_types::ALL.iter().filter(|event| !emitted.contains(event.name)).collect();
    assert!(silent.is_empty(), "no service emits {silent:?}");
}

#[test]
fn every_event_is_consumed_by_a_service() {
    let all: Vec<_> = event_types::ALL.iter().map(|event| event.name).collect();
    assert_eq!(unconsumed(&wiring::all(), &all), [""; 0], "no service consumes these");
}

#[test]
fn an_event_that_no_service_consumes_is_named() {
    let service = |service, consumes, follows| Wiring {
        service,
        consumes,
        answers: Vec::new(),
        timers: Vec::new(),
        follows,
    };
    let wirings = [
        service("point", vec![("payment.requested", &[][..])], vec![]),
        service("audit", vec![], vec!["queue.waiting"]),
    ];
    let events = ["payment.requested", "queue.waiting", "queue.returned", "audit.violation"];
    assert_eq!(unconsumed(&wirings, &events), ["queue.returned"]);
}

#[test]
fn a_service_consumes_an_event_or_reads_its_stream_but_not_both() {
    for wiring in wiring::all() {
        for event in &wiring.follows {
            assert!(event_types::named(event).is_some(), "{}: {event} is no event", wiring.service);
            let consumes = wiring.consumes.iter().any(|(consumed, _)| consumed == event);
            assert!(!consumes, "{} consumes {event} and reads it as well", wiring.service);
        }
    }
}

#[test]
fn a_service_that_emits_events_has_a_stream_and_no_other_service_has_one() {
    let streams = project::names("jetstream/streams", "json");
    // A service may have a second engine, a listener.
    let mut emits = BTreeMap::<_, bool>::new();
    for wiring in wiring::all() {
        *emits.entry(wiring.service).or_default() |= !emitted_by(&wiring).is_empty();
    }
    for (service, emits) in emits {
        let stream = service.to_uppercase();
        assert_eq!(emits, streams.contains(&stream), "{stream}");
    }
}

#[test]
fn exactly_one_stream_captures_each_event() {
    let streams = project::names("jetstream/streams", "json");
    for event in event_types::ALL {
        let subject = events::subject(event.name, event.version, None);
        let capturing: Vec<_> = streams
            .iter()
            .filter(|stream| {
                let subjects = subjects(&format!("jetstream/streams/{stream}.json"), "subjects");
                subjects.iter().any(|wildcard| captures(wildcard, &subject))
            })
            .collect();
        assert_eq!(capturing, [&producer_of(event.name).to_uppercase()], "{subject}");
    }
}

#[test]
fn a_stream_keeps_what_it_acknowledged() {
    for stream in project::names("jetstream/streams", "json") {
        let config = project::read_json(format!("jetstream/streams/{stream}.json"));
        assert_eq!(config["name"], stream.as_str());
        assert_eq!(
            config["retention"], "limits",
            "{stream}: other kinds forget the ids of messages"
        );
        assert_eq!(config["storage"], "file", "{stream}");
        assert!(config["max_bytes"].as_i64().is_some_and(|max| max > 0), "{stream} is unbounded");
        let of_events =
            event_types::DECLARED.iter().any(|(producer, _)| stream == producer.to_uppercase());
        // A full stream refuses events, and they wait in the outbox.
        let discard = if of_events { "new" } else { "old" };
        assert_eq!(config["discard"], discard, "{stream}");
        assert!(config.get("allow_atomic").is_none(), "{stream}: a message is whole by itself");
    }
}

#[test]
fn consumers_match_what_the_services_consume() {
    let mut wanted = BTreeMap::<String, BTreeSet<String>>::new();
    for wiring in wiring::all() {
        for (event, _) in wiring.consumes {
            let stream = producer_of(event).to_uppercase();
            let filter =
                event_types::named(event).map(event_types::EventType::filter).unwrap_or_default();
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
fn a_consumer_acknowledges_each_message_and_never_gives_up_by_itself() {
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
fn a_wildcard_captures_the_subjects_that_it_matches() {
    assert!(captures("onsale.payment.>", "onsale.payment.requested.v1.-"));
    assert!(captures("a.*.c", "a.b.c"));
    for (wildcard, subject) in [("a.>", "a"), ("a.*", "a.b.c"), ("a.b", "a"), ("a", "a.b")] {
        assert!(!captures(wildcard, subject), "{wildcard} {subject}");
    }
}
