//! Ids, seat names and timestamps: newtypes, so that two kinds of id cannot be mixed up.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize, de};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use uuid::Uuid;

/// The most characters of the input that an error repeats.
const ECHO_CHARS_MAX: usize = 80;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_str(IdVisitor).map(Self)
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
    /// One entry of the wallet ledger.
    EntryId;
    /// One event (`ce-id`, `Nats-Msg-Id`).
    EventId;
    /// All events that follow from one request (`onsale-saga-id`).
    SagaId;
}

/// Reads an id, with an error message of our own.
struct IdVisitor;

impl de::Visitor<'_> for IdVisitor {
    type Value = Uuid;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an id, a UUID")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Uuid, E> {
        text.parse().map_err(|_| {
            let shape = "00000000-0000-7000-8000-000000000000";
            E::custom(format_args!(
                "must be an id, a UUID like `{shape}`, not `{text:.ECHO_CHARS_MAX$}`"
            ))
        })
    }
}

/// A seat of a schedule: `SECTION-ROW-SEAT`, for example `A-12-7`. A `-` inside a name becomes
/// `_`. So an id has exactly two `-`, and its section is what stands before the first.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct SeatId(pub String);

/// The order in which people read them: seat 2 comes before seat 10.
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

/// A name as runs of digits and of other characters. A number is compared by its count of
/// digits without leading zeros, then by the digits; other text as it is.
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
    /// The most characters of the name of a section, a row or a seat.
    pub const NAME_CHARS_MAX: usize = 64;
    /// The most bytes of such a name.
    pub const NAME_BYTES_MAX: usize = 256;
    /// The most bytes of an id.
    pub const BYTES_MAX: usize = 3 * Self::NAME_BYTES_MAX + 2;
    /// The most dashes in a requested name; with more, no seat is looked up.
    const DASHES_MAX: usize = 9;

    /// The seat `seat` in row `row` of section `section`. A standing area has no rows: the
    /// name of its row is empty.
    pub fn new(section: &str, row: &str, seat: &str) -> Self {
        let [section, row, seat] = [section, row, seat].map(Self::part);
        Self(format!("{section}-{row}-{seat}"))
    }

    /// A name as it is written in ids.
    pub fn part(name: &str) -> String {
        name.replace('-', "_")
    }

    /// The section of this seat, as it is written in ids.
    pub fn section(&self) -> &str {
        self.0.split('-').next().unwrap_or_default()
    }

    /// Every id that this one may stand for. A client that joins the names of a plan without
    /// replacing their dashes may mean one of several; a plan has at most a few of them.
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

    /// Seconds since 1970, rounded down, as signed tokens write a time.
    pub fn unix_secs(self) -> i64 {
        self.unix_millis().div_euclid(1_000)
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

/// Why a text is not a timestamp.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TimestampError {
    /// It has no time zone.
    #[error("must say its zone, as in `{0}Z` or `{0}+09:00`; `{0}` has none")]
    NoZone(String),
    /// There is no colon between the hours and minutes of its zone.
    #[error("must write its zone with a colon, as in `+09:00`, and not as in `{0}`")]
    NoColon(String),
    /// The `+` of the zone was not escaped in a URL.
    #[error("has a blank where its zone begins: in a URL `+` means a blank, write it as `%2B`")]
    LostPlus,
    /// The first and the last hours of the calendar have no year in UTC.
    #[error("must lie in the years 0 to 9999 in UTC; `{0}` does not")]
    NoYear(String),
    /// It is not RFC 3339, or there is no such day or hour.
    #[error("must be a time that exists, like `2030-06-01T19:00:00Z`, not `{0}`")]
    NoTime(String),
}

impl TimestampError {
    fn of(text: &str) -> Self {
        let is_valid = |text: &str| OffsetDateTime::parse(text, &Rfc3339).is_ok();
        let echo = || text.chars().take(ECHO_CHARS_MAX).collect();
        // With a `+` in place of its last blank it would be valid.
        let lost_plus = text
            .rsplit_once(' ')
            .is_some_and(|(before, zone)| is_valid(&format!("{before}+{zone}")));
        let has_no_colon = || {
            let colon = text.len().checked_sub(2).and_then(|at| text.split_at_checked(at));
            colon.is_some_and(|(before, minutes)| is_valid(&format!("{before}:{minutes}")))
        };
        if is_valid(text) {
            Self::NoYear(echo())
        } else if is_valid(&format!("{text}Z")) {
            Self::NoZone(echo())
        } else if has_no_colon() {
            Self::NoColon(echo())
        } else if lost_plus {
            Self::LostPlus
        } else {
            Self::NoTime(echo())
        }
    }
}

