//! The outbox table. A batch appends to it at its close (see `transaction`); the publisher
//! sweeps it, marks its rows and compares them with the stream.

use std::time::Duration;

use async_trait::async_trait;
use events::Timestamp;
use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use super::{ANSWER_TIMEOUT, Database, partitions};
use crate::{
    outbound::message::Message,
    store::engine::{Backlog, Failure, Gap, Generation, Mark, Outbox, Place},
};

/// The lease of a new message, for the publisher that it was handed to in memory, and of a swept
/// one, for the instance that swept it.
pub(crate) const LEASE_SECS: f64 = 2.0;
/// The backoff of a message that the broker has refused; it doubles …
pub(crate) const PUT_OFF_SECS: f64 = 1.0;
/// … up to this.
pub(crate) const PUT_OFF_SECS_MAX: f64 = 60.0;
/// Messages of a gap that lose their marks in one statement.
const GAP_MESSAGES_MAX: i64 = 5_000;
/// The newest messages, among which the latest published ones are looked for.
const NEWEST_MESSAGES_MAX: i64 = 100_000;
/// Messages counted of a backlog at most.
const BACKLOG_MESSAGES_MAX: i64 = 10_000;

/// What the service of this database has emitted but not published yet.
///
/// # Errors
/// When the database cannot be read.
pub async fn backlog(connection: &mut PgConnection) -> sqlx::Result<Backlog> {
    let (events, oldest): (i64, Option<Uuid>) = sqlx::query_as(
        "select coalesce(sum(events), 0)::bigint, (array_agg(id order by id))[1]
         from (select id, events from mesh.outbox where stream_seq is null
               order by id limit $1) as waiting",
    )
    .bind(BACKLOG_MESSAGES_MAX)
    .fetch_one(connection)
    .await?;
    let since = oldest.and_then(partitions::time_of);
    Ok(Backlog { events: events.unsigned_abs(), since: since.map(Timestamp::from) })
}

