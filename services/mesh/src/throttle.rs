//! Courtesy: who only listens leaves a busy machine to those who sell, and catches up after.
//!
//! A machine is busy when whoever wants to run has to wait for a processor, and its kernel
//! says for how long somebody had to (pressure stall information of Linux). While it is busy,
//! a listener works for a small share of the time; what it leaves lies safe in its stream.
//! The share doubles with every minute, for no machine is so busy that nobody may ever
//! listen. Where the kernel says nothing, listeners take no notice.

use std::time::Duration;

use tokio::time::Instant;

/// For how long somebody had to wait for a processor, since the machine was started.
const PRESSURE: &str = "/proc/pressure/cpu";
/// How long a courteous listener waits before it looks again whether the machine is free.
const NAP: Duration = Duration::from_millis(50);
/// A machine is busy when somebody waits for this share of the time. On two processors a rush
/// makes that 0.7 to 0.85, and listeners that catch up after it 0.15 to 0.55.
const BUSY: f64 = 0.6;
/// Rests that the average looks back on, about.
const LOOK_BACK: f64 = 2.0;
/// For which share of the time one listener works while the machine is busy, at first.
const SHARE_WHILE_BUSY: f64 = 0.05;
/// How soon that doubles.
const DOUBLES: Duration = Duration::from_secs(60);

/// How busy a listener finds its machine.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    /// The last look: when, and how long somebody had waited by then.
    last: Option<(Instant, Duration)>,
    /// The share of the time for which somebody waited, on average.
    waited: f64,
    /// Since when the machine has been busy.
    busy_since: Option<Instant>,
}

impl Throttle {
    /// Rests for as long as it is told, and while the machine is busy for as long as a
    /// courteous listener does after so much work.
    pub(crate) async fn rest(&mut self, rest: Duration, worked: Duration) {
        let began = Instant::now();
        let mut now = self.nap(rest).await;
        while now - began < self.owed(worked, now) {
            now = self.nap(NAP).await;
        }
    }

    async fn nap(&mut self, nap: Duration) -> Instant {
        tokio::time::sleep(nap).await;
        let now = Instant::now();
        if let Some(waited) = pressure() {
            self.woke(waited, now);
        }
        now
    }

    fn woke(&mut self, waited: Duration, now: Instant) {
        let Some((then, before)) = self.last.replace((now, waited)) else { return };
        let passed = (now - then).as_secs_f64().max(f64::EPSILON);
        let share = (waited.saturating_sub(before).as_secs_f64() / passed).min(1.0);
        self.waited += (share - self.waited) / LOOK_BACK;
        if self.waited > BUSY {
            self.busy_since.get_or_insert(now);
        } else {
            self.busy_since = None;
        }
    }

    /// How long it has to leave the machine alone after so much work.
    fn owed(&self, worked: Duration, now: Instant) -> Duration {
        let Some(since) = self.busy_since else { return Duration::ZERO };
        let doubled = ((now - since).as_secs_f64() / DOUBLES.as_secs_f64()).exp2();
        worked.mul_f64((1.0 / (SHARE_WHILE_BUSY * doubled) - 1.0).max(0.0))
    }
}

/// For how long somebody had to wait, as the kernel says it.
fn pressure() -> Option<Duration> {
    waited(&std::fs::read_to_string(PRESSURE).ok()?)
}

fn waited(said: &str) -> Option<Duration> {
    let some = said.lines().find(|line| line.starts_with("some "))?;
    let (_, micros) = some.rsplit_once("total=")?;
    Some(Duration::from_micros(micros.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MUCH: Duration = Duration::from_millis(100);

    /// Looks at the machine so many times; somebody had to wait for this share of the time.
    /// The last look is at `now`.
    fn looked(throttle: &mut Throttle, looks: u32, share: f64, now: Instant) {
        for _ in 0..looks {
            let waited = throttle.last.map_or(Duration::ZERO, |(_, waited)| waited);
            throttle.last = Some((now - NAP, waited));
            throttle.woke(waited + NAP.mul_f64(share), now);
        }
    }

    fn busy(since: Instant) -> Throttle {
        let mut throttle = Throttle::default();
        looked(&mut throttle, 100, 0.9, since);
        throttle
    }

    #[test]
    fn the_kernel_says_how_long_somebody_had_to_wait() {
        let said = "some avg10=8.11 avg60=40.13 avg300=65.54 total=7727765651\n\
                    full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(waited(said), Some(Duration::from_micros(7_727_765_651)));
        assert_eq!(waited("nonsense"), None);
    }

    #[test]
    fn a_listener_leaves_a_busy_machine_alone_for_as_long_as_it_has_worked_much() {
        let now = Instant::now();
        assert_eq!(Throttle::default().owed(MUCH, now), Duration::ZERO);
        let throttle = busy(now);
        let owed = throttle.owed(MUCH, now);
        assert!(owed > Duration::from_secs(1));
        assert!(throttle.owed(2 * MUCH, now) > owed);
        assert_eq!(throttle.owed(Duration::ZERO, now), Duration::ZERO);
    }

    #[test]
    fn it_goes_on_within_a_second_of_the_machine_being_free() {
        let now = Instant::now();
        let mut throttle = busy(now);
        let naps = (1..).find(|_| {
            looked(&mut throttle, 1, 0.3, now);
            throttle.owed(MUCH, now).is_zero()
        });
        assert!(naps.is_some_and(|naps| NAP * naps < Duration::from_secs(1)), "{naps:?}");
    }

    #[test]
    fn a_crowded_moment_on_a_free_machine_is_soon_forgotten() {
        let now = Instant::now();
        let mut throttle = Throttle::default();
        looked(&mut throttle, 1, 1.0, now);
        looked(&mut throttle, 8, 0.1, now);
        assert_eq!(throttle.owed(MUCH, now), Duration::ZERO);
    }

    #[test]
    fn it_is_not_courteous_for_ever() {
        let now = Instant::now();
        let owed = |minutes| busy(now).owed(MUCH, now + DOUBLES * minutes);
        assert!(owed(1) < owed(0) / 2);
        assert_eq!(owed(10), Duration::ZERO);
    }
}
