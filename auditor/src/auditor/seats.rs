//! Reservations and the seats they claim: one owner at a time, and no hold past its cap.

use events::{audit::Rule, reservation::ReservationState};
use uuid::Uuid;

use super::{
    finding::{Finding, Moment, OVERDUE_SECS, SLACK_SECS},
    shelf::{Key, Keyed, Mark, Shelf},
};

/// `reservation.expired`.
pub(super) const EXPIRED: u8 = 1;
/// `reservation.cancelled`, with money to return.
pub(super) const PAID: u8 = 2;
/// Confirmed with other seats, version or points than were held.
const DIFFERS: u8 = 4;
/// Confirmed later than its cap.
const PAST_CAP: u8 = 8;

/// A reservation.
#[derive(Debug, Clone, Default)]
pub(super) struct Reservation {
    pub(super) id: Uuid,
    pub(super) schedule: Uuid,
    /// The payment that confirmed it; nil before.
    pub(super) payment: Uuid,
    hold_version: i64,
    hard_cap_ms: i64,
    created: Mark,
    confirmed: Mark,
    ended: Mark,
    seats: Box<[u32]>,
    flags: u8,
}

impl Keyed for Reservation {
    fn key(&self) -> Key<'_> {
        (self.id, "")
    }
}

/// The seats that a claim covers, and its version.
pub(super) struct Claimed {
    /// Numbers of the seats, sorted.
    pub(super) seats: Box<[u32]>,
    pub(super) hold_version: i64,
}

impl Reservation {
    pub(super) fn new(id: Uuid, schedule: Uuid) -> Self {
        Self { id, schedule, ..Self::default() }
    }

    /// Seats are held by it from now on.
    pub(super) fn create(
        &mut self,
        mark: Mark,
        claimed: Claimed,
        hard_cap_ms: i64,
    ) -> Result<(), Finding> {
        if let Some(first) = self.created.set(mark) {
            let what = "a reservation is made twice";
            return Err(Finding::between(Rule::OneOwner, what, &first, &mark));
        }
        self.hard_cap_ms = hard_cap_ms;
        self.hold_version = claimed.hold_version;
        self.seats = claimed.seats;
        Ok(())
    }

    /// The seats are confirmed. Returns whether this is what claims them: its beginning is
    /// unknown then.
    pub(super) fn confirm(
        &mut self,
        mark: Mark,
        claimed: Claimed,
        payment: Uuid,
        at_ms: i64,
    ) -> Result<bool, Finding> {
        if let Some(first) = self.confirmed.set(mark) {
            let what = "a reservation is confirmed twice";
            return Err(Finding::between(Rule::PaidIsOwned, what, &first, &mark));
        }
        self.payment = payment;
        if self.created.is_set() {
            let is_as_held = self.seats == claimed.seats
                && self.hold_version == claimed.hold_version
                && self.created.amount == mark.amount;
            self.flags |= if is_as_held { 0 } else { DIFFERS };
            self.flags |= if at_ms <= self.hard_cap_ms { 0 } else { PAST_CAP };
            return Ok(false);
        }
        let is_new = self.seats.is_empty();
        self.hold_version = claimed.hold_version;
        self.seats = claimed.seats;
        Ok(is_new)
    }

    /// It is over.
    pub(super) fn end(&mut self, flags: u8, mark: Mark) -> Result<(), Finding> {
        if let Some(first) = self.ended.set(mark) {
            let what = "a reservation ends twice";
            return Err(Finding::between(Rule::OneOwner, what, &first, &mark));
        }
        self.flags |= flags;
        Ok(())
    }

    /// The saga it belongs to: that of its payment, once it has one.
    pub(super) fn saga(&self) -> Uuid {
        if self.payment.is_nil() { self.id } else { self.payment }
    }

    /// The seats it claims.
    pub(super) fn seats(&self) -> &[u32] {
        &self.seats
    }

    /// When its claim began; when it was confirmed, if its beginning was not observed.
    fn begun(&self) -> &Mark {
        self.created.observed().unwrap_or(&self.confirmed)
    }

    /// When it is to be checked again, by its own deadline.
    pub(super) fn cap_secs(&self) -> i64 {
        self.hard_cap_ms / 1_000 + OVERDUE_SECS
    }

    /// Its state.
    pub(super) fn state(&self) -> Option<ReservationState> {
        if self.ended.is_set() {
            let is_expired = self.flags & EXPIRED != 0;
            Some(if is_expired { ReservationState::Expired } else { ReservationState::Cancelled })
        } else if self.confirmed.is_set() {
            Some(ReservationState::Confirmed)
        } else {
            self.created.observed().map(|_| ReservationState::Pending)
        }
    }

