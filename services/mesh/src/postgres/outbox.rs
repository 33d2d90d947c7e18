//! The outbox table: appended to by batches, read by the relay.

use std::time::Duration;

use events::Timestamp;
use sqlx::{
    ConnectOptions, Connection, PgConnection, Row as _,
    postgres::{PgConnectOptions, PgRow},
};
use time::OffsetDateTime;
use uuid::Uuid;

use crate::{
    engine::{Backlog, Failure},
    relay::{Cursor, Position, Row, Source},
    trace::TraceParent,
    turn::Told,
};

/// The advisory lock that the one relay of a service's database holds.
const RELAY_LOCK: i64 = 0x006f_6e73_616c_6501;
/// How often an instance without the lock asks for it.
const LOCK_RETRY: Duration = Duration::from_secs(1);

/// Writes the facts of a batch, each with the `traceparent` of the span that told it.
pub(super) async fn append(
    tx: &mut PgConnection,
    told: &[(Told, Option<String>)],
) -> Result<(), Failure> {
    if told.is_empty() {
        return Ok(());
    }
    let column =
        |read: fn(&Told) -> Uuid| told.iter().map(|(fact, _)| read(fact)).collect::<Vec<_>>();
    let causes: Vec<Option<Uuid>> = told.iter().map(|(fact, _)| fact.cause_id).collect();
    let at: Vec<OffsetDateTime> = told.iter().map(|(fact, _)| fact.at.0).collect();
    let traces: Vec<Option<&str>> = told.iter().map(|(_, trace)| trace.as_deref()).collect();
    let deliveries: Vec<i32> =
        told.iter().map(|(fact, _)| i32::try_from(fact.deliveries).unwrap_or(i32::MAX)).collect();
    let subjects: Vec<&str> = told.iter().map(|(fact, _)| fact.subject.as_str()).collect();
    let payloads: Vec<&[u8]> = told.iter().map(|(fact, _)| fact.payload.as_slice()).collect();
    sqlx::query(
        "insert into mesh.outbox
             (event_id, saga_id, cause_id, about, told_at, deliveries, traceparent, subject, payload)
         select * from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[],
             $5::timestamptz[], $6::integer[], $7::text[], $8::text[], $9::bytea[])",
    )
    .bind(column(|fact| fact.event_id.0))
    .bind(column(|fact| fact.saga_id.0))
    .bind(causes)
    .bind(column(|fact| fact.about))
    .bind(at)
    .bind(deliveries)
    .bind(traces)
    .bind(subjects)
    .bind(payloads)
    .execute(tx)
    .await?;
    Ok(())
}

/// What the service of this database has told and not published yet.
///
/// # Errors
/// When the database cannot be read.
pub async fn backlog(connection: &mut PgConnection) -> sqlx::Result<Backlog> {
    let (facts, since): (i64, Option<OffsetDateTime>) = sqlx::query_as(
        "with position as (select xid, id from mesh.relay_log order by line desc limit 1)
         select count(*), min(told_at) from mesh.outbox
         where (xid, id) > (coalesce((select xid from position), '0'::xid8),
                            coalesce((select id from position), 0))",
    )
    .fetch_one(connection)
    .await?;
    Ok(Backlog { facts: facts.unsigned_abs(), since: since.map(Timestamp) })
}

/// The outbox of one service, held by this process.
///
/// The lock lives in the same session as every read and every move of the position: when
/// the connection is lost the lock is gone, and this relay can move nothing any more.
pub struct PgOutbox {
    connection: PgConnection,
    held_back: bool,
    /// No transaction older than this can still commit anything here.
    horizon: u64,
}

impl PgOutbox {
    /// Waits until this process is the one that relays.
    pub(super) async fn open(options: &PgConnectOptions) -> Result<Self, Failure> {
        let mut connection = options.connect().await?;
        // Losing a move of the position only repeats messages, so no commit waits for it.
        sqlx::query("set synchronous_commit = off").execute(&mut connection).await?;
        loop {
            let held: bool = sqlx::query_scalar("select pg_try_advisory_lock($1)")
                .bind(RELAY_LOCK)
                .fetch_one(&mut connection)
                .await?;
            if held {
                return Ok(Self { connection, held_back: false, horizon: 0 });
            }
            tokio::time::sleep(LOCK_RETRY).await;
            connection.ping().await?;
        }
    }
}

