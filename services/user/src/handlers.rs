//! What this service does with each fact and each command.

use events::{
    Problem, codes,
    payment::{PaymentCompleted, PaymentFailed, PaymentRequested},
    user::{Account as Card, GrantRole, UserRegistered, UserWithdrawn, Withdraw},
};
use mesh::{Answer, Caller, Hear, Miss, Refusal, Turn};

use crate::{
    Rules,
    book::{Book, Keys, Tidying},
    domain::{Account, Email, Payment, RefreshToken, Secret, Worth},
    inside::{AddAccount, BeginLogIn, GrantWish, OpenSession, RotateRefresh, Rotated, Tidy},
};

/// A payment's facts are taken in without loading it; see `Book::save_payments`.
impl Hear<PaymentRequested> for Book {
    fn keys(_: &PaymentRequested, _: &mut Keys) {}

    fn hear(&mut self, fact: &PaymentRequested, _: &mut Turn<'_, Rules>) -> Result<(), Miss> {
        let heard = Payment { user_id: fact.user_id, ended_at: None };
        self.note(fact.payment_id, heard);
        Ok(())
    }
}

impl Hear<PaymentCompleted> for Book {
    fn keys(_: &PaymentCompleted, _: &mut Keys) {}

    fn hear(&mut self, fact: &PaymentCompleted, _: &mut Turn<'_, Rules>) -> Result<(), Miss> {
        let heard = Payment { user_id: fact.user_id, ended_at: Some(fact.ended_at) };
        self.note(fact.payment_id, heard);
        Ok(())
    }
}

impl Hear<PaymentFailed> for Book {
    fn keys(_: &PaymentFailed, _: &mut Keys) {}

    fn hear(&mut self, fact: &PaymentFailed, _: &mut Turn<'_, Rules>) -> Result<(), Miss> {
        let heard = Payment { user_id: fact.user_id, ended_at: Some(fact.ended_at) };
        self.note(fact.payment_id, heard);
        Ok(())
    }
}

impl Answer<AddAccount> for Book {
    fn keys(command: &AddAccount, _: &Caller, keys: &mut Keys) {
        keys.emails.extend(Email::parse(&command.email));
    }

    fn answer(
        &mut self,
        command: &AddAccount,
        turn: &mut Turn<'_, Rules>,
    ) -> Result<Card, Refusal> {
        let email = Email::parse(&command.email)?;
        if self.by_email(&email).is_some() {
            return Err(Problem::from(codes::EMAIL_TAKEN).into());
        }
        Ok(self.add(email, command.password_hash.clone(), turn).card())
    }
}

impl Answer<GrantWish> for Book {
    fn keys(command: &GrantWish, _: &Caller, keys: &mut Keys) {
        keys.emails.extend(Email::parse(&command.email));
    }

    fn answer(&mut self, wish: &GrantWish, turn: &mut Turn<'_, Rules>) -> Result<Card, Refusal> {
        let email = Email::parse(&wish.email)?;
        let mut account = match self.by_email(&email) {
            Some(account) => account.clone(),
            None => self.add(email, wish.password_hash.clone(), turn),
        };
        account.roles.extend(&wish.roles);
        let card = account.card();
        self.accounts.put(account.user_id, account);
        self.granted.insert(wish.email.clone());
        Ok(card)
    }
}

impl Answer<BeginLogIn> for Book {
    fn keys(command: &BeginLogIn, _: &Caller, keys: &mut Keys) {
        keys.strikes.insert(command.email_hash);
    }

    fn answer(&mut self, command: &BeginLogIn, turn: &mut Turn<'_, Rules>) -> Result<(), Refusal> {
        let mut strikes = self.strikes.get(command.email_hash).cloned().unwrap_or_default();
        strikes.strike(turn.now, turn.rules.log_ins)?;
        self.strikes.put(command.email_hash, strikes);
        Ok(())
    }
}

impl Answer<OpenSession> for Book {
    fn keys(command: &OpenSession, _: &Caller, keys: &mut Keys) {
        keys.users.insert(command.user_id);
        keys.strikes.extend(command.succeeded);
    }

    fn answer(
        &mut self,
        command: &OpenSession,
        turn: &mut Turn<'_, Rules>,
    ) -> Result<Card, Refusal> {
        // Closed while its password was being checked: no session outlives an account.
        let account = self
            .accounts
            .get(command.user_id)
            .filter(|account| account.is_active())
            .ok_or_else(|| Problem::from(codes::BAD_CREDENTIALS))?;
        let card = account.card();
        let token = RefreshToken {
            user_id: command.user_id,
            family_id: command.family_id,
            expires_at: turn.now.plus_secs(turn.rules.refresh_secs),
            used_at: None,
        };
        self.tokens.put(command.token_hash, token);
        if let Some(email_hash) = command.succeeded {
            self.strikes.put(email_hash, Default::default());
        }
        Ok(card)
    }
}

