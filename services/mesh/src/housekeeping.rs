//! Checks of the store and the broker that a service depends on.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::{info, warn};

use crate::{
    Link,
    health::{Health, Part},
    nats::error::BrokerError,
    store::engine::{Engine, Failure},
};

/// How often the store is tidied.
const TIDY_EVERY: Duration = Duration::from_secs(60);
/// How often a store that is down is checked …
const CHECK_EVERY: Duration = Duration::from_millis(500);
/// … and how often one that seems healthy: an idle service would not notice a failure.
const CHECK_AT_LAST: Duration = Duration::from_secs(5);
/// How often the broker is asked for its health.
const BROKER_EVERY: Duration = Duration::from_secs(2);

/// The housekeeping task of one service.
pub(crate) struct Housekeeping {
    pub(crate) engine: Arc<dyn Engine>,
    pub(crate) link: Link,
    pub(crate) health: Health,
}

impl Housekeeping {
    /// Checks the store, so that the service resumes when it is back, and tidies it at intervals.
    pub(crate) async fn keep_store(&self) {
        self.check_store().await;
        let (mut check_at, mut tidy_at) =
            (Instant::now() + CHECK_AT_LAST, Instant::now() + TIDY_EVERY);
        loop {
            tokio::time::sleep(CHECK_EVERY).await;
            if !self.health.is_store_up() || Instant::now() >= check_at {
                check_at = Instant::now() + CHECK_AT_LAST;
                self.check_store().await;
            }
            if Instant::now() >= tidy_at {
                tidy_at = Instant::now() + TIDY_EVERY;
                if let Err(error) = self.engine.store().tidy().await {
                    warn!(service = self.link.service(), %error, "housekeeping failed");
                }
            }
        }
    }

    async fn check_store(&self) {
        let is_first = self.health.serving().borrow().is_none();
        match self.engine.store().check().await {
            Ok(()) => {
                if self.health.mark_store_answering() {
                    info!(service = self.link.service(), "the store can be used again");
                }
            }
            Err(failure) => {
                if self.health.mark_store_down(&failure) {
                    let service = self.link.service();
                    match failure {
                        // A new store is empty.
                        Failure::Emptied if is_first => {
                            info!(service, cause = %failure, "the store is filled first");
                        }
                        _ => warn!(service, cause = %failure, "the store is away"),
                    }
                }
            }
        }
    }

    /// Asks the broker for its health: a broker that answers may still be unable to write.
    pub(crate) async fn watch_broker(&self) {
        loop {
            // A broker that does not answer has a fault as well.
            let found = self.link.broker_fault().await;
            let is_reported = matches!(found, Err(BrokerError::NotConnected));
            match found.unwrap_or_else(|error| Some(error.to_string())) {
                None => {
                    if self.health.clear_fault(&Part::Broker) {
                        info!(service = self.link.service(), "the broker can work again");
                    }
                }
                Some(cause) => {
                    let is_new = self.health.set_fault(Part::Broker, &cause);
                    // The connection itself says that it is lost.
                    if is_new && !is_reported {
                        warn!(service = self.link.service(), cause, "the broker cannot work");
                    }
                }
            }
            let is_faulty = self.health.has_fault(&Part::Broker);
            tokio::time::sleep(if is_faulty { CHECK_EVERY } else { BROKER_EVERY }).await;
        }
    }
}
