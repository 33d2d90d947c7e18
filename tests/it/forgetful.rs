//! A broker that loses what it has acknowledged, while a service goes on emitting: afterwards every
//! row of the outbox is in the stream, at the sequence of its mark, and the consumer has handled each
//! event once.

mod environment;
mod rows;

use mesh::failpoint::Failpoint;
use uuid::Uuid;

use environment::{Environment, STOPPED_WITHIN, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_rolled_back_under_load_gets_everything_again() {
    let env = Environment::set().await;
    env.emit(3);
    env.emitted(300).await;
    for more in [50, 3_000] {
        let copy = env.copy();
        env.emitted(more).await;
        env.roll_back(&copy).await;
        env.is_restored().await;
    }
    env.ends_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_rolled_back_while_the_service_was_down_gets_everything_again() {
    let mut env = Environment::set().await;
    env.emit(3);
    env.emitted(300).await;
    let copy = env.copy();
    env.emitted(1_200).await;
    env.kill();
    env.roll_back(&copy).await;
    // Another instance continues at the new end of the stream; it dies again and again.
    for _ in 0..5 {
        env.start().await;
        let emitter = env.emitter.as_ref().expect("it runs");
        emitter.failpoints().arm(Failpoint::BeforeMark, 1);
        env.emitted(50).await;
        env.kill();
    }
    env.start().await;
    env.is_restored().await;
    env.ends_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn publishes_that_time_out_and_are_flushed_later_hide_no_loss() {
    let env = Environment::set().await;
    env.emit(2);
    env.emitted(200).await;
    let copy = env.copy();
    env.emitted(400).await;
    // The broker is paused for longer than the acknowledgement timeout. First it continues; the
    // second time it is replaced by one with older content.
    for is_another in [false, true] {
        env.signal("-STOP");
        env.publishes_time_out().await;
        match is_another {
            false => env.signal("-CONT"),
            true => env.roll_back(&copy).await,
        }
        env.is_restored().await;
    }
    env.ends_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_deleted_and_recreated_under_load_is_filled_again() {
    let env = Environment::set().await;
    env.emit(3);
    for _ in 0..2 {
        env.emitted(600).await;
        // The connection stays open: only the messages themselves show what happened.
        env.wipe().await;
        env.is_restored().await;
    }
    env.ends_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_messages_are_lost_from_the_disk_is_filled_again() {
    let env = Environment::set().await;
    env.emit(3);
    env.emitted(600).await;
    // The consumer still knows its position, which is now beyond the end of the stream.
    env.empty().await;
    env.is_restored().await;
    env.ends_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_wiped_and_has_grown_past_its_old_end_is_filled_again() {
    let mut env = Environment::set().await;
    env.emit(3);
    env.emitted(700).await;
    let old = env.quiet().await;
    env.is_verified_up_to(Some(old.len() as i64)).await;
    env.kill();
    env.wipe().await;
    // An instance that has not compared yet publishes as many messages as there were, and more.
    let new = env.leave(old.len() + 300).await;
    env.publish(&new).await;
    assert!(!env.are_stored(&old).await, "they were lost");
    env.start().await;
    env.emit(3);
    env.is_restored().await;
    env.ends_whole().await;
}

/// Only the stream showed the loss: the consumer continued at its old position.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_whose_position_is_beyond_unhandled_messages_is_reset() {
    let mut env = Environment::set().await;
    env.emit(3);
    env.emitted(600).await;
    let old = env.quiet().await;
    env.stop_listener(old.len()).await;
    env.wipe().await;
    env.emit(3);
    env.emitted(300).await;
    let all = env.quiet().await;
    env.is_restored().await;
    let (_, stream) = env.stream().await;
    stream.reset_consumer("payment", Some(all.len() as u64 + 1)).await.unwrap();
    env.start_listener().await;
    env.ends_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_that_died_half_way_is_repeated() {
    let mut env = Environment::set().await;
    // More than a comparison takes first.
    env.emit(10);
    env.emitted(5_000).await;
    let history = env.quiet().await[..2_500].to_vec();
    env.kill();
    env.wipe().await;
    // This is what a comparison leaves that dies after its second page. The rows whose marks it
    // cleared were published again, before those that it had not reached.
    let cleared: Vec<Uuid> = sqlx::query_scalar(
        "update mesh.outbox set stream_seq = null where stream_seq <= 1000 returning id",
    )
    .fetch_all(&env.pools[0])
    .await
    .unwrap();
    env.publish(&cleared).await;
    // More comparisons die at arbitrary places.
    for _ in 0..3 {
        let unmarked = env.unmarked_of(&history).await;
        env.start().await;
        eventually("the comparison has begun", async || {
            env.unmarked_of(&history).await != unmarked
        })
        .await;
        env.kill();
    }
    env.start().await;
    env.ends_whole().await;
}

/// What was published between two losses lies below a long run of messages that are where their
/// marks say.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_published_between_two_losses_is_published_again_however_much_came_after() {
    two_losses(|old| old.reverse()).await;
}

/// The highest message up to which outbox and stream agreed once has its old sequence again, and
/// below it is another stream.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_has_its_old_sequence_again_proves_nothing_of_those_below_it() {
    two_losses(|_| {}).await;
}

/// Loses a stream, and the one after it while they are compared. The rows of the first are
/// published in another order then; `reorder` gets them in the order of the first stream.
async fn two_losses(reorder: impl Fn(&mut Vec<Uuid>)) {
    let mut env = Environment::set().await;
    env.emit(3);
    env.emitted(700).await;
    env.quiet().await;
    let mut old = env.in_order_of_stream().await;
    reorder(&mut old);
    env.is_compared().await;
    env.kill();
    env.wipe().await;
    let between = env.leave(300).await;
    env.publish(&between).await;
    // A comparison cleared the old marks and died with the second stream.
    env.forget(&old).await;
    env.wipe().await;
    let after = env.leave(old.len() + 800).await;
    env.publish(&old).await;
    env.publish(&after).await;
    assert!(!env.are_stored(&between).await, "they were lost");
    env.start().await;
    env.emit(3);
    env.is_restored().await;
    env.ends_whole().await;
}

/// One of them compares at a time; the other one waits, and has nothing left to complain of then.
#[tokio::test(flavor = "multi_thread")]
async fn of_two_instances_that_lose_the_stream_both_are_ready_again_and_nothing_is_lost() {
    let env = Environment::set().await;
    let other = env.another().await;
    env.emit(3);
    env.emitted(1_500).await;
    env.wipe().await;
    env.is_restored().await;
    let health = other.health();
    eventually("both are ready", async || health.is_ready() && env.is_ready()).await;
    other.stop().await;
    env.ends_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_waits_for_the_lease_of_another_instance() {
    let env = Environment::set().await;
    env.emit(3);
    env.emitted(300).await;
    env.quiet().await;
    let until = env.lease_to_another().await;
    env.wipe().await;
    env.is_restored().await;
    assert!(mesh::clock::now() >= until, "it did not wait");
    env.ends_whole().await;
}

/// Sagas wait for what was emitted last. Nobody waits for the history, and it is much longer.
#[tokio::test(flavor = "multi_thread")]
async fn after_a_total_loss_the_latest_messages_are_published_before_the_history() {
    let (env, latest) = long_history().await;
    env.wipe().await;
    came_first(env, &latest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_another_loss_the_latest_messages_are_again_published_before_the_history() {
    let (env, latest) = long_history().await;
    env.wipe().await;
    let published = async || env.stored().await.is_some_and(|stored| stored.len() >= 2_500);
    eventually("the history is being published", published).await;
    env.wipe().await;
    came_first(env, &latest).await;
}

/// A service with a history that is longer than what a comparison takes first. Returns the latest
/// messages.
async fn long_history() -> (Environment, Vec<Uuid>) {
    let env = Environment::set().await;
    let history = env.leave(6_000).await;
    eventually("the history is published", async || env.are_stored(&history).await).await;
    let latest = env.leave(100).await;
    eventually("the rest is published", async || env.are_stored(&latest).await).await;
    env.is_compared().await;
    (env, latest)
}

/// Asserts that these messages are in the stream before most of the history.
async fn came_first(env: Environment, latest: &[Uuid]) {
    env.is_restored().await;
    let last = env.in_order_of_stream().await.split_off(3_000);
    assert!(latest.iter().all(|id| !last.contains(id)), "they came after the history");
    env.ends_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backlog_of_more_than_ten_thousand_rows_is_published() {
    let mut env = Environment::set().await;
    env.kill();
    env.leave(10_500).await;
    env.start().await;
    env.emit(1);
    env.is_restored().await;
    env.ends_whole().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_aged_out_stay_out_and_lost_ones_are_published_again() {
    let mut env = Environment::set().await;
    env.emit(3);
    env.emitted(600).await;
    let old = env.quiet().await;
    env.is_compared().await;
    let (_, stream) = env.stream().await;
    stream.purge().sequence(301).await.unwrap();
    let copy = env.copy();
    env.emit(3);
    env.emitted(300).await;
    env.roll_back(&copy).await;
    env.emitted(100).await;
    let rows = env.quiet().await;
    let new = &rows[old.len()..];
    eventually("lost messages are there again", async || env.are_stored(new).await).await;
    let stored = env.stored().await.unwrap();
    let marks = env.rows().await;
    let aged: Vec<_> = marks.iter().filter(|(_, mark)| *mark <= Some(300)).collect();
    assert_eq!(aged.len(), 300, "they keep their marks");
    assert!(aged.iter().all(|(id, _)| !stored.values().any(|there| there == id)));
    assert_eq!(stored.len() + 300, rows.len(), "nothing is stored twice");
    env.is_compared().await;
    // An operator purges everything: nothing that was handled comes back, and new events are
    // published.
    env.stream().await.1.purge().await.unwrap();
    env.emit(3);
    env.emitted(100).await;
    let all = env.quiet().await;
    assert!(env.are_stored(&all[rows.len()..]).await);
    assert_eq!(env.stored().await.unwrap().len(), all.len() - rows.len());
    env.emitter.take().expect("it runs").stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_stops_in_time_although_the_broker_does_not_answer() {
    let mut env = Environment::set().await;
    env.emit(3);
    for is_dead in [false, true] {
        env.emitted(100).await;
        match is_dead {
            false => env.signal("-STOP"),
            true => env.break_down(),
        }
        // Some messages were sent without an acknowledgement, some only handed to the publisher.
        env.emitted(100).await;
        let stopped = env.emitter.take().expect("it runs").stop();
        tokio::time::timeout(STOPPED_WITHIN, stopped).await.expect("it stops");
        match is_dead {
            false => env.signal("-CONT"),
            true => env.come_back().await,
        }
        env.start().await;
    }
    env.ends_whole().await;
}
