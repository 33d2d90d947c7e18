//! The waiting room: a fan's place, and following it.

use std::{future::pending, time::Duration};

use axum::{
    extract::State,
    response::{Response, sse::Event},
};
use bytes::Bytes;
use events::{
    Command, Problem, ScheduleId, codes,
    queue::{Enter, GetPlace, Leave, Place, PlaceState},
};
use futures::stream;
use mesh::Answered;
use tokio::{
    sync::{OwnedSemaphorePermit, broadcast::error::RecvError},
    time::Instant,
};

use crate::{
    http::{
        call::{Call, Head, Id, json},
        edge::Edge,
        op::Op,
        problem::{Copies, Refused, answer},
        sse::{Beat, Pulse, sse},
    },
    live::hub::{Membership, Signal},
    operations::examples,
};

const TAG: &str = "waiting room";
/// Bounds on how often the position of a WAITING fan is read again, whatever the room advises.
const REFRESH_SECS: std::ops::RangeInclusive<u64> = 1..=10;
/// How often it is read when the room advises nothing.
const REFRESH_DEFAULT_SECS: u64 = 3;

/// The operations of this area.
pub(crate) fn ops() -> Vec<Op> {
    vec![
        Op::post("/v1/schedules/{id}/queue", enter)
            .named(TAG, "enter", "Enter the waiting room")
            .explained(
                "One place per fan and schedule: entering again returns the place held already. \
                 A `ticket` from an earlier answer restores the number if the room has lost it.",
            )
            .token()
            .command()
            .takes_without::<Enter>("schedule_id", examples::ENTER)
            .or_nothing()
            .gives::<Place>(Enter::STATUS, "The place", examples::PLACE)
            .refuses(&[
                codes::NOT_FOUND,
                codes::SOLD_OUT,
                codes::SCHEDULE_CLOSED,
                codes::SCHEDULE_CANCELLED,
                codes::ACCOUNT_CLOSING,
            ]),
        Op::get("/v1/schedules/{id}/queue/me", get_place)
            .named(TAG, "getPlace", "Read the caller's place")
            .explained("`poll_after_secs` says when to read it again; or follow the events.")
            .token()
            .gives::<Place>(GetPlace::STATUS, "The place", examples::ACTIVE_PLACE)
            .refuses(&[codes::NOT_FOUND]),
        Op::delete("/v1/schedules/{id}/queue/me", leave)
            .named(TAG, "leave", "Give the place up")
            .explained("A fan who holds seats must cancel or pay for them first.")
            .token()
            .command()
            .gives::<Place>(Leave::STATUS, "The place as it ended", examples::LEFT_PLACE)
            .refuses(&[codes::NOT_FOUND, codes::HOLDING_SEATS]),
        Op::get("/v1/schedules/{id}/queue/me/events", follow_place)
            .named(TAG, "followPlace", "Follow the caller's place")
            .explained(
                "Server-sent events `place`, each with the whole place as `data`: the first at \
                 once, then one with every change, and every few seconds while the position \
                 moves. The stream ends after COMPLETED or EXPIRED.",
            )
            .token()
            .streams(examples::PLACE_EVENTS)
            .refuses(&[codes::NOT_FOUND]),
    ]
}

async fn enter(
    State(edge): State<Edge>,
    Id(schedule_id): Id<ScheduleId>,
    call: Call,
) -> Result<Response, Refused> {
    let body = call.body_with(&[("schedule_id", schedule_id.to_string())])?;
    edge.command::<Enter>(&call.head, body).await
}

async fn get_place(
    State(edge): State<Edge>,
    Id(schedule_id): Id<ScheduleId>,
    head: Head,
) -> Result<Response, Refused> {
    edge.read(&head, &GetPlace { schedule_id }, Copies::None).await
}

async fn leave(
    State(edge): State<Edge>,
    Id(schedule_id): Id<ScheduleId>,
    head: Head,
) -> Result<Response, Refused> {
    edge.command::<Leave>(&head, json(&Leave { schedule_id })).await
}

