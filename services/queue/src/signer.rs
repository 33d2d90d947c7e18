//! Signs tickets and passes, and keeps the keys for it.

use std::sync::{PoisonError, RwLock};

use events::{
    Claims, Problem, ScheduleId, Timestamp, UserId, codes,
    queue::{PassClaims, TicketClaims},
};
use mesh::{
    auth::TokenError,
    engine::Failure,
    keys::{KeyError, KeyLife, KeyRecord, Keyring},
    valkey::{LuaModule, Valkey},
};
use quick_cache::sync::Cache;
use tracing::error;

/// A ticket is valid for as long as its key is published: a week.
const LIFE: KeyLife = KeyLife::daily(7 * 86_400);
/// The name under which Valkey keeps the keys.
const KEYS: &str = "keys";
/// Cached signatures at most: a signature costs about 25 µs, and fans poll often.
const SIGNED_MAX: usize = 20_000;

/// Signs for the rooms. The keys are kept in Valkey, where all instances share them.
pub struct Signer {
    ring: RwLock<Keyring>,
    signed: Cache<Signed, String>,
}

/// What a signature is for: a ticket by its number, a pass by the version of its place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Signed {
    Ticket(ScheduleId, UserId, u64),
    Pass(ScheduleId, UserId, u64),
}

impl Default for Signer {
    /// A signer without keys; [`Signer::refresh`] loads them.
    fn default() -> Self {
        let ring = Keyring::open(Vec::new(), LIFE).expect("an empty ring has no broken keys");
        Self { ring: RwLock::new(ring), signed: Cache::new(SIGNED_MAX) }
    }
}

impl Signer {
    /// A ticket, which proves a number in the queue.
    ///
    /// # Errors
    /// `unavailable` while there are no keys.
    pub fn ticket(&self, claims: TicketClaims, now: Timestamp) -> Result<String, Problem> {
        self.sign(Signed::Ticket(claims.schedule, claims.sub, claims.ticket), &claims, now)
    }

    /// A pass, which gives the right to reserve until `claims.exp`.
    ///
    /// # Errors
    /// `unavailable` while there are no keys.
    pub fn pass(&self, claims: PassClaims, now: Timestamp) -> Result<String, Problem> {
        self.sign(Signed::Pass(claims.schedule, claims.sub, claims.place_version), &claims, now)
    }

    /// The number that a ticket proves; `None` when its key is no longer known.
    ///
    /// # Errors
    /// `invalid` when the ticket is forged, another fan's, or another room's.
    pub fn number(
        &self,
        ticket: &str,
        schedule: ScheduleId,
        user: UserId,
        now: Timestamp,
    ) -> Result<Option<u64>, Problem> {
        let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
        match ring.verify::<TicketClaims>(ticket, now) {
            Ok(claims) if claims.schedule == schedule && claims.sub == user => {
                Ok(Some(claims.ticket))
            }
            Err(TokenError::KeyUnknown | TokenError::Unavailable) => Ok(None),
            Ok(_) | Err(TokenError::Forged | TokenError::Expired) => {
                let what = "must be a ticket of your own for this room";
                Err(Problem::about(codes::INVALID, "ticket", what))
            }
        }
    }

    /// The public keys.
    pub fn jwks(&self) -> serde_json::Value {
        self.ring.read().unwrap_or_else(PoisonError::into_inner).jwks()
    }

