//! One entry per fact heard and per command answered.

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
use mesh::{Answer, Caller, Hear, Miss, Refusal};

use crate::{
    Book, Keys, Rules,
    domain::{Hold, News, Payment, Standing, may_pay},
    rows::reason_name,
};

type Turn<'a> = mesh::Turn<'a, Rules>;

impl Answer<Pay> for Book {
    fn keys(command: &Pay, caller: &Caller, keys: &mut Keys) {
        keys.holds.push(command.reservation_id.0);
        keys.live.push(command.reservation_id.0);
        keys.payers.extend(caller.user_id().map(|id| id.0));
    }

    fn answer(&mut self, command: &Pay, turn: &mut Turn<'_>) -> Result<payment::Payment, Refusal> {
        let fan = turn.caller.user_id()?;
        let id = command.reservation_id;
        // A fan may ask before `reservation.created` has come here; it is on its way.
        let hold = self.hold(id).ok_or_else(|| Refusal::NotYet(codes::NOT_FOUND.into()))?;
        may_pay(hold, fan, self.live(id), turn.now)?;
        if self.is_closing(fan) {
            return Err(Refusal::No(codes::ACCOUNT_CLOSING.into()));
        }
        let is_urgent = hold.is_in_its_last_minute(turn.now);
        let payment = Payment::of(hold, id, PaymentId(turn.id), turn.now);
        turn.tell(PaymentRequested {
            payment_id: payment.id,
            reservation_id: id,
            schedule_id: payment.schedule_id,
            user_id: fan,
            amount: payment.amount,
            hold_version: payment.hold_version,
            requested_at: payment.requested_at,
        });
        if is_urgent {
            turn.tell(PaymentHoldExtensionRequested {
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

impl Hear<ReservationCreated> for Book {
    /// Nothing is loaded for it: if the hold is known, it cannot say more.
    fn keys(_: &ReservationCreated, _: &mut Keys) {}

    fn hear(&mut self, fact: &ReservationCreated, _: &mut Turn<'_>) -> Result<(), Miss> {
        self.hear_hold(
            fact.reservation_id,
            Hold {
                schedule_id: fact.schedule_id,
                user_id: fact.user_id,
                amount: fact.amount,
                seats: fact.seats.len() as u32,
                hold_version: fact.hold_version,
                expires_at: fact.expires_at,
                ended: false,
                is_off: false,
            },
        );
        Ok(())
    }
}

impl Hear<ReservationConfirmed> for Book {
    fn keys(fact: &ReservationConfirmed, keys: &mut Keys) {
        keys.payments.push(fact.payment_id.0);
    }

    fn hear(&mut self, fact: &ReservationConfirmed, turn: &mut Turn<'_>) -> Result<(), Miss> {
        self.advance(fact.payment_id, News::Confirmed, turn)
    }
}

impl Hear<ReservationConfirmRefused> for Book {
    fn keys(fact: &ReservationConfirmRefused, keys: &mut Keys) {
        keys.holds.push(fact.reservation_id.0);
        keys.payments.push(fact.payment_id.0);
    }

    fn hear(&mut self, fact: &ReservationConfirmRefused, turn: &mut Turn<'_>) -> Result<(), Miss> {
        self.advance(fact.payment_id, News::ConfirmRefused, turn)?;
        self.end_hold(fact.reservation_id);
        Ok(())
    }
}

impl Hear<ReservationCancelled> for Book {
    fn keys(fact: &ReservationCancelled, keys: &mut Keys) {
        keys.holds.push(fact.reservation_id.0);
    }

    /// The payment of a confirmed reservation is not touched before its money is back.
    fn hear(&mut self, fact: &ReservationCancelled, turn: &mut Turn<'_>) -> Result<(), Miss> {
        let is_off = fact.reason == CancelReason::ShowCancelled;
        let ended =
            Hold::ended(fact.schedule_id, fact.user_id, fact.hold_version, is_off, turn.now);
        self.hear_hold(fact.reservation_id, ended);
        Ok(())
    }
}

impl Hear<PointDebitRefused> for Book {
    fn keys(fact: &PointDebitRefused, keys: &mut Keys) {
        keys.payments.push(fact.payment_id.0);
    }

    fn hear(&mut self, fact: &PointDebitRefused, turn: &mut Turn<'_>) -> Result<(), Miss> {
        self.advance(fact.payment_id, News::DebitRefused(fact.reason), turn)
    }
}

impl Hear<PointRefunded> for Book {
    fn keys(fact: &PointRefunded, keys: &mut Keys) {
        keys.payments.push(fact.payment_id.0);
    }

    fn hear(&mut self, fact: &PointRefunded, turn: &mut Turn<'_>) -> Result<(), Miss> {
        let news = match (fact.reason, fact.because) {
            (RefundReason::HoldGone, Some(CancelReason::ShowCancelled)) => News::ShowCancelled,
            (reason, _) => News::Refunded(reason),
        };
        self.advance(fact.payment_id, news, turn)
    }
}

impl Book {
    /// Moves a payment on, and tells of its end.
    fn advance(&mut self, id: PaymentId, news: News, turn: &mut Turn<'_>) -> Result<(), Miss> {
        let payment = self.payment_mut(id).ok_or(Miss::NotYet("this payment"))?;
        if payment.hear(news, turn.now)? {
            tell_end(payment, turn);
        }
        Ok(())
    }
}

fn tell_end(payment: &Payment, turn: &mut Turn<'_>) {
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
    let ended_at = turn.now;
    match payment.standing {
        Standing::Completed => turn.ends_saga("completed", None),
        Standing::Failed(reason) => turn.ends_saga("failed", Some(reason_name(reason))),
        Standing::Refunded => turn.ends_saga("refunded", None),
        Standing::Requested | Standing::Unwinding => {}
    }
    match payment.standing {
        Standing::Completed => turn.tell(PaymentCompleted {
            payment_id,
            reservation_id,
            schedule_id,
            user_id,
            amount,
            seats,
            requested_at,
            ended_at,
        }),
        Standing::Failed(reason) => turn.tell(PaymentFailed {
            payment_id,
            reservation_id,
            schedule_id,
            user_id,
            amount,
            reason,
            requested_at,
            ended_at,
        }),
        Standing::Refunded => turn.tell(PaymentRefunded {
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
