//! Pure decisions on accounts, refresh tokens and log-ins.

use std::collections::BTreeSet;

use events::{
    Problem, Timestamp, UserId, codes,
    user::{Account as Card, Role},
};
use uuid::Uuid;

/// Characters a password has at least.
pub const PASSWORD_CHARS_MIN: usize = 10;
/// Characters a password has at most, so that no client can make the service hash a huge text.
pub const PASSWORD_CHARS_MAX: usize = 200;
/// How long a failed log-in counts, unless configured otherwise.
pub const LOG_IN_WINDOW_SECS: i64 = 300;

/// A mail address in one form for all its spellings. Only a mail can show whether the address
/// exists; this type refuses text that cannot be an address.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Email(String);

impl Email {
    /// Parses an address as a user typed it.
    ///
    /// # Errors
    /// `invalid`, with the field and the reason.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        text::email(text).map(Self).map_err(|flaw| Problem::about(codes::INVALID, "email", flaw))
    }

    /// An address that was parsed before it was stored.
    pub fn stored(email: String) -> Self {
        Self(email)
    }

    /// The address.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A password in the form that is hashed.
///
/// # Errors
/// `invalid`, with the field, when it is too short or too long.
pub fn password(typed: &str) -> Result<String, Problem> {
    text::password(typed, PASSWORD_CHARS_MIN..=PASSWORD_CHARS_MAX)
        .map_err(|flaw| Problem::about(codes::INVALID, "password", flaw))
}

/// An account.
#[derive(Debug, Clone, PartialEq)]
pub struct Account {
    /// Its user.
    pub user_id: UserId,
    /// Its roles.
    pub roles: BTreeSet<Role>,
    /// When it was created.
    pub created_at: Timestamp,
    /// Active, or closed.
    pub state: State,
}

/// Whether an account can be used.
#[derive(Debug, Clone, PartialEq)]
pub enum State {
    /// The account can be used.
    Active {
        /// Where messages go.
        email: Email,
        /// Argon2id, in the PHC format.
        password_hash: Secret,
    },
    /// Closed by its owner; address and password are deleted.
    Withdrawn {
        /// When.
        at: Timestamp,
    },
}

/// Text that must not be printed.
#[derive(Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

impl Account {
    /// A new account; every account has the role `fan`.
    pub fn open(user_id: UserId, email: Email, password_hash: Secret, now: Timestamp) -> Self {
        let state = State::Active { email, password_hash };
        Self { user_id, roles: BTreeSet::from([Role::Fan]), created_at: now, state }
    }

    /// Whether the account can be used.
    pub fn is_active(&self) -> bool {
        matches!(self.state, State::Active { .. })
    }

    /// The address, until the account is closed.
    pub fn email(&self) -> Option<&Email> {
        match &self.state {
            State::Active { email, .. } => Some(email),
            State::Withdrawn { .. } => None,
        }
    }

    /// What others may see of the account.
    pub fn card(&self) -> Card {
        Card { user_id: self.user_id, roles: self.roles.iter().copied().collect() }
    }

    /// Closes the account and deletes its address and password.
    pub fn withdraw(&mut self, now: Timestamp) {
        if self.is_active() {
            self.state = State::Withdrawn { at: now };
        }
    }

    /// Gives the account a role; a role that it has already changes nothing.
    ///
    /// # Errors
    /// `not_found` for a closed account.
    pub fn grant(&mut self, role: Role) -> Result<(), Problem> {
        if !self.is_active() {
            return Err(codes::NOT_FOUND.into());
        }
        self.roles.insert(role);
        Ok(())
    }
}

/// A refresh token, which is valid once.
#[derive(Debug, Clone, PartialEq)]
pub struct RefreshToken {
    /// The user of the session.
    pub user_id: UserId,
    /// The family: all tokens that descend from one log-in.
    pub family_id: Uuid,
    /// When it runs out.
    pub expires_at: Timestamp,
    /// When it was exchanged.
    pub used_at: Option<Timestamp>,
}

/// What presenting a refresh token leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Worth {
    /// A new session.
    Session,
    /// Nothing: it ran out.
    Expired,
    /// The end of its whole family: it was used before, so one of the two users stole it.
    Stolen,
}

impl RefreshToken {
    /// What presenting this token leads to now.
    pub fn worth(&self, now: Timestamp) -> Worth {
        if self.used_at.is_some() {
            Worth::Stolen
        } else if now >= self.expires_at {
            Worth::Expired
        } else {
            Worth::Session
        }
    }
}

/// How many log-ins may fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogInLimit {
    /// Failures at most.
    pub failures_max: usize,
    /// Seconds in which they are counted.
    pub window_secs: i64,
}

impl Default for LogInLimit {
    fn default() -> Self {
        Self { failures_max: 5, window_secs: LOG_IN_WINDOW_SECS }
    }
}

/// The failed log-ins of one address, oldest first.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Strikes(pub Vec<Timestamp>);

