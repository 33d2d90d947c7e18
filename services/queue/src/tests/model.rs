//! The waiting room of one schedule in plain Rust, as DOMAIN.md has it: what the Lua is compared
//! with. It knows nothing of Valkey, and looks at everything anew at each step.

use std::collections::{BTreeMap, BTreeSet};

use events::{
    Code, codes,
    concert::Admission,
    queue::{PlaceEnd, PlaceState},
};

use crate::domain::text_of;

/// A pass or a hold that has run out keeps the place for so much longer.
const GRACE_MILLIS: i64 = 1_000;
/// A second's worth of admissions is spread over ticks of this length.
const TICK_MILLIS: i64 = 100;
/// Numbers that a rebuild leaves out.
const LOST_NUMBERS: i64 = 1_000_000;
/// Returned fans are before every number.
const FRONT: i64 = i64::MIN / 2;

/// What happens to a room. Holds, payments and fans have numbers, times are milliseconds after the
/// opening.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Step {
    Enter(u128),
    Leave(u128),
    Tick,
    Held {
        hold: u128,
        fan: u128,
        hard_cap: i64,
    },
    Expired {
        hold: u128,
        fan: u128,
    },
    Cancelled {
        hold: u128,
        fan: u128,
        was_paid: bool,
    },
    /// A payment has the number of its hold.
    Paid {
        hold: u128,
        fan: u128,
        seats: u32,
        requested_at: i64,
    },
    HoldGone {
        hold: u128,
        fan: u128,
        requested_at: i64,
    },
    Withdrawn(u128),
    ShowCancelled,
}

/// The place of a fan.
#[derive(Debug, Clone, PartialEq)]
pub struct Place {
    pub state: PlaceState,
    pub reason: Option<PlaceEnd>,
    pub reserve_until: i64,
    version: i64,
    number: i64,
    entered_at: i64,
    /// The latest payment that moved it.
    moved_by: Option<u128>,
}

impl Place {
    fn has_ended(&self) -> bool {
        matches!(self.state, PlaceState::Completed | PlaceState::Expired)
    }
}

/// A room that was opened at zero.
pub struct Model {
    pub admission: Admission,
    pub seats: u32,
    pub starts_at: i64,
    places: BTreeMap<u128, Place>,
    /// Who waits, by number; numbers of returned fans are negative.
    line: BTreeMap<i64, u128>,
    /// The holds of each fan, with their hard caps; 0 once a hold has ended.
    holds: BTreeMap<u128, BTreeMap<u128, i64>>,
    /// The latest payment of each fan, and when it was requested.
    paid: BTreeMap<u128, (u128, i64)>,
    /// The paid seats of each hold; 0 once the ticket is cancelled.
    sold: BTreeMap<u128, u32>,
    withdrawn: BTreeSet<u128>,
    is_cancelled: bool,
    numbers: i64,
    returned: i64,
    version_floor: i64,
    /// A second, and how many fans were admitted in it.
    admitted: (i64, i64),
    emitted: Vec<String>,
}

impl Model {
    pub fn new(admission: Admission, seats: u32, starts_at: i64) -> Self {
        Self {
            admission,
            seats,
            starts_at,
            places: BTreeMap::new(),
            line: BTreeMap::new(),
            holds: BTreeMap::new(),
            paid: BTreeMap::new(),
            sold: BTreeMap::new(),
            withdrawn: BTreeSet::new(),
            is_cancelled: false,
            numbers: 0,
            returned: 0,
            version_floor: 0,
            admitted: (-1, 0),
            emitted: Vec::new(),
        }
    }

    /// Takes a step at a moment.
    ///
    /// # Errors
    /// The code of a refusal.
    pub fn take(&mut self, step: Step, now: i64) -> Result<(), Code> {
        match step {
            Step::Enter(fan) => return self.enter(fan, now),
            Step::Leave(fan) => return self.leave(fan, now),
            Step::Tick => self.tick(now),
            Step::Held { hold, fan, hard_cap } => {
                self.holds.entry(fan).or_default().entry(hold).or_insert(hard_cap);
            }
            Step::Expired { hold, fan } => self.end_hold(hold, fan, now),
            Step::Cancelled { hold, fan, was_paid } => {
                if was_paid {
                    self.sold.insert(hold, 0);
                }
                self.end_hold(hold, fan, now);
            }
            Step::Paid { hold, fan, seats, requested_at } => {
                self.sold.entry(hold).or_insert(seats);
                let latest = self.paid.entry(fan).or_insert((hold, requested_at));
                *latest = (*latest).max((hold, requested_at));
                self.end_hold(hold, fan, now);
            }
            Step::HoldGone { hold, fan, requested_at } => {
                self.end_hold(hold, fan, now);
                self.bring_back(hold, fan, requested_at, now);
            }
            Step::Withdrawn(fan) => {
                self.withdrawn.insert(fan);
                self.expire(fan, PlaceEnd::Withdrawn);
            }
            Step::ShowCancelled => self.is_cancelled = true,
        }
        Ok(())
    }

