//! What one look has seen, and the rates between two.

use std::collections::BTreeMap;

use events::{SagaId, ScheduleId, Timestamp, dead_letter::DeadLetterId};
use serde::Serialize;

/// Something that was looked for.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Part<T> {
    /// It was seen.
    Seen(T),
    /// It could not be, and why.
    NotReachable(String),
}

impl<T> Part<T> {
    /// What was seen.
    pub(super) fn seen(&self) -> Option<&T> {
        match self {
            Self::Seen(seen) => Some(seen),
            Self::NotReachable(_) => None,
        }
    }

    /// Why it was not seen.
    pub(super) fn why(&self) -> Option<&str> {
        match self {
            Self::Seen(_) => None,
            Self::NotReachable(why) => Some(why),
        }
    }

    pub(super) fn map<U>(self, change: impl FnOnce(T) -> U) -> Part<U> {
        match self {
            Self::Seen(seen) => Part::Seen(change(seen)),
            Self::NotReachable(why) => Part::NotReachable(why),
        }
    }
}

impl<T> From<anyhow::Result<T>> for Part<T> {
    fn from(result: anyhow::Result<T>) -> Self {
        match result {
            Ok(seen) => Self::Seen(seen),
            Err(error) => Self::NotReachable(format!("{error:#}")),
        }
    }
}

/// One look at a mesh.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Look {
    /// When it began.
    pub(super) at: Timestamp,
    /// What keeps the broker from its work; empty while nothing does.
    pub(super) broker: Part<Vec<String>>,
    /// What keeps the gateway, and the services in its process, from their work.
    pub(super) gateway: Part<Vec<String>>,
    /// The schedules on sale with the longest queues, the longest first.
    pub(super) schedules: Part<Vec<OnSale>>,
    /// How many schedules are on sale.
    pub(super) schedules_total: u64,
    /// Why seats are not shown.
    pub(super) seats: Part<()>,
    /// Why waiting rooms are not shown.
    pub(super) rooms: Part<()>,
    /// The payments that were requested in the last minute.
    pub(super) payments: Part<Payments>,
    /// Every service, in the order in which they are started.
    pub(super) services: Vec<ServiceLine>,
    /// The consumers of the streams.
    pub(super) consumers: Vec<ConsumerLine>,
    /// Sagas.
    pub(super) sagas: Part<Sagas>,
    /// The last sagas that stalled.
    pub(super) stalls: Part<Vec<Stall>>,
    /// The last dead letters.
    pub(super) dead_letters: Part<Vec<DeadLetterLine>>,
}

/// A schedule that is on sale.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct OnSale {
    pub(super) schedule_id: ScheduleId,
    pub(super) title: String,
    pub(super) venue: String,
    pub(super) opens_at: Timestamp,
    pub(super) seats: u64,
    /// Seats held and sold; the others are free.
    pub(super) taken: Option<(u64, u64)>,
    pub(super) room: Option<Room>,
}

impl OnSale {
    /// Seats free, held and sold.
    pub(super) fn by_state(&self) -> Option<[u64; 3]> {
        let (held, sold) = self.taken?;
        Some([self.seats.saturating_sub(held + sold), held, sold])
    }
}

/// A waiting room.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Room {
    pub(super) waiting: u64,
    pub(super) admitted: u64,
    pub(super) expected_wait_secs: u64,
}

/// Payments requested in a minute, by their outcome so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Payments {
    pub(super) completed: u64,
    /// Failed before any points moved.
    pub(super) failed: u64,
    /// Failed after points were debited.
    pub(super) compensated: u64,
    /// Completed, and the money was given back.
    pub(super) refunded: u64,
    /// Without an outcome so far.
    pub(super) running: u64,
}

