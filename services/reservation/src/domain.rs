//! Who owns a seat: states and decisions, without clock, storage or chance.

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

/// Seats in one request at most; no schedule allows a fan more.
pub const SEATS_PER_REQUEST_MAX: usize = 100;

/// A seat and its owner. There is room for one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seat {
    /// Points.
    pub price: i64,
    /// Who holds or owns it.
    pub owner: Option<ReservationId>,
    /// That of the last owner; the next one's is higher.
    pub hold_version: i64,
}

impl Seat {
    /// A seat that nobody ever owned.
    pub fn new(price: i64) -> Self {
        Self { price, owner: None, hold_version: 0 }
    }

    /// Whether this very reservation, and not a later owner, has the seat.
    pub fn belongs_to(&self, reservation: &Reservation) -> bool {
        self.owner == Some(reservation.id) && self.hold_version == reservation.hold_version
    }
}

/// What is known of a fan's place in the waiting room: up to which version it has ended.
/// That it was admitted is what a pass says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// Of the latest end heard; 0 when none was. Every earlier pass is void.
    pub ended_version: u64,
}

impl Place {
    /// A place whose end was not heard of: the pass alone speaks for it.
    pub const UNCONSUMED: Self = Self { ended_version: 0 };

    /// Whether this is later news than `known`.
    pub fn is_newer_than(&self, known: &Self) -> bool {
        self.ended_version > known.ended_version
    }
}

/// The right to reserve, as the waiting room signed it.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Pass {
    /// Whose.
    pub user_id: UserId,
    /// For which room.
    pub schedule_id: ScheduleId,
    /// The place it was issued for.
    pub place_version: u64,
    /// Until when it lets reserve.
    pub reserve_until: Timestamp,
}

impl Pass {
    /// Whether it was issued to this fan for this room.
    pub fn is_for(&self, user_id: UserId, schedule_id: ScheduleId) -> bool {
        self.user_id == user_id && self.schedule_id == schedule_id
    }

    /// Lets the fan reserve now.
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

/// A hold or a purchase of a fan, as far as it tells whether a place is used up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bought {
    /// Seats that the fan has by it.
    pub seats: usize,
    /// The end of a hold; `None` for what is none any more.
    pub holds_until: Option<Timestamp>,
    /// The place under which it was made.
    pub place_version: u64,
    /// Whether it was ever paid.
    pub is_paid: bool,
}

/// Whether the place behind a pass is used up: something was paid under it, and no hold of the
/// fan lives. The waiting room comes to the same, a moment later.
pub fn is_used_up<'a>(
    mut bought: impl Iterator<Item = &'a Bought> + Clone,
    place_version: u64,
    now: Timestamp,
) -> bool {
    let holds = bought.clone().any(|it| it.holds_until.is_some_and(|end| now < end));
    !holds && bought.any(|it| it.is_paid && it.place_version >= place_version)
}

/// Nobody may act who was not admitted.
pub fn not_active(why: &str) -> Problem {
    Problem::new(codes::NOT_ACTIVE, why)
}

/// A seat as somebody asks for it, in the form in which its name is kept.
pub fn asked_for(seat: &SeatId) -> SeatId {
    SeatId(text::same_name(&seat.0))
}

/// Whether seats can be asked for like this at all.
///
/// # Errors
/// `invalid` for none, too many, one seat twice, or what no seat can be called.
pub fn well_formed(seats: &[SeatId]) -> Result<(), Problem> {
    let invalid = |field: &str, what: String| Err(Problem::about(codes::INVALID, field, what));
    if !(1..=SEATS_PER_REQUEST_MAX).contains(&seats.len()) {
        let what = format!("must name 1 to {SEATS_PER_REQUEST_MAX} seats, not {}", seats.len());
        return invalid("seats", what);
    }
    // Also because PostgreSQL knows no NUL: it would refuse the whole batch.
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

/// The seats asked for, when all of them exist and are free.
///
/// # Errors
/// `unknown_seat` or `seat_taken`, with `seats`: those in the way.
pub fn free_seats<'a>(
    asked: &[SeatId],
    seat_of: impl Fn(&SeatId) -> Option<&'a Seat>,
) -> Result<Vec<&'a Seat>, Problem> {
    let mut free = Vec::with_capacity(asked.len());
    let (mut unknown, mut taken) = (Vec::new(), Vec::new());
    for id in asked {
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
    /// Who paid.
    pub user_id: UserId,
    /// Which owner of the seats that was.
    pub hold_version: i64,
    /// Points that were taken.
    pub amount: i64,
}

