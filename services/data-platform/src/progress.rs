//! How far the export has come, as the database records it.

use std::collections::BTreeMap;

use events::{
    Timestamp,
    data_platform::{ExportTrouble, ExportedStream},
};
use mesh::engine::Failure;
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;

use crate::domain::Record;

/// Records that records were taken, in the transaction that moves the position.
pub(crate) async fn note_taken(
    tx: &mut PgConnection,
    records: &[Record],
    watermark: Option<Timestamp>,
) -> Result<(), Failure> {
    let mut taken: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
    for record in records {
        let (events, last) = taken.entry(&record.stream).or_default();
        (*events, *last) = (*events + 1, record.sequence as i64);
    }
    let streams: Vec<&str> = taken.keys().copied().collect();
    let (events, lasts): (Vec<i64>, Vec<i64>) = taken.into_values().unzip();
    // A repeat, after the answer to the commit was lost, is not counted twice.
    sqlx::query(
        "insert into exported (stream, facts, last_seq)
         select * from unnest($1::text[], $2::bigint[], $3::bigint[])
         on conflict (stream) do update
            set facts = exported.facts + excluded.facts, last_seq = excluded.last_seq
            where exported.last_seq <> excluded.last_seq",
    )
    .bind(streams)
    .bind(events)
    .bind(lasts)
    .execute(&mut *tx)
    .await?;
    sqlx::query(
        "update export set watermark = greatest(watermark, $1), trouble = null,
            trouble_since = null, attempts = 0
         where only_row",
    )
    .bind(watermark.map(|at| at.0))
    .execute(tx)
    .await?;
    Ok(())
}

/// Records that a batch was not taken, and why.
pub(crate) async fn note_trouble(
    pool: &PgPool,
    cause: &str,
    now: Timestamp,
) -> Result<(), Failure> {
    sqlx::query(
        "update export set trouble = $1, trouble_since = coalesce(trouble_since, $2),
            attempts = attempts + 1
         where only_row",
    )
    // PostgreSQL stores no zero bytes.
    .bind(cause.replace('\0', ""))
    .bind(now.0)
    .execute(pool)
    .await?;
    Ok(())
}

/// What is recorded.
pub(crate) struct Noted {
    pub(crate) watermark: Option<Timestamp>,
    pub(crate) trouble: Option<ExportTrouble>,
    pub(crate) streams: Vec<ExportedStream>,
}

/// Reads what is recorded.
pub(crate) async fn noted(pool: &PgPool) -> sqlx::Result<Noted> {
    type Columns = (Option<OffsetDateTime>, Option<String>, Option<OffsetDateTime>, i64);
    let (watermark, cause, since, attempts): Columns =
        sqlx::query_as("select watermark, trouble, trouble_since, attempts from export")
            .fetch_one(pool)
            .await?;
    let streams: Vec<(String, i64, i64)> = sqlx::query_as(
        "select p.stream, p.seq, coalesce(e.facts, 0)
         from mesh.positions p left join exported e using (stream)
         order by p.stream",
    )
    .fetch_all(pool)
    .await?;
    let stream = |(service, sequence, events): (String, i64, i64)| ExportedStream {
        service,
        sequence: sequence as u64,
        events: events as u64,
        behind: None,
    };
    let trouble = |(cause, since): (String, OffsetDateTime)| ExportTrouble {
        cause,
        since: since.into(),
        attempts: attempts as u64,
    };
    Ok(Noted {
        watermark: watermark.map(Timestamp::from),
        trouble: cause.zip(since).map(trouble),
        streams: streams.into_iter().map(stream).collect(),
    })
}
