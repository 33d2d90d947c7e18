//! The stream of this service, as a comparison sees it: it is read, and lost messages are published
//! to it again.

use std::{collections::HashMap, time::Duration};

use super::{Sweeps, verify};
use crate::{
    Link,
    nats::{
        error::BrokerError,
        link::{StreamState, stream_of},
    },
    store::engine::Place,
};

/// Messages before a consumer above which no more of the history is published.
const UNTAKEN_MAX: u64 = 500;
/// How often it is looked how many there are …
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// … and for how long at most, before more is published all the same.
const TAKEN_IN_WITHIN: Duration = Duration::from_secs(1);

/// The stream of this service.
pub(super) struct Published<'a> {
    pub(super) link: &'a Link,
    pub(super) sweeps: &'a Sweeps,
}

impl verify::Stream for Published<'_> {
    fn epoch(&self) -> u64 {
        self.link.epoch()
    }

    async fn state(&self) -> Result<StreamState, BrokerError> {
        self.link.stream_state().await
    }

    async fn places(&self, from: u64, to: u64) -> Result<HashMap<u64, Place>, BrokerError> {
        self.link.places(from, to).await
    }

    async fn publish_lost(&self) {
        self.sweeps.now().await;
        let _ = tokio::time::timeout(TAKEN_IN_WITHIN, self.is_taken_in()).await;
    }
}

impl Published<'_> {
    /// Waits while a consumer has many messages before it, and takes some of them in. One that
    /// stands still is not waited for.
    async fn is_taken_in(&self) {
        let (stream, mut before) = (stream_of(self.link.service()), HashMap::new());
        loop {
            // The comparison notices by itself that the broker is away.
            let Ok(consumers) = self.link.consumers(&stream).await else { return };
            let is_awaited = consumers.iter().any(|consumer| {
                let moves = before.get(&consumer.name).is_none_or(|floor| consumer.floor > *floor);
                consumer.lag > UNTAKEN_MAX && moves
            });
            if !is_awaited {
                return;
            }
            before = consumers.into_iter().map(|one| (one.name, one.floor)).collect();
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}