    /// The store is lost and rebuilt: every place stays, and new numbers and versions are above
    /// whatever was lost.
    pub fn rebuild(&mut self, now: i64) {
        self.numbers += LOST_NUMBERS;
        self.version_floor = now;
        self.admitted = (-1, 0);
    }

    /// What was emitted since the last call: `waiting 3 v1`, `expired 3 v2 left`.
    pub fn emitted(&mut self) -> Vec<String> {
        std::mem::take(&mut self.emitted)
    }

    /// The place of a fan, and how many others are before them while they wait.
    pub fn look(&self, fan: u128) -> Option<(&Place, u64)> {
        let ahead = self.line.values().position(|waits| *waits == fan);
        Some((self.places.get(&fan)?, ahead.unwrap_or_default() as u64))
    }

    /// The seats of each paid hold, and those holds that live: what `reservation` knows.
    pub fn owned(&self, now: i64) -> Vec<(u128, u128, u32, Option<i64>)> {
        let mut owned = Vec::new();
        for (fan, holds) in &self.holds {
            for (hold, cap) in holds {
                let sold = self.sold.get(hold).copied().unwrap_or_default();
                if sold > 0 {
                    owned.push((*hold, *fan, sold, None));
                } else if *cap > now {
                    owned.push((*hold, *fan, 1, Some(*cap)));
                }
            }
        }
        owned
    }

    pub fn is_cancelled(&self) -> bool {
        self.is_cancelled
    }

    fn is_over(&self, now: i64) -> bool {
        self.is_cancelled || now >= self.starts_at
    }

    fn is_sold_out(&self) -> bool {
        self.sold.values().sum::<u32>() >= self.seats
    }

    fn enter(&mut self, fan: u128, now: i64) -> Result<(), Code> {
        if self.withdrawn.contains(&fan) {
            return Err(codes::ACCOUNT_CLOSING);
        }
        let before = self.places.get(&fan).cloned();
        if before.as_ref().is_some_and(|place| !place.has_ended()) {
            return Ok(());
        }
        if self.is_cancelled {
            return Err(codes::SCHEDULE_CANCELLED);
        }
        if now >= self.starts_at {
            return Err(codes::SCHEDULE_CLOSED);
        }
        if self.is_sold_out() {
            return Err(codes::SOLD_OUT);
        }
        self.numbers += 1;
        let version = before.as_ref().map_or(self.version_floor, |place| place.version);
        let place = Place {
            state: PlaceState::Waiting,
            reason: None,
            reserve_until: 0,
            version,
            number: self.numbers,
            entered_at: now,
            moved_by: before.and_then(|place| place.moved_by),
        };
        self.line.insert(place.number, fan);
        self.places.insert(fan, place);
        self.moved("waiting", fan, "");
        Ok(())
    }

    fn leave(&mut self, fan: u128, now: i64) -> Result<(), Code> {
        let Some(place) = self.places.get(&fan) else { return Err(codes::NOT_FOUND) };
        if place.has_ended() {
            return Ok(());
        }
        if self.longest_hold(fan) > now {
            return Err(codes::HOLDING_SEATS);
        }
        self.expire(fan, PlaceEnd::Left);
        Ok(())
    }

    fn longest_hold(&self, fan: u128) -> i64 {
        let holds = self.holds.get(&fan).into_iter().flat_map(BTreeMap::values);
        holds.copied().max().unwrap_or_default()
    }

    fn end_hold(&mut self, hold: u128, fan: u128, now: i64) {
        self.holds.entry(fan).or_default().insert(hold, 0);
        self.conclude(fan, now);
    }

    /// The place of a fan who has paid completes once no hold of theirs lives. A payment that was
    /// requested before the fan entered, or has moved the place before, is of an earlier place.
    fn conclude(&mut self, fan: u128, now: i64) -> bool {
        let lives = self.longest_hold(fan) > now;
        let Some(place) = self.places.get_mut(&fan).filter(|place| !place.has_ended()) else {
            return false;
        };
        let Some((payment, requested_at)) = self.paid.get(&fan).copied() else { return false };
        if lives || place.moved_by == Some(payment) || requested_at < place.entered_at {
            return false;
        }
        place.moved_by = place.moved_by.max(Some(payment));
        place.state = PlaceState::Completed;
        self.line.retain(|_, waits| *waits != fan);
        self.moved("completed", fan, "");
        true
    }

