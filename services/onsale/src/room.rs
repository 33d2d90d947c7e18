//! What lies in Valkey after Valkey has lost it: built anew from what was told.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use events::Problem;
use futures::{Stream, stream};
use mesh::{
    Asker, Link, STORED_MESSAGES_MAX, Service, clock,
    engine::Failure,
    valkey::{self, Library, Valkey},
};
use queue::Room;
use tracing::{info, warn};

/// How often a store is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Whose facts a room is made of.
const TELLERS: [&str; 5] = ["concert", "user", "reservation", "payment", "queue"];

/// A store that is watched over.
pub trait Kept: Send + Sync + 'static {
    /// What is in it.
    const WHAT: &'static str;

    /// Whether it knows all that it should.
    fn is_whole(&self) -> impl Future<Output = Result<bool, Failure>> + Send;

    /// Makes it whole from what was told; of how many facts.
    fn rebuild(&self, asker: &Asker) -> impl Future<Output = Result<u64, Failure>> + Send;
}

/// Watches over a store; whenever it is found empty it is rebuilt, and until then its service
/// refuses to answer rather than to guess.
pub async fn keep_whole<K: Kept>(kept: K, link: Link) {
    let asker = Asker::new(link);
    loop {
        // A store that does not answer is the runtime's concern; it is looked at again.
        if matches!(kept.is_whole().await, Ok(false)) {
            match kept.rebuild(&asker).await {
                Ok(count) => info!(facts = count, "{} is whole", K::WHAT),
                // Another instance is at it.
                Err(Failure::Contended(_)) => {}
                Err(error) => warn!(%error, "{} cannot be rebuilt yet", K::WHAT),
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

impl Kept for Arc<Valkey<Room>> {
    const WHAT: &'static str = "the room";

    async fn is_whole(&self) -> Result<bool, Failure> {
        Valkey::is_whole(self).await
    }

    async fn rebuild(&self, asker: &Asker) -> Result<u64, Failure> {
        let facts = told(asker).await;
        let facts = facts.map_err(|problem| Failure::Unavailable(problem.to_string()))?;
        queue::rebuild(self, facts, clock::now()).await
    }
}

/// Everything that was told, page by page; all of it or an error, never a part.
async fn told(asker: &Asker) -> Result<impl Stream<Item = (String, Bytes)>, Problem> {
    let mut facts = Vec::new();
    for teller in TELLERS {
        let mut after = 0;
        loop {
            let page = asker.stored_since(teller, after, STORED_MESSAGES_MAX).await?;
            let Some(last) = page.last() else { break };
            after = last.position();
            facts.extend(
                page.iter()
                    .filter(|fact| queue::REBUILT_FROM.contains(&fact.name()))
                    .map(|fact| (fact.subject().to_owned(), fact.payload().clone())),
            );
        }
    }
    Ok(stream::iter(facts))
}

/// What is read and never decided upon: rebuilt by replay, the first time as any other.
pub struct ReadModel<L: Library> {
    /// Where it lies.
    pub valkey: Arc<Valkey<L>>,
    /// The facts it is made of.
    pub table: Service<Valkey<L>>,
    /// Whose they are, those first that others depend on.
    pub order: &'static [&'static str],
}

/// The rankings.
pub fn ranking(valkey: Arc<Valkey<ranking::Charts>>) -> ReadModel<ranking::Charts> {
    ReadModel { valkey, table: ranking::service(), order: ranking::ORDER }
}

/// The seat maps.
pub fn seat_maps(valkey: Arc<Valkey<concert::SeatMaps>>) -> ReadModel<concert::SeatMaps> {
    ReadModel { valkey, table: concert::map_service(), order: concert::MADE_OF }
}

impl<L: Library> Kept for ReadModel<L> {
    const WHAT: &'static str = L::NAME;

    async fn is_whole(&self) -> Result<bool, Failure> {
        self.valkey.is_whole().await
    }

    async fn rebuild(&self, asker: &Asker) -> Result<u64, Failure> {
        let rebuilt = valkey::rebuild(&self.valkey, &self.table, self.order, asker, |_| {}).await?;
        Ok(rebuilt.total().taken)
    }
}
