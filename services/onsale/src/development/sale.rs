//! A sale as a file: what is played where, how its waiting room runs, and its crowd.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use events::{
    ConcertId, Timestamp,
    concert::{Admission, CreateConcert, OpenSchedule},
};
use serde::{Deserialize, Deserializer, de::Error};

const CLUB_SALE: &str = include_str!("../../../../sales/club.toml");
const CLUB_PLAN: &str = include_str!("../../../../venues/club.csv");

/// Seconds from now to the show: later than any demo runs.
const STARTS_IN_SECS: i64 = 7 * 24 * 3_600;

/// A sale, read and checked; `sales/club.toml` explains every key.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sale {
    /// The concert's title.
    #[serde(deserialize_with = "name")]
    pub title: String,
    /// The artist.
    #[serde(deserialize_with = "name")]
    pub artist: String,
    /// For the fans.
    #[serde(default)]
    pub description: String,
    /// Where.
    #[serde(deserialize_with = "name")]
    pub venue: String,
    /// Where the seat plan is, from the folder of the sale's file.
    pub seat_plan: PathBuf,
    /// The seat plan itself, as CSV.
    #[serde(skip)]
    pub plan: String,
    /// Number of its seats.
    #[serde(skip)]
    pub seats_total: usize,
    /// Seconds until the first fan is admitted.
    #[serde(deserialize_with = "within::<_, 0, 3_600>")]
    pub opens_in_secs: u32,
    /// Seconds a hold lives.
    #[serde(deserialize_with = "within::<_, 1, 3_600>")]
    pub hold_secs: u32,
    /// Seats one fan may hold or own.
    #[serde(deserialize_with = "within::<_, 1, 100>")]
    pub seats_per_fan_max: u32,
    /// The waiting room's pace.
    #[serde(deserialize_with = "admission")]
    pub admission: Admission,
    /// The crowd.
    pub crowd: Crowd,
}

/// The crowd that comes to a sale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Crowd {
    /// How many.
    #[serde(deserialize_with = "within::<_, 1, 100_000>")]
    pub fans: u32,
    /// Of them, how many hold seats and never pay.
    #[serde(deserialize_with = "within::<_, 0, 100>")]
    pub abandon_percent: u32,
    /// Of them, how many try to pay with too few points.
    #[serde(deserialize_with = "within::<_, 0, 100>")]
    pub short_of_points_percent: u32,
    /// Of them, how many want the very same seats, those at the top of the plan.
    #[serde(deserialize_with = "within::<_, 0, 100>")]
    pub same_seats_percent: u32,
    /// Seats each fan wants.
    #[serde(deserialize_with = "within::<_, 1, 100>")]
    pub seats_per_fan: u32,
}

/// Why the file of a sale cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SaleError {
    /// A file cannot be read.
    #[error("cannot read {}: {why}", file.display())]
    Unreadable {
        /// Which.
        file: PathBuf,
        /// What the system says.
        #[source]
        why: io::Error,
    },
    /// A file has a mistake.
    #[error("{}:{line}: {what}", file.display())]
    Mistake {
        /// Which file.
        file: PathBuf,
        /// Where in it, from 1.
        line: usize,
        /// What is wrong.
        what: String,
    },
}

