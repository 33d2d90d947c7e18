//! What clients were answered, and when: what the databases must agree with afterwards.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use events::{
    PaymentId, ReservationId, ScheduleId, UserId,
    payment::{Payment, PaymentState},
    reservation::Reservation,
};
use serde::Serialize;
use uuid::Uuid;

/// A client that waits longer than this for an answer notices it.
const LONG_WAIT: Duration = Duration::from_secs(1);

/// Everything that clients were answered; clones share it.
#[derive(Clone)]
pub(super) struct History(Arc<Mutex<Answers>>, Instant);

/// The answers of a run.
#[derive(Default)]
pub(super) struct Answers {
    /// Points that were charged, by fan: the sum of all answers.
    pub(super) charged: HashMap<UserId, i64>,
    /// Charges that were answered, by fan.
    pub(super) charges: HashMap<UserId, u64>,
    /// Holds that were answered.
    pub(super) holds: HashMap<ReservationId, Reservation>,
    /// Payments as they were last answered.
    pub(super) payments: HashMap<Uuid, Payment>,
    /// Reservations whose cancellation was accepted.
    pub(super) returned: HashSet<ReservationId>,
    /// Schedules that were opened.
    pub(super) schedules: Vec<ScheduleId>,
    /// Fans who gave up on a command: whether it was executed is not known.
    pub(super) unknown: HashMap<UserId, u64>,
    /// Payments that were answered with their end, in the order of the answers.
    pub(super) ends: Vec<End>,
    /// Requests that failed, and were sent again.
    pub(super) failures: Vec<Failure>,
    /// Requests that were answered, or given up, in the order of that.
    pub(super) requests: Vec<Request>,
    /// Answers that nobody should get, by what they say.
    pub(super) strange: BTreeMap<String, u64>,
}

/// An answer with the end of a payment.
#[derive(Debug, Clone, Copy)]
pub(super) struct End {
    /// When it was requested.
    pub(super) asked_at: Instant,
    /// When the end was answered.
    pub(super) ended_at: Instant,
    /// The payment.
    pub(super) payment: PaymentId,
    /// How it ended.
    pub(super) state: PaymentState,
}

impl End {
    /// How long the client waited.
    pub(super) fn waited(&self) -> Duration {
        self.ended_at - self.asked_at
    }
}

/// One request, with all times that it was sent.
#[derive(Debug, Clone, Copy)]
pub(super) struct Request {
    began: Instant,
    ended: Instant,
    /// Whether it failed at least once, and was sent again.
    failed: bool,
}

impl Request {
    /// Whether its client noticed that something was wrong: an error, or a long wait.
    fn was_noticed(&self) -> bool {
        self.failed || self.ended - self.began > LONG_WAIT
    }
}

/// How many requests were under way, and how many of their clients noticed something.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Noticed {
    /// Requests that were under way.
    pub requests: usize,
    /// Those that failed at least once and were sent again, or took longer than a second.
    pub noticed: usize,
}

/// One request that was not answered as it should be.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) at: Instant,
    /// The status, or why there was no answer.
    pub(super) why: String,
}

impl History {
    /// Nothing was answered yet.
    pub(super) fn new() -> Self {
        Self(Arc::default(), Instant::now())
    }

    /// When the run began.
    pub(super) fn began(&self) -> Instant {
        self.1
    }

    /// Everything so far.
    pub(super) fn answers(&self) -> MutexGuard<'_, Answers> {
        // No holder of the lock can panic halfway through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Points were charged.
    pub(super) fn charged(&self, fan: UserId, points: i64) {
        let mut answers = self.answers();
        *answers.charged.entry(fan).or_default() += points;
        *answers.charges.entry(fan).or_default() += 1;
    }

    /// A hold was made.
    pub(super) fn held(&self, hold: &Reservation) {
        self.answers().holds.insert(hold.reservation_id, hold.clone());
    }

    /// A payment was answered.
    pub(super) fn paid(&self, payment: &Payment, asked_at: Instant) {
        let mut answers = self.answers();
        if payment.state != PaymentState::Requested {
            answers.ends.push(End {
                asked_at,
                ended_at: Instant::now(),
                payment: payment.payment_id,
                state: payment.state,
            });
        }
        answers.payments.insert(payment.payment_id.0, payment.clone());
    }

    /// The cancellation of a hold or ticket was accepted.
    pub(super) fn returned(&self, reservation: ReservationId) {
        self.answers().returned.insert(reservation);
    }

    /// A fan gave up on a command.
    pub(super) fn gave_up(&self, fan: UserId) {
        *self.answers().unknown.entry(fan).or_default() += 1;
    }

    /// A request failed and is sent again.
    pub(super) fn failed(&self, why: String) {
        self.answers().failures.push(Failure { at: Instant::now(), why });
    }

    /// A request was answered, or given up.
    pub(super) fn ended(&self, began: Instant, failed: bool) {
        self.answers().requests.push(Request { began, ended: Instant::now(), failed });
    }

    /// Nobody should get this answer.
    pub(super) fn strange(&self, what: String) {
        *self.answers().strange.entry(what).or_default() += 1;
    }

    /// Whether a payment that was requested after `since` has ended.
    pub(super) fn sells_since(&self, since: Instant) -> bool {
        self.answers().ends.iter().rev().take(200).any(|end| end.asked_at >= since)
    }

    /// Requests that were under way between one moment and another, as far as they have ended.
    pub(super) fn noticed_between(&self, from: Instant, to: Instant) -> Noticed {
        let answers = self.answers();
        let ended_since = answers.requests.iter().rev().take_while(|one| one.ended >= from);
        let under_way = ended_since.filter(|one| one.began <= to);
        under_way.fold(Noticed::default(), |sum, one| Noticed {
            requests: sum.requests + 1,
            noticed: sum.noticed + usize::from(one.was_noticed()),
        })
    }

    /// Requests that failed from one moment to another.
    pub(super) fn failures_between(&self, from: Instant, to: Instant) -> usize {
        let answers = self.answers();
        answers
            .failures
            .iter()
            .rev()
            .take_while(|one| one.at >= from)
            .filter(|one| one.at <= to)
            .count()
    }
}

impl Answers {
    /// The longest time without the end of a payment.
    pub(super) fn longest_silence(&self) -> Duration {
        let mut ends: Vec<Instant> = self.ends.iter().map(|end| end.ended_at).collect();
        ends.sort_unstable();
        ends.windows(2).map(|two| two[1] - two[0]).max().unwrap_or_default()
    }

    /// The payment on whose end a client waited longest.
    pub(super) fn longest_wait(&self) -> Option<&End> {
        self.ends.iter().max_by_key(|end| end.waited())
    }
}
