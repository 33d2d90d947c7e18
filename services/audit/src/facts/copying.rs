//! Many new facts in one go: PostgreSQL's binary COPY, a third of the price of an insert.

use sqlx::{Connection as _, PgConnection};
use time::{OffsetDateTime, macros::datetime};
use uuid::Uuid;

use super::{COLUMNS, trace_id};
use crate::Heard;

/// Broken uniqueness.
const UNIQUE_VIOLATION: &str = "23505";
/// What PostgreSQL counts moments from.
const EPOCH: OffsetDateTime = datetime!(2000-01-01 00:00 UTC);
/// Signature, no flags, no extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// Columns of a row.
const FIELDS: i16 = 10;
/// Bytes of a row beside its payload, about.
const ROW_BYTES: usize = 200;

/// Writes facts, unless one of them is there; then none is written, and it says so.
pub(super) async fn all_are_new(tx: &mut PgConnection, facts: &[Heard]) -> sqlx::Result<bool> {
    let mut attempt = tx.begin().await?;
    let statement = format!("copy facts ({COLUMNS}) from stdin (format binary)");
    let mut copy = attempt.copy_in_raw(&statement).await?;
    copy.send(rows(facts)).await?;
    match copy.finish().await {
        Ok(_) => attempt.commit().await.map(|()| true),
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some(UNIQUE_VIOLATION) => {
            attempt.rollback().await.map(|()| false)
        }
        Err(error) => Err(error),
    }
}

/// The rows in the order of [`COLUMNS`].
fn rows(facts: &[Heard]) -> Vec<u8> {
    let bytes: usize = facts.iter().map(|heard| ROW_BYTES + heard.payload.len()).sum();
    let mut rows = Rows(Vec::with_capacity(HEADER.len() + bytes));
    rows.0.extend(HEADER);
    for heard in facts {
        rows.0.extend(FIELDS.to_be_bytes());
        rows.uuid(Some(heard.event_id.0));
        rows.uuid(Some(heard.saga_id.0));
        rows.uuid(heard.cause_id);
        rows.uuid(Some(heard.about));
        rows.uuid(trace_id(heard));
        let at = (heard.at.0 - EPOCH).whole_microseconds() as i64;
        rows.field(&at.to_be_bytes());
        rows.field(&(heard.stream_seq as i64).to_be_bytes());
        rows.field(&(heard.deliveries as i32).to_be_bytes());
        rows.field(heard.fact.as_bytes());
        rows.field(&heard.payload);
    }
    rows.0.extend((-1_i16).to_be_bytes());
    rows.0
}

struct Rows(Vec<u8>);

impl Rows {
    fn field(&mut self, bytes: &[u8]) {
        self.0.extend((bytes.len() as i32).to_be_bytes());
        self.0.extend(bytes);
    }

    fn uuid(&mut self, id: Option<Uuid>) {
        match id {
            Some(id) => self.field(id.as_bytes()),
            None => self.0.extend((-1_i32).to_be_bytes()),
        }
    }
}