/// What became of a payment's claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settled {
    /// The seats are the fan's.
    Confirmed,
    /// This payment had confirmed it before; whatever followed took its own course.
    Before,
    /// Its time is up, though nobody has noticed: it is to be expired now.
    Lapsed,
    /// It has ended, or the claim is not its owner's.
    Refused(ConfirmRefusal),
    /// The fan may be leaving: it is decided when that is.
    Undecided,
}

/// What becomes of the money of a paid reservation that was cancelled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refund {
    /// It is on its way back.
    Due,
    /// It is back.
    Made,
    /// It was given up with the account.
    Forfeited,
}

/// A fan's claim on one or more seats.
#[derive(Debug, Clone, PartialEq)]
pub struct Reservation {
    /// Its id.
    pub id: ReservationId,
    /// Whose seats.
    pub schedule_id: ScheduleId,
    /// Whose reservation.
    pub user_id: UserId,
    /// Where it stands.
    pub state: ReservationState,
    /// What it covers.
    pub seats: Vec<PricedSeat>,
    /// Sum of the prices.
    pub amount: i64,
    /// The fence that every later step presents.
    pub hold_version: i64,
    /// When the hold was made.
    pub created_at: Timestamp,
    /// When the hold runs out.
    pub expires_at: Timestamp,
    /// Beyond which no extension goes.
    pub hard_cap_at: Timestamp,
    /// Whether its end was moved once already.
    pub extended: bool,
    /// The payment that confirmed it.
    pub payment_id: Option<PaymentId>,
    /// The fan may be leaving: it is neither confirmed nor given back meanwhile.
    pub closing: bool,
    /// What becomes of its money, once it was paid and cancelled.
    pub refund: Option<Refund>,
    /// The place whose pass it was made with.
    pub place_version: u64,
    /// Why it was cancelled, once it was.
    pub cancel_reason: Option<CancelReason>,
}

/// Who asks for a hold, and of what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MeshClient {
    /// The id for the reservation.
    pub id: ReservationId,
    /// Whose seats.
    pub schedule_id: ScheduleId,
    /// For whom.
    pub user_id: UserId,
    /// By the pass of which place.
    pub place_version: u64,
}

impl Reservation {
    /// A new hold of seats that were found free. Its version is higher than that of any
    /// former owner of any of them. It ends when the show begins, at the latest: a payment that
    /// has begun by then may still take its grace.
    pub fn hold(
        client: MeshClient,
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
            id: client.id,
            schedule_id: client.schedule_id,
            user_id: client.user_id,
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
            place_version: client.place_version,
            cancel_reason: None,
        }
    }

    /// Whether it has its seats.
    pub fn owns(&self) -> bool {
        matches!(self.state, Pending | Confirmed)
    }

    /// Whether its time is up, noticed or not.
    pub fn is_due(&self, now: Timestamp) -> bool {
        self.state == Pending && now >= self.expires_at
    }

    fn honours(&self, claim: &Claim) -> bool {
        self.user_id == claim.user_id
            && self.hold_version == claim.hold_version
            && self.amount == claim.amount
    }

    /// A payment of this hold has begun in its last minute: where its end moves to, once, so
    /// that a slow payment does not lose the seat. `None` for a hold that has ended, is another
    /// owner's, or was moved before; and while its end is far enough away, when the one move
    /// is kept for later.
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

    /// Moves its end, for the only time.
    pub fn extend(&mut self, end: Timestamp) {
        self.expires_at = end;
        self.extended = true;
    }

    /// What becomes of a payment's claim, now that its money was taken.
    pub fn settle(&self, payment_id: PaymentId, claim: &Claim, now: Timestamp) -> Settled {
        // Also after a cancellation: that one returns the money, not this repeat.
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

    /// The seats are the fan's, by this payment.
    pub fn confirm(&mut self, payment_id: PaymentId) {
        self.state = Confirmed;
        self.payment_id = Some(payment_id);
    }

    /// Whether its fan may give it back now. A hold can always be given back; a ticket until the
    /// deadline of its show, or when the show is off.
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
            // It would begin a refund.
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

    /// Points to return when it is cancelled for this reason.
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

    /// What of it stands in the way of a fan who wants to leave.
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

    /// Which seats it covers.
    pub fn seat_ids(&self) -> impl Iterator<Item = &SeatId> {
        self.seats.iter().map(|priced| &priced.seat)
    }

    /// What its fan sees of it.
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
