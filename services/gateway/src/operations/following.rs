//! Following events: the caller's own events as server-sent events, resumable.
//!
//! A connection first reads what is stored after its cursor, then goes on live, and reads
//! stored events again if any were missed: no gap and no repeat. Each event's `id` is the
//! cursor after it.

use std::collections::VecDeque;

use axum::{
    extract::State,
    response::{Response, sse::Event},
};
use events::{Problem, UserId, codes};
use futures::stream;
use mesh::{StoredEvent, StreamError};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, broadcast::error::RecvError};
use tracing::warn;

use crate::{
    http::{
        call::Head,
        edge::Edge,
        op::Op,
        problem::Refused,
        sse::{Beat, Pulse, sse},
    },
    live::{
        cursor::{Cursor, FOLLOWED},
        hub::{Emitted, Membership, Signal},
        identity::place_of,
    },
    operations::examples,
};

/// Stored events of one stream that are read at a time.
const CATCH_UP_EVENTS: usize = 500;
/// Stored events, of all users, that are read for one resumption at most.
const RESUME_EVENTS_MAX: u64 = 500_000;

/// The operations of this area.
pub(crate) fn ops() -> Vec<Op> {
    vec![
        Op::get("/v1/me/events", follow_me)
            .named("following", "followMyEvents", "Follow the caller's own events")
            .explained(
                "Server-sent events: every event about the caller's reservations, payments, points \
                 and places, as it is emitted. `event:` is the event's name, `data:` is JSON with \
                 `type`, `id`, `saga_id`, `at` and `data`, and `id:` is an opaque cursor. Send the \
                 last `id` as `Last-Event-ID` to resume right after it. That is refused when the \
                 events after it are no longer complete, because it is too old or the broker has \
                 lost some: read the lists, and follow without it. A comment is sent at least \
                 every 15 seconds; a client that reads too slowly is disconnected and resumes by \
                 its cursor.",
            )
            .token()
            .header("Last-Event-ID", "The `id` of the last event that was handled.")
            .streams(examples::MY_EVENTS)
            .refuses(&[codes::INVALID]),
    ]
}

/// Logs why stored events are not read; the answer does not say it.
fn unread(error: StreamError) -> Problem {
    warn!(error = error.with_cause(), "stored events could not be read");
    error.into()
}

async fn follow_me(State(edge): State<Edge>, head: Head) -> Result<Response, Refused> {
    let (user, until) = edge.user_of(&head).await?;
    let permit = edge.place_to_follow()?;
    let membership = edge.hub().join(user).await?;
    let seen = edge.hub().seen();
    let cursor = match head.last_event_id::<Cursor>()? {
        None => seen,
        Some(cursor) if edge.hub().can_resume(&cursor).await.map_err(unread)? => cursor,
        Some(_) => {
            return Err(cannot_resume("is of events that are no longer there").into());
        }
    };
    if cursor.behind(&seen) > RESUME_EVENTS_MAX {
        return Err(cannot_resume("is too old").into());
    }
    let follower = Follower {
        beat: Beat::new(until),
        edge,
        user,
        membership,
        cursor,
        catching_up_to: Some(seen),
        ready: VecDeque::from([Event::default().id(cursor.to_string())]),
        _permit: permit,
    };
    Ok(sse(stream::unfold(follower, |mut follower| async move {
        follower.next().await.map(|event| (event, follower))
    })))
}

/// The refusal when the events after the cursor are no longer complete.
fn cannot_resume(why: &str) -> Problem {
    let detail = format!("{why}; read the lists, then follow without it");
    Problem::about(codes::INVALID, "Last-Event-ID", detail)
}

/// One connection.
struct Follower {
    edge: Edge,
    user: UserId,
    membership: Membership,
    /// Everything up to here was handled.
    cursor: Cursor,
    /// Up to where the store is read before going on live.
    catching_up_to: Option<Cursor>,
    ready: VecDeque<Event>,
    beat: Beat,
    _permit: OwnedSemaphorePermit,
}

