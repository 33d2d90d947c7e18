//! Seats: the plan, which never changes; the map of seats that are not free; and following its
//! changes.

use std::{collections::VecDeque, convert::Infallible};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use events::{
    Problem, ScheduleId, SeatId, codes,
    concert::{GetPlan, GetSeats, SeatMap, SeatPlan},
};
use futures::{StreamExt, stream};
use mesh::clock;
use serde::Deserialize;
use tokio::sync::{
    OwnedSemaphorePermit,
    broadcast::{Receiver, error::RecvError},
};
use tokio_util::sync::CancellationToken;
use utoipa::IntoParams;

use crate::{
    http::{
        call::{Head, Id, Params},
        edge::Edge,
        op::Op,
        problem::{Copies, JSON, Refused, with_header},
        sse::{Beat, Pulse},
    },
    live::{seat_map::At, seat_mirror::Signal},
    operations::examples,
};

const TAG: &str = "catalogue";
/// The format of a plan's body. It is part of the plan's `ETag`, so another format needs another
/// number.
const PLAN_EDITION: u32 = 1;
const IMMUTABLE: HeaderValue = HeaderValue::from_static("public, max-age=86400, immutable");
const REVALIDATE: HeaderValue = HeaderValue::from_static("no-cache");
/// A watcher has no token that expires; its connection still ends after a day.
const WATCH_SECS: i64 = 24 * 3_600;

/// The operations of this area.
pub(crate) fn ops() -> Vec<Op> {
    let ops = vec![
        Op::get("/v1/schedules/{id}/plan", get_plan)
            .named(TAG, "getPlan", "Read the seat plan of a schedule")
            .explained("Every seat with its price. It never changes, so it is read once.")
            .gives::<SeatPlan>(200, "The seat plan", examples::SEAT_PLAN_READ)
            .revalidates()
            .refuses(&[codes::NOT_FOUND]),
        Op::get("/v1/schedules/{id}/seats", get_seats)
            .named(TAG, "getSeats", "Read the seat map of a schedule")
            .explained(
                "Counts of each section, and the seats that are held or sold. While `state` is \
                 `open`, all other seats of the plan are free; once it is `cancelled`, the show \
                 is off and none is. Sales end at the schedule's `starts_at`. The map may be a \
                 moment old; only a reservation decides.",
            )
            .query::<SeatParams>()
            .gives::<SeatMap>(200, "The seat map", examples::SEAT_MAP)
            .revalidates()
            .refuses(&[codes::NOT_FOUND]),
        Op::get("/v1/schedules/{id}/seats/events", follow_seats)
            .named("following", "followSeats", "Follow the seat map of a schedule")
            .explained(
                "Server-sent events. First `snapshot`: the seat map. Then one `delta` for each \
                 change: its `sequence`, the `sections` that it touched with their new counts, \
                 the `seats` that it changed, also those now `free`, and `state` when the show is \
                 called off. `id:` is `<epoch>.<sequence>`; send the last one as `Last-Event-ID` \
                 to resume right after it. When that place is no longer known, a new snapshot \
                 comes. A comment is sent at least every 15 seconds; a client that reads too \
                 slowly is disconnected.",
            )
            .header("Last-Event-ID", "The `id` of the last event that was handled.")
            .streams(examples::SEAT_EVENTS)
            .refuses(&[codes::INVALID, codes::NOT_FOUND]),
    ];
    ops.into_iter().map(Op::open_to_scripts).collect()
}

/// Which seats.
#[derive(Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
struct SeatParams {
    /// Only this section, by its name.
    section: Option<String>,
}

async fn get_plan(
    State(edge): State<Edge>,
    Id(schedule_id): Id<ScheduleId>,
    head: Head,
) -> Result<Response, Refused> {
    let tag = format!("\"{schedule_id}.{PLAN_EDITION}\"");
    let known = known(&head.0, &tag);
    if known == Some(Known::ByTag) {
        return Ok(unchanged(&tag, IMMUTABLE));
    }
    let response = edge.read(&head, &GetPlan { schedule_id }, Copies::Catalogue).await?;
    Ok(match response.status() {
        StatusCode::OK if known.is_some() => unchanged(&tag, IMMUTABLE),
        StatusCode::OK => tagged(response, &tag, IMMUTABLE),
        _ => response,
    })
}

async fn get_seats(
    State(edge): State<Edge>,
    Id(schedule_id): Id<ScheduleId>,
    Params(SeatParams { section }): Params<SeatParams>,
    head: Head,
) -> Result<Response, Refused> {
    let section = section.map(|name| SeatId::part(&text::same_name(&name)));
    let Some(mirror) = edge.seats().mirror(schedule_id).await? else {
        return edge.read(&head, &GetSeats { schedule_id, section }, Copies::Catalogue).await;
    };
    let (at, body) = mirror.body(section.as_deref())?;
    let tag = format!("\"{at}\"");
    if known(&head.0, &tag).is_some() {
        return Ok(unchanged(&tag, REVALIDATE));
    }
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    Ok(tagged(response, &tag, REVALIDATE))
}

