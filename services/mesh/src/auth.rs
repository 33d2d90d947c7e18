//! Tokens: what they claim, and how they are verified.
//!
//! Every service verifies tokens itself. A [`Verifier`] holds the public keys of both
//! issuers and caches what it has verified, because the same token comes with each
//! request of a fan. What a token is good for is fixed by its type: issuer and audience
//! belong to the [`Claims`], so a ticket can never pass for a pass, nor the signer of one
//! issuer for the other.

pub(crate) mod callout;
mod key_set;
pub mod keys;
mod seen;
pub(crate) mod signatures;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex};

use events::{Command, Problem, ScheduleId, Timestamp, UserId, codes, queue, user};
use futures::future::BoxFuture;
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::Caller;
use key_set::KeySet;
use seen::{Seen, digest};

/// Clocks of two machines may differ by this much.
pub const LEEWAY_SECS: i64 = 2;

/// No token of ours is longer; a longer one is refused before it costs anything.
const TOKEN_BYTES_MAX: usize = 4_096;

/// Fetches the key set from an endpoint (`user.jwks`, `queue.jwks`).
pub type FetchKeys = Arc<
    dyn Fn(&'static str) -> BoxFuture<'static, Result<serde_json::Value, Problem>> + Send + Sync,
>;

/// The claims of one kind of token, and its only issuer.
pub trait Claims: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    /// `iss`: the only signer of this kind.
    const ISSUER: &'static str;
    /// `aud`: what this kind is good for.
    const AUDIENCE: &'static str;

    /// `exp`, in seconds since 1970; `None` for a token that never expires.
    fn exp(&self) -> Option<i64>;
}

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
        let iat = unix_secs(now);
        Self { sub, roles, iat, exp: iat + life_secs }
    }

    fn caller(self) -> Result<Caller, TokenError> {
        let expires_at = Timestamp::from_unix_millis(self.exp.saturating_mul(1_000));
        let expires_at = expires_at.ok_or(TokenError::Forged)?;
        Ok(Caller::User { user_id: self.sub, roles: self.roles, expires_at })
    }
}

impl Claims for AccessClaims {
    const ISSUER: &'static str = "onsale/user";
    const AUDIENCE: &'static str = "onsale";
    fn exp(&self) -> Option<i64> {
        Some(self.exp)
    }
}

/// A pass: the right to reserve and pay, while the place is ACTIVE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassClaims {
    /// The owner of the place.
    pub sub: UserId,
    /// The schedule of the waiting room.
    pub schedule: ScheduleId,
    /// Fences a pass of an earlier activation.
    pub place_version: u64,
    /// When it was signed, in seconds since 1970.
    pub iat: i64,
    /// Until when the fan may reserve, in seconds since 1970.
    pub exp: i64,
}

impl PassClaims {
    /// A pass from now until `reserve_until`.
    pub fn new(
        sub: UserId,
        schedule: ScheduleId,
        place_version: u64,
        now: Timestamp,
        reserve_until: Timestamp,
    ) -> Self {
        let (iat, exp) = (unix_secs(now), unix_secs(reserve_until));
        Self { sub, schedule, place_version, iat, exp }
    }
}

impl Claims for PassClaims {
    const ISSUER: &'static str = "onsale/queue";
    const AUDIENCE: &'static str = "onsale/pass";
    fn exp(&self) -> Option<i64> {
        Some(self.exp)
    }
}

/// A ticket: proof of a number in the queue, good for as long as its key is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TicketClaims {
    /// The owner of the number.
    pub sub: UserId,
    /// The schedule of the waiting room.
    pub schedule: ScheduleId,
    /// The number.
    pub ticket: u64,
}

impl Claims for TicketClaims {
    const ISSUER: &'static str = "onsale/queue";
    const AUDIENCE: &'static str = "onsale/ticket";
    fn exp(&self) -> Option<i64> {
        None
    }
}

/// Claims with their issuer and audience: the body of a token.
#[derive(Serialize)]
pub(crate) struct Sealed<'a, C> {
    iss: &'static str,
    aud: &'static str,
    #[serde(flatten)]
    claims: &'a C,
}

