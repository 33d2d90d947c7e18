//! The room built anew from what was said, after Valkey has lost it.

use bytes::Bytes;
use events::{
    Event, Timestamp,
    concert::{ScheduleCancelled, ScheduleOpened},
    queue::{QueueActivated, QueueExpired, QueueReturned, QueueWaiting},
    reservation::{
        ReservationCancelled, ReservationConfirmed, ReservationCreated, ReservationExpired,
    },
    user::UserWithdrawn,
};
use futures::{Stream, StreamExt};
use mesh::{
    engine::Failure,
    valkey::{Act, ActOn, Valkey},
};
use tracing::warn;

use crate::{Room, domain::text_of};

/// Facts taken in by one round trip.
const CHUNK_FACTS: usize = 500;

/// The facts that a room is rebuilt from: its own, which say where each place stood, and
/// those that made the room, its seats and its holds. Payments are not among them: what they
/// did to a place is in the room's own facts.
pub const REBUILT_FROM: &[&str] = &[
    QueueWaiting::FACT,
    QueueActivated::FACT,
    QueueReturned::FACT,
    QueueExpired::FACT,
    ScheduleOpened::FACT,
    ScheduleCancelled::FACT,
    ReservationCreated::FACT,
    ReservationConfirmed::FACT,
    ReservationExpired::FACT,
    ReservationCancelled::FACT,
    UserWithdrawn::FACT,
];

/// Takes in every fact of `facts` (subject and payload, in any order; others are skipped)
/// and declares the store whole, so that the room takes up its work again. On a store that
/// is whole already it does nothing. Returns how many facts were taken in.
///
/// It may be broken off and begun anew at any time: each fact has its effect once.
///
/// # Errors
/// When Valkey cannot be reached.
pub async fn rebuild(
    valkey: &Valkey<Room>,
    facts: impl Stream<Item = (String, Bytes)>,
    now: Timestamp,
) -> Result<u64, Failure> {
    if valkey.is_whole().await? {
        return Ok(0);
    }
    let mut count = 0;
    let mut chunks = std::pin::pin!(facts.ready_chunks(CHUNK_FACTS));
    while let Some(chunk) = chunks.next().await {
        let acts: Vec<Act> = chunk
            .iter()
            .filter_map(|(subject, payload)| act(valkey, subject, payload, now))
            .collect();
        valkey.perform(&acts, now).await?;
        count += acts.len() as u64;
    }
    valkey.perform(&[Act::new("rebuilt").restoring()], now).await?;
    valkey.rules().signer.refresh(valkey, now).await?;
    valkey.seal().await?;
    Ok(count)
}

fn act(valkey: &Valkey<Room>, subject: &str, payload: &[u8], now: Timestamp) -> Option<Act> {
    let fact = events::fact_of_subject(subject)?;
    let act = match fact {
        QueueWaiting::FACT => adopt_waiting(payload),
        QueueActivated::FACT => adopt_activated(payload),
        QueueReturned::FACT => adopt_returned(payload),
        QueueExpired::FACT => adopt_expired(payload),
        ScheduleOpened::FACT => again::<ScheduleOpened>(valkey, payload, now),
        ScheduleCancelled::FACT => again::<ScheduleCancelled>(valkey, payload, now),
        ReservationCreated::FACT => again::<ReservationCreated>(valkey, payload, now),
        ReservationConfirmed::FACT => again::<ReservationConfirmed>(valkey, payload, now),
        ReservationExpired::FACT => again::<ReservationExpired>(valkey, payload, now),
        ReservationCancelled::FACT => again::<ReservationCancelled>(valkey, payload, now),
        UserWithdrawn::FACT => again::<UserWithdrawn>(valkey, payload, now),
        _ => return None,
    };
    act.inspect_err(|error| warn!(fact, %error, "a fact cannot be read; rebuilding without it"))
        .ok()
}

fn again<E: Event>(valkey: &Valkey<Room>, payload: &[u8], now: Timestamp) -> serde_json::Result<Act>
where
    Room: ActOn<E>,
{
    Ok(valkey.replaying(&serde_json::from_slice::<E>(payload)?, now))
}

fn adopt_waiting(payload: &[u8]) -> serde_json::Result<Act> {
    let fact: QueueWaiting = serde_json::from_slice(payload)?;
    let act = Act::new("adopt").arg(fact.schedule_id).arg(fact.user_id);
    Ok(act.arg("W").arg(fact.place_version).arg(fact.ticket).arg(0).arg("-").restoring())
}

fn adopt_activated(payload: &[u8]) -> serde_json::Result<Act> {
    let fact: QueueActivated = serde_json::from_slice(payload)?;
    let until = fact.reserve_until.unix_millis();
    let act = Act::new("adopt").arg(fact.schedule_id).arg(fact.user_id);
    Ok(act.arg("A").arg(fact.place_version).arg(0).arg(until).arg("-").restoring())
}

fn adopt_returned(payload: &[u8]) -> serde_json::Result<Act> {
    let fact: QueueReturned = serde_json::from_slice(payload)?;
    let act = Act::new("adopt").arg(fact.schedule_id).arg(fact.user_id);
    Ok(act.arg("R").arg(fact.place_version).arg(0).arg(0).arg("-").restoring())
}

fn adopt_expired(payload: &[u8]) -> serde_json::Result<Act> {
    let fact: QueueExpired = serde_json::from_slice(payload)?;
    let act = Act::new("adopt").arg(fact.schedule_id).arg(fact.user_id);
    let reason = text_of(fact.reason);
    Ok(act.arg("E").arg(fact.place_version).arg(0).arg(0).arg(reason).restoring())
}
