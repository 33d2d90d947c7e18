//! Answers with problems where hyper refuses bytes that never become a request.
//!
//! hyper answers a head that it cannot read by itself, with a status and nothing else, and one
//! that never ends not at all. It has no hook for an answer of our own, so the connection is
//! watched: our own answers all have a request id, and one without is hyper's. A problem is sent
//! in its place.
//!
//! A connection whose client may still be sending is closed as [`crate::http::linger`] says.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
    time::Instant,
};

use axum::{body::HttpBody, http::StatusCode, response::IntoResponse};
use bytes::{Buf, Bytes};
use events::{Problem, codes};
use hyper::body::{Frame, Incoming, SizeHint};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::http::{
    around::{REQUEST_ID, dress, new_request_id},
    linger::Linger,
    problem::Refused,
};

/// What a client of HTTP/2 sends first.
const HTTP2_PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// The state of a connection's requests.
pub(crate) struct Progress {
    /// A part of a head has arrived, but not all of it.
    is_begun: AtomicBool,
    /// Requests that are being answered: bytes that arrive meanwhile are their bodies.
    in_flight: AtomicUsize,
    /// The last request was answered before its body was read to the end.
    is_unread: AtomicBool,
    /// A request that is being answered waits for the rest of its body.
    is_body_awaited: AtomicBool,
    /// When the connection was opened, or last began or ended a request: milliseconds of
    /// [`uptime_ms`].
    moved_ms: AtomicU64,
}

impl Default for Progress {
    fn default() -> Self {
        Self {
            is_begun: AtomicBool::default(),
            in_flight: AtomicUsize::default(),
            is_unread: AtomicBool::default(),
            is_body_awaited: AtomicBool::default(),
            moved_ms: AtomicU64::new(uptime_ms()),
        }
    }
}

