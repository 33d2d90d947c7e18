//! Names for things: newtypes, so that no two kinds of id can be mixed up.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize, de};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

/// Characters of what came that an error repeats.
const SAID_CHARS_MAX: usize = 80;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(ReadId).map(Self)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(text: &str) -> Result<Self, uuid::Error> {
                text.parse().map(Self)
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }
    )+};
}

ids! {
    /// An account.
    UserId;
    /// A concert: what is played.
    ConcertId;
    /// A schedule: one performance of a concert, with its own seats.
    ScheduleId;
    /// A reservation: one fan's claim on one or more seats.
    ReservationId;
    /// A payment of a reservation.
    PaymentId;
    /// One attempt to close an account.
    AttemptId;
    /// One line of the wallet ledger.
    EntryId;
    /// One told fact (`ce-id`, `Nats-Msg-Id`).
    EventId;
    /// All facts that follow from one request (`onsale-saga-id`).
    SagaId;
}

/// Reads an id; what is none is refused in our own words.
struct ReadId;

impl de::Visitor<'_> for ReadId {
    type Value = Uuid;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id, a UUID")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Uuid, E> {
        text.parse().map_err(|_| {
            let shape = "00000000-0000-7000-8000-000000000000";
            E::custom(format_args!(
                "must be an id, a UUID like `{shape}`, not `{text:.SAID_CHARS_MAX$}`"
            ))
        })
    }
}

/// A seat of a schedule: `SECTION-ROW-SEAT`, for example `A-12-7`. A `-` inside a name is a
/// `_` here, so that an id has two, and its section is what stands before the first.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct SeatId(pub String);

/// As people read them: seat 2 stands before seat 10.
impl Ord for SeatId {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        pieces(&self.0).cmp(pieces(&other.0)).then_with(|| self.0.cmp(&other.0))
    }
}

impl PartialOrd for SeatId {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// A name as runs of digits and of other characters: a number is compared by how many digits
/// it has, leading zeros apart, and then by those; other text as it is.
fn pieces(name: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut rest = name;
    std::iter::from_fn(move || {
        let is_number = rest.chars().next()?.is_ascii_digit();
        let is_other = |character: char| character.is_ascii_digit() != is_number;
        let (piece, behind) = rest.split_at(rest.find(is_other).unwrap_or(rest.len()));
        rest = behind;
        let digits = piece.trim_start_matches('0');
        Some(if is_number { (digits.len(), digits) } else { (usize::MAX, piece) })
    })
}

impl SeatId {
    /// Characters of the name of a section, a row or a seat at most.
    pub const NAME_CHARS_MAX: usize = 64;
    /// Bytes of such a name at most.
    pub const NAME_BYTES_MAX: usize = 256;
    /// Bytes of an id at most.
    pub const BYTES_MAX: usize = 3 * Self::NAME_BYTES_MAX + 2;
    /// Dashes in what somebody asks for at most, for which a seat is looked for.
    const DASHES_MAX: usize = 9;

    /// The seat `seat` in row `row` of section `section`. A standing area has no rows: the
    /// name of its row is empty.
    pub fn new(section: &str, row: &str, seat: &str) -> Self {
        let [section, row, seat] = [section, row, seat].map(Self::part);
        Self(format!("{section}-{row}-{seat}"))
    }

    /// A name as it stands in ids.
    pub fn part(name: &str) -> String {
        name.replace('-', "_")
    }

    /// The section of this seat, as it stands in ids.
    pub fn section(&self) -> &str {
        self.0.split('-').next().unwrap_or_default()
    }

    /// Every id that may be meant by this one. Whoever joins the names of a plan, dashes and
    /// all, means one of several; a plan has at most a few of them.
    pub fn readings(&self) -> Vec<Self> {
        let names: Vec<&str> = self.0.split('-').collect();
        match names.len() - 1 {
            // A standing area, named without the row that it does not have.
            1 => vec![Self(format!("{}--{}", names[0], names[1]))],
            2 => vec![self.clone()],
            dashes @ 3..=Self::DASHES_MAX => (1..dashes)
                .flat_map(|row| (row + 1..=dashes).map(move |seat| (row, seat)))
                .map(|(row, seat)| {
                    let [section, row, seat] =
                        [&names[..row], &names[row..seat], &names[seat..]].map(|it| it.join("_"));
                    Self(format!("{section}-{row}-{seat}"))
                })
                .collect(),
            _ => Vec::new(),
        }
    }
}

impl fmt::Display for SeatId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A moment in UTC, to the microsecond (what PostgreSQL keeps), RFC 3339 on the wire.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[cfg_attr(feature = "openapi", schema(value_type = String, format = "date-time"))]
pub struct Timestamp(pub OffsetDateTime);

impl Timestamp {
    /// Later by `seconds`; earlier when negative.
    pub fn plus_secs(self, seconds: i64) -> Self {
        Self(self.0 + time::Duration::seconds(seconds))
    }

