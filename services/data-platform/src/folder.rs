//! A folder of Parquet files for analysts.
//!
//! `payments/day=2026-11-21/part-000000000001-000000010000.parquet`: the events of one stream
//! that were emitted on one day (UTC) and have these sequences. The file of an event depends on
//! the event alone, and an event is in its file once. So a repeat, a backfill or a restart after
//! a crash gives the same files, with nothing twice.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use crate::{
    domain::Record,
    table::{Cell, EVENT_ID, Row, SEQUENCE, Table},
};

/// Sequences of one file. A file is read and rewritten while it fills: few enough for that to
/// take milliseconds, many enough for an analyst's scan.
const PART_SEQUENCES: u64 = 10_000;
/// Held while files are changed: the service and a backfill may share a folder.
const LOCK: &str = ".lock";

/// A file that cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{}: {cause}", path.display())]
pub struct FolderError {
    /// The file, or the folder.
    pub path: PathBuf,
    /// Why not.
    pub cause: io::Error,
}

/// A folder of Parquet files.
#[derive(Debug, Clone)]
pub struct Folder(PathBuf);

impl Folder {
    /// The folder at `path`; it is created when it is first written to.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Adds records to their files, each file whole or not at all. They survive a crash of the
    /// machine.
    ///
    /// # Errors
    /// When a file cannot be read or written.
    pub fn add(&self, records: &[Record]) -> Result<(), FolderError> {
        let mut parts: BTreeMap<PathBuf, (&'static Table, Vec<Row>)> = BTreeMap::new();
        for record in records {
            let Some(table) = Table::of(record) else { continue };
            let part = parts.entry(self.part(table, record)).or_insert((table, Vec::new()));
            part.1.push(table.row(record));
        }
        if parts.is_empty() {
            return Ok(());
        }
        let _lock = self.lock().map_err(failed(&self.0))?;
        for (file, (table, rows)) in parts {
            add_to(table, &file, rows).map_err(failed(&file))?;
        }
        Ok(())
    }

    fn part(&self, table: &Table, record: &Record) -> PathBuf {
        let first = record.sequence.saturating_sub(1) / PART_SEQUENCES * PART_SEQUENCES + 1;
        let last = first + PART_SEQUENCES - 1;
        let folder = self.0.join(table.name).join(format!("day={}", record.at.0.date()));
        folder.join(format!("part-{first:012}-{last:012}.parquet"))
    }

    fn lock(&self) -> io::Result<File> {
        fs::create_dir_all(&self.0)?;
        let lock = File::create(self.0.join(LOCK))?;
        lock.lock()?;
        Ok(lock)
    }
}

fn add_to(table: &Table, file: &Path, rows: Vec<Row>) -> io::Result<()> {
    let mut all = table.read(file)?;
    let mut new: HashMap<Cell, Row> = rows.into_iter().map(|row| (id(&row), row)).collect();
    let mut is_changed = false;
    for row in &mut all {
        if let Some(again) = new.remove(&row[EVENT_ID])
            && *row != again
        {
            *row = again;
            is_changed = true;
        }
    }
    if new.is_empty() && !is_changed {
        return Ok(());
    }
    all.extend(new.into_values());
    all.sort_by_cached_key(|row| match &row[SEQUENCE] {
        Cell::Number(sequence) => (*sequence, id(row)),
        _ => (0, id(row)),
    });
    table.write(file, &all)
}

fn id(row: &Row) -> Cell {
    row[EVENT_ID].clone()
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> FolderError {
    let path = path.to_owned();
    |cause| FolderError { path, cause }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{domain::tests::record, table::PAYMENTS};

    fn paid(sequence: u64) -> Record {
        record("payment.completed", sequence, json!({ "amount": 100 }))
    }

    fn files(folder: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut open = vec![folder.to_owned()];
        while let Some(next) = open.pop() {
            for entry in fs::read_dir(next).expect("listed") {
                let path = entry.expect("listed").path();
                match path.is_dir() {
                    true => open.push(path),
                    false => {
                        found.push(path.strip_prefix(folder).expect("inside").display().to_string())
                    }
                }
            }
        }
        found.sort();
        found
    }

    #[test]
    fn repeats_that_are_cut_differently_leave_each_event_once() {
        let temporary = tempfile::tempdir().expect("a folder");
        let folder = Folder::new(temporary.path().join("events"));
        let records: Vec<Record> = (9_990..=10_010).map(paid).collect();
        for piece in [&records[..5], &records[3..12], &records[..], &records[20..]] {
            folder.add(piece).expect("added");
        }
        let day = "payments/day=2026-11-21";
        let parts = ["part-000000000001-000000010000", "part-000000010001-000000020000"]
            .map(|part| format!("{day}/{part}.parquet"));
        assert_eq!(files(&folder.0)[1..], parts);
        let rows = |part: &str| PAYMENTS.read(&folder.0.join(part)).expect("read");
        let all: Vec<Row> = parts.iter().flat_map(|part| rows(part)).collect();
        assert_eq!(all, records.iter().map(|record| PAYMENTS.row(record)).collect::<Vec<_>>());
    }

    #[test]
    fn a_day_begins_at_midnight_utc() {
        let temporary = tempfile::tempdir().expect("a folder");
        let folder = Folder::new(temporary.path());
        let mut late = paid(1);
        late.at = "2026-12-01T08:59:59+09:00".parse().expect("a moment");
        folder.add(&[late]).expect("added");
        assert!(files(temporary.path())[1].contains("day=2026-11-30"));
    }

    #[test]
    fn a_folder_that_cannot_be_written_to_is_named() {
        let temporary = tempfile::tempdir().expect("a folder");
        let file = temporary.path().join("file");
        fs::write(&file, b"in the way").expect("written");
        let error = Folder::new(&file).add(&[paid(1)]).expect_err("in the way");
        assert_eq!(error.path, file);
    }
}
