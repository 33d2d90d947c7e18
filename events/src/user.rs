//! Accounts, sessions and roles.

use serde::{Deserialize, Serialize};

use crate::{AttemptId, Timestamp, UserId, withdrawal::WithdrawalReason};

/// What an account may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Buys seats. Every account is a fan.
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
    /// When it was made.
    pub at: Timestamp,
}

/// `user.withdrawal_requested`: the owner of an account wants it closed; every service with
/// something at stake answers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UserWithdrawalRequested {
    /// The account.
    pub user_id: UserId,
    /// The attempt, which every answer must name.
    pub attempt: AttemptId,
    /// Whether points and tickets are given up.
    pub forfeit: bool,
    /// When it was requested.
    pub at: Timestamp,
}

/// `user.withdrawal_refused`: the account stays open; services that had cleared the attempt
/// open it again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UserWithdrawalRefused {
    /// The account.
    pub user_id: UserId,
    /// The attempt.
    pub attempt: AttemptId,
    /// Why it was refused.
    pub reasons: Vec<WithdrawalReason>,
    /// When it was refused.
    pub at: Timestamp,
}

/// `user.withdrawn`: an account was closed by its owner.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UserWithdrawn {
    /// The closed account.
    pub user_id: UserId,
    /// The attempt that closed it.
    pub attempt: AttemptId,
    /// Whether points and tickets are given up.
    pub forfeit: bool,
    /// When it was closed.
    pub at: Timestamp,
}

/// `user.role_granted`: an account may do more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UserRoleGranted {
    /// The account.
    pub user_id: UserId,
    /// The role that was granted.
    pub role: Role,
    /// The operator who granted it; absent when it came with the installation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<UserId>,
    /// When it was granted.
    pub at: Timestamp,
}

crate::events! {
    UserRegistered = "user.registered", schedule: |_| None, about: |e| e.user_id.0;
    UserWithdrawalRequested = "user.withdrawal_requested", schedule: |_| None, about: |e| e.user_id.0;
    UserWithdrawalRefused = "user.withdrawal_refused", schedule: |_| None, about: |e| e.user_id.0;
    UserWithdrawn = "user.withdrawn", schedule: |_| None, about: |e| e.user_id.0;
    UserRoleGranted = "user.role_granted", schedule: |_| None, about: |e| e.user_id.0;
}

/// Sign up.
#[derive(Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Register {
    /// The e-mail address of the account; one account per address, however it is spelled.
    pub email: String,
    /// 10 to 200 characters; the same on every keyboard.
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
    /// The refresh token of the session before.
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

/// Close the caller's own account.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default)]
pub struct Withdraw {
    /// Close it even when points, or tickets for shows to come, are lost.
    pub forfeit: bool,
}

/// Read one of the caller's attempts to close the account.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GetWithdrawal {
    /// The attempt.
    pub attempt: AttemptId,
}

/// The state of an attempt to close an account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum WithdrawalState {
    /// The services with something at stake are asked.
    Requested,
    /// The account is closed.
    Completed,
    /// The account stays open; `reasons` say why.
    Refused,
}

/// An attempt to close an account.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Withdrawal {
    /// Its id, and the id of its saga.
    pub attempt: AttemptId,
    /// The account.
    pub user_id: UserId,
    /// Whether points and tickets are given up.
    pub forfeit: bool,
    /// Its state.
    pub state: WithdrawalState,
    /// Why it was refused.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub reasons: Vec<WithdrawalReason>,
    /// When it was requested.
    pub requested_at: Timestamp,
    /// When it was decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<Timestamp>,
}

/// Give an account a role (operator).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct GrantRole {
    /// The account that gets it.
    pub user_id: UserId,
    /// The role.
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
    /// Its roles.
    pub roles: Vec<Role>,
    /// `Authorization: Bearer …`; an EdDSA JWT.
    pub access_token: String,
    /// Seconds until the access token runs out.
    pub expires_in_secs: u64,
    /// Good for one exchange at `POST /v1/sessions/refresh`.
    pub refresh_token: String,
}

/// An account and its roles.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Account {
    /// The account.
    pub user_id: UserId,
    /// Its roles.
    pub roles: Vec<Role>,
}

crate::commands! {
    Register = "user.register", 201 => Session, owner: |c| c.email.trim().to_lowercase();
    LogIn = "user.log_in", 201 => Session, owner: |c| c.email.trim().to_lowercase();
    Refresh = "user.refresh", 201 => Session, owner: |c| c.refresh_token.clone();
    Withdraw = "user.withdraw", 202 => Withdrawal;
    GetWithdrawal = "user.get_withdrawal", 200 => Withdrawal;
    GrantRole = "user.grant_role", 200 => Account;
    Jwks = "user.jwks", 200 => serde_json::Value;
}
