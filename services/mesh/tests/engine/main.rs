//! The conformance suite of engines: one list of cases, run against each of them.
//!
//! | file | what it is |
//! |---|---|
//! | `counter` | the service of these tests: one entity, as small as can be |
//! | `store` | what the suite needs of an engine, and what a case has at hand |
//! | `on_postgres`, `on_valkey` | the service on each engine |
//! | `taking_in`, `commands`, `parking`, `concurrency`, `failing`, `outbox` | the cases |
//!
//! A third engine implements [`store::Store`] and adds a line to [`conformance`].

#![expect(clippy::disallowed_methods, reason = "a test that waits too long fails by itself")]

mod commands;
mod concurrency;
mod counter;
mod failing;
mod on_memory;
mod on_postgres;
mod on_valkey;
mod outbox;
mod parking;
mod store;
mod taking_in;

use std::{future::Future, sync::LazyLock, time::Duration};

use tokio::runtime::Runtime;

/// How long a case may take: far more than it needs, on a machine that is shared. Two that
/// wait for each other never end.
const CASE_WITHIN: Duration = Duration::from_secs(120);

/// All cases share one, because servers end with the thread that started them.
static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime")
});

fn run(case: impl Future<Output = ()>) {
    RUNTIME.block_on(async {
        tokio::time::timeout(CASE_WITHIN, case).await.expect("it ends in time");
    });
}

macro_rules! conformance {
    ($($file:ident: $($case:ident),+ $(,)?;)+) => {
        conformance!(postgres, crate::on_postgres::OnPostgres, $($file: $($case),+;)+);
        conformance!(valkey, crate::on_valkey::OnValkey, $($file: $($case),+;)+);
        conformance!(memory, crate::on_memory::OnMemory, $($file: $($case),+;)+);
    };
    ($engine:ident, $store:ty, $($file:ident: $($case:ident),+;)+) => {
        mod $engine {
            $($(
                #[test]
                fn $case() {
                    crate::run(async { crate::$file::$case(crate::store::Harness::<$store>::open().await).await });
                }
            )+)+
        }
    };
}

conformance! {
    taking_in:
        a_message_takes_effect_and_emits_one_message_for_each_subject,
        a_message_that_comes_again_changes_nothing,
        a_repeat_within_a_batch_changes_nothing,
        events_of_a_key_take_effect_in_their_order,
        what_is_emitted_names_its_cause_and_its_saga,
        a_message_without_events_is_taken_in;
    commands:
        an_answered_command_repeats_its_answer_and_refuses_another_body,
        the_same_key_twice_in_a_batch_is_decided_once,
        the_same_key_at_two_instances_at_once_is_decided_once,
        a_refused_command_leaves_nothing_and_may_be_asked_again,
        a_command_that_breaks_the_store_harms_nobody_else;
    parking:
        an_early_event_is_taken_in_when_what_it_needs_is_there,
        more_early_events_than_one_look_finds_are_all_taken_in,
        an_early_event_lets_pass_what_it_waits_for,
        one_behind_that_becomes_early_lets_the_next_one_go,
        an_early_event_waits_for_a_dead_letter_before_it,
        an_event_that_is_early_for_ever_becomes_a_dead_letter,
        events_behind_a_dead_letter_wait_and_drain_in_their_order,
        a_dead_letter_holds_its_key_until_it_is_discarded,
        a_parked_head_that_is_being_tried_is_not_overtaken,
        an_attempt_that_the_store_prevents_does_not_count,
        a_retry_that_kills_the_process_becomes_a_dead_letter,
        an_operators_attempt_takes_a_dead_letter_in,
        an_event_without_a_key_waits_for_nobody,
        parked_events_are_shown_in_the_order_of_parking;
    failing:
        poison_in_the_middle_of_a_message_parks_only_itself,
        a_panic_in_the_middle_of_a_message_parks_only_itself,
        an_event_that_cannot_be_read_parks_only_itself,
        a_body_that_is_no_batch_is_one_dead_letter,
        poison_leaves_the_neighbours_of_its_message_alone,
        a_message_that_seems_to_kill_the_process_is_parked_without_being_run,
        a_store_lost_before_the_commit_keeps_nothing,
        a_store_lost_after_the_commit_absorbs_the_repeat,
        a_store_lost_before_a_retry_commits_keeps_the_event_parked,
        a_store_lost_under_load_takes_each_message_in_once,
        a_service_restarted_between_every_two_steps_loses_nothing;
    concurrency:
        a_message_at_two_instances_at_once_takes_effect_once,
        two_instances_at_once_on_one_key_lose_nothing,
        two_instances_that_make_the_same_thing_at_once_agree,
        opposing_batches_end,
        opposing_messages_end_when_run_alone,
        two_instances_never_lease_the_same_event;
    outbox:
        two_sweepers_never_get_the_same_message,
        a_lease_that_runs_out_is_swept_again,
        a_backlog_larger_than_a_sweep_comes_out_whole,
        a_backlog_of_a_hundred_sweeps_comes_out_whole,
        a_mark_that_is_there_stays,
        only_the_mark_that_was_read_is_cleared,
        a_mark_and_a_clear_at_once_keep_the_newer_mark,
        only_what_somebody_has_missed_is_published_again,
        a_gap_larger_than_a_step_is_published_again_whole,
        a_refused_message_rests_alone,
        marks_are_read_over_ties_and_ends_of_pages,
        the_place_up_to_which_both_agree_is_kept,
        what_waits_is_counted_in_events;
}
