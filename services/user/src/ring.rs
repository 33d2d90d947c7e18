//! The keyring of this issuer: kept in PostgreSQL, held in memory, rotated by whoever
//! notices first.

use std::sync::{Arc, RwLock};

use events::{Problem, Timestamp};
use mesh::keys::{KeyError, KeyLife, Keyring};
use sqlx::PgPool;
use tokio::sync::Mutex;
use tracing::{info, warn};

use crate::reads;

/// The keyring is read again after this long: well within a new key's lead.
const RELOAD_SECS: i64 = 60;

/// The keyring, as fresh as it needs to be.
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
    /// A stored key is broken, or none can be made.
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

    /// The keyring. When it is due to be read again, one caller does so and the others go
    /// on with what there is; a database that is away leaves everybody with that.
    ///
    /// # Errors
    /// `unavailable` when it has never been read and cannot be.
    pub async fn get(&self, pool: &PgPool, now: Timestamp) -> Result<Arc<Keyring>, Problem> {
        let held = self.held();
        if let Some((at, ring)) = &held
            && now < at.plus_secs(RELOAD_SECS)
        {
            return Ok(ring.clone());
        }
        let turn = match &held {
            Some((_, ring)) => match self.loading.try_lock() {
                Ok(turn) => turn,
                Err(_) => return Ok(ring.clone()),
            },
            None => self.loading.lock().await,
        };
        // Whoever waited finds what it waited for.
        if let Some((at, ring)) = self.held()
            && now < at.plus_secs(RELOAD_SECS)
        {
            return Ok(ring);
        }
        let loaded = self.load(pool, now).await;
        drop(turn);
        match (loaded, held) {
            (Ok(ring), _) => Ok(ring),
            (Err(error), Some((_, ring))) => {
                warn!(%error, "going on with the signing keys at hand");
                Ok(ring)
            }
            (Err(error), None) => Err(reads::unavailable(error)),
        }
    }

    /// Reads the keyring, rotating it when that is due.
    ///
    /// # Errors
    /// When the database does not answer, or a key is broken.
    pub async fn load(&self, pool: &PgPool, now: Timestamp) -> Result<Arc<Keyring>, RingError> {
        let mut ring = Keyring::open(reads::signing_keys(pool).await?, self.life)?;
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

/// Two instances that find a rotation due at once: the second waits for the lock, reads
/// what the first has stored, and finds nothing left to do.
async fn rotate(pool: &PgPool, life: KeyLife, now: Timestamp) -> Result<Keyring, RingError> {
    let mut tx = pool.begin().await?;
    reads::lock_signing_keys(&mut tx).await?;
    let mut ring = Keyring::open(reads::signing_keys(&mut *tx).await?, life)?;
    let rotation = ring.rotate(now)?;
    reads::keep_signing_keys(&mut tx, &rotation).await?;
    tx.commit().await?;
    if let Some(key) = rotation.added {
        info!(kid = key.kid, "a new signing key");
    }
    Ok(ring)
}
