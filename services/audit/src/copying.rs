//! Writes many new rows at once by PostgreSQL's binary COPY, at a third of the price of an insert.

use events::Timestamp;
use sqlx::PgConnection;
use time::{OffsetDateTime, macros::datetime};
use uuid::Uuid;

/// What PostgreSQL counts moments from.
const EPOCH: OffsetDateTime = datetime!(2000-01-01 00:00 UTC);
/// Signature, no flags, no extension.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// Rows to be written into a table, field after field in the order of its columns.
pub(crate) struct Rows {
    statement: String,
    fields: i16,
    bytes: Vec<u8>,
}

impl Rows {
    /// No rows yet, for these columns of a table, with room for `bytes`.
    pub(crate) fn of(table: &str, columns: &str, bytes: usize) -> Self {
        let statement = format!("copy {table} ({columns}) from stdin (format binary)");
        let fields = columns.split(',').count() as i16;
        let mut rows = Self { statement, fields, bytes: Vec::with_capacity(bytes) };
        rows.bytes.extend(HEADER);
        rows
    }

    /// Begins the next row.
    pub(crate) fn begin(&mut self) {
        self.bytes.extend(self.fields.to_be_bytes());
    }

    /// Bytes, text, or the bytes of a number.
    pub(crate) fn field(&mut self, bytes: &[u8]) {
        self.bytes.extend((bytes.len() as i32).to_be_bytes());
        self.bytes.extend(bytes);
    }

    pub(crate) fn uuid(&mut self, id: Uuid) {
        self.field(id.as_bytes());
    }

    pub(crate) fn at(&mut self, at: Timestamp) {
        self.field(&((at.0 - EPOCH).whole_microseconds() as i64).to_be_bytes());
    }

    /// A field that may be null.
    pub(crate) fn maybe<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        match value {
            Some(value) => write(self, value),
            None => self.bytes.extend((-1_i32).to_be_bytes()),
        }
    }

    /// Writes all rows. One that is there already fails the whole transaction.
    pub(crate) async fn copy(mut self, tx: &mut PgConnection) -> sqlx::Result<()> {
        self.bytes.extend((-1_i16).to_be_bytes());
        let mut copy = tx.copy_in_raw(&self.statement).await?;
        copy.send(self.bytes).await?;
        copy.finish().await?;
        Ok(())
    }
}
