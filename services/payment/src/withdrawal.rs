//! Withdrawals: a fan may close the account when no payment runs and no refund is due.

use events::{
    payment::{PaymentWithdrawalBlocked, PaymentWithdrawalCleared},
    user::{UserWithdrawalRefused, UserWithdrawalRequested, UserWithdrawn},
    withdrawal::Standing,
};
use mesh::{Context, Handle, HandleError};

use crate::{Config, Keys, UnitOfWork};

impl Handle<UserWithdrawalRequested> for UnitOfWork {
    fn keys(event: &UserWithdrawalRequested, keys: &mut Keys) {
        keys.leaving.push(event.user_id.0);
    }

    fn handle(
        &mut self,
        event: &UserWithdrawalRequested,
        ctx: &mut Context<'_, Config>,
    ) -> Result<(), HandleError> {
        let &UserWithdrawalRequested { user_id, attempt, .. } = event;
        let block = self.at_stake(user_id);
        let Some((standing, answer)) = Standing::asked(self.standing(attempt), block) else {
            return Ok(());
        };
        self.keep_attempt(attempt, user_id, standing);
        match answer {
            Ok(()) => ctx.emit(PaymentWithdrawalCleared { user_id, attempt }),
            Err(reason) => ctx.emit(PaymentWithdrawalBlocked { user_id, attempt, reason }),
        }
        Ok(())
    }
}

impl Handle<UserWithdrawalRefused> for UnitOfWork {
    fn keys(event: &UserWithdrawalRefused, keys: &mut Keys) {
        keys.leaving.push(event.user_id.0);
    }

    fn handle(
        &mut self,
        event: &UserWithdrawalRefused,
        _: &mut Context<'_, Config>,
    ) -> Result<(), HandleError> {
        if let Some(standing) = Standing::refused(self.standing(event.attempt)) {
            self.keep_attempt(event.attempt, event.user_id, standing);
        }
        Ok(())
    }
}

impl Handle<UserWithdrawn> for UnitOfWork {
    fn keys(event: &UserWithdrawn, keys: &mut Keys) {
        keys.leaving.push(event.user_id.0);
    }

    fn handle(
        &mut self,
        event: &UserWithdrawn,
        _: &mut Context<'_, Config>,
    ) -> Result<(), HandleError> {
        if let Some(standing) = Standing::withdrawn(self.standing(event.attempt)) {
            self.keep_attempt(event.attempt, event.user_id, standing);
        }
        Ok(())
    }
}
