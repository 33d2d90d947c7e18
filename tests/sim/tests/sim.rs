//! Simulated sales: nothing is lost, nothing happens twice, and the checks find planted mistakes.

use clap::ValueEnum;
use sim::{Fault, Mutation, Options, Report};

/// How many sales with all usual faults are run.
const SEEDS: u64 = 300;

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
    for fault in Fault::usual().into_iter().filter(|fault| fault.comes_by_itself()) {
        assert!(reports.iter().any(|report| report.faults.contains_key(&fault)), "{fault:?}");
    }
}

/// Every handler decides by the state that it finds: without an inbox events follow twice from one
/// cause, but no money moves twice and no seat is lost.
#[test]
fn without_an_inbox_events_are_repeated_and_nothing_else() {
    let options = Options { mutation: Some(Mutation::InboxOff), ..Options::default() };
    for seed in 1..=60 {
        let mut report = sim::run(seed, &options);
        report.wrong.retain(|wrong| !wrong.starts_with(sim::checks::TWICE));
        must_be_right(seed, &report);
    }
}

fn must_be_found(mutation: Mutation) {
    let options = Options { mutation: Some(mutation), ..Options::default() };
    let is_found = |seed| sim::run(seed, &options).finds(mutation);
    let within = mutation.found_within();
    assert!((1..=within).any(is_found), "{mutation:?} was not found in {within} sales");
}

macro_rules! is_found {
    ($($claim:ident: $mutation:ident,)*) => {
        $(
            #[test]
            fn $claim() {
                must_be_found(Mutation::$mutation);
            }
        )*

        #[test]
        fn every_mistake_has_a_test() {
            let tested = [$(Mutation::$mutation),*];
            assert_eq!(tested.as_slice(), Mutation::value_variants());
        }
    };
}

is_found! {
    an_inbox_that_keeps_nothing_is_found: InboxOff,
    answers_that_are_not_kept_are_found: AnswersOff,
    a_claim_before_the_commit_is_found: ClaimBeforeCommit,
    an_outbox_that_is_written_after_the_commit_is_found: OutboxAfterCommit,
    a_forgotten_savepoint_is_found: SavepointForgotten,
    a_parked_key_that_is_ignored_is_found: ParkedKeyIgnored,
    parked_events_that_are_forgotten_are_found: ParkedForgotten,
    a_mark_before_the_publish_is_found: MarkedBefore,
    a_sweep_that_never_runs_is_found: SweepOff,
    a_broker_that_is_rolled_back_unnoticed_is_found: RollBackUnnoticed,
    an_acknowledgement_before_the_commit_is_found: AcknowledgedBefore,
    a_message_that_is_half_handled_is_found: HalfHandled,
    timers_that_never_run_are_found: TimersOff,
    a_timer_that_does_not_look_again_is_found: TimerUnchecked,
    a_debit_without_an_owner_fence_is_found: OwnerFenceOff,
    a_late_debit_that_confirms_an_expired_hold_is_found: LateDebitConfirms,
    an_extension_without_a_cap_is_found: ExtensionUncapped,
    a_refund_without_a_look_at_the_ledger_is_found: RefundUnchecked,
    a_debit_without_a_look_at_the_ledger_is_found: DebitUnchecked,
    a_lost_refund_is_found: RefundLost,
    a_lost_refusal_is_found: RefusalLost,
    a_lost_confirmation_is_found: ConfirmationLost,
    a_lost_cancellation_is_found: CancellationLost,
    a_lost_debit_is_found: DebitLost,
    a_lost_refusal_of_a_withdrawal_is_found: WithdrawalRefusalLost,
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
