//! A store that is rebuilt in place: it answers no call before it is complete.
//!
//! At most one instance rebuilds. It holds a lease that each step renews; an instance that was
//! killed, or paused for longer than the lease, has lost it.

use events::Timestamp;
use uuid::Uuid;

use super::{
    batch::{Way, gone},
    function_call::FunctionCall,
    keyspace::{Keyspace, NOTHING},
};
use crate::store::engine::Failure;

/// The lease to rebuild a store. When dropped, it runs out by itself.
pub struct Restoring {
    keyspace: Keyspace,
    token: String,
}

impl Keyspace {
    /// Begins to rebuild a store that is not complete; `None` when it is complete, or when another
    /// instance is rebuilding it.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn begin_restoring(&self) -> Result<Option<Restoring>, Failure> {
        self.names.assert_replayable(false);
        let token = Uuid::now_v7().simple().to_string();
        let mut begun = self.begin_lease("begin_restoring", &token).await?;
        let restoring = Restoring { keyspace: self.clone(), token };
        Ok((begun.take::<u8>()? == 1).then_some(restoring))
    }

    /// Marks the store as incomplete: from now on it answers no call until it is rebuilt.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn unseal(&self) -> Result<(), Failure> {
        self.names.assert_replayable(false);
        self.serve("unseal", NOTHING).await.map(drop)
    }
}

impl Restoring {
    /// Runs function calls of the rebuild, in order. Without any it renews the lease.
    ///
    /// # Errors
    /// When the store cannot be reached, the lease is lost, or a function fails.
    pub async fn perform(&self, calls: &[FunctionCall], now: Timestamp) -> Result<(), Failure> {
        if calls.is_empty() {
            return self.keyspace.renew_lease(&self.token).await;
        }
        self.keyspace.perform_as(Way::Restoring(&self.token), calls, now).await
    }

    /// Declares the store complete.
    ///
    /// # Errors
    /// When the store cannot be reached, or the lease is lost.
    pub async fn seal(&self) -> Result<(), Failure> {
        let mut sealed = self.keyspace.serve("swap_in_shadow", &self.token).await?;
        if sealed.take::<u8>()? == 1 { Ok(()) } else { Err(gone()) }
    }

    /// Gives the lease up, so that another instance may begin at once. While the store is away, it
    /// is tried again for as long as the lease lasts.
    ///
    /// # Errors
    /// When the store does not come back; then the lease runs out.
    pub async fn give_up(self) -> Result<(), Failure> {
        self.keyspace.give_up_lease(&self.token).await
    }
}
