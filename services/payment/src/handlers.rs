//! One entry per fact heard and per command answered.

use events::{
    PaymentId, ScheduleId, UserId, codes,
    payment::{self, Pay, PaymentCompleted, PaymentFailed, PaymentRefunded, PaymentRequested},
    point::{PointDebitRefused, PointRefunded},
    queue::{QueueActivated, QueueExpired},
    reservation::{
        ReservationCancelled, ReservationConfirmRefused, ReservationConfirmed, ReservationCreated,
        ReservationExpired,
    },
};
use mesh::{Answer, Caller, Hear, Miss, Refusal};

use crate::{
    Book, Keys, Rules,
    domain::{Hold, News, Payment, Place, Standing, may_pay},
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
        may_pay(hold, fan, self.place(hold.schedule_id, fan), self.live(id))?;
        if self.is_closing(fan) {
            return Err(Refusal::No(codes::ACCOUNT_CLOSING.into()));
        }
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
                ended: false,
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

impl Hear<ReservationExpired> for Book {
    fn keys(fact: &ReservationExpired, keys: &mut Keys) {
        keys.holds.push(fact.reservation_id.0);
    }

    fn hear(&mut self, fact: &ReservationExpired, _: &mut Turn<'_>) -> Result<(), Miss> {
        let ended = ended(fact.schedule_id, fact.user_id, fact.hold_version);
        self.hear_hold(fact.reservation_id, ended);
        Ok(())
    }
}

impl Hear<ReservationCancelled> for Book {
    fn keys(fact: &ReservationCancelled, keys: &mut Keys) {
        keys.holds.push(fact.reservation_id.0);
    }

    /// The payment of a confirmed reservation is not touched before its money is back.
    fn hear(&mut self, fact: &ReservationCancelled, _: &mut Turn<'_>) -> Result<(), Miss> {
        let ended = ended(fact.schedule_id, fact.user_id, fact.hold_version);
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
        self.advance(fact.payment_id, News::Refunded(fact.reason), turn)
    }
}

impl Hear<QueueActivated> for Book {
    fn keys(_: &QueueActivated, _: &mut Keys) {}

    fn hear(&mut self, fact: &QueueActivated, _: &mut Turn<'_>) -> Result<(), Miss> {
        let place = place(fact.place_version, true)?;
        self.hear_place(fact.schedule_id, fact.user_id, place);
        Ok(())
    }
}

impl Hear<QueueExpired> for Book {
    fn keys(_: &QueueExpired, _: &mut Keys) {}

    /// Whatever ended the place, the fan is not ACTIVE until a newer activation.
    fn hear(&mut self, fact: &QueueExpired, _: &mut Turn<'_>) -> Result<(), Miss> {
        let place = place(fact.place_version, false)?;
        self.hear_place(fact.schedule_id, fact.user_id, place);
        Ok(())
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

/// A hold of which only the end is told; nobody will pay it, so its price does not matter.
fn ended(schedule_id: ScheduleId, user_id: UserId, hold_version: i64) -> Hold {
    Hold { schedule_id, user_id, amount: 0, seats: 0, hold_version, ended: true }
}

fn place(version: u64, active: bool) -> Result<Place, Miss> {
    let place_version = i64::try_from(version)
        .map_err(|_| Miss::Never(format!("place version {version} is out of range")))?;
    Ok(Place { place_version, active })
}

#[cfg(test)]
mod tests;
