//! The waiting room after Valkey has lost it: built anew from what was told.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use events::Problem;
use futures::{Stream, stream};
use mesh::{Asker, Link, STORED_FACTS_MAX, clock, valkey::Valkey};
use queue::Room;
use tracing::{info, warn};

/// How often the room is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Whose facts a room is made of.
const TELLERS: [&str; 4] = ["concert", "user", "reservation", "queue"];

/// Watches over the room; whenever it is found empty it is rebuilt, and until then the queue
/// refuses to answer rather than to guess.
pub async fn keep_whole(valkey: Arc<Valkey<Room>>, link: Link) {
    let asker = Asker::new(link);
    loop {
        // A store that does not answer is the runtime's concern; it is looked at again.
        if matches!(valkey.is_whole().await, Ok(false)) {
            let facts = told(&asker);
            match facts.await {
                Err(problem) => warn!(%problem, "the room cannot be rebuilt yet"),
                Ok(facts) => match queue::rebuild(&valkey, facts, clock::now()).await {
                    Ok(count) => info!(facts = count, "the room is whole"),
                    Err(error) => warn!(%error, "the room cannot be rebuilt yet"),
                },
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Everything that was told, page by page; all of it or an error, never a part.
async fn told(asker: &Asker) -> Result<impl Stream<Item = (String, Bytes)>, Problem> {
    let mut facts = Vec::new();
    for teller in TELLERS {
        let mut after = 0;
        loop {
            let page = asker.stored_since(teller, after, STORED_FACTS_MAX).await?;
            let Some(last) = page.last() else { break };
            after = last.stream_seq();
            facts.extend(
                page.iter()
                    .filter(|fact| queue::REBUILT_FROM.contains(&fact.name()))
                    .map(|fact| (fact.subject().to_owned(), fact.payload().clone())),
            );
        }
    }
    Ok(stream::iter(facts))
}