#[async_trait]
impl Outbox for Database {
    async fn sweep(&self, most: usize) -> Result<Vec<Message>, Failure> {
        self.answer(ANSWER_TIMEOUT, async {
            let rows: Vec<(Uuid, String, i32, Vec<u8>)> = sqlx::query_as(
                "with due as (
                     select id from mesh.outbox
                     where stream_seq is null and leased_until < clock_timestamp()
                     order by id limit $1 for update skip locked)
                 update mesh.outbox as o
                 set leased_until = clock_timestamp() + make_interval(secs => $2)
                 from due where o.id = due.id
                 returning o.id, o.subject, o.events, o.body",
            )
            .bind(most as i64)
            .bind(LEASE_SECS)
            .fetch_all(&self.pool)
            .await?;
            let mut swept: Vec<Message> = rows
                .into_iter()
                .map(|(id, subject, events, body)| Message {
                    id,
                    subject,
                    events: events.unsigned_abs(),
                    body: body.into(),
                })
                .collect();
            swept.sort_unstable_by_key(|message| message.id);
            Ok(swept)
        })
        .await
    }

    async fn begin_generation(&self) -> Result<Generation, Failure> {
        self.answer(ANSWER_TIMEOUT, async {
            let next = "update mesh.generation set number = number + 1 returning number";
            Ok(generation(sqlx::query_scalar(next).fetch_one(&self.pool).await?))
        })
        .await
    }

    async fn generation(&self) -> Result<Generation, Failure> {
        self.answer(ANSWER_TIMEOUT, async {
            let current = "select number from mesh.generation";
            Ok(generation(sqlx::query_scalar(current).fetch_one(&self.pool).await?))
        })
        .await
    }

    async fn mark(&self, marks: &[Mark], of: Generation) -> Result<bool, Failure> {
        self.answer(ANSWER_TIMEOUT, async {
            let (ids, sequences, [first, last]) = columns(marks);
            let statement = "update mesh.outbox as o set stream_seq = m.seq
                 from unnest($1::uuid[], $2::bigint[]) as m (id, seq)
                 where o.id = m.id and o.id between $3 and $4 and o.stream_seq is null";
            let mut tx = self.pool.begin().await?;
            if !is_current(&mut tx, of).await? {
                return Ok(false);
            }
            // Losing a mark only repeats a message, so no commit waits for the disk.
            sqlx::query("set local synchronous_commit = off").execute(&mut *tx).await?;
            sqlx::query(statement)
                .bind(ids)
                .bind(sequences)
                .bind(first)
                .bind(last)
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }

    async fn back_off(&self, id: Uuid) -> Result<(), Failure> {
        self.answer(ANSWER_TIMEOUT, async {
            sqlx::query(
                "update mesh.outbox
                 set leased_until = clock_timestamp()
                         + make_interval(secs => least($2 * 2 ^ least(refusals, 10), $3)),
                     refusals = refusals + 1
                 where id = $1 and stream_seq is null",
            )
            .bind(id)
            .bind(PUT_OFF_SECS)
            .bind(PUT_OFF_SECS_MAX)
            .execute(&self.pool)
            .await?;
            Ok(())
        })
        .await
    }

    async fn unmark(&self, lost: &[Mark]) -> Result<(), Failure> {
        self.answer(ANSWER_TIMEOUT, async {
            let (ids, sequences, [first, last]) = columns(lost);
            sqlx::query(
                "update mesh.outbox as o set stream_seq = null, leased_until = clock_timestamp()
                 from unnest($1::uuid[], $2::bigint[]) as m (id, seq)
                 where o.id = m.id and o.id between $3 and $4 and o.stream_seq = m.seq",
            )
            .bind(ids)
            .bind(sequences)
            .bind(first)
            .bind(last)
            .execute(&self.pool)
            .await?;
            Ok(())
        })
        .await
    }

    async fn publish_again(&self, gap: &Gap) -> Result<usize, Failure> {
        let statement = "with missed as (
                 select id, stream_seq from mesh.outbox
                 where stream_seq > $1 and stream_seq < $2 and id >= $3
                     and exists (select from unnest($4::text[]) as p (prefix)
                                 where starts_with(subject, p.prefix))
                 order by stream_seq limit $5)
             update mesh.outbox as o set stream_seq = null, leased_until = clock_timestamp()
             from missed where o.id = missed.id and o.stream_seq = missed.stream_seq";
        let mut count = 0;
        loop {
            let cleared = sqlx::query(statement)
                .bind(i64::try_from(gap.above).unwrap_or(i64::MAX))
                .bind(i64::try_from(gap.below).unwrap_or(i64::MAX))
                .bind(gap.since)
                .bind(&gap.subjects)
                .bind(GAP_MESSAGES_MAX)
                .execute(&self.pool)
                .await?
                .rows_affected();
            count += cleared as usize;
            if cleared < GAP_MESSAGES_MAX as u64 {
                return Ok(count);
            }
        }
    }

    async fn marks_above(&self, sequence: u64, most: usize) -> Result<Vec<Mark>, Failure> {
        self.answer(ANSWER_TIMEOUT, async {
            let statement = "select id, stream_seq from mesh.outbox
                 where stream_seq > $1 order by stream_seq, id limit $2";
            marks(&self.pool, statement, sequence, most).await
        })
        .await
    }

    async fn latest_marks(&self, most: usize) -> Result<Vec<Mark>, Failure> {
        self.answer(ANSWER_TIMEOUT, async {
            // After a long outage the newest rows are many that are not published yet.
            let statement = "select id, stream_seq
                 from (select id, stream_seq from mesh.outbox order by id desc limit $2) as newest
                 where stream_seq is not null order by id desc limit $1";
            let rows = sqlx::query_as(statement).bind(most as i64).bind(NEWEST_MESSAGES_MAX);
            let rows = rows.fetch_all(&self.pool).await?;
            Ok(rows.into_iter().map(mark).collect())
        })
        .await
    }

    async fn lease_comparison(&self, instance: Uuid, lease: Duration) -> Result<bool, Failure> {
        let statement = "insert into mesh.comparison as c (instance, leased_until)
             values ($1, clock_timestamp() + make_interval(secs => $2))
             on conflict (is_only) do update
             set instance = excluded.instance, leased_until = excluded.leased_until
             where c.instance = excluded.instance or c.leased_until <= clock_timestamp()";
        self.answer(ANSWER_TIMEOUT, async {
            let lease = sqlx::query(statement).bind(instance).bind(lease.as_secs_f64());
            Ok(lease.execute(&self.pool).await?.rows_affected() > 0)
        })
        .await
    }

    async fn release_comparison(&self, instance: Uuid) -> Result<(), Failure> {
        self.answer(ANSWER_TIMEOUT, async {
            let release = sqlx::query("delete from mesh.comparison where instance = $1");
            release.bind(instance).execute(&self.pool).await?;
            Ok(())
        })
        .await
    }

    async fn verified(&self) -> Result<Option<Place>, Failure> {
        self.answer(ANSWER_TIMEOUT, async {
            // A row without a time is of an earlier version, and proves nothing.
            let row: Option<(Uuid, i64, OffsetDateTime)> = sqlx::query_as(
                "select message_id, stream_seq, stored_at from mesh.verified
                 where stored_at is not null",
            )
            .fetch_optional(&self.pool)
            .await?;
            Ok(row.map(|(id, sequence, at)| Place {
                mark: mark((id, sequence)),
                stored_at: at.into(),
            }))
        })
        .await
    }

    async fn set_verified(&self, place: Option<Place>, of: Generation) -> Result<bool, Failure> {
        self.answer(ANSWER_TIMEOUT, async {
            let mut tx = self.pool.begin().await?;
            if !is_current(&mut tx, of).await? {
                return Ok(false);
            }
            let statement = match place {
                None => sqlx::query("delete from mesh.verified"),
                Some(place) => sqlx::query(
                    "insert into mesh.verified (stream_seq, message_id, stored_at)
                     values ($1, $2, $3)
                     on conflict (is_only) do update
                     set stream_seq = excluded.stream_seq, message_id = excluded.message_id,
                         stored_at = excluded.stored_at",
                )
                .bind(place.mark.sequence as i64)
                .bind(place.mark.id)
                .bind(place.stored_at.0),
            };
            statement.execute(&mut *tx).await?;
            tx.commit().await?;
            Ok(true)
        })
        .await
    }

    async fn backlog(&self) -> Result<Backlog, Failure> {
        self.answer(ANSWER_TIMEOUT, async { Ok(backlog(&mut *self.pool.acquire().await?).await?) })
            .await
    }
}

