//! One handler for each consumed event and each command.

use events::{
    Command, PaymentId, Problem, ReservationId, SagaId, ScheduleId, SeatId, UserId, codes,
    concert::{ScheduleCancelled, ScheduleOpened},
    payment::{PaymentHoldExtensionRequested, PaymentRefunded},
    point::PointDebited,
    queue::QueueExpired,
    reservation::{
        Cancel, CancelReason, ConfirmRefusal, Reservation as View, ReservationCancelled,
        ReservationConfirmRefused, ReservationConfirmed, ReservationCreated, ReservationExpired,
        ReservationState,
    },
};
use mesh::{Caller, Execute, Handle, HandleError, Refusal};
use serde::{Deserialize, Serialize};

use crate::{
    Config,
    domain::{
        self, Claim, HoldRequest, Pass, Place, Refund, Reservation, SEATS_PER_REQUEST_MAX,
        Schedule, Seat, Settled, Terms,
    },
    unit_of_work::{Keys, UnitOfWork},
};

type Context<'a> = mesh::Context<'a, Config>;

impl Handle<ScheduleOpened> for UnitOfWork {
    fn keys(event: &ScheduleOpened, keys: &mut Keys) {
        keys.changing.insert(event.schedule_id);
    }

    fn handle(
        &mut self,
        event: &ScheduleOpened,
        _ctx: &mut Context<'_>,
    ) -> Result<(), HandleError> {
        // The schedule is known, or its cancellation came first: nothing to do in either case.
        if self.schedules.contains(&event.schedule_id) {
            return Ok(());
        }
        let terms = Terms {
            opens_at: event.opens_at,
            starts_at: event.starts_at,
            refund_until: event.refund_until.unwrap_or(event.starts_at),
            hold_secs: event.hold_secs,
            seats_per_fan_max: event.seats_per_fan_max,
        };
        let seats = event
            .seats
            .iter()
            .flat_map(|block| block.ids().map(|seat| (seat, Seat::new(block.price))));
        self.open(event.schedule_id, Schedule::Open(terms), seats);
        Ok(())
    }
}

impl Handle<ScheduleCancelled> for UnitOfWork {
    fn keys(event: &ScheduleCancelled, keys: &mut Keys) {
        keys.changing.insert(event.schedule_id);
    }

    /// Marks only the schedule. Its reservations may be thousands; they are cancelled in
    /// batches of their own.
    fn handle(
        &mut self,
        event: &ScheduleCancelled,
        _ctx: &mut Context<'_>,
    ) -> Result<(), HandleError> {
        let known = self.schedules.get(&event.schedule_id);
        if let Some(state) = Schedule::schedule_cancelled(known) {
            self.schedules.put(event.schedule_id, state);
        }
        Ok(())
    }
}

impl Handle<QueueExpired> for UnitOfWork {
    fn keys(event: &QueueExpired, keys: &mut Keys) {
        keys.places.insert((event.schedule_id, event.user_id));
    }

    /// The fan may not reserve any more. A hold that exists stays until its own end.
    fn handle(&mut self, event: &QueueExpired, _ctx: &mut Context<'_>) -> Result<(), HandleError> {
        let place = Place { ended_version: event.place_version };
        self.apply_place((event.schedule_id, event.user_id), place);
        Ok(())
    }
}

impl Handle<PaymentHoldExtensionRequested> for UnitOfWork {
    fn keys(event: &PaymentHoldExtensionRequested, keys: &mut Keys) {
        keys.reservations.insert(event.reservation_id);
    }

    /// A hold that has ended, or has another owner, is not extended; its payment is refused
    /// when the debit arrives.
    fn handle(
        &mut self,
        event: &PaymentHoldExtensionRequested,
        ctx: &mut Context<'_>,
    ) -> Result<(), HandleError> {
        let grace_secs = ctx.config.grace_secs;
        if let Some(row) = self.reservations.change(&event.reservation_id)
            && let Some(end) = row.extension(event.user_id, event.hold_version, grace_secs, ctx.now)
        {
            row.extend(end);
        }
        Ok(())
    }
}

