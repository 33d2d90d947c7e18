//! Closes a connection whose client may still be sending.
//!
//! A request may be answered before its body was read: one that is too large, for example. The
//! kernel resets a connection that is closed with unread bytes in it, and the reset drops an
//! answer that the client has not read yet; to a client that is still writing it is a broken
//! pipe. So only the sending half is closed at first. What still comes is read and dropped until
//! the client closes its half, within bounds.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, ReadBuf},
    time::{Sleep, sleep},
};

use crate::http::call::PLAN_BYTES_MAX;

/// Bytes that are dropped at most: a client that sends more than twice what is ever read is cut
/// off.
const LINGER_BYTES_MAX: usize = 2 * PLAN_BYTES_MAX;
/// How long a client may take to close its half. Below the time that a shutdown has.
const LINGER_FOR: Duration = Duration::from_secs(5);
/// Bytes that are read at once.
const CHUNK_BYTES: usize = 16 * 1024;

/// A connection whose sending half is closed.
pub(crate) struct Linger {
    until: Pin<Box<Sleep>>,
    bytes_left: usize,
}

impl Linger {
    /// Lingers from now on.
    pub(crate) fn begin() -> Self {
        Self { until: Box::pin(sleep(LINGER_FOR)), bytes_left: LINGER_BYTES_MAX }
    }

    /// Reads and drops what comes; ready once the client has closed, or at the bounds.
    pub(crate) fn poll<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
    ) -> Poll<()> {
        let mut bytes = [0; CHUNK_BYTES];
        while self.until.as_mut().poll(cx).is_pending() {
            let mut chunk = ReadBuf::new(&mut bytes);
            let read = ready!(Pin::new(&mut *stream).poll_read(cx, &mut chunk));
            let count = chunk.filled().len();
            if read.is_err() || count == 0 || count > self.bytes_left {
                break;
            }
            self.bytes_left -= count;
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::{
        io::AsyncWriteExt,
        time::{Instant, timeout},
    };

    use super::*;

    async fn lingered(stream: &mut (impl AsyncRead + Unpin)) {
        let mut linger = Linger::begin();
        poll_fn(|cx| linger.poll(stream, cx)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_closes_is_not_waited_for_any_longer() {
        let (mut client, mut here) = tokio::io::duplex(CHUNK_BYTES);
        let begun = Instant::now();
        let sending = async move { client.write_all(&[0; 10 * CHUNK_BYTES]).await };
        let ((), sent) = tokio::join!(lingered(&mut here), sending);
        assert!(sent.is_ok() && begun.elapsed() < LINGER_FOR);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_neither_sends_nor_closes_is_cut_off() {
        let (_client, mut here) = tokio::io::duplex(CHUNK_BYTES);
        assert!(timeout(LINGER_FOR * 2, lingered(&mut here)).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_for_ever_is_cut_off() {
        let mut here = tokio::io::repeat(0);
        let begun = Instant::now();
        lingered(&mut here).await;
        assert!(begun.elapsed() < LINGER_FOR);
    }
}