/// How a client says that it already has the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Known {
    /// By its tag.
    ByTag,
    /// By `*`: any answer, if there is one.
    Any,
}

/// Whether the client already has the answer with this tag.
fn known(headers: &HeaderMap, tag: &str) -> Option<Known> {
    let stated = headers.get_all(header::IF_NONE_MATCH).iter();
    let tags = stated.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let mut known = None;
    for stated in tags.map(str::trim) {
        if stated.strip_prefix("W/").unwrap_or(stated) == tag {
            return Some(Known::ByTag);
        }
        known = known.or((stated == "*").then_some(Known::Any));
    }
    known
}

fn unchanged(tag: &str, copies: HeaderValue) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NOT_MODIFIED;
    tagged(response, tag, copies)
}

/// A response that may be stored and revalidated by its tag.
fn tagged(mut response: Response, tag: &str, copies: HeaderValue) -> Response {
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, copies);
    with_header(response, header::ETAG, tag)
}

async fn follow_seats(
    State(edge): State<Edge>,
    Id(schedule_id): Id<ScheduleId>,
    head: Head,
) -> Result<Response, Refused> {
    let last = head.last_event_id::<At>()?;
    let permit = edge.place_to_follow()?;
    let Some(mirror) = edge.seats().mirror(schedule_id).await? else {
        return Err(Problem::from(codes::OVERLOADED).with("retry_after_secs", 5).into());
    };
    let (first, signals) = edge.seats().watch(&mirror, last).await?;
    let mut ready = VecDeque::from([Bytes::from_static(b":\n\n")]);
    ready.extend(first.into_iter().map(|frame| frame.bytes));
    let watcher = Watcher {
        ready,
        signals,
        beat: Beat::new(clock::now().plus_secs(WATCH_SECS)),
        shutdown: edge.shutdown().clone(),
        over: false,
        _permit: permit,
    };
    let events = stream::unfold(watcher, |mut watcher| async move {
        watcher.next().await.map(|bytes| (bytes, watcher))
    });
    let mut response = Response::new(Body::from_stream(events.map(Ok::<_, Infallible>)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    Ok(response)
}

/// One connection that watches a map. All watchers share the events, so none is encoded here.
struct Watcher {
    ready: VecDeque<Bytes>,
    signals: Receiver<Signal>,
    beat: Beat,
    shutdown: CancellationToken,
    over: bool,
    _permit: OwnedSemaphorePermit,
}

impl Watcher {
    /// The next bytes; `None` ends the connection.
    async fn next(&mut self) -> Option<Bytes> {
        if let Some(bytes) = self.ready.pop_front() {
            self.beat.sent();
            return Some(bytes);
        }
        if self.over {
            return None;
        }
        tokio::select! {
            () = self.shutdown.cancelled() => None,
            signal = self.signals.recv() => match signal {
                Ok(Signal::Event(frame)) => {
                    self.beat.sent();
                    Some(frame.bytes)
                }
                Ok(Signal::End) | Err(RecvError::Closed) => None,
                Err(RecvError::Lagged(_)) => self.end_with(b":too slow; resume\n\n"),
            },
            pulse = self.beat.pulse() => match pulse {
                Pulse::Alive => Some(Bytes::from_static(b":\n\n")),
                Pulse::Expired => self.end_with(b":resume\n\n"),
            },
        }
    }

    /// Sends the reason as a comment, and then ends.
    fn end_with(&mut self, why: &'static [u8]) -> Option<Bytes> {
        self.over = true;
        Some(Bytes::from_static(why))
    }
}

#[cfg(test)]
mod tests {
    use events::concert::Epoch;

    use super::*;

    fn headers(name: &'static str, values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(name, HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn a_known_tag_is_found_among_others() {
        let known = |values: &[&'static str]| known(&headers("if-none-match", values), "\"7.5\"");
        for same in [&["\"7.5\""][..], &["W/\"7.5\""], &["\"1.1\" , \"7.5\""], &["*", "\"7.5\""]] {
            assert_eq!(known(same), Some(Known::ByTag), "{same:?}");
        }
        assert_eq!(known(&["\"1.1\"", "\"7.5\""]), Some(Known::ByTag));
        assert_eq!(known(&["*"]), Some(Known::Any));
        for other in [&[][..], &[""], &["\"7.50\""], &["7.5"], &["\"7.4\", \"7.6\""]] {
            assert_eq!(known(other), None, "{other:?}");
        }
    }

    #[test]
    fn a_foreign_last_event_id_is_invalid() {
        let read = |value| Head(headers("last-event-id", &[value])).last_event_id::<At>();
        assert_eq!(Head(HeaderMap::new()).last_event_id::<At>().unwrap(), None);
        let known = At { epoch: Epoch(7), sequence: 5 };
        assert_eq!(read("0000000000000007.5").unwrap(), Some(known));
        for bad in ["", "7", "7.5", "0000000000000007.-5", "0.1.2.3.4"] {
            assert!(read(bad).unwrap_err().is(codes::INVALID), "{bad:?}");
        }
    }
}
