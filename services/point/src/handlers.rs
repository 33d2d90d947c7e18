//! One entry per fact heard and per command answered.

use events::{
    EntryId, PaymentId, ScheduleId, UserId, codes,
    payment::PaymentRequested,
    point::{
        self, Charge, DebitRefusal, EntryKind, PointCharged, PointDebitRefused, PointDebited,
        PointRefunded, RefundReason,
    },
    reservation::{CancelReason, ConfirmRefusal, ReservationCancelled, ReservationConfirmRefused},
    user::UserRegistered,
};
use mesh::{Answer, Caller, Hear, Miss, Refusal};

use crate::{
    Book, Keys, Rules,
    book::Stranded,
    domain::{Debit, Entry, Wallet, WalletState, charge, check_charge, debit, refund},
};

type Turn<'a> = mesh::Turn<'a, Rules>;

impl Answer<Charge> for Book {
    fn keys(_: &Charge, caller: &Caller, keys: &mut Keys) {
        keys.wallets.extend(caller.user_id().map(|id| id.0));
    }

    fn answer(&mut self, command: &Charge, turn: &mut Turn<'_>) -> Result<point::Entry, Refusal> {
        let user_id = turn.caller.user_id()?;
        check_charge(command.amount, turn.rules)?;
        // A fan may charge before `user.registered` has come here; it is on its way.
        let wallet =
            self.wallet(user_id).ok_or_else(|| Refusal::NotYet(codes::NOT_FOUND.into()))?;
        let balance = charge(wallet, command.amount, turn.rules)?;
        let entry = Entry {
            user_id,
            id: EntryId(turn.new_id()),
            kind: EntryKind::Charge,
            amount: command.amount,
            balance,
            payment_id: None,
            at: turn.now,
        };
        turn.tell(PointCharged { user_id, entry_id: entry.id, amount: entry.amount, balance });
        let view = entry.to_view();
        self.enter(entry);
        Ok(view)
    }
}

impl Hear<UserRegistered> for Book {
    fn keys(fact: &UserRegistered, keys: &mut Keys) {
        keys.wallets.push(fact.user_id.0);
    }

    /// A late one finds a wallet that was closed meanwhile, and leaves it closed.
    fn hear(&mut self, fact: &UserRegistered, _: &mut Turn<'_>) -> Result<(), Miss> {
        self.open_wallet(fact.user_id, Wallet::OPENED);
        Ok(())
    }
}

impl Hear<PaymentRequested> for Book {
    fn keys(fact: &PaymentRequested, keys: &mut Keys) {
        keys.wallets.push(fact.user_id.0);
        keys.payments.push(fact.payment_id.0);
    }

    fn hear(&mut self, fact: &PaymentRequested, turn: &mut Turn<'_>) -> Result<(), Miss> {
        let trail = self.trail(fact.payment_id);
        let wallet = self.wallet(fact.user_id);
        let balance = wallet.map_or(0, |wallet| wallet.balance);
        match debit(trail, wallet, fact.amount, turn.attempt, turn.rules)? {
            Debit::Take => self.take(fact, balance - fact.amount, turn),
            Debit::Refuse(reason) => self.refuse_debit(fact, balance, reason, turn),
            Debit::Decided => {}
        }
        Ok(())
    }
}

impl Hear<ReservationConfirmRefused> for Book {
    fn keys(fact: &ReservationConfirmRefused, keys: &mut Keys) {
        keys.wallets.push(fact.user_id.0);
        keys.payments.push(fact.payment_id.0);
    }

    fn hear(&mut self, fact: &ReservationConfirmRefused, turn: &mut Turn<'_>) -> Result<(), Miss> {
        let because =
            (fact.reason == ConfirmRefusal::ShowCancelled).then_some(CancelReason::ShowCancelled);
        let why = (RefundReason::HoldGone, because);
        self.give_back(fact.payment_id, fact.user_id, fact.schedule_id, why, turn)
    }
}

impl Hear<ReservationCancelled> for Book {
    fn keys(fact: &ReservationCancelled, keys: &mut Keys) {
        if let Some(payment_id) = fact.to_return() {
            keys.wallets.push(fact.user_id.0);
            keys.payments.push(payment_id.0);
        }
    }

    /// Only a confirmed reservation has a payment to give back, unless it was forfeited.
    fn hear(&mut self, fact: &ReservationCancelled, turn: &mut Turn<'_>) -> Result<(), Miss> {
        let Some(payment_id) = fact.to_return() else { return Ok(()) };
        let why = (RefundReason::Cancelled, Some(fact.reason));
        self.give_back(payment_id, fact.user_id, fact.schedule_id, why, turn)
    }
}

impl Book {
    fn take(&mut self, fact: &PaymentRequested, balance: i64, turn: &mut Turn<'_>) {
        self.enter(Entry {
            user_id: fact.user_id,
            id: EntryId(turn.new_id()),
            kind: EntryKind::Debit,
            amount: -fact.amount,
            balance,
            payment_id: Some(fact.payment_id),
            at: turn.now,
        });
        turn.tell(PointDebited {
            user_id: fact.user_id,
            payment_id: fact.payment_id,
            reservation_id: fact.reservation_id,
            schedule_id: fact.schedule_id,
            hold_version: fact.hold_version,
            amount: fact.amount,
            balance,
        });
    }

    fn refuse_debit(
        &mut self,
        fact: &PaymentRequested,
        balance: i64,
        reason: DebitRefusal,
        turn: &mut Turn<'_>,
    ) {
        self.refuse(fact.payment_id, fact.user_id, turn.now);
        turn.tell(PointDebitRefused {
            user_id: fact.user_id,
            payment_id: fact.payment_id,
            reservation_id: fact.reservation_id,
            schedule_id: fact.schedule_id,
            amount: fact.amount,
            balance,
            reason,
        });
    }

    /// Gives back what was taken for a payment, once, whatever the wallet's state. What comes
    /// back to a closed one is nobody's to spend, so operators are told.
    fn give_back(
        &mut self,
        payment_id: PaymentId,
        user_id: UserId,
        schedule_id: ScheduleId,
        (reason, because): (RefundReason, Option<CancelReason>),
        turn: &mut Turn<'_>,
    ) -> Result<(), Miss> {
        let Some(amount) = refund(self.trail(payment_id), user_id)? else { return Ok(()) };
        let wallet = self.wallet(user_id).ok_or(Miss::NotYet("the wallet of this fan"))?;
        let balance = wallet.balance + amount;
        let is_closed = wallet.state == WalletState::Closed;
        self.enter(Entry {
            user_id,
            id: EntryId(turn.new_id()),
            kind: EntryKind::Refund,
            amount,
            balance,
            payment_id: Some(payment_id),
            at: turn.now,
        });
        turn.tell(PointRefunded {
            user_id,
            payment_id,
            schedule_id,
            amount,
            balance,
            reason,
            because,
        });
        if is_closed && amount > 0 {
            self.strand(Stranded { user_id, payment_id: Some(payment_id), amount, at: turn.now });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
