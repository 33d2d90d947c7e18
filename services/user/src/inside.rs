//! Internal commands of this service: its endpoints and timers put them into a batch.
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

/// Creates an account; refused when the address has one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AddAccount {
    /// The address, parsed before.
    pub email: String,
    /// Argon2id, in the PHC format.
    pub password_hash: Secret,
}

/// Creates an account with these roles, or gives them to the existing account of the address.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GrantWish {
    /// The address in the one form for all its spellings.
    pub email: String,
    /// Argon2id, in the PHC format; an existing account keeps its own.
    pub password_hash: Secret,
    /// Roles besides `fan`.
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
    /// The user.
    pub user_id: UserId,
    /// SHA-256 of its refresh token.
    pub token_hash: Digest,
    /// The log-in that descendants of the token belong to.
    pub family_id: Uuid,
    /// SHA-256 of the address that has logged in, whose failures are cleared.
    pub succeeded: Option<Digest>,
}

/// Exchanges a refresh token for its successor.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RotateRefresh {
    /// SHA-256 of the token presented.
    pub presented: Digest,
    /// SHA-256 of its successor.
    pub successor: Digest,
}

/// How an exchange ended. A stolen token ends its family, which must be stored, so it cannot be a
/// refusal.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Rotated {
    /// The successor is valid.
    Session {
        /// The account of the session.
        account: Account,
        /// SHA-256 of the successor: of another token when this is the stored answer of a repeat.
        successor: Digest,
    },
    /// The token was used before; the family has ended.
    Stolen,
}

/// Refuses an attempt to close an account that was not answered in time.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct RefuseWithdrawal {
    /// The user of the account.
    pub user_id: UserId,
    /// The attempt.
    pub attempt: AttemptId,
}

/// Deletes some of the expired rows.
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
