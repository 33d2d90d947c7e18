//! The tables that analysts read: typed columns, as Parquet.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
    sync::Arc,
};

use events::Timestamp;
use parquet::{
    basic::Compression,
    data_type::{ByteArray, ByteArrayType, Int64Type},
    errors::ParquetError,
    file::{
        properties::WriterProperties,
        reader::{FileReader, SerializedFileReader},
        writer::{SerializedFileWriter, SerializedRowGroupWriter},
    },
    record::Field,
    schema::parser::parse_message_type,
};
use serde_json::Value;

use crate::domain::Record;

/// What a column holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// UTF-8; ids too, as every reader knows how to show them.
    Text,
    /// A whole number.
    Number,
    /// Microseconds since 1970, UTC.
    Moment,
    /// The number of things the event lists.
    Count,
}

/// One value.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Cell {
    /// The event has no such field.
    Null,
    /// A value of [`Kind::Text`].
    Text(String),
    /// A value of any other kind.
    Number(i64),
}

/// A row: one cell for each column.
pub type Row = Vec<Cell>;

/// One kind of row.
#[derive(Debug, PartialEq, Eq)]
pub struct Table {
    /// Its folder.
    pub name: &'static str,
    /// The service whose events are its rows.
    pub stream: &'static str,
    /// Its columns.
    pub columns: &'static [(&'static str, Kind)],
}

/// The column that identifies a row.
pub const EVENT_ID: usize = 0;
/// The column that rows are ordered by.
pub const SEQUENCE: usize = 1;

/// A row for each event of a payment. The last state of a payment is its row with the highest
/// version.
pub const PAYMENTS: Table = Table {
    name: "payments",
    stream: "payment",
    columns: &[
        ("event_id", Kind::Text),
        ("sequence", Kind::Number),
        ("type", Kind::Text),
        ("at", Kind::Moment),
        ("saga_id", Kind::Text),
        ("payment_id", Kind::Text),
        ("version", Kind::Number),
        ("state", Kind::Text),
        ("reservation_id", Kind::Text),
        ("schedule_id", Kind::Text),
        ("user_id", Kind::Text),
        ("amount", Kind::Number),
        ("reason", Kind::Text),
        ("requested_at", Kind::Moment),
        ("ended_at", Kind::Moment),
    ],
};

/// A row for each event of a reservation.
pub const RESERVATIONS: Table = Table {
    name: "reservations",
    stream: "reservation",
    columns: &[
        ("event_id", Kind::Text),
        ("sequence", Kind::Number),
        ("type", Kind::Text),
        ("at", Kind::Moment),
        ("saga_id", Kind::Text),
        ("reservation_id", Kind::Text),
        ("version", Kind::Number),
        ("state", Kind::Text),
        ("schedule_id", Kind::Text),
        ("user_id", Kind::Text),
        ("payment_id", Kind::Text),
        ("seats", Kind::Count),
        ("amount", Kind::Number),
        ("refund", Kind::Number),
        ("reason", Kind::Text),
        ("hold_version", Kind::Number),
        ("expires_at", Kind::Moment),
    ],
};

impl Table {
    /// The table of a record.
    pub fn of(record: &Record) -> Option<&'static Self> {
        [&PAYMENTS, &RESERVATIONS].into_iter().find(|table| table.stream == record.stream)
    }

    /// A record as a row of this table: its own fields, then those of the event's data.
    pub fn row(&self, record: &Record) -> Row {
        let itself = serde_json::to_value(record).expect("records are plain data");
        let cell = |(name, kind): &(&str, Kind)| {
            let value = itself.get(name).or_else(|| record.data.get(name));
            value.and_then(|value| cell(*kind, value)).unwrap_or(Cell::Null)
        };
        self.columns.iter().map(cell).collect()
    }

    /// The rows of a file; none when it does not exist.
    ///
    /// # Errors
    /// When it cannot be read, or has the columns of another table.
    pub fn read(&self, file: &Path) -> io::Result<Vec<Row>> {
        let open = match File::open(file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            open => open?,
        };
        let reader = SerializedFileReader::new(open).map_err(broken)?;
        let found = reader.metadata().file_metadata().schema_descr().columns().iter();
        if !found.map(|column| column.name()).eq(self.columns.iter().map(|(name, _)| *name)) {
            return Err(io::Error::other(format!("it is not a table of {}", self.name)));
        }
        let rows = reader.get_row_iter(None).map_err(broken)?;
        rows.map(|row| Ok(row.map_err(broken)?.into_columns().into_iter().map(stored).collect()))
            .collect()
    }

    /// Writes rows as a file, whole or not at all; it survives a crash of the machine.
    ///
    /// # Errors
    /// When the folder cannot be written to.
    pub fn write(&self, file: &Path, rows: &[Row]) -> io::Result<()> {
        let (Some(folder), Some(name)) = (file.parent(), file.file_name()) else {
            return Err(io::Error::other("a file in a folder is needed"));
        };
        fs::create_dir_all(folder)?;
        // Readers skip names that begin with a dot.
        let part = folder.join(format!(".{}", name.display()));
        let mut open = File::create(&part)?;
        self.encode(&mut open, rows).map_err(broken)?;
        open.sync_all()?;
        fs::rename(&part, file)?;
        File::open(folder)?.sync_all()
    }

    fn encode(&self, file: &mut (impl Write + Send), rows: &[Row]) -> Result<(), ParquetError> {
        let schema = Arc::new(parse_message_type(&self.schema())?);
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_created_by("onsale".to_owned())
            .build();
        let mut writer = SerializedFileWriter::new(file, schema, Arc::new(properties))?;
        let mut group = writer.next_row_group()?;
        for (index, (_, kind)) in self.columns.iter().enumerate() {
            write_column(&mut group, *kind, rows.iter().map(|row| &row[index]))?;
        }
        group.close()?;
        writer.close()?;
        Ok(())
    }

    fn schema(&self) -> String {
        let field = |(name, kind): &(&str, Kind)| match kind {
            Kind::Text => format!("optional binary {name} (STRING);"),
            Kind::Number | Kind::Count => format!("optional int64 {name};"),
            Kind::Moment => format!("optional int64 {name} (TIMESTAMP(MICROS,true));"),
        };
        let fields: Vec<String> = self.columns.iter().map(field).collect();
        format!("message {} {{ {} }}", self.name, fields.join(" "))
    }
}

