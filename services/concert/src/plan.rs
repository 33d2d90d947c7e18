//! Seat plans, the way venues keep them: CSV with the header `section,row,seat,price`.
//!
//! A plan is taken whole or not at all, and the first mistake is named by line, column
//! and reason, so that whoever keeps the file can mend it without guessing.

use std::collections::{HashMap, hash_map::Entry};

use events::{Problem, SeatId, codes, concert::SeatBlock};

/// The header, and so the names of the columns.
pub const FIELDS: [&str; 4] = ["section", "row", "seat", "price"];
/// Seats of a plan at most.
pub const SEATS_MAX: usize = 100_000;
/// Points for one seat at most.
pub const PRICE_MAX: i64 = 100_000_000;
/// Characters of a section, row or seat at most.
pub const NAME_MAX: usize = 16;

/// A seat plan without mistakes.
#[derive(Debug, Clone, PartialEq)]
pub struct Plan {
    /// Its seats in the order of the file, neighbours of one price together.
    pub blocks: Vec<SeatBlock>,
    /// Number of its seats.
    pub seats_total: usize,
}

/// The first mistake of a seat plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}, column {column}: {reason}")]
pub struct PlanError {
    /// Line of the file, from 1.
    pub line: u64,
    /// Which field of the line, from 1.
    pub column: usize,
    /// What is wrong with it.
    pub reason: String,
}

impl PlanError {
    /// A mistake that no single field makes; it is shown at the first one.
    pub fn of_the_whole(reason: impl Into<String>) -> Self {
        Self { line: 1, column: 1, reason: reason.into() }
    }

    /// The name of the column; empty right of the last one.
    pub fn field(&self) -> &'static str {
        FIELDS.get(self.column - 1).copied().unwrap_or_default()
    }
}

impl From<PlanError> for Problem {
    fn from(error: PlanError) -> Self {
        Self::new(codes::SEAT_PLAN_INVALID, error.to_string())
            .with("line", error.line)
            .with("column", error.column)
            .with("field", error.field())
            .with("reason", error.reason)
    }
}

/// Reads a plan. A byte order mark, any line ends, blank lines and quotes are fine.
///
/// # Errors
/// The first mistake from the top, with its place.
pub fn parse(text: &str) -> Result<Plan, PlanError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut reader =
        csv::ReaderBuilder::new().has_headers(false).flexible(true).from_reader(text.as_bytes());
    let mut lines = Lines { text: text.as_bytes(), at: 0, line: 1 };
    let mut record = csv::StringRecord::new();
    let mut draft = Draft::default();
    let mut header_seen = false;
    while reader
        .read_record(&mut record)
        .map_err(|error| PlanError::of_the_whole(error.to_string()))?
    {
        let line = lines.of_record(&record);
        let checked = if header_seen { draft.seat(line, &record) } else { check_header(&record) };
        checked.map_err(|(column, reason)| PlanError { line, column, reason })?;
        header_seen = true;
    }
    if !header_seen {
        return Err(PlanError::of_the_whole(format!(
            "the plan is empty; it begins with the header `{}`",
            FIELDS.join(",")
        )));
    }
    draft.finish()
}

/// What is wrong with one record: the column from 1, and why.
type Wrong = (usize, String);

fn check_header(record: &csv::StringRecord) -> Result<(), Wrong> {
    let wrong = (0..FIELDS.len().max(record.len()))
        .find(|&index| record.get(index) != FIELDS.get(index).copied());
    match wrong {
        None => Ok(()),
        Some(index) => Err((index + 1, format!("the first line must be `{}`", FIELDS.join(",")))),
    }
}

/// The plan so far.
#[derive(Default)]
struct Draft {
    blocks: Vec<SeatBlock>,
    seen: HashMap<SeatId, u64>,
}

