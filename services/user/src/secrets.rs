//! Passwords hashed, tokens made.

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
/// Passwords that may wait for their turn: about three seconds' worth.
const WAITING_MAX: usize = 256;

/// How passwords are hashed, and how many at once.
#[derive(Clone)]
pub struct Hashing {
    argon2: Argon2<'static>,
    turns: Arc<Semaphore>,
    waiting: Arc<Semaphore>,
    /// A hash that no password has, to be compared with for an address without account.
    nobodys: Arc<OnceLock<String>>,
}

impl Default for Hashing {
    /// Argon2id as OWASP recommends it: 19 MiB, two passes, one lane.
    fn default() -> Self {
        Self::with(Params::default())
    }
}

impl Hashing {
    /// The weakest there is. For tests, whose passwords are no secret.
    pub fn weakest() -> Self {
        let params = Params::new(Params::MIN_M_COST, Params::MIN_T_COST, Params::MIN_P_COST, None);
        Self::with(params.unwrap_or_default())
    }

    fn with(params: Params) -> Self {
        Self {
            argon2: Argon2::new(Algorithm::Argon2id, Version::V0x13, params),
            turns: Arc::new(Semaphore::new(AT_ONCE)),
            waiting: Arc::new(Semaphore::new(WAITING_MAX)),
            nobodys: Arc::default(),
        }
    }

    /// A place in the line of those whose password is to be hashed.
    ///
    /// # Errors
    /// `overloaded` when the line is full.
    pub fn queue(&self) -> Result<Queued, Problem> {
        match self.waiting.clone().try_acquire_owned() {
            Ok(place) => Ok(Queued { hashing: self.clone(), place }),
            Err(_) => Err(Problem::from(codes::OVERLOADED).with("retry_after_secs", 3)),
        }
    }
}

/// A place in the line.
pub struct Queued {
    hashing: Hashing,
    place: OwnedSemaphorePermit,
}

impl Queued {
    /// The hash of a new password.
    ///
    /// # Errors
    /// `internal` when the system has neither memory nor randomness to give.
    pub async fn hash(self, password: String) -> Result<Secret, Problem> {
        self.work(move |hashing| hashing.argon2.hash_password(password.as_bytes()))
            .await?
            .map(|hash| Secret(hash.to_string()))
            .map_err(internal)
    }

    /// Whether a password is the one of this hash. Takes as long when there is none.
    ///
    /// # Errors
    /// `internal` when the system has no memory to give.
    pub async fn verify(self, password: String, hash: Option<Secret>) -> Result<bool, Problem> {
        self.work(move |hashing| match hash {
            Some(Secret(hash)) => {
                hashing.argon2.verify_password(password.as_bytes(), hash.as_str()).is_ok()
            }
            None => {
                let hash = hashing.nobodys.get_or_init(|| {
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

    /// Waits for a turn. The work ends its turn itself: it goes on though its caller left.
    async fn work<T: Send + 'static>(
        self,
        work: impl FnOnce(&Hashing) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let Self { hashing, place } = self;
        let turn = hashing.turns.clone().acquire_owned().await.map_err(internal)?;
        tokio::task::spawn_blocking(move || {
            let done = work(&hashing);
            drop((turn, place));
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

/// SHA-256, which is enough for what cannot be guessed, and for names of rows.
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
    async fn a_password_is_right_for_its_own_hash_only() {
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
    fn by_default_a_hash_costs_what_owasp_recommends() {
        let params = Hashing::default().argon2.params().clone();
        assert_eq!((params.m_cost(), params.t_cost(), params.p_cost()), (19_456, 2, 1));
    }

    #[test]
    fn a_full_line_turns_away() {
        let hashing = Hashing::weakest();
        let line: Vec<_> = (0..WAITING_MAX).map(|_| hashing.queue().unwrap()).collect();
        assert!(hashing.queue().err().unwrap().is(codes::OVERLOADED));
        drop(line);
        assert!(hashing.queue().is_ok());
    }

    #[test]
    fn no_two_refresh_tokens_are_alike() {
        assert_ne!(refresh_token(None), refresh_token(None));
        assert_eq!(refresh_token(Some([7; 32])).len(), 43);
    }
}
