//! The auditor: checks what must always hold, from the events alone.
//!
//! It decides nothing and queries no other service. Events of one stream come in their order,
//! those of different streams in any order, and each perhaps twice. So two events of different
//! streams are compared when both are there, and an event counts as missing only once everything
//! emitted by then has been observed ([`Auditor::settled`]). What began before the kept events
//! is taken as it is first seen.
//!
//! | rule | what must hold |
//! |---|---|
//! | `one_owner` | of two claims on a seat, the one with the lower version has ended first |
//! | `taken_once` | one debit a payment, and one refund at most, of the same points to the same wallet |
//! | `paid_is_owned` | a payment completes, or has confirmed its reservation, and then both |
//! | `given_back` | no payment fails or is given up without its money being back |
//! | `ledger_sums` | every balance of a wallet is the one before and the movement |
//! | `hard_cap` | no hold is confirmed past its cap, or outlives it |
//! | `declared_flow` | every event follows from one that may lead to it |

mod finding;
mod flow;
mod handle;
mod payments;
mod seats;
mod shelf;
#[cfg(test)]
mod tests;
mod wallets;

use std::collections::HashSet;

use events::{
    Event, EventId, PaymentId, ReservationId, ScheduleId, Timestamp, UserId,
    audit::{Rule, Violation},
    payment::{
        PaymentCompleted, PaymentFailed, PaymentFailure, PaymentRefunded, PaymentRequested,
        PaymentState,
    },
    point::{
        PointCharged, PointDebitRefused, PointDebited, PointForfeited, PointRefunded, RefundReason,
    },
    reservation::{
        ReservationCancelled, ReservationConfirmRefused, ReservationConfirmed, ReservationCreated,
        ReservationExpired, ReservationState,
    },
};
use flows::Flows;
use serde::de::DeserializeOwned;
use uuid::Uuid;

pub use finding::{OPEN_SECS, OVERDUE_SECS, SLACK_SECS};

use crate::Observed;
use finding::{Finding, Moment};
use flow::{Due, Flow};
use payments::{Payment, Step};
use seats::{Claimed, Reservation, Seat};
use shelf::{Mark, Shelf};
use wallets::{Move, Wallet};

/// What is to be checked again.
#[derive(Debug, Clone, Copy)]
enum Item {
    Payment(u32),
    Reservation(u32),
    Seat(u32),
    Wallet(u32),
}

/// The auditor, with everything it has observed, as far as that still matters.
#[derive(Default)]
pub struct Auditor {
    flow: Flow,
    payments: Shelf<Payment>,
    reservations: Shelf<Reservation>,
    seats: Shelf<Seat>,
    wallets: Shelf<Wallet>,
    due: Due<Item>,
    reported: HashSet<Uuid>,
    checked: [u64; Rule::ALL.len()],
    unread: u64,
}

/// A seat as the events have it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SeatSeen<'a> {
    /// The schedule it belongs to.
    pub schedule_id: ScheduleId,
    /// Its name.
    pub seat: &'a str,
    /// The reservation that holds or owns it.
    pub owner: Option<ReservationId>,
    /// The version of the last owner.
    pub hold_version: i64,
}

impl Auditor {
    /// Takes in an event and returns the violations that it reveals and that were not reported
    /// before. Events of one stream come in its order; a repeat changes nothing.
    pub fn handle(&mut self, flows: &Flows, observed: &Observed) -> Vec<Violation> {
        let mut violations = Vec::new();
        if !self.flow.is_new(observed) {
            return violations;
        }
        let mut wrong = Vec::new();
        self.flow.handle(flows, observed, &mut wrong);
        for (finding, of) in wrong {
            self.report(&finding, of, Uuid::nil(), Uuid::nil(), &mut violations);
        }
        if self.read(observed, &mut violations).is_none() {
            self.unread += 1;
        }
        violations
    }

    /// Checks what must hold once everything emitted before `until` has been observed, and
    /// returns the violations that were not reported before. An event may be late by
    /// [`SLACK_SECS`], and what a service still has to do by [`OPEN_SECS`].
    pub fn settled(&mut self, until: Timestamp) -> Vec<Violation> {
        let until = until.unix_millis() / 1_000;
        let since = self.flow.since_money();
        let moment = Moment { until, at_rest: false, since, now: until };
        let items: Vec<Item> = self.due.take(until).collect();
        self.look_at(items, &moment)
    }

    /// Checks what must hold when nothing is on its way any more: every event has been observed,
    /// and every service has done what it has to do. `now` is for deadlines that pass by
    /// themselves.
    pub fn at_rest(&mut self, now: Timestamp) -> Vec<Violation> {
        let now = now.unix_millis() / 1_000;
        let since = self.flow.since_money();
        let moment = Moment { until: i64::MAX, at_rest: true, since, now };
        self.due = Due::default();
        let all = |len: usize| 0..len as u32;
        let items = all(self.payments.len())
            .map(Item::Payment)
            .chain(all(self.reservations.len()).map(Item::Reservation))
            .chain(all(self.seats.len()).map(Item::Seat))
            .chain(all(self.wallets.len()).map(Item::Wallet))
            .collect();
        self.look_at(items, &moment)
    }

