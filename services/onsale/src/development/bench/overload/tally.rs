//! What was offered and what became of it, in short windows of time.

use std::time::{Duration, Instant};

use super::super::line::median;

/// The length of a window.
pub(super) const WINDOW: Duration = Duration::from_millis(250);
/// So many windows in a row must be calm before a mesh has recovered: a second.
const CALM_WINDOWS: usize = 4;

/// Different strange answers that are kept.
const STRANGE_MAX: usize = 40;

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Became {
    /// The payment has completed.
    Completed,
    /// Refused with `503` and `Retry-After`.
    Refused,
    /// Anything else, in words: nothing of it may happen.
    Strange(String),
}

/// One window.
#[derive(Debug, Clone, Default)]
pub(super) struct Window {
    /// Requests that arrived in it.
    pub(super) offered: u32,
    /// Those of them that were refused.
    pub(super) refused: u32,
    /// Those of them that became something strange.
    pub(super) strange: u32,
    /// Payments that completed in it, whenever they arrived.
    pub(super) completed: u32,
    /// How long the admitted ones of those that arrived in it took.
    pub(super) micros: Vec<u32>,
    /// Resident memory of the one process with all services.
    pub(super) resident_mb: f64,
}

/// All windows since a moment.
pub(super) struct Tally {
    began: Instant,
    pub(super) windows: Vec<Window>,
    /// What was strange, and how often.
    pub(super) strange: std::collections::BTreeMap<String, u64>,
}

impl Tally {
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), windows: Vec::new(), strange: Default::default() }
    }

    /// Seconds from the beginning.
    pub(super) fn secs(&self) -> f64 {
        self.began.elapsed().as_secs_f64()
    }

    /// A request that was due at `arrived` has just become something.
    pub(super) fn add(&mut self, arrived: Instant, became: Became) {
        let ended = Instant::now();
        let window = self.window(arrived);
        window.offered += 1;
        match became {
            Became::Completed => {
                let took = ended.saturating_duration_since(arrived).as_micros();
                window.micros.push(u32::try_from(took).unwrap_or(u32::MAX));
                self.window(ended).completed += 1;
            }
            Became::Refused => window.refused += 1,
            Became::Strange(what) => {
                window.strange += 1;
                let is_new = !self.strange.contains_key(&what);
                let is_one_too_many = is_new && self.strange.len() >= STRANGE_MAX;
                let what = if is_one_too_many { "others".to_owned() } else { what };
                *self.strange.entry(what).or_default() += 1;
            }
        }
    }

    /// Notes how much memory is resident now.
    pub(super) fn resident(&mut self, mb: f64) {
        self.window(Instant::now()).resident_mb = mb;
    }

    fn window(&mut self, at: Instant) -> &mut Window {
        let since = at.saturating_duration_since(self.began);
        let index = (since.as_nanos() / WINDOW.as_nanos()) as usize;
        if self.windows.len() <= index {
            self.windows.resize_with(index + 1, Window::default);
        }
        &mut self.windows[index]
    }
}

/// The windows that lie wholly between two moments, in seconds from the beginning.
pub(super) fn between(windows: &[Window], from: f64, to: f64) -> &[Window] {
    let length = WINDOW.as_secs_f64();
    let end = ((to / length) as usize).min(windows.len());
    let begin = ((from / length).ceil() as usize).min(end);
    &windows[begin..end]
}

/// A quarter of some windows, from 0 to 3.
pub(super) fn quarter(windows: &[Window], which: usize) -> &[Window] {
    &windows[windows.len() * which / 4..windows.len() * (which + 1) / 4]
}

/// The mean of a count a second.
pub(super) fn per_second(windows: &[Window], count: fn(&Window) -> u32) -> f64 {
    let sum: f64 = windows.iter().map(|window| f64::from(count(window))).sum();
    sum / (windows.len().max(1) as f64 * WINDOW.as_secs_f64())
}

/// A quantile of the times of what was admitted, in ms.
pub(super) fn quantile_ms(windows: &[Window], quantile: f64) -> f64 {
    let mut micros: Vec<u32> = windows.iter().flat_map(|window| window.micros.clone()).collect();
    if micros.is_empty() {
        return 0.0;
    }
    let at = ((micros.len() - 1) as f64 * quantile).round() as usize;
    let (_, value, _) = micros.select_nth_unstable(at);
    f64::from(*value) / 1_000.0
}

/// The median of the resident memory.
pub(super) fn resident_mb(windows: &[Window]) -> f64 {
    median(windows.iter().map(|window| window.resident_mb).filter(|mb| *mb > 0.0))
}

/// Seconds until everything is admitted again and takes no longer than `ms`, for a second at
/// least; `None` when that does not happen.
pub(super) fn recovery_secs(windows: &[Window], ms: f64) -> Option<f64> {
    let is_calm = |window: &Window| {
        let took = quantile_ms(std::slice::from_ref(window), 0.99);
        window.refused == 0 && window.strange == 0 && took <= ms
    };
    let calm = windows.windows(CALM_WINDOWS).position(|some| some.iter().all(is_calm))?;
    Some(calm as f64 * WINDOW.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(refused: u32, ms: u32) -> Window {
        let micros = vec![ms * 1_000; 10];
        Window { offered: 10 + refused, refused, completed: 10, micros, ..Window::default() }
    }

    #[test]
    fn recovered_is_what_is_calm_for_a_second() {
        let (calm, busy, slow) = (window(0, 20), window(3, 20), window(0, 900));
        let mut windows = vec![busy, calm.clone(), slow];
        assert_eq!(recovery_secs(&windows, 100.0), None);
        windows.extend(std::iter::repeat_n(calm, CALM_WINDOWS));
        assert_eq!(recovery_secs(&windows, 100.0), Some(3.0 * WINDOW.as_secs_f64()));
    }

    #[test]
    fn figures_are_those_of_whole_windows_between_two_moments() {
        let windows: Vec<Window> = (0..8).map(|ms| window(1, ms)).collect();
        let some = between(&windows, 0.3, 1.2);
        assert_eq!(some.len(), 2);
        assert_eq!(per_second(some, |window| window.refused), 4.0);
        assert_eq!([0.0, 1.0].map(|part| quantile_ms(some, part)), [2.0, 3.0]);
        assert_eq!(between(&windows, 1.0, 99.0).len(), 4);
        assert!(between(&windows, 9.0, 12.0).is_empty());
        assert_eq!(quarter(&windows, 3).len(), 2);
    }

    #[test]
    fn a_request_counts_where_it_arrived_and_its_end_where_it_ended() {
        let mut tally = Tally::new();
        let began = tally.began;
        tally.began = began.checked_sub(WINDOW).unwrap();
        tally.add(tally.began, Became::Completed);
        tally.add(tally.began, Became::Refused);
        tally.add(began, Became::Strange("502".into()));
        let (first, second) = (&tally.windows[0], &tally.windows[1]);
        assert_eq!((first.offered, first.refused, first.completed), (2, 1, 0));
        assert!(first.micros[0] >= 250_000);
        assert_eq!((second.completed, second.strange), (1, 1));
        assert_eq!(tally.strange["502"], 1);
    }
}
