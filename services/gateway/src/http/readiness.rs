//! Whether this process can do its work: `/readyz`.
//!
//! The gateway's own work is to reach the services and to follow what they emit. That takes a
//! broker that is reachable, can write, and has its streams. Services that run in the same
//! process count as well. A service in another process reports its own readiness: one service
//! that is away must not take the others' only gateway out of its load balancer.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use mesh::{Link, MeshClient, deadline::within};
use tokio::sync::Mutex;

use crate::live::cursor::FOLLOWED;

/// How long a result is reused, however many requests come.
const REUSED_FOR: Duration = Duration::from_secs(1);
/// How long a check may take.
const CHECK_WITHIN: Duration = Duration::from_secs(4);

/// Returns what keeps the services in the same process from their work, in words.
pub type LocalHealth = Arc<dyn Fn() -> Vec<String> + Send + Sync>;

/// What was wrong, and when that was checked.
type Seen = (Instant, Vec<String>);

/// Checks whether this process can do its work; cheap to clone.
#[derive(Clone)]
pub struct Readiness {
    client: MeshClient,
    beside: LocalHealth,
    seen: Arc<Mutex<Option<Seen>>>,
}

impl Readiness {
    /// The readiness of the gateway on this connection and of the services beside it.
    pub fn new(link: Link, beside: LocalHealth) -> Self {
        Self { client: MeshClient::new(link), beside, seen: Arc::default() }
    }

    /// What keeps the process from its work; nothing when it is ready.
    pub async fn faults(&self) -> Vec<String> {
        let mut faults = self.own().await;
        faults.extend((self.beside)());
        faults
    }

    /// What keeps the gateway itself from its work.
    pub async fn own(&self) -> Vec<String> {
        let mut seen = self.seen.lock().await;
        if let Some((at, faults)) = &*seen
            && at.elapsed() < REUSED_FOR
        {
            return faults.clone();
        }
        let checked = within(CHECK_WITHIN, "the broker", self.check()).await;
        let faults = checked.unwrap_or_else(|late| vec![late.to_string()]);
        *seen = Some((Instant::now(), faults.clone()));
        faults
    }

    async fn check(&self) -> Vec<String> {
        let faults = match self.client.broker_fault().await {
            Ok(None) => None,
            Ok(Some(cause)) => Some(format!("the broker cannot work: {cause}")),
            Err(cause) => Some(format!("the broker cannot be reached: {cause}")),
        };
        if let Some(faults) = faults {
            return vec![faults];
        }
        match self.client.missing_streams(&FOLLOWED).await {
            Err(problem) => vec![problem.detail],
            Ok(without) => {
                let gone = |producer| {
                    format!("the stream of {producer} is gone; `onsale topology apply` makes it")
                };
                without.into_iter().map(gone).collect()
            }
        }
    }
}