impl PgOutbox {
    /// Reads what is settled; the oldest transaction whose facts are not, if any.
    async fn look(
        &mut self,
        after: Cursor,
        limit: usize,
    ) -> Result<(Vec<Row>, Option<u64>), Failure> {
        let rows = sqlx::query(
            "select xid::text, id, event_id, saga_id, cause_id, about, told_at, deliveries,
                    traceparent, subject, payload,
                    xid < greatest($4::text::xid8, pg_snapshot_xmin(pg_current_snapshot()))
                        as settled
             from mesh.outbox
             where (xid, id) > ($1::text::xid8, $2)
             order by xid, id limit $3",
        )
        .bind(after.major.to_string())
        .bind(after.minor as i64)
        .bind(limit as i64)
        .bind(self.horizon.to_string())
        .fetch_all(&mut self.connection)
        .await?;
        // A row is settled when no older transaction can still commit before it. Rows are in
        // the order of transactions, so the settled ones come first.
        let unsettled = rows.iter().position(|row| !row.try_get("settled").unwrap_or(false));
        let waiting = unsettled.map(|index| cursor(&rows[index])).transpose()?;
        let settled = rows.iter().take(unsettled.unwrap_or(rows.len())).map(told);
        Ok((settled.collect::<Result<_, _>>()?, waiting.map(|cursor| cursor.major)))
    }

    /// The oldest transaction that runs in this database; the next one when none does.
    ///
    /// A snapshot knows those of the whole cluster, and a long one in another database would
    /// hold this service's facts back. The end of the snapshot is taken before the sessions
    /// are looked at, and rows are read by a later snapshot: a transaction that is missed here
    /// is over and seen there, or younger. A session of another role hides what it does, so
    /// next to one only the snapshot counts.
    async fn oldest_running(&mut self) -> Result<u64, Failure> {
        let oldest: i64 = sqlx::query_scalar(
            "with cluster as (
                 select pg_snapshot_xmax(pg_current_snapshot())::text::bigint as xmax),
             sessions as (
                 select usename is distinct from current_user as is_strange,
                        (xmax - backend_xid::text::bigint) & 4294967295 as age
                 from pg_stat_activity, cluster
                 where datname = current_database() and backend_type <> 'autovacuum worker')
             select case when (select bool_or(is_strange) from sessions) then 0
                    else xmax - coalesce(
                        (select max(age) from sessions where age < 2147483648), 0) end
             from cluster",
        )
        .fetch_one(&mut self.connection)
        .await?;
        Ok(oldest.unsigned_abs())
    }
}

impl Source for PgOutbox {
    async fn position(&mut self) -> Result<Position, Failure> {
        let row = sqlx::query(
            "select xid::text, id, stream_seq from mesh.relay_log order by line desc limit 1",
        )
        .fetch_optional(&mut self.connection)
        .await?;
        row.map_or(Ok(Position::default()), |row| position(&row))
    }

    async fn read(&mut self, after: Cursor, limit: usize) -> Result<Vec<Row>, Failure> {
        let (mut rows, mut waiting) = self.look(after, limit).await?;
        if let Some(oldest) = waiting {
            self.horizon = self.horizon.max(self.oldest_running().await?);
            if self.horizon > oldest {
                (rows, waiting) = self.look(after, limit).await?;
            }
        }
        self.held_back = waiting.is_some();
        Ok(rows)
    }

    fn held_back(&self) -> bool {
        self.held_back
    }

    async fn advance(&mut self, to: Position) -> Result<(), Failure> {
        sqlx::query(
            "insert into mesh.relay_log (xid, id, stream_seq) values ($1::text::xid8, $2, $3)",
        )
        .bind(to.cursor.major.to_string())
        .bind(to.cursor.minor as i64)
        .bind(to.stream_seq as i64)
        .execute(&mut self.connection)
        .await?;
        Ok(())
    }

    async fn rewind(&mut self, last_seq: u64) -> Result<Position, Failure> {
        sqlx::query("delete from mesh.relay_log where stream_seq > $1")
            .bind(last_seq as i64)
            .execute(&mut self.connection)
            .await?;
        self.position().await
    }
}

fn position(row: &PgRow) -> Result<Position, Failure> {
    let stream_seq: i64 = row.try_get("stream_seq")?;
    Ok(Position { cursor: cursor(row)?, stream_seq: stream_seq as u64 })
}

fn cursor(row: &PgRow) -> Result<Cursor, Failure> {
    let xid: &str = row.try_get("xid")?;
    let id: i64 = row.try_get("id")?;
    let major = xid.parse().map_err(|_| Failure::Refused(format!("`{xid}` is no xid")))?;
    Ok(Cursor { major, minor: id as u64 })
}

fn told(row: &PgRow) -> Result<Row, Failure> {
    let at: OffsetDateTime = row.try_get("told_at")?;
    let trace: Option<&str> = row.try_get("traceparent")?;
    let payload: Vec<u8> = row.try_get("payload")?;
    let deliveries: i32 = row.try_get("deliveries")?;
    Ok(Row {
        cursor: cursor(row)?,
        event_id: row.try_get::<Uuid, _>("event_id")?.into(),
        subject: row.try_get("subject")?,
        payload: payload.into(),
        about: row.try_get("about")?,
        saga_id: row.try_get::<Uuid, _>("saga_id")?.into(),
        cause_id: row.try_get("cause_id")?,
        at: at.into(),
        deliveries: u64::from(deliveries.unsigned_abs()),
        trace: TraceParent::from_outbox(trace, at.into()),
    })
}