impl Answer<RotateRefresh> for Book {
    fn keys(command: &RotateRefresh, _: &Caller, keys: &mut Keys) {
        keys.tokens.insert(command.presented);
    }

    fn answer(
        &mut self,
        command: &RotateRefresh,
        turn: &mut Turn<'_, Rules>,
    ) -> Result<Rotated, Refusal> {
        let unknown = || Problem::new(codes::UNAUTHENTICATED, "Log in again.");
        let token = self.tokens.get(command.presented).ok_or_else(unknown)?;
        // An earlier message of this batch may have ended what was loaded.
        let account = self
            .accounts
            .get(token.user_id)
            .filter(|account| account.is_active())
            .filter(|_| !self.ended_families.contains(&token.family_id))
            .ok_or_else(unknown)?;
        let account = account.card();
        match token.worth(turn.now) {
            Worth::Expired => Err(Problem::from(codes::TOKEN_EXPIRED).into()),
            Worth::Stolen => {
                self.ended_families.insert(token.family_id);
                Ok(Rotated::Stolen)
            }
            Worth::Session => {
                let expires_at = turn.now.plus_secs(turn.rules.refresh_secs);
                let used = RefreshToken { used_at: Some(turn.now), ..token.clone() };
                let successor = RefreshToken { expires_at, ..token.clone() };
                self.tokens.put(command.presented, used);
                self.tokens.put(command.successor, successor);
                Ok(Rotated::Session { account, successor: command.successor })
            }
        }
    }
}

impl Answer<Withdraw> for Book {
    fn keys(_: &Withdraw, caller: &Caller, keys: &mut Keys) {
        if let Ok(user_id) = caller.user_id() {
            keys.users.insert(user_id);
            keys.payers.insert(user_id);
        }
    }

    fn answer(&mut self, _: &Withdraw, turn: &mut Turn<'_, Rules>) -> Result<Card, Refusal> {
        let user_id = turn.caller.user_id()?;
        let mut account = self.account(user_id)?.clone();
        let card = account.card();
        if account.withdraw(self.is_paying(user_id), turn.now)? {
            self.accounts.put(user_id, account);
            self.logged_out.insert(user_id);
            turn.tell(UserWithdrawn { user_id, at: turn.now });
        }
        Ok(card)
    }
}

impl Answer<GrantRole> for Book {
    fn keys(command: &GrantRole, _: &Caller, keys: &mut Keys) {
        keys.users.insert(command.user_id);
    }

    fn answer(&mut self, command: &GrantRole, _: &mut Turn<'_, Rules>) -> Result<Card, Refusal> {
        let mut account = self.account(command.user_id)?.clone();
        account.grant(command.role)?;
        let card = account.card();
        self.accounts.put(command.user_id, account);
        Ok(card)
    }
}

impl Answer<Tidy> for Book {
    fn keys(_: &Tidy, _: &Caller, _: &mut Keys) {}

    fn answer(&mut self, _: &Tidy, turn: &mut Turn<'_, Rules>) -> Result<(), Refusal> {
        let strikes_before = turn.now.plus_secs(-turn.rules.log_ins.window_secs);
        self.tidy = Some(Tidying { now: turn.now, strikes_before });
        Ok(())
    }
}

impl Book {
    fn account(&self, user_id: events::UserId) -> Result<&Account, Problem> {
        self.accounts.get(user_id).ok_or_else(|| codes::NOT_FOUND.into())
    }

    /// Adds an account and tells of it. Two lanes that add the same address at once both
    /// find none; the second to commit breaks the unique constraint, is decided again,
    /// and finds the first.
    fn add(&mut self, email: Email, hash: Secret, turn: &mut Turn<'_, Rules>) -> Account {
        let user_id = events::UserId(turn.id);
        let account = Account::open(user_id, email, hash, turn.now);
        self.accounts.put(user_id, account.clone());
        turn.tell(UserRegistered { user_id, at: turn.now });
        account
    }

    fn note(&mut self, payment_id: events::PaymentId, heard: Payment) {
        let known = self.payments.get(payment_id).copied();
        if let Some(payment) = Payment::after(known, heard) {
            self.payments.put(payment_id, payment);
        }
    }
}

#[cfg(test)]
mod tests;