    /// Finds what is wrong with it.
    pub(super) fn judge(&self, moment: &Moment, found: &mut Vec<Finding>) {
        self.judge_end(moment, found);
        if self.flags & DIFFERS != 0 {
            let what = "the confirmed seats, version or points differ from the hold";
            found.push(Finding::between(Rule::OneOwner, what, &self.created, &self.confirmed));
        }
        if self.flags & PAST_CAP != 0 {
            let what = "a hold is confirmed past its cap";
            found.push(Finding::between(Rule::HardCap, what, &self.created, &self.confirmed));
        }
        let outlives = match (self.confirmed.is_set(), self.ended.observed()) {
            (true, _) => false,
            (false, Some(ended)) => self.cap_secs() < ended.secs(),
            (false, None) => self.cap_secs() < moment.now,
        };
        if self.created.is_set() && outlives {
            found.push(Finding::of(Rule::HardCap, "a hold outlives its cap", &self.created));
        }
        let begins = [
            (&self.confirmed, "seats are confirmed that were never held"),
            (&self.ended, "seats are freed that were never held"),
        ];
        for (mark, what) in begins {
            let is_first = mark.is_set() && !self.created.is_set();
            if is_first && moment.covers_all_of(self.id) && moment.is_past(mark, SLACK_SECS) {
                found.push(Finding::of(Rule::OneOwner, what, mark));
            }
        }
    }

    fn judge_end(&self, moment: &Moment, found: &mut Vec<Finding>) {
        let Some(ended) = self.ended.observed() else { return };
        let is_paid = self.flags & PAID != 0;
        if self.confirmed.is_set() {
            let what = match (self.flags & EXPIRED != 0, is_paid) {
                (true, _) => "a confirmed reservation expires",
                (false, false) => "a confirmed reservation is cancelled as if it were unpaid",
                (false, true) => return,
            };
            found.push(Finding::between(Rule::PaidIsOwned, what, &self.confirmed, ended));
        } else if is_paid && moment.covers_all_of(self.id) && moment.is_past(ended, SLACK_SECS) {
            let what = "money goes back for seats that were never confirmed";
            found.push(Finding::of(Rule::PaidIsOwned, what, ended));
        }
    }
}

/// A seat of a schedule, and all claims on it.
#[derive(Debug, Clone, Default)]
pub(super) struct Seat {
    pub(super) schedule: Uuid,
    pub(super) name: Box<str>,
    /// Version and reservation of each claim, ordered by version.
    claims: Vec<(i64, u32)>,
}

impl Keyed for Seat {
    fn key(&self) -> Key<'_> {
        (self.schedule, &self.name)
    }
}

impl Seat {
    pub(super) fn new(schedule: Uuid, name: &str) -> Self {
        Self { schedule, name: name.into(), claims: Vec::new() }
    }

    /// Adds a claim.
    pub(super) fn claim(&mut self, hold_version: i64, reservation: u32) {
        // Almost every seat is claimed once.
        if self.claims.is_empty() {
            self.claims.reserve_exact(1);
        }
        let at = self.claims.partition_point(|claim| *claim <= (hold_version, reservation));
        self.claims.insert(at, (hold_version, reservation));
    }

    /// How many claims there were.
    pub(super) fn claims(&self) -> usize {
        self.claims.len()
    }

    /// Its owner and version now.
    pub(super) fn owner(&self, all: &Shelf<Reservation>) -> (Option<Uuid>, i64) {
        let Some(&(hold_version, last)) = self.claims.last() else { return (None, 0) };
        let last = all.get(last);
        ((!last.ended.is_set()).then_some(last.id), hold_version)
    }

    /// The saga of the last claim.
    pub(super) fn saga(&self, all: &Shelf<Reservation>) -> Uuid {
        self.claims.last().map_or(Uuid::nil(), |(_, last)| all.get(*last).saga())
    }

    /// Finds what is wrong with it: the former owner must have let it go before the next one
    /// claimed it.
    pub(super) fn judge(
        &self,
        all: &Shelf<Reservation>,
        moment: &Moment,
        found: &mut Vec<Finding>,
    ) {
        for pair in self.claims.windows(2) {
            let (former, next) = (all.get(pair[0].1), all.get(pair[1].1));
            let (begun, after) = (former.begun(), next.begun());
            let what = if pair[0].0 == pair[1].0 {
                "two owners of one version"
            } else if next.created.is_set() && after.secs() + SLACK_SECS < begun.secs() {
                "the version of a seat goes back"
            } else {
                let overlaps = match former.ended.observed() {
                    Some(ended) => after.secs() + SLACK_SECS < ended.secs(),
                    None => moment.is_past(after, SLACK_SECS),
                };
                if !overlaps {
                    continue;
                }
                "two owners at a time"
            };
            // Claims that share a version are in the order of their numbers: the events of one
            // stream may be emitted in either order.
            found.push(Finding::between(Rule::OneOwner, what, begun, after));
        }
    }
}
