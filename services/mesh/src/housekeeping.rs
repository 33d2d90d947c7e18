//! Looking after what a service stands on: its store, and the broker.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::{info, warn};

use crate::{
    Link,
    engine::Engine,
    health::{Health, Part},
};

/// How often the store is tidied.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// How often a store that went away is looked for …
const CHECK_EVERY: Duration = Duration::from_millis(500);
/// … and how often one that seems to be well is looked at: a service that has nothing to do
/// would not notice.
const CHECK_AT_LAST: Duration = Duration::from_secs(5);
/// How often the broker is asked how it is.
const BROKER_EVERY: Duration = Duration::from_secs(2);

/// What housekeeping works with.
pub(crate) struct Housekeeping<E> {
    pub(crate) engine: Arc<E>,
    pub(crate) link: Link,
    pub(crate) health: Health,
}

impl<E: Engine> Housekeeping<E> {
    /// Finds the store again when it was away, and tidies it now and then.
    pub(crate) async fn keep_store(&self) {
        self.look_at_store().await;
        let (mut look_at, mut tidy_at) =
            (Instant::now() + CHECK_AT_LAST, Instant::now() + TIDY_EVERY);
        loop {
            tokio::time::sleep(CHECK_EVERY).await;
            if !self.health.store_is_up() || Instant::now() >= look_at {
                look_at = Instant::now() + CHECK_AT_LAST;
                self.look_at_store().await;
            }
            if Instant::now() >= tidy_at {
                tidy_at = Instant::now() + TIDY_EVERY;
                if let Err(error) = self.engine.tidy().await {
                    warn!(service = self.link.service(), %error, "housekeeping failed");
                }
            }
        }
    }

    async fn look_at_store(&self) {
        match self.engine.check().await {
            Ok(()) => {
                if self.health.store_answers() {
                    info!(service = self.link.service(), "the store can be used again");
                }
            }
            Err(failure) => {
                if self.health.store_is_away(&failure) {
                    warn!(service = self.link.service(), cause = %failure, "the store is away");
                }
            }
        }
    }

    /// Asks the broker how it is: one that answers may still be unable to write.
    pub(crate) async fn watch_broker(&self) {
        loop {
            match self.link.broker_ails().await {
                Ok(None) => {
                    if self.health.well(&Part::Broker) {
                        info!(service = self.link.service(), "the broker can work again");
                    }
                }
                Ok(Some(cause)) | Err(cause) => {
                    if self.health.ailing(Part::Broker, &cause) {
                        warn!(service = self.link.service(), cause, "the broker cannot work");
                    }
                }
            }
            let is_ailing = self.health.is_ailing(&Part::Broker);
            tokio::time::sleep(if is_ailing { CHECK_EVERY } else { BROKER_EVERY }).await;
        }
    }
}
