//! The file of a plan as a table: the separator of its fields, its columns, and the line of the
//! file for each record. Pure.

use super::mistake::{FIELDS, Flaw, PlanError, Wrong};

/// The separators that fields may have; the first is the default.
const SEPARATORS: [u8; 4] = [b',', b';', b'\t', b'|'];
/// An optional column of a plan.
const CAPACITY: &str = "capacity";
/// Characters of a header that a refusal repeats.
const SHOWN_MAX: usize = 100;

/// A plan's file, read record by record.
pub(super) struct Table<'a> {
    reader: csv::Reader<&'a [u8]>,
    record: csv::StringRecord,
    lines: Lines<'a>,
    columns: Columns,
}

impl<'a> Table<'a> {
    /// Opens a table and reads its header.
    pub(super) fn open(text: &'a str) -> Result<Self, PlanError> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let (stated, text, first_line) = stated_separator(text)?;
        let separator = stated.unwrap_or_else(|| separator_of(text));
        let mut table = Self {
            reader: reader(text, separator),
            record: csv::StringRecord::new(),
            lines: Lines { text: text.as_bytes(), at: 0, line: first_line },
            columns: Columns::default(),
        };
        let line = table.read()?.ok_or_else(|| PlanError::of_the_whole(Flaw::NoHeader))?;
        let names: Vec<String> = table.record.iter().map(|it| text::folded(cell(it))).collect();
        table.columns = Columns::of(names).map_err(|(column, field, reason)| PlanError {
            line,
            column,
            field,
            reason,
        })?;
        Ok(table)
    }

    /// The next line that is not empty.
    pub(super) fn next_row(&mut self) -> Result<Option<Row<'_>>, PlanError> {
        let Some(line) = self.read()? else { return Ok(None) };
        let row = Row { line, record: &self.record, columns: &self.columns };
        let checked = row.check_width();
        checked.map_err(|(column, field, reason)| PlanError { line, column, field, reason })?;
        Ok(Some(row))
    }

    /// Reads the next record that is not empty, and returns its line.
    fn read(&mut self) -> Result<Option<u64>, PlanError> {
        loop {
            let read = self.reader.read_record(&mut self.record);
            if !read.map_err(|error| PlanError::of_the_whole(Flaw::NoCsv(error.to_string())))? {
                return Ok(None);
            }
            let line = self.lines.of_record(&self.record);
            if self.record.iter().any(|field| !cell(field).is_empty()) {
                return Ok(Some(line));
            }
        }
    }
}

fn reader(text: &str, separator: u8) -> csv::Reader<&[u8]> {
    csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .trim(csv::Trim::All)
        .delimiter(separator)
        .from_reader(text.as_bytes())
}

/// A field without what a spreadsheet puts around it: blanks, quotes behind a blank, and
/// `="…"`, which makes a spreadsheet treat a number as text.
fn cell(field: &str) -> &str {
    let field = field.trim();
    let quoted = field.strip_prefix('=').unwrap_or(field);
    quoted.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(field).trim()
}

/// The separator in a first line such as `sep=;`, the text after that line, and the number of the
/// line where that text begins.
fn stated_separator(text: &str) -> Result<(Option<u8>, &str, u64), PlanError> {
    let end = text.find(['\r', '\n']).unwrap_or(text.len());
    let first = text[..end].trim_start_matches([' ', '"']);
    let is_stated = first.get(..4).is_some_and(|begin| begin.eq_ignore_ascii_case("sep="));
    if !is_stated {
        return Ok((None, text, 1));
    }
    let rest = text[end..].strip_prefix('\r').unwrap_or(&text[end..]);
    let rest = rest.strip_prefix('\n').unwrap_or(rest);
    match first.as_bytes().get(4) {
        Some(separator) if SEPARATORS.contains(separator) => Ok((Some(*separator), rest, 2)),
        _ => Err(PlanError::of_the_whole(Flaw::Separator)),
    }
}

/// The separator of the fields: the one with which the header has the most known columns.
fn separator_of(text: &str) -> u8 {
    let known = |separator: u8| {
        let header = reader(text, separator)
            .into_records()
            .find_map(|record| record.ok().filter(|it| it.iter().any(|it| !cell(it).is_empty())));
        let names = header.iter().flatten().map(|field| text::folded(cell(field)));
        names.filter(|name| FIELDS.contains(&name.as_str())).count()
    };
    let mut best = SEPARATORS[0];
    for separator in SEPARATORS {
        if known(separator) > known(best) {
            best = separator;
        }
    }
    best
}

/// The columns of a table.
#[derive(Debug, Default)]
struct Columns {
    /// The header as it was read; empty where a column has no name.
    names: Vec<String>,
    /// The position of each of [`FIELDS`].
    places: [usize; FIELDS.len()],
    capacity: Option<usize>,
}

