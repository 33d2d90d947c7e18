//! Letting a fan go, or not: no payment may run, and no refund be due.

use events::{
    payment::{PaymentWithdrawalBlocked, PaymentWithdrawalCleared},
    user::{UserWithdrawalRefused, UserWithdrawalRequested, UserWithdrawn},
    withdrawal::Standing,
};
use mesh::{Hear, Miss, Turn};

use crate::{Book, Keys, Rules};

impl Hear<UserWithdrawalRequested> for Book {
    fn keys(event: &UserWithdrawalRequested, keys: &mut Keys) {
        keys.leaving.push(event.user_id.0);
    }

    fn hear(
        &mut self,
        event: &UserWithdrawalRequested,
        turn: &mut Turn<'_, Rules>,
    ) -> Result<(), Miss> {
        let &UserWithdrawalRequested { user_id, attempt, .. } = event;
        let block = self.at_stake(user_id);
        let Some((standing, answer)) = Standing::asked(self.standing(attempt), block) else {
            return Ok(());
        };
        self.keep_attempt(attempt, user_id, standing);
        match answer {
            Ok(()) => turn.tell(PaymentWithdrawalCleared { user_id, attempt }),
            Err(reason) => turn.tell(PaymentWithdrawalBlocked { user_id, attempt, reason }),
        }
        Ok(())
    }
}

impl Hear<UserWithdrawalRefused> for Book {
    fn keys(event: &UserWithdrawalRefused, keys: &mut Keys) {
        keys.leaving.push(event.user_id.0);
    }

    fn hear(&mut self, event: &UserWithdrawalRefused, _: &mut Turn<'_, Rules>) -> Result<(), Miss> {
        if let Some(standing) = Standing::refused(self.standing(event.attempt)) {
            self.keep_attempt(event.attempt, event.user_id, standing);
        }
        Ok(())
    }
}

impl Hear<UserWithdrawn> for Book {
    fn keys(event: &UserWithdrawn, keys: &mut Keys) {
        keys.leaving.push(event.user_id.0);
    }

    fn hear(&mut self, event: &UserWithdrawn, _: &mut Turn<'_, Rules>) -> Result<(), Miss> {
        if let Some(standing) = Standing::withdrawn(self.standing(event.attempt)) {
            self.keep_attempt(event.attempt, event.user_id, standing);
        }
        Ok(())
    }
}
