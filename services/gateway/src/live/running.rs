//! How many payments run: begun here, and not ended yet.
//!
//! A payment is decided by one service and finished by others, so the requests in flight do not
//! show how much work is on its way: what is taken in faster than it is finished waits between the
//! services, longer and longer. So the gateway takes in no more payments than are finished in a
//! moment, and turns further ones away before anything is done for them. What was taken in then
//! ends in about that time, however many more are requested.

use std::{
    collections::{HashMap, VecDeque},
    num::NonZeroU32,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use mesh::UnderWay;
use tokio::sync::watch;
use uuid::Uuid;

/// As many payments may run as have ended in the last such time …
const AS_MANY_AS_END_IN: Duration = Duration::from_millis(500);
/// … but no more than so many, unless more may always run.
const RUNNING_MAX: usize = 8_192;
/// A payment whose end has not come for so long counts no longer: its command may have been lost,
/// or its end, and nobody says so.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(10);

/// The payments that run.
pub(crate) struct Running {
    /// So many may always run: a sale that begins has ended none yet.
    at_once: usize,
    state: Mutex<State>,
    /// How many run.
    count: watch::Sender<usize>,
}

struct State {
    begun: HashMap<Uuid, Instant>,
    /// The same in order, with some that have ended.
    order: VecDeque<(Instant, Uuid)>,
    /// Ends since `since`, and in the time of the same length before.
    ended: usize,
    ended_before: usize,
    since: Instant,
}

/// There is no room for one more payment.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl Running {
    /// Room for so many payments, and for more where more end.
    pub(crate) fn new(at_once: NonZeroU32) -> Self {
        let state = State {
            begun: HashMap::new(),
            order: VecDeque::new(),
            ended: 0,
            ended_before: 0,
            since: Instant::now(),
        };
        let (at_once, count) = (at_once.get() as usize, watch::Sender::new(0));
        Self { at_once, state: Mutex::new(state), count }
    }

    /// How many payments run, from now on.
    pub(crate) fn under_way(&self) -> UnderWay {
        self.count.subscribe()
    }

    /// Counts a payment, before it is requested.
    ///
    /// # Errors
    /// When too many run.
    pub(crate) fn begin(&self, payment: Uuid, now: Instant) -> Result<(), Full> {
        let mut state = self.state();
        state.turn(now);
        state.forget(now);
        if state.begun.len() >= state.ended_before.min(RUNNING_MAX).max(self.at_once) {
            return Err(Full);
        }
        state.begun.insert(payment, now);
        state.order.push_back((now, payment));
        self.count.send_replace(state.begun.len());
        Ok(())
    }

    /// A payment has ended; those of other gateways do not count here.
    pub(crate) fn ended(&self, payment: Uuid, now: Instant) {
        let mut state = self.state();
        if state.begun.remove(&payment).is_some() {
            state.turn(now);
            state.ended += 1;
            self.count.send_replace(state.begun.len());
        }
    }

    /// A payment was refused, so it does not run.
    pub(crate) fn refused(&self, payment: Uuid) {
        let mut state = self.state();
        state.begun.remove(&payment);
        self.count.send_replace(state.begun.len());
    }

    /// Forgets every payment: their ends may have been missed.
    pub(crate) fn forget_all(&self) {
        let mut state = self.state();
        state.begun.clear();
        state.order.clear();
        self.count.send_replace(0);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic while the lock was held leaves whole entries.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Begins to count anew when the time is over.
    fn turn(&mut self, now: Instant) {
        let since = now.saturating_duration_since(self.since);
        if since < AS_MANY_AS_END_IN {
            return;
        }
        // Ends are counted over a time that was a little longer, or much longer when it was quiet.
        let times = since.as_secs_f64() / AS_MANY_AS_END_IN.as_secs_f64();
        self.ended_before = (self.ended as f64 / times) as usize;
        (self.ended, self.since) = (0, now);
    }

    /// Forgets what has begun too long ago.
    fn forget(&mut self, now: Instant) {
        while let Some((begun, payment)) = self.order.front() {
            let runs = self.begun.contains_key(payment);
            if runs && now.saturating_duration_since(*begun) < FORGOTTEN_AFTER {
                return;
            }
            self.begun.remove(payment);
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::settings::Settings;

    const AT_ONCE: usize = 1_024;

    fn running() -> Running {
        Running::new(Settings::default().payments_at_once)
    }

    fn id(low: usize) -> Uuid {
        Uuid::from_u128(low as u128)
    }

    /// Begins payments until there is no room; how many.
    fn fill(running: &Running, from: usize, now: Instant) -> usize {
        (from..from + 100 * AT_ONCE).take_while(|low| running.begin(id(*low), now).is_ok()).count()
    }

    #[test]
    fn a_payment_that_ends_or_is_refused_makes_room_for_another() {
        let (running, now) = (running(), Instant::now());
        assert_eq!(fill(&running, 0, now), AT_ONCE);
        running.ended(id(0), now);
        running.refused(id(1));
        // The end of a payment of another gateway.
        running.ended(id(1_000_000), now);
        assert_eq!(*running.under_way().borrow(), AT_ONCE - 2);
        assert_eq!(fill(&running, AT_ONCE, now), 2);
        assert_eq!(*running.under_way().borrow(), AT_ONCE);
    }

    #[test]
    fn more_payments_may_run_where_more_end() {
        let (running, began) = (running(), Instant::now());
        for low in 0..3_000 {
            running.begin(id(low), began).unwrap();
            running.ended(id(low), began);
        }
        let later = began + AS_MANY_AS_END_IN;
        let many = fill(&running, 3_000, later);
        assert!((2_900..=3_000).contains(&many), "{many}");
        // A while later none have ended any more.
        let quiet = later + AS_MANY_AS_END_IN * 2;
        assert_eq!(fill(&running, 6_000, quiet), 0);
    }

    #[test]
    fn a_payment_whose_end_never_comes_does_not_take_room_for_ever() {
        let (running, began) = (running(), Instant::now());
        assert_eq!(fill(&running, 0, began), AT_ONCE);
        let later = began + FORGOTTEN_AFTER;
        assert_eq!(fill(&running, AT_ONCE, later), AT_ONCE);
        running.forget_all();
        assert_eq!(*running.under_way().borrow(), 0);
        assert_eq!(fill(&running, AT_ONCE * 2, later), AT_ONCE);
    }

    #[test]
    fn what_has_ended_is_not_kept() {
        let (running, now) = (running(), Instant::now());
        for low in 0..100_000 {
            running.begin(id(low), now).unwrap();
            running.ended(id(low), now);
        }
        running.begin(id(100_000), now).unwrap();
        assert_eq!(running.state().order.len(), 1);
    }
}