    /// How many events were observed, not counting repeats.
    pub fn events(&self) -> usize {
        self.flow.len()
    }

    /// How many events could not be decoded as their type.
    pub fn unread(&self) -> u64 {
        self.unread
    }

    /// How many things a rule was checked on.
    pub fn checked(&self, rule: Rule) -> u64 {
        match rule {
            Rule::DeclaredFlow => self.flow.checked,
            rule => self.checked[rule as usize],
        }
    }

    /// The name of an observed event.
    pub fn name_of(&self, event: EventId) -> Option<&'static str> {
        self.flow.name_of(event.0)
    }

    /// How many payments still await an event.
    pub fn unfinished(&self) -> usize {
        self.payments.iter().filter(|payment| payment.is_unfinished()).count()
    }

    /// Since when everything was observed; `None` when it was from the beginning.
    pub fn since(&self) -> Option<Timestamp> {
        let since = self.flow.since();
        (since > i64::MIN).then(|| Timestamp::from_unix_millis(since * 1_000)).flatten()
    }

    /// Every payment of which its own service emitted an event, and its state.
    pub fn payments(&self) -> impl Iterator<Item = (PaymentId, PaymentState)> {
        self.payments.iter().filter_map(|payment| Some((PaymentId(payment.id), payment.state()?)))
    }

    /// Every reservation, and its state.
    pub fn reservations(&self) -> impl Iterator<Item = (ReservationId, ReservationState)> {
        let seen = |one: &Reservation| Some((ReservationId(one.id), one.state()?));
        self.reservations.iter().filter_map(seen)
    }

    /// Every seat that was ever claimed, and its owner.
    pub fn seats(&self) -> impl Iterator<Item = SeatSeen<'_>> {
        self.seats.iter().map(|seat| {
            let (owner, hold_version) = seat.owner(&self.reservations);
            let schedule_id = ScheduleId(seat.schedule);
            SeatSeen {
                schedule_id,
                seat: &seat.name,
                owner: owner.map(ReservationId),
                hold_version,
            }
        })
    }

    /// Every wallet, and its points as far as they are settled.
    pub fn wallets(&self) -> impl Iterator<Item = (UserId, i64)> {
        self.wallets.iter().filter_map(|wallet| Some((UserId(wallet.user), wallet.balance()?)))
    }

    fn report(
        &mut self,
        finding: &Finding,
        of: impl std::fmt::Display,
        saga: Uuid,
        schedule: Uuid,
        violations: &mut Vec<Violation>,
    ) {
        let violation = finding.violation(of, saga, schedule);
        if self.reported.insert(violation.violation_id) {
            violations.push(violation);
        }
    }

    fn look_at(&mut self, items: Vec<Item>, moment: &Moment) -> Vec<Violation> {
        let mut violations = Vec::new();
        let mut wrong = Vec::new();
        self.flow.settle(moment.until, moment.at_rest, &mut wrong);
        for (finding, of) in wrong {
            self.report(&finding, of, Uuid::nil(), Uuid::nil(), &mut violations);
        }
        for item in items {
            self.judge(item, moment, &mut violations);
        }
        violations
    }

    fn judge(&mut self, item: Item, moment: &Moment, violations: &mut Vec<Violation>) {
        let mut found = Vec::new();
        let (of, id, saga, schedule) = match item {
            Item::Payment(at) => {
                let payment = self.payments.get(at);
                payment.judge(moment, &mut found);
                ("payment", payment.id, payment.id, payment.schedule)
            }
            Item::Reservation(at) => {
                let reservation = self.reservations.get(at);
                reservation.judge(moment, &mut found);
                ("reservation", reservation.id, reservation.saga(), reservation.schedule)
            }
            Item::Seat(at) => {
                let seat = self.seats.get(at);
                seat.judge(&self.reservations, moment, &mut found);
                if found.is_empty() {
                    return;
                }
                let (seat, saga) = (seat.clone(), seat.saga(&self.reservations));
                for finding in found {
                    let of = format!("seat {}", seat.name);
                    self.report(&finding, of, saga, seat.schedule, violations);
                }
                return;
            }
            Item::Wallet(at) => {
                let wallet = self.wallets.get_mut(at);
                wallet.settle(moment.until, &mut found);
                ("wallet", wallet.user, Uuid::nil(), Uuid::nil())
            }
        };
        for finding in found {
            self.report(&finding, format!("{of} {id}"), saga, schedule, violations);
        }
    }
}
