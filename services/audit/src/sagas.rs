//! The rows of sagas: loads them, lets them handle new events, writes them.

use std::collections::{BTreeMap, BTreeSet};

use auditor::{Observed, timeline::Progress};
use events::{Timestamp, audit::SagaState};
use flows::Flows;
use sqlx::PgConnection;
use time::{OffsetDateTime, PrimitiveDateTime};
use uuid::Uuid;

use crate::{copying::Rows, keys::keys_of, service_bits::bit_of};

/// Later than any deadline.
pub(crate) const NEVER: Timestamp = Timestamp(PrimitiveDateTime::MAX.assume_utc());

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
/// When it cannot be decoded.
pub(crate) fn progress(stored: &[u8]) -> sqlx::Result<Progress> {
    serde_json::from_slice(stored).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// A saga, and what the database has stored of it.
#[derive(Default)]
struct Saga {
    progress: Progress,
    last_at: Option<Timestamp>,
    took_part: i32,
    from: Option<Uuid>,
    to: Option<Uuid>,
    keys: BTreeSet<Uuid>,
    /// The keys in the database; `None` when the saga is not there.
    stored_keys: Option<BTreeSet<Uuid>>,
}

impl Saga {
    fn handle(&mut self, flows: &Flows, observed: &Observed) {
        self.progress.handle(flows, observed);
        let id = observed.event_id.0;
        self.last_at = self.last_at.max(Some(observed.at));
        self.took_part |= bit_of(observed.service());
        self.from = Some(self.from.map_or(id, |from| from.min(id)));
        self.to = self.to.max(Some(id));
        self.keys.extend(keys_of(observed));
    }
}

/// Sagas by id: the order in which they are written, so that writers do not deadlock.
type Sagas = BTreeMap<Uuid, Saga>;

/// Lets the sagas of new events handle them, and writes those sagas.
pub(crate) async fn handle(
    tx: &mut PgConnection,
    flows: &Flows,
    events: &[Observed],
) -> sqlx::Result<()> {
    let mut sagas = load(tx, events).await?;
    for observed in events {
        sagas.entry(observed.saga_id.0).or_default().handle(flows, observed);
    }
    let (known, new): (Vec<_>, Vec<_>) =
        sagas.iter().map(row).partition(|row| sagas[&row.saga_id].stored_keys.is_some());
    if !new.is_empty() {
        insert(tx, &new).await?;
    }
    if !known.is_empty() {
        update(tx, &known).await?;
    }
    save_keys(tx, &sagas).await?;
    save_watch(tx, &sagas).await
}

/// Id, last, services, from, to, keys, progress.
type Columns = (Uuid, OffsetDateTime, i32, Uuid, Uuid, Vec<u8>, Vec<u8>);

async fn load(tx: &mut PgConnection, events: &[Observed]) -> sqlx::Result<Sagas> {
    let ids: BTreeSet<Uuid> = events.iter().map(|observed| observed.saga_id.0).collect();
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
            stored_keys: Some(keys.clone()),
            keys,
        };
        Ok((id, saga))
    };
    rows.into_iter().map(read).collect()
}

/// A saga as it is written.
struct Row {
    saga_id: Uuid,
    last_at: Option<Timestamp>,
    next_due: Option<Timestamp>,
    outcome: Option<i16>,
    took_part: i32,
    awaited: i32,
    from: Option<Uuid>,
    to: Option<Uuid>,
    keys: Vec<u8>,
    progress: Vec<u8>,
}

fn row((saga_id, saga): (&Uuid, &Saga)) -> Row {
    Row {
        saga_id: *saga_id,
        last_at: saga.last_at,
        next_due: saga.progress.next_due(),
        outcome: outcome_of(saga.progress.state(NEVER)),
        took_part: saga.took_part,
        awaited: saga.progress.awaited().fold(0, |bits, (_, service)| bits | bit_of(service)),
        from: saga.from,
        to: saga.to,
        keys: packed(&saga.keys),
        progress: serde_json::to_vec(&saga.progress).unwrap_or_default(),
    }
}

const COLUMNS: &str = "saga_id, last_at, next_due_at, outcome, took_part, awaited, from_id, to_id, \
                       keys, progress";
