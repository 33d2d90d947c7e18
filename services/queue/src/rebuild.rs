//! The room built anew from what was said, after Valkey has lost it.

use bytes::Bytes;
use events::{
    Event, PaymentId, ScheduleId, Timestamp, UserId,
    concert::{ScheduleCancelled, ScheduleOpened},
    payment::PaymentCompleted,
    queue::{QueueActivated, QueueCompleted, QueueExpired, QueueReturned, QueueWaiting},
    reservation::{ReservationCancelled, ReservationCreated, ReservationExpired},
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
/// those that made the room, its holds and its sales. Payments that failed are not among
/// them: what they did to a place is in the room's own facts.
pub const REBUILT_FROM: &[&str] = &[
    QueueWaiting::FACT,
    QueueActivated::FACT,
    QueueReturned::FACT,
    QueueCompleted::FACT,
    QueueExpired::FACT,
    ScheduleOpened::FACT,
    ScheduleCancelled::FACT,
    ReservationCreated::FACT,
    ReservationExpired::FACT,
    ReservationCancelled::FACT,
    PaymentCompleted::FACT,
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
        QueueCompleted::FACT => adopt_completed(payload),
        QueueExpired::FACT => adopt_expired(payload),
        ScheduleOpened::FACT => again::<ScheduleOpened>(valkey, payload, now),
        ScheduleCancelled::FACT => again::<ScheduleCancelled>(valkey, payload, now),
        ReservationCreated::FACT => again::<ReservationCreated>(valkey, payload, now),
        ReservationExpired::FACT => again::<ReservationExpired>(valkey, payload, now),
        ReservationCancelled::FACT => again::<ReservationCancelled>(valkey, payload, now),
        PaymentCompleted::FACT => again::<PaymentCompleted>(valkey, payload, now),
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

/// A fact of the room's own telling; what it does not say is zero, or `-`.
struct Adopted {
    schedule_id: ScheduleId,
    user_id: UserId,
    state: &'static str,
    version: u64,
    ticket: u64,
    entered_at: i64,
    reserve_until: i64,
    reason: &'static str,
    payment: Option<PaymentId>,
}

impl Adopted {
    fn new(schedule_id: ScheduleId, user_id: UserId, state: &'static str, version: u64) -> Self {
        Self {
            schedule_id,
            user_id,
            state,
            version,
            ticket: 0,
            entered_at: 0,
            reserve_until: 0,
            reason: "-",
            payment: None,
        }
    }

    fn act(self) -> Act {
        Act::new("adopt")
            .arg(self.schedule_id)
            .arg(self.user_id)
            .arg(self.state)
            .arg(self.version)
            .arg(self.ticket)
            .arg(self.entered_at)
            .arg(self.reserve_until)
            .arg(self.reason)
            .arg(self.payment.map_or("-".into(), |payment| payment.to_string()))
            .restoring()
    }
}

fn adopt_waiting(payload: &[u8]) -> serde_json::Result<Act> {
    let fact: QueueWaiting = serde_json::from_slice(payload)?;
    let place = Adopted::new(fact.schedule_id, fact.user_id, "W", fact.place_version);
    let entered_at = fact.entered_at.unix_millis();
    Ok(Adopted { ticket: fact.ticket, entered_at, ..place }.act())
}

fn adopt_activated(payload: &[u8]) -> serde_json::Result<Act> {
    let fact: QueueActivated = serde_json::from_slice(payload)?;
    let place = Adopted::new(fact.schedule_id, fact.user_id, "A", fact.place_version);
    Ok(Adopted { reserve_until: fact.reserve_until.unix_millis(), ..place }.act())
}

fn adopt_returned(payload: &[u8]) -> serde_json::Result<Act> {
    let fact: QueueReturned = serde_json::from_slice(payload)?;
    Ok(Adopted::new(fact.schedule_id, fact.user_id, "R", fact.place_version).act())
}

fn adopt_completed(payload: &[u8]) -> serde_json::Result<Act> {
    let fact: QueueCompleted = serde_json::from_slice(payload)?;
    let place = Adopted::new(fact.schedule_id, fact.user_id, "C", fact.place_version);
    Ok(Adopted { payment: Some(fact.payment_id), ..place }.act())
}

fn adopt_expired(payload: &[u8]) -> serde_json::Result<Act> {
    let fact: QueueExpired = serde_json::from_slice(payload)?;
    let place = Adopted::new(fact.schedule_id, fact.user_id, "E", fact.place_version);
    Ok(Adopted { reason: text_of(fact.reason), ..place }.act())
}
