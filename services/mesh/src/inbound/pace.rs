//! When a bundle is sent.
//!
//! A bundle waits a moment until it has as many commands as the one before it. Where a command only
//! begins what other services finish, that is not enough: each of them takes what is there, so the
//! same load can go round in many small batches or in few large ones, and each batch costs a
//! transaction, a message and several round trips. So such a bundle waits until it has as many
//! commands as are under way. Then about half of all are on their way together, and half gather for the
//! next bundle. A lone command waits for 2 ms at most, and not at all when the one before it was alone.

use std::{future::pending, time::Duration};

use tokio::{sync::watch, time::Instant};

use crate::batch::worker::FILL_WAIT;

/// Maximum number of commands in a bundle.
pub(super) const BUNDLE_COMMANDS_MAX: usize = 256;
/// How long a bundle waits at most until it has as many commands as are under way. What is under way
/// may take long: a service is down, or a payment waits for something.
const UNDER_WAY_WAIT: Duration = Duration::from_millis(50);

/// How many commands of an endpoint have been requested and have not ended, as their callers count
/// them; those that wait in the next bundle are among them.
pub type UnderWay = watch::Receiver<usize>;

/// When the next bundle of an endpoint is sent.
pub(super) struct Pace {
    under_way: Option<UnderWay>,
    /// When the first command of the next bundle came.
    since: Instant,
    /// Commands of the last bundle.
    last: usize,
}

impl Pace {
    pub(super) fn new(under_way: Option<UnderWay>) -> Self {
        Self { under_way, since: Instant::now(), last: 0 }
    }

    /// The first command of a bundle has come.
    pub(super) fn begin(&mut self) {
        self.since = Instant::now();
    }

    /// A bundle was sent.
    pub(super) fn sent(&mut self, commands: usize) {
        self.last = commands;
    }

    /// The next moment after `now` at which a bundle may be sent though nothing has come: first
    /// when it no longer waits to be as large as the last one, then when it waits for nothing.
    pub(super) fn until(&self, now: Instant) -> Instant {
        match self.since + FILL_WAIT {
            filled if filled > now || self.under_way.is_none() => filled,
            _ => self.since + UNDER_WAY_WAIT,
        }
    }

    /// Whether a bundle of so many commands is sent at this moment.
    pub(super) fn is_time(&self, commands: usize, now: Instant) -> bool {
        let waited = now.saturating_duration_since(self.since);
        let is_filled = commands >= self.last.min(BUNDLE_COMMANDS_MAX) || waited >= FILL_WAIT;
        let Some(under_way) = &self.under_way else { return is_filled };
        let elsewhere = under_way.borrow().saturating_sub(commands);
        let is_large = commands >= elsewhere.min(BUNDLE_COMMANDS_MAX);
        is_filled && is_large || waited >= UNDER_WAY_WAIT
    }

    /// Waits until more or fewer are under way.
    pub(super) async fn changed(&mut self) {
        let changed = match &mut self.under_way {
            Some(under_way) => under_way.changed().await.is_ok(),
            None => false,
        };
        if !changed {
            pending().await
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_lone_command_after_a_lone_one_does_not_wait() {
        let (_count, under_way) = watch::channel(1);
        for mut pace in [Pace::new(None), Pace::new(Some(under_way))] {
            pace.sent(1);
            pace.begin();
            assert!(pace.is_time(1, Instant::now()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_bundle_waits_for_as_many_commands_as_the_one_before_had_but_only_briefly() {
        let mut pace = Pace::new(None);
        pace.sent(10);
        pace.begin();
        assert!(!pace.is_time(9, Instant::now()) && pace.is_time(10, Instant::now()));
        tokio::time::sleep_until(pace.until(Instant::now())).await;
        assert!(pace.is_time(1, Instant::now()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_bundle_waits_until_it_has_as_many_commands_as_are_under_way() {
        let (count, under_way) = watch::channel(40);
        let mut pace = Pace::new(Some(under_way));
        pace.begin();
        assert!(!pace.is_time(19, Instant::now()) && pace.is_time(20, Instant::now()));
        // Some of them end.
        count.send_replace(30);
        pace.changed().await;
        assert!(pace.is_time(15, Instant::now()));
        // No bundle gets larger than it may be.
        count.send_replace(10_000);
        assert!(
            !pace.is_time(BUNDLE_COMMANDS_MAX - 1, Instant::now())
                && pace.is_time(BUNDLE_COMMANDS_MAX, Instant::now())
        );
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_under_way_for_long_delays_a_bundle_only_for_a_moment() {
        let (_count, under_way) = watch::channel(1_000);
        let mut pace = Pace::new(Some(under_way));
        pace.begin();
        let began = Instant::now();
        while !pace.is_time(1, Instant::now()) {
            tokio::time::sleep_until(pace.until(Instant::now())).await;
        }
        assert_eq!(began.elapsed(), UNDER_WAY_WAIT);
    }

    #[tokio::test(start_paused = true)]
    async fn a_counter_that_is_gone_wakes_nobody() {
        let (count, under_way) = watch::channel(2);
        let mut pace = Pace::new(Some(under_way));
        drop(count);
        let woken = tokio::time::timeout(Duration::from_secs(60), pace.changed()).await;
        assert!(woken.is_err());
    }
}