impl Follower {
    /// The next event; `None` ends the connection.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                self.beat.sent();
                return Some(event);
            }
            match self.catching_up_to {
                Some(end) => self.catch_up(&end).await?,
                None => self.go_on().await?,
            }
        }
    }

    /// Reads some more of the stored events.
    async fn catch_up(&mut self, end: &Cursor) -> Option<()> {
        if self.edge.shutdown().is_cancelled() {
            return None;
        }
        let mut mine: [VecDeque<Emitted>; FOLLOWED.len()] = Default::default();
        let mut read_to = self.cursor;
        for (stream, service) in FOLLOWED.into_iter().enumerate() {
            let from = self.cursor.0[stream].position;
            if from >= end.0[stream].position {
                continue;
            }
            let mut events =
                match self.edge.client().stored_since(service, from, CATCH_UP_EVENTS).await {
                    Ok(events) => events,
                    // The client comes back with its cursor; by then a read may succeed.
                    Err(error) => {
                        unread(error);
                        return None;
                    }
                };
            // Later events come live.
            events.retain(|event| event.position() <= end.0[stream].position);
            read_to.0[stream] = events.last().map_or(end.0[stream], place_of);
            mine[stream] = events
                .into_iter()
                .filter(|event| is_of(event, self.user))
                .map(|event| Emitted { stream, place: place_of(&event), event })
                .collect();
        }
        while let Some(emitted) = earliest(&mut mine) {
            self.take(&emitted);
        }
        self.cursor = read_to;
        if self.cursor.has_reached(end) {
            self.catching_up_to = None;
        }
        Some(())
    }

    /// Waits for the next event, or for a heartbeat.
    async fn go_on(&mut self) -> Option<()> {
        tokio::select! {
            () = self.edge.shutdown().cancelled() => None,
            signal = self.membership.next() => match signal {
                Ok(Signal::Emitted(emitted)) => {
                    if emitted.place.position > self.cursor.0[emitted.stream].position {
                        self.take(&emitted);
                    }
                    Some(())
                }
                Ok(Signal::Missed { agreed, end }) => {
                    // The cursor is past `agreed` only when a stream differs after that place.
                    // A client recognises events that are sent again by the `id` in their data.
                    self.cursor = self.cursor.min(&agreed);
                    if self.cursor.behind(&end) > RESUME_EVENTS_MAX {
                        return self.end_with("too much was missed");
                    }
                    self.catching_up_to = Some(end);
                    Some(())
                }
                Err(RecvError::Lagged(_) | RecvError::Closed) => self.end_with("too slow"),
            },
            pulse = self.beat.pulse() => match pulse {
                Pulse::Expired => self.end_with("the token has run out"),
                Pulse::Alive => {
                    if let Some(seen) = self.membership.caught_up_to() {
                        self.cursor = self.cursor.max(&seen);
                    }
                    let alive = Event::default().comment("").id(self.cursor.to_string());
                    self.ready.push_back(alive);
                    Some(())
                }
            },
        }
    }

    /// Sends the reason, and then ends: the next signal of a closed membership is its end.
    fn end_with(&mut self, why: &str) -> Option<()> {
        if self.membership.leave() {
            let id = self.cursor.to_string();
            self.ready.push_back(Event::default().comment(format!("{why}; resume")).id(id));
            return Some(());
        }
        None
    }

    fn take(&mut self, emitted: &Emitted) {
        self.cursor.0[emitted.stream] = emitted.place;
        if let Some(data) = data_of(&emitted.event) {
            let event = Event::default().event(emitted.event.name()).data(data);
            self.ready.push_back(event.id(self.cursor.to_string()));
        }
    }
}

fn is_of(event: &StoredEvent, user: UserId) -> bool {
    #[derive(Deserialize)]
    struct Owner {
        user_id: UserId,
    }
    serde_json::from_slice::<Owner>(event.payload()).is_ok_and(|owner| owner.user_id == user)
}

/// The event that was emitted first, of several streams that are each in order.
fn earliest(streams: &mut [VecDeque<Emitted>]) -> Option<Emitted> {
    streams
        .iter_mut()
        .filter(|emitted| !emitted.is_empty())
        .min_by_key(|emitted| emitted.front().and_then(|emitted| emitted.event.at()))?
        .pop_front()
}

/// The `data:` of the server-sent event. The event's own data is passed on unchanged.
fn data_of(event: &StoredEvent) -> Option<String> {
    let payload = std::str::from_utf8(event.payload()).ok()?;
    if payload.contains(['\r', '\n']) {
        return None;
    }
    let (name, id, saga, at) = (event.name(), event.event_id()?, event.saga_id()?, event.at()?);
    Some(format!(
        r#"{{"type":"{name}","id":"{id}","saga_id":"{saga}","at":"{at}","data":{payload}}}"#
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_foreign_last_event_id_is_invalid() {
        let read = |text: Option<&'static str>| {
            let values = text.map(axum::http::HeaderValue::from_static);
            let name = || axum::http::HeaderName::from_static("last-event-id");
            let headers = values.into_iter().map(|value| (name(), value)).collect();
            Head(headers).last_event_id::<Cursor>()
        };
        assert_eq!(read(None).unwrap(), None);
        let cursor = read(Some("3.1-5.2-6.3-7.4-8")).unwrap().unwrap();
        assert_eq!(cursor.0.map(|place| place.position), [1, 2, 3, 4]);
        let refused = read(Some("17")).unwrap_err();
        assert!(refused.is(codes::INVALID) && refused.extra["field"] == "Last-Event-ID");
    }
}
