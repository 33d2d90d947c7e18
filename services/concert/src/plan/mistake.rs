//! The limits of a seat plan, and the mistakes for which one is refused.

use events::{Problem, SeatId, codes};

/// The columns of a plan, in any order.
pub const FIELDS: [&str; 4] = ["section", "row", "seat", "price"];
/// Seats of a plan at most.
pub const SEATS_MAX: usize = 100_000;
/// Points for one seat at most.
pub const PRICE_MAX: i64 = 100_000_000;
/// Characters of a value that a refusal repeats.
const SHOWN_MAX: usize = 24;

/// The part of a refusal that explains how to write a standing area.
const STANDING: &str = "a standing area is sold by number: leave `row` empty and write its \
                        numbers as `seat`, for example `1-300`";

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
    pub reason: Flaw,
}

impl PlanError {
    /// A mistake of the whole file, reported at line 1, column 1.
    pub fn of_the_whole(reason: Flaw) -> Self {
        Self { line: 1, column: 1, field: "", reason }
    }
}

impl From<PlanError> for Problem {
    fn from(error: PlanError) -> Self {
        Self::new(codes::SEAT_PLAN_INVALID, error.to_string())
            .with("line", error.line)
            .with("column", error.column)
            .with("field", error.field)
            .with("reason", error.reason.to_string())
    }
}

/// What is wrong with one field of a line: the column from 1, its name, and why.
pub(super) type Wrong = (usize, &'static str, Flaw);

/// What is wrong with a plan, or with a value in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Flaw {
    /// The file is no CSV.
    #[error("{0}")]
    NoCsv(String),
    /// The file is empty.
    #[error("the plan is empty; its first line is `{}`", FIELDS.join(","))]
    NoHeader,
    /// There is a header only.
    #[error("the plan has no seats")]
    NoSeats,
    /// There are too many seats.
    #[error("a plan has at most {SEATS_MAX} seats")]
    TooManySeats,
    /// The broker would not take the event of this plan.
    #[error(
        "the plan takes {bytes} bytes as an event, at most {max} are allowed: \
         shorten names, and keep seats of one row and price together"
    )]
    TooLarge {
        /// What it takes.
        bytes: usize,
        /// What it may take.
        max: usize,
    },
    /// The line `sep=` names no known separator.
    #[error("`sep=` names the separator of the fields: a comma, a semicolon, a tab or `|`")]
    Separator,
    /// A column is there twice.
    #[error("column `{field}` is there twice: it is also column {first}")]
    ColumnTwice {
        /// Its name.
        field: &'static str,
        /// The first of the two, from 1.
        first: usize,
    },
    /// Columns are missing.
    #[error("the header lacks the {}; it has {found}", columns(.missing))]
    ColumnsMissing {
        /// Their names.
        missing: Vec<&'static str>,
        /// What the header has instead.
        found: String,
    },
    /// A line ends too early.
    #[error("the line has {found} fields, and the header has {wanted}")]
    ShortLine {
        /// Fields of the line.
        found: usize,
        /// Columns of the header.
        wanted: usize,
    },
    /// A value stands in a column without a name.
    #[error(
        "the line has {found} fields, and the header has {wanted}: a field with a separator in \
         it stands in quotes"
    )]
    LongLine {
        /// Fields of the line.
        found: usize,
        /// Columns of the header.
        wanted: usize,
    },
    /// A price is missing.
    #[error("must not be empty")]
    NoPrice,
    /// A seat or a row is missing.
    #[error("must not be empty; {STANDING}")]
    NoName,
    /// A name cannot be kept.
    #[error(transparent)]
    Name(#[from] text::Flaw),
    /// A name is too long.
    #[error("has {0} bytes; at most {max} are allowed", max = SeatId::NAME_BYTES_MAX)]
    LongName(usize),
    /// Both a seat and a capacity are given.
    #[error("a line has a `seat` or a `capacity`, and not both; {STANDING}")]
    SeatAndCapacity,
    /// A capacity is no number.
    #[error("{} is not a number of seats", shown(.0))]
    Capacity(String),
    /// Several seats in one line.
    #[error("names several seats; write one line for each, or a range such as `1-20`")]
    List,
    /// A range runs backwards.
    #[error("{} is not a range: its last number is not higher", shown(.0))]
    Range(String),
    /// A price could be thousands or hundredths.
    #[error("{} can be read in two ways; write it without the dot", shown(.0))]
    AmbiguousPrice(String),
    /// A price is no number.
    #[error("{} is not a whole number of points", shown(.0))]
    Price(String),
    /// A price is too high.
    #[error("a seat costs at most {PRICE_MAX} points")]
    HighPrice,
    /// A seat is there twice.
    #[error("seat {0} is on line {1} already")]
    SeatTwice(SeatId, u64),
    /// Two seats look alike on a ticket.
    #[error("seat {0} looks like the one on line {1}; its letters differ")]
    SeatLooksAlike(SeatId, u64),
    /// Two sections have the same form in seat ids.
    #[error("`{section}` is too much like `{other}` on line {line}: rename one")]
    SectionLooksAlike {
        /// The later section.
        section: String,
        /// The earlier one.
        other: String,
        /// Its line.
        line: u64,
    },
}

/// A value as a refusal repeats it.
fn shown(typed: &str) -> String {
    let cut: String = typed.chars().take(SHOWN_MAX).collect();
    format!("{cut:?}")
}

fn columns(missing: &[&str]) -> String {
    let what = if missing.len() == 1 { "column" } else { "columns" };
    let names: Vec<String> = missing.iter().map(|name| format!("`{name}`")).collect();
    format!("{what} {}", names.join(", "))
}
