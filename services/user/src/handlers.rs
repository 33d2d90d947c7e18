//! The handlers of events and commands.

use events::{
    AttemptId, Problem, SagaId, codes,
    payment::{PaymentWithdrawalBlocked, PaymentWithdrawalCleared},
    point::{PointWithdrawalBlocked, PointWithdrawalCleared},
    reservation::{ReservationWithdrawalBlocked, ReservationWithdrawalCleared},
    user::{
        Account as Card, GrantRole, Role, UserRegistered, UserRoleGranted, UserWithdrawalRefused,
        UserWithdrawalRequested, UserWithdrawn, Withdraw, Withdrawal as Shown,
    },
};
use mesh::{Caller, Context, Execute, Handle, HandleError, Refusal};

use crate::{
    Config,
    domain::{Account, Email, RefreshToken, Secret, Worth},
    inside::{
        AddAccount, BeginLogIn, GrantWish, OpenSession, RefuseWithdrawal, RotateRefresh, Rotated,
        Tidy,
    },
    unit_of_work::{Keys, Tidying, UnitOfWork},
    withdrawal::{Outcome, Party, Withdrawal},
};

macro_rules! answers {
    ($($type:ty, $party:expr, |$event:ident| $answered:expr;)+) => {$(
        impl Handle<$type> for UnitOfWork {
            fn keys(event: &$type, keys: &mut Keys) {
                keys.users.insert(event.user_id);
                keys.attempts.insert(event.attempt);
            }

            /// An answer to an unknown attempt, or a late one, changes nothing.
            fn handle(
                &mut self,
                $event: &$type,
                ctx: &mut Context<'_, Config>,
            ) -> Result<(), HandleError> {
                let Some(withdrawal) = self.withdrawals.get(&$event.attempt) else { return Ok(()) };
                let mut withdrawal = withdrawal.clone();
                let outcome = withdrawal.answer($party, $answered, ctx.now);
                self.conclude(withdrawal, outcome, ctx);
                Ok(())
            }
        }
    )+};
}

answers! {
    PaymentWithdrawalCleared, Party::Payment, |event| Ok(());
    PaymentWithdrawalBlocked, Party::Payment, |event| Err(event.reason);
    ReservationWithdrawalCleared, Party::Reservation, |event| Ok(());
    ReservationWithdrawalBlocked, Party::Reservation, |event| Err(event.reason);
    PointWithdrawalCleared, Party::Point, |event| Ok(());
    PointWithdrawalBlocked, Party::Point, |event| Err(event.reason);
}

impl Execute<AddAccount> for UnitOfWork {
    fn keys(command: &AddAccount, _: &Caller, keys: &mut Keys) {
        keys.emails.extend(Email::parse(&command.email));
    }

    fn execute(
        &mut self,
        command: &AddAccount,
        ctx: &mut Context<'_, Config>,
    ) -> Result<Card, Refusal> {
        let email = Email::parse(&command.email)?;
        if self.by_email(&email).is_some() {
            return Err(Problem::from(codes::EMAIL_TAKEN).into());
        }
        Ok(self.add(email, command.password_hash.clone(), ctx).card())
    }
}

impl Execute<GrantWish> for UnitOfWork {
    fn keys(command: &GrantWish, _: &Caller, keys: &mut Keys) {
        keys.emails.extend(Email::parse(&command.email));
    }

    fn execute(
        &mut self,
        wish: &GrantWish,
        ctx: &mut Context<'_, Config>,
    ) -> Result<Card, Refusal> {
        let email = Email::parse(&wish.email)?;
        let mut account = match self.by_email(&email) {
            Some(account) => account.clone(),
            None => self.add(email, wish.password_hash.clone(), ctx),
        };
        for role in wish.roles.iter().copied().filter(|role| *role != Role::Fan) {
            account.roles.insert(role);
            let (user_id, at) = (account.user_id, ctx.now);
            ctx.emit(UserRoleGranted { user_id, role, by: None, at });
        }
        let card = account.card();
        self.accounts.put(account.user_id, account);
        self.granted.insert(wish.email.clone());
        Ok(card)
    }
}

impl Execute<BeginLogIn> for UnitOfWork {
    fn keys(command: &BeginLogIn, _: &Caller, keys: &mut Keys) {
        keys.strikes.insert(command.email_hash);
    }