    /// Loads the keys from Valkey, creates those that are due, and writes its own back when
    /// Valkey has lost them. When two instances do this at once, one of them writes, and the
    /// other loads what was written.
    ///
    /// # Errors
    /// When Valkey cannot be reached, or its value is not a list of keys.
    pub async fn refresh<M: LuaModule>(
        &self,
        valkey: &Valkey<M>,
        now: Timestamp,
    ) -> Result<(), Failure> {
        let broken = |error: &dyn std::fmt::Display| Failure::Refused(error.to_string());
        loop {
            let stored = valkey.load(KEYS).await?;
            let mut records: Vec<KeyRecord> = if stored.is_empty() {
                let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
                ring.records().cloned().collect()
            } else {
                serde_json::from_str(&stored).map_err(|error| broken(&error))?
            };
            records.sort_by_key(|record| record.created_at);
            let mut ring = Keyring::open(records, LIFE).map_err(|error| broken(&error))?;
            ring.rotate(now).map_err(|error| broken(&error))?;
            let records: Vec<&KeyRecord> = ring.records().collect();
            let text = serde_json::to_string(&records).map_err(|error| broken(&error))?;
            if text == stored || valkey.swap(KEYS, &stored, &text).await? {
                let is_changed = ring.jwks() != self.jwks();
                *self.ring.write().unwrap_or_else(PoisonError::into_inner) = ring;
                if is_changed {
                    // A signature of a dropped key must not be handed out any more. One that is
                    // being made with it is not kept either: its placeholder goes, too.
                    self.signed.clear();
                }
                return Ok(());
            }
        }
    }

    fn sign<C: Claims>(&self, what: Signed, claims: &C, now: Timestamp) -> Result<String, Problem> {
        self.signed.get_or_insert_with(&what, || {
            let ring = self.ring.read().unwrap_or_else(PoisonError::into_inner);
            ring.sign(claims, now).map_err(|error| {
                if error != KeyError::Empty {
                    error!(%error, "a token cannot be signed");
                }
                Problem::new(codes::UNAVAILABLE, "The waiting room has no signing keys yet.")
                    .with("retry_after_secs", 1)
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signer() -> Signer {
        let now = Timestamp(time::OffsetDateTime::UNIX_EPOCH);
        let record = KeyRecord::generate(now).unwrap();
        let ring = Keyring::open(vec![record], LIFE).unwrap();
        Signer { ring: RwLock::new(ring), ..Signer::default() }
    }

    fn id(n: u128) -> uuid::Uuid {
        uuid::Uuid::from_u128(n)
    }

    #[test]
    fn a_ticket_proves_its_number_only_for_its_fan_and_room() {
        let (signer, now) = (signer(), Timestamp(time::OffsetDateTime::UNIX_EPOCH));
        let (room, fan) = (ScheduleId(id(1)), UserId(id(2)));
        let claims = TicketClaims { sub: fan, schedule: room, ticket: 17 };
        let ticket = signer.ticket(claims, now).unwrap();
        assert_eq!(signer.ticket(claims, now).unwrap(), ticket);
        assert_eq!(signer.number(&ticket, room, fan, now), Ok(Some(17)));
        for (room, fan) in [(room, UserId(id(3))), (ScheduleId(id(3)), fan)] {
            assert!(signer.number(&ticket, room, fan, now).unwrap_err().is(codes::INVALID));
        }
        assert!(signer.number("rubbish", room, fan, now).unwrap_err().is(codes::INVALID));
    }

    #[test]
    fn a_ticket_of_an_unknown_key_counts_as_none() {
        let now = Timestamp(time::OffsetDateTime::UNIX_EPOCH);
        let (room, fan) = (ScheduleId(id(1)), UserId(id(2)));
        let claims = TicketClaims { sub: fan, schedule: room, ticket: 17 };
        let old = signer().ticket(claims, now).unwrap();
        assert_eq!(signer().number(&old, room, fan, now), Ok(None));
    }

    #[test]
    fn a_pass_is_not_a_ticket() {
        let (signer, now) = (signer(), Timestamp(time::OffsetDateTime::UNIX_EPOCH));
        let (room, fan) = (ScheduleId(id(1)), UserId(id(2)));
        let pass = signer.pass(PassClaims::new(fan, room, 2, now, now.plus_secs(9)), now).unwrap();
        assert!(signer.number(&pass, room, fan, now).unwrap_err().is(codes::INVALID));
    }

    #[test]
    fn without_keys_no_token_is_signed() {
        let now = Timestamp(time::OffsetDateTime::UNIX_EPOCH);
        let claims = TicketClaims { sub: UserId(id(2)), schedule: ScheduleId(id(1)), ticket: 1 };
        assert!(Signer::default().ticket(claims, now).unwrap_err().is(codes::UNAVAILABLE));
    }
}
