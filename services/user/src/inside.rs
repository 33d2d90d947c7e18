//! Commands of this service to itself: what its endpoints and timers put into a batch.
//!
//! They carry hashes, never a password or a token.

use std::collections::BTreeSet;

use events::{
    AttemptId, UserId,
    user::{Account, Role},
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::domain::Secret;

/// A SHA-256.
pub type Digest = [u8; 32];

/// Makes an account; refused when the address has one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AddAccount {
    /// As somebody typed it, and found to be well-formed.
    pub email: String,
    /// Argon2id, in the PHC format.
    pub password_hash: Secret,
}

/// Makes an account with these roles, or gives them to the account that the address has.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GrantWish {
    /// In the form that all its spellings have.
    pub email: String,
    /// Argon2id, in the PHC format; an account that is there keeps its own.
    pub password_hash: Secret,
    /// Beside `fan`.
    pub roles: BTreeSet<Role>,
}

/// Counts an attempt to log in; refused when too many have failed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BeginLogIn {
    /// SHA-256 of the address.
    pub email_hash: Digest,
}

/// Opens a session.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OpenSession {
    /// Whose.
    pub user_id: UserId,
    /// SHA-256 of its refresh token.
    pub token_hash: Digest,
    /// The log-in that descendants of the token belong to.
    pub family_id: Uuid,
    /// The log-in that has succeeded, whose failures are forgotten.
    pub succeeded: Option<Digest>,
}

/// Exchanges a refresh token for its successor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RotateRefresh {
    /// SHA-256 of the token presented.
    pub presented: Digest,
    /// SHA-256 of the token to take its place.
    pub successor: Digest,
}

/// How an exchange ended. That a stolen token ends its family must be stored, so it
/// cannot be a refusal.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Rotated {
    /// The successor is good.
    Session {
        /// Whose.
        account: Account,
        /// SHA-256 of the token that took its place: another one when this answer was
        /// given before.
        successor: Digest,
    },
    /// Somebody used it before; the family has ended.
    Stolen,
}

/// Refuses an attempt to close an account that was not answered in time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RefuseWithdrawal {
    /// Whose account.
    pub user_id: UserId,
    /// Which attempt.
    pub attempt: AttemptId,
}

/// Deletes a portion of what nobody needs any more.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tidy {}

events::commands! {
    AddAccount = "user.add_account", 201 => Account;
    GrantWish = "user.grant_wish", 200 => Account;
    BeginLogIn = "user.begin_log_in", 200 => ();
    OpenSession = "user.open_session", 201 => Account;
    RotateRefresh = "user.rotate_refresh", 201 => Rotated;
    RefuseWithdrawal = "user.refuse_withdrawal", 200 => ();
    Tidy = "user.tidy", 200 => ();
}
