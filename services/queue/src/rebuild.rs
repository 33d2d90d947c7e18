//! The room built anew from what its neighbours own and what was emitted, after Valkey has
//! lost it.

use std::collections::HashSet;

use bytes::Bytes;
use events::{
    Event, PaymentId, ScheduleId, Timestamp, UserId,
    concert::{ScheduleCancelled, ScheduleOpened, ScheduleState},
    payment::PaymentCompleted,
    queue::{QueueActivated, QueueCompleted, QueueExpired, QueueReturned, QueueWaiting},
    reservation::{ReservationCancelled, ReservationCreated, ReservationExpired},
    state::{ScheduleStated, SeatOwner, SeatStated, StateSchedules},
    user::UserWithdrawn,
};
use futures::{Stream, StreamExt};
use mesh::{
    engine::Failure,
    valkey::{Act, ActOn, Restoring, Valkey},
};
use tracing::warn;

use crate::{Room, domain::text_of};

/// The events that a room is rebuilt from: its own, which say where each place stood, and
/// those that made the room, its holds and its sales. Payments that failed are not among
/// them: what they did to a place is in the room's own events.
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

/// A room that was over for longer is not made again.
const OVER_SECS: i64 = 30 * 86_400;

/// Something that a room is rebuilt from.
#[derive(Debug, Clone)]
pub enum Known {
    /// An event: its subject, and itself.
    Event(String, Bytes),
    /// A schedule, by its owner.
    Schedule(ScheduleStated),
    /// A seat of a schedule, by its owner.
    Seat(ScheduleId, SeatStated),
}

/// What to ask `concert` for: the schedules whose rooms are not over and forgotten.
pub fn schedules_wanted(now: Timestamp) -> StateSchedules {
    StateSchedules { after: None, starts_after: Some(now.plus_secs(-OVER_SECS)) }
}

/// Takes in everything that is `known`, in any order, and declares the store whole, so that
/// the room takes up its work again. On a store that is whole already it does nothing.
/// Returns how much was taken in.
///
/// Streams keep a week, and a sale may have been announced long before. So schedules, holds
/// and sales are known from those who own them, and only places come from streams alone: of
/// an older place the fan has the ticket.
///
/// It may be broken off and begun anew at any time: everything has its effect once.
///
/// # Errors
/// `Contended` while another instance is at it; when Valkey cannot be reached, or what is known
/// cannot be read to its end.
pub async fn rebuild(
    valkey: &Valkey<Room>,
    known: impl Stream<Item = Result<Vec<Known>, Failure>>,
    now: Timestamp,
) -> Result<u64, Failure> {
    if valkey.is_whole().await? {
        return Ok(0);
    }
    let Some(restoring) = valkey.begin_restoring().await? else {
        return Err(Failure::Contended("it is being rebuilt already".into()));
    };
    match take_in(valkey, &restoring, known, now).await {
        Ok(count) => {
            restoring.seal().await?;
            Ok(count)
        }
        Err(failure) => {
            // Away as it may be, the store lets the right lapse by itself.
            let _ = restoring.give_up().await;
            Err(failure)
        }
    }
}

async fn take_in(
    valkey: &Valkey<Room>,
    restoring: &Restoring<Room>,
    known: impl Stream<Item = Result<Vec<Known>, Failure>>,
    now: Timestamp,
) -> Result<u64, Failure> {
    restoring.perform(&[Act::new("forget")], now).await?;
    let mut count = 0;
    let mut known = std::pin::pin!(known);
    while let Some(page) = known.next().await {
        let mut owners = HashSet::new();
        let mut acts = Vec::new();
        for known in &page? {
            let before = acts.len();
            match known {
                Known::Event(subject, payload) => acts.extend(act(valkey, subject, payload, now)),
                Known::Schedule(stated) => acts.extend(schedule(stated)),
                Known::Seat(schedule_id, stated) => {
                    // What has several seats is one hold, or one sale.
                    let owner = stated.owner.as_ref();
                    let owner = owner.filter(|owner| owners.insert(owner.reservation_id));
                    acts.extend(owner.map(|owner| owned(*schedule_id, owner)));
                }
            }
            count += u64::from(acts.len() > before);
        }
        restoring.perform(&acts, now).await?;
    }
    restoring.perform(&[Act::new("rebuilt")], now).await?;
    valkey.rules().signer.refresh(valkey, now).await?;
    Ok(count)
}

fn schedule(stated: &ScheduleStated) -> impl Iterator<Item = Act> {
    let schedule = &stated.schedule;
    let open = Act::new("open")
        .arg(schedule.schedule_id)
        .arg(schedule.opens_at.unix_millis())
        .arg(schedule.starts_at.unix_millis())
        .arg(schedule.admission.per_second)
        .arg(schedule.admission.active_max)
        .arg(schedule.admission.pass_secs)
        .arg(schedule.seats_total);
    let is_cancelled = schedule.state == ScheduleState::Cancelled;
    let cancel = is_cancelled.then(|| Act::new("cancel").arg(schedule.schedule_id));
    std::iter::once(open).chain(cancel)
}

fn owned(schedule_id: ScheduleId, owner: &SeatOwner) -> Act {
    match owner.is_sold {
        true => Act::new("sold").arg(schedule_id).arg(owner.reservation_id).arg(owner.seats),
        false => Act::new("hold")
            .arg(schedule_id)
            .arg(owner.user_id)
            .arg(owner.reservation_id)
            .arg(owner.hard_cap_at.unix_millis()),
    }
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