impl FromStr for Timestamp {
    type Err = TimestampError;

    fn from_str(text: &str) -> Result<Self, TimestampError> {
        // The first and the last hours of the calendar may have no year in UTC.
        OffsetDateTime::parse(text, &Rfc3339)
            .ok()
            .and_then(|at| at.checked_to_offset(time::UtcOffset::UTC))
            .filter(|at| (0..=9_999).contains(&at.year()))
            .map(Self::from)
            .ok_or_else(|| TimestampError::of(text))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(TimestampVisitor)
    }
}

/// Reads a timestamp, with an error message of our own.
struct TimestampVisitor;

impl de::Visitor<'_> for TimestampVisitor {
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
    fn seats_are_ordered_by_their_numbers() {
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
    fn a_timestamp_is_read_in_any_offset_and_written_in_utc() {
        let at: Timestamp = "2026-05-01T20:00:00.1234567+09:00".parse().expect("a timestamp");
        assert_eq!(at.to_string(), "2026-05-01T11:00:00.123456Z");
    }

    #[test]
    fn the_names_in_a_seat_id_stay_separate() {
        let seat = SeatId::new("Orchestra-Left", "A", "1-2");
        assert_eq!(seat.0, "Orchestra_Left-A-1_2");
        assert_eq!(seat.section(), "Orchestra_Left");
        assert_eq!(seat.readings(), std::slice::from_ref(&seat));
        let standing = SeatId::new("STANDING", "", "17");
        assert_eq!((&*standing.0, standing.section()), ("STANDING--17", "STANDING"));
    }

    #[test]
    fn a_seat_is_found_by_its_joined_names() {
        for (section, row, seat) in [
            ("Orchestra-Left", "A", "1"),
            ("A", "1-2", "3"),
            ("A", "B", "C-D"),
            ("A-B", "C-D", "E"),
        ] {
            let joined = SeatId(format!("{section}-{row}-{seat}"));
            assert!(joined.readings().contains(&SeatId::new(section, row, seat)), "{joined}");
        }
        let standing = SeatId("STANDING-17".into());
        assert_eq!(standing.readings(), [SeatId::new("STANDING", "", "17")]);
        for nothing in ["", "A", &"-".repeat(10), &"A-".repeat(100_000)] {
            assert!(SeatId(nothing.into()).readings().is_empty(), "{nothing:.20}");
        }
        assert_eq!(SeatId("-".repeat(9)).readings().len(), 36, "at most");
    }

    #[test]
    fn a_timestamp_without_a_year_in_utc_is_refused() {
        assert!("9999-12-31T23:59:59-01:00".parse::<Timestamp>().is_err());
        assert!("0000-01-01T00:00:00+01:00".parse::<Timestamp>().is_err());
    }

    #[test]
    fn a_wrong_timestamp_is_refused_with_its_reason() {
        let why = |text: &str| text.parse::<Timestamp>().expect_err(text);
        let text = "2030-06-01T19:00:00";
        assert_eq!(why(text), TimestampError::NoZone(text.to_owned()));
        assert!(matches!(why("2030-06-01T19:00:00+0900"), TimestampError::NoColon(_)));
        assert_eq!(why("2030-06-01T19:00:00 09:00"), TimestampError::LostPlus);
        assert_eq!(why("2030-06-01T19:00:00.5 05:30"), TimestampError::LostPlus);
        assert!(matches!(why("9999-12-31T23:59:59-01:00"), TimestampError::NoYear(_)));
        for none in ["", "soon", "2030-06-01", "2030-06-31T00:00:00Z", "1764400000", " ", "☃ ☃"]
        {
            assert!(matches!(why(none), TimestampError::NoTime(_)), "{none}");
        }
        assert!(why(&"9".repeat(10_000)).to_string().len() < 200);
    }

    #[test]
    fn a_wrong_id_is_refused_with_our_own_message() {
        let id: Result<UserId, _> = serde_json::from_str("\"nope\"");
        let why = id.expect_err("no id").to_string();
        assert!(why.contains("must be an id, a UUID") && why.contains("`nope`"), "{why}");
        let id = "019a5c3e-7a10-7c41-9d0e-3b1f5e2a7c01";
        let read: UserId = serde_json::from_str(&format!("\"{id}\"")).expect("an id");
        assert_eq!(read.to_string(), id);
    }
}