fn generation(number: i64) -> Generation {
    Generation(number.unsigned_abs())
}

/// Whether no later generation has begun; none can begin before the transaction ends.
async fn is_current(tx: &mut PgConnection, of: Generation) -> sqlx::Result<bool> {
    let current = "select number from mesh.generation for share";
    Ok(generation(sqlx::query_scalar(current).fetch_one(tx).await?) == of)
}

async fn marks(
    pool: &PgPool,
    statement: &'static str,
    sequence: u64,
    most: usize,
) -> Result<Vec<Mark>, Failure> {
    let rows: Vec<(Uuid, i64)> = sqlx::query_as(statement)
        .bind(i64::try_from(sequence).unwrap_or(i64::MAX))
        .bind(most as i64)
        .fetch_all(pool)
        .await?;
    Ok(rows.into_iter().map(mark).collect())
}

fn mark((id, sequence): (Uuid, i64)) -> Mark {
    Mark { id, sequence: sequence.unsigned_abs() }
}

/// Ids, sequences, and the range of the ids, so that only partitions within it are read.
fn columns(marks: &[Mark]) -> (Vec<Uuid>, Vec<i64>, [Uuid; 2]) {
    let ids: Vec<Uuid> = marks.iter().map(|mark| mark.id).collect();
    let sequences = marks.iter().map(|mark| mark.sequence as i64).collect();
    let first = ids.iter().min().copied().unwrap_or_default();
    let last = ids.iter().max().copied().unwrap_or_default();
    (ids, sequences, [first, last])
}
