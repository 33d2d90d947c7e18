//! What can be checked of the page without the `nats` command: whatever it names is there.

use std::collections::BTreeSet;

use harness::{project, wiring};
use serde_json::Value;

use super::page::{Line, PAGE, lines};

/// The streams.
fn streams() -> BTreeSet<String> {
    project::names("jetstream/streams", "json").into_iter().collect()
}

/// The subjects that streams store, and those that the operator may publish to or subscribe to.
fn subjects() -> Vec<String> {
    let mut subjects = Vec::new();
    for stream in streams() {
        let config = project::read_json(format!("jetstream/streams/{stream}.json"));
        let stored = config["subjects"].as_array().into_iter().flatten().filter_map(Value::as_str);
        subjects.extend(stored.map(str::to_owned));
    }
    let conf = project::read("jetstream/nats.conf");
    let (_, operator) = conf.split_once("nkey: $ONSALE_NKEY_OPERATOR").expect("the operator");
    let (operator, _) = operator.split_once("nkey:").expect("a user after it");
    subjects.extend(operator.split('"').skip(1).step_by(2).map(str::to_owned));
    subjects
}

/// Whether every subject that fits `subject` fits `pattern`.
fn covers(pattern: &str, subject: &str) -> bool {
    let (mut of, mut are) = (pattern.split('.'), subject.split('.'));
    loop {
        match (of.next(), are.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(is)) if is != ">" => {}
            (Some(token), Some(is)) if token == is => {}
            _ => return false,
        }
    }
}

/// What a line names that does not exist.
fn unknown(line: &Line, streams: &BTreeSet<String>, subjects: &[String]) -> Vec<String> {
    let begins = |word: &str, of: &[&str]| of.iter().any(|start| word.starts_with(start));
    let services: Vec<_> = wiring::all().iter().map(|wiring| wiring.service.to_owned()).collect();
    let words: Vec<&str> = line.words().collect();
    let mut unknown = Vec::new();
    for (at, word) in words.iter().enumerate() {
        let before = at.checked_sub(1).map_or("", |before| words[before]);
        let is_name = |c: char| c.is_ascii_uppercase() || c == '_';
        let is_known =
            if begins(word, &["onsale.", "live.", "dlq.", "cmd.", "broker.", "$SRV", "$JS"]) {
                subjects.iter().any(|pattern| covers(pattern, word))
            } else if let Some(file) = word.strip_prefix("jetstream/") {
                project::root().join("jetstream").join(file).exists()
            } else if before == "onsale-change" || before == "--context" {
                true
            } else if word.len() > 2 && word.chars().all(is_name) && !word.starts_with('_') {
                streams.contains(*word)
            } else if let Some(service) = word.strip_prefix("onsale-").filter(|_| before != "add") {
                service == "change" || services.iter().any(|known| known == service)
            } else if streams.contains(before)
                && words.contains(&"consumer")
                && !word.starts_with("--")
            {
                project::root().join(format!("jetstream/consumers/{before}.{word}.json")).exists()
            } else {
                true
            };
        if !is_known {
            unknown.push(format!("{PAGE}: there is no {word}: {}", line.command));
        }
    }
    unknown
}

#[test]
fn the_page_about_nats_names_only_what_exists() {
    let (lines, streams, subjects) = (lines(), streams(), subjects());
    assert!(lines.len() > 20, "{lines:?}");
    for line in &lines {
        assert!(line.command.starts_with("nats "), "{line:?}");
        assert!(line.says.ends_with('.') && !line.shows.is_empty(), "{line:?}");
        assert_eq!(unknown(line, &streams, &subjects), Vec::<String>::new());
    }
}

#[test]
fn what_does_not_exist_is_found_on_the_page() {
    let (streams, subjects) = (streams(), subjects());
    let is_found = |command: &str| !unknown(&Line::of(command), &streams, &subjects).is_empty();
    for wrong in [
        "nats stream info PAYMENTS",
        "nats consumer info PAYMENT points",
        "nats micro info onsale-payments",
        "nats sub \"onsales.>\" \"dlqs.>\" \"cmd.payment.pay\"",
        "nats trace '$SYS.REQ' '$JS.API.STREAM.DELETE.PAYMENT'",
        "nats stream add --config jetstream/streams/PAYMENTS.json",
    ] {
        assert!(is_found(wrong), "{wrong}");
    }
    for right in [
        "nats --context onsale-change consumer pause PAYMENT point 1m --force",
        "nats sub \"onsale.*.*.v1.$SCHEDULE\"",
        "nats trace '$SRV.STATS.onsale-payment'",
    ] {
        assert!(!is_found(right), "{right}");
    }
    assert!(covers("a.*.>", "a.b.c.d") && covers("a.>", "a.*.c") && covers("a.*", "a.*"));
    assert!(!covers("a.*", "a.>") && !covers("a.>", "a") && !covers("a.b", "a.*"));
}
