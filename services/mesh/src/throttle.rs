//! Throttling: a listener yields a busy machine to the services that sell, and catches up later.
//!
//! A machine is busy when tasks have to wait for a processor, and the kernel reports for how
//! long they had to (pressure stall information of Linux). While the machine is busy, a listener
//! works for a small share of the time; its messages wait safely in their stream. The share
//! doubles every minute, so that a listener is never throttled for ever. Where the kernel
//! reports nothing, listeners are not throttled.

use std::time::Duration;

use tokio::time::Instant;

/// The file that reports for how long tasks had to wait for a processor, since the boot.
const PRESSURE: &str = "/proc/pressure/cpu";
/// How long a throttled listener sleeps before it checks again whether the machine is free.
const CHECK_EVERY: Duration = Duration::from_millis(50);
/// A machine is busy when tasks wait for this share of the time. On two processors a rush makes
/// that 0.7 to 0.85, and listeners that catch up after it 0.15 to 0.55.
const BUSY: f64 = 0.6;
/// About how many measurements the average covers.
const LOOK_BACK: f64 = 2.0;
/// The share of the time for which one listener works while the machine is busy, at first.
const SHARE_WHILE_BUSY: f64 = 0.05;
/// The interval in which that share doubles.
const DOUBLES: Duration = Duration::from_secs(60);

/// A listener's measurement of how busy its machine is.
#[derive(Debug, Default)]
pub(crate) struct Throttle {
    /// The last measurement: its time, and for how long tasks had waited by then.
    last: Option<(Instant, Duration)>,
    /// The share of the time for which tasks waited, on average.
    waited: f64,
    /// Since when the machine has been busy.
    busy_since: Option<Instant>,
}

impl Throttle {
    /// Pauses for the given time, and while the machine is busy for as long as a listener has to
    /// after so much work.
    pub(crate) async fn pause(&mut self, pause: Duration, worked: Duration) {
        let began = Instant::now();
        let mut now = self.sleep(pause).await;
        while now - began < self.pause_after(worked, now) {
            now = self.sleep(CHECK_EVERY).await;
        }
    }

    async fn sleep(&mut self, time: Duration) -> Instant {
        tokio::time::sleep(time).await;
        let now = Instant::now();
        if let Some(waited) = pressure() {
            self.measured(waited, now);
        }
        now
    }

    fn measured(&mut self, waited: Duration, now: Instant) {
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

    /// How long a listener has to pause after so much work.
    fn pause_after(&self, worked: Duration, now: Instant) -> Duration {
        let Some(since) = self.busy_since else { return Duration::ZERO };
        let doubled = ((now - since).as_secs_f64() / DOUBLES.as_secs_f64()).exp2();
        worked.mul_f64((1.0 / (SHARE_WHILE_BUSY * doubled) - 1.0).max(0.0))
    }
}

/// For how long tasks had to wait, as the kernel reports it.
fn pressure() -> Option<Duration> {
    waited(&std::fs::read_to_string(PRESSURE).ok()?)
}

fn waited(report: &str) -> Option<Duration> {
    let some = report.lines().find(|line| line.starts_with("some "))?;
    let (_, micros) = some.rsplit_once("total=")?;
    Some(Duration::from_micros(micros.trim().parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MUCH: Duration = Duration::from_millis(100);

    /// Adds so many measurements in which tasks had to wait for this share of the time. The last
    /// one is at `now`.
    fn measure(throttle: &mut Throttle, times: u32, share: f64, now: Instant) {
        for _ in 0..times {
            let waited = throttle.last.map_or(Duration::ZERO, |(_, waited)| waited);
            throttle.last = Some((now - CHECK_EVERY, waited));
            throttle.measured(waited + CHECK_EVERY.mul_f64(share), now);
        }
    }

    fn busy(since: Instant) -> Throttle {
        let mut throttle = Throttle::default();
        measure(&mut throttle, 100, 0.9, since);
        throttle
    }

    #[test]
    fn the_kernels_report_of_waiting_tasks_is_read() {
        let report = "some avg10=8.11 avg60=40.13 avg300=65.54 total=7727765651\n\
                    full avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(waited(report), Some(Duration::from_micros(7_727_765_651)));
        assert_eq!(waited("nonsense"), None);
    }

    #[test]
    fn a_listener_on_a_busy_machine_pauses_the_longer_the_more_it_has_worked() {
        let now = Instant::now();
        assert_eq!(Throttle::default().pause_after(MUCH, now), Duration::ZERO);
        let throttle = busy(now);
        let pause = throttle.pause_after(MUCH, now);
        assert!(pause > Duration::from_secs(1));
        assert!(throttle.pause_after(2 * MUCH, now) > pause);
        assert_eq!(throttle.pause_after(Duration::ZERO, now), Duration::ZERO);
    }

    #[test]
    fn a_listener_goes_on_within_a_second_when_the_machine_is_free() {
        let now = Instant::now();
        let mut throttle = busy(now);
        let checks = (1..).find(|_| {
            measure(&mut throttle, 1, 0.3, now);
            throttle.pause_after(MUCH, now).is_zero()
        });
        let is_soon = checks.is_some_and(|checks| CHECK_EVERY * checks < Duration::from_secs(1));
        assert!(is_soon, "{checks:?}");
    }

    #[test]
    fn a_busy_moment_on_a_free_machine_throttles_only_briefly() {
        let now = Instant::now();
        let mut throttle = Throttle::default();
        measure(&mut throttle, 1, 1.0, now);
        measure(&mut throttle, 8, 0.1, now);
        assert_eq!(throttle.pause_after(MUCH, now), Duration::ZERO);
    }

    #[test]
    fn a_listener_is_not_throttled_for_ever() {
        let now = Instant::now();
        let pause = |minutes| busy(now).pause_after(MUCH, now + DOUBLES * minutes);
        assert!(pause(1) < pause(0) / 2);
        assert_eq!(pause(10), Duration::ZERO);
    }
}
