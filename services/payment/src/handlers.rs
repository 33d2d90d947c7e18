//! One handler for each consumed event and each command.

use events::{
    PaymentId, codes,
    payment::{
        self, Pay, PaymentCompleted, PaymentFailed, PaymentHoldExtensionRequested, PaymentRefunded,
        PaymentRequested,
    },
    point::{PointDebitRefused, PointRefunded, RefundReason},
    reservation::{
        CancelReason, ReservationCancelled, ReservationConfirmRefused, ReservationConfirmed,
        ReservationCreated,
    },
};
use mesh::{Caller, Execute, Handle, HandleError, Refusal};

use crate::{
    Config, Keys, UnitOfWork,
    domain::{Hold, Outcome, Payment, Standing, may_pay},
    metrics::{DURATION, PAYMENTS, end_of},
};

type Context<'a> = mesh::Context<'a, Config>;

impl Execute<Pay> for UnitOfWork {
    fn keys(command: &Pay, caller: &Caller, keys: &mut Keys) {
        keys.holds.push(command.reservation_id.0);
        keys.live.push(command.reservation_id.0);
        keys.payers.extend(caller.user_id().map(|id| id.0));
    }

    fn execute(
        &mut self,
        command: &Pay,
        ctx: &mut Context<'_>,
    ) -> Result<payment::Payment, Refusal> {
        let fan = ctx.caller.user_id()?;
        let id = command.reservation_id;
        // A fan may pay before `reservation.created` has arrived here.
        let hold = self.hold(id).ok_or_else(|| Refusal::NotYet(codes::NOT_FOUND.into()))?;
        may_pay(hold, fan, self.live(id), ctx.now)?;
        if self.is_closing(fan) {
            return Err(Refusal::No(codes::ACCOUNT_CLOSING.into()));
        }
        ctx.concerns(hold.traceparent.as_deref());
        let is_urgent = hold.is_in_its_last_minute(ctx.now);
        let payment = Payment::of(hold, id, PaymentId(ctx.id), ctx.now);
        ctx.emit(PaymentRequested {
            payment_id: payment.id,
            reservation_id: id,
            schedule_id: payment.schedule_id,
            user_id: fan,
            amount: payment.amount,
            hold_version: payment.hold_version,
            requested_at: payment.requested_at,
        });
        if is_urgent {
            ctx.emit(PaymentHoldExtensionRequested {
                payment_id: payment.id,
                reservation_id: id,
                schedule_id: payment.schedule_id,
                user_id: fan,
                hold_version: payment.hold_version,
            });
        }
        let view = payment.to_view();
        self.add_payment(payment);
        Ok(view)
    }
}

impl Handle<ReservationCreated> for UnitOfWork {
    /// Loads nothing: if the hold is already known, this event adds nothing to it.
    fn keys(_: &ReservationCreated, _: &mut Keys) {}

    fn handle(
        &mut self,
        event: &ReservationCreated,
        ctx: &mut Context<'_>,
    ) -> Result<(), HandleError> {
        self.apply_hold(
            event.reservation_id,
            Hold {
                schedule_id: event.schedule_id,
                user_id: event.user_id,
                amount: event.amount,
                seats: event.seats.len() as u32,
                hold_version: event.hold_version,
                expires_at: event.expires_at,
                ended: false,
                is_off: false,
                traceparent: ctx.traceparent(),
            },
        );
        Ok(())
    }
}

impl Handle<ReservationConfirmed> for UnitOfWork {
    fn keys(event: &ReservationConfirmed, keys: &mut Keys) {
        keys.payments.push(event.payment_id.0);
    }

    fn handle(
        &mut self,
        event: &ReservationConfirmed,
        ctx: &mut Context<'_>,
    ) -> Result<(), HandleError> {
        self.advance(event.payment_id, Outcome::Confirmed, ctx)
    }
}

impl Handle<ReservationConfirmRefused> for UnitOfWork {
    fn keys(event: &ReservationConfirmRefused, keys: &mut Keys) {
        keys.holds.push(event.reservation_id.0);
        keys.payments.push(event.payment_id.0);
    }

    fn handle(
        &mut self,
        event: &ReservationConfirmRefused,
        ctx: &mut Context<'_>,
    ) -> Result<(), HandleError> {
        self.advance(event.payment_id, Outcome::ConfirmRefused, ctx)?;
        self.end_hold(event.reservation_id);
        Ok(())
    }
}