    fn execute(
        &mut self,
        command: &BeginLogIn,
        ctx: &mut Context<'_, Config>,
    ) -> Result<(), Refusal> {
        let mut strikes = self.strikes.get(&command.email_hash).cloned().unwrap_or_default();
        strikes.strike(ctx.now, ctx.config.log_ins)?;
        self.strikes.put(command.email_hash, strikes);
        Ok(())
    }
}

impl Execute<OpenSession> for UnitOfWork {
    fn keys(command: &OpenSession, _: &Caller, keys: &mut Keys) {
        keys.users.insert(command.user_id);
        keys.strikes.extend(command.succeeded);
    }

    fn execute(
        &mut self,
        command: &OpenSession,
        ctx: &mut Context<'_, Config>,
    ) -> Result<Card, Refusal> {
        // The account may have been closed while its password was checked: no session outlives an
        // account.
        let account = self
            .accounts
            .get(&command.user_id)
            .filter(|account| account.is_active())
            .ok_or_else(|| Problem::from(codes::BAD_CREDENTIALS))?;
        let card = account.card();
        let token = RefreshToken {
            user_id: command.user_id,
            family_id: command.family_id,
            expires_at: ctx.now.plus_secs(ctx.config.refresh_secs),
            used_at: None,
        };
        self.tokens.put(command.token_hash, token);
        if let Some(email_hash) = command.succeeded {
            self.strikes.put(email_hash, Default::default());
        }
        Ok(card)
    }
}

impl Execute<RotateRefresh> for UnitOfWork {
    fn keys(command: &RotateRefresh, _: &Caller, keys: &mut Keys) {
        keys.tokens.insert(command.presented);
    }

    fn execute(
        &mut self,
        command: &RotateRefresh,
        ctx: &mut Context<'_, Config>,
    ) -> Result<Rotated, Refusal> {
        let unknown = || {
            let what = "is not a valid refresh token; log in again";
            Problem::about(codes::UNAUTHENTICATED, "refresh_token", what)
        };
        let token = self.tokens.get(&command.presented).ok_or_else(unknown)?;
        // An earlier message of this batch may have ended what was loaded.
        let account = self
            .accounts
            .get(&token.user_id)
            .filter(|account| account.is_active())
            .filter(|_| !self.ended_families.contains(&token.family_id))
            .ok_or_else(unknown)?;
        let account = account.card();
        match token.worth(ctx.now) {
            Worth::Expired => {
                let expired = Problem::from(codes::TOKEN_EXPIRED);
                Err(expired.with("field", "refresh_token").into())
            }
            Worth::Stolen => {
                self.ended_families.insert(token.family_id);
                Ok(Rotated::Stolen)
            }
            Worth::Session => {
                let expires_at = ctx.now.plus_secs(ctx.config.refresh_secs);
                let used = RefreshToken { used_at: Some(ctx.now), ..token.clone() };
                let successor = RefreshToken { expires_at, ..token.clone() };
                self.tokens.put(command.presented, used);
                self.tokens.put(command.successor, successor);
                Ok(Rotated::Session { account, successor: command.successor })
            }
        }
    }
}

impl Execute<Withdraw> for UnitOfWork {
    fn keys(_: &Withdraw, caller: &Caller, keys: &mut Keys) {
        if let Ok(user_id) = caller.user_id() {
            keys.users.insert(user_id);
            keys.leaving.insert(user_id);
        }
    }

    /// There is one attempt at a time; a repeat on the same terms returns it. So does one after the
    /// account was closed.
    fn execute(
        &mut self,
        command: &Withdraw,
        ctx: &mut Context<'_, Config>,
    ) -> Result<Shown, Refusal> {
        let user_id = ctx.caller.user_id()?;
        self.account(user_id)?;
        if let Some(known) = self.standing_withdrawal(user_id) {
            if known.is_over() || known.forfeit == command.forfeit {
                return Ok(known.view());
            }
            let attempt = known.attempt.to_string();
            return Err(Problem::from(codes::WITHDRAWAL_RUNNING).with("attempt", attempt).into());
        }
        let attempt = AttemptId(ctx.id);
        let withdrawal = Withdrawal::begin(attempt, user_id, command.forfeit, ctx.now);
        let shown = withdrawal.view();
        self.withdrawals.put(attempt, withdrawal);
        let forfeit = command.forfeit;
        ctx.emit(UserWithdrawalRequested { user_id, attempt, forfeit, at: ctx.now });
        Ok(shown)
    }
}