impl Draft {
    fn seat(&mut self, line: u64, record: &csv::StringRecord) -> Result<(), Wrong> {
        if record.len() != FIELDS.len() {
            let column = record.len().min(FIELDS.len()) + 1;
            let found = record.len();
            return Err((column, format!("a seat has 4 fields, not {found}")));
        }
        for index in 0..3 {
            check_name(&record[index]).map_err(|reason| (index + 1, reason))?;
        }
        let price = parse_price(&record[3]).map_err(|reason| (4, reason))?;
        if self.seen.len() == SEATS_MAX {
            return Err((1, format!("a plan has at most {SEATS_MAX} seats")));
        }
        let (section, row, seat) = (&record[0], &record[1], &record[2]);
        match self.seen.entry(SeatId::new(section, row, seat)) {
            Entry::Occupied(first) => {
                let reason = format!("seat {} is on line {} already", first.key(), first.get());
                return Err((3, reason));
            }
            Entry::Vacant(new) => new.insert(line),
        };
        match self.blocks.last_mut() {
            Some(last) if last.section == section && last.row == row && last.price == price => {
                last.seats.push(seat.to_owned());
            }
            _ => self.blocks.push(SeatBlock {
                section: section.to_owned(),
                row: row.to_owned(),
                price,
                seats: vec![seat.to_owned()],
            }),
        }
        Ok(())
    }

    fn finish(self) -> Result<Plan, PlanError> {
        if self.blocks.is_empty() {
            return Err(PlanError::of_the_whole("the plan has no seats"));
        }
        Ok(Plan { blocks: self.blocks, seats_total: self.seen.len() })
    }
}

/// Letters and digits only: the parts of a seat's id are joined by `-`, and what cannot
/// be in a part keeps two seats from ever getting the same id.
fn check_name(name: &str) -> Result<(), String> {
    let length = name.chars().count();
    if length == 0 {
        return Err("must not be empty".to_owned());
    }
    if length > NAME_MAX {
        return Err(format!("has {length} characters; at most {NAME_MAX} are allowed"));
    }
    match name.chars().find(|c| !c.is_alphanumeric()) {
        None => Ok(()),
        Some(c) => Err(format!("{c:?} is neither a letter nor a digit")),
    }
}

fn parse_price(text: &str) -> Result<i64, String> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        let shown: String = text.chars().take(NAME_MAX).collect();
        return Err(format!("{shown:?} is not a whole number of points"));
    }
    text.parse()
        .ok()
        .filter(|price| *price <= PRICE_MAX)
        .ok_or_else(|| format!("a seat costs at most {PRICE_MAX} points"))
}

