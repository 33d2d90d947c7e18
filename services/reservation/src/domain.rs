//! Who owns a seat: states and decisions, without clock, storage or randomness.

mod schedule;

use std::collections::HashSet;

use events::{
    PaymentId, Problem, ReservationId, ScheduleId, SeatId, Timestamp, UserId, codes,
    reservation::{
        CancelReason, ConfirmRefusal, PricedSeat, Reservation as View, ReservationState,
    },
    withdrawal::WithdrawalReason,
};

use ReservationState::{Cancelled, Confirmed, Expired, Pending};

pub use schedule::{Schedule, Terms};

/// The most seats in one request; no schedule allows a fan more.
pub const SEATS_PER_REQUEST_MAX: usize = 100;

/// A seat and its owner. There is room for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// Points.
    pub price: i64,
    /// The reservation that holds or owns it.
    pub owner: Option<ReservationId>,
    /// The version of the last owner; the next owner gets a higher one.
    pub hold_version: i64,
}

impl Seat {
    /// A seat that never had an owner.
    pub fn new(price: i64) -> Self {
        Self { price, owner: None, hold_version: 0 }
    }

    /// Whether this very reservation, and not a later owner, has the seat.
    pub fn belongs_to(&self, reservation: &Reservation) -> bool {
        self.owner == Some(reservation.id) && self.hold_version == reservation.hold_version
    }
}

/// What this service knows of a fan's place in the waiting room: up to which version it has
/// ended. Whether the fan was admitted is in the pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The version of the latest end; 0 when no end has arrived. Every earlier pass is void.
    pub ended_version: u64,
}

impl Place {
    /// A place whose end has not arrived: the pass alone counts.
    pub const UNKNOWN: Self = Self { ended_version: 0 };

    /// Whether this end is later than `known`.
    pub fn is_newer_than(&self, known: &Self) -> bool {
        self.ended_version > known.ended_version
    }
}

/// The right to reserve, as the waiting room signed it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Pass {
    /// The fan it was issued to.
    pub user_id: UserId,
    /// The schedule of the room.
    pub schedule_id: ScheduleId,
    /// The place it was issued for.
    pub place_version: u64,
    /// Until when the fan may reserve.
    pub reserve_until: Timestamp,
}

impl Pass {
    /// Whether it was issued to this fan for this room.
    pub fn is_for(&self, user_id: UserId, schedule_id: ScheduleId) -> bool {
        self.user_id == user_id && self.schedule_id == schedule_id
    }

    /// Whether the fan may reserve now.
    ///
    /// # Errors
    /// `not_active` when the pass has run out, or its place is known to have ended since.
    pub fn admit(&self, place: &Place, now: Timestamp) -> Result<(), Problem> {
        if now >= self.reserve_until {
            return Err(not_active("The pass has run out; enter the waiting room again."));
        }
        if place.ended_version >= self.place_version {
            return Err(not_active("The place has ended; enter the waiting room again."));
        }
        Ok(())
    }
}

/// A hold or a purchase of a fan: what is needed to count seats and to see whether a place is
/// used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bought {
    /// How many seats the fan has by it.
    pub seats: usize,
    /// The end of the hold; `None` when it is no hold any more.
    pub holds_until: Option<Timestamp>,
    /// The place under which it was made.
    pub place_version: u64,
    /// Whether it was ever paid.
    pub is_paid: bool,
}

/// Whether the place behind a pass is used up: a payment completed under it, and the fan has no
/// live hold. The waiting room comes to the same result a moment later.
pub fn is_used_up<'a>(
    mut bought: impl Iterator<Item = &'a Bought> + Clone,
    place_version: u64,
    now: Timestamp,
) -> bool {
    let holds = bought.clone().any(|it| it.holds_until.is_some_and(|end| now < end));
    !holds && bought.any(|it| it.is_paid && it.place_version >= place_version)
}

/// The refusal of a fan who is not admitted.
pub fn not_active(why: &str) -> Problem {
    Problem::new(codes::NOT_ACTIVE, why)
}

/// The normal form of a requested seat name, in which names are stored.
pub fn normalized(seat: &SeatId) -> SeatId {
    SeatId(text::same_name(&seat.0))
}

