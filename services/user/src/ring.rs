//! The keyring of this issuer: stored in PostgreSQL, cached in memory, rotated by the first instance
//! that finds a rotation due.

use std::sync::{Arc, RwLock};

use events::{Problem, Timestamp};
use mesh::keys::{KeyError, KeyLife, Keyring};
use sqlx::PgPool;
use tokio::sync::Mutex;
use tracing::{info, warn};

use crate::signing_keys;

/// The keyring is loaded again after this long, well within a new key's lead time.
const RELOAD_SECS: i64 = 60;

/// The cached keyring.
pub struct Ring {
    life: KeyLife,
    loaded: RwLock<Option<(Timestamp, Arc<Keyring>)>>,
    loading: Mutex<()>,
}

/// Why there is no keyring.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// The database does not answer.
    #[error("the signing keys cannot be read: {0}")]
    Store(#[from] sqlx::Error),
    /// A stored key is broken, or none can be created.
    #[error("the signing keys cannot be used: {0}")]
    Key(#[from] KeyError),
    /// The task that rotates them was ended.
    #[error("the signing keys were not rotated")]
    Ended,
}

impl Ring {
    /// An empty keyring for tokens of at most this life; it is loaded when first needed.
    pub fn new(token_secs: i64) -> Self {
        let life = KeyLife::daily(token_secs);
        Self { life, loaded: RwLock::default(), loading: Mutex::default() }
    }

    /// The keyring. When it is due to be loaded again, one caller does so and the others use the
    /// cached one. While the database is away, all use the cached one.
    ///
    /// # Errors
    /// `unavailable` when it has never been loaded and cannot be.
    pub async fn get(&self, pool: &PgPool, now: Timestamp) -> Result<Arc<Keyring>, Problem> {
        let held = self.held();
        if let Some((at, ring)) = &held
            && now < at.plus_secs(RELOAD_SECS)
        {
            return Ok(ring.clone());
        }
        let guard = match &held {
            Some((_, ring)) => match self.loading.try_lock() {
                Ok(guard) => guard,
                Err(_) => return Ok(ring.clone()),
            },
            None => self.loading.lock().await,
        };
        // A caller that waited finds the keyring loaded.
        if let Some((at, ring)) = self.held()
            && now < at.plus_secs(RELOAD_SECS)
        {
            return Ok(ring);
        }
        let loaded = self.load(pool, now).await;
        drop(guard);
        match (loaded, held) {
            (Ok(ring), _) => Ok(ring),
            (Err(error), Some((_, ring))) => {
                warn!(%error, "the signing keys cannot be loaded again; using the cached ones");
                Ok(ring)
            }
            (Err(error), None) => Err(unsigned(error)),
        }
    }

    /// Loads the keyring, and rotates it when that is due.
    ///
    /// # Errors
    /// When the database does not answer, or a key is broken.
    pub async fn load(&self, pool: &PgPool, now: Timestamp) -> Result<Arc<Keyring>, RingError> {
        let mut ring = Keyring::open(signing_keys::load(pool).await?, self.life)?;
        if !ring.due(now).is_nothing() {
            let (pool, life) = (pool.clone(), self.life);
            // A transaction whose future is dropped would go back to the pool open.
            let rotating = tokio::spawn(async move { rotate(&pool, life, now).await });
            ring = rotating.await.map_err(|_| RingError::Ended)??;
        }
        let ring = Arc::new(ring);
        *self.loaded.write().unwrap_or_else(|poisoned| poisoned.into_inner()) =
            Some((now, ring.clone()));
        Ok(ring)
    }

    fn held(&self) -> Option<(Timestamp, Arc<Keyring>)> {
        self.loaded.read().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }
}

/// The problem that no token can be signed.
pub fn unsigned(cause: impl std::fmt::Display) -> Problem {
    mesh::away("Access tokens cannot be signed right now.", cause)
}

/// Rotates the keys. When two instances find a rotation due at once, the second waits for the
/// lock, loads what the first has stored, and finds nothing left to do.
async fn rotate(pool: &PgPool, life: KeyLife, now: Timestamp) -> Result<Keyring, RingError> {
    let mut tx = pool.begin().await?;
    signing_keys::lock(&mut tx).await?;
    let mut ring = Keyring::open(signing_keys::load(&mut *tx).await?, life)?;
    let rotation = ring.rotate(now)?;
    signing_keys::save(&mut tx, &rotation).await?;
    tx.commit().await?;
    if let Some(key) = rotation.added {
        info!(kid = key.kid, "added a signing key");
    }
    Ok(ring)
}
