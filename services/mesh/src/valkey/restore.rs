//! A store that is rebuilt in place: nobody is answered before it is whole.
//!
//! At most one instance rebuilds. It holds the right to by a lease that each step renews; one
//! that was killed, or was paused for longer, finds it gone.

use events::Timestamp;
use uuid::Uuid;

use super::{FunctionCall, LuaModule, NOTHING, Valkey, batch::Way, replay::gone};
use crate::engine::Failure;

/// The right to rebuild a store. Dropped, it lapses by itself.
pub struct Restoring<L: LuaModule> {
    valkey: Valkey<L>,
    token: String,
}

impl<L: LuaModule> Valkey<L> {
    /// Begins to rebuild a store that is not whole; `None` when it is, or when another
    /// instance is at it.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn begin_restoring(&self) -> Result<Option<Restoring<L>>, Failure> {
        assert!(!L::IS_REPLAYABLE, "{} becomes whole by a replay", L::NAME);
        let token = Uuid::now_v7().simple().to_string();
        let mut begun = self.serve("begin_restoring", &token).await?;
        let restoring = Restoring { valkey: self.clone(), token };
        Ok((begun.take::<u8>()? == 1).then_some(restoring))
    }

    /// Has the store rebuilt: from now on it answers nobody until it is.
    ///
    /// # Errors
    /// When the store cannot be reached.
    pub async fn unseal(&self) -> Result<(), Failure> {
        assert!(!L::IS_REPLAYABLE, "{} is replayed beside the live one", L::NAME);
        self.serve("unseal", NOTHING).await.map(drop)
    }
}

impl<L: LuaModule> Restoring<L> {
    /// Runs acts of the rebuilding, in order.
    ///
    /// # Errors
    /// When the store cannot be reached, the right is gone, or an act fails.
    pub async fn perform(&self, calls: &[FunctionCall], now: Timestamp) -> Result<(), Failure> {
        if calls.is_empty() {
            return Ok(());
        }
        self.valkey.perform_as(Way::Restoring(&self.token), calls, now).await
    }

    /// Declares that the store knows all that it should.
    ///
    /// # Errors
    /// When the store cannot be reached, or the right is gone.
    pub async fn seal(self) -> Result<(), Failure> {
        let mut sealed = self.valkey.serve("swap_in_shadow", &self.token).await?;
        if sealed.take::<u8>()? == 1 { Ok(()) } else { Err(gone()) }
    }

    /// Gives the right up, so that another instance may begin at once.
    ///
    /// # Errors
    /// When the store cannot be reached; the right lapses then.
    pub async fn give_up(self) -> Result<(), Failure> {
        self.valkey.serve("give_up_shadow", &self.token).await.map(drop)
    }
}
