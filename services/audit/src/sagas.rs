//! The rows of sagas: loaded, made to hear what is new, written.

use std::collections::{BTreeMap, BTreeSet};

use events::{Timestamp, audit::SagaState};
use sqlx::PgConnection;
use time::{OffsetDateTime, PrimitiveDateTime};
use uuid::Uuid;

use crate::{Heard, flows::Flows, keys::keys_of, timeline::Progress};

/// The services that tell facts; the place of each is its bit in a row.
const SERVICES: [&str; 9] = [
    "user",
    "concert",
    "queue",
    "reservation",
    "payment",
    "point",
    "notification",
    "data-platform",
    "ranking",
];

/// Later than any deadline.
pub(crate) const NEVER: Timestamp = Timestamp(PrimitiveDateTime::MAX.assume_utc());

/// A service's bit in a row; none for one that tells nothing.
pub(crate) fn bit_of(service: &str) -> i32 {
    SERVICES.iter().position(|known| *known == service).map_or(0, |place| 1 << place)
}

/// How the end of a saga is stored.
pub(crate) fn outcome_of(state: SagaState) -> Option<i16> {
    match state {
        SagaState::Running | SagaState::Stalled => None,
        SagaState::Completed => Some(1),
        SagaState::Failed => Some(2),
        SagaState::Compensated => Some(3),
    }
}

/// A stored [`Progress`].
///
/// # Errors
/// When it is none.
pub(crate) fn progress(stored: &[u8]) -> sqlx::Result<Progress> {
    serde_json::from_slice(stored).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// A saga, and what the database has of it.
#[derive(Default)]
struct Saga {
    progress: Progress,
    last_at: Option<Timestamp>,
    took_part: i32,
    from: Option<Uuid>,
    to: Option<Uuid>,
    keys: BTreeSet<Uuid>,
    stored_keys: BTreeSet<Uuid>,
}

impl Saga {
    fn hear(&mut self, flows: &Flows, heard: &Heard) {
        self.progress.hear(flows, heard);
        let id = heard.event_id.0;
        self.last_at = self.last_at.max(Some(heard.at));
        self.took_part |= bit_of(heard.service());
        self.from = Some(self.from.map_or(id, |from| from.min(id)));
        self.to = self.to.max(Some(id));
        self.keys.extend(keys_of(heard));
    }
}

/// Sagas by id: the order in which they are written, so that nobody deadlocks.
type Sagas = BTreeMap<Uuid, Saga>;

/// Makes the sagas of new facts hear them.
pub(crate) async fn hear(
    tx: &mut PgConnection,
    flows: &Flows,
    facts: &[Heard],
) -> sqlx::Result<()> {
    let mut sagas = load(tx, facts).await?;
    for heard in facts {
        sagas.entry(heard.saga_id.0).or_default().hear(flows, heard);
    }
    save(tx, &sagas).await?;
    save_keys(tx, &sagas).await?;
    save_watch(tx, &sagas).await
}

/// Id, last, services, from, to, keys, progress.
type Columns = (Uuid, OffsetDateTime, i32, Uuid, Uuid, Vec<u8>, Vec<u8>);

async fn load(tx: &mut PgConnection, facts: &[Heard]) -> sqlx::Result<Sagas> {
    let ids: BTreeSet<Uuid> = facts.iter().map(|heard| heard.saga_id.0).collect();
    let rows: Vec<Columns> = sqlx::query_as(
        "select saga_id, last_at, took_part, from_id, to_id, keys, progress
         from sagas where saga_id = any($1)",
    )
    .bind(ids.into_iter().collect::<Vec<_>>())
    .fetch_all(tx)
    .await?;
    let read = |(id, last_at, took_part, from, to, keys, stored): Columns| {
        let keys = unpacked(&keys);
        let saga = Saga {
            progress: progress(&stored)?,
            last_at: Some(Timestamp(last_at)),
            took_part,
            from: Some(from),
            to: Some(to),
            stored_keys: keys.clone(),
            keys,
        };
        Ok((id, saga))
    };
    rows.into_iter().map(read).collect()
}

async fn save(tx: &mut PgConnection, sagas: &Sagas) -> sqlx::Result<()> {
    let awaited = |saga: &Saga| {
        let awaited = saga.progress.to_come(NEVER);
        awaited.iter().fold(0, |bits, awaited| bits | bit_of(&awaited.service))
    };
    let keys: Vec<Vec<u8>> = sagas.values().map(|saga| packed(&saga.keys)).collect();
    sqlx::query(
        "insert into sagas (saga_id, last_at, next_due_at, outcome, took_part, awaited,
                            from_id, to_id, keys, progress)
         select * from unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::smallint[],
             $5::integer[], $6::integer[], $7::uuid[], $8::uuid[], $9::bytea[], $10::bytea[])
         on conflict (saga_id) do update set
             last_at = excluded.last_at, next_due_at = excluded.next_due_at,
             outcome = excluded.outcome, took_part = excluded.took_part,
             awaited = excluded.awaited, from_id = excluded.from_id, to_id = excluded.to_id,
             keys = excluded.keys, progress = excluded.progress",
    )
    .bind(sagas.keys().copied().collect::<Vec<_>>())
    .bind(sagas.values().map(|saga| saga.last_at.map(|at| at.0)).collect::<Vec<_>>())
    .bind(sagas.values().map(|s| s.progress.next_due().map(|at| at.0)).collect::<Vec<_>>())
    .bind(sagas.values().map(|saga| outcome_of(saga.progress.state(NEVER))).collect::<Vec<_>>())
    .bind(sagas.values().map(|saga| saga.took_part).collect::<Vec<_>>())
    .bind(sagas.values().map(awaited).collect::<Vec<_>>())
    .bind(sagas.values().map(|saga| saga.from).collect::<Vec<_>>())
    .bind(sagas.values().map(|saga| saga.to).collect::<Vec<_>>())
    .bind(keys)
    .bind(
        sagas
            .values()
            .map(|s| serde_json::to_vec(&s.progress).unwrap_or_default())
            .collect::<Vec<_>>(),
    )
    .execute(tx)
    .await?;
    Ok(())
}