/// Whether the requested seats are well formed.
///
/// # Errors
/// `invalid` for no seats, too many, one seat twice, or a text that cannot be a seat name.
pub fn well_formed(seats: &[SeatId]) -> Result<(), Problem> {
    let invalid = |field: &str, what: String| Err(Problem::about(codes::INVALID, field, what));
    if !(1..=SEATS_PER_REQUEST_MAX).contains(&seats.len()) {
        let what = format!("must name 1 to {SEATS_PER_REQUEST_MAX} seats, not {}", seats.len());
        return invalid("seats", what);
    }
    // This also keeps out NUL: PostgreSQL would refuse the whole batch because of it.
    let is_name =
        |seat: &SeatId| seat.0.len() <= SeatId::BYTES_MAX && !seat.0.chars().any(char::is_control);
    if let Some(at) = seats.iter().position(|seat| !is_name(seat)) {
        let what =
            format!("must be a seat: 1 to {} bytes, no control characters", SeatId::BYTES_MAX);
        return invalid(&format!("seats[{at}]"), what);
    }
    let mut seen = HashSet::with_capacity(seats.len());
    match seats.iter().find(|seat| !seen.insert(*seat)) {
        Some(seat) => invalid("seats", format!("names seat {seat} twice")),
        None => Ok(()),
    }
}

/// The requested seats, when all of them exist and are free.
///
/// # Errors
/// `unknown_seat` or `seat_taken`; `seats` lists the seats that caused it.
pub fn free_seats<'a>(
    requested: &[SeatId],
    seat_of: impl Fn(&SeatId) -> Option<&'a Seat>,
) -> Result<Vec<&'a Seat>, Problem> {
    let mut free = Vec::with_capacity(requested.len());
    let (mut unknown, mut taken) = (Vec::new(), Vec::new());
    for id in requested {
        match seat_of(id) {
            None => unknown.push(id.0.as_str()),
            Some(seat) if seat.owner.is_some() => taken.push(id.0.as_str()),
            Some(seat) => free.push(seat),
        }
    }
    if !unknown.is_empty() {
        return Err(Problem::from(codes::UNKNOWN_SEAT).with("seats", unknown));
    }
    if !taken.is_empty() {
        return Err(Problem::from(codes::SEAT_TAKEN).with("seats", taken));
    }
    Ok(free)
}

/// Whether a fan with `held` seats may have `more` of them.
///
/// # Errors
/// `limit_exceeded`.
pub fn within_limit(held: usize, more: usize, terms: &Terms) -> Result<(), Problem> {
    let max = terms.seats_per_fan_max as usize;
    if held + more <= max {
        return Ok(());
    }
    let detail = format!("One fan may have {max} seats of this schedule and has {held}.");
    Err(Problem::new(codes::LIMIT_EXCEEDED, detail).with("max", max).with("held", held))
}

/// What a payment presents to have a hold confirmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// The fan who paid.
    pub user_id: UserId,
    /// The version of the hold that was paid.
    pub hold_version: i64,
    /// Points that were taken.
    pub amount: i64,
}

/// The decision on a payment's claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// The seats are confirmed.
    Confirmed,
    /// This payment confirmed it before. A later cancellation has its own refund.
    Before,
    /// The hold's time is up, but it has not been expired yet: expire it now.
    Lapsed,
    /// The hold has ended, or the claim is not its owner's.
    Refused(ConfirmRefusal),
    /// The fan's withdrawal is cleared: decide when the withdrawal is decided.
    Undecided,
}

/// What becomes of the money of a paid reservation that was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refund {
    /// The refund is on its way.
    Due,
    /// The money is back.
    Made,
    /// The fan gave the money up with the account.
    Forfeited,
}