    /// Later by `millis` milliseconds; earlier when negative.
    pub fn plus_millis(self, millis: i64) -> Self {
        Self(self.0 + time::Duration::milliseconds(millis))
    }

    /// Milliseconds since 1970.
    pub fn unix_millis(self) -> i64 {
        (self.0.unix_timestamp_nanos() / 1_000_000) as i64
    }

    /// The moment `millis` milliseconds after 1970 began; `None` out of range.
    pub fn from_unix_millis(millis: i64) -> Option<Self> {
        OffsetDateTime::from_unix_timestamp_nanos(i128::from(millis) * 1_000_000).ok().map(Self)
    }
}

impl From<OffsetDateTime> for Timestamp {
    fn from(at: OffsetDateTime) -> Self {
        let micros = at.nanosecond() / 1_000 * 1_000;
        Self(at.replace_nanosecond(micros).unwrap_or(at))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.format(&Rfc3339).map_err(|_| fmt::Error)?)
    }
}

/// Why a text is no moment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotAMoment {
    /// It could be anywhere on earth.
    #[error("must say its zone, as in `{0}Z` or `{0}+09:00`; `{0}` has none")]
    NoZone(String),
    /// Hours and minutes of its zone are not apart.
    #[error("must write its zone with a colon, as in `+09:00`, and not as in `{0}`")]
    NoColon(String),
    /// An address was not escaped.
    #[error("has a blank where its zone begins: in an address `+` means a blank, write it `%2B`")]
    LostPlus,
    /// The first and the last hours of the calendar have no year in UTC.
    #[error("must lie in the years 0 to 9999 in UTC; `{0}` does not")]
    NoYear(String),
    /// Not RFC 3339, or no such day or hour.
    #[error("must be a time like `2030-06-01T19:00:00Z` that there is, not `{0}`")]
    NoTime(String),
}

impl NotAMoment {
    fn of(text: &str) -> Self {
        let is_moment = |text: &str| OffsetDateTime::parse(text, &Rfc3339).is_ok();
        let said = || text.chars().take(SAID_CHARS_MAX).collect();
        // Where date, time and zone are apart by nothing but this blank.
        let lost_plus = text
            .rsplit_once(' ')
            .is_some_and(|(before, zone)| is_moment(&format!("{before}+{zone}")));
        let has_no_colon = || {
            let colon = text.len().checked_sub(2).and_then(|at| text.split_at_checked(at));
            colon.is_some_and(|(before, minutes)| is_moment(&format!("{before}:{minutes}")))
        };
        if is_moment(text) {
            Self::NoYear(said())
        } else if is_moment(&format!("{text}Z")) {
            Self::NoZone(said())
        } else if has_no_colon() {
            Self::NoColon(said())
        } else if lost_plus {
            Self::LostPlus
        } else {
            Self::NoTime(said())
        }
    }
}

impl FromStr for Timestamp {
    type Err = NotAMoment;

    fn from_str(text: &str) -> Result<Self, NotAMoment> {
        // The first and the last hours of the calendar may have no year in UTC.
        OffsetDateTime::parse(text, &Rfc3339)
            .ok()
            .and_then(|at| at.checked_to_offset(time::UtcOffset::UTC))
            .filter(|at| (0..=9_999).contains(&at.year()))
            .map(Self::from)
            .ok_or_else(|| NotAMoment::of(text))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(ReadMoment)
    }
}

/// Reads a moment; what is none is refused in our own words.
struct ReadMoment;