impl Columns {
    fn of(names: Vec<String>) -> Result<Self, Wrong> {
        let place = |wanted: &str| names.iter().position(|name| name == wanted);
        for field in FIELDS.into_iter().chain([CAPACITY]) {
            let last = names.iter().rposition(|name| name == field);
            if let (Some(first), Some(last)) = (place(field), last)
                && first != last
            {
                let reason = Flaw::ColumnTwice { field, first: first + 1 };
                return Err((last + 1, named(field), reason));
            }
        }
        let missing: Vec<&str> = FIELDS.into_iter().filter(|it| place(it).is_none()).collect();
        if !missing.is_empty() {
            return Err(incomplete(&names, &missing));
        }
        let places = FIELDS.map(|field| place(field).unwrap_or_default());
        Ok(Self { places, capacity: place(CAPACITY), names })
    }

    fn place(&self, field: &str) -> Option<usize> {
        match FIELDS.iter().position(|name| *name == field) {
            Some(nth) => Some(self.places[nth]),
            None => self.capacity.filter(|_| field == CAPACITY),
        }
    }
}

/// The name of a required column; empty for any other column.
fn named(field: &str) -> &'static str {
    FIELDS.into_iter().find(|name| *name == field).unwrap_or_default()
}

/// The mistake of a header that lacks columns, with what it has instead.
fn incomplete(names: &[String], missing: &[&'static str]) -> Wrong {
    let found: Vec<String> =
        names.iter().filter(|it| !it.is_empty()).map(|it| format!("`{it}`")).collect();
    let unknown = names.iter().position(|name| !name.is_empty() && named(name).is_empty());
    let column = unknown.unwrap_or(names.len()) + 1;
    let found = found.join(", ").chars().take(SHOWN_MAX).collect();
    (column, missing[0], Flaw::ColumnsMissing { missing: missing.to_vec(), found })
}

/// One line of a plan.
pub(super) struct Row<'a> {
    /// Line of the file, from 1.
    pub(super) line: u64,
    record: &'a csv::StringRecord,
    columns: &'a Columns,
}

impl Row<'_> {
    /// The number of a column, from 1.
    pub(super) fn column(&self, field: &str) -> usize {
        self.columns.place(field).unwrap_or_default() + 1
    }

    /// The text in a required column.
    pub(super) fn text(&self, field: &'static str) -> Result<&str, Wrong> {
        let place = self.columns.place(field).unwrap_or_default();
        self.record.get(place).map(cell).ok_or_else(|| {
            let (found, wanted) = (self.record.len(), self.columns.names.len());
            (found + 1, field, Flaw::ShortLine { found, wanted })
        })
    }

    /// The text in an optional column.
    pub(super) fn text_if_any(&self, field: &str) -> Option<&str> {
        self.record.get(self.columns.place(field)?).map(cell)
    }

    /// The value in a required column, parsed by `read`.
    pub(super) fn field<T>(
        &self,
        field: &'static str,
        read: impl FnOnce(&str) -> Result<T, Flaw>,
    ) -> Result<T, Wrong> {
        read(self.text(field)?).map_err(|reason| (self.column(field), field, reason))
    }

    /// Refuses a value in a column without a name: it has slipped there from another column.
    fn check_width(&self) -> Result<(), Wrong> {
        let names = &self.columns.names;
        let is_named = |at: usize| names.get(at).is_some_and(|name| !name.is_empty());
        let slipped = self.record.iter().enumerate().find(|(at, field)| {
            let is_empty = cell(field).is_empty();
            !is_named(*at) && !is_empty
        });
        match slipped {
            None => Ok(()),
            Some((at, _)) => {
                let (found, wanted) = (self.record.len(), names.len());
                Err((at + 1, "", Flaw::LongLine { found, wanted }))
            }
        }
    }
}

/// Counts the lines up to each record. The reader's own count is of the place where it stopped
/// before: inside a CRLF, or in front of blank lines that it skips.
struct Lines<'a> {
    text: &'a [u8],
    at: usize,
    line: u64,
}

impl Lines<'_> {
    fn of_record(&mut self, record: &csv::StringRecord) -> u64 {
        let begin = record.position().map_or(0, |position| position.byte() as usize);
        while let Some(byte) = self.text.get(self.at) {
            let is_end = matches!(byte, b'\r' | b'\n');
            if self.at >= begin && !is_end {
                break;
            }
            let is_in_crlf = *byte == b'\r' && self.text.get(self.at + 1) == Some(&b'\n');
            self.line += u64::from(is_end && !is_in_crlf);
            self.at += 1;
        }
        self.line
    }
}
