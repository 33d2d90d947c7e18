//! The keys by which a saga is found.

use std::str::FromStr;

use auditor::Observed;
use events::{SeatId, UserId};
use serde::{Deserialize, de::IgnoredAny};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// A key to look for a saga with: a UUID (of the saga, a payment, a reservation, a user or an
/// event), the 32 hex digits of a trace, or `<schedule id>/<seat>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key(pub(crate) Uuid);

/// A text that is no key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be an id, a trace id, or `<schedule id>/<seat>`")]
pub(crate) struct NoKey;

impl FromStr for Key {
    type Err = NoKey;

    fn from_str(text: &str) -> Result<Self, NoKey> {
        let id = |text: &str| text.parse().map_err(|_: uuid::Error| NoKey);
        match text.split_once('/') {
            // Both forms of a UUID are accepted: a trace id is one without dashes.
            None if matches!(text.len(), 32 | 36) => id(text).map(Self),
            Some((schedule, seat)) if (1..=SeatId::BYTES_MAX).contains(&seat.len()) => {
                let seat = text::same_name(seat);
                Ok(Self(seat_key(id(schedule)?, &seat)))
            }
            _ => Err(NoKey),
        }
    }
}

/// What an event names in its payload.
#[derive(Deserialize)]
struct Named {
    user_id: Option<Uuid>,
    payment_id: Option<Uuid>,
    reservation_id: Option<Uuid>,
    schedule_id: Option<Uuid>,
    #[serde(default)]
    seats: Vec<Seat>,
}

/// A seat as `reservation.created` names it, as the other events do, or a block of a plan.
#[derive(Deserialize)]
#[serde(untagged)]
enum Seat {
    Plain(SeatId),
    Priced { seat: SeatId },
    Other(IgnoredAny),
}

/// The fan that an event is about, when it is about one.
pub(crate) fn user_of(observed: &Observed) -> Option<UserId> {
    observed.read::<Named>()?.user_id.map(UserId)
}

/// All keys of an event's saga, beside the saga's own id and the event's.
pub(crate) fn keys_of(observed: &Observed) -> Vec<Uuid> {
    let mut keys = vec![observed.about];
    keys.extend(observed.trace_id.as_deref().and_then(|id| Uuid::from_str(id).ok()));
    if let Some(named) = observed.read::<Named>() {
        keys.extend([named.user_id, named.payment_id, named.reservation_id].into_iter().flatten());
        if let Some(schedule_id) = named.schedule_id {
            keys.extend(named.seats.iter().filter_map(|seat| match seat {
                Seat::Plain(seat) | Seat::Priced { seat } => Some(seat_key(schedule_id, &seat.0)),
                Seat::Other(_) => None,
            }));
        }
    }
    keys.retain(|key| *key != observed.saga_id.0);
    keys
}

/// The key of a seat, in as many bytes as every other key has.
fn seat_key(schedule_id: Uuid, seat: &str) -> Uuid {
    let mut hash = Sha256::new();
    hash.update(schedule_id.as_bytes());
    hash.update(seat.as_bytes());
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&hash.finalize()[..16]);
    Uuid::from_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEDULE: &str = "019a8f3e-0003-7000-8000-000000000001";

    #[test]
    fn a_key_is_read_in_each_of_its_forms() {
        let schedule = SCHEDULE.parse().unwrap();
        assert_eq!(SCHEDULE.parse(), Ok(Key(schedule)));
        assert_eq!(SCHEDULE.replace('-', "").parse(), Ok(Key(schedule)));
        let seat = format!("{SCHEDULE}/A-1-2").parse();
        assert_eq!(seat, Ok(Key(seat_key(schedule, "A-1-2"))));
        let of_a_hall = format!("{SCHEDULE}/Ｂox 3/4-\u{1112}\u{1161}\u{11ab}-2").parse();
        assert_eq!(of_a_hall, Ok(Key(seat_key(schedule, "Box 3/4-한-2"))), "as it is kept");
    }

    #[test]
    fn an_invalid_key_is_refused() {
        let long = format!("{SCHEDULE}/{}", "A".repeat(SeatId::BYTES_MAX + 1));
        for bad in ["", "x", "latest", "/A-1-2", &format!("{SCHEDULE}/"), "1/A-1-2", &long] {
            assert_eq!(bad.parse::<Key>(), Err(NoKey), "{bad}");
        }
        assert!(format!("{{{SCHEDULE}}}").parse::<Key>().is_err());
        assert!(format!("urn:uuid:{SCHEDULE}").parse::<Key>().is_err());
    }
}