/// A fan's claim on one or more seats.
#[derive(Debug, Clone, PartialEq)]
pub struct Reservation {
    /// Its id.
    pub id: ReservationId,
    /// The schedule of the seats.
    pub schedule_id: ScheduleId,
    /// The fan it belongs to.
    pub user_id: UserId,
    /// Its state.
    pub state: ReservationState,
    /// The seats and their prices.
    pub seats: Vec<PricedSeat>,
    /// Sum of the prices.
    pub amount: i64,
    /// The fence that every later step presents.
    pub hold_version: i64,
    /// When the hold was made.
    pub created_at: Timestamp,
    /// When the hold runs out.
    pub expires_at: Timestamp,
    /// The latest time to which the hold can be extended.
    pub hard_cap_at: Timestamp,
    /// Whether it was extended already.
    pub extended: bool,
    /// The payment that confirmed it.
    pub payment_id: Option<PaymentId>,
    /// The fan's withdrawal is cleared: it is neither confirmed nor given back meanwhile.
    pub closing: bool,
    /// What becomes of its money, once it was paid and cancelled.
    pub refund: Option<Refund>,
    /// The place whose pass it was made with.
    pub place_version: u64,
    /// Why it was cancelled, once it was.
    pub cancel_reason: Option<CancelReason>,
    /// The span that made it, for the trace of what ends it.
    pub traceparent: Option<String>,
}

/// A request for a hold, except for its seats.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HoldRequest {
    /// The id for the reservation.
    pub id: ReservationId,
    /// The schedule of the seats.
    pub schedule_id: ScheduleId,
    /// The fan who asks.
    pub user_id: UserId,
    /// The place whose pass the fan presents.
    pub place_version: u64,
}

impl Reservation {
    /// A new hold of free seats. Its version is higher than that of any former owner of any of
    /// them. It ends no later than the start of the show; the extension of a payment that has
    /// begun by then may still go beyond.
    pub fn hold(
        request: HoldRequest,
        seats: impl Iterator<Item = (SeatId, Seat)>,
        terms: &Terms,
        grace_secs: u32,
        now: Timestamp,
    ) -> Self {
        let mut highest_version = 0;
        let seats: Vec<PricedSeat> = seats
            .map(|(id, seat)| {
                highest_version = seat.hold_version.max(highest_version);
                PricedSeat { seat: id, price: seat.price }
            })
            .collect();
        let expires_at = now.plus_secs(terms.hold_secs.into()).min(terms.starts_at);
        Self {
            id: request.id,
            schedule_id: request.schedule_id,
            user_id: request.user_id,
            state: Pending,
            amount: seats.iter().map(|seat| seat.price).sum(),
            seats,
            hold_version: highest_version + 1,
            created_at: now,
            expires_at,
            hard_cap_at: expires_at.plus_secs(grace_secs.into()),
            extended: false,
            payment_id: None,
            closing: false,
            refund: None,
            place_version: request.place_version,
            cancel_reason: None,
            traceparent: None,
        }
    }

    /// Whether it holds or owns its seats.
    pub fn owns(&self) -> bool {
        matches!(self.state, Pending | Confirmed)
    }

