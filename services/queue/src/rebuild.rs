//! Rebuilds the rooms after Valkey has lost them, from the state of other services and from
//! stored events.

use std::{collections::HashSet, future::Future, sync::Arc};

use bytes::Bytes;
use events::{
    Event, PaymentId, ScheduleId, Timestamp, UserId,
    concert::{ScheduleCancelled, ScheduleOpened, ScheduleState},
    payment::PaymentCompleted,
    queue::{QueueActivated, QueueCompleted, QueueExpired, QueueReturned, QueueWaiting},
    reservation::{ReservationCancelled, ReservationCreated, ReservationExpired},
    state::{ScheduleStated, SeatOwner, SeatStated, StateSchedules, StateSeats},
    user::UserWithdrawn,
};
use futures::{
    Stream, StreamExt, TryStreamExt,
    stream::{self, BoxStream},
};
use mesh::{
    Kept, MeshClient, STORED_MESSAGES_MAX, StoredEvent, clock,
    engine::Failure,
    valkey::{CallOn, FunctionCall, Restoring, Valkey},
};
use tracing::warn;

use crate::{NAME, domain::text_of, room::Room};

/// The events that a room is rebuilt from: its own, which have the state of each place, and those
/// that made the room, its holds and its sales. Failed payments are not among them: what they
/// did to a place is in the room's own events.
const REBUILT_FROM: &[&str] = &[
    QueueWaiting::NAME,
    QueueActivated::NAME,
    QueueReturned::NAME,
    QueueCompleted::NAME,
    QueueExpired::NAME,
    ScheduleOpened::NAME,
    ScheduleCancelled::NAME,
    ReservationCreated::NAME,
    ReservationExpired::NAME,
    ReservationCancelled::NAME,
    PaymentCompleted::NAME,
    UserWithdrawn::NAME,
];

/// The other services whose streams have these events.
const PRODUCERS: [&str; 4] = ["concert", "user", "reservation", "payment"];

/// A room that has been over for longer is not rebuilt.
const OVER_SECS: i64 = 30 * 86_400;

/// One piece of what a room is rebuilt from.
#[derive(Debug, Clone)]
pub(crate) enum Known {
    /// An event: its subject and its payload.
    Event(String, Bytes),
    /// A schedule, as `concert` states it.
    Schedule(ScheduleStated),
    /// A seat of a schedule, as `reservation` states it.
    Seat(ScheduleId, SeatStated),
}

/// The query to `concert` for the schedules whose rooms are rebuilt.
fn schedules_wanted(now: Timestamp) -> StateSchedules {
    StateSchedules { after: None, starts_after: Some(now.plus_secs(-OVER_SECS)) }
}

/// All waiting rooms of a store: rebuilt in place.
pub struct WaitingRooms(pub Arc<Valkey<Room>>);

impl Kept for WaitingRooms {
    const WHAT: &'static str = "the room";

    async fn is_whole(&self) -> Result<bool, Failure> {
        self.0.is_whole().await
    }

    async fn rebuild(
        &self,
        client: &MeshClient,
        stop: impl Future<Output = ()> + Send,
    ) -> Result<u64, Failure> {
        let now = clock::now();
        rebuild(&self.0, known(client, now).await?, stop, now).await
    }
}

/// Everything that the rooms are rebuilt from. The seats come last: they are stated as of a moment
/// after all that was read.
async fn known(
    client: &MeshClient,
    now: Timestamp,
) -> Result<BoxStream<'static, Result<Vec<Known>, Failure>>, Failure> {
    let schedules: Vec<_> = client.query_state(schedules_wanted(now)).try_concat().await?;
    let ids: Vec<_> = schedules.iter().map(|stated| Ok(stated.schedule.schedule_id)).collect();
    let schedules = schedules.into_iter().map(Known::Schedule).collect();
    let client = client.clone();
    let of_schedule = |schedule_id| StateSeats { schedule_id, after: None };
    let seats = client.query_state_of_each(stream::iter(ids), of_schedule);
    let seats = seats.map_ok(|(schedule_id, page)| {
        page.into_iter().map(|seat| Known::Seat(schedule_id, seat)).collect()
    });
    // The order makes no difference, so these streams are read at the same time. The own one comes
    // after them: what another instance still had in hand is published by then.
    let events = stream::select_all(PRODUCERS.map(|producer| emitted(&client, producer).boxed()));
    let own = emitted(&client, NAME);
    Ok(stream::iter([Ok(schedules)]).chain(events).chain(own).chain(seats).boxed())
}

