//! Wallets: each balance follows from the one before.

use std::collections::{HashMap, HashSet};

use events::audit::Rule;
use uuid::Uuid;

use super::{
    finding::{Finding, SLACK_SECS},
    shelf::{Key, Keyed},
};

/// One movement of points, or one reading of the balance.
#[derive(Debug, Clone, Copy)]
pub(super) struct Move {
    pub(super) event: Uuid,
    pub(super) saga: Uuid,
    pub(super) before: i64,
    pub(super) after: i64,
    /// Seconds since 1970.
    pub(super) at: u32,
}

/// A wallet. Events of one wallet may lie in the stream in another order than they happened: of
/// two transactions on the same row, the one that waited has the lower sequence. So movements are
/// kept for a while, and what must hold is that they can be put into an order in which each
/// begins where the one before ended.
#[derive(Debug, Clone, Default)]
pub(super) struct Wallet {
    pub(super) user: Uuid,
    /// Points after all settled movements; `None` before the first is settled.
    balance: Option<i64>,
    /// The last settled movement.
    last: Uuid,
    waiting: Vec<Move>,
}

impl Keyed for Wallet {
    fn key(&self) -> Key<'_> {
        (self.user, "")
    }
}

impl Wallet {
    /// One that was empty when it was opened, or that is first seen later.
    pub(super) fn new(user: Uuid, balance: Option<i64>) -> Self {
        Self { user, balance, ..Self::default() }
    }

    /// Takes in a movement.
    pub(super) fn handle(&mut self, step: Move) {
        self.waiting.push(step);
    }

    /// Its points, as far as they are settled.
    pub(super) fn balance(&self) -> Option<i64> {
        self.balance
    }

    /// Settles the movements emitted well before `until`, and those that have to be settled with
    /// them.
    pub(super) fn settle(&mut self, until: i64, found: &mut Vec<Finding>) {
        let due = |step: &Move| i64::from(step.at) + SLACK_SECS < until;
        if !self.waiting.iter().any(due) {
            return;
        }
        // Ids grow with time: this is the order in which they happened, unless clocks differ.
        self.waiting.sort_unstable_by_key(|step| (!due(step), step.event));
        let oldest = self.waiting.iter().filter(|step| due(step)).count();
        // A movement that is due may follow from one that was emitted a little later.
        self.waiting[oldest..].sort_unstable_by_key(|step| step.event);
        for count in oldest..=self.waiting.len() {
            if let Some(end) = trail(self.balance, &self.waiting[..count]) {
                self.balance = Some(end);
                self.last = self.waiting[count - 1].event;
                self.waiting.drain(..count);
                self.waiting.shrink_to_fit();
                return;
            }
        }
        let due: Vec<Move> = self.waiting.drain(..oldest).collect();
        self.walk(&due, found);
    }

    /// Finds the movements that begin at a balance where none ended.
    fn walk(&mut self, steps: &[Move], found: &mut Vec<Finding>) {
        let mut left: Vec<Move> = steps.to_vec();
        while !left.is_empty() {
            let here = self.balance.unwrap_or(left[0].before);
            let next = left.iter().position(|step| step.before == here);
            let step = left.remove(next.unwrap_or(0));
            if next.is_none() {
                let what = "a balance is not the sum of the movements";
                let events = [self.last, step.event];
                found.push(Finding { rule: Rule::LedgerSums, what, events, saga: step.saga });
                // The next one shows whether this one was wrong, or what it follows from.
                if left.iter().any(|other| other.before == here) {
                    continue;
                }
            }
            self.balance = Some(step.after);
            self.last = step.event;
        }
    }
}