impl de::Visitor<'_> for ReadMoment {
    type Value = Timestamp;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a time, a text like `2030-06-01T19:00:00Z`")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Timestamp, E> {
        text.parse().map_err(E::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seats_stand_in_the_order_of_their_numbers() {
        let sorted = [
            "A-1-1",
            "A-1-2",
            "A-1-2a",
            "A-1-10",
            "A-1-99999999999999999999999",
            "A-2-1",
            "A-10-1",
            "B-1-007",
            "B-1-7",
            "B-1-8",
        ];
        let mut seats: Vec<SeatId> = sorted.iter().rev().map(|&it| SeatId(it.into())).collect();
        seats.sort();
        assert_eq!(seats.iter().map(|seat| seat.0.as_str()).collect::<Vec<_>>(), sorted);
    }

    #[test]
    fn a_moment_is_read_in_any_offset_and_written_in_utc() {
        let at: Timestamp = "2026-05-01T20:00:00.1234567+09:00".parse().expect("a moment");
        assert_eq!(at.to_string(), "2026-05-01T11:00:00.123456Z");
    }

    #[test]
    fn an_id_keeps_its_names_apart() {
        let seat = SeatId::new("Orchestra-Left", "A", "1-2");
        assert_eq!(seat.0, "Orchestra_Left-A-1_2");
        assert_eq!(seat.section(), "Orchestra_Left");
        assert_eq!(seat.readings(), std::slice::from_ref(&seat));
        let standing = SeatId::new("STANDING", "", "17");
        assert_eq!((&*standing.0, standing.section()), ("STANDING--17", "STANDING"));
    }

    #[test]
    fn a_seat_is_meant_by_its_names_joined() {
        for (section, row, seat) in [
            ("Orchestra-Left", "A", "1"),
            ("A", "1-2", "3"),
            ("A", "B", "C-D"),
            ("A-B", "C-D", "E"),
        ] {
            let asked = SeatId(format!("{section}-{row}-{seat}"));
            assert!(asked.readings().contains(&SeatId::new(section, row, seat)), "{asked}");
        }
        let standing = SeatId("STANDING-17".into());
        assert_eq!(standing.readings(), [SeatId::new("STANDING", "", "17")]);
        for nothing in ["", "A", &"-".repeat(10), &"A-".repeat(100_000)] {
            assert!(SeatId(nothing.into()).readings().is_empty(), "{nothing:.20}");
        }
        assert_eq!(SeatId("-".repeat(9)).readings().len(), 36, "at most");
    }

    #[test]
    fn a_moment_that_has_no_year_in_utc_is_refused() {
        assert!("9999-12-31T23:59:59-01:00".parse::<Timestamp>().is_err());
        assert!("0000-01-01T00:00:00+01:00".parse::<Timestamp>().is_err());
    }

    #[test]
    fn what_is_no_moment_is_told_apart() {
        let why = |text: &str| text.parse::<Timestamp>().expect_err(text);
        let text = "2030-06-01T19:00:00";
        assert_eq!(why(text), NotAMoment::NoZone(text.to_owned()));
        assert!(matches!(why("2030-06-01T19:00:00+0900"), NotAMoment::NoColon(_)));
        assert_eq!(why("2030-06-01T19:00:00 09:00"), NotAMoment::LostPlus);
        assert_eq!(why("2030-06-01T19:00:00.5 05:30"), NotAMoment::LostPlus);
        assert!(matches!(why("9999-12-31T23:59:59-01:00"), NotAMoment::NoYear(_)));
        for none in ["", "soon", "2030-06-01", "2030-06-31T00:00:00Z", "1764400000", " ", "☃ ☃"]
        {
            assert!(matches!(why(none), NotAMoment::NoTime(_)), "{none}");
        }
        assert!(why(&"9".repeat(10_000)).to_string().len() < 200);
    }

    #[test]
    fn what_is_no_id_is_refused_in_our_own_words() {
        let id: Result<UserId, _> = serde_json::from_str("\"nope\"");
        let why = id.expect_err("no id").to_string();
        assert!(why.contains("must be an id, a UUID") && why.contains("`nope`"), "{why}");
        let id = "019a5c3e-7a10-7c41-9d0e-3b1f5e2a7c01";
        let read: UserId = serde_json::from_str(&format!("\"{id}\"")).expect("an id");
        assert_eq!(read.to_string(), id);
    }
}