/// Everything of a service's stream that a room is rebuilt from, page by page, up to its current
/// end. What is stored after that is consumed when the rooms are open again: a rush, or a stream
/// that is published again, would keep them closed.
fn emitted(
    client: &MeshClient,
    producer: &'static str,
) -> impl Stream<Item = Result<Vec<Known>, Failure>> + Send + use<> {
    let client = client.clone();
    stream::once(async move {
        let end = client.last_sequence(producer).await?;
        Ok::<_, Failure>(stream::try_unfold((0, 0), move |(after, sequence)| {
            let client = client.clone();
            async move {
                if sequence >= end {
                    return Ok(None);
                }
                let page = client.stored_since(producer, after, STORED_MESSAGES_MAX).await?;
                let Some(last) = page.last() else { return Ok(None) };
                let is_wanted = |event: &&StoredEvent| REBUILT_FROM.contains(&event.name());
                let known = |event: &StoredEvent| {
                    Known::Event(event.subject().to_owned(), event.payload().clone())
                };
                let place = (last.position(), last.sequence());
                Ok(Some((page.iter().filter(is_wanted).map(known).collect(), place)))
            }
        }))
    })
    .try_flatten()
}

/// Applies everything in `known`, in any order, and then marks the store as whole, so that the
/// rooms work again. On a store that is whole already it does nothing. Returns how many items
/// were applied.
///
/// Streams keep a week, and a sale may have been announced long before. So schedules, holds and
/// sales come from the services that own them, and only places come from streams alone: for an
/// older place the fan has the ticket.
///
/// It may be interrupted and started again at any time: every item has its effect once.
///
/// # Errors
/// `Contended` while another instance rebuilds the store; when it is stopped, Valkey cannot be
/// reached, or `known` cannot be read to its end.
pub(crate) async fn rebuild(
    valkey: &Valkey<Room>,
    known: impl Stream<Item = Result<Vec<Known>, Failure>>,
    stop: impl Future<Output = ()>,
    now: Timestamp,
) -> Result<u64, Failure> {
    if valkey.is_whole().await? {
        return Ok(0);
    }
    let Some(restoring) = valkey.begin_restoring().await? else {
        return Err(Failure::Contended("it is being rebuilt already".into()));
    };
    let applied = tokio::select! {
        applied = apply_all(valkey, &restoring, known, now) => applied,
        () = stop => Err(mesh::stopped()),
    };
    let sealed = match applied {
        Ok(count) => restoring.seal().await.map(|()| count),
        Err(failure) => Err(failure),
    };
    match sealed {
        Ok(count) => Ok(count),
        Err(failure) => {
            // If that fails, the lease runs out by itself.
            let _ = restoring.give_up().await;
            Err(failure)
        }
    }
}

async fn apply_all(
    valkey: &Valkey<Room>,
    restoring: &Restoring,
    known: impl Stream<Item = Result<Vec<Known>, Failure>>,
    now: Timestamp,
) -> Result<u64, Failure> {
    restoring.perform(&[FunctionCall::new("forget")], now).await?;
    let mut count = 0;
    let mut known = std::pin::pin!(known);
    let mut page = known.next().await;
    while let Some(read) = page {
        let (items, calls) = calls_of(valkey, &read?, now);
        count += items;
        // The next page is read meanwhile: until the end the rooms are closed.
        let (performed, next) = futures::join!(restoring.perform(&calls, now), known.next());
        performed?;
        page = next;
    }
    restoring.perform(&[FunctionCall::new("rebuilt")], now).await?;
    valkey.config().signer.refresh(valkey, now).await?;
    Ok(count)
}

/// The function calls of one page, and of how many items they are.
fn calls_of(valkey: &Valkey<Room>, page: &[Known], now: Timestamp) -> (u64, Vec<FunctionCall>) {
    let (mut owners, mut calls, mut items) = (HashSet::new(), Vec::new(), 0);
    for known in page {
        let before = calls.len();
        match known {
            Known::Event(subject, payload) => calls.extend(call(valkey, subject, payload, now)),
            Known::Schedule(stated) => calls.extend(schedule(stated)),
            Known::Seat(schedule_id, stated) => {
                // Several seats of one reservation are one hold, or one sale.
                let owner = stated.owner.as_ref();
                let owner = owner.filter(|owner| owners.insert(owner.reservation_id));
                calls.extend(owner.map(|owner| owned(*schedule_id, owner)));
            }
        }
        items += u64::from(calls.len() > before);
    }
    (items, calls)
}