/// Counts lines up to one record after the other. The reader's own count is of where it
/// stopped before: inside a CRLF, or in front of blank lines that it skips.
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
            let is_half = *byte == b'\r' && self.text.get(self.at + 1) == Some(&b'\n');
            self.line += u64::from(is_end && !is_half);
            self.at += 1;
        }
        self.line
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> (u64, usize, String) {
        let error = parse(text).expect_err("the plan has a mistake");
        (error.line, error.column, error.reason)
    }

    fn seat_line(line: &str) -> (u64, usize, String) {
        refused(&format!("section,row,seat,price\n{line}\n"))
    }

    #[test]
    fn neighbours_of_one_row_and_price_become_one_block() {
        let plan =
            parse("section,row,seat,price\nA,1,1,100\nA,1,2,100\nA,1,3,90\nA,2,1,90\nB,2,2,90\n")
                .expect("a good plan");
        let block = |section: &str, row: &str, price, seats: &[&str]| SeatBlock {
            section: section.to_owned(),
            row: row.to_owned(),
            price,
            seats: seats.iter().map(|&seat| seat.to_owned()).collect(),
        };
        assert_eq!(
            plan.blocks,
            [
                block("A", "1", 100, &["1", "2"]),
                block("A", "1", 90, &["3"]),
                block("A", "2", 90, &["1"]),
                block("B", "2", 90, &["2"]),
            ]
        );
        assert_eq!(plan.seats_total, 5);
    }

    #[test]
    fn the_order_of_the_file_is_kept() {
        let plan = parse("section,row,seat,price\nB,1,1,5\nA,1,1,5\nB,1,2,5").expect("good");
        let ids: Vec<_> = plan.blocks.iter().flat_map(SeatBlock::ids).map(|id| id.0).collect();
        assert_eq!(ids, ["B-1-1", "A-1-1", "B-1-2"]);
    }

    #[test]
    fn a_byte_order_mark_crlf_quotes_and_blank_lines_are_fine() {
        let plan = parse(
            "\u{feff}section,row,seat,price\r\n\r\n\"A\",1,\"7\",0\r\n나,다,8석,100000000\r\n\r\n",
        )
        .expect("a good plan");
        let ids: Vec<_> = plan.blocks.iter().flat_map(SeatBlock::ids).map(|id| id.0).collect();
        assert_eq!(ids, ["A-1-7", "나-다-8석"]);
    }

    #[test]
    fn a_plan_without_seats_is_refused() {
        for empty in ["", "\u{feff}", "\n\r\n", "section,row,seat,price\n"] {
            assert_eq!(parse(empty).expect_err("empty").line, 1, "{empty:?}");
        }
    }

    #[test]
    fn the_header_must_be_there_in_this_order() {
        assert_eq!(refused("A,1,1,100\n").1, 1);
        assert_eq!(refused("section,row,price,seat\n").1, 3);
        assert_eq!(refused("section,row,seat\n").1, 4);
        assert_eq!(refused("section,row,seat,price,note\n").1, 5);
        assert_eq!(refused("\n\nSection,row,seat,price\n").0, 3);
    }

    #[test]
    fn a_line_has_four_fields() {
        assert_eq!(seat_line("A,1,1"), (2, 4, "a seat has 4 fields, not 3".to_owned()));
        assert_eq!(seat_line("A,1,1,100,x").1, 5);
        assert_eq!(seat_line("A,1,1,100,x,y").1, 5);
        assert_eq!(seat_line("\"A,1,1,100\nA,1,2,100").1, 2, "a quote that never ends");
    }

    #[test]
    fn a_name_is_1_to_16_letters_and_digits() {
        assert_eq!(seat_line(",1,1,100"), (2, 1, "must not be empty".to_owned()));
        assert_eq!(seat_line("A,1-2,1,100").1, 2, "ids are joined by it");
        assert_eq!(seat_line("A,1, 1,100").1, 3);
        assert_eq!(seat_line("A,1,\u{0}1,100").1, 3);
        assert_eq!(seat_line("ABCDEFGHIJKLMNOPQ,1,1,100").1, 1);
        assert!(parse("section,row,seat,price\nABCDEFGHIJKLMNOP,1,1,100").is_ok());
    }

    #[test]
    fn a_price_is_a_whole_number_of_points() {
        for wrong in ["", "-1", "+1", "1.5", "1e3", "free", " 1", "100000001"] {
            assert_eq!(seat_line(&format!("A,1,1,{wrong}")).1, 4, "{wrong:?}");
        }
        assert_eq!(seat_line("A,1,1,99999999999999999999").1, 4);
    }

    #[test]
    fn the_line_is_counted_as_an_editor_does() {
        for end in ["\n", "\r\n", "\r"] {
            let text = ["section,row,seat,price", "", "A,1,1,100", "", "", "A,1,2,x"].join(end);
            assert_eq!(refused(&text).0, 6, "{end:?}");
        }
    }

    #[test]
    fn a_seat_stands_in_the_plan_once() {
        assert_eq!(
            seat_line("A,1,1,100\nA,1,2,100\nA,1,1,90"),
            (4, 3, "seat A-1-1 is on line 2 already".to_owned())
        );
    }

    #[test]
    fn a_plan_has_100_000_seats_at_most() {
        let mut text = "section,row,seat,price\n".to_owned();
        for seat in 0..SEATS_MAX {
            text.push_str(&format!("A,{},{},1\n", seat / 50, seat % 50));
        }
        assert_eq!(parse(&text).expect("just fits").seats_total, SEATS_MAX);
        text.push_str("B,1,1,1\n");
        assert_eq!(refused(&text).0, 100_002);
    }

    #[test]
    fn a_refusal_names_line_column_field_and_reason() {
        let problem = Problem::from(parse("section,row,seat,price\nA,1,1,x").expect_err("bad"));
        assert!(problem.is(codes::SEAT_PLAN_INVALID));
        assert_eq!(problem.extra["line"], 2);
        assert_eq!(problem.extra["column"], 4);
        assert_eq!(problem.extra["field"], "price");
        assert_eq!(problem.extra["reason"], "\"x\" is not a whole number of points");
    }

    #[test]
    fn the_plans_we_ship_are_good() {
        let club = parse(include_str!("../../../venues/club.csv")).expect("the club");
        assert_eq!(club.seats_total, 50);
        let arena = parse(include_str!("../../../venues/arena.csv")).expect("the arena");
        assert!((9_500..=10_500).contains(&arena.seats_total), "{}", arena.seats_total);
    }
}