impl Execute<RefuseWithdrawal> for UnitOfWork {
    fn keys(command: &RefuseWithdrawal, _: &Caller, keys: &mut Keys) {
        keys.users.insert(command.user_id);
        keys.attempts.insert(command.attempt);
    }

    /// The last answer may have come since the timer's query.
    fn execute(
        &mut self,
        command: &RefuseWithdrawal,
        ctx: &mut Context<'_, Config>,
    ) -> Result<(), Refusal> {
        let Some(withdrawal) = self.withdrawals.get(&command.attempt) else { return Ok(()) };
        let mut withdrawal = withdrawal.clone();
        let outcome = withdrawal.time_out(ctx.now);
        self.conclude(withdrawal, outcome, ctx);
        Ok(())
    }
}

impl Execute<GrantRole> for UnitOfWork {
    fn keys(command: &GrantRole, _: &Caller, keys: &mut Keys) {
        keys.users.insert(command.user_id);
    }

    fn execute(
        &mut self,
        command: &GrantRole,
        ctx: &mut Context<'_, Config>,
    ) -> Result<Card, Refusal> {
        let &GrantRole { user_id, role } = command;
        let mut account = self.account(user_id)?.clone();
        account.grant(role)?;
        let card = account.card();
        self.accounts.put(user_id, account);
        let by = Some(ctx.caller.user_id()?);
        ctx.emit(UserRoleGranted { user_id, role, by, at: ctx.now });
        Ok(card)
    }
}

impl Execute<Tidy> for UnitOfWork {
    fn keys(_: &Tidy, _: &Caller, _: &mut Keys) {}

    fn execute(&mut self, _: &Tidy, ctx: &mut Context<'_, Config>) -> Result<(), Refusal> {
        let strikes_before = ctx.now.plus_secs(-ctx.config.log_ins.window_secs);
        self.tidy = Some(Tidying { now: ctx.now, strikes_before });
        Ok(())
    }
}

impl UnitOfWork {
    fn account(&self, user_id: events::UserId) -> Result<&Account, Problem> {
        self.accounts.get(&user_id).ok_or_else(|| codes::NOT_FOUND.into())
    }

    /// Adds an account and emits its event. Two batches that add the same address at once both
    /// find none; the second to commit violates the unique constraint, is decided again, and
    /// finds the first.
    fn add(&mut self, email: Email, hash: Secret, ctx: &mut Context<'_, Config>) -> Account {
        let user_id = events::UserId(ctx.id);
        let account = Account::open(user_id, email, hash, ctx.now);
        self.accounts.put(user_id, account.clone());
        ctx.emit(UserRegistered { user_id, at: ctx.now });
        ctx.ends_saga("completed", None);
        account
    }

    /// Saves an attempt after an answer or a timeout, and does what follows from its outcome.
    fn conclude(
        &mut self,
        withdrawal: Withdrawal,
        outcome: Option<Outcome>,
        ctx: &mut Context<'_, Config>,
    ) {
        let Withdrawal { attempt, user_id, forfeit, .. } = withdrawal;
        self.withdrawals.put(attempt, withdrawal);
        let (saga_id, at) = (SagaId(attempt.0), ctx.now);
        match outcome {
            None => {}
            Some(Outcome::Refused(reasons)) => {
                let reason = reasons.first().map(|reason| reason.as_str());
                ctx.ends_saga_of(saga_id, "compensated", reason);
                ctx.emit_in(saga_id, UserWithdrawalRefused { user_id, attempt, reasons, at });
            }
            Some(Outcome::Closed) => {
                if let Some(account) = self.accounts.get(&user_id) {
                    let mut account = account.clone();
                    account.withdraw(at);
                    self.accounts.put(user_id, account);
                }
                self.logged_out.insert(user_id);
                ctx.ends_saga_of(saga_id, "completed", None);
                ctx.emit_in(saga_id, UserWithdrawn { user_id, attempt, forfeit, at });
            }
        }
    }
}

#[cfg(test)]
mod tests;