fn schedule(stated: &ScheduleStated) -> impl Iterator<Item = FunctionCall> {
    let schedule = &stated.schedule;
    let open = FunctionCall::new("open")
        .arg(schedule.schedule_id)
        .arg(schedule.opens_at.unix_millis())
        .arg(schedule.starts_at.unix_millis())
        .arg(schedule.admission.per_second)
        .arg(schedule.admission.active_max)
        .arg(schedule.admission.pass_secs)
        .arg(schedule.seats_total);
    let is_cancelled = schedule.state == ScheduleState::Cancelled;
    let cancel = is_cancelled.then(|| FunctionCall::new("cancel").arg(schedule.schedule_id));
    std::iter::once(open).chain(cancel)
}

fn owned(schedule_id: ScheduleId, owner: &SeatOwner) -> FunctionCall {
    match owner.is_sold {
        true => {
            FunctionCall::new("sold").arg(schedule_id).arg(owner.reservation_id).arg(owner.seats)
        }
        false => FunctionCall::new("hold")
            .arg(schedule_id)
            .arg(owner.user_id)
            .arg(owner.reservation_id)
            .arg(owner.hard_cap_at.unix_millis()),
    }
}

fn call(
    valkey: &Valkey<Room>,
    subject: &str,
    payload: &[u8],
    now: Timestamp,
) -> Option<FunctionCall> {
    let event = events::event_of_subject(subject)?;
    let call = match event {
        QueueWaiting::NAME => adopt_waiting(payload),
        QueueActivated::NAME => adopt_activated(payload),
        QueueReturned::NAME => adopt_returned(payload),
        QueueCompleted::NAME => adopt_completed(payload),
        QueueExpired::NAME => adopt_expired(payload),
        ScheduleOpened::NAME => replayed::<ScheduleOpened>(valkey, payload, now),
        ScheduleCancelled::NAME => replayed::<ScheduleCancelled>(valkey, payload, now),
        ReservationCreated::NAME => replayed::<ReservationCreated>(valkey, payload, now),
        ReservationExpired::NAME => replayed::<ReservationExpired>(valkey, payload, now),
        ReservationCancelled::NAME => replayed::<ReservationCancelled>(valkey, payload, now),
        PaymentCompleted::NAME => replayed::<PaymentCompleted>(valkey, payload, now),
        UserWithdrawn::NAME => replayed::<UserWithdrawn>(valkey, payload, now),
        _ => return None,
    };
    call.inspect_err(
        |error| warn!(event, %error, "an event cannot be decoded; rebuilding without it"),
    )
    .ok()
}

fn replayed<E: Event>(
    valkey: &Valkey<Room>,
    payload: &[u8],
    now: Timestamp,
) -> serde_json::Result<FunctionCall>
where
    Room: CallOn<E>,
{
    Ok(valkey.replaying(&serde_json::from_slice::<E>(payload)?, now))
}

/// An event that the room itself emitted; fields that it does not have are zero, or `-`.
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

    fn call(self) -> FunctionCall {
        FunctionCall::new("adopt")
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

fn adopt_waiting(payload: &[u8]) -> serde_json::Result<FunctionCall> {
    let event: QueueWaiting = serde_json::from_slice(payload)?;
    let place = Adopted::new(event.schedule_id, event.user_id, "W", event.place_version);
    let entered_at = event.entered_at.unix_millis();
    Ok(Adopted { ticket: event.ticket, entered_at, ..place }.call())
}

fn adopt_activated(payload: &[u8]) -> serde_json::Result<FunctionCall> {
    let event: QueueActivated = serde_json::from_slice(payload)?;
    let place = Adopted::new(event.schedule_id, event.user_id, "A", event.place_version);
    Ok(Adopted { reserve_until: event.reserve_until.unix_millis(), ..place }.call())
}

fn adopt_returned(payload: &[u8]) -> serde_json::Result<FunctionCall> {
    let event: QueueReturned = serde_json::from_slice(payload)?;
    Ok(Adopted::new(event.schedule_id, event.user_id, "R", event.place_version).call())
}

fn adopt_completed(payload: &[u8]) -> serde_json::Result<FunctionCall> {
    let event: QueueCompleted = serde_json::from_slice(payload)?;
    let place = Adopted::new(event.schedule_id, event.user_id, "C", event.place_version);
    Ok(Adopted { payment: Some(event.payment_id), ..place }.call())
}

fn adopt_expired(payload: &[u8]) -> serde_json::Result<FunctionCall> {
    let event: QueueExpired = serde_json::from_slice(payload)?;
    let place = Adopted::new(event.schedule_id, event.user_id, "E", event.place_version);
    Ok(Adopted { reason: text_of(event.reason), ..place }.call())
}