impl Handle<PointDebited> for UnitOfWork {
    fn keys(event: &PointDebited, keys: &mut Keys) {
        keys.reservations.insert(event.reservation_id);
    }

    /// Confirms the reservation, or refuses the payment. The sweep may be about to expire this
    /// hold in another batch: the batch that locks the row first decides, and the other one
    /// finds the decision.
    fn handle(&mut self, event: &PointDebited, ctx: &mut Context<'_>) -> Result<(), HandleError> {
        let Some(row) = self.reservations.change(&event.reservation_id) else {
            if ctx.attempt < ctx.config.unknown_tries_max {
                return Err(HandleError::NotYet("the reservation"));
            }
            ctx.emit(refused(event, ConfirmRefusal::Expired));
            return Ok(());
        };
        let claim = Claim {
            user_id: event.user_id,
            hold_version: event.hold_version,
            amount: event.amount,
        };
        match row.settle(event.payment_id, &claim, ctx.now) {
            Settled::Before => {}
            Settled::Refused(reason) => ctx.emit(refused(event, reason)),
            Settled::Undecided => return Err(HandleError::NotYet("the end of a withdrawal")),
            Settled::Confirmed => {
                row.confirm(event.payment_id);
                ctx.emit(confirmed(row, event.payment_id));
                self.note_paid(event.reservation_id);
            }
            Settled::Lapsed => {
                // The seats are not loaded, because the clock was set back in between; the
                // sweep expires the hold first.
                if !self.has_seats_of(event.reservation_id) {
                    return Err(HandleError::NotYet("the end of the hold"));
                }
                self.expire(event.reservation_id, ctx);
                ctx.emit(refused(event, ConfirmRefusal::Expired));
            }
        }
        Ok(())
    }
}

impl Handle<PaymentRefunded> for UnitOfWork {
    fn keys(event: &PaymentRefunded, keys: &mut Keys) {
        keys.reservations.insert(event.reservation_id);
    }

    /// The refund of a cancellation is complete: it no longer blocks a withdrawal.
    fn handle(
        &mut self,
        event: &PaymentRefunded,
        _ctx: &mut Context<'_>,
    ) -> Result<(), HandleError> {
        if let Some(row) = self.reservations.change(&event.reservation_id)
            && row.refund == Some(Refund::Due)
        {
            row.refund = Some(Refund::Made);
        }
        Ok(())
    }
}

/// Hold seats with a verified pass: what [`events::reservation::Reserve`] becomes once the
/// signature of its pass is checked.
#[derive(Debug, Serialize, Deserialize)]
pub struct Hold {
    /// The schedule of the seats.
    pub schedule_id: ScheduleId,
    /// The seats.
    pub seats: Vec<SeatId>,
    /// What the pass grants; `None` when it is not valid.
    pub pass: Option<Pass>,
    /// The pass was valid once. The refusal then says what has become of the sale.
    #[serde(default)]
    pub is_late: bool,
}

impl Command for Hold {
    const ENDPOINT: &'static str = "reservation.hold";
    const STATUS: u16 = 201;
    type Reply = View;
}

/// `live.reservation.refused.<schedule>`: a hold was refused.
#[derive(Debug, Serialize, Deserialize)]
pub struct HoldRefused {
    /// The fan who asked for it.
    pub user_id: UserId,
    /// The problem's code.
    pub code: String,
    /// The seats that caused the refusal, or the requested ones.
    pub seats: Vec<SeatId>,
}

impl Hold {
    /// The checks that need no loaded state.
    fn admissible(&self, user_id: UserId) -> Result<&Pass, Problem> {
        domain::well_formed(&self.seats)?;
        let why = match self.is_late {
            true => "The pass has run out; enter the waiting room again.",
            false => "The pass is not valid for this fan and schedule.",
        };
        self.pass
            .as_ref()
            .filter(|pass| pass.is_for(user_id, self.schedule_id))
            .ok_or_else(|| domain::not_active(why))
    }
}

