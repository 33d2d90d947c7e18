//! The conformance suite of engines: one list of cases, run against each of them.
//!
//! | file | what it is |
//! |---|---|
//! | `counter` | the service of these tests: one small entity |
//! | `store` | what the suite needs of an engine, and the harness of a case |
//! | `on_postgres`, `on_valkey` | the service on each engine |
//! | `taking_in`, `commands`, `parking`, `concurrency`, `failing`, `outbox` | the cases |
//!
//! Another engine implements [`store::Store`] and adds a line to [`conformance`].

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

/// How long a case may take: far more than it needs on a shared machine. A deadlock never ends.
const CASE_WITHIN: Duration = Duration::from_secs(120);

/// The runtime of all cases: servers end with the thread that started them.
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
                    crate::run(async {
                        let harness = crate::store::Harness::<$store>::open().await;
                        crate::$file::$case(harness).await;
                    });
                }
            )+)+
        }
    };
}

conformance! {
    taking_in:
        a_message_takes_effect_and_emits_one_message_for_each_subject,
        a_redelivered_message_changes_nothing,
        a_repeat_within_a_batch_changes_nothing,
        events_of_a_key_take_effect_in_order,
        an_emitted_event_names_its_cause_and_its_saga,
        a_message_without_events_is_taken_in;
    commands:
        a_repeated_command_gets_its_answer_again_and_another_body_is_refused,
        an_idempotency_key_twice_in_a_batch_is_decided_once,
        an_idempotency_key_at_two_instances_at_once_is_decided_once,
        a_refused_command_leaves_nothing_and_may_be_repeated,
        a_command_that_the_store_refuses_fails_alone;
    parking:
        an_early_event_is_taken_in_once_what_it_depends_on_is_there,
        more_early_events_than_one_lease_takes_are_all_taken_in,
        an_early_event_does_not_hold_up_what_it_waits_for,
        an_event_that_becomes_early_after_a_retry_releases_its_key,
        an_early_event_waits_for_a_dead_letter_before_it,
        an_event_that_stays_early_becomes_a_dead_letter,
        events_behind_a_dead_letter_wait_and_drain_in_order,
        a_dead_letter_holds_its_key_until_it_is_discarded,
        the_first_event_of_a_key_is_not_overtaken_while_it_is_tried,
        an_attempt_prevented_by_the_store_is_not_counted,
        an_event_whose_retries_kill_the_process_becomes_a_dead_letter,
        an_operators_retry_takes_a_dead_letter_in,
        an_event_without_an_order_key_waits_for_no_other,
        parked_events_are_listed_in_the_order_of_parking;
    failing:
        poison_in_the_middle_of_a_message_parks_only_itself,
        a_panic_in_the_middle_of_a_message_parks_only_itself,
        an_event_that_cannot_be_decoded_parks_only_itself,
        a_body_that_is_no_batch_is_one_dead_letter,
        poison_leaves_the_other_messages_of_its_batch_alone,
        a_message_that_seems_to_kill_the_process_is_parked_without_being_run,
        a_store_lost_before_the_commit_keeps_nothing,
        a_store_lost_after_the_commit_drops_the_repeat,
        a_store_lost_before_a_retry_commits_keeps_the_event_parked,
        a_store_lost_under_load_takes_each_message_in_once,
        a_service_restarted_between_every_two_steps_loses_nothing;
    concurrency:
        a_message_at_two_instances_at_once_takes_effect_once,
        two_instances_at_once_on_one_key_lose_nothing,
        two_instances_that_create_the_same_counter_at_once_agree,
        batches_with_keys_in_opposite_orders_do_not_deadlock,
        messages_with_keys_in_opposite_orders_do_not_deadlock_alone,
        two_instances_never_lease_the_same_event;
    outbox:
        two_instances_never_sweep_the_same_message,
        a_message_is_swept_again_when_its_lease_runs_out,
        a_backlog_larger_than_a_sweep_is_published_completely,
        a_backlog_of_a_hundred_sweeps_is_published_completely,
        a_mark_is_never_overwritten,
        only_the_mark_that_was_read_is_cleared,
        a_mark_and_a_clear_at_once_keep_the_newer_mark,
        only_missed_messages_are_published_again,
        a_gap_larger_than_a_statement_is_published_again_completely,
        a_refused_message_backs_off_alone,
        marks_are_read_across_equal_sequences_and_page_ends,
        the_latest_marks_are_those_of_the_latest_messages,
        the_verified_position_is_kept,
        one_instance_at_a_time_compares_outbox_and_stream,
        a_mark_of_an_earlier_generation_is_not_written,
        the_backlog_is_counted_in_events;
}
