//! What the log says: letters, what became of them, and the lines they stand in.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use events::dead_letter::{DeadLetter, LetterEvent, LetterState};
use serde::{Deserialize, Serialize};

use super::key;
use crate::{Fact, link::headers};

/// The body of a record: what became of a letter, beside where it stands now.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Became {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) by: Option<events::UserId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) why: Option<String>,
    /// Tries so far.
    #[serde(default)]
    pub(crate) attempts: u64,
}

/// A letter and its message.
#[derive(Debug, Clone)]
pub(crate) struct Letter {
    pub(crate) about: DeadLetter,
    pub(crate) message: Fact,
}

impl Letter {
    pub(crate) fn payload(&self) -> &Bytes {
        self.message.payload()
    }
}

/// The log as far as it has been read.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    letters: BTreeMap<u64, Letter>,
    /// The open letter of each delivery: a message kept again is the same letter.
    open: HashMap<(String, String, u64), u64>,
    /// Whether letters that have ended are forgotten.
    is_brief: bool,
}

impl Pages {
    /// Remembers open letters only.
    pub(crate) fn brief() -> Self {
        Self { is_brief: true, ..Self::default() }
    }

    /// Reads one message of the log.
    pub(crate) fn turn(&mut self, entry: Fact) {
        match entry.header(headers::DEAD_LETTER).map(|number| number.parse::<u64>()) {
            Some(Ok(number)) => self.record(number, &entry),
            Some(Err(_)) => {}
            None => self.letter(entry),
        }
    }

    fn letter(&mut self, message: Fact) {
        let Some(about) = read(&message) else { return };
        let origin = origin(&about);
        if !about.stream.is_empty() && self.open.contains_key(&origin) {
            return;
        }
        self.open.insert(origin, about.letter);
        self.letters.insert(about.letter, Letter { about, message });
    }

    /// What became of a letter; the first end is the end.
    fn record(&mut self, number: u64, entry: &Fact) {
        let Some(became) = entry.header(headers::DEAD_BECAME).and_then(state_of) else { return };
        let Some(Letter { about, .. }) = self.letters.get_mut(&number) else { return };
        if !about.state.is_open() {
            return;
        }
        let said: Became = serde_json::from_slice(entry.payload()).unwrap_or_default();
        about.state = became;
        about.attempts = said.attempts.max(about.attempts);
        if became == LetterState::Parked {
            about.cause = said.why.clone().unwrap_or_default();
        }
        about.history.push(LetterEvent {
            at: entry.stored_at(),
            became,
            by: said.by,
            why: said.why,
        });
        if !became.is_open() {
            self.open.remove(&origin(about));
            if self.is_brief {
                self.letters.remove(&number);
            }
        }
    }

    /// All letters read, each with what it waits behind; those of one key stand in the order
    /// in which they are taken in.
    pub(crate) fn close(self) -> Vec<Letter> {
        let mut lines: BTreeMap<(String, String), Vec<Letter>> = BTreeMap::new();
        for letter in self.letters.into_values() {
            let of = (letter.about.service.clone(), letter.about.key.clone());
            lines.entry(of).or_default().push(letter);
        }
        lines.into_values().flat_map(in_line).collect()
    }
}

/// The letters of one key in the order in which they are taken in: as they were kept, but
/// those of one stream as they lay in it. Two lanes, or a redelivery, may have kept a later
/// one first.
fn in_line(letters: Vec<Letter>) -> Vec<Letter> {
    let mut of_stream: HashMap<String, Vec<Letter>> = HashMap::new();
    let places: Vec<String> = letters.iter().map(|letter| letter.about.stream.clone()).collect();
    for letter in letters {
        of_stream.entry(letter.about.stream.clone()).or_default().push(letter);
    }
    for letters in of_stream.values_mut() {
        letters.sort_by_key(|letter| std::cmp::Reverse(letter.about.sequence));
    }
    let mut parked = None;
    places
        .iter()
        .filter_map(|stream| of_stream.get_mut(stream)?.pop())
        .map(|mut letter| {
            match letter.about.state {
                LetterState::Parked => parked = Some(letter.about.letter),
                LetterState::Waiting if letter.about.key != key::NONE => {
                    letter.about.behind = parked;
                }
                _ => {}
            }
            letter
        })
        .collect()
}

/// The letter that a message of the log is.
fn read(message: &Fact) -> Option<DeadLetter> {
    let mut tokens = message.subject().strip_prefix("dlq.")?.split('.');
    let service = tokens.next()?.to_owned();
    let fact = format!("{}.{}", tokens.next()?, tokens.next()?);
    let key = tokens.next()?.to_owned();
    let header = |name: &'static str| message.header(name);
    let number = |name: &'static str| header(name).and_then(|text| text.parse().ok()).unwrap_or(0);
    let waits = header(headers::DEAD_WAITS).is_some();
    Some(DeadLetter {
        letter: message.stream_seq(),
        service,
        fact,
        key,
        state: if waits { LetterState::Waiting } else { LetterState::Parked },
        cause: header(headers::DEAD_CAUSE).unwrap_or_default().to_owned(),
        attempts: number(headers::DEAD_ATTEMPTS),
        behind: None,
        event_id: message.event_id(),
        saga_id: message.saga_id(),
        trace_id: message.trace_id().map(str::to_owned),
        stream: header(headers::DEAD_STREAM).unwrap_or_default().to_owned(),
        sequence: number(headers::DEAD_SEQUENCE),
        subject: header(headers::DEAD_SUBJECT).unwrap_or_default().to_owned(),
        told_at: message.at(),
        kept_at: message.stored_at(),
        history: Vec::new(),
    })
}

fn origin(about: &DeadLetter) -> (String, String, u64) {
    (about.service.clone(), about.stream.clone(), about.sequence)
}

/// Where a letter stands, as a header spells it.
pub(crate) fn spelt(state: LetterState) -> &'static str {
    match state {
        LetterState::Parked => "parked",
        LetterState::Waiting => "waiting",
        LetterState::Resolved => "resolved",
        LetterState::Discarded => "discarded",
    }
}

fn state_of(text: &str) -> Option<LetterState> {
    use LetterState::{Discarded, Parked, Resolved, Waiting};
    [Parked, Waiting, Resolved, Discarded].into_iter().find(|state| spelt(*state) == text)
}

#[cfg(test)]
mod tests;
