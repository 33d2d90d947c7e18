//! Simulated sales: nothing is lost, nothing happens twice, and the checks find planted mistakes.

use clap::ValueEnum;
use sim::{Fault, Mutation, Options, Report};

/// How many sales with all faults are run.
const SEEDS: u64 = 200;
/// A planted mistake must be found within this many sales.
const FOUND_WITHIN: u64 = 60;

fn replay(seed: u64) -> String {
    format!("cargo sim --seed {seed} --seeds 1")
}

fn must_be_right(seed: u64, report: &Report) {
    let (wrong, timeline) = (report.wrong.join("\n"), report.timeline.join("\n  "));
    assert!(report.wrong.is_empty(), "{wrong}\n  {timeline}\nReplay it: {}", replay(seed));
}

#[test]
fn with_all_faults_nothing_is_lost_and_nothing_happens_twice() {
    for seed in 1..=SEEDS {
        must_be_right(seed, &sim::run(seed, &Options::default()));
    }
}

#[test]
fn without_faults_all_checks_hold() {
    let options = Options { faults: Vec::new(), ..Options::default() };
    for seed in 1..=20 {
        must_be_right(seed, &sim::run(seed, &options));
    }
}

#[test]
fn a_sale_is_a_function_of_its_seed() {
    for seed in 1..=5 {
        let [one, other] = [(); 2].map(|()| sim::run(seed, &Options::default()));
        assert_eq!((one.sagas, one.events), (other.sagas, other.events), "{}", replay(seed));
        assert_eq!((one.ends, one.faults), (other.ends, other.faults), "{}", replay(seed));
    }
}

#[test]
fn every_outcome_and_every_fault_occurs() {
    let reports: Vec<Report> = (1..=40).map(|seed| sim::run(seed, &Options::default())).collect();
    for end in [
        "payment Completed",
        "payment Refunded",
        "payment Failed InsufficientBalance",
        "payment Failed HoldGone",
        "reservation Expired",
        "reservation Cancelled",
        "withdrawal Completed []",
        "withdrawal Refused [Points]",
    ] {
        assert!(reports.iter().any(|report| report.ends.contains_key(end)), "{end}");
    }
    for fault in Fault::ALL.into_iter().filter(|fault| fault.comes_by_itself()) {
        assert!(reports.iter().any(|report| report.faults.contains_key(&fault)), "{fault:?}");
    }
}

/// Every handler decides by the state that it finds, so the inbox saves work, not money.
#[test]
fn without_an_inbox_nothing_happens_twice_either() {
    let options = Options { mutation: Some(Mutation::InboxOff), ..Options::default() };
    for seed in 1..=60 {
        must_be_right(seed, &sim::run(seed, &options));
    }
}

#[test]
fn every_planted_mistake_is_found() {
    let mistakes = Mutation::value_variants().iter().filter(|one| **one != Mutation::InboxOff);
    for mutation in mistakes {
        let options = Options { mutation: Some(*mutation), ..Options::default() };
        let is_found = |seed| !sim::run(seed, &options).wrong.is_empty();
        assert!((1..=FOUND_WITHIN).any(is_found), "{mutation:?} was not found");
    }
}

#[test]
fn a_failing_sale_is_shrunk_and_has_a_timeline() {
    let mutation = Some(Mutation::RefundLost);
    let options = Options { mutation, ..Options::default() };
    let smallest = sim::shrink(1, &options);
    assert!(smallest.people * (smallest.visits as usize) < 12 * 12 / 4, "{smallest:?}");
    let report = sim::run(1, &smallest);
    assert!(!report.wrong.is_empty() && !report.timeline.is_empty(), "{report:?}");
}
