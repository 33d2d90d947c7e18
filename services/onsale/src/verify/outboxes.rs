//! Compares outbox and stream row by row: whether what is marked as published is in the stream.

use std::collections::HashMap;

use anyhow::{Context, Result, anyhow};
use mesh::{MeshClient, STORED_MESSAGES_MAX};
use sqlx::PgPool;
use uuid::Uuid;

use super::report::Difference;

/// Rows compared at a time.
const PAGE: i64 = 1_000;

/// What was compared of one service's outbox.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct ComparedOutbox {
    /// Rows that are marked as published and whose sequence the stream still has.
    pub(crate) rows: usize,
}

/// Compares every row of a service's outbox that is marked as published with the message at its
/// sequence. What has aged out of the stream cannot be compared.
pub(crate) async fn compare(
    client: &MeshClient,
    service: &str,
    pool: &PgPool,
) -> Result<(ComparedOutbox, Vec<Difference>)> {
    let has_published: bool =
        sqlx::query_scalar("select exists (select from mesh.outbox where stream_seq is not null)")
            .fetch_one(pool)
            .await
            .with_context(|| format!("the outbox of {service}"))?;
    if !has_published {
        // A service that emits nothing has no stream.
        return Ok((ComparedOutbox::default(), Vec::new()));
    }
    let unread =
        |error: mesh::StreamError| anyhow!("the stream of {service}: {}", error.with_cause());
    let first = client.stored_messages(service, 0, 1).await.map_err(unread)?;
    let last = client.last_sequence(service).await.map_err(unread)?;
    let first = first.first().map_or(last + 1, |message| message.sequence);
    let (mut compared, mut differences) = (ComparedOutbox::default(), Vec::new());
    let (mut from, mut after) = (first as i64 - 1, Uuid::nil());
    loop {
        let rows: Vec<(Uuid, i64)> = sqlx::query_as(
            "select id, stream_seq from mesh.outbox where (stream_seq, id) > ($1, $2)
             order by stream_seq, id limit $3",
        )
        .bind(from)
        .bind(after)
        .bind(PAGE)
        .fetch_all(pool)
        .await
        .with_context(|| format!("the outbox of {service}"))?;
        let (Some(lowest), Some(highest)) = (rows.first(), rows.last()) else { break };
        (after, from) = *highest;
        let there =
            ids(client, service, lowest.1 as u64, highest.1 as u64).await.map_err(unread)?;
        compared.rows += rows.len();
        for (id, sequence) in rows {
            let is_there = there.get(&(sequence as u64));
            if is_there != Some(&id) {
                differences.push(Difference {
                    what: format!("message {id} of {service}"),
                    events: is_there.map(|other| format!("message {sequence} is {other}")),
                    database: Some(format!("published as message {sequence}")),
                });
            }
        }
    }
    Ok((compared, differences))
}

/// The ids of the messages from one sequence to another.
async fn ids(
    client: &MeshClient,
    service: &str,
    from: u64,
    to: u64,
) -> Result<HashMap<u64, Uuid>, mesh::StreamError> {
    let (mut ids, mut from) = (HashMap::new(), from);
    while from <= to {
        let messages = client.stored_messages(service, from, STORED_MESSAGES_MAX).await?;
        let Some(last) = messages.last() else { break };
        from = last.sequence + 1;
        ids.extend(messages.iter().map(|message| (message.sequence, message.id)));
    }
    Ok(ids)
}
