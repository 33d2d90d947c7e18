//! What was found to be wrong, and when it may be reported.

use events::{
    EventId, SagaId, ScheduleId,
    audit::{Rule, Violation},
};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::shelf::Mark;

/// An event that follows in another stream, or in another transaction of the same service, may
/// have a time that is earlier by this much: clocks differ, and a transaction may wait for a row
/// after it has read the clock.
pub const SLACK_SECS: i64 = 30;
/// How long a hold may outlive its cap before its seats are freed. It can no longer be paid in
/// this time.
pub const OVERDUE_SECS: i64 = 60;
/// How long money may be taken without seats, seats be confirmed without a completed payment, or
/// money be owed: a service may be down for a while.
pub const OPEN_SECS: i64 = 3_600;

/// The moment as of which things are judged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// Everything emitted before this has been observed.
    pub(super) until: i64,
    /// What has not come will not come any more.
    pub(super) at_rest: bool,
    /// Of what was emitted before this, something may never be observed.
    pub(super) since: i64,
    /// Now, for deadlines that pass by themselves.
    pub(super) now: i64,
}

impl Moment {
    /// While events come in: only contradictions are wrong.
    pub(super) const CONSUMED: Self =
        Self { until: i64::MIN, at_rest: false, since: i64::MAX, now: i64::MIN };

    /// Whether an event that had to come before `mark`, or within `patience_secs` after it,
    /// would have been observed.
    pub(super) fn is_past(&self, mark: &Mark, patience_secs: i64) -> bool {
        self.at_rest || mark.secs() + patience_secs < self.until
    }

    /// Whether everything after `mark` was observed.
    pub(super) fn covers(&self, mark: &Mark) -> bool {
        self.since < mark.secs()
    }

    /// Whether everything about this thing was observed: it was made since.
    pub(super) fn covers_all_of(&self, id: Uuid) -> bool {
        self.since == i64::MIN || made_at(id).is_some_and(|made_at| self.since < made_at)
    }
}

/// When an id was made, in seconds since 1970; ids grow with time.
pub(super) fn made_at(id: Uuid) -> Option<i64> {
    let millis = (id.as_u128() >> 80) as i64;
    (id.get_version_num() == 7).then_some(millis / 1_000)
}

/// Events that cannot all be true.
#[derive(Debug, Clone)]
pub(super) struct Finding {
    pub(super) rule: Rule,
    pub(super) what: &'static str,
    /// Their ids; nil for none.
    pub(super) events: [Uuid; 2],
    /// The saga of the last of them; nil for the saga of the thing itself.
    pub(super) saga: Uuid,
}

impl Finding {
    /// One event is wrong.
    pub(super) fn of(rule: Rule, what: &'static str, mark: &Mark) -> Self {
        Self { rule, what, events: [mark.event, Uuid::nil()], saga: Uuid::nil() }
    }

    /// Two events contradict each other.
    pub(super) fn between(rule: Rule, what: &'static str, first: &Mark, second: &Mark) -> Self {
        Self { rule, what, events: [first.event, second.event], saga: Uuid::nil() }
    }

    /// The event that reports it; its id is made of the rule and the events.
    pub(super) fn violation(
        &self,
        of: impl std::fmt::Display,
        saga: Uuid,
        schedule: Uuid,
    ) -> Violation {
        let mut events: Vec<Uuid> =
            self.events.iter().copied().filter(|event| !event.is_nil()).collect();
        let violation_id = id_of(self.rule, &events);
        events.dedup();
        Violation {
            violation_id,
            rule: self.rule,
            detail: format!("{}: {of}", self.what),
            events: events.into_iter().map(EventId).collect(),
            saga_id: SagaId(if self.saga.is_nil() { saga } else { self.saga }),
            schedule_id: (!schedule.is_nil()).then_some(ScheduleId(schedule)),
        }
    }
}

fn id_of(rule: Rule, events: &[Uuid]) -> Uuid {
    let mut sorted = events.to_vec();
    sorted.sort_unstable();
    let mut digest = Sha256::new();
    digest.update(rule.as_str());
    for event in sorted {
        digest.update(event);
    }
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&digest.finalize()[..16]);
    uuid::Builder::from_custom_bytes(bytes).into_uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_violation_is_the_same_one_whichever_event_is_named_first() {
        let (a, b) = (Uuid::from_u128(1), Uuid::from_u128(2));
        assert_eq!(id_of(Rule::OneOwner, &[a, b]), id_of(Rule::OneOwner, &[b, a]));
        assert_ne!(id_of(Rule::OneOwner, &[a, b]), id_of(Rule::HardCap, &[a, b]));
        assert_ne!(id_of(Rule::OneOwner, &[a]), id_of(Rule::OneOwner, &[a, b]));
    }

    #[test]
    fn an_id_says_when_it_was_made() {
        let id: Uuid = "018f0000-0000-7000-8000-000000000001".parse().unwrap();
        assert_eq!(made_at(id), Some(0x018f_0000_0000 / 1_000));
        assert_eq!(made_at(Uuid::from_u128(7)), None);
    }
}