/// The end of a walk that begins at `from` and takes each of these steps once; `None` when there
/// is no such walk.
fn trail(from: Option<i64>, steps: &[Move]) -> Option<i64> {
    let start = from.or_else(|| steps.first().map(|step| step.before))?;
    // Almost always they are in order.
    let straight =
        steps.iter().try_fold(start, |here, step| (step.before == here).then_some(step.after));
    if straight.is_some() {
        return straight;
    }
    // Euler's condition: every balance is left as often as it is reached, but for the two ends.
    let mut leaves: HashMap<i64, i64> = HashMap::new();
    for step in steps {
        *leaves.entry(step.before).or_default() += 1;
        *leaves.entry(step.after).or_default() -= 1;
    }
    let begins: Vec<i64> = leaves.iter().filter(|(_, n)| **n > 0).map(|(b, _)| *b).collect();
    let ends: Vec<i64> = leaves.iter().filter(|(_, n)| **n < 0).map(|(b, _)| *b).collect();
    let (start, end) = match (begins.as_slice(), ends.as_slice()) {
        ([], []) => (start, start),
        ([begin], [end]) if leaves[begin] == 1 && leaves[end] == -1 => {
            (from.unwrap_or(*begin) == *begin).then_some((*begin, *end))?
        }
        _ => return None,
    };
    is_reached(start, steps).then_some(end)
}

/// Whether all steps are connected with `start`.
fn is_reached(start: i64, steps: &[Move]) -> bool {
    let mut next: HashMap<i64, Vec<i64>> = HashMap::new();
    for step in steps {
        next.entry(step.before).or_default().push(step.after);
    }
    let mut seen = HashSet::from([start]);
    let mut open = vec![start];
    while let Some(here) = open.pop() {
        let further = next.get(&here).into_iter().flatten();
        open.extend(further.filter(|balance| seen.insert(**balance)));
    }
    steps.iter().all(|step| seen.contains(&step.before))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Balances before and after each movement.
    type Walk<'a> = &'a [(i64, i64)];

    fn steps(steps: Walk<'_>) -> Vec<Move> {
        let step = |(index, &(before, after)): (usize, &(i64, i64))| {
            let event = Uuid::from_u128(index as u128 + 1);
            Move { event, saga: event, before, after, at: 0 }
        };
        steps.iter().enumerate().map(step).collect()
    }

    #[test]
    fn movements_in_any_order_lead_to_the_same_end() {
        let walks: [Walk<'_>; 4] = [
            &[(0, 100), (100, 30), (30, 30), (30, 100)],
            &[(30, 100), (100, 30), (0, 100), (30, 30)],
            &[(100, 200), (100, 0), (0, 100)],
            &[(0, 100), (100, 0)],
        ];
        let ends = [(Some(0), 100), (None, 100), (Some(100), 200), (Some(0), 0)];
        for (walk, (from, end)) in walks.into_iter().zip(ends) {
            assert_eq!(trail(from, &steps(walk)), Some(end), "{walk:?}");
        }
    }

    #[test]
    fn movements_that_are_not_connected_are_no_walk() {
        let walks: [(Option<i64>, Walk<'_>); 4] = [
            (Some(0), &[(0, 100), (150, 200)]),
            (Some(0), &[(50, 100)]),
            (Some(0), &[(0, 100), (50, 60), (60, 50)]),
            (Some(0), &[(0, 100), (0, 100)]),
        ];
        for (from, walk) in walks {
            assert_eq!(trail(from, &steps(walk)), None, "{walk:?}");
        }
    }

    #[test]
    fn a_movement_that_follows_from_a_later_emitted_one_is_settled_with_it() {
        let mut wallet = Wallet::new(Uuid::nil(), Some(0));
        let [mut first, mut second] = steps(&[(0, 100), (100, 30)])[..] else { panic!("two") };
        (first.at, second.at) = (1_001, 1_000);
        wallet.handle(second);
        wallet.handle(first);
        let mut found = Vec::new();
        wallet.settle(1_000 + SLACK_SECS + 1, &mut found);
        assert!(found.is_empty(), "{found:?}");
        assert_eq!(wallet.balance(), Some(30));
    }
}
