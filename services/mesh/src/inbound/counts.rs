//! Counts the requests of each endpoint, for the statistics of NATS services.
//!
//! What is answered together adds its counts once: no request takes a lock, or memory, to be
//! counted.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use serde::Deserialize;

use crate::batch::outcome::Answered;

/// The counts of one endpoint, since the service was started in this process.
#[derive(Default)]
pub(crate) struct Counts {
    requests: AtomicU64,
    errors: AtomicU64,
    nanos: AtomicU64,
    last_error: Mutex<Option<Refusal>>,
}

/// A refusal as it was sent; it is read only when the statistics are asked for.
struct Refusal {
    status: u16,
    body: Bytes,
}

/// The counts at one moment.
pub(crate) struct Counted {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    pub(crate) took: Duration,
    /// `409:not_active`; empty when nothing was refused yet.
    pub(crate) last_error: String,
}

impl Counts {
    pub(crate) fn read(&self) -> Counted {
        // The requests last: what is added meanwhile never makes more errors than requests.
        let (errors, nanos) = (self.errors.load(Relaxed), self.nanos.load(Relaxed));
        let last = self.last_error.lock().ok();
        let last_error = last.and_then(|last| last.as_ref().map(Refusal::to_text));
        Counted {
            requests: self.requests.load(Relaxed),
            errors,
            took: Duration::from_nanos(nanos),
            last_error: last_error.unwrap_or_default(),
        }
    }
}

impl Refusal {
    /// Status and code. What else a problem says may name what belongs to a caller.
    fn to_text(&self) -> String {
        #[derive(Deserialize)]
        struct Coded<'a> {
            code: &'a str,
        }
        let coded = serde_json::from_slice::<Coded<'_>>(&self.body);
        format!("{}:{}", self.status, coded.map_or("", |coded| coded.code))
    }
}

/// Where a request is counted, and when it came.
#[derive(Clone)]
pub(crate) struct Asked {
    counts: Arc<Counts>,
    at: Instant,
}

impl Asked {
    /// A request for the endpoint with these counts that has come now.
    pub(crate) fn now(counts: &Arc<Counts>) -> Self {
        Self { counts: counts.clone(), at: Instant::now() }
    }
}

/// The counts of requests that are answered together, until they are added.
#[derive(Default)]
pub(crate) struct Tally {
    of: Option<Arc<Counts>>,
    /// The moment at which all of them are answered.
    now: Option<Instant>,
    requests: u64,
    errors: u64,
    took: Duration,
    last_error: Option<Refusal>,
}

impl Tally {
    /// Counts a request with its answer.
    pub(crate) fn count(&mut self, asked: &Asked, answered: &Answered) {
        let is_same = self.of.as_ref().is_some_and(|of| Arc::ptr_eq(of, &asked.counts));
        // Commands for one endpoint come together, so this is rare within a batch.
        if !is_same {
            self.add();
            self.of = Some(asked.counts.clone());
        }
        let now = *self.now.get_or_insert_with(Instant::now);
        self.requests += 1;
        self.took += now.saturating_duration_since(asked.at);
        if !answered.is_granted() {
            self.errors += 1;
            let Answered { status, body } = answered;
            self.last_error = Some(Refusal { status: *status, body: body.clone() });
        }
    }

    /// Adds what was counted to the endpoint.
    fn add(&mut self) {
        let Some(counts) = self.of.take() else { return };
        counts.requests.fetch_add(std::mem::take(&mut self.requests), Relaxed);
        counts.errors.fetch_add(std::mem::take(&mut self.errors), Relaxed);
        let took = std::mem::take(&mut self.took);
        counts.nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
        // When another batch, or a reader, is at it right now, its refusal is as good.
        if let Some(last) = self.last_error.take()
            && let Ok(mut kept) = counts.last_error.try_lock()
        {
            *kept = Some(last);
        }
    }
}

impl Drop for Tally {
    fn drop(&mut self) {
        self.add();
    }
}

#[cfg(test)]
mod tests {
    use events::codes;

    use super::*;

    #[test]
    fn requests_that_are_answered_together_are_each_counted_at_their_endpoint() {
        let (pay, refund) = (Arc::<Counts>::default(), Arc::<Counts>::default());
        let granted = Answered { status: 200, body: "{}".into() };
        let mut tally = Tally::default();
        for counts in [&pay, &pay, &refund, &pay] {
            tally.count(&Asked::now(counts), &granted);
        }
        tally.count(&Asked::now(&pay), &Answered::refused(&codes::TIMED_OUT.into()));
        let early = refund.read();
        assert_eq!((early.requests, early.last_error.as_str()), (1, ""));
        drop(tally);
        let (pay, refund) = (pay.read(), refund.read());
        assert_eq!((pay.requests, pay.errors, refund.requests, refund.errors), (4, 1, 1, 0));
        assert_eq!(pay.last_error, format!("{}:timed_out", codes::TIMED_OUT.status));
    }

    #[test]
    fn a_request_takes_from_its_arrival_to_its_answer() {
        let counts = Arc::<Counts>::default();
        let earlier = Asked { counts: counts.clone(), at: Instant::now() };
        let mut tally = Tally::default();
        tally.now.replace(earlier.at + Duration::from_millis(7));
        let answered = Answered { status: 202, body: "{}".into() };
        tally.count(&earlier, &answered);
        tally.count(&earlier, &answered);
        drop(tally);
        assert_eq!(counts.read().took, Duration::from_millis(14));
    }
}
