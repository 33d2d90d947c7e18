//! Tokens: how they are signed and verified, whatever they claim.
//!
//! Every service verifies tokens itself. A [`Verifier`] holds the public keys of the issuers
//! and caches what it has verified, because the same token comes with each request of a fan.
//! What a token is good for is fixed by its type: issuer and audience belong to the
//! [`events::Claims`], so a ticket can never pass for a pass, nor the signer of one issuer for
//! the other. The claims that services exchange are in `events`; only those of an access token
//! are here, because they say who the caller is.

pub(crate) mod callout;
mod key_set;
pub mod keys;
mod seen;
pub(crate) mod signatures;
mod token;
mod verifier;

pub use key_set::FetchKeys;
pub use token::{AccessClaims, LEEWAY_SECS, TokenError};
pub use verifier::Verifier;

#[cfg(test)]
mod tests;