impl Sale {
    /// Reads a sale and its seat plan.
    ///
    /// # Errors
    /// When one of the two cannot be read or has a mistake; it says which, where and what.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, SaleError> {
        let file = path.as_ref();
        let sale = Self::parse(file, &read(file)?)?;
        let plan_file = file.parent().unwrap_or(Path::new("")).join(&sale.seat_plan);
        let plan = read(&plan_file)?;
        sale.with_plan(&plan_file, plan)
    }

    /// The default sale: the club, carried inside the binary.
    pub fn club() -> Self {
        Self::parse(Path::new("sales/club.toml"), CLUB_SALE)
            .and_then(|sale| sale.with_plan(Path::new("venues/club.csv"), CLUB_PLAN.to_owned()))
            .expect("the club's files are compiled in, and a test reads them")
    }

    fn parse(file: &Path, text: &str) -> Result<Self, SaleError> {
        let sale: Self = toml::from_str(text).map_err(|error| SaleError::Mistake {
            file: file.to_owned(),
            line: line_at(text, error.span().map_or(0, |span| span.start)),
            what: error.message().to_owned(),
        })?;
        if sale.crowd.seats_per_fan > sale.seats_per_fan_max {
            let (wanted, max) = (sale.crowd.seats_per_fan, sale.seats_per_fan_max);
            return Err(SaleError::Mistake {
                file: file.to_owned(),
                line: line_of(text, "seats_per_fan"),
                what: format!(
                    "`seats_per_fan` is {wanted}, but `seats_per_fan_max` lets a fan have {max}"
                ),
            });
        }
        Ok(sale)
    }

    fn with_plan(mut self, file: &Path, plan: String) -> Result<Self, SaleError> {
        let checked = concert::plan::parse(&plan).map_err(|error| SaleError::Mistake {
            file: file.to_owned(),
            line: usize::try_from(error.line).unwrap_or(usize::MAX),
            what: match error.field {
                "" => format!("column {}: {}", error.column, error.reason),
                field => format!("column {} ({field}): {}", error.column, error.reason),
            },
        })?;
        self.seats_total = checked.seats_total;
        self.plan = plan;
        Ok(self)
    }

    /// The command that enters the concert.
    pub fn concert(&self) -> CreateConcert {
        CreateConcert {
            title: self.title.clone(),
            artist: self.artist.clone(),
            description: self.description.clone(),
        }
    }

    /// The command that puts it on sale, as of `now`.
    pub fn schedule(&self, concert_id: ConcertId, now: Timestamp) -> OpenSchedule {
        OpenSchedule {
            concert_id,
            venue: self.venue.clone(),
            starts_at: now.plus_secs(STARTS_IN_SECS),
            refund_until: None,
            opens_at: Some(now.plus_secs(i64::from(self.opens_in_secs))),
            admission: self.admission,
            hold_secs: Some(self.hold_secs),
            seats_per_fan_max: Some(self.seats_per_fan_max),
            seat_plan: self.plan.clone(),
        }
    }
}

fn read(file: &Path) -> Result<String, SaleError> {
    fs::read_to_string(file).map_err(|why| SaleError::Unreadable { file: file.to_owned(), why })
}

/// The line of a byte, from 1.
fn line_at(text: &str, byte: usize) -> usize {
    1 + text.bytes().take(byte).filter(|&byte| byte == b'\n').count()
}

/// The line that sets a key, from 1.
fn line_of(text: &str, key: &str) -> usize {
    let sets = |line: &str| line.split_once('=').is_some_and(|(name, _)| name.trim() == key);
    1 + text.lines().position(sets).unwrap_or(0)
}

/// A whole number from `MIN` to `MAX`. Checked while reading, so that a mistake has a line.
fn within<'de, D: Deserializer<'de>, const MIN: u32, const MAX: u32>(
    deserializer: D,
) -> Result<u32, D::Error> {
    let value = i64::deserialize(deserializer)?;
    u32::try_from(value)
        .ok()
        .filter(|value| (MIN..=MAX).contains(value))
        .ok_or_else(|| D::Error::custom(format!("must be {MIN} to {MAX}, not {value}")))
}

/// A text of 1 to 200 characters.
fn name<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    let name = String::deserialize(deserializer)?;
    text::line(&name, 1..=200).map_err(D::Error::custom)
}

