//! Hashes passwords and creates refresh tokens.

use std::sync::{Arc, OnceLock};

use argon2::{Algorithm, Argon2, Params, PasswordHasher, PasswordVerifier, Version};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use events::{Problem, codes};
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::error;

use crate::{domain::Secret, inside::Digest};

/// Passwords hashed at once: each takes a core and 19 MiB for a while.
const AT_ONCE: usize = 2;
/// Passwords that may be queued for hashing: about three seconds' worth.
const WAITING_MAX: usize = 256;

/// How passwords are hashed, and how many at once.
#[derive(Clone)]
pub struct Hashing {
    argon2: Argon2<'static>,
    running: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// A hash of no known password, to compare with for an address without account.
    decoy: Arc<OnceLock<String>>,
}

impl Default for Hashing {
    /// Argon2id as OWASP recommends it: 19 MiB, two passes, parallelism one.
    fn default() -> Self {
        Self::with(Params::default())
    }
}

impl Hashing {
    /// The weakest parameters, for tests, whose passwords are no secret.
    pub fn weakest() -> Self {
        let params = Params::new(Params::MIN_M_COST, Params::MIN_T_COST, Params::MIN_P_COST, None);
        Self::with(params.unwrap_or_default())
    }

    fn with(params: Params) -> Self {
        Self {
            argon2: Argon2::new(Algorithm::Argon2id, Version::V0x13, params),
            running: Arc::new(Semaphore::new(AT_ONCE)),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            decoy: Arc::default(),
        }
    }

    /// Takes a place in the queue for hashing.
    ///
    /// # Errors
    /// `overloaded` when the queue is full.
    pub fn queue(&self) -> Result<Queued, Problem> {
        match self.waiting.clone().try_acquire_owned() {
            Ok(place) => Ok(Queued { hashing: self.clone(), place }),
            Err(_) => Err(Problem::from(codes::OVERLOADED).with("retry_after_secs", 3)),
        }
    }
}

/// A place in the queue.
pub struct Queued {
    hashing: Hashing,
    place: OwnedSemaphorePermit,
}

impl Queued {
    /// The hash of a new password.
    ///
    /// # Errors
    /// `internal` when the system is out of memory or randomness.
    pub async fn hash(self, password: String) -> Result<Secret, Problem> {
        self.work(move |hashing| hashing.argon2.hash_password(password.as_bytes()))
            .await?
            .map(|hash| Secret(hash.to_string()))
            .map_err(internal)
    }

    /// Whether a password matches this hash. It takes as long without a hash.
    ///
    /// # Errors
    /// `internal` when the system is out of memory.
    pub async fn verify(self, password: String, hash: Option<Secret>) -> Result<bool, Problem> {
        self.work(move |hashing| match hash {
            Some(Secret(hash)) => {
                hashing.argon2.verify_password(password.as_bytes(), hash.as_str()).is_ok()
            }
            None => {
                let hash = hashing.decoy.get_or_init(|| {
                    let password: Digest = rand::random();
                    let hash = hashing.argon2.hash_password(&password);
                    hash.map(|hash| hash.to_string()).unwrap_or_default()
                });
                let _ = hashing.argon2.verify_password(password.as_bytes(), hash.as_str());
                false
            }
        })
        .await
    }

    /// Waits for a permit and runs the work. The work itself returns the permit, for it goes on when
    /// its caller has left.
    async fn work<T: Send + 'static>(
        self,
        work: impl FnOnce(&Hashing) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let Self { hashing, place } = self;
        let permit = hashing.running.clone().acquire_owned().await.map_err(internal)?;
        tokio::task::spawn_blocking(move || {
            let done = work(&hashing);
            drop((permit, place));
            done
        })
        .await
        .map_err(internal)
    }
}

fn internal(cause: impl std::fmt::Display) -> Problem {
    error!(%cause, "a password could not be hashed");
    codes::INTERNAL.into()
}

/// SHA-256, which is enough for what cannot be guessed, and for keys of rows.
pub fn digest(text: &str) -> Digest {
    Sha256::digest(text).into()
}

/// A refresh token of these bytes, or of 32 random ones.
pub fn refresh_token(bytes: Option<[u8; 32]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes.unwrap_or_else(rand::random))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_password_matches_only_its_own_hash() {
        let hashing = Hashing::weakest();
        let hash = hashing.queue().unwrap().hash("correct horse".into()).await.unwrap();
        assert!(hash.0.starts_with("$argon2id$v=19$"));
        let is_right = |password: &str, hash: Option<&Secret>| {
            hashing.queue().unwrap().verify(password.to_owned(), hash.cloned())
        };
        assert!(is_right("correct horse", Some(&hash)).await.unwrap());
        assert!(!is_right("correct horsf", Some(&hash)).await.unwrap());
        assert!(!is_right("correct horse", None).await.unwrap());
        assert!(!is_right("x", Some(&Secret("rubbish".into()))).await.unwrap());
    }

    #[test]
    fn the_default_cost_of_a_hash_is_what_owasp_recommends() {
        let params = Hashing::default().argon2.params().clone();
        assert_eq!((params.m_cost(), params.t_cost(), params.p_cost()), (19_456, 2, 1));
    }

    #[test]
    fn a_full_queue_refuses() {
        let hashing = Hashing::weakest();
        let places: Vec<_> = (0..WAITING_MAX).map(|_| hashing.queue().unwrap()).collect();
        assert!(hashing.queue().err().unwrap().is(codes::OVERLOADED));
        drop(places);
        assert!(hashing.queue().is_ok());
    }

    #[test]
    fn every_refresh_token_is_different() {
        assert_ne!(refresh_token(None), refresh_token(None));
        assert_eq!(refresh_token(Some([7; 32])).len(), 43);
    }
}
