//! Verifies tokens of any kind, with the keys that their issuers publish.

use std::{
    any::{Any, TypeId},
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use events::{Claims, Problem, Timestamp};

use super::{
    key_set::{FetchKeys, KeySet},
    seen::{Seen, digest},
    token::{AccessClaims, TokenError, in_time, verify},
};
use crate::Caller;

/// Verifies tokens of any kind.
pub struct Verifier {
    fetch: FetchKeys,
    /// The [`Gate`] of each kind of token that was verified before.
    gates: RwLock<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>,
}

/// One kind of token: the keys of its issuer, and the tokens verified before.
pub(super) struct Gate<C> {
    pub(super) keys: Arc<KeySet>,
    seen: Mutex<Seen<C>>,
}

impl Verifier {
    /// A verifier that gets keys through `fetch`. It starts without any: the first token of a
    /// kind fetches those of its issuer.
    pub fn new(fetch: FetchKeys) -> Self {
        Self { fetch, gates: RwLock::default() }
    }

    /// What a token claims, fetching its key when it is new.
    ///
    /// # Errors
    /// What is wrong with it; the caller decides how to word it.
    pub async fn verify<C: Claims>(&self, token: &str, now: Timestamp) -> Result<C, TokenError> {
        self.gate::<C>().check(token, now).await
    }

    /// The caller behind an access token.
    ///
    /// # Errors
    /// `token_expired`, `unauthenticated`, or `unavailable` while its key cannot be fetched.
    pub async fn access(&self, token: &str, now: Timestamp) -> Result<Caller, Problem> {
        Ok(self.verify::<AccessClaims>(token, now).await?.caller()?)
    }

    pub(super) fn gate<C: Claims>(&self) -> Arc<Gate<C>> {
        let kind = TypeId::of::<C>();
        let known = self.gates.read().unwrap_or_else(PoisonError::into_inner).get(&kind).cloned();
        let gate = known.unwrap_or_else(|| {
            let mut gates = self.gates.write().unwrap_or_else(PoisonError::into_inner);
            let new = || Arc::new(Gate::<C>::new(KeySet::new(C::KEYS, self.fetch.clone())));
            gates.entry(kind).or_insert_with(|| new()).clone()
        });
        gate.downcast().expect("a gate is kept under the type of its claims")
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

    fn seen(&self) -> MutexGuard<'_, Seen<C>> {
        // A panic while the lock was held does not spoil a cache.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