/// Within the bounds that the concert service sets.
fn admission<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Admission, D::Error> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Pace {
        #[serde(deserialize_with = "within::<_, 1, 100_000>")]
        per_second: u32,
        #[serde(deserialize_with = "within::<_, 1, 1_000_000>")]
        active_max: u32,
        #[serde(deserialize_with = "within::<_, 1, 3_600>")]
        pass_secs: u32,
    }
    let Pace { per_second, active_max, pass_secs } = Pace::deserialize(deserializer)?;
    Ok(Admission { per_second, active_max, pass_secs })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The mistake that is found in the club's sale with one text replaced by another.
    fn mistake(old: &str, new: &str) -> (usize, String) {
        assert!(CLUB_SALE.contains(old), "{old}");
        let text = CLUB_SALE.replacen(old, new, 1);
        match Sale::parse(Path::new("my.toml"), &text) {
            Err(SaleError::Mistake { line, what, .. }) => (line, what),
            other => panic!("no mistake found: {other:?}"),
        }
    }

    fn line_with(text: &str) -> usize {
        1 + CLUB_SALE.lines().position(|line| line.starts_with(text)).expect("a line")
    }

    #[test]
    fn the_club_is_the_default_demo() {
        let club = Sale::club();
        assert_eq!((club.crowd.fans, club.seats_total), (500, 50));
        let crowd = club.crowd;
        assert_eq!((crowd.abandon_percent, crowd.short_of_points_percent), (10, 5));
        assert!(club.plan.starts_with("section,row,seat,price"));
    }

    #[test]
    fn the_sales_we_ship_are_read_with_their_plans() {
        let sales = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../sales");
        assert_eq!(Sale::read(sales.join("club.toml")).expect("the club"), Sale::club());
        let arena = Sale::read(sales.join("arena.toml")).expect("the arena");
        assert!(arena.seats_total > 9_000, "{}", arena.seats_total);
    }

    #[test]
    fn a_sale_becomes_the_commands_that_open_it() {
        let now = Timestamp::from_unix_millis(1_800_000_000_000).expect("a time");
        let club = Sale::club();
        assert_eq!(club.concert().title, club.title);
        let schedule = club.schedule(ConcertId(uuid::Uuid::nil()), now);
        assert_eq!(schedule.hold_secs, Some(club.hold_secs));
        assert_eq!(schedule.opens_at, Some(now.plus_secs(i64::from(club.opens_in_secs))));
        assert!(schedule.starts_at > now && schedule.seat_plan == club.plan);
    }

    #[test]
    fn a_number_out_of_bounds_is_refused_at_its_line() {
        let (line, what) = mistake("abandon_percent = 10", "abandon_percent = 101");
        assert_eq!((line, &*what), (line_with("abandon_percent"), "must be 0 to 100, not 101"));
        let (line, what) = mistake("per_second = 100", "per_second = 0");
        assert_eq!((line, &*what), (line_with("per_second"), "must be 1 to 100000, not 0"));
        assert_eq!(mistake("hold_secs = 3", "hold_secs = -3").0, line_with("hold_secs"));
    }

    #[test]
    fn a_value_of_the_wrong_kind_is_refused_at_its_line() {
        let (line, what) = mistake("fans = 500", "fans = \"many\"");
        assert_eq!(line, line_with("fans"));
        assert!(what.contains("expected i64"), "{what}");
    }

    #[test]
    fn a_misspelt_key_is_refused_at_its_line() {
        let (line, what) = mistake("abandon_percent", "abandoned_percent");
        assert_eq!(line, line_with("abandon_percent"));
        assert!(what.contains("abandoned_percent"), "{what}");
        assert_eq!(mistake("pass_secs", "pass_seconds").0, line_with("pass_secs"));
    }

    #[test]
    fn a_missing_key_is_named() {
        let (_, what) = mistake("hold_secs = 3\n", "");
        assert!(what.contains("hold_secs"), "{what}");
        let (line, what) = mistake("fans = 500\n", "");
        assert!(what.contains("fans"), "{what}");
        assert_eq!(line, line_with("[crowd]"));
    }

    #[test]
    fn invalid_toml_is_refused_at_its_line() {
        assert_eq!(mistake("hold_secs = 3", "hold_secs: 3").0, line_with("hold_secs"));
    }

    #[test]
    fn a_concert_without_a_title_is_refused() {
        assert_eq!(mistake("Night Ferry: one night ashore", " ").0, line_with("title"));
    }

    #[test]
    fn fans_want_no_more_seats_than_they_may_have() {
        let (line, what) = mistake("seats_per_fan = 1", "seats_per_fan = 3");
        assert_eq!(line, 1 + CLUB_SALE.lines().count() - 1);
        assert!(what.contains("is 3") && what.contains("have 2"), "{what}");
    }

    #[test]
    fn a_mistake_in_the_plan_is_named_with_the_plans_file() {
        let plan = "section,row,seat,price\nA,1,1,cheap\n".to_owned();
        let error = Sale::club().with_plan(Path::new("hall.csv"), plan).expect_err("a mistake");
        assert_eq!(
            error.to_string(),
            "hall.csv:2: column 4 (price): \"cheap\" is not a whole number of points"
        );
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Sale::read("no/such.toml").expect_err("not there").to_string();
        assert!(error.starts_with("cannot read no/such.toml: "), "{error}");
    }
}