    /// Whether it is a hold whose time is up and that has not been expired yet.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.state == Pending && now >= self.expires_at
    }

    fn honours(&self, claim: &Claim) -> bool {
        self.user_id == claim.user_id
            && self.hold_version == claim.hold_version
            && self.amount == claim.amount
    }

    /// The extended end of a hold whose payment has begun in its last minute, so that a slow
    /// payment does not lose the seat. A hold is extended once. `None` for a hold that has
    /// ended, has another owner, or was extended before; also while its end is far enough away:
    /// then the one extension is kept for later.
    pub fn extension(
        &self,
        user_id: UserId,
        hold_version: i64,
        grace_secs: u32,
        now: Timestamp,
    ) -> Option<Timestamp> {
        let is_its_owner = self.user_id == user_id && self.hold_version == hold_version;
        if self.state != Pending || self.is_due(now) || self.extended || !is_its_owner {
            return None;
        }
        let end = now.plus_secs(grace_secs.into()).min(self.hard_cap_at);
        (end > self.expires_at).then_some(end)
    }

    /// Extends the hold. It cannot be extended again.
    pub fn extend(&mut self, end: Timestamp) {
        self.expires_at = end;
        self.extended = true;
    }

    /// Decides the claim of a payment whose money was taken.
    pub fn settle(&self, payment_id: PaymentId, claim: &Claim, now: Timestamp) -> Settled {
        // Also after a cancellation: the cancellation returns the money, not this repeat.
        if self.payment_id == Some(payment_id) {
            return Settled::Before;
        }
        match self.state {
            Expired => Settled::Refused(ConfirmRefusal::Expired),
            Cancelled if self.cancel_reason == Some(CancelReason::ShowCancelled) => {
                Settled::Refused(ConfirmRefusal::ShowCancelled)
            }
            Confirmed | Cancelled => Settled::Refused(ConfirmRefusal::Cancelled),
            Pending if !self.honours(claim) => Settled::Refused(ConfirmRefusal::Cancelled),
            Pending if self.is_due(now) => Settled::Lapsed,
            Pending if self.closing => Settled::Undecided,
            Pending => Settled::Confirmed,
        }
    }

    /// Confirms the reservation by this payment.
    pub fn confirm(&mut self, payment_id: PaymentId) {
        self.state = Confirmed;
        self.payment_id = Some(payment_id);
    }

    /// Whether its fan may give it back now. A hold can always be given back; a ticket until the
    /// refund deadline of its show, or when the show is cancelled.
    ///
    /// # Errors
    /// `account_closing`, or `not_cancellable` with the `reason`: `ended`, or
    /// `refund_deadline` with `refund_until`.
    pub fn may_be_given_back(
        &self,
        show: Option<&Schedule>,
        now: Timestamp,
    ) -> Result<(), Problem> {
        let refused = |why: &str, detail| {
            Err(Problem::new(codes::NOT_CANCELLABLE, detail).with("reason", why))
        };
        match self.state {
            Expired | Cancelled => refused("ended", "The reservation has ended already."),
            Pending if self.is_due(now) => refused("ended", "The hold has run out."),
            Pending => Ok(()),
            // Giving it back would begin a refund.
            Confirmed if self.closing => Err(codes::ACCOUNT_CLOSING.into()),
            Confirmed => match show.and_then(|show| show.refunds_ended(now)) {
                None => Ok(()),
                Some(until) => {
                    let why = "The time in which tickets of this show can be given back is over.";
                    let problem = refused("refund_deadline", why);
                    problem.map_err(|problem| problem.with("refund_until", until.to_string()))
                }
            },
        }
    }

    /// The points to refund when it is cancelled for this reason.
    pub fn returns(&self, reason: CancelReason) -> i64 {
        match (self.payment_id, reason) {
            (None, _) | (_, CancelReason::Withdrawn) => 0,
            (Some(_), CancelReason::ByFan | CancelReason::ShowCancelled) => self.amount,
        }
    }

    /// What becomes of its money when it is cancelled for this reason.
    pub fn refund_after(&self, reason: CancelReason) -> Option<Refund> {
        self.payment_id.map(|_| match reason {
            CancelReason::Withdrawn => Refund::Forfeited,
            CancelReason::ByFan | CancelReason::ShowCancelled => Refund::Due,
        })
    }

    /// Whether it is a ticket for a show to come.
    pub fn is_ticket_for(&self, show: Option<&Schedule>, now: Timestamp) -> bool {
        let is_to_come = matches!(show, Some(Schedule::Open(terms)) if now < terms.starts_at);
        self.state == Confirmed && is_to_come
    }

    /// Why it blocks a withdrawal of its fan, if it does.
    pub fn at_stake(
        &self,
        show: Option<&Schedule>,
        forfeit: bool,
        now: Timestamp,
    ) -> Option<WithdrawalReason> {
        let is_called_off = matches!(show, Some(Schedule::Cancelling));
        if self.refund == Some(Refund::Due) || (self.state == Confirmed && is_called_off) {
            Some(WithdrawalReason::RefundDue)
        } else if self.is_ticket_for(show, now) && !forfeit {
            Some(WithdrawalReason::Tickets)
        } else {
            None
        }
    }

    /// The ids of its seats.
    pub fn seat_ids(&self) -> impl Iterator<Item = &SeatId> {
        self.seats.iter().map(|priced| &priced.seat)
    }

    /// What its fan sees.
    pub fn view(&self) -> View {
        View {
            reservation_id: self.id,
            schedule_id: self.schedule_id,
            user_id: self.user_id,
            state: self.state,
            seats: self.seats.clone(),
            amount: self.amount,
            created_at: self.created_at,
            expires_at: self.expires_at,
            payment_id: self.payment_id,
            reason: self.cancel_reason,
        }
    }
}

#[cfg(test)]
mod tests;