/// Bytes of a row beside its keys and progress, about.
const ROW_BYTES: usize = 160;
/// Bytes of a key's row.
const KEY_BYTES: usize = 42;

async fn insert(tx: &mut PgConnection, sagas: &[Row]) -> sqlx::Result<()> {
    let bytes = sagas.iter().map(|saga| ROW_BYTES + saga.keys.len() + saga.progress.len()).sum();
    let mut rows = Rows::of("sagas", COLUMNS, bytes);
    for saga in sagas {
        rows.begin();
        rows.uuid(saga.saga_id);
        rows.maybe(saga.last_at, Rows::at);
        rows.maybe(saga.next_due, Rows::at);
        rows.maybe(saga.outcome, |rows, outcome| rows.field(&outcome.to_be_bytes()));
        rows.field(&saga.took_part.to_be_bytes());
        rows.field(&saga.awaited.to_be_bytes());
        rows.maybe(saga.from, Rows::uuid);
        rows.maybe(saga.to, Rows::uuid);
        rows.field(&saga.keys);
        rows.field(&saga.progress);
    }
    rows.copy(tx).await
}

async fn update(tx: &mut PgConnection, sagas: &[Row]) -> sqlx::Result<()> {
    let at = |read: fn(&Row) -> Option<Timestamp>| {
        sagas.iter().map(|saga| read(saga).map(|at| at.0)).collect::<Vec<_>>()
    };
    sqlx::query(
        "update sagas s set
             last_at = n.last_at, next_due_at = n.next_due_at, outcome = n.outcome,
             took_part = n.took_part, awaited = n.awaited, from_id = n.from_id, to_id = n.to_id,
             keys = n.keys, progress = n.progress
         from unnest($1::uuid[], $2::timestamptz[], $3::timestamptz[], $4::smallint[],
             $5::integer[], $6::integer[], $7::uuid[], $8::uuid[], $9::bytea[], $10::bytea[])
             as n (saga_id, last_at, next_due_at, outcome, took_part, awaited, from_id, to_id,
                   keys, progress)
         where s.saga_id = n.saga_id",
    )
    .bind(sagas.iter().map(|saga| saga.saga_id).collect::<Vec<_>>())
    .bind(at(|saga| saga.last_at))
    .bind(at(|saga| saga.next_due))
    .bind(sagas.iter().map(|saga| saga.outcome).collect::<Vec<_>>())
    .bind(sagas.iter().map(|saga| saga.took_part).collect::<Vec<_>>())
    .bind(sagas.iter().map(|saga| saga.awaited).collect::<Vec<_>>())
    .bind(sagas.iter().map(|saga| saga.from).collect::<Vec<_>>())
    .bind(sagas.iter().map(|saga| saga.to).collect::<Vec<_>>())
    .bind(sagas.iter().map(|saga| &*saga.keys).collect::<Vec<_>>())
    .bind(sagas.iter().map(|saga| &*saga.progress).collect::<Vec<_>>())
    .execute(tx)
    .await?;
    Ok(())
}

/// Writes the keys that a saga did not have before. Its row lists those it had, so none of the
/// new ones can be there.
async fn save_keys(tx: &mut PgConnection, sagas: &Sagas) -> sqlx::Result<()> {
    let none = BTreeSet::new();
    let mut new: Vec<(Uuid, Uuid)> = Vec::new();
    for (id, saga) in sagas {
        let stored = saga.stored_keys.as_ref().unwrap_or(&none);
        new.extend(saga.keys.difference(stored).map(|key| (*key, *id)));
    }
    if new.is_empty() {
        return Ok(());
    }
    let mut rows = Rows::of("saga_keys", "key, saga_id", new.len() * KEY_BYTES);
    for (key, saga_id) in new {
        rows.begin();
        rows.uuid(key);
        rows.uuid(saga_id);
    }
    rows.copy(tx).await
}

/// Writes every open deadline. Each is checked once when it has passed, whether it still matters
/// or not.
async fn save_watch(tx: &mut PgConnection, sagas: &Sagas) -> sqlx::Result<()> {
    let due: Vec<(OffsetDateTime, Uuid)> = sagas
        .iter()
        .flat_map(|(id, saga)| saga.progress.awaited().map(move |(due_at, _)| (due_at.0, *id)))
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