    /// A fan whose hold was gone before the money came is returned to the front.
    fn bring_back(&mut self, payment: u128, fan: u128, requested_at: i64, now: i64) {
        let is_over = self.is_over(now);
        let is_behind = self.line.iter().any(|(number, waits)| *waits == fan && *number >= 0);
        let Some(place) = self.places.get_mut(&fan) else { return };
        let has_lost = match place.state {
            PlaceState::Active => requested_at >= place.entered_at,
            PlaceState::Expired => place.reason == Some(PlaceEnd::Timeout),
            _ => is_behind,
        };
        let is_late = place.moved_by >= Some(payment);
        if is_over || is_late || !has_lost {
            return;
        }
        place.moved_by = Some(payment);
        place.state = PlaceState::Waiting;
        place.reason = None;
        self.returned += 1;
        self.line.retain(|_, waits| *waits != fan);
        self.line.insert(FRONT + self.returned, fan);
        self.moved("returned", fan, "");
    }

    fn expire(&mut self, fan: u128, reason: PlaceEnd) {
        let Some(place) = self.places.get_mut(&fan).filter(|place| !place.has_ended()) else {
            return;
        };
        place.state = PlaceState::Expired;
        place.reason = Some(reason);
        self.line.retain(|_, waits| *waits != fan);
        self.moved("expired", fan, text_of(reason));
    }

    fn moved(&mut self, how: &str, fan: u128, why: &str) {
        if let Some(place) = self.places.get_mut(&fan) {
            place.version += 1;
            let said = format!("{how} {fan} v{} {why}", place.version);
            self.emitted.push(said.trim_end().to_owned());
        }
    }

    /// Admitted fans, with the time until which pass or hold keep the place; the earliest first.
    fn admitted_fans(&self) -> Vec<(i64, u128)> {
        let active = self.places.iter().filter(|(_, place)| place.state == PlaceState::Active);
        let until = |(fan, place): (&u128, &Place)| {
            (place.reserve_until.max(self.longest_hold(*fan)), *fan)
        };
        let mut fans: Vec<_> = active.map(until).collect();
        fans.sort_unstable();
        fans
    }

    fn tick(&mut self, now: i64) {
        for (until, fan) in self.admitted_fans() {
            if !self.is_cancelled && until + GRACE_MILLIS > now {
                continue;
            }
            if self.is_cancelled {
                self.expire(fan, PlaceEnd::Cancelled);
            } else if !self.conclude(fan, now) {
                let is_closed = self.places[&fan].reserve_until >= self.starts_at;
                self.expire(fan, if is_closed { PlaceEnd::Closed } else { PlaceEnd::Timeout });
            }
        }
        let waiting: Vec<u128> = self.line.values().copied().collect();
        if self.is_over(now) || self.is_sold_out() {
            let why = match (self.is_cancelled, now >= self.starts_at) {
                (true, _) => PlaceEnd::Cancelled,
                (false, true) => PlaceEnd::Closed,
                (false, false) => PlaceEnd::SoldOut,
            };
            waiting.into_iter().for_each(|fan| self.expire(fan, why));
        } else {
            self.admit(&waiting, now);
        }
    }

    fn admit(&mut self, waiting: &[u128], now: i64) {
        let Admission { per_second, active_max, pass_secs } = self.admission;
        let (second, into) = (now.div_euclid(1_000), now.rem_euclid(1_000));
        if now < 0 {
            return;
        }
        let before = if self.admitted.0 == second { self.admitted.1 } else { 0 };
        let ticks = into / TICK_MILLIS + 1;
        let due = (i64::from(per_second) * ticks * TICK_MILLIS + 999) / 1_000 - before;
        let vacant = i64::from(active_max) - self.admitted_fans().len() as i64;
        let allowed = due.min(vacant).max(0) as usize;
        for fan in waiting.iter().take(allowed) {
            self.line.retain(|_, waits| waits != fan);
            if let Some(place) = self.places.get_mut(fan) {
                place.state = PlaceState::Active;
                place.reserve_until = (now + i64::from(pass_secs) * 1_000).min(self.starts_at);
            }
            self.moved("activated", *fan, "");
        }
        let count = waiting.len().min(allowed) as i64;
        if count > 0 {
            self.admitted = (second, before + count);
        }
    }
}
