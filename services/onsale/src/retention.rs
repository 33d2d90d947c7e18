//! The streams compared with outboxes and consumers: whether they have room for what is emitted,
//! and whether consumers lag so far that messages will be dropped before they are consumed.

use anyhow::{Result, anyhow, bail};
use events::Timestamp;
use mesh::{Link, MeshClient, StreamError, engine::Backlog, postgres::Positions};
use sqlx::PgPool;

use crate::{config::Config, registry};

/// A consumer that lags by this much will miss events when the streams drop them.
const LATE_SECS: i64 = 86_400;

/// Whether the stream of a service has room for the oldest message of its backlog.
///
/// # Errors
/// When it has none, in words.
pub(crate) async fn has_room(
    link: &Link,
    service: &str,
    backlog: &Backlog,
    bytes: u32,
) -> Result<()> {
    let stream = service.to_uppercase().replace('-', "_");
    let usage = MeshClient::new(link.clone())
        .stream_usage(&stream)
        .await
        .map_err(|problem| anyhow!(problem.detail))?;
    // Another check reports a missing stream.
    let Some(usage) = usage.filter(|usage| !usage.has_room_for(bytes.into())) else {
        return Ok(());
    };
    bail!(
        "the stream {stream} is full ({} of {} bytes): {} events are held in the outbox; raise \
         `max_bytes` of jetstream/streams/{stream}.json and run onsale topology apply",
        usage.bytes,
        usage.bytes_max.unwrap_or_default(),
        backlog.events
    )
}

/// A consumer, or a service that reads by position, that has events of a stream before it.
#[derive(Debug, Clone)]
pub(crate) struct Behind {
    /// The service that consumes.
    pub(crate) consumer: String,
    /// The service that has emitted them.
    pub(crate) emitter: &'static str,
    /// When the first of them was emitted.
    pub(crate) since: Timestamp,
}

impl Behind {
    /// For how many seconds the first of them has waited.
    pub(crate) fn secs(&self, now: Timestamp) -> i64 {
        (now.0 - self.since.0).whole_seconds()
    }

    /// Whether the stream will drop events before they are consumed.
    pub(crate) fn is_late(&self, now: Timestamp) -> bool {
        is_late(self.since, now)
    }
}

/// Who has events before it that are not consumed, and since when.
///
/// # Errors
/// When the broker or a database cannot be read.
pub(crate) async fn behind(config: &Config, client: &MeshClient) -> Result<Vec<Behind>> {
    let unread = |error: StreamError| anyhow!(error.with_cause());
    let mut found = Vec::new();
    for wiring in registry::wirings() {
        let emits = wiring.consumes.iter().chain(&wiring.answers).chain(&wiring.timers);
        if emits.flat_map(|(_, emits)| emits.iter()).next().is_none() {
            continue;
        }
        for consumer in client.consumers(wiring.service).await.map_err(unread)? {
            if consumer.lag == 0 {
                continue;
            }
            let events: Vec<&str> =
                consumer.filters.iter().filter_map(|one| events::event_of_subject(one)).collect();
            let emitter = wiring.service;
            let since = waiting_since(client, emitter, consumer.floor, &events).await?;
            let behind = |since| Behind { consumer: consumer.name.clone(), emitter, since };
            found.extend(since.map(behind));
        }
    }
    for wiring in registry::wirings() {
        let url = config.database_urls.get(wiring.service);
        let (Some(url), false) = (url, wiring.follows.is_empty()) else { continue };
        let pool = PgPool::connect(url).await?;
        let positions = Positions::load(&pool).await?;
        pool.close().await;
        for emitter in wiring.read_streams() {
            let since = waiting_since(client, emitter, positions.of(emitter), &[]).await?;
            let behind = |since| Behind { consumer: wiring.service.to_owned(), emitter, since };
            found.extend(since.map(behind));
        }
    }
    Ok(found)
}

/// When the first event was emitted that a consumer has not consumed, which has consumed
/// everything up to the sequence `floor`; `None` when it has consumed all that concerns it.
async fn waiting_since(
    client: &MeshClient,
    emitter: &str,
    floor: u64,
    events: &[&str],
) -> Result<Option<Timestamp>> {
    let messages = client.stored_messages(emitter, floor + 1, mesh::STORED_MESSAGES_MAX).await;
    let messages = messages.map_err(|error| anyhow!(error.with_cause()))?;
    let concerns = |event: &&mesh::StoredEvent| events.is_empty() || events.contains(&event.name());
    let first = messages.iter().flat_map(|message| &message.events).find(concerns);
    Ok(first.and_then(mesh::StoredEvent::at))
}

fn is_late(at: Timestamp, now: Timestamp) -> bool {
    at.plus_secs(LATE_SECS) < now
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_consumer_that_is_a_day_behind_is_late() {
        let now = mesh::clock::now();
        assert!(!is_late(now.plus_secs(-LATE_SECS + 60), now));
        assert!(is_late(now.plus_secs(-LATE_SECS - 60), now));
    }
}
