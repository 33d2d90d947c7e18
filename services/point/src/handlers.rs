//! One handler for each consumed event and each command.

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
use mesh::{Caller, Execute, Handle, HandleError, Refusal};

use crate::{
    Config, Keys, UnitOfWork,
    domain::{Debit, Entry, Wallet, WalletState, charge, check_charge, debit, refund},
    unit_of_work::Missed,
};

type Context<'a> = mesh::Context<'a, Config>;

impl Execute<Charge> for UnitOfWork {
    fn keys(_: &Charge, caller: &Caller, keys: &mut Keys) {
        keys.wallets.extend(caller.user_id().map(|id| id.0));
    }

    fn execute(
        &mut self,
        command: &Charge,
        ctx: &mut Context<'_>,
    ) -> Result<point::Entry, Refusal> {
        let user_id = ctx.caller.user_id()?;
        check_charge(command.amount, ctx.config)?;
        // A fan may charge before `user.registered` has arrived here.
        let wallet =
            self.wallet(user_id).ok_or_else(|| Refusal::NotYet(codes::NOT_FOUND.into()))?;
        let balance = charge(wallet, command.amount, ctx.config)?;
        let entry = Entry {
            user_id,
            id: EntryId(ctx.new_id()),
            kind: EntryKind::Charge,
            amount: command.amount,
            balance,
            payment_id: None,
            at: ctx.now,
        };
        ctx.emit(PointCharged { user_id, entry_id: entry.id, amount: entry.amount, balance });
        ctx.ends_saga("completed", None);
        let view = entry.to_view();
        self.enter(entry);
        Ok(view)
    }
}

impl Handle<UserRegistered> for UnitOfWork {
    fn keys(event: &UserRegistered, keys: &mut Keys) {
        keys.wallets.push(event.user_id.0);
    }

    /// A late event may find a closed wallet, and leaves it closed.
    fn handle(&mut self, event: &UserRegistered, _: &mut Context<'_>) -> Result<(), HandleError> {
        self.open_wallet(event.user_id, Wallet::OPENED);
        Ok(())
    }
}

impl Handle<PaymentRequested> for UnitOfWork {
    fn keys(event: &PaymentRequested, keys: &mut Keys) {
        keys.wallets.push(event.user_id.0);
        keys.payments.push(event.payment_id.0);
    }

    fn handle(
        &mut self,
        event: &PaymentRequested,
        ctx: &mut Context<'_>,
    ) -> Result<(), HandleError> {
        let trail = self.trail(event.payment_id);
        let wallet = self.wallet(event.user_id);
        let balance = wallet.map_or(0, |wallet| wallet.balance);
        match debit(trail, wallet, event.amount, ctx.attempt, ctx.config)? {
            Debit::Take => self.take(event, balance - event.amount, ctx),
            Debit::Refuse(reason) => self.refuse_debit(event, balance, reason, ctx),
            Debit::Decided => {}
        }
        Ok(())
    }
}

impl Handle<ReservationConfirmRefused> for UnitOfWork {
    fn keys(event: &ReservationConfirmRefused, keys: &mut Keys) {
        keys.wallets.push(event.user_id.0);
        keys.payments.push(event.payment_id.0);
    }

    fn handle(
        &mut self,
        event: &ReservationConfirmRefused,
        ctx: &mut Context<'_>,
    ) -> Result<(), HandleError> {
        let because =
            (event.reason == ConfirmRefusal::ShowCancelled).then_some(CancelReason::ShowCancelled);
        let why = (RefundReason::HoldGone, because);
        self.give_back(event.payment_id, event.user_id, event.schedule_id, why, ctx)
    }
}

impl Handle<ReservationCancelled> for UnitOfWork {
    fn keys(event: &ReservationCancelled, keys: &mut Keys) {
        if let Some(payment_id) = event.to_return() {
            keys.wallets.push(event.user_id.0);
            keys.payments.push(payment_id.0);
        }
    }

    /// Only a confirmed reservation has a payment to refund, unless the ticket was forfeited.
    fn handle(
        &mut self,
        event: &ReservationCancelled,
        ctx: &mut Context<'_>,
    ) -> Result<(), HandleError> {
        let Some(payment_id) = event.to_return() else { return Ok(()) };
        let why = (RefundReason::Cancelled, Some(event.reason));
        self.give_back(payment_id, event.user_id, event.schedule_id, why, ctx)
    }
}

impl UnitOfWork {
    fn take(&mut self, event: &PaymentRequested, balance: i64, ctx: &mut Context<'_>) {
        self.enter(Entry {
            user_id: event.user_id,
            id: EntryId(ctx.new_id()),
            kind: EntryKind::Debit,
            amount: -event.amount,
            balance,
            payment_id: Some(event.payment_id),
            at: ctx.now,
        });
        ctx.emit(PointDebited {
            user_id: event.user_id,
            payment_id: event.payment_id,
            reservation_id: event.reservation_id,
            schedule_id: event.schedule_id,
            hold_version: event.hold_version,
            amount: event.amount,
            balance,
        });
    }

    fn refuse_debit(
        &mut self,
        event: &PaymentRequested,
        balance: i64,
        reason: DebitRefusal,
        ctx: &mut Context<'_>,
    ) {
        self.refuse(event.payment_id, event.user_id, ctx.now);
        ctx.emit(PointDebitRefused {
            user_id: event.user_id,
            payment_id: event.payment_id,
            reservation_id: event.reservation_id,
            schedule_id: event.schedule_id,
            amount: event.amount,
            balance,
            reason,
        });
    }

    /// Gives back what was taken for a payment, once, whatever the wallet's state. Points in a
    /// closed wallet cannot be spent, so they are reported to the operators.
    fn give_back(
        &mut self,
        payment_id: PaymentId,
        user_id: UserId,
        schedule_id: ScheduleId,
        (reason, because): (RefundReason, Option<CancelReason>),
        ctx: &mut Context<'_>,
    ) -> Result<(), HandleError> {
        let Some(amount) = refund(self.trail(payment_id), user_id)? else { return Ok(()) };
        let wallet = self.wallet(user_id).ok_or(HandleError::NotYet("the wallet of this fan"))?;
        let balance = wallet.balance + amount;
        let is_closed = wallet.state == WalletState::Closed;
        self.enter(Entry {
            user_id,
            id: EntryId(ctx.new_id()),
            kind: EntryKind::Refund,
            amount,
            balance,
            payment_id: Some(payment_id),
            at: ctx.now,
        });
        ctx.emit(PointRefunded {
            user_id,
            payment_id,
            schedule_id,
            amount,
            balance,
            reason,
            because,
        });
        if is_closed && amount > 0 {
            self.strand(Missed { user_id, payment_id: Some(payment_id), amount, at: ctx.now });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
