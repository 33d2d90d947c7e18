//! Seat plans as venues keep them and spreadsheets save them: CSV whose header names the columns
//! `section`, `row`, `seat` and `price`.
//!
//! A plan is accepted whole or not at all. A refusal names the first mistake by line, column and
//! reason, so that the organizer can correct the file without guessing. A value with one meaning
//! is accepted in any notation; an ambiguous one is refused.

mod mistake;
mod numbers;
mod table;

use std::collections::{HashMap, hash_map::Entry};

use events::{SeatId, concert::SeatBlock};

use mistake::Wrong;
pub use mistake::{FIELDS, Flaw, PRICE_MAX, PlanError, SEATS_MAX};
use numbers::Seats;
use table::{Row, Table};

/// A seat plan without mistakes.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Its seats in the order of the file; neighbours of one row and price form one block.
    pub blocks: Vec<SeatBlock>,
    /// The number of its seats.
    pub seats_total: usize,
}

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
            return Err(wrong("section", Flaw::TooManySeats));
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
    fn enter(&mut self, id: SeatId, line: u64) -> Result<(), Flaw> {
        let look = text::look(&id.0);
        if let Some(at) = self.seen.get(&id.0) {
            return Err(Flaw::SeatTwice(id, *at));
        }
        // Either both seats have such letters, or only one of the two.
        if let Some(at) = self.looks.get(&look).or_else(|| self.seen.get(&look)) {
            return Err(Flaw::SeatLooksAlike(id, *at));
        }
        if look != id.0 {
            self.looks.insert(look, line);
        }
        self.seen.insert(id.0, line);
        Ok(())
    }

    /// Refuses two sections that have the same form in seat ids: they would be counted as one.
    fn check_section(&mut self, section: &str, line: u64) -> Result<(), Flaw> {
        match self.sections.entry(SeatId::part(section)) {
            Entry::Occupied(known) if known.get().0 != section => {
                let (other, at) = known.get();
                let (section, other) = (section.to_owned(), other.clone());
                Err(Flaw::SectionLooksAlike { section, other, line: *at })
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
            return Err(PlanError::of_the_whole(Flaw::NoSeats));
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
            Err((row.column("capacity"), "", Flaw::SeatAndCapacity))
        }
        _ if empty => Err((column, "seat", Flaw::NoName)),
        _ => match numbers::range(seat).map_err(|reason| (column, "seat", reason))? {
            Some(seats) => Ok(seats),
            None => row.field("seat", name).map(Seats::One),
        },
    }
}

/// A name as it is stored.
fn name(typed: &str) -> Result<String, Flaw> {
    let name = text::name(typed, 1..=SeatId::NAME_CHARS_MAX)?;
    if name.len() > SeatId::NAME_BYTES_MAX {
        return Err(Flaw::LongName(name.len()));
    }
    Ok(name)
}

fn name_of_row(typed: &str) -> Result<String, Flaw> {
    match typed {
        "" => Err(Flaw::NoName),
        typed => name(typed),
    }
}

#[cfg(test)]
mod tests;