/// Milliseconds since the first connection.
fn uptime_ms() -> u64 {
    static BEGIN: LazyLock<Instant> = LazyLock::new(Instant::now);
    u64::try_from(BEGIN.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// A request that is being answered.
pub(crate) struct InFlight(Arc<Progress>);

impl Progress {
    /// Notes that a head is complete and its request is being answered.
    pub(crate) fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.is_begun.store(false, Ordering::Relaxed);
        self.is_unread.store(false, Ordering::Relaxed);
        self.is_body_awaited.store(false, Ordering::Relaxed);
        self.moved_ms.store(uptime_ms(), Ordering::Relaxed);
        InFlight(self.clone())
    }

    /// Since when the gateway has waited for the client to send something: the next request, or
    /// the rest of one. `None` while it is the gateway's turn.
    pub(crate) fn waits_since(&self) -> Option<u64> {
        let is_answering = self.in_flight.load(Ordering::Relaxed) > 0;
        let is_waiting = !is_answering || self.is_body_awaited.load(Ordering::Relaxed);
        is_waiting.then(|| self.moved_ms.load(Ordering::Relaxed))
    }

    /// The body of the request that was begun; notes when it is not read to its end.
    pub(crate) fn body(self: &Arc<Self>, body: Incoming) -> Watched {
        Watched { body, is_read: false, progress: self.clone() }
    }

    fn received(&self) {
        if self.in_flight.load(Ordering::Relaxed) == 0 {
            self.is_begun.store(true, Ordering::Relaxed);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.0.moved_ms.store(uptime_ms(), Ordering::Relaxed);
    }
}

/// The body of a request.
pub(crate) struct Watched {
    body: Incoming,
    is_read: bool,
    progress: Arc<Progress>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        self.progress.is_body_awaited.store(frame.is_pending(), Ordering::Relaxed);
        let frame = ready!(frame);
        self.is_read = frame.is_none();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.progress.is_body_awaited.store(false, Ordering::Relaxed);
        if !self.is_read && !self.body.is_end_stream() {
            self.progress.is_unread.store(true, Ordering::Relaxed);
        }
    }
}

/// A connection on which every answer is one of ours.
pub(crate) struct Wire {
    stream: TcpStream,
    progress: Arc<Progress>,
    /// The first line of a head is complete.
    has_line: bool,
    /// The client speaks HTTP/2 without having been asked; hyper hangs up.
    is_http2: bool,
    /// What is sent instead of so many bytes of hyper's.
    instead: Option<(Bytes, usize)>,
    /// Only the client still sends.
    linger: Option<Linger>,
}

impl Wire {
    pub(crate) fn new(stream: TcpStream, progress: Arc<Progress>) -> Self {
        Self { stream, progress, has_line: false, is_http2: false, instead: None, linger: None }
    }

    /// Inspects what is about to be sent, `len` bytes in all.
    fn inspect(&mut self, begin: &[u8], len: usize) {
        if self.instead.is_some() {
            return;
        }
        if let Some(status) = status_of_hyper(begin)
            && begin.len() == len
        {
            self.instead = Some((answer(&problem_of(status, self.has_line)), len));
            // What else the client sends is not read.
            self.progress.is_unread.store(true, Ordering::Relaxed);
        }
        self.progress.is_begun.store(false, Ordering::Relaxed);
        self.has_line = false;
    }

    /// Sends the answer that replaces hyper's, to its end.
    fn poll_instead(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Option<usize>>> {
        while let Some((bytes, len)) = &mut self.instead {
            if bytes.is_empty() {
                let len = *len;
                self.instead = None;
                return Poll::Ready(Ok(Some(len)));
            }
            let sent = ready!(Pin::new(&mut self.stream).poll_write(cx, bytes))?;
            bytes.advance(sent);
        }
        Poll::Ready(Ok(None))
    }
}

/// The status of an answer that is hyper's.
fn status_of_hyper(begin: &[u8]) -> Option<u16> {
    let status = begin.strip_prefix(b"HTTP/1.1 ")?.get(..3)?;
    let head = std::str::from_utf8(begin).ok()?;
    let is_ours = head.contains(REQUEST_ID.as_str());
    let status = std::str::from_utf8(status).ok()?.parse().ok()?;
    (!is_ours && head.ends_with("\r\n\r\n") && (400..500).contains(&status)).then_some(status)
}

fn problem_of(status: u16, has_line: bool) -> Problem {
    match status {
        414 => Problem::new(codes::ADDRESS_TOO_LONG, "The address is longer than any of this API."),
        // The address had not ended when the buffer was full.
        431 if !has_line => problem_of(414, true),
        431 => Problem::new(
            codes::HEADERS_TOO_LARGE,
            "There are too many headers, or they are too long.",
        ),
        _ => Problem::new(codes::BAD_REQUEST, "The bytes received are no HTTP/1.1 request.")
            .with("field", "head"),
    }
}

/// A complete HTTP answer, after which the connection ends.
fn answer(problem: &Problem) -> Bytes {
    let mut response = Refused(problem.clone()).into_response();
    // The operation is not known, and the answer has nothing to hide from scripts.
    dress(response.headers_mut(), true, new_request_id());
    let body = serde_json::to_vec(problem).expect("problems are plain data");
    let reason = StatusCode::from_u16(problem.status).ok().and_then(|s| s.canonical_reason());
    let mut bytes = format!("HTTP/1.1 {} {}\r\n", problem.status, reason.unwrap_or_default());
    for (name, value) in response.headers() {
        bytes += &format!("{name}: {}\r\n", value.to_str().unwrap_or_default());
    }
    if !bytes.contains("connection: close\r\n") {
        bytes += "connection: close\r\n";
    }
    bytes += &format!("content-length: {}\r\n\r\n", body.len());
    [bytes.into_bytes(), body].concat().into()
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        let arrived = &buf.filled()[before..];
        if !arrived.is_empty() {
            self.progress.received();
            self.is_http2 |= arrived.starts_with(HTTP2_PREFACE);
        }
        self.has_line |= !self.has_line && arrived.contains(&b'\n');
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.inspect(buf, buf.len());
        match ready!(self.poll_instead(cx))? {
            Some(len) => Poll::Ready(Ok(len)),
            None => Pin::new(&mut self.stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let len = bufs.iter().map(|buf| buf.len()).sum();
        let begin = bufs.iter().find(|buf| !buf.is_empty());
        self.inspect(begin.map_or(&[][..], |buf| buf), len);
        match ready!(self.poll_instead(cx))? {
            Some(len) => Poll::Ready(Ok(len)),
            None => Pin::new(&mut self.stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { stream, progress, linger, .. } = self.get_mut();
        if linger.is_none() {
            ready!(Pin::new(&mut *stream).poll_shutdown(cx))?;
            if !progress.is_unread.load(Ordering::Relaxed) {
                return Poll::Ready(Ok(()));
            }
        }
        linger.get_or_insert_with(Linger::begin).poll(stream, cx).map(Ok)
    }
}

impl Drop for Wire {
    /// hyper closes a connection when a head is not complete in time. A client that still waits
    /// gets the reason; it does not matter when there is none. A request that is being answered
    /// gets nothing: it may well take effect.
    fn drop(&mut self) {
        if self.progress.is_begun.load(Ordering::Relaxed) && self.instead.is_none() {
            let detail = "The head of the request was not complete in time.";
            let problem = match self.is_http2 {
                true => problem_of(400, true),
                false => Problem::new(codes::REQUEST_TOO_SLOW, detail),
            };
            let _ = self.stream.try_write(&answer(&problem));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_of_hyper_is_recognised_by_its_missing_request_id() {
        let bare = b"HTTP/1.1 414 URI Too Long\r\ncontent-length: 0\r\n\r\n";
        assert_eq!(status_of_hyper(bare), Some(414));
        let ours = b"HTTP/1.1 414 URI Too Long\r\nx-request-id: a\r\n\r\n";
        assert_eq!(status_of_hyper(ours), None);
        for other in [&b"HTTP/1.1 200 OK\r\n\r\n"[..], b"{\"a\":1}", b"", b"HTTP/1.1 4", b"\xff"] {
            assert_eq!(status_of_hyper(other), None);
        }
    }

    #[test]
    fn an_endless_address_is_too_long_and_endless_headers_are_too_large() {
        assert!(problem_of(431, false).is(codes::ADDRESS_TOO_LONG));
        assert!(problem_of(431, true).is(codes::HEADERS_TOO_LARGE));
        assert!(problem_of(414, true).is(codes::ADDRESS_TOO_LONG));
        assert!(problem_of(400, true).is(codes::BAD_REQUEST));
    }

    #[test]
    fn the_answer_that_replaces_hypers_is_complete() {
        let answer = answer(&problem_of(414, true));
        let text = std::str::from_utf8(&answer).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.starts_with("HTTP/1.1 414 URI Too Long\r\n"), "{head}");
        for line in [
            "content-type: application/problem+json",
            "cache-control: no-store",
            "connection: close",
            "access-control-allow-origin: *",
            &format!("content-length: {}", body.len()),
        ] {
            assert_eq!(head.matches(line).count(), 1, "{line} in {head}");
        }
        let problem: Problem = serde_json::from_str(body).unwrap();
        assert!(problem.is(codes::ADDRESS_TOO_LONG));
    }
}
