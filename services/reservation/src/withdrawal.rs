//! Withdrawals: a fan may close the account when there are no tickets for shows to come, or
//! the fan gives them up, and no refund of a cancellation is due.

use events::{
    reservation::{
        CancelReason, ReservationState, ReservationWithdrawalBlocked, ReservationWithdrawalCleared,
    },
    user::{UserWithdrawalRefused, UserWithdrawalRequested, UserWithdrawn},
    withdrawal::Standing,
};
use mesh::{Context, Handle, HandleError};

use crate::{
    Config,
    unit_of_work::{Keys, UnitOfWork},
};

impl Handle<UserWithdrawalRequested> for UnitOfWork {
    fn keys(event: &UserWithdrawalRequested, keys: &mut Keys) {
        keys.leaving.insert(event.user_id);
    }

    fn handle(
        &mut self,
        event: &UserWithdrawalRequested,
        ctx: &mut Context<'_, Config>,
    ) -> Result<(), HandleError> {
        let &UserWithdrawalRequested { user_id, attempt, forfeit, .. } = event;
        let theirs = self.reservations.values().filter(|row| row.user_id == user_id);
        let block = theirs
            .filter_map(|row| row.at_stake(self.schedules.get(&row.schedule_id), forfeit, ctx.now))
            .min();
        let Some((standing, answer)) = Standing::asked(self.standing(attempt), block) else {
            return Ok(());
        };
        self.keep_attempt(attempt, user_id, standing);
        match answer {
            Ok(()) => ctx.emit(ReservationWithdrawalCleared { user_id, attempt }),
            Err(reason) => ctx.emit(ReservationWithdrawalBlocked { user_id, attempt, reason }),
        }
        Ok(())
    }
}

impl Handle<UserWithdrawalRefused> for UnitOfWork {
    fn keys(event: &UserWithdrawalRefused, keys: &mut Keys) {
        keys.leaving.insert(event.user_id);
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
        keys.leaving.insert(event.user_id);
    }

    /// Cancels holds, and tickets that are given up. A ticket of a past show stays as it is.
    fn handle(
        &mut self,
        event: &UserWithdrawn,
        ctx: &mut Context<'_, Config>,
    ) -> Result<(), HandleError> {
        let &UserWithdrawn { user_id, attempt, forfeit, .. } = event;
        let Some(standing) = Standing::withdrawn(self.standing(attempt)) else { return Ok(()) };
        self.keep_attempt(attempt, user_id, standing);
        let lost = self.pick(|row| {
            let is_ticket = || row.is_ticket_for(self.schedules.get(&row.schedule_id), ctx.now);
            row.user_id == user_id
                && (row.state == ReservationState::Pending || (forfeit && is_ticket()))
        });
        for id in lost {
            if let Some(cancelled) = self.cancel(id, CancelReason::Withdrawn) {
                ctx.emit(cancelled);
            }
        }
        Ok(())
    }
}
