//! The configuration of this service.

use crate::{domain::LogInLimit, ring::Ring, secrets::Hashing};

/// How long the other services may take to answer an attempt to close an account.
const WITHDRAWAL_SECS: i64 = 30;
/// An access token's life, and so how long a withdrawn role or closed account stays usable.
const ACCESS_SECS: i64 = 15 * 60;
/// A refresh token's life.
const REFRESH_SECS: i64 = 30 * 86_400;

/// The configuration of this service, and the keyring it signs with.
pub struct Config {
    /// Seconds a refresh token is valid.
    pub refresh_secs: i64,
    /// How many log-ins may fail.
    pub log_ins: LogInLimit,
    /// How passwords are hashed.
    pub hashing: Hashing,
    /// Seconds after which an attempt to close an account is refused, unless all services have
    /// answered.
    pub withdrawal_secs: i64,
    access_secs: i64,
    ring: Ring,
}

impl Default for Config {
    fn default() -> Self {
        Self::with_access_secs(ACCESS_SECS)
    }
}

impl Config {
    /// The default configuration, with another life of access tokens.
    pub fn with_access_secs(access_secs: i64) -> Self {
        Self {
            refresh_secs: REFRESH_SECS,
            log_ins: LogInLimit::default(),
            hashing: Hashing::default(),
            withdrawal_secs: WITHDRAWAL_SECS,
            access_secs,
            ring: Ring::new(access_secs),
        }
    }

    /// Seconds an access token is valid.
    pub fn access_secs(&self) -> i64 {
        self.access_secs
    }

    /// The keyring that access tokens are signed with.
    pub(crate) fn ring(&self) -> &Ring {
        &self.ring
    }
}