impl Execute<Hold> for UnitOfWork {
    /// A request that fails those checks locks nothing.
    fn keys(command: &Hold, caller: &Caller, keys: &mut Keys) {
        let Ok(user_id) = caller.user_id() else { return };
        if command.admissible(user_id).is_ok() {
            keys.selling.insert(command.schedule_id);
            keys.buyers.insert((command.schedule_id, user_id));
            let seats = command.seats.iter().flat_map(SeatId::readings);
            keys.seats.extend(seats.map(|seat| (command.schedule_id, seat)));
        } else if command.is_late {
            keys.selling.insert(command.schedule_id);
        }
    }

    fn execute(&mut self, command: &Hold, ctx: &mut Context<'_>) -> Result<View, Refusal> {
        let user_id = ctx.caller.user_id()?;
        let mut hold = self.hold(command, user_id, ctx).inspect_err(|refusal| {
            if let Refusal::No(problem) = refusal {
                announce_refused(command, user_id, problem, ctx);
            }
        })?;
        ctx.emit(created(&hold));
        ctx.ends_saga("completed", None);
        hold.traceparent = ctx.traceparent();
        let view = hold.view();
        self.grant(hold);
        Ok(view)
    }
}

impl Execute<Cancel> for UnitOfWork {
    fn keys(command: &Cancel, _caller: &Caller, keys: &mut Keys) {
        keys.ending.insert(command.reservation_id);
        keys.returning.insert(command.reservation_id);
    }

    fn execute(&mut self, command: &Cancel, ctx: &mut Context<'_>) -> Result<View, Refusal> {
        let user_id = ctx.caller.user_id()?;
        let is_own = |row: &&Reservation| row.user_id == user_id;
        let own = self.reservations.get(&command.reservation_id).filter(is_own);
        let row = own.ok_or_else(|| Problem::from(codes::NOT_FOUND))?;
        row.may_be_given_back(self.schedules.get(&row.schedule_id), ctx.now)?;
        ctx.concerns(row.traceparent.as_deref());
        let cancelled = self
            .cancel(command.reservation_id, CancelReason::ByFan)
            .ok_or_else(|| Problem::from(codes::NOT_CANCELLABLE))?;
        // The saga of a ticket goes on until the points are back.
        if cancelled.payment_id.is_none() {
            ctx.ends_saga("completed", None);
        }
        ctx.emit(cancelled);
        Ok(self.reservations[&command.reservation_id].view())
    }
}

impl UnitOfWork {
    /// Decides a hold. The checks come in the order of their codes in the documentation.
    fn hold(
        &self,
        command: &Hold,
        user_id: UserId,
        ctx: &Context<'_>,
    ) -> Result<Reservation, Refusal> {
        let Hold { schedule_id, .. } = command;
        domain::well_formed(&command.seats)?;
        let schedule = self.schedules.get(schedule_id);
        // The state of the sale is checked first: when the sale has ended, that is why the
        // place has ended too.
        if let Some(schedule) = schedule {
            schedule.on_sale(ctx.now)?;
        }
        let pass = command.admissible(user_id)?;
        pass.admit(&self.place(*schedule_id, user_id), ctx.now)?;
        let bought = self.bought(*schedule_id, user_id);
        if domain::is_used_up(bought.clone(), pass.place_version, ctx.now) {
            let why = "The place was used up by a payment; enter the waiting room again.";
            return Err(domain::not_active(why).into());
        }
        if self.is_closing(user_id) {
            return Err(Problem::from(codes::ACCOUNT_CLOSING).into());
        }
        // A valid pass proves that the schedule was opened: its event is on the way.
        let terms = schedule.ok_or_else(|| Refusal::NotYet(codes::NOT_FOUND.into()))?;
        let terms = terms.on_sale(ctx.now)?;
        let requested: Vec<SeatId> =
            command.seats.iter().map(|seat| self.resolve(*schedule_id, seat)).collect();
        // Two spellings of one seat name it twice.
        domain::well_formed(&requested)?;
        let free = domain::free_seats(&requested, |seat| self.seat(*schedule_id, seat))?;
        domain::within_limit(bought.map(|it| it.seats).sum(), requested.len(), terms)?;
        let request = HoldRequest {
            id: ReservationId(ctx.id),
            schedule_id: *schedule_id,
            user_id,
            place_version: pass.place_version,
        };
        let seats = requested.into_iter().zip(free.into_iter().copied());
        Ok(Reservation::hold(request, seats, terms, ctx.config.grace_secs, ctx.now))
    }

