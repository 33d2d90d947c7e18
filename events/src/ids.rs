//! Names for things: newtypes, so that no two kinds of id can be mixed up.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use time::{
    OffsetDateTime,
    error::{Parse, TryFromParsed},
    format_description::well_known::Rfc3339,
};
use uuid::Uuid;

macro_rules! ids {
    ($($(#[$doc:meta])* $name:ident;)+) => {$(
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

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

/// A seat of a schedule: `SECTION-ROW-SEAT`, for example `A-12-7`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(transparent)]
pub struct SeatId(pub String);

impl SeatId {
    /// The seat `seat` in row `row` of section `section`.
    pub fn new(section: &str, row: &str, seat: &str) -> Self {
        Self(format!("{section}-{row}-{seat}"))
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

impl FromStr for Timestamp {
    type Err = Parse;
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // The first and the last hours of the calendar may have no year in UTC.
        OffsetDateTime::parse(text, &Rfc3339)?
            .checked_to_offset(time::UtcOffset::UTC)
            .filter(|at| (0..=9_999).contains(&at.year()))
            .map(Self::from)
            .ok_or(Parse::TryFromParsed(TryFromParsed::InsufficientInformation))
    }
}

impl Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_read_in_any_offset_and_written_in_utc() {
        let at: Timestamp = "2026-05-01T20:00:00.1234567+09:00".parse().expect("a moment");
        assert_eq!(at.to_string(), "2026-05-01T11:00:00.123456Z");
    }

    #[test]
    fn a_moment_that_has_no_year_in_utc_is_refused() {
        assert!("9999-12-31T23:59:59-01:00".parse::<Timestamp>().is_err());
        assert!("0000-01-01T00:00:00+01:00".parse::<Timestamp>().is_err());
    }
}