fn broken(error: ParquetError) -> io::Error {
    io::Error::other(error)
}

fn cell(kind: Kind, value: &Value) -> Option<Cell> {
    Some(match kind {
        Kind::Text => Cell::Text(value.as_str()?.to_owned()),
        Kind::Number => Cell::Number(value.as_i64()?),
        Kind::Count => Cell::Number(value.as_array()?.len() as i64),
        Kind::Moment => Cell::Number(micros(value.as_str()?.parse().ok()?)),
    })
}

fn micros(at: Timestamp) -> i64 {
    (at.0.unix_timestamp_nanos() / 1_000) as i64
}

fn stored((_, field): (String, Field)) -> Cell {
    match field {
        Field::Str(text) => Cell::Text(text),
        Field::Long(number) | Field::TimestampMicros(number) => Cell::Number(number),
        _ => Cell::Null,
    }
}

fn write_column<'a, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    kind: Kind,
    cells: impl Iterator<Item = &'a Cell> + Clone,
) -> Result<(), ParquetError> {
    let mut column = group
        .next_column()?
        .ok_or_else(|| ParquetError::General("the schema has fewer columns".to_owned()))?;
    let is_there: Vec<i16> = cells.clone().map(|cell| i16::from(*cell != Cell::Null)).collect();
    if kind == Kind::Text {
        let text = |cell: &'a Cell| match cell {
            Cell::Text(text) => Some(ByteArray::from(text.as_str())),
            _ => None,
        };
        let values: Vec<ByteArray> = cells.filter_map(text).collect();
        column.typed::<ByteArrayType>().write_batch(&values, Some(&is_there), None)?;
    } else {
        let number = |cell: &Cell| match cell {
            Cell::Number(number) => Some(*number),
            _ => None,
        };
        let values: Vec<i64> = cells.filter_map(number).collect();
        column.typed::<Int64Type>().write_batch(&values, Some(&is_there), None)?;
    }
    column.close()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::domain::tests::record;

    fn cell_of<'a>(table: &Table, row: &'a Row, name: &str) -> &'a Cell {
        let at = table.columns.iter().position(|(column, _)| *column == name);
        &row[at.expect("a column")]
    }

    #[test]
    fn an_event_becomes_a_row_of_typed_columns() {
        let held = record(
            "reservation.created",
            4,
            json!({ "seats": [{"seat": "A-1-1", "price": 60}, {"seat": "A-1-2", "price": 60}],
                "amount": 120, "expires_at": "1970-01-01T00:00:01.5Z", "hold_version": 7 }),
        );
        let table = Table::of(&held).expect("a table");
        let row = table.row(&held);
        for (name, expected) in [
            ("seats", Cell::Number(2)),
            ("amount", Cell::Number(120)),
            ("expires_at", Cell::Number(1_500_000)),
            ("state", Cell::Text("PENDING".into())),
            ("refund", Cell::Null),
        ] {
            assert_eq!(*cell_of(table, &row, name), expected, "{name}");
        }
    }

    #[test]
    fn rows_are_read_back_as_written_and_the_same_rows_give_the_same_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let failed = json!({ "amount": -1, "reason": "hold_gone", "user_id": "é" });
        let records = [
            record("payment.requested", 1, json!({ "amount": i64::MAX })),
            record("payment.failed", 2, failed),
        ];
        let rows: Vec<Row> = records.iter().map(|record| PAYMENTS.row(record)).collect();
        let [one, two] = ["one", "two"].map(|name| folder.path().join("day").join(name));
        PAYMENTS.write(&one, &rows).expect("written");
        PAYMENTS.write(&two, &rows).expect("written");
        assert_eq!(PAYMENTS.read(&one).expect("read"), rows);
        assert_eq!(fs::read(&one).expect("read"), fs::read(&two).expect("read"));
        assert_eq!(fs::read_dir(folder.path().join("day")).expect("listed").count(), 2);
    }

    #[test]
    fn another_table_or_half_a_file_is_not_read() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("part");
        PAYMENTS.write(&file, &[]).expect("written");
        assert!(RESERVATIONS.read(&file).is_err());
        fs::write(&file, b"PAR1").expect("written");
        assert!(PAYMENTS.read(&file).is_err());
        assert_eq!(PAYMENTS.read(&folder.path().join("none")).expect("read"), [] as [Row; 0]);
    }

    #[test]
    fn every_table_begins_with_the_columns_that_identify_and_order_its_rows() {
        for table in [&PAYMENTS, &RESERVATIONS] {
            assert_eq!(table.columns[EVENT_ID].0, "event_id");
            assert_eq!(table.columns[SEQUENCE].0, "sequence");
        }
    }
}
