//! How far whole streams have been read, and by which instance.

use std::collections::BTreeMap;

use sqlx::{
    ConnectOptions as _, Connection as _, PgConnection, PgPool, postgres::PgConnectOptions,
};
use uuid::Uuid;

use super::{ANSWER_TIMEOUT, POSTGRES};
use crate::{deadline::within, engine::Failure};

/// The advisory lock of the one instance that reads.
const LEAD_LOCK: i64 = 0x006f_6e73_616c_6502;
/// How often an instance that stands by asks for it.
const LEAD_RETRY: std::time::Duration = std::time::Duration::from_secs(1);

/// The right to read, held by one instance at a time; gone with its session.
pub struct Lead(PgConnection);

impl Lead {
    /// Waits until no other instance has it.
    #[expect(clippy::disallowed_methods, reason = "it has a limit")]
    pub(super) async fn take(options: &PgConnectOptions) -> Result<Self, Failure> {
        let connected = within(ANSWER_TIMEOUT, POSTGRES, options.connect()).await;
        let mut connection = connected??;
        loop {
            let asked = sqlx::query_scalar("select pg_try_advisory_lock($1)")
                .bind(LEAD_LOCK)
                .fetch_one(&mut connection);
            let held: bool = within(ANSWER_TIMEOUT, POSTGRES, asked).await??;
            if held {
                return Ok(Self(connection));
            }
            tokio::time::sleep(LEAD_RETRY).await;
        }
    }

    /// Whether it is still held.
    pub(crate) async fn check(&mut self) -> Result<(), Failure> {
        Ok(within(ANSWER_TIMEOUT, POSTGRES, self.0.ping()).await??)
    }
}

/// A place in a stream: its sequence, and the id of the message there.
pub(crate) type Place = (u64, Uuid);

/// The last message of each stream whose effect is in the database.
#[derive(Debug, Clone, Default)]
pub struct Positions(pub(crate) BTreeMap<String, Place>);

impl Positions {
    /// The sequence of the last message of `stream` that has had its effect; 0 before the first.
    pub fn of(&self, stream: &str) -> u64 {
        self.0.get(stream).map_or(0, |(seq, _)| *seq)
    }

    /// Reads them from a service's database.
    ///
    /// # Errors
    /// When the database cannot be read.
    pub async fn load(pool: &PgPool) -> Result<Self, Failure> {
        let rows: Vec<(String, i64, Uuid)> =
            sqlx::query_as("select stream, seq, message_id from mesh.positions")
                .fetch_all(pool)
                .await?;
        Ok(Self(rows.into_iter().map(|(stream, seq, id)| (stream, (seq as u64, id))).collect()))
    }

    /// Writes them; a part of the transaction that has the facts' effect.
    pub(crate) async fn save(&self, tx: &mut PgConnection) -> Result<(), Failure> {
        let streams: Vec<&str> = self.0.keys().map(String::as_str).collect();
        let seqs: Vec<i64> = self.0.values().map(|(seq, _)| *seq as i64).collect();
        let ids: Vec<Uuid> = self.0.values().map(|(_, id)| *id).collect();
        sqlx::query(
            "insert into mesh.positions (stream, seq, message_id)
             select * from unnest($1::text[], $2::bigint[], $3::uuid[])
             on conflict (stream) do update set seq = excluded.seq, message_id = excluded.message_id",
        )
        .bind(streams)
        .bind(seqs)
        .bind(ids)
        .execute(tx)
        .await?;
        Ok(())
    }
}
