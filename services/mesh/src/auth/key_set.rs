//! The public keys of one issuer, fetched when a token names an unknown one.

use std::{
    collections::HashMap,
    sync::{Arc, RwLock, RwLockReadGuard},
    time::Duration,
};

use events::{Problem, Timestamp, codes};
use futures::future::BoxFuture;
use jsonwebtoken::{
    DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet},
};
use tokio::sync::{Mutex, OwnedMutexGuard};

/// The least interval between two fetches, however many forged key ids are tried.
const FETCH_EVERY_MS: i64 = 1_000;
/// How long an issuer may take to answer.
const FETCH_TIMEOUT: Duration = Duration::from_secs(5);
/// The age at which the set is fetched again even if no new key id appears, so that keys removed
/// from it are removed here too. It is shorter than a new key's lead: while tokens keep coming,
/// a new key is known before it signs, and no request waits for it.
const STALE_AFTER_SECS: i64 = 240;
/// Keys of a set at most; more than any rotation leaves.
const KEYS_MAX: usize = 64;

/// Fetches the key set from an endpoint (`user.jwks`, `queue.jwks`).
pub type FetchKeys = Arc<
    dyn Fn(&'static str) -> BoxFuture<'static, Result<serde_json::Value, Problem>> + Send + Sync,
>;

/// The public keys of one issuer.
pub(super) struct KeySet {
    endpoint: &'static str,
    fetch: FetchKeys,
    known: RwLock<Known>,
    /// Held while fetching: others that need the same keys meanwhile wait for the same answer.
    fetching: Arc<Mutex<()>>,
}

#[derive(Default)]
struct Known {
    keys: HashMap<String, DecodingKey>,
    /// Incremented when a key leaves the set.
    edition: u64,
    fetched_at: Option<Timestamp>,
    tried: Option<(Timestamp, Result<(), Problem>)>,
}

impl KeySet {
    pub(super) fn new(endpoint: &'static str, fetch: FetchKeys) -> Self {
        Self { endpoint, fetch, known: RwLock::default(), fetching: Arc::default() }
    }

    /// The key of this id, if it has been fetched.
    pub(super) fn get(&self, kid: &str) -> Option<DecodingKey> {
        self.known().keys.get(kid).cloned()
    }

    /// A number that changes when a key leaves the set.
    pub(super) fn edition(&self) -> u64 {
        self.known().edition
    }

    /// Whether keys may have left the set unnoticed.
    pub(super) fn is_stale(&self, now: Timestamp) -> bool {
        self.known().fetched_at.is_none_or(|at| now > at.plus_secs(STALE_AFTER_SECS))
    }

    /// The outcome of the last fetch, if it is too recent for another one.
    pub(super) fn just_tried(&self, now: Timestamp) -> Option<Result<(), Problem>> {
        let known = self.known();
        let (at, outcome) = known.tried.as_ref()?;
        (now < at.plus_millis(FETCH_EVERY_MS)).then(|| outcome.clone())
    }

    /// Fetches the set, or waits for the fetch that is already running.
    pub(super) async fn refresh(&self, now: Timestamp) -> Result<(), Problem> {
        let guard = self.fetching.clone().lock_owned().await;
        match self.just_tried(now) {
            Some(outcome) => outcome,
            None => self.fetch(guard, now).await,
        }
    }

    /// Fetches the set in the background; does nothing if it is being fetched already.
    pub(super) fn refresh_in_background(self: &Arc<Self>, now: Timestamp) {
        let Ok(guard) = self.fetching.clone().try_lock_owned() else {
            return;
        };
        if self.just_tried(now).is_none() {
            let set = self.clone();
            tokio::spawn(async move { set.fetch(guard, now).await });
        }
    }

    async fn fetch(&self, _guard: OwnedMutexGuard<()>, now: Timestamp) -> Result<(), Problem> {
        let answer = tokio::time::timeout(FETCH_TIMEOUT, (self.fetch)(self.endpoint)).await;
        let outcome = answer
            .unwrap_or_else(|_| Err(codes::TIMED_OUT.into()))
            .and_then(|set| read(set).ok_or_else(|| codes::INTERNAL.into()))
            .map(|keys| self.replace(keys, now));
        // Why they are unavailable was logged where they were asked for.
        if let Err(error) = &outcome
            && !error.is(codes::UNAVAILABLE)
        {
            tracing::warn!(endpoint = self.endpoint, %error, "keys cannot be fetched");
        }
        self.known_mut().tried = Some((now, outcome.clone()));
        outcome
    }

    fn replace(&self, keys: HashMap<String, DecodingKey>, now: Timestamp) {
        let mut known = self.known_mut();
        if known.keys.keys().any(|kid| !keys.contains_key(kid)) {
            known.edition += 1;
        }
        known.keys = keys;
        known.fetched_at = Some(now);
    }

    fn known(&self) -> RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn known_mut(&self) -> std::sync::RwLockWriteGuard<'_, Known> {
        self.known.write().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// The Ed25519 keys of a set, by id; `None` when it is no key set at all.
fn read(set: serde_json::Value) -> Option<HashMap<String, DecodingKey>> {
    let set: JwkSet = serde_json::from_value(set).ok()?;
    Some(set.keys.iter().take(KEYS_MAX).filter_map(ed25519).collect())
}

fn ed25519(jwk: &Jwk) -> Option<(String, DecodingKey)> {
    let AlgorithmParameters::OctetKeyPair(pair) = &jwk.algorithm else {
        return None;
    };
    if pair.curve != EllipticCurve::Ed25519 {
        return None;
    }
    let key = DecodingKey::from_ed_components(&pair.x).ok()?;
    (key.try_get_as_bytes().ok()?.len() == 32).then_some((jwk.common.key_id.clone()?, key))
}
