//! One token: its envelope around the claims, and how it is verified.

use events::{Claims, Command, Problem, Timestamp, UserId, codes, user};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::{Deserialize, Serialize};

use super::signatures;
use crate::Caller;

/// Clocks of two machines may differ by this much.
pub const LEEWAY_SECS: i64 = 2;

/// No token of ours is longer; a longer one is refused before it costs anything.
const TOKEN_BYTES_MAX: usize = 4_096;

/// An access token: identifies the caller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessClaims {
    /// The account.
    pub sub: UserId,
    /// What it may do.
    pub roles: Vec<user::Role>,
    /// When it was signed, in seconds since 1970.
    pub iat: i64,
    /// When it expires, in seconds since 1970.
    pub exp: i64,
}

impl AccessClaims {
    /// Claims that are valid for `life_secs` from now.
    pub fn new(sub: UserId, roles: Vec<user::Role>, now: Timestamp, life_secs: i64) -> Self {
        let iat = now.unix_secs();
        Self { sub, roles, iat, exp: iat + life_secs }
    }

    pub(super) fn caller(self) -> Result<Caller, TokenError> {
        let expires_at = Timestamp::from_unix_millis(self.exp.saturating_mul(1_000));
        let expires_at = expires_at.ok_or(TokenError::Forged)?;
        Ok(Caller::User { user_id: self.sub, roles: self.roles, expires_at })
    }
}

impl Claims for AccessClaims {
    const ISSUER: &'static str = "onsale/user";
    const AUDIENCE: &'static str = "onsale";
    const KEYS: &'static str = user::Jwks::ENDPOINT;
    fn exp(&self) -> Option<i64> {
        Some(self.exp)
    }
}

/// Claims with their issuer and audience: the body of a token.
#[derive(Serialize)]
pub(super) struct Sealed<'a, C> {
    iss: &'static str,
    aud: &'static str,
    #[serde(flatten)]
    claims: &'a C,
}

impl<'a, C: Claims> Sealed<'a, C> {
    pub(super) fn new(claims: &'a C) -> Self {
        Self { iss: C::ISSUER, aud: C::AUDIENCE, claims }
    }
}

/// Why a token is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It is not one of ours: unreadable, altered, or made for something else.
    #[error("the token is not valid")]
    Forged,
    /// It was valid once.
    #[error("the token has expired")]
    Expired,
    /// Its key is not known yet and is being fetched; try again shortly.
    #[error("the key of the token is being fetched")]
    KeyUnknown,
    /// Its key is not known yet and cannot be fetched right now.
    #[error("the keys to verify the token cannot be fetched")]
    Unavailable,
}

impl From<TokenError> for Problem {
    fn from(error: TokenError) -> Self {
        match error {
            TokenError::Forged => {
                Self::new(codes::UNAUTHENTICATED, "The token is not valid; log in again.")
                    .with("field", "Authorization")
            }
            TokenError::Expired => Self::from(codes::TOKEN_EXPIRED).with("field", "Authorization"),
            TokenError::KeyUnknown | TokenError::Unavailable => {
                Self::new(codes::UNAVAILABLE, "The token cannot be verified right now.")
                    .with("retry_after_secs", 1)
            }
        }
    }
}

/// Verifies a token with the key that its header names.
///
/// The signature is checked first: only a caller with a genuine token may learn that it has
/// expired.
pub(super) fn verify<C: Claims>(
    token: &str,
    now: Timestamp,
    key: impl FnOnce(&str) -> Option<DecodingKey>,
) -> Result<C, TokenError> {
    if token.len() > TOKEN_BYTES_MAX {
        return Err(TokenError::Forged);
    }
    signatures::install();
    let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Forged)?;
    // We choose the algorithm, never the token: `none`, or a public key used as an HMAC
    // secret, is refused here.
    if header.alg != Algorithm::EdDSA {
        return Err(TokenError::Forged);
    }
    let key = header.kid.as_deref().map(key).ok_or(TokenError::Forged)?;
    let key = key.ok_or(TokenError::KeyUnknown)?;
    let mut wanted = Validation::new(Algorithm::EdDSA);
    wanted.set_issuer(&[C::ISSUER]);
    wanted.set_audience(&[C::AUDIENCE]);
    wanted.set_required_spec_claims(&["iss", "aud"]);
    // The library would read the system clock; `in_time` uses the caller's time.
    wanted.validate_exp = false;
    let opened = jsonwebtoken::decode::<C>(token, &key, &wanted);
    let claims = opened.map_err(|_| TokenError::Forged)?.claims;
    in_time(&claims, now)?;
    Ok(claims)
}

/// Whether claims that were verified before are still valid.
pub(super) fn in_time<C: Claims>(claims: &C, now: Timestamp) -> Result<(), TokenError> {
    match claims.exp() {
        Some(exp) if now.unix_secs() >= exp.saturating_add(LEEWAY_SECS) => Err(TokenError::Expired),
        _ => Ok(()),
    }
}
