//! Accounts: who is who, and who may do what.

use serde::{Deserialize, Serialize};

use crate::{Timestamp, UserId};

/// What an account may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Buys seats. Everybody is a fan.
    Fan,
    /// Enters concerts and schedules, and cancels them.
    Organizer,
    /// Runs the system: sees every saga, grants roles.
    Operator,
}

/// `user.registered`: an account was made. Carries no personal data.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UserRegistered {
    /// The new account.
    pub user_id: UserId,
    /// When.
    pub at: Timestamp,
}

/// `user.withdrawn`: an account was closed by its owner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UserWithdrawn {
    /// The closed account.
    pub user_id: UserId,
    /// When.
    pub at: Timestamp,
}

crate::facts! {
    UserRegistered = "user.registered", schedule: |_| None, about: |e| e.user_id.0;
    UserWithdrawn = "user.withdrawn", schedule: |_| None, about: |e| e.user_id.0;
}

/// Sign up.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Register {
    /// Where messages go; one account per address.
    pub email: String,
    /// 10 to 200 characters.
    pub password: String,
}

/// Log in.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LogIn {
    /// The address of the account.
    pub email: String,
    /// Its password.
    pub password: String,
}

/// Exchange a refresh token, once, for a new session.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Refresh {
    /// From the session before.
    pub refresh_token: String,
}

macro_rules! secret_debug {
    ($($name:ident),+) => {$(
        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(concat!(stringify!($name), " { .. }"))
            }
        }
    )+};
}
secret_debug!(Register, LogIn, Refresh, Session);

/// Close the caller's own account; refused while a payment runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Withdraw {}

/// Give an account a role (operator).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GrantRole {
    /// Who gets it.
    pub user_id: UserId,
    /// What.
    pub role: Role,
}

/// The public keys that verify tokens, as a JSON Web Key Set.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Jwks {}

/// A new or renewed session.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Session {
    /// The account.
    pub user_id: UserId,
    /// What it may do.
    pub roles: Vec<Role>,
    /// `Authorization: Bearer …`; an EdDSA JWT.
    pub access_token: String,
    /// Seconds until the access token runs out.
    pub expires_in_secs: u64,
    /// Good for one exchange at `POST /v1/sessions/refresh`.
    pub refresh_token: String,
}

/// What an account is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Account {
    /// The account.
    pub user_id: UserId,
    /// What it may do.
    pub roles: Vec<Role>,
}

crate::commands! {
    Register = "user.register", 201 => Session;
    LogIn = "user.log_in", 201 => Session;
    Refresh = "user.refresh", 201 => Session;
    Withdraw = "user.withdraw", 200 => Account;
    GrantRole = "user.grant_role", 200 => Account;
    Jwks = "user.jwks", 200 => serde_json::Value;
}