    /// The existing seat that the requested name stands for; the name itself when there is none.
    fn resolve(&self, schedule_id: ScheduleId, requested: &SeatId) -> SeatId {
        let exists = |seat: &SeatId| self.seat(schedule_id, seat).is_some();
        requested.readings().into_iter().find(exists).unwrap_or_else(|| requested.clone())
    }

    /// Expires a hold whose time is up, in the saga of the hold itself.
    pub(crate) fn expire(&mut self, id: ReservationId, ctx: &mut Context<'_>) {
        let Some(row) = self.reservations.get(&id).filter(|row| row.is_due(ctx.now)) else {
            return;
        };
        ctx.emit_in(SagaId(id.0), expired(row));
        ctx.ends_saga_of(SagaId(id.0), "compensated", Some("expired"));
        ctx.concerns(row.traceparent.as_deref());
        self.end(id, ReservationState::Expired);
    }

    /// Cancels a hold or a confirmed reservation, and returns the event to emit; `None` when
    /// it had ended before.
    pub(crate) fn cancel(
        &mut self,
        id: ReservationId,
        reason: CancelReason,
    ) -> Option<ReservationCancelled> {
        let row = self.reservations.change(&id).filter(|row| row.owns())?;
        let event = cancelled(row, reason);
        let refund = row.refund_after(reason);
        (row.refund, row.cancel_reason) = (refund, Some(reason));
        self.end(id, ReservationState::Cancelled);
        Some(event)
    }
}

fn announce_refused(command: &Hold, user_id: UserId, problem: &Problem, ctx: &mut Context<'_>) {
    let in_the_way = problem.extra.get("seats").cloned();
    let seats = in_the_way
        .and_then(|seats| serde_json::from_value(seats).ok())
        .unwrap_or_else(|| command.seats.iter().take(SEATS_PER_REQUEST_MAX).cloned().collect());
    let refused = HoldRefused { user_id, code: problem.code.clone(), seats };
    ctx.announce("reservation.refused", command.schedule_id.0, &refused);
}

fn names(reservation: &Reservation) -> Vec<SeatId> {
    reservation.seat_ids().cloned().collect()
}

fn created(hold: &Reservation) -> ReservationCreated {
    ReservationCreated {
        reservation_id: hold.id,
        schedule_id: hold.schedule_id,
        user_id: hold.user_id,
        seats: hold.seats.clone(),
        amount: hold.amount,
        hold_version: hold.hold_version,
        expires_at: hold.expires_at,
        hard_cap_at: hold.hard_cap_at,
    }
}

fn confirmed(reservation: &Reservation, payment_id: PaymentId) -> ReservationConfirmed {
    ReservationConfirmed {
        reservation_id: reservation.id,
        schedule_id: reservation.schedule_id,
        user_id: reservation.user_id,
        payment_id,
        seats: names(reservation),
        amount: reservation.amount,
        hold_version: reservation.hold_version,
    }
}

/// The money always goes back to the payer named in the debit, whatever is known here.
fn refused(event: &PointDebited, reason: ConfirmRefusal) -> ReservationConfirmRefused {
    ReservationConfirmRefused {
        reservation_id: event.reservation_id,
        schedule_id: event.schedule_id,
        user_id: event.user_id,
        payment_id: event.payment_id,
        amount: event.amount,
        reason,
    }
}

fn expired(hold: &Reservation) -> ReservationExpired {
    ReservationExpired {
        reservation_id: hold.id,
        schedule_id: hold.schedule_id,
        user_id: hold.user_id,
        seats: names(hold),
        hold_version: hold.hold_version,
    }
}

fn cancelled(reservation: &Reservation, reason: CancelReason) -> ReservationCancelled {
    ReservationCancelled {
        reservation_id: reservation.id,
        schedule_id: reservation.schedule_id,
        user_id: reservation.user_id,
        seats: names(reservation),
        hold_version: reservation.hold_version,
        reason,
        payment_id: reservation.payment_id,
        refund: reservation.returns(reason),
    }
}