impl Handle<ReservationCancelled> for UnitOfWork {
    fn keys(event: &ReservationCancelled, keys: &mut Keys) {
        keys.holds.push(event.reservation_id.0);
    }

    /// The payment of a confirmed reservation changes only when `point.refunded` arrives.
    fn handle(
        &mut self,
        event: &ReservationCancelled,
        ctx: &mut Context<'_>,
    ) -> Result<(), HandleError> {
        let is_off = event.reason == CancelReason::ShowCancelled;
        let ended =
            Hold::ended(event.schedule_id, event.user_id, event.hold_version, is_off, ctx.now);
        self.apply_hold(event.reservation_id, ended);
        Ok(())
    }
}

impl Handle<PointDebitRefused> for UnitOfWork {
    fn keys(event: &PointDebitRefused, keys: &mut Keys) {
        keys.payments.push(event.payment_id.0);
    }

    fn handle(
        &mut self,
        event: &PointDebitRefused,
        ctx: &mut Context<'_>,
    ) -> Result<(), HandleError> {
        self.advance(event.payment_id, Outcome::DebitRefused(event.reason), ctx)
    }
}

impl Handle<PointRefunded> for UnitOfWork {
    fn keys(event: &PointRefunded, keys: &mut Keys) {
        keys.payments.push(event.payment_id.0);
    }

    fn handle(&mut self, event: &PointRefunded, ctx: &mut Context<'_>) -> Result<(), HandleError> {
        let outcome = match (event.reason, event.because) {
            (RefundReason::HoldGone, Some(CancelReason::ShowCancelled)) => Outcome::ShowCancelled,
            (reason, _) => Outcome::Refunded(reason),
        };
        self.advance(event.payment_id, outcome, ctx)
    }
}

impl UnitOfWork {
    /// Applies an outcome to a payment, and emits the payment's end when that ends it.
    fn advance(
        &mut self,
        id: PaymentId,
        outcome: Outcome,
        ctx: &mut Context<'_>,
    ) -> Result<(), HandleError> {
        let payment = self.payment_mut(id).ok_or(HandleError::NotYet("this payment"))?;
        if payment.apply(outcome, ctx.now)? {
            emit_end(payment, ctx);
        }
        Ok(())
    }
}

fn emit_end(payment: &Payment, ctx: &mut Context<'_>) {
    let Payment {
        id: payment_id,
        reservation_id,
        schedule_id,
        user_id,
        amount,
        seats,
        requested_at,
        ..
    } = *payment;
    let ended_at = ctx.now;
    match payment.standing {
        Standing::Completed => ctx.ends_saga("completed", None),
        Standing::Failed(reason) => {
            ctx.ends_saga(reason.outcome().as_str(), Some(reason.as_str()));
        }
        // A cancelled show undoes the payment in the payment's own saga; a fan's cancellation is
        // a saga of its own, which is complete.
        Standing::Refunded if ctx.saga_id().0 == payment_id.0 => {
            ctx.ends_saga("compensated", Some("show_cancelled"));
        }
        Standing::Refunded => ctx.ends_saga("completed", None),
        Standing::Requested | Standing::Unwinding => {}
    }
    if let Some((outcome, reason)) = end_of(payment.standing) {
        let millis = (ended_at.unix_millis() - requested_at.unix_millis()).max(0);
        ctx.count(&PAYMENTS, &[outcome, reason]);
        ctx.measure(&DURATION, &[outcome], millis as f64 / 1_000.0);
    }
    match payment.standing {
        Standing::Completed => ctx.emit(PaymentCompleted {
            payment_id,
            reservation_id,
            schedule_id,
            user_id,
            amount,
            seats,
            requested_at,
            ended_at,
        }),
        Standing::Failed(reason) => ctx.emit(PaymentFailed {
            payment_id,
            reservation_id,
            schedule_id,
            user_id,
            amount,
            reason,
            requested_at,
            ended_at,
        }),
        Standing::Refunded => ctx.emit(PaymentRefunded {
            payment_id,
            reservation_id,
            schedule_id,
            user_id,
            amount,
            seats,
            requested_at,
            ended_at,
        }),
        Standing::Requested | Standing::Unwinding => {}
    }
}

#[cfg(test)]
mod tests;
