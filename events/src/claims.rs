//! What signed tokens claim.

use serde::{Serialize, de::DeserializeOwned};

/// The claims of one kind of token, and its only issuer.
pub trait Claims: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    /// `iss`: the only signer of this kind.
    const ISSUER: &'static str;
    /// `aud`: what this kind is good for.
    const AUDIENCE: &'static str;
    /// The endpoint at which its issuer publishes the public keys.
    const KEYS: &'static str;

    /// `exp`, in seconds since 1970; `None` for a token that never expires.
    fn exp(&self) -> Option<i64>;
}
