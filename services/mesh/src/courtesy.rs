//! Courtesy: who only listens leaves a busy machine to those who sell, and catches up after.
//!
//! A machine is busy when whoever wants to run has to wait for it, and that shows in how late
//! a short sleep ends, whoever it is that keeps it busy. While it is, a listener takes in no
//! more than a small share of what a machine can; what it leaves lies safe in its stream. The
//! share doubles with every minute, for no machine is so busy that nobody may ever listen.

use std::time::Duration;

use tokio::time::Instant;

/// How long a courteous listener waits before it looks again whether the machine is free.
const NAP: Duration = Duration::from_millis(50);
/// Oversleeping by more than this, on average, is because of others: the clock of the runtime
/// ticks in milliseconds, so an idle machine oversleeps by one, and a full one by five to ten.
const BUSY: Duration = Duration::from_micros(2_500);
/// Rests that the average looks back on, about.
const LOOK_BACK: f64 = 4.0;
/// Facts that one listener takes in on each processor and second of a busy machine, at first.
const FACTS_WHILE_BUSY: f64 = 100.0;
/// How soon that doubles.
const DOUBLES: Duration = Duration::from_secs(60);

/// How busy a listener finds its machine.
#[derive(Debug, Default)]
pub(crate) struct Courtesy {
    /// How much too late its rests ended, on average, in seconds.
    overslept: f64,
    /// Since when the machine has been busy.
    busy_since: Option<Instant>,
}

impl Courtesy {
    /// Rests for as long as it is told, and while the machine is busy for as long as a
    /// courteous listener takes for so many facts.
    pub(crate) async fn rest(&mut self, rest: Duration, facts: usize) {
        let began = Instant::now();
        let mut now = self.nap(rest).await;
        while now - began < self.owed(facts, now) {
            now = self.nap(NAP).await;
        }
    }

    async fn nap(&mut self, nap: Duration) -> Instant {
        let lay_down = Instant::now();
        tokio::time::sleep(nap).await;
        let now = Instant::now();
        self.woke((now - lay_down).saturating_sub(nap), now);
        now
    }

    fn woke(&mut self, overslept: Duration, now: Instant) {
        self.overslept += (overslept.as_secs_f64() - self.overslept) / LOOK_BACK;
        if self.overslept > BUSY.as_secs_f64() {
            self.busy_since.get_or_insert(now);
        } else {
            self.busy_since = None;
        }
    }

    /// How long it has to leave the machine alone after so many facts.
    fn owed(&self, facts: usize, now: Instant) -> Duration {
        let Some(since) = self.busy_since else { return Duration::ZERO };
        let processors = std::thread::available_parallelism().map_or(1, usize::from) as f64;
        let doubled = ((now - since).as_secs_f64() / DOUBLES.as_secs_f64()).min(30.0).exp2();
        Duration::from_secs_f64(facts as f64 / (FACTS_WHILE_BUSY * processors * doubled))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LATE: Duration = Duration::from_millis(40);
    const MUCH: usize = 10_000;

    fn busy(since: Instant) -> Courtesy {
        let mut courtesy = Courtesy::default();
        (0..100).for_each(|_| courtesy.woke(LATE, since));
        courtesy
    }

    #[test]
    fn a_listener_leaves_a_busy_machine_alone_for_as_long_as_it_took_much_in() {
        let now = Instant::now();
        assert_eq!(Courtesy::default().owed(MUCH, now), Duration::ZERO);
        let courtesy = busy(now);
        let owed = courtesy.owed(MUCH, now);
        assert!(owed > Duration::from_secs(1));
        assert_eq!(courtesy.owed(2 * MUCH, now), 2 * owed);
        assert_eq!(courtesy.owed(0, now), Duration::ZERO);
    }

    #[test]
    fn it_goes_on_within_a_second_of_the_machine_being_free() {
        let now = Instant::now();
        let mut courtesy = busy(now);
        let naps = (1..).find(|_| {
            courtesy.woke(Duration::from_millis(1), now);
            courtesy.owed(MUCH, now).is_zero()
        });
        assert!(naps.is_some_and(|naps| NAP * naps < Duration::from_secs(1)), "{naps:?}");
    }

    #[test]
    fn one_late_nap_on_a_free_machine_is_soon_forgotten() {
        let now = Instant::now();
        let mut courtesy = Courtesy::default();
        courtesy.woke(LATE, now);
        (0..8).for_each(|_| courtesy.woke(Duration::from_millis(1), now));
        assert_eq!(courtesy.owed(MUCH, now), Duration::ZERO);
    }

    #[test]
    fn it_is_not_courteous_for_ever() {
        let now = Instant::now();
        let owed = |minutes| busy(now).owed(MUCH, now + DOUBLES * minutes);
        assert_eq!(owed(1), owed(0) / 2);
        assert!(owed(10) < owed(0) / 1_000);
    }
}
