//! Reservations and the seats they claim: one owner at a time, and no hold past its cap.

use events::{audit::Rule, reservation::ReservationState};
use uuid::Uuid;

use super::{
    finding::{Finding, Moment, OVERDUE_SECS, SLACK_SECS},
    shelf::{Mark, Shelf},
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
    said: u8,
}

/// What a claim covers, and as whose.
pub(super) struct Claimed {
    /// Numbers of the seats, sorted.
    pub(super) seats: Box<[u32]>,
    pub(super) hold_version: i64,
}

impl Reservation {
    pub(super) fn new(id: Uuid, schedule: Uuid) -> Self {
        Self { id, schedule, ..Self::default() }
    }

    /// Seats are held; those it did not claim before.
    pub(super) fn create(
        &mut self,
        heard: Mark,
        claimed: Claimed,
        hard_cap_ms: i64,
    ) -> Result<(), Finding> {
        if let Some(first) = self.created.set(heard) {
            let what = "a reservation is made twice";
            return Err(Finding::between(Rule::OneOwner, what, &first, &heard));
        }
        self.hard_cap_ms = hard_cap_ms;
        self.hold_version = claimed.hold_version;
        self.seats = claimed.seats;
        Ok(())
    }

    /// The seats are somebody's. Whether it claims them now, its beginning being unknown.
    pub(super) fn confirm(
        &mut self,
        heard: Mark,
        claimed: Claimed,
        payment: Uuid,
        at_ms: i64,
    ) -> Result<bool, Finding> {
        if let Some(first) = self.confirmed.set(heard) {
            let what = "a reservation is confirmed twice";
            return Err(Finding::between(Rule::PaidIsOwned, what, &first, &heard));
        }
        self.payment = payment;
        if self.created.is_set() {
            let is_as_held = self.seats == claimed.seats
                && self.hold_version == claimed.hold_version
                && self.created.amount == heard.amount;
            self.said |= if is_as_held { 0 } else { DIFFERS };
            self.said |= if at_ms <= self.hard_cap_ms { 0 } else { PAST_CAP };
            return Ok(false);
        }
        let is_new = self.seats.is_empty();
        self.hold_version = claimed.hold_version;
        self.seats = claimed.seats;
        Ok(is_new)
    }

    /// It is over.
    pub(super) fn end(&mut self, said: u8, heard: Mark) -> Result<(), Finding> {
        if let Some(first) = self.ended.set(heard) {
            let what = "a reservation ends twice";
            return Err(Finding::between(Rule::OneOwner, what, &first, &heard));
        }
        self.said |= said;
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

    /// When its claim began; for one whose beginning was not heard, when that was seen.
    fn begun(&self) -> &Mark {
        self.created.heard().unwrap_or(&self.confirmed)
    }

    /// When it is to be looked at again, by deadlines of its own.
    pub(super) fn cap_secs(&self) -> i64 {
        self.hard_cap_ms / 1_000 + OVERDUE_SECS
    }

    /// Where it stands.
    pub(super) fn state(&self) -> Option<ReservationState> {
        if self.ended.is_set() {
            let is_expired = self.said & EXPIRED != 0;
            Some(if is_expired { ReservationState::Expired } else { ReservationState::Cancelled })
        } else if self.confirmed.is_set() {
            Some(ReservationState::Confirmed)
        } else {
            self.created.heard().map(|_| ReservationState::Pending)
        }
    }

    /// What is wrong with it.
    pub(super) fn judge(&self, moment: &Moment, found: &mut Vec<Finding>) {
        self.judge_end(moment, found);
        if self.said & DIFFERS != 0 {
            let what = "other seats, version or points are confirmed than were held";
            found.push(Finding::between(Rule::OneOwner, what, &self.created, &self.confirmed));
        }
        if self.said & PAST_CAP != 0 {
            let what = "a hold is confirmed past its cap";
            found.push(Finding::between(Rule::HardCap, what, &self.created, &self.confirmed));
        }
        let outlives = match (self.confirmed.is_set(), self.ended.heard()) {
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
        let Some(ended) = self.ended.heard() else { return };
        let is_paid = self.said & PAID != 0;
        if self.confirmed.is_set() {
            let what = match (self.said & EXPIRED != 0, is_paid) {
                (true, _) => "a confirmed reservation expires",
                (false, false) => "a confirmed reservation is given up as if it were not paid",
                (false, true) => return,
            };
            found.push(Finding::between(Rule::PaidIsOwned, what, &self.confirmed, ended));
        } else if is_paid && moment.covers_all_of(self.id) && moment.is_past(ended, SLACK_SECS) {
            let what = "money goes back for seats that were never confirmed";
            found.push(Finding::of(Rule::PaidIsOwned, what, ended));
        }
    }
}

/// A seat of a schedule, and who ever claimed it.
#[derive(Debug, Clone, Default)]
pub(super) struct Seat {
    pub(super) schedule: Uuid,
    pub(super) name: Box<str>,
    /// Version and reservation, by version.
    claims: Vec<(i64, u32)>,
}

impl Seat {
    pub(super) fn new(schedule: Uuid, name: &str) -> Self {
        Self { schedule, name: name.into(), claims: Vec::new() }
    }

    /// Another claim on it.
    pub(super) fn claim(&mut self, hold_version: i64, reservation: u32) {
        // Almost every seat is claimed once.
        if self.claims.is_empty() {
            self.claims.reserve_exact(1);
        }
        let at = self.claims.partition_point(|claim| *claim <= (hold_version, reservation));
        self.claims.insert(at, (hold_version, reservation));
    }

    /// How many ever claimed it.
    pub(super) fn claims(&self) -> usize {
        self.claims.len()
    }

    /// Its owner and version now.
    pub(super) fn owner(&self, all: &Shelf<Reservation>) -> (Option<Uuid>, i64) {
        let Some(&(hold_version, last)) = self.claims.last() else { return (None, 0) };
        let last = all.get(last);
        ((!last.ended.is_set()).then_some(last.id), hold_version)
    }

    /// The saga of whoever claimed it last.
    pub(super) fn saga(&self, all: &Shelf<Reservation>) -> Uuid {
        self.claims.last().map_or(Uuid::nil(), |(_, last)| all.get(*last).saga())
    }

    /// What is wrong with it: whoever had it before must have let it go before the next.
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
                let overlaps = match former.ended.heard() {
                    Some(ended) => after.secs() + SLACK_SECS < ended.secs(),
                    None => moment.is_past(after, SLACK_SECS),
                };
                if !overlaps {
                    continue;
                }
                "two owners at a time"
            };
            // In the order of their ids where they share a version: the facts of one stream
            // may be told in either order.
            found.push(Finding::between(Rule::OneOwner, what, begun, after));
        }
    }
}