impl Strikes {
    /// Counts an attempt as failed before it has begun, so a hundred attempts at once get as many
    /// guesses as a hundred in sequence. A successful log-in clears the strikes.
    ///
    /// # Errors
    /// `rate_limited`, with `retry_after_secs`, when too many have failed.
    pub fn strike(&mut self, now: Timestamp, limit: LogInLimit) -> Result<(), Problem> {
        let begin = now.plus_secs(-limit.window_secs);
        let recent: Vec<_> = self.0.iter().copied().filter(|at| *at > begin).collect();
        let Some(excess) = recent.len().checked_sub(limit.failures_max) else {
            self.0 = recent;
            self.0.push(now);
            return Ok(());
        };
        // One more may be tried when only `failures_max - 1` are left in the window.
        let free_at = recent.get(excess).copied().unwrap_or(now).plus_secs(limit.window_secs);
        let millis = free_at.unix_millis() - now.unix_millis();
        let retry_after_secs = (millis.max(0) as u64).div_ceil(1_000).max(1);
        let detail = "Too many log-ins for this address have failed.";
        Err(Problem::new(codes::RATE_LIMITED, detail).with("retry_after_secs", retry_after_secs))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: LogInLimit = LogInLimit { failures_max: 5, window_secs: 300 };

    fn at(secs: i64) -> Timestamp {
        Timestamp(time::OffsetDateTime::UNIX_EPOCH).plus_secs(secs)
    }

    fn account() -> Account {
        let email = Email::parse("fan@example.org").unwrap();
        Account::open(UserId(Uuid::nil()), email, Secret("hash".into()), at(0))
    }

    #[test]
    fn spellings_of_one_address_are_one_address() {
        let fan = Email::parse("fan+1@example.org").unwrap();
        for spelling in [" Fan+1@Example.ORG ", "ｆａｎ＋１＠ｅｘａｍｐｌｅ．ｏｒｇ"]
        {
            assert_eq!(Email::parse(spelling).unwrap(), fan, "{spelling}");
        }
        let unicode = Email::parse("좋아@서울.kr").unwrap();
        assert_eq!(Email::parse("좋아@xn--2i4bq6h.kr").unwrap(), unicode);
    }

    #[test]
    fn text_that_cannot_be_an_address_is_refused_with_the_field() {
        for text in ["", "fan", "fan@localhost", "a b@example.org", "fan\u{200b}@example.org"] {
            let problem = Email::parse(text).unwrap_err();
            assert!(problem.is(codes::INVALID), "{text}");
            assert_eq!(problem.extra["field"], "email");
            assert!(problem.detail.starts_with("`email` "), "{problem}");
        }
    }

    #[test]
    fn a_password_is_counted_in_characters() {
        assert!(password("123456789").is_err());
        assert_eq!(password("1234567890").unwrap(), "1234567890");
        assert!(password(&"é".repeat(200)).is_ok());
        let refusal = password(&"é".repeat(201)).unwrap_err();
        assert!(refusal.is(codes::INVALID));
        assert_eq!(refusal.extra["field"], "password");
        assert_eq!(refusal.detail, "`password` must have 10 to 200 characters.");
    }

    #[test]
    fn a_password_is_the_same_in_any_unicode_form() {
        let here = password("p\u{e4}ssw\u{f6}rd-123").unwrap();
        assert_eq!(password("pa\u{308}sswo\u{308}rd-123").unwrap(), here);
    }

    #[test]
    fn a_closed_account_has_no_address_and_closes_once() {
        let mut account = account();
        account.withdraw(at(1));
        assert_eq!(account.email(), None);
        account.withdraw(at(2));
        assert_eq!(account.state, State::Withdrawn { at: at(1) });
        assert!(account.grant(Role::Operator).unwrap_err().is(codes::NOT_FOUND));
    }

    #[test]
    fn a_role_granted_twice_is_granted_once() {
        let mut account = account();
        account.grant(Role::Organizer).unwrap();
        account.grant(Role::Organizer).unwrap();
        assert_eq!(account.card().roles, [Role::Fan, Role::Organizer]);
    }

    #[test]
    fn a_refresh_token_is_valid_once_and_until_it_expires() {
        let mut token = RefreshToken {
            user_id: UserId(Uuid::nil()),
            family_id: Uuid::nil(),
            expires_at: at(100),
            used_at: None,
        };
        assert_eq!(token.worth(at(99)), Worth::Session);
        assert_eq!(token.worth(at(100)), Worth::Expired);
        token.used_at = Some(at(50));
        assert_eq!(token.worth(at(60)), Worth::Stolen);
        assert_eq!(token.worth(at(200)), Worth::Stolen);
    }

    #[test]
    fn the_sixth_failure_within_five_minutes_is_refused_with_a_retry_time() {
        let mut strikes = Strikes::default();
        for secs in [0, 10, 20, 30, 40] {
            strikes.strike(at(secs), LIMIT).unwrap();
        }
        let refusal = strikes.strike(at(100), LIMIT).unwrap_err();
        assert!(refusal.is(codes::RATE_LIMITED));
        assert_eq!(refusal.extra["retry_after_secs"], 200);
        assert_eq!(strikes.0.len(), 5, "a refused attempt does not count");
        strikes.strike(at(300), LIMIT).unwrap();
        let refusal = strikes.strike(at(300), LIMIT).unwrap_err();
        assert_eq!(refusal.extra["retry_after_secs"], 10);
    }

    #[test]
    fn strikes_from_a_laxer_limit_still_count() {
        let mut strikes = Strikes((0..9).map(at).collect());
        let refusal = strikes.strike(at(10), LIMIT).unwrap_err();
        assert_eq!(refusal.extra["retry_after_secs"], 294);
        assert!(strikes.strike(at(304), LIMIT).is_ok());
    }
}
