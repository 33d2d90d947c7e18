//! The table of parked events in memory.

use std::collections::BTreeMap;

use events::{
    Timestamp, UserId,
    dead_letter::{DeadLetterEvent, DeadLetterState},
};

use super::rows::later;
use crate::{
    batch::closing,
    parked::{Parked, ParkedState, key::NONE, pause_after},
    store::engine::Which,
};

/// How long an event waits behind another one before it may count as stranded.
const STRANDED_AFTER_SECS: i64 = 1;

/// A row of the table.
pub(super) struct Row {
    pub(super) parked: Parked,
    /// `None`: it does not come due by itself.
    pub(super) due_at: Option<Timestamp>,
    pub(super) leased_until: Option<Timestamp>,
}

/// The parked events of a service, by number.
#[derive(Default)]
pub(super) struct Table(pub(super) BTreeMap<u64, Row>);

impl Table {
    /// The events that hold their key, in the order of parking.
    pub(super) fn holding(&self) -> impl Iterator<Item = &Row> {
        self.0.values().filter(|row| row.parked.state.holds_key())
    }

    pub(super) fn is_any_held(&self) -> bool {
        self.holding().next().is_some()
    }

    /// The number of the first event that holds a key.
    pub(super) fn first(&self, key: &str) -> Option<u64> {
        let of_key = |row: &&Row| row.parked.key == key && key != NONE;
        self.holding().find(of_key).map(|row| row.parked.number)
    }

    pub(super) fn is_open(&self, number: u64) -> bool {
        self.0.get(&number).is_some_and(|row| row.parked.state.is_open())
    }

    /// The events with the numbers that they will get.
    pub(super) fn numbered(&self, events: Vec<closing::Parking>) -> Vec<Parked> {
        let next = self.0.keys().last().map_or(1, |last| last + 1);
        let kept_at = crate::clock::now();
        let parked = |(number, event): (u64, closing::Parking)| Parked {
            number,
            key: event.key,
            state: event.state,
            cause: event.cause,
            attempts: u64::from(event.state != ParkedState::Behind),
            unsettled: 0,
            envelope: event.envelope,
            subject: event.subject,
            stream: event.stream,
            sequence: event.sequence,
            kept_at,
            history: Vec::new(),
        };
        (next..).zip(events).map(parked).collect()
    }

    pub(super) fn insert(&mut self, events: Vec<Parked>, now: Timestamp) {
        for parked in events {
            let is_early = parked.state == ParkedState::Early;
            let due_at = is_early.then(|| later(now, pause_after(1)));
            self.0.insert(parked.number, Row { parked, due_at, leased_until: None });
        }
    }

    pub(super) fn resolve(&mut self, number: u64, by: Option<UserId>, now: Timestamp) {
        self.end(number, ParkedState::Resolved, happened(DeadLetterState::Resolved, by, None), now);
    }

    pub(super) fn end(
        &mut self,
        number: u64,
        state: ParkedState,
        how: DeadLetterEvent,
        now: Timestamp,
    ) -> bool {
        let Some(row) = self.0.get_mut(&number).filter(|row| row.parked.state.is_open()) else {
            return false;
        };
        row.parked.state = state;
        row.parked.unsettled = 0;
        row.parked.history.push(how);
        let key = row.parked.key.clone();
        self.wake(&key, now);
        true
    }

    /// Lets the event that now holds the key come due, if it has never been tried.
    pub(super) fn wake(&mut self, key: &str, now: Timestamp) {
        if let Some(row) = self.first(key).and_then(|number| self.0.get_mut(&number))
            && row.parked.state == ParkedState::Behind
            && row.due_at.is_none()
        {
            row.due_at = Some(now);
        }
    }

    pub(super) fn wanted(&self, which: &Which, now: Timestamp) -> Vec<u64> {
        let is_wanted = |row: &&Row| {
            let Parked { number, key, state, kept_at, .. } = &row.parked;
            let is_kind = match which {
                Which::Due(_) => {
                    *state != ParkedState::Dead && row.due_at.is_some_and(|at| at <= now)
                }
                Which::Missed(_) => {
                    *state == ParkedState::Behind && kept_at.plus_secs(STRANDED_AFTER_SECS) < now
                }
                Which::First(wanted) => {
                    key == wanted && key != NONE && *state != ParkedState::Early
                }
                Which::Number(wanted) => {
                    number == wanted && (key == NONE || *state == ParkedState::Early)
                }
            };
            let is_first = key == NONE || self.first(key).is_none_or(|first| first >= *number);
            is_kind
                && is_first
                && state.is_open()
                && row.leased_until.is_none_or(|until| until < now)
        };
        let most = match which {
            Which::Due(most) | Which::Missed(most) => *most,
            Which::First(_) | Which::Number(_) => 1,
        };
        let mut wanted: Vec<_> = self.0.values().filter(is_wanted).collect();
        wanted.sort_by_key(|row| (row.due_at.is_none(), row.due_at, row.parked.number));
        wanted.into_iter().take(most).map(|row| row.parked.number).collect()
    }
}

pub(super) fn happened(
    became: DeadLetterState,
    by: Option<UserId>,
    why: Option<&str>,
) -> DeadLetterEvent {
    DeadLetterEvent { at: Some(crate::clock::now()), became, by, why: why.map(str::to_owned) }
}