/// A service. What could not be seen is `None`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct ServiceLine {
    pub(super) service: &'static str,
    /// Whether an instance answers, and reports nothing that keeps it from its work.
    pub(super) is_ready: Option<bool>,
    /// Messages that it has consumed so far; a counter.
    pub(super) consumed: Option<u64>,
    /// Messages that it has published so far; a counter.
    pub(super) published: Option<u64>,
    pub(super) consumed_per_sec: Option<f64>,
    pub(super) published_per_sec: Option<f64>,
    /// Events in its outbox that are not published yet.
    pub(super) unpublished: Option<u64>,
    /// Seconds since the oldest of them was emitted.
    pub(super) oldest_secs: Option<u64>,
    /// Messages that its consumers have not been delivered.
    pub(super) pending: Option<u64>,
    /// Messages that were delivered and are not acknowledged.
    pub(super) ack_pending: Option<u64>,
    /// Those of them that were delivered more than once.
    pub(super) redelivered: Option<u64>,
    /// Events that wait for what they depend on.
    pub(super) parked: Option<u64>,
    /// Events that need an operator.
    pub(super) dead: Option<u64>,
}

/// The consumer of a service in a stream; a reader by position has nothing delivered.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct ConsumerLine {
    pub(super) service: String,
    pub(super) producer: &'static str,
    pub(super) pending: u64,
    pub(super) ack_pending: u64,
    pub(super) redelivered: u64,
    /// Messages that it has finished so far; a counter.
    pub(super) consumed: u64,
}

/// How many sagas are open, stalled, and how many violations were found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub(super) struct Sagas {
    pub(super) open: u64,
    pub(super) stalled: u64,
    pub(super) violations: u64,
}

/// A saga whose next event did not come in time.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Stall {
    pub(super) saga_id: SagaId,
    pub(super) flow: String,
    pub(super) last_event: String,
    pub(super) last_at: Timestamp,
    pub(super) awaited: Vec<String>,
}

/// An event that a service could not handle.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct DeadLetterLine {
    pub(super) letter: DeadLetterId,
    pub(super) event: String,
    pub(super) cause: String,
    pub(super) parked_at: Option<Timestamp>,
}

impl Look {
    /// Derives the rates from the counters of an earlier look.
    pub(super) fn rate(&mut self, before: &Self) {
        let millis = self.at.unix_millis() - before.at.unix_millis();
        if millis <= 0 {
            return;
        }
        let rate = |now: Option<u64>, then: Option<u64>| {
            // A counter that has gone back belongs to a stream or consumer that was made anew.
            let grown = now?.checked_sub(then?)?;
            Some(grown as f64 * 1_000.0 / millis as f64)
        };
        let then: BTreeMap<_, _> = before.services.iter().map(|one| (one.service, one)).collect();
        for line in &mut self.services {
            let Some(then) = then.get(line.service) else { continue };
            line.consumed_per_sec = rate(line.consumed, then.consumed);
            line.published_per_sec = rate(line.published, then.published);
        }
    }

    /// The sum of what is known of the services.
    pub(super) fn sum<T: std::iter::Sum<T>>(
        &self,
        of: impl Fn(&ServiceLine) -> Option<T>,
    ) -> Option<T> {
        let mut known = self.services.iter().filter_map(of).peekable();
        known.peek()?;
        Some(known.sum())
    }

    /// Everything that could not be reached, with the reason; a reason that several parts share is
    /// named once.
    pub(super) fn unreachable(&self) -> Vec<(&'static str, &str)> {
        let parts = [
            ("broker", self.broker.why()),
            ("gateway", self.gateway.why()),
            ("schedules", self.schedules.why()),
            ("seats", self.seats.why()),
            ("waiting rooms", self.rooms.why()),
            ("payments", self.payments.why()),
            ("sagas", self.sagas.why()),
            ("stalls", self.stalls.why()),
            ("dead letters", self.dead_letters.why()),
        ];
        let mut named: Vec<(&str, &str)> = Vec::new();
        for (part, why) in parts {
            let Some(why) = why else { continue };
            if !named.iter().any(|(_, known)| *known == why) {
                named.push((part, why));
            }
        }
        named
    }
}
