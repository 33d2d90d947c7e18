//! Counts what a stored batch has taken in.

use std::collections::BTreeMap;

use super::work::{Outcome, Work};
use crate::{
    metrics::{EventResult, OfService},
    parked::{Parked, ParkedState},
};

/// Counts the events of a batch, all of one name at once. Those that were parked are not handled.
pub(crate) fn count_taken_in(
    metrics: &OfService,
    batch: &[Work],
    outcomes: &[Outcome],
    parked: &[Parked],
) {
    let mut handled: BTreeMap<&str, i64> = BTreeMap::new();
    for (work, outcome) in batch.iter().zip(outcomes) {
        if work.delivery().is_none() {
            continue;
        }
        match outcome {
            Outcome::Done(_) => {
                metrics.message(work.entries.len());
                work.names().for_each(|name| *handled.entry(name).or_default() += 1);
            }
            Outcome::Repeat => {
                let name = work.names().next().unwrap_or_default();
                metrics.handled(name, EventResult::Repeat, work.entries.len() as u64);
            }
            Outcome::NotYet(_) | Outcome::Never(_) => {}
        }
    }
    for parked in parked {
        let is_dead = parked.state == ParkedState::Dead;
        let result = if is_dead { EventResult::Dead } else { EventResult::Parked };
        metrics.handled(parked.event(), result, 1);
        handled.entry(parked.event()).and_modify(|count| *count -= 1);
    }
    for (name, count) in handled {
        metrics.handled(name, EventResult::Handled, count.max(0).unsigned_abs());
    }
}
