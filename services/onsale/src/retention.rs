//! The streams compared with outboxes and consumers: whether they have room for what is emitted,
//! and whether consumers lag so far that messages will be dropped before they are consumed.

use anyhow::{Result, anyhow, bail};
use events::{Timestamp, producer_of};
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

/// The consumers, and the services that read by position, that have left events of a stream
/// unconsumed for a day.
///
/// # Errors
/// When the broker or a database cannot be read.
pub(crate) async fn late_consumers(config: &Config, client: &MeshClient) -> Result<Vec<String>> {
    let unread = |error: StreamError| anyhow!(error.with_cause());
    let mut late = Vec::new();
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
            let (emitter, name) = (wiring.service, consumer.name.as_str());
            late.extend(lateness(client, emitter, name, consumer.floor, &events).await?);
        }
    }
    for wiring in registry::wirings() {
        let url = config.database_urls.get(wiring.service);
        let (Some(url), false) = (url, wiring.follows.is_empty()) else { continue };
        let pool = PgPool::connect(url).await?;
        let positions = Positions::load(&pool).await?;
        pool.close().await;
        let mut emitters: Vec<&str> =
            wiring.follows.iter().map(|event| producer_of(event)).collect();
        emitters.sort_unstable();
        emitters.dedup();
        for emitter in emitters {
            let position = positions.of(emitter);
            late.extend(lateness(client, emitter, wiring.service, position, &[]).await?);
        }
    }
    Ok(late)
}

/// How late a consumer is that has consumed everything up to the sequence `floor`, in words;
/// `None` when the first event after it that concerns the consumer is younger than a day.
async fn lateness(
    client: &MeshClient,
    emitter: &str,
    consumer: &str,
    floor: u64,
    events: &[&str],
) -> Result<Option<String>> {
    let messages = client.stored_messages(emitter, floor + 1, mesh::STORED_MESSAGES_MAX).await;
    let messages = messages.map_err(|error| anyhow!(error.with_cause()))?;
    let concerns = |event: &&mesh::StoredEvent| events.is_empty() || events.contains(&event.name());
    let first = messages.iter().flat_map(|message| &message.events).find(concerns);
    let at = first.and_then(mesh::StoredEvent::at);
    Ok(at.filter(|at| is_late(*at, mesh::clock::now())).map(|at| {
        format!("{consumer} has not taken in events of {emitter} since {at}; they will be dropped")
    }))
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