async fn save_keys(tx: &mut PgConnection, sagas: &Sagas) -> sqlx::Result<()> {
    let new = || {
        sagas.iter().flat_map(|(id, saga)| {
            saga.keys.difference(&saga.stored_keys).map(move |key| (*key, *id))
        })
    };
    if new().next().is_none() {
        return Ok(());
    }
    sqlx::query(
        "insert into saga_keys (key, saga_id) select * from unnest($1::uuid[], $2::uuid[])
         on conflict do nothing",
    )
    .bind(new().map(|(key, _)| key).collect::<Vec<_>>())
    .bind(new().map(|(_, id)| id).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}

/// Every deadline that is open is looked at once when it is over, needed then or not.
async fn save_watch(tx: &mut PgConnection, sagas: &Sagas) -> sqlx::Result<()> {
    let due: Vec<(OffsetDateTime, Uuid)> = sagas
        .iter()
        .filter(|(_, saga)| saga.progress.next_due().is_some())
        .flat_map(|(id, saga)| {
            let awaited = saga.progress.to_come(NEVER);
            awaited.into_iter().map(move |awaited| (awaited.due_at.0, *id))
        })
        .collect();
    if due.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into watch (due_at, saga_id) select * from unnest($1::timestamptz[], $2::uuid[])
         on conflict do nothing",
    )
    .bind(due.iter().map(|(at, _)| *at).collect::<Vec<_>>())
    .bind(due.iter().map(|(_, id)| *id).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}

/// Keys as they are stored, sixteen bytes each.
fn packed(keys: &BTreeSet<Uuid>) -> Vec<u8> {
    keys.iter().flat_map(|key| *key.as_bytes()).collect()
}

/// The keys of [`packed`].
pub(crate) fn unpacked(keys: &[u8]) -> BTreeSet<Uuid> {
    keys.chunks_exact(16).filter_map(|key| Uuid::from_slice(key).ok()).collect()
}
