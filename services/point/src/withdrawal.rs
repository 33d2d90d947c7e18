//! Withdrawals: a fan may close the account when no points are left or the fan gives them up.

use events::{
    EntryId,
    point::{EntryKind, PointForfeited, PointWithdrawalBlocked, PointWithdrawalCleared},
    user::{UserWithdrawalRefused, UserWithdrawalRequested, UserWithdrawn},
    withdrawal::Standing,
};
use mesh::{Context, Handle, HandleError};

use crate::{
    Config, Keys, UnitOfWork,
    domain::{Entry, Wallet, at_stake},
    unit_of_work::Missed,
};

impl Handle<UserWithdrawalRequested> for UnitOfWork {
    fn keys(event: &UserWithdrawalRequested, keys: &mut Keys) {
        keys.wallets.push(event.user_id.0);
        keys.leaving.push(event.user_id.0);
    }

    fn handle(
        &mut self,
        event: &UserWithdrawalRequested,
        ctx: &mut Context<'_, Config>,
    ) -> Result<(), HandleError> {
        let &UserWithdrawalRequested { user_id, attempt, forfeit, .. } = event;
        let wallet =
            self.wallet(user_id).ok_or(HandleError::NotYet("user.registered of this fan"))?;
        let block = at_stake(wallet, forfeit);
        let Some((standing, answer)) = Standing::asked(self.standing(attempt), block) else {
            return Ok(());
        };
        self.keep_attempt(attempt, user_id, standing);
        match answer {
            Ok(()) => ctx.emit(PointWithdrawalCleared { user_id, attempt }),
            Err(reason) => ctx.emit(PointWithdrawalBlocked { user_id, attempt, reason }),
        }
        Ok(())
    }
}

impl Handle<UserWithdrawalRefused> for UnitOfWork {
    fn keys(event: &UserWithdrawalRefused, keys: &mut Keys) {
        keys.wallets.push(event.user_id.0);
        keys.leaving.push(event.user_id.0);
    }

    /// Locks the wallet, like the request that it may overtake.
    fn handle(
        &mut self,
        event: &UserWithdrawalRefused,
        _: &mut Context<'_, Config>,
    ) -> Result<(), HandleError> {
        self.wallet(event.user_id).ok_or(HandleError::NotYet("user.registered of this fan"))?;
        if let Some(standing) = Standing::refused(self.standing(event.attempt)) {
            self.keep_attempt(event.attempt, event.user_id, standing);
        }
        Ok(())
    }
}

impl Handle<UserWithdrawn> for UnitOfWork {
    fn keys(event: &UserWithdrawn, keys: &mut Keys) {
        keys.wallets.push(event.user_id.0);
        keys.leaving.push(event.user_id.0);
    }

    /// Points that are left are forfeited, or were refunded while the account was being closed.
    fn handle(
        &mut self,
        event: &UserWithdrawn,
        ctx: &mut Context<'_, Config>,
    ) -> Result<(), HandleError> {
        let &UserWithdrawn { user_id, attempt, forfeit, .. } = event;
        let Some(standing) = Standing::withdrawn(self.standing(attempt)) else { return Ok(()) };
        self.open_wallet(user_id, Wallet::CLOSED);
        self.keep_attempt(attempt, user_id, standing);
        let amount = self.wallet(user_id).map_or(0, |wallet| wallet.balance);
        if amount == 0 {
            return Ok(());
        }
        if !forfeit {
            self.strand(Missed { user_id, payment_id: None, amount, at: ctx.now });
            return Ok(());
        }
        let entry_id = EntryId(ctx.new_id());
        self.enter(Entry {
            user_id,
            id: entry_id,
            kind: EntryKind::Forfeit,
            amount: -amount,
            balance: 0,
            payment_id: None,
            at: ctx.now,
        });
        ctx.emit(PointForfeited { user_id, entry_id, amount, balance: 0 });
        Ok(())
    }
}
