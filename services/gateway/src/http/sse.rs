//! Server-sent events: a response that is a stream of them, and when it sends a heartbeat and ends.

use std::{convert::Infallible, time::Duration};

use axum::response::{
    IntoResponse, Response,
    sse::{Event, Sse},
};
use events::Timestamp;
use futures::{Stream, StreamExt};
use mesh::clock;
use tokio::time::Instant;

/// How long a connection may be silent.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(15);

/// A stream of events as a response that no proxy stores or delays.
pub(crate) fn sse(events: impl Stream<Item = Event> + Send + 'static) -> Response {
    let response = Sse::new(events.map(Ok::<_, Infallible>)).into_response();
    let (mut parts, body) = response.into_parts();
    let private = [("cache-control", "no-store"), ("x-accel-buffering", "no")];
    for (name, value) in private {
        parts.headers.insert(name, axum::http::HeaderValue::from_static(value));
    }
    Response::from_parts(parts, body)
}

/// When a connection sends its next heartbeat, and when it ends.
pub(crate) struct Beat {
    next: Instant,
    end: Instant,
}

/// What is due on a connection.
pub(crate) enum Pulse {
    /// A heartbeat: nothing was sent for a while.
    Alive,
    /// The end: the token that it was opened with has expired.
    Expired,
}

impl Beat {
    /// Heartbeats until a token expires.
    pub(crate) fn new(until: Timestamp) -> Self {
        let left_ms = until.unix_millis() - clock::now().unix_millis();
        let now = Instant::now();
        Self {
            next: now + HEARTBEAT_EVERY,
            end: now + Duration::from_millis(left_ms.max(0).unsigned_abs()),
        }
    }

    /// Notes that something was sent just now.
    pub(crate) fn sent(&mut self) {
        self.next = Instant::now() + HEARTBEAT_EVERY;
    }

    /// Waits for what is due next.
    pub(crate) async fn pulse(&mut self) -> Pulse {
        tokio::time::sleep_until(self.next.min(self.end)).await;
        if Instant::now() >= self.end {
            return Pulse::Expired;
        }
        self.sent();
        Pulse::Alive
    }
}