async fn follow_place(
    State(edge): State<Edge>,
    Id(schedule_id): Id<ScheduleId>,
    head: Head,
) -> Result<Response, Refused> {
    let (user, until) = edge.user_of(&head).await?;
    let permit = edge.place_to_follow()?;
    // Joined before the first read: a change in between is signalled.
    let membership = edge.hub().join(user).await?;
    let first = edge.send_query(&head, &GetPlace { schedule_id }).await?;
    if !first.is_granted() {
        return Ok(answer(first, Copies::None));
    }
    let mut watcher = Watcher {
        edge,
        head,
        schedule_id,
        membership,
        beat: Beat::new(until),
        last: Bytes::new(),
        first: None,
        refresh_at: None,
        over: false,
        _permit: permit,
    };
    watcher.first = watcher.event(first.body)?;
    Ok(sse(stream::unfold(watcher, |mut watcher| async move {
        watcher.next().await.map(|event| (event, watcher))
    })))
}

/// One connection that watches a place.
struct Watcher {
    edge: Edge,
    head: Head,
    schedule_id: ScheduleId,
    membership: Membership,
    beat: Beat,
    /// The place as last sent.
    last: Bytes,
    first: Option<Event>,
    /// When to read it again; `None` unless WAITING.
    refresh_at: Option<Instant>,
    over: bool,
    _permit: OwnedSemaphorePermit,
}

impl Watcher {
    /// The next event; `None` ends the connection.
    async fn next(&mut self) -> Option<Event> {
        if let Some(first) = self.first.take() {
            return Some(first);
        }
        while !self.over {
            let refresh_at = self.refresh_at;
            let refresh = async {
                match refresh_at {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                () = self.edge.shutdown().cancelled() => return None,
                signal = self.membership.next() => match signal {
                    Ok(Signal::Emitted(emitted)) if emitted.event.service() != "queue" => continue,
                    // The place is read whole, so it does not matter how many events were missed.
                    Ok(_) | Err(RecvError::Lagged(_)) => {}
                    Err(RecvError::Closed) => return None,
                },
                () = refresh => {}
                pulse = self.beat.pulse() => match pulse {
                    Pulse::Alive => return Some(Event::default().comment("")),
                    Pulse::Expired => {
                        self.over = true;
                        return Some(Event::default().comment("the token has run out"));
                    }
                },
            }
            if let Some(event) = self.look().await {
                self.beat.sent();
                return Some(event);
            }
        }
        None
    }

    /// Reads the place; an event if it has changed.
    async fn look(&mut self) -> Option<Event> {
        let query = GetPlace { schedule_id: self.schedule_id };
        let answered = match self.edge.send_query(&self.head, &query).await {
            Ok(answered) => answered,
            Err(problem) => Answered::refused(&problem.0),
        };
        match answered.status {
            200 if answered.body == self.last => {
                self.refresh_at = self.refresh_at.map(|_| refresh_at(None));
                None
            }
            200 => self.event(answered.body).unwrap_or_default(),
            // The queue service is away for a moment; the place may well outlive that.
            500.. => {
                self.refresh_at = Some(refresh_at(None));
                None
            }
            _ => {
                self.over = true;
                Some(Event::default().comment("the place is gone"))
            }
        }
    }

    /// A place as an event; notes when to read it again, or that it has ended.
    fn event(&mut self, body: Bytes) -> Result<Option<Event>, Problem> {
        let place: Place = serde_json::from_slice(&body).map_err(|_| codes::INTERNAL)?;
        let data = String::from_utf8(body.to_vec()).map_err(|_| codes::INTERNAL)?;
        self.over = matches!(place.state, PlaceState::Completed | PlaceState::Expired);
        self.refresh_at =
            (place.state == PlaceState::Waiting).then(|| refresh_at(place.poll_after_secs));
        self.last = body;
        Ok(Some(Event::default().event("place").data(data)))
    }
}

fn refresh_at(advised_secs: Option<u64>) -> Instant {
    let secs = advised_secs.unwrap_or(REFRESH_DEFAULT_SECS);
    let secs = secs.clamp(*REFRESH_SECS.start(), *REFRESH_SECS.end());
    Instant::now() + Duration::from_secs(secs)
}
