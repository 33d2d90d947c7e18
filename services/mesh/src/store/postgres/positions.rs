//! How far whole streams have been read, and the leader that reads them.

use std::collections::BTreeMap;

use sqlx::{
    ConnectOptions as _, Connection as _, PgConnection, PgPool, postgres::PgConnectOptions,
};
use uuid::Uuid;

use super::{ANSWER_TIMEOUT, POSTGRES};
use crate::{deadline::within, store::engine::Failure};

/// The advisory lock of the leader.
const LEAD_LOCK: i64 = 0x006f_6e73_616c_6502;
/// How often a standby tries to take it.
const LEAD_RETRY: std::time::Duration = std::time::Duration::from_secs(1);

/// Leadership: the right to read, held by one instance at a time and lost with its session.
pub struct Lead(PgConnection);

impl Lead {
    /// Waits until this instance is the leader.
    #[expect(clippy::disallowed_methods, reason = "it has a limit")]
    pub(super) async fn take(options: &PgConnectOptions) -> Result<Self, Failure> {
        let connected = within(ANSWER_TIMEOUT, POSTGRES, options.connect()).await;
        let mut connection = connected??;
        loop {
            let locked = sqlx::query_scalar("select pg_try_advisory_lock($1)")
                .bind(LEAD_LOCK)
                .fetch_one(&mut connection);
            let held: bool = within(ANSWER_TIMEOUT, POSTGRES, locked).await??;
            if held {
                return Ok(Self(connection));
            }
            tokio::time::sleep(LEAD_RETRY).await;
        }
    }

    /// Checks that this instance is still the leader.
    pub(crate) async fn check(&mut self) -> Result<(), Failure> {
        Ok(within(ANSWER_TIMEOUT, POSTGRES, self.0.ping()).await??)
    }
}

/// A position in a stream: a sequence, and the id of the message there.
pub(crate) type Place = (u64, Uuid);

/// The last message of each stream whose effect is in the database.
#[derive(Debug, Clone, Default)]
pub struct Positions(pub(crate) BTreeMap<String, Place>);

impl Positions {
    /// The sequence of the last message of `stream` that has had its effect; 0 before the first.
    pub fn of(&self, stream: &str) -> u64 {
        self.0.get(stream).map_or(0, |(seq, _)| *seq)
    }

    /// Loads the positions from a service's database.
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

    /// Saves the positions, in the transaction that stores the events' effect.
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
