//! What the streams keep, held against what has been taken in: room for what is emitted, and
//! time for whoever is behind.

use anyhow::{Result, anyhow};
use events::{Problem, Timestamp, producer_of};
use mesh::{Link, MeshClient, engine::Backlog, postgres::Positions};
use sqlx::PgPool;

use crate::{config::Config, fleet};

/// Whoever is behind for so long will miss events when the streams drop them.
const LATE_SECS: i64 = 86_400;

/// Whether the stream of a service takes the oldest message that waits.
///
/// # Errors
/// When it does not, in words.
pub(crate) async fn has_room(
    link: &Link,
    service: &str,
    backlog: &Backlog,
    bytes: u32,
) -> Result<(), String> {
    let stream = service.to_uppercase().replace('-', "_");
    let fill =
        MeshClient::new(link.clone()).fill(&stream).await.map_err(|problem| problem.detail)?;
    // One that is missing is named elsewhere.
    let Some(fill) = fill.filter(|fill| !fill.takes(bytes.into())) else { return Ok(()) };
    Err(format!(
        "the stream {stream} is full ({} of {} bytes): {} facts are held in the outbox; give it \
         more room (`max_bytes` of jetstream/streams/{stream}.json, onsale topology apply)",
        fill.bytes,
        fill.bytes_max.unwrap_or_default(),
        backlog.events
    ))
}

/// Who has left events of a stream lying for a day, consumer by consumer and reader by reader.
///
/// # Errors
/// When the broker or a database cannot be read.
pub(crate) async fn untaken(config: &Config, client: &MeshClient) -> Result<Vec<String>> {
    let unread = |problem: Problem| anyhow!(problem.to_string());
    let mut late = Vec::new();
    for wiring in fleet::wirings() {
        let emits = wiring.consumes.iter().chain(&wiring.answers).chain(&wiring.timers);
        if emits.flat_map(|(_, emits)| emits.iter()).next().is_none() {
            continue;
        }
        for consumer in client.consumers(wiring.service).await.map_err(unread)? {
            if consumer.behind == 0 {
                continue;
            }
            let events: Vec<&str> =
                consumer.filters.iter().filter_map(|one| events::event_of_subject(one)).collect();
            let (emitter, who) = (wiring.service, consumer.name.as_str());
            late.extend(lateness(client, emitter, who, consumer.floor, &events).await?);
        }
    }
    for wiring in fleet::wirings() {
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

/// How late somebody is who has taken in everything up to a sequence, in words; `None` when the
/// first event behind it that concerns them is younger than a day.
async fn lateness(
    client: &MeshClient,
    emitter: &str,
    who: &str,
    floor: u64,
    events: &[&str],
) -> Result<Option<String>> {
    let messages = client.stored_messages(emitter, floor + 1, mesh::STORED_MESSAGES_MAX).await;
    let messages = messages.map_err(|problem| anyhow!(problem.to_string()))?;
    let concerns = |event: &&mesh::StoredEvent| events.is_empty() || events.contains(&event.name());
    let first = messages.iter().flat_map(|message| &message.events).find(concerns);
    let at = first.and_then(mesh::StoredEvent::at);
    Ok(at.filter(|at| is_late(*at, mesh::clock::now())).map(|at| {
        format!("{who} has not taken in events of {emitter} since {at}; they are dropped in time")
    }))
}

fn is_late(at: Timestamp, now: Timestamp) -> bool {
    at.plus_secs(LATE_SECS) < now
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_is_a_day_behind_is_late() {
        let now = mesh::clock::now();
        assert!(!is_late(now.plus_secs(-LATE_SECS + 60), now));
        assert!(is_late(now.plus_secs(-LATE_SECS - 60), now));
    }
}