impl<'a, C: Claims> Sealed<'a, C> {
    pub(crate) fn new(claims: &'a C) -> Self {
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
pub(crate) fn verify<C: Claims>(
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

fn in_time<C: Claims>(claims: &C, now: Timestamp) -> Result<(), TokenError> {
    match claims.exp() {
        Some(exp) if unix_secs(now) >= exp.saturating_add(LEEWAY_SECS) => Err(TokenError::Expired),
        _ => Ok(()),
    }
}

fn unix_secs(at: Timestamp) -> i64 {
    at.unix_millis().div_euclid(1_000)
}

/// Verifies the tokens of both issuers.
pub struct Verifier {
    access: Gate<AccessClaims>,
    pass: Gate<PassClaims>,
}

/// One kind of token: the keys of its issuer, and the tokens verified before.
struct Gate<C> {
    keys: Arc<KeySet>,
    seen: Mutex<Seen<C>>,
}

impl Verifier {
    /// A verifier that gets keys through `fetch`. It starts without any: the first token, or
    /// [`Verifier::warm`], fetches them.
    pub fn new(fetch: FetchKeys) -> Self {
        Self {
            access: Gate::new(KeySet::new(user::Jwks::ENDPOINT, fetch.clone())),
            pass: Gate::new(KeySet::new(queue::Jwks::ENDPOINT, fetch)),
        }
    }

    /// Fetches both key sets. This only speeds up the first calls, so an issuer that is not
    /// up yet is not a failure.
    pub async fn warm(&self, now: Timestamp) {
        let both = futures::join!(self.access.keys.refresh(now), self.pass.keys.refresh(now));
        if let (Err(error), _) | (_, Err(error)) = both {
            tracing::debug!(%error, "keys cannot be fetched yet");
        }
    }

    /// The caller behind an access token, fetching its key when it is new.
    ///
    /// # Errors
    /// `token_expired`, `unauthenticated`, or `unavailable` while its key cannot be fetched.
    pub async fn access(&self, token: &str, now: Timestamp) -> Result<Caller, Problem> {
        Ok(self.access.check(token, now).await?.caller()?)
    }

    /// The caller behind an access token, by the keys already loaded: for code that must not
    /// wait. A new key is fetched in the background.
    ///
    /// # Errors
    /// What is wrong with it; after `KeyUnknown` try again shortly, or use
    /// [`Verifier::access`].
    pub fn try_access(&self, token: &str, now: Timestamp) -> Result<Caller, TokenError> {
        self.access.try_check(token, now)?.caller()
    }

    /// What a pass grants, fetching its key when it is new.
    ///
    /// # Errors
    /// What is wrong with it; the caller decides how to word it.
    pub async fn pass(&self, token: &str, now: Timestamp) -> Result<PassClaims, TokenError> {
        self.pass.check(token, now).await
    }

    /// What a pass grants, by the keys already loaded: for code that must not wait. A new key
    /// is fetched in the background.
    ///
    /// # Errors
    /// What is wrong with it; after `KeyUnknown` try again shortly.
    pub fn try_pass(&self, token: &str, now: Timestamp) -> Result<PassClaims, TokenError> {
        self.pass.try_check(token, now)
    }
}

impl<C: Claims> Gate<C> {
    fn new(keys: KeySet) -> Self {
        Self { keys: Arc::new(keys), seen: Mutex::new(Seen::default()) }
    }

    async fn check(&self, token: &str, now: Timestamp) -> Result<C, TokenError> {
        match self.known(token, now) {
            Err(TokenError::KeyUnknown) => {
                self.keys.refresh(now).await.map_err(|_| TokenError::Unavailable)?;
                // The set is as new as it may be, and this key is not in it.
                self.known(token, now).map_err(|error| match error {
                    TokenError::KeyUnknown => TokenError::Forged,
                    error => error,
                })
            }
            verdict => verdict,
        }
    }

    fn try_check(&self, token: &str, now: Timestamp) -> Result<C, TokenError> {
        self.known(token, now).map_err(|error| match (error, self.keys.just_tried(now)) {
            (TokenError::KeyUnknown, Some(Ok(()))) => TokenError::Forged,
            (TokenError::KeyUnknown, Some(Err(_))) => TokenError::Unavailable,
            (TokenError::KeyUnknown, None) => {
                self.keys.refresh_in_background(now);
                TokenError::KeyUnknown
            }
            (error, _) => error,
        })
    }

    /// Verifies a token by the keys already loaded, or finds it in the cache.
    fn known(&self, token: &str, now: Timestamp) -> Result<C, TokenError> {
        let (name, edition) = (digest(token), self.keys.edition());
        if let Some(claims) = self.seen().get(&name, edition) {
            return in_time(&claims, now).map(|()| claims);
        }
        let claims = verify::<C>(token, now, |kid| self.keys.get(kid))?;
        self.seen().put(name, edition, claims.clone());
        if self.keys.is_stale(now) {
            self.keys.refresh_in_background(now);
        }
        Ok(claims)
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen<C>> {
        // A panic while the lock was held does not spoil a cache.
        self.seen.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}
