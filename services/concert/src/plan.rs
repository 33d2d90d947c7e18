//! Seat plans as venues keep them and spreadsheets save them: CSV whose header names the columns
//! `section`, `row`, `seat` and `price`.
//!
//! A plan is accepted whole or not at all. A refusal names the first mistake by line, column and
//! reason, so that the organizer can correct the file without guessing. A value with one meaning
//! is accepted in any notation; an ambiguous one is refused.

mod numbers;
mod table;

use std::collections::{HashMap, hash_map::Entry};

use events::{Problem, SeatId, codes, concert::SeatBlock};

use numbers::Seats;
use table::{Row, Table};

/// The columns of a plan, in any order.
pub const FIELDS: [&str; 4] = ["section", "row", "seat", "price"];
/// Seats of a plan at most.
pub const SEATS_MAX: usize = 100_000;
/// Points for one seat at most.
pub const PRICE_MAX: i64 = 100_000_000;

/// The part of a refusal that explains how to write a standing area.
const STANDING: &str = "a standing area is sold by number: leave `row` empty and write its \
                        numbers as `seat`, for example `1-300`";

/// A seat plan without mistakes.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Its seats in the order of the file; neighbours of one row and price form one block.
    pub blocks: Vec<SeatBlock>,
    /// The number of its seats.
    pub seats_total: usize,
}

/// The first mistake of a seat plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {reason}")]
pub struct PlanError {
    /// Line of the file, from 1.
    pub line: u64,
    /// Column of the line, from 1.
    pub column: usize,
    /// Name of the column; empty for one that a plan does not need.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

impl PlanError {
    /// A mistake of the whole file, reported at line 1, column 1.
    pub fn of_the_whole(reason: impl Into<String>) -> Self {
        Self { line: 1, column: 1, field: "", reason: reason.into() }
    }
}

impl From<PlanError> for Problem {
    fn from(error: PlanError) -> Self {
        Self::new(codes::SEAT_PLAN_INVALID, error.to_string())
            .with("line", error.line)
            .with("column", error.column)
            .with("field", error.field)
            .with("reason", error.reason)
    }
}

/// What is wrong with one field of a line: the column from 1, its name, and why.
type Wrong = (usize, &'static str, String);

/// Parses a plan. It accepts a byte order mark, any line ends, blank lines and quotes, `;` and
/// tabs between the fields, a line `sep=;`, empty columns and lines at the end, blanks around
/// fields, and columns in any order with others between them.
///
/// # Errors
/// The first mistake from the top, with its position.
pub fn parse(text: &str) -> Result<Plan, PlanError> {
    let mut table = Table::open(text)?;
    let mut draft = Draft::default();
    while let Some(row) = table.next_row()? {
        let line = row.line;
        let added = draft.add(&row);
        added.map_err(|(column, field, reason)| PlanError { line, column, field, reason })?;
    }
    draft.finish()
}

/// The plan so far.
#[derive(Default)]
struct Draft {
    blocks: Vec<SeatBlock>,
    seen: HashMap<String, u64>,
    /// How seats with more than plain letters in their names look, and their lines.
    looks: HashMap<String, u64>,
    /// Sections by their form in seat ids: the name, and the line it was first on.
    sections: HashMap<String, (String, u64)>,
}

impl Draft {
    fn add(&mut self, row: &Row<'_>) -> Result<(), Wrong> {
        let section = row.field("section", name)?;
        let seats = seats_of(row)?;
        let row_name = match (&seats, row.text("row")?) {
            (Seats::Many(_), "") => String::new(),
            _ => row.field("row", name_of_row)?,
        };
        let price = row.field("price", numbers::price)?;
        let wrong = |field: &'static str, reason| (row.column(field), field, reason);
        if self.seen.len() + seats.count() > SEATS_MAX {
            return Err(wrong("section", format!("a plan has at most {SEATS_MAX} seats")));
        }
        self.check_section(&section, row.line).map_err(|reason| wrong("section", reason))?;
        let seats = seats.names();
        for seat in &seats {
            let id = SeatId::new(&section, &row_name, seat);
            self.enter(id, row.line).map_err(|reason| wrong("seat", reason))?;
        }
        match self.blocks.last_mut() {
            Some(last)
                if last.section == section && last.row == row_name && last.price == price =>
            {
                last.seats.extend(seats);
            }
            _ => self.blocks.push(SeatBlock { section, row: row_name, price, seats }),
        }
        Ok(())
    }

    /// Refuses two seats that look alike on a ticket.
    fn enter(&mut self, id: SeatId, line: u64) -> Result<(), String> {
        let look = text::look(&id.0);
        if let Some(at) = self.seen.get(&id.0) {
            return Err(format!("seat {id} is on line {at} already"));
        }
        // Either both seats have such letters, or only one of the two.
        if let Some(at) = self.looks.get(&look).or_else(|| self.seen.get(&look)) {
            return Err(format!("seat {id} looks like the one on line {at}; its letters differ"));
        }
        if look != id.0 {
            self.looks.insert(look, line);
        }
        self.seen.insert(id.0, line);
        Ok(())
    }

    /// Refuses two sections that have the same form in seat ids: they would be counted as one.
    fn check_section(&mut self, section: &str, line: u64) -> Result<(), String> {
        match self.sections.entry(SeatId::part(section)) {
            Entry::Occupied(known) if known.get().0 != section => {
                let (other, at) = known.get();
                Err(format!("`{section}` is too much like `{other}` on line {at}: rename one"))
            }
            Entry::Occupied(_) => Ok(()),
            Entry::Vacant(new) => {
                new.insert((section.to_owned(), line));
                Ok(())
            }
        }
    }

    fn finish(self) -> Result<Plan, PlanError> {
        if self.blocks.is_empty() {
            return Err(PlanError::of_the_whole("the plan has no seats"));
        }
        Ok(Plan { blocks: self.blocks, seats_total: self.seen.len() })
    }
}

/// The seats of a line: one by its name, many by a range of numbers or by a capacity.
fn seats_of(row: &Row<'_>) -> Result<Seats, Wrong> {
    let (seat, capacity) = (row.text("seat")?, row.text_if_any("capacity"));
    let (column, empty) = (row.column("seat"), seat.is_empty());
    match capacity {
        Some(capacity) if !capacity.is_empty() && empty => {
            numbers::capacity(capacity).map_err(|reason| (row.column("capacity"), "", reason))
        }
        Some(capacity) if !capacity.is_empty() && text::same_name(capacity) != "1" => {
            let reason = format!("a line has a `seat` or a `capacity`, and not both; {STANDING}");
            Err((row.column("capacity"), "", reason))
        }
        _ if empty => Err((column, "seat", format!("must not be empty; {STANDING}"))),
        _ => match numbers::range(seat).map_err(|reason| (column, "seat", reason))? {
            Some(seats) => Ok(seats),
            None => row.field("seat", name).map(Seats::One),
        },
    }
}

/// A name as it is stored.
fn name(typed: &str) -> Result<String, String> {
    let name = text::name(typed, 1..=SeatId::NAME_CHARS_MAX).map_err(|flaw| flaw.to_string())?;
    if name.len() > SeatId::NAME_BYTES_MAX {
        let (bytes, max) = (name.len(), SeatId::NAME_BYTES_MAX);
        return Err(format!("has {bytes} bytes; at most {max} are allowed"));
    }
    Ok(name)
}

fn name_of_row(typed: &str) -> Result<String, String> {
    match typed {
        "" => Err(format!("must not be empty; {STANDING}")),
        typed => name(typed),
    }
}

#[cfg(test)]
mod tests;
