//! Messages and events that were published.
//!
//! Messages are counted in the streams, events in the outboxes: a row of `mesh.outbox` is a
//! message, and its column `events` says how many events it carries.

use std::collections::BTreeMap;

use anyhow::{Result, anyhow};
use events::CONTRACTS;
use mesh::MeshClient;
use serde::Serialize;
use sqlx::{PgPool, postgres::PgPoolOptions};

use crate::{config::Config, registry::WITH_DATABASE};

/// The services that have a stream.
fn producers() -> impl Iterator<Item = &'static str> {
    let emitting = CONTRACTS.iter().filter(|contract| !contract.events.is_empty());
    emitting.map(|contract| contract.name)
}

/// What one service has published.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Published {
    /// Messages in its stream.
    pub messages: u64,
    /// Events in its outbox; `None` when that is not in PostgreSQL.
    pub events: Option<u64>,
}

/// The same for each service.
pub(super) type ByService = BTreeMap<&'static str, Published>;

/// Counts what services publish.
pub(super) struct Counter {
    client: MeshClient,
    outboxes: BTreeMap<&'static str, PgPool>,
}

impl Counter {
    pub(super) async fn open(config: &Config, client: MeshClient) -> Result<Self> {
        let mut outboxes = BTreeMap::new();
        for service in producers().filter(|service| WITH_DATABASE.contains(service)) {
            let pool = PgPoolOptions::new().max_connections(1);
            outboxes.insert(service, pool.connect(config.database_url(service)?).await?);
        }
        Ok(Self { client, outboxes })
    }

    /// What every service has published so far.
    pub(super) async fn count(&self) -> Result<ByService> {
        let mut counts = BTreeMap::new();
        for service in producers() {
            let messages = self.client.last_sequence(service).await;
            let messages = messages.map_err(|error| anyhow!(error.with_cause()))?;
            let events = match self.outboxes.get(service) {
                Some(outbox) => Some(events_in(outbox).await?),
                None => None,
            };
            counts.insert(service, Published { messages, events });
        }
        Ok(counts)
    }
}

/// Events that an outbox was ever given; nothing leaves it while a benchmark runs.
async fn events_in(outbox: &PgPool) -> Result<u64> {
    let counted = "select coalesce(sum(events), 0)::bigint from mesh.outbox";
    let events: i64 = sqlx::query_scalar(counted).fetch_one(outbox).await?;
    Ok(events.unsigned_abs())
}

/// What was published between two counts; services that published nothing are left out.
pub(super) fn between(before: &ByService, after: &ByService) -> ByService {
    let since = |(service, now): (&&'static str, &Published)| {
        let was = before.get(service).copied().unwrap_or_default();
        let events = now.events.map(|events| events.saturating_sub(was.events.unwrap_or(0)));
        let published = Published { messages: now.messages.saturating_sub(was.messages), events };
        (published.messages > 0).then_some((*service, published))
    };
    after.iter().filter_map(since).collect()
}

/// Events a message, over the services whose events are known; 0 when none was published.
pub(super) fn mean(counts: &ByService) -> f64 {
    let known = counts.values().filter_map(|count| Some((count.messages, count.events?)));
    let (messages, events) = known.fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1));
    if messages == 0 { 0.0 } else { events as f64 / messages as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn count(messages: u64, events: Option<u64>) -> Published {
        Published { messages, events }
    }

    #[test]
    fn what_was_there_before_does_not_count() {
        let before =
            ByService::from([("payment", count(10, Some(40))), ("user", count(7, Some(7)))]);
        let after = ByService::from([
            ("payment", count(15, Some(90))),
            ("queue", count(3, None)),
            ("user", count(7, Some(7))),
        ]);
        let since = between(&before, &after);
        let expected = [("payment", count(5, Some(50))), ("queue", count(3, None))];
        assert_eq!(since, ByService::from(expected));
    }

    #[test]
    fn the_mean_leaves_out_services_whose_events_are_not_known() {
        let counts = ByService::from([
            ("payment", count(5, Some(50))),
            ("point", count(5, Some(10))),
            ("queue", count(100, None)),
        ]);
        assert_eq!(mean(&counts), 6.0);
        assert_eq!(mean(&ByService::new()), 0.0);
    }
}
